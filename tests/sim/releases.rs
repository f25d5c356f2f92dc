//! Whole releases: S10, P13 and P14.

use std::time::Duration;

use weighbridge::analysis::{
    ArmCounts, Cohort, ErrorRateMargin, LatencyMargin, Objective, Options,
};
use weighbridge::release::replay::{Mode, Run, RunOutcome, RunPlan, RunResult};

use crate::latencies::Tick;
use crate::report::{median, parallel};
use crate::rng::Rng;
use crate::world::{Law, Slower, Spikes, past, sine};

/// A canary.
#[derive(Clone, Copy)]
pub(crate) struct Canary {
    pub(crate) p_s: f64,
    pub(crate) p_c: f64,
    pub(crate) slower: Slower,
    /// The time at which it becomes slower.
    pub(crate) from: f64,
}

pub(crate) const HEALTHY: Canary = Canary {
    p_s: 1e-3,
    p_c: 1e-3,
    slower: Slower::No,
    from: 0.0,
};

/// A release gives half of its alpha to the tests and half to the budget; the specified 0.001 is
/// that of the tests.
pub(crate) const ALPHA: f64 = 2e-3;

/// The plan of STATISTICS.md 2.4.
pub(crate) fn plan(alpha: f64, margins: bool) -> RunPlan {
    let none = vec![
        Objective::ErrorRate(ErrorRateMargin {
            ratio: 1.0,
            worse_by: 0.0,
        }),
        Objective::Latency(LatencyMargin {
            worse_by: 0.0,
            at_least: Duration::ZERO,
        }),
    ];
    RunPlan {
        options: Options {
            alpha,
            objectives: if margins { Vec::new() } else { none },
            min_canary_failures: 0,
            ..Options::default()
        },
        bake: Duration::from_secs(5),
        ..RunPlan::default()
    }
}

/// Conditions common to both arms.
struct Shared {
    rps: Box<dyn Fn(f64) -> f64>,
    errors: Box<dyn Fn(f64) -> f64>,
    scale: Box<dyn Fn(f64) -> f64>,
}

impl Shared {
    fn calm() -> Shared {
        Shared {
            rps: Box::new(|_| 1_000.0),
            errors: Box::new(|_| 1.0),
            scale: Box::new(|_| 1.0),
        }
    }

    fn drifting(rng: &mut Rng) -> Shared {
        let slow = Spikes::new(rng, 3_600.0, 60.0, 3.0, 2.0, 8.0);
        let bad = Spikes::new(rng, 3_600.0, 60.0, 20.0, 2.0, 8.0);
        let (phase, other) = (rng.uniform(), rng.uniform());
        Shared {
            rps: Box::new(|t| 1_000.0 * (1.0 + 0.4 * sine(t, 120.0, 0.0))),
            errors: Box::new(move |t| (1.0 + 0.8 * sine(t, 200.0, phase)) * bad.at(t)),
            scale: Box::new(move |t| (1.0 + 0.5 * sine(t, 300.0, other)) * slow.at(t)),
        }
    }
}

/// Runs a release in ticks of 10 ms until it is decided, or an hour has passed.
pub(crate) fn walk(seed: u64, plan: RunPlan, canary: Canary, drifting: bool) -> RunResult {
    let mut rng = Rng::new(seed);
    let shared = if drifting {
        Shared::drifting(&mut rng)
    } else {
        Shared::calm()
    };
    let mut run = Run::new("sim", plan, Mode::Plan);
    let before = past(&mut rng, Law::Lognormal, (shared.scale)(0.0), 3_000);
    run.warm(&before, 0);
    let mut draw = Tick::default();
    for tick in 1..=360_000 {
        let t = tick as f64 / 100.0;
        let weight = if run.weight() > 0.0 {
            run.weight()
        } else {
            0.01
        };
        let slower = if t >= canary.from {
            canary.slower
        } else {
            Slower::No
        };
        draw.draw(
            &mut rng,
            (shared.rps)(t) / 100.0,
            weight,
            (Law::Lognormal, slower),
            (shared.scale)(t),
        );
        let factor = (shared.errors)(t);
        let f_c = fail(&mut rng, &mut draw.canary, canary.p_c * factor);
        let f_s = fail(&mut rng, &mut draw.baseline, canary.p_s * factor);
        let arm = |pairs, failures| ArmCounts {
            latency_us: Some(pairs),
            ..ArmCounts::of(<[_]>::len(pairs) as u64 + failures, failures)
        };
        let (canary, baseline) = (arm(&draw.canary, f_c), arm(&draw.baseline, f_s));
        if let Some(answer) = run.observe(&Cohort {
            at_ms: tick * 10,
            weight,
            canary,
            baseline,
        }) {
            return answer.clone();
        }
    }
    run.finish()
}

