//! Follows a release to its end by the event stream and by polling, which also works without a
//! stream.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::view::ReleaseView;
use crate::cli::exit::Failure;
use crate::client::AdminClient;
use crate::client::{EventSubscription, StreamEvent};
use crate::model::api::{Event, EventKind, Phase, Release};

/// Polling interval while events arrive, for changes that they do not carry.
const POLL_SLOW: Duration = Duration::from_secs(10);
/// Polling interval for a live panel, or without events.
const POLL_FAST: Duration = Duration::from_secs(1);
/// The longest time that the proxy may be unreachable.
pub(super) const UNREACHED_MAX: Duration = Duration::from_secs(30);

/// Why following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FollowEnd {
    /// The release ended.
    Over,
    /// A step reached its `max_duration` without a result; an operator has to decide.
    Inconclusive,
    /// The timeout expired.
    OutOfTime,
    /// Ctrl-C.
    Interrupted,
}

/// Limits for following a release.
#[derive(Clone, Copy, Debug)]
pub(super) struct WatchLimits {
    /// The longest time to follow; `None` without limit.
    pub(super) timeout: Option<Duration>,
    /// The longest time without a response from the proxy.
    pub(super) unreached_max: Duration,
    /// Whether to keep following at an inconclusive step, since the user may act on it.
    pub(super) past_inconclusive: bool,
}

