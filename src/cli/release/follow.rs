//! Follows a release to its end: by the stream of events, and by a look at the release from time to
//! time, which is also what remains when there is no stream.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::view::ReleaseView;
use crate::cli::client::AdminClient;
use crate::cli::events::{EventSubscription, StreamEvent};
use crate::cli::exit::Failure;
use crate::model::api::{Event, EventKind, Phase, Release};

/// Between two looks while events come, for what they do not tell.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between two looks where somebody watches, or no events come.
const LOOK_OFTEN: Duration = Duration::from_secs(1);
/// A proxy that cannot be reached for so long is given up.
pub(super) const UNREACHED_MAX: Duration = Duration::from_secs(30);

/// How following ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FollowEnd {
    /// With the release.
    Over,
    /// At a step that had its time and gave no answer; somebody has to say how it goes on.
    NoAnswer,
    /// At the caller's deadline.
    OutOfTime,
    /// By Ctrl-C.
    Interrupted,
}

/// How long a release is followed that does not end.
#[derive(Clone, Copy, Debug)]
pub(super) struct WatchLimits {
    /// At most so long; `None` as long as it takes.
    pub(super) timeout: Option<Duration>,
    /// At most so long without a word from the proxy.
    pub(super) unreached_max: Duration,
    /// Also past a step that gave no answer, which only somebody who watches can do something
    /// about.
    pub(super) past_no_answer: bool,
}

/// Follows `release` as long as `patience` lasts; gives its last known state.
pub(super) async fn follow(
    client: &AdminClient,
    release: Release,
    view: &mut ReleaseView<'_>,
    patience: WatchLimits,
) -> Result<(FollowEnd, Release), Failure> {
    let now = Instant::now();
    let mut following = Following {
        events: EventSubscription::of(client.clone(), release.service.clone()),
        client,
        release,
        view,
        has_stream: false,
        reached: now,
        patience,
        is_lost: false,
        next_look: now,
    };
    let deadline = async {
        match patience.timeout {
            Some(timeout) => sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        // The end of the release counts before the deadline, where both have come.
        biased;
        followed = following.run() => followed?,
        () = deadline => FollowEnd::OutOfTime,
        // Where no signal can be waited for, Ctrl-C ends the program by itself.
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
    /// When the proxy was heard of last.
    reached: Instant,
    patience: WatchLimits,
    is_lost: bool,
    next_look: Instant,
}

impl Following<'_, '_> {
    async fn run(&mut self) -> Result<FollowEnd, Failure> {
        self.view.seen(&self.release)?;
        loop {
            if self.release.phase.is_over() {
                return Ok(FollowEnd::Over);
            }
            if !self.patience.past_no_answer && gave_no_answer(&self.release) {
                return Ok(FollowEnd::NoAnswer);
            }
            tokio::select! {
                heard = self.events.next() => self.hear(heard).await?,
                () = sleep_until(self.next_look) => self.look().await?,
            }
        }
    }

    async fn hear(&mut self, heard: StreamEvent) -> Result<(), Failure> {
        match heard {
            StreamEvent::Event(event) => {
                self.reach();
                self.take(&event)?;
            }
            // What happened before the stream was open, or between two, is only in the release
            // itself.
            StreamEvent::Open => {
                self.has_stream = true;
                self.look().await?;
            }
            StreamEvent::Lost => self.look().await?,
            StreamEvent::Broken(error) => {
                self.has_stream = false;
                self.view.explain(&format!("no events: {error}"));
                self.look_within(LOOK_OFTEN);
            }
        }
        Ok(())
    }

    fn take(&mut self, data: &Value) -> Result<(), Failure> {
        // Kinds of events that a newer proxy may have are not about this.
        let Ok(event) = serde_json::from_value::<Event>(data.clone()) else {
            return Ok(());
        };
        match &event.kind {
            EventKind::Release { release, .. } if release.id == self.release.id => {
                // It was on its way before the last look, which has told of it.
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

    /// Asks for the release, and says when the proxy cannot be reached.
    async fn look(&mut self) -> Result<(), Failure> {
        let answer = self.client.release(&self.release.id).await;
        match answer {
            Ok(answer) => {
                self.reach();
                self.release = answer.value;
                self.view.seen(&self.release)?;
            }
            Err(error) if !error.may_pass() => return Err(error.into()),
            Err(error) if self.reached.elapsed() >= self.patience.unreached_max => {
                return Err(error.into());
            }
            Err(error) => {
                if !self.is_lost {
                    let seconds = self.patience.unreached_max.as_secs();
                    self.view.say(&format!(
                        "{error}; trying again for {seconds} s, the release goes on"
                    ))?;
                }
                self.is_lost = true;
            }
        }
        let often = self.is_lost || !self.has_stream || self.view.is_live();
        self.look_within(if often { LOOK_OFTEN } else { LOOK_EVERY });
        Ok(())
    }

    fn reach(&mut self) {
        self.reached = Instant::now();
        self.is_lost = false;
    }

    fn look_within(&mut self, time: Duration) {
        self.next_look = Instant::now() + time;
    }
}

/// Whether `told` is an older state of the release than `held`. Phases and steps begin at times
/// that never go back within a release, and at each of them the counts of requests grow. Where the
/// counts do not tell (after a restart they begin at the last checkpoint), the next look does; an
/// end is never held back.
fn is_before(told: &Release, held: &Release) -> bool {
    let begun = |release: &Release| release.phase_since.parse::<jiff::Timestamp>().ok();
    let (Some(told_since), Some(held_since)) = (begun(told), begun(held)) else {
        return false;
    };
    let requests = |release: &Release| {
        release
            .canary_requests
            .saturating_add(release.baseline_requests)
    };
    let (told_at, held_at) = (
        (told_since, told.step, requests(told)),
        (held_since, held.step, requests(held)),
    );
    !told.phase.is_over() && told_at < held_at
}

/// Whether its step had the time that the plan gives it and the judge cannot say. What is asked of
/// people beforehand (gates), what ends by itself (freezes, a time to begin) and what somebody did
/// (a pause) are no such case.
fn gave_no_answer(release: &Release) -> bool {
    let waiting = release.waiting_for.as_ref();
    // A step that still lacks traffic is under way; only one that had its longest time is
    // inconclusive.
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
    async fn a_proxy_that_stays_away_is_given_up() {
        // Bound and not listened on, so that nobody else can be there.
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
        let patience = WatchLimits {
            timeout: None,
            unreached_max: Duration::ZERO,
            past_no_answer: false,
        };
        let ended = follow(&client, release(), &mut view, patience).await;
        let Err(Failure::Told(told)) = ended else {
            panic!("{ended:?}");
        };
        let FailureReport { exit, message, .. } = *told;
        assert_eq!(exit, Exit::Unreachable);
        assert!(message.contains("cannot be reached"), "{message}");
    }
}
