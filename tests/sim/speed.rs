//! The cost of a tick, and the recorded lines judged per second.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use weighbridge::analysis::{Judge, Options};
use weighbridge::release::replay::Replay;

use crate::errors::{slot, step};
use crate::latencies::Tick;
use crate::report::Report;
use crate::rng::Rng;
use crate::world::{Law, Slower, past};

const TICKS: u64 = 200_000;

pub(crate) fn measure(report: &mut Report) {
    report.other(
        "T1",
        "tick, errors and latency: ns, verdict included",
        TICKS,
        || {
            let ns = tick_ns(&mut Rng::new(1));
            (ns <= 2_000.0, format!("{ns:.0}"), "<=2000".to_owned())
        },
    );
    report.other(
        "T2",
        "recorded lines per second, errors alone",
        1_000_000,
        || {
            let rate = lines_per_second(&mut Rng::new(2));
            (
                rate >= 1e6,
                format!("{:.2}M", rate / 1e6),
                ">=1M".to_owned(),
            )
        },
    );
}

/// Ticks of 10 ms at 1,000 requests per second, with all data of a live release. The requests are
/// drawn before the measurement.
fn tick_ns(rng: &mut Rng) -> f64 {
    let mut judge = Judge::new(Options {
        alpha: 1e-9,
        ..Options::default()
    });
    judge.warm(&past(rng, Law::Lognormal, 1.0, 3_000), 3);
    judge.begin_step(0, step(0.1, 0.25));
    let draws: Vec<Tick> = (0..1_000)
        .map(|_| {
            let mut draw = Tick::default();
            draw.draw(rng, 10.0, 0.1, (Law::Lognormal, Slower::No), 1.0);
            draw
        })
        .collect();
    let started = Stopwatch::start();
    for (at, draw) in (0..TICKS).zip(draws.iter().cycle()) {
        judge.observe(&draw.cohort(at * 10, 0.1));
        std::hint::black_box(judge.verdict(at * 10));
    }
    started.elapsed().as_nanos() as f64 / TICKS as f64
}

fn lines_per_second(rng: &mut Rng) -> f64 {
    let mut input = String::new();
    for at in 0..1_000_000_u64 {
        let cohort = slot(rng, at * 10, 100.0, 0.05, 1e-3, 1e-3);
        let (baseline, canary) = (cohort.baseline, cohort.canary);
        let _ = writeln!(
            input,
            concat!(
                r#"{{"at_ms": {}, "weight": 5.0, "baseline": {{"requests": {}, "failures": {}}}, "#,
                r#""canary": {{"requests": {}, "failures": {}}}}}"#,
            ),
            cohort.at_ms, baseline.requests, baseline.failures, canary.requests, canary.failures
        );
    }
    let started = Stopwatch::start();
    let mut replay = Replay::default();
    let begin =
        r#"{"run": "speed", "mode": "fixed", "plan": {"objectives": [{"error_rate": {}}]}}"#;
    std::hint::black_box(replay.line(begin).ok());
    for line in input.lines() {
        std::hint::black_box(replay.line(line).ok());
    }
    1e6 / started.elapsed().as_secs_f64()
}

/// Processor time if the system reports it, since other processes may use the processor too;
/// otherwise wall-clock time.
struct Stopwatch {
    wall: Instant,
    processor: Option<Duration>,
}

impl Stopwatch {
    fn start() -> Stopwatch {
        Stopwatch {
            wall: Instant::now(),
            processor: processor(),
        }
    }

    fn elapsed(&self) -> Duration {
        match (processor(), self.processor) {
            (Some(now), Some(then)) => now - then,
            _ => self.wall.elapsed(),
        }
    }
}

fn processor() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    text.split_whitespace()
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}
