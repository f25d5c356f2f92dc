//! `weighbridge demo`: two versions of a shop, a proxy, users, a bad release and its rollback in
//! one process.
//!
//! The proxy is the one that `run` starts, and the demo uses only its admin API, as any script
//! could. A simple rule on the API's statistics decides the rollback here; the proxy has no code
//! for the demo.

mod load;
mod meter;
mod report;
mod screen;
mod stage;
mod upstream;

use std::io::{self, Write};
use std::time::{Duration, Instant};

pub(crate) use report::DemoReport;

use meter::{Gauge, Meter};
use report::Moments;
use screen::{Screen, Style};
use stage::{BASELINE, CANARY, SERVICE, Stage};

use crate::app::{self, Signals};
use crate::client;
use crate::model::api;
use crate::telemetry::LineQueue;

/// Percent of the traffic that the new version gets, one after the other.
const STEPS: [f64; 3] = [5.0, 25.0, 50.0];
/// Polling interval of the admin API.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Rolls back at so many failures of the new version within a second …
const FAILURES_MIN: u64 = 5;
/// … if they are at least this share of its answers, and the old version does better.
const ERROR_RATE_MAX: f64 = 0.01;
/// A failing version that has not been noticed by then will not be, even on a very busy machine.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(60);
/// Good answers after the rollback, without which it has shown nothing.
const AFTERMATH_MIN: usize = 50;

/// What the demo is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Leave everything running at the end, until a signal.
    pub(crate) hold: bool,
    /// Hurry.
    pub(crate) fast: bool,
    /// The output is a terminal whose cursor can be moved.
    pub(crate) live: bool,
    /// The output shows colours.
    pub(crate) colored: bool,
}

/// How the demo ended.
#[derive(Clone, Debug)]
pub(crate) enum DemoEnd {
    /// It was played to its end.
    Played(DemoReport),
    /// A signal came before.
    Interrupted,
}

/// Why the demo could not be played.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
    /// A part other than the proxy did not start.
    #[error("cannot start the demo: {0}")]
    Part(#[source] io::Error),
    /// The proxy did not start.
    #[error(transparent)]
    Proxy(#[from] app::Error),
    /// The admin API rejected a call.
    #[error(transparent)]
    Admin(#[from] client::Error),
    /// The failing version was not detected.
    #[error(
        "{CANARY} fails, but the statistics of the admin API did not show it within {} s",
        NOTICE_TIMEOUT.as_secs()
    )]
    Unnoticed,
}

/// How long the end of the demo waits for the last of its story.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Plays the demo to `out`, which a thread writes to: the proxy runs in this one, and must not wait
/// for a reader.
pub(crate) fn run(options: Options, out: Box<dyn Write + Send>) -> Result<DemoEnd, Error> {
    let mut story = LineQueue::start("story", out).map_err(Error::Part)?;
    let ended = play(options, &mut story);
    story.drain(LAST_LINES);
    ended
}

fn play(options: Options, out: &mut LineQueue) -> Result<DemoEnd, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Part)?;
    runtime.block_on(perform(options, out))
}

async fn perform(options: Options, out: &mut dyn Write) -> Result<DemoEnd, Error> {
    let mut signals = Signals::listen().map_err(Error::Part)?;
    let stage = Stage::set().await?;
    let style = Style {
        live: options.live,
        colored: options.colored,
        line_every: Duration::from_secs(1),
    };
    let mut show = Show {
        screen: Screen::new(out, style),
        stage: &stage,
        meter: Meter::default(),
        pace: if options.fast { 0.2 } else { 1.0 },
    };
    let played = tokio::select! {
        report = show.play() => report.map(DemoEnd::Played),
        () = signals.end() => Ok(DemoEnd::Interrupted),
    };
    let ended = match played {
        Ok(DemoEnd::Played(report)) => tokio::select! {
            last = show.epilogue(&report, options.hold) => {
                last.map(|()| DemoEnd::Played(report.clone()))
            }
            () = signals.end() => Ok(DemoEnd::Played(report.clone())),
        },
        other => other,
    };
    drop(show);
    stage.clear().await;
    ended
}

/// The play: what is done to the stage, and what the audience is told of it.
struct Show<'a> {
    screen: Screen<'a>,
    stage: &'a Stage,
    meter: Meter,
    /// 1 is for people.
    pace: f64,
}

/// Why the new version is to lose its traffic.
struct Trip {
    at: Instant,
    answers: u64,
    failures: u64,
}