/// Follows `release` within `limits`; returns its last known state.
pub(super) async fn follow(
    client: &AdminClient,
    release: Release,
    view: &mut ReleaseView<'_>,
    limits: WatchLimits,
) -> Result<(FollowEnd, Release), Failure> {
    let now = Instant::now();
    let mut following = Following {
        events: EventSubscription::of(client.clone(), release.service.clone()),
        client,
        release,
        view,
        has_stream: false,
        reached: now,
        limits,
        is_lost: false,
        next_poll: now,
    };
    let deadline = async {
        match limits.timeout {
            Some(timeout) => sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        // The end of the release takes precedence over the deadline.
        biased;
        followed = following.run() => followed?,
        () = deadline => FollowEnd::OutOfTime,
        // Without a signal handler, Ctrl-C ends the process by default.
        Ok(()) = tokio::signal::ctrl_c() => FollowEnd::Interrupted,
    };
    Ok((ended, following.release))
}

struct Following<'a, 'b> {
    client: &'a AdminClient,
    events: EventSubscription,
    release: Release,
    view: &'a mut ReleaseView<'b>,
    has_stream: bool,
    /// The time of the last response or event.
    reached: Instant,
    limits: WatchLimits,
    is_lost: bool,
    next_poll: Instant,
}

impl Following<'_, '_> {
    async fn run(&mut self) -> Result<FollowEnd, Failure> {
        self.view.seen(&self.release)?;
        loop {
            if self.release.phase.is_over() {
                return Ok(FollowEnd::Over);
            }
            if !self.limits.past_inconclusive && is_inconclusive(&self.release) {
                return Ok(FollowEnd::Inconclusive);
            }
            tokio::select! {
                event = self.events.next() => self.handle(event).await?,
                () = sleep_until(self.next_poll) => self.poll().await?,
            }
        }
    }

    async fn handle(&mut self, event: StreamEvent) -> Result<(), Failure> {
        match event {
            StreamEvent::Event(event) => {
                self.reach();
                self.apply(&event)?;
            }
            // Changes before the stream was open are only visible in the release itself.
            StreamEvent::Open => {
                self.has_stream = true;
                self.poll().await?;
            }
            StreamEvent::Lost => self.poll().await?,
            StreamEvent::Broken(error) => {
                self.has_stream = false;
                self.view.explain(&format!("no event stream: {error}"));
                self.poll_within(POLL_FAST);
            }
        }
        Ok(())
    }

    fn apply(&mut self, data: &Value) -> Result<(), Failure> {
        // Unknown events, from a newer proxy, are ignored.
        let Ok(event) = serde_json::from_value::<Event>(data.clone()) else {
            return Ok(());
        };
        match &event.kind {
            EventKind::Release { release, .. } if release.id == self.release.id => {
                // The event is older than the last poll.
                if is_before(release, &self.release) {
                    return Ok(());
                }
                self.release = (**release).clone();
                self.view.changed(&self.release, data)
            }
            EventKind::Verdict {
                release_id,
                log_e,
                log_limit,
                ..
            } if *release_id == self.release.id => {
                (self.release.log_e, self.release.log_limit) = (*log_e, *log_limit);
                self.view.judged(&self.release, data)
            }
            EventKind::Statistics { service, upstreams } if *service == self.release.service => {
                self.view.measured(&self.release, upstreams)
            }
            _ => Ok(()),
        }
    }

    /// Polls the release, and reports an unreachable proxy.
    async fn poll(&mut self) -> Result<(), Failure> {
        let answer = self.client.release(&self.release.id).await;
        match answer {
            Ok(answer) => {
                self.reach();
                self.release = answer.value;
                self.view.seen(&self.release)?;
            }
            Err(error) if !error.may_pass() => return Err(error.into()),
            Err(error) if self.reached.elapsed() >= self.limits.unreached_max => {
                return Err(error.into());
            }
            Err(error) => {
                if !self.is_lost {
                    let seconds = self.limits.unreached_max.as_secs();
                    self.view.say(&format!(
                        "{error}; retrying for {seconds} s, the release continues"
                    ))?;
                }
                self.is_lost = true;
            }
        }
        let fast = self.is_lost || !self.has_stream || self.view.is_live();
        self.poll_within(if fast { POLL_FAST } else { POLL_SLOW });
        Ok(())
    }

    fn reach(&mut self) {
        self.reached = Instant::now();
        self.is_lost = false;
    }

    fn poll_within(&mut self, time: Duration) {
        self.next_poll = Instant::now() + time;
    }
}

/// Whether `new` is an older state of the release than `current`. Start times of phases and steps
/// never decrease within a release, and within each the request counts grow. Where the counts do
/// not decide (after a restart they start at the last checkpoint), the next poll does; an end is
/// never discarded.
fn is_before(new: &Release, current: &Release) -> bool {
    let begun = |release: &Release| release.phase_since.parse::<jiff::Timestamp>().ok();
    let (Some(new_since), Some(current_since)) = (begun(new), begun(current)) else {
        return false;
    };
    let requests = |release: &Release| {
        release
            .canary_requests
            .saturating_add(release.baseline_requests)
    };
    let (new_at, current_at) = (
        (new_since, new.step, requests(new)),
        (current_since, current.step, requests(current)),
    );
    !new.phase.is_over() && new_at < current_at
}

/// Whether the step reached its `max_duration` without a result. Gates, freezes, schedules and
/// pauses are no such case.
fn is_inconclusive(release: &Release) -> bool {
    let waiting = release.waiting_for.as_ref();
    // A step that lacks traffic is inconclusive only after its max_duration.
    release.phase == Phase::Waiting
        && waiting.is_some_and(|waiting| {
            matches!(waiting.kind.as_str(), "inconclusive" | "too_little_traffic")
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::Arguments;
    use crate::cli::exit::{Exit, FailureReport};
    use crate::cli::terminal::Terminal;
    use crate::model::api::BudgetStatus;

    fn release() -> Release {
        Release {
            id: "shop-1".into(),
            service: "shop".into(),
            baseline: "blue".into(),
            canary: "green".into(),
            phase: Phase::Progressing,
            paused: false,
            override_freeze: false,
            step: 1,
            steps: vec![5.0, 100.0],
            weight: 5.0,
            started_at: String::new(),
            phase_since: String::new(),
            ended_at: None,
            reason: None,
            change: None,
            version: None,
            actor: String::new(),
            waiting_for: None,
            too_few_requests: None,
            approvals: Vec::new(),
            outcome: None,
            budget: BudgetStatus::default(),
            rescued_budget: Default::default(),
            aborts: Default::default(),
            user_visible_failures: 0,
            rescued: 0,
            canary_requests: 0,
            baseline_requests: 0,
            log_e: 0.0,
            log_limit: 4.6,
            objectives: Vec::new(),
            durable: true,
        }
    }

    #[tokio::test]
    async fn following_ends_when_the_proxy_stays_unreachable() {
        // Bound without listening, so that no other process can use the port.
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        let address = socket
            .local_addr()
            .unwrap()
            .as_socket()
            .unwrap()
            .to_string();
        let arguments = Arguments::try_parse_from(["weighbridge", "-q", "version"]).unwrap();
        let mut terminal = Terminal::new(&arguments.global);
        let mut view = ReleaseView::new(&mut terminal);
        let client = AdminClient::new(&address, None).unwrap();
        let limits = WatchLimits {
            timeout: None,
            unreached_max: Duration::ZERO,
            past_inconclusive: false,
        };
        let ended = follow(&client, release(), &mut view, limits).await;
        let Err(Failure::Told(report)) = ended else {
            panic!("{ended:?}");
        };
        let FailureReport { exit, message, .. } = *report;
        assert_eq!(exit, Exit::Unreachable);
        assert!(message.contains("cannot be reached"), "{message}");
    }
}