/// Removes the failing requests, and counts them.
fn fail(rng: &mut Rng, answers: &mut Vec<(u64, u64)>, p: f64) -> u64 {
    let before = answers.len();
    answers.retain(|_| !rng.chance(p.min(1.0)));
    (before - answers.len()) as u64
}

pub(crate) fn s10(seed: u64) -> bool {
    walk(seed, plan(0.05, false), HEALTHY, true).verdict == RunOutcome::RolledBack
}

/// All causes of a rollback, budget included, as in a real release.
pub(crate) fn with_margins(seed: u64) -> bool {
    walk(seed, plan(0.05, true), HEALTHY, true).verdict == RunOutcome::RolledBack
}

/// At least 99.5 % must be promoted, and half of them within 175 seconds.
pub(crate) fn judge_healthy(answers: &[RunResult]) -> (bool, String, String) {
    let promoted = answers
        .iter()
        .filter(|answer| answer.verdict == RunOutcome::Promoted);
    let seconds: Vec<f64> = promoted.map(|answer| answer.at_ms as f64 / 1e3).collect();
    let missed = answers.len() - seconds.len();
    let middle = median(seconds);
    let good = middle <= 175.0 && missed * 200 <= answers.len();
    (
        good,
        format!("{middle:.0} ({missed} not)"),
        "<=175".to_owned(),
    )
}

type Bad = (&'static str, &'static str, Canary, f64);

/// The bad canaries of STATISTICS.md 2.4, with the failed requests of its table.
pub(crate) fn bad() -> [Bad; 10] {
    let errors = |p_s, p_c| Canary {
        p_s,
        p_c,
        ..HEALTHY
    };
    let slow = |slower| Canary { slower, ..HEALTHY };
    let none = f64::INFINITY;
    [
        ("P14.1", "errors .1 to 1 %", errors(1e-3, 1e-2), 11.0),
        ("P14.2", "errors .1 to 5 %", errors(1e-3, 5e-2), 4.0),
        ("P14.3", "errors 0 to 100 %", errors(0.0, 1.0), 2.0),
        ("P14.4", "errors .1 to .3 %", errors(1e-3, 3e-3), 83.0),
        ("P14.5", "p99 +20 %", slow(Slower::Tail(0.2)), none),
        ("P14.6", "p99 +100 %", slow(Slower::Tail(1.0)), none),
        ("P14.7", "p50 +10 %", slow(Slower::All(0.1)), none),
        ("P14.8", "all x1.3", slow(Slower::All(0.3)), none),
        ("P14.9", "all x2", slow(Slower::All(1.0)), none),
        (
            "P14.10",
            "all x2 from 100 s on",
            Canary {
                from: 100.0,
                ..slow(Slower::All(1.0))
            },
            none,
        ),
    ]
}

/// Releases of each bad canary.
pub(crate) const RUNS: u64 = 200;

/// None may be promoted once it is bad, and the median of the failed requests may be a quarter
/// above the table's.
pub(crate) fn judge_bad(
    seed: u64,
    canary: Canary,
    table: f64,
    drifting: bool,
) -> (bool, String, String) {
    let mut answers = parallel(RUNS, |i| {
        walk(seed + i, plan(ALPHA, true), canary, drifting)
    });
    // A release that ended before the canary became bad is not counted.
    answers.retain(|answer| {
        answer.verdict != RunOutcome::Promoted || answer.at_ms as f64 / 1e3 >= canary.from
    });
    let count = |outcome| {
        answers
            .iter()
            .filter(|answer| answer.verdict == outcome)
            .count()
    };
    let promoted = count(RunOutcome::Promoted);
    let open = answers.len() - promoted - count(RunOutcome::RolledBack);
    let failed = median(
        answers
            .iter()
            .map(|answer| answer.canary_failures as f64)
            .collect(),
    );
    let seconds = median(
        answers
            .iter()
            .map(|answer| answer.at_ms as f64 / 1e3)
            .collect(),
    );
    let good = promoted == 0 && failed <= 1.25 * table && answers.len() as u64 * 10 >= RUNS * 8;
    let result = format!("{promoted}+{open} f{failed:.0} {seconds:.0}s");
    let bar = if table.is_finite() {
        format!("0 f{:.1}", 1.25 * table)
    } else {
        "0".to_owned()
    };
    (good, result, bar)
}