impl Show<'_> {
    async fn play(&mut self) -> Result<DemoReport, Error> {
        self.screen.write(&self.opening()).map_err(Error::Output)?;
        self.tell(&format!(
            "all users are on {BASELINE}; {CANARY} is deployed without traffic"
        ))?;
        self.watch(self.seconds(3.0)).await?;
        for percent in STEPS {
            self.shift(percent).await?;
            self.watch(self.seconds(5.0)).await?;
        }
        let failing = Instant::now();
        self.stage.canary.set_failing(true);
        let text = format!("{CANARY} starts to respond to every request with 500");
        self.screen.alarm(&text).map_err(Error::Output)?;
        let trip = self.watch(NOTICE_TIMEOUT).await?.ok_or(Error::Unnoticed)?;
        let replied = self.roll_back(&trip).await?;
        self.watch_on(self.seconds(4.0)).await?;
        self.watch_aftermath(replied).await?;
        let moments = Moments {
            failing,
            decided: trip.at,
            replied,
            answers: trip.answers,
            failures: trip.failures,
        };
        Ok(DemoReport::new(&moments, &self.stage.load))
    }

    /// Sums up, and goes on for ever if that is wanted.
    async fn epilogue(&mut self, report: &DemoReport, hold: bool) -> Result<(), Error> {
        let stage = self.stage;
        let commands = report::commands(stage.admin, stage.proxy, stage.canary.address(), hold);
        let text = format!("{}{commands}", report.text());
        self.screen.write(&text).map_err(Error::Output)?;
        if hold {
            stage.canary.set_failing(false);
            self.screen.slow_down(Duration::from_secs(10));
            self.watch_on(Duration::MAX).await?;
        }
        Ok(())
    }

    async fn shift(&mut self, percent: f64) -> Result<(), Error> {
        let update = api::WeightsUpdate {
            weights: [
                (BASELINE.to_owned(), 100.0 - percent),
                (CANARY.to_owned(), percent),
            ]
            .into(),
            reason: Some("demo: next step".to_owned()),
        };
        let began = Instant::now();
        self.stage
            .client
            .set_weights(SERVICE, &update, None)
            .await?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        self.tell(&format!(
            "{CANARY} gets {percent} % (PUT weights took {ms:.1} ms)"
        ))
    }

    async fn roll_back(&mut self, trip: &Trip) -> Result<Instant, Error> {
        let request = api::RollbackRequest {
            reason: Some(format!(
                "demo: {} failures in {} responses",
                trip.failures, trip.answers
            )),
        };
        self.stage.client.roll_back(SERVICE, &request).await?;
        let replied = Instant::now();
        let ms = replied.duration_since(trip.at).as_secs_f64() * 1e3;
        let seen = format!(
            "{} failures in {} responses of {CANARY}: roll back",
            trip.failures, trip.answers
        );
        self.screen.alarm(&seen).map_err(Error::Output)?;
        let text = format!("all users are on {BASELINE} again (POST rollback took {ms:.1} ms)");
        self.screen.relief(&text).map_err(Error::Output)?;
        Ok(replied)
    }

    /// Watches the new version for so long, or until it has to go.
    async fn watch(&mut self, time: Duration) -> Result<Option<Trip>, Error> {
        let began = Instant::now();
        while began.elapsed() < time {
            let gauges = self.look().await?;
            if let Some(trip) = judge(&gauges) {
                return Ok(Some(trip));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(None)
    }

    /// Shows how things go, whatever happens.
    async fn watch_on(&mut self, time: Duration) -> Result<(), Error> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.look().await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Goes on until enough answers have come since `replied` to say where requests go now.
    async fn watch_aftermath(&mut self, replied: Instant) -> Result<(), Error> {
        while replied.elapsed() < NOTICE_TIMEOUT {
            let answered = self
                .stage
                .load
                .samples(|sample| sample.sent > replied && !sample.failed);
            if answered.len() >= AFTERMATH_MIN {
                break;
            }
            self.watch_on(LOOK_EVERY).await?;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<Vec<Gauge>, Error> {
        let service = self.stage.client.service(SERVICE).await?.value;
        let now = Instant::now();
        let gauges = self.meter.read(now, &service);
        let users = self.stage.load.totals();
        self.screen
            .show(now, &gauges, users)
            .map_err(Error::Output)?;
        Ok(gauges)
    }

    fn tell(&mut self, text: &str) -> Result<(), Error> {
        self.screen.tell(text).map_err(Error::Output)
    }

    fn opening(&self) -> String {
        let Stage { admin, proxy, .. } = self.stage;
        format!(
            "Weighbridge demo\n  \
             users -> proxy http://{proxy} -> {SERVICE} {BASELINE} or {CANARY}\n  \
             admin API http://{admin}\n\n"
        )
    }

    fn seconds(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.pace)
    }
}

/// The rule: enough failures within a second, too large a share, and the old version does better.
fn judge(gauges: &[Gauge]) -> Option<Trip> {
    let of = |name: &str| gauges.iter().find(|gauge| gauge.name == name);
    let (baseline, canary) = (of(BASELINE)?, of(CANARY)?);
    let bad = canary.failures >= FAILURES_MIN
        && canary.error_rate >= ERROR_RATE_MAX
        && baseline.error_rate < canary.error_rate / 2.0;
    bad.then(|| Trip {
        at: Instant::now(),
        answers: canary.answers,
        failures: canary.failures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_rolls_back_only_if_the_new_version_fails_more() {
        let gauge = |name: &str, answers: u64, failures: u64| Gauge {
            name: name.to_owned(),
            answers,
            failures,
            error_rate: failures as f64 / answers as f64,
            ..Gauge::default()
        };
        let judged = |baseline: (u64, u64), canary: (u64, u64)| {
            judge(&[
                gauge(BASELINE, baseline.0, baseline.1),
                gauge(CANARY, canary.0, canary.1),
            ])
            .is_some()
        };
        assert!(judged((150, 0), (150, 5)));
        assert!(!judged((150, 0), (150, 4)), "too few");
        assert!(!judged((150, 0), (1_000, 5)), "too small a share");
        assert!(
            !judged((150, 150), (150, 150)),
            "the old version fails as well"
        );
    }
}
