//! Full weight (STATISTICS.md 1.k): equal versions, and bad versions that only the rules without a
//! comparison can stop.

use std::time::Duration;

use weighbridge::analysis::replay::{Mode, Run, RunOutcome, RunPlan, RunResult};
use weighbridge::analysis::{ArmCounts, Cohort, ErrorRateMargin, Objective, Options};

use crate::errors::slot;
use crate::report::{Report, parallel};
use crate::rng::Rng;
use crate::world::{ramp, sine};

const RPS: f64 = 500.0;
/// The failure rate of equal versions.
const P: f64 = 0.01;
/// `canary_in_flight_max` of a plan.
const IN_FLIGHT: u64 = 256;

fn plan(alpha: f64, steps: &[f64], final_bake: u64) -> RunPlan {
    RunPlan {
        options: Options {
            alpha,
            objectives: vec![Objective::ErrorRate(ErrorRateMargin::default())],
            ..Options::default()
        },
        steps: steps
            .iter()
            .map(|weight| weighbridge::analysis::replay::RunStep::at(*weight))
            .collect(),
        bake: Duration::from_secs(5),
        final_bake: Duration::from_secs(final_bake),
        budget: Some(20),
        rescued_budget: Some(100),
        ..RunPlan::default()
    }
}

/// Whether equal versions were rolled back at full weight, after `seconds` of rising weights.
fn equal(seed: u64, seconds: u64, alone: u64, rps: f64, rate: impl Fn(f64) -> f64) -> bool {
    let mut rng = Rng::new(seed);
    let mut run = Run::new("sim", plan(0.01, &[1.0, 5.0, 25.0, 50.0], 0), Mode::Fixed);
    for tick in 0..(seconds + alone) * 10 {
        let t = tick as f64 / 10.0;
        let weight = if t < seconds as f64 {
            ramp(t, seconds as f64)
        } else {
            1.0
        };
        let p = rate(t);
        if let Some(answer) = run.observe(&slot(&mut rng, tick * 100, rps / 10.0, weight, p, p)) {
            return answer.verdict == RunOutcome::RolledBack && weight >= 1.0;
        }
    }
    false
}

pub(crate) fn constant(seed: u64) -> bool {
    equal(seed, 200, 900, RPS, |_| P)
}

pub(crate) fn drifting(seed: u64) -> bool {
    let phase = Rng::new(seed ^ 0x5eed).uniform();
    equal(seed, 200, 900, RPS, |t| {
        P * (1.0 + 0.2 * sine(t, 1_200.0, phase))
    })
}

/// One step, 100, after 300 requests of the baseline.
pub(crate) fn at_once(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let mut run = Run::new("sim", plan(0.01, &[100.0], 120), Mode::Plan);
    run.observe(&slot(&mut rng, 0, 300.0, 0.0, 0.0, P));
    for tick in 1..1_200 {
        if let Some(answer) = run.observe(&slot(&mut rng, tick * 100, 5.0, 1.0, P, 0.0)) {
            return answer.verdict == RunOutcome::RolledBack;
        }
    }
    false
}

/// The failure rate of a bad version at a weight.
type Fault = fn(f64) -> f64;

/// The versions of P18.
const FAULTS: [(&str, &str, Fault); 3] = [
    ("P18.1", "all fail, steps [100]", |_| 1.0),
    ("P18.2", "15 % fail from 100 % on", |weight| {
        if weight >= 1.0 { 0.15 } else { P }
    }),
    (
        "P18.3",
        "no request gets a response, from 100 % on",
        |weight| {
            if weight >= 1.0 { 1.0 } else { P }
        },
    ),
];

/// Runs a release, and counts the failures at full weight. They are rescued, so that no user sees
/// one.
fn walk(seed: u64, id: &str, fault: Fault) -> (RunResult, u64) {
    let mut failed = 0;
    let mut rng = Rng::new(seed);
    let steps: &[f64] = if id == "P18.1" {
        &[100.0]
    } else {
        &[1.0, 5.0, 25.0, 50.0]
    };
    let mut run = Run::new("sim", plan(1e-3, steps, 30), Mode::Plan);
    run.observe(&slot(&mut rng, 0, 2_000.0, 0.0, 0.0, P));
    for tick in 1..40_000 {
        let weight = if run.weight() > 0.0 {
            run.weight()
        } else {
            steps[0] / 100.0
        };
        let drawn = slot(&mut rng, tick * 100, RPS / 10.0, weight, fault(weight), P);
        let cohort = Cohort {
            canary: ArmCounts {
                visible_failures: Some(0),
                ..drawn.canary
            },
            ..drawn
        };
        failed += if weight >= 1.0 {
            cohort.canary.failures
        } else {
            0
        };
        if let Some(answer) = run.observe(&cohort) {
            return (answer.clone(), failed);
        }
    }
    (run.finish(), failed)
}

