//! Canary requests until a higher failure rate is detected: P1 to P7.

use weighbridge::analysis::{ArmCounts, Cohort, Verdict};

use crate::errors::{judge, slot, step};
use crate::rng::Rng;

/// The time at which a bad canary was detected.
#[derive(Clone, Copy)]
pub(crate) struct Detection {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
}

/// Ticks of 10 ms at 1,000 requests per second. Ticks without a failure are deferred to the next
/// one with a failure, since without a margin they add no evidence and decide nothing.
pub(crate) fn detect(seed: u64, weight: f64, p_s: f64, p_c: f64, most: f64) -> Option<Detection> {
    let mut rng = Rng::new(seed);
    let mut judge = judge(1e-3, 1.0, 0.0);
    judge.begin_step(0, step(weight, 1.0));
    let mut good = (0, 0);
    for tick in 1.. {
        let mut cohort = slot(&mut rng, tick * 10, 10.0, weight, p_c, p_s);
        if cohort.canary.failures + cohort.baseline.failures == 0 {
            good = (
                good.0 + cohort.canary.requests,
                good.1 + cohort.baseline.requests,
            );
            if judge.canary().requests + good.0 > most as u64 {
                return None;
            }
            continue;
        }
        cohort.canary.requests += good.0;
        cohort.baseline.requests += good.1;
        good = (0, 0);
        judge.observe(&cohort);
        if matches!(judge.verdict(tick * 10), Verdict::RollBack(_)) {
            let requests = judge.canary().requests as f64;
            return Some(Detection {
                requests,
                seconds: tick as f64 / 100.0,
            });
        }
    }
    None
}

/// The delay when a healthy canary begins to fail after half an hour at 25 percent.
pub(crate) fn late(seed: u64) -> Option<Detection> {
    let mut rng = Rng::new(seed);
    let mut judge = judge(1e-3, 1.0, 0.0);
    judge.begin_step(0, step(0.25, 1.0));
    for t in 1..=1_800 {
        judge.observe(&slot(&mut rng, t * 1_000, 1_000.0, 0.25, 1e-3, 1e-3));
    }
    if matches!(judge.verdict(1_800_000), Verdict::RollBack(_)) {
        return None;
    }
    let before = judge.canary().requests;
    for tick in 1..20_000 {
        judge.observe(&slot(
            &mut rng,
            1_800_000 + tick * 10,
            10.0,
            0.25,
            1e-2,
            1e-3,
        ));
        if matches!(judge.verdict(1_800_000 + tick * 10), Verdict::RollBack(_)) {
            let requests = (judge.canary().requests - before) as f64;
            return Some(Detection {
                requests,
                seconds: tick as f64 / 100.0,
            });
        }
    }
    None
}

/// Consecutive failing canary requests until the rollback.
pub(crate) fn fail_fast(weight: f64, ratio: f64, worse_by: f64) -> u64 {
    let mut judge = judge(1e-3, ratio, worse_by);
    let one = Cohort {
        weight,
        canary: ArmCounts::of(1, 1),
        ..Cohort::default()
    };
    for n in 1..1_000 {
        judge.observe(&one);
        if matches!(judge.verdict(0), Verdict::RollBack(_)) {
            return n;
        }
    }
    0
}