/// The lines of full weight.
pub(crate) fn report(report: &mut Report) {
    let seed = report.seed();
    for (id, name, fault) in FAULTS {
        report.other(id, &format!("full weight: {name}"), 200, || {
            judge(seed, id, fault)
        });
    }
    for (id, before, rate, canary, most) in LOW_TRAFFIC {
        let name = format!(
            "low traffic, {before} requests before, {} % fail, then {} %: promoted",
            100.0 * rate,
            100.0 * canary
        );
        report.other(id, &name, 1_000, || {
            low_traffic(seed, before, rate, canary, most)
        });
    }
}

/// Releases with `steps: [100]` and 15 requests a second: the baseline's requests before and the
/// share of them that failed, the share that fails on the canary, and the most promotions of 1,000;
/// without it all must be promoted.
const LOW_TRAFFIC: [(&str, f64, f64, f64, Option<usize>); 9] = [
    ("P18.4", 60.0, 0.0, 0.15, Some(5)),
    ("P18.5", 105.0, 0.0, 0.15, Some(5)),
    ("P18.6", 200.0, 0.01, 0.15, Some(5)),
    ("P18.7", 105.0, 0.0, 0.10, Some(65)),
    ("P18.8", 105.0, 0.01, 0.25, Some(0)),
    ("P18.9", 60.0, 0.0, 0.0, None),
    ("P18.10", 105.0, 0.01, 0.01, None),
    ("P18.11", 105.0, 0.03, 0.03, None),
    ("P18.12", 200.0, 0.03, 0.03, None),
];
/// Requests of the canary in a release of low traffic: a minute.
const LOW_REQUESTS: u64 = 900;

/// Promoted runs, and the 90th percentile of the seconds until then.
fn low_traffic(
    seed: u64,
    before: f64,
    rate: f64,
    canary: f64,
    most: Option<usize>,
) -> (bool, String, String) {
    let answers = parallel(1_000, |i| {
        let mut rng = Rng::new(seed + i);
        let plan = RunPlan {
            bake: Duration::from_secs(4),
            final_bake: Duration::from_secs(4),
            min_requests: 20,
            ..plan(1e-3, &[100.0], 4)
        };
        let mut run = Run::new("sim", plan, Mode::Plan);
        run.observe(&slot(&mut rng, 0, before, 0.0, 0.0, rate));
        for request in 1..=LOW_REQUESTS {
            let failures = u64::from(rng.chance(canary));
            let cohort = Cohort {
                at_ms: request * 1_000 / 15,
                weight: 1.0,
                canary: ArmCounts::of(1, failures),
                ..Cohort::default()
            };
            if let Some(answer) = run.observe(&cohort) {
                return answer.clone();
            }
        }
        run.finish()
    });
    let mut promoted: Vec<u64> = answers
        .iter()
        .filter(|answer| answer.verdict == RunOutcome::Promoted)
        .map(|answer| answer.at_ms / 1_000)
        .collect();
    promoted.sort_unstable();
    let number = promoted.len();
    let p90 = promoted.get(number * 9 / 10).copied().unwrap_or(0);
    let good = match most {
        Some(most) => number <= most,
        None => number == 1_000 && p90 <= 15,
    };
    let bar = most.map_or("1000, 15 s".to_owned(), |most| most.to_string());
    (good, format!("{number}, {p90} s"), bar)
}

/// Every run is rolled back before a promotion, with at most as many failures as the rescued budget
/// plus the requests in flight.
fn judge(seed: u64, id: &'static str, fault: Fault) -> (bool, String, String) {
    let answers = parallel(200, |i| walk(seed + i, id, fault));
    let kept = answers
        .iter()
        .filter(|(answer, _)| answer.verdict != RunOutcome::RolledBack)
        .count();
    let most = answers.iter().map(|(_, failed)| *failed).max().unwrap_or(0);
    let bar = 130 + IN_FLIGHT;
    let good = kept == 0 && most <= bar;
    (good, format!("{kept} not, f{most}"), format!("0, f{bar}"))
}
