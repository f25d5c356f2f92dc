//! False rollbacks on errors: S1 to S7 and S11 to S13.

use weighbridge::analysis::{
    ArmCounts, Cause, Cohort, ErrorRateMargin, Inconclusive, Judge, Objective, Options, Slo,
    StepConditions, Verdict,
};

use crate::rng::Rng;
use crate::world::{Spikes, ramp, sine};

pub(crate) fn judge(alpha: f64, ratio: f64, worse_by: f64) -> Judge {
    Judge::new(Options {
        alpha,
        objectives: vec![Objective::ErrorRate(ErrorRateMargin { ratio, worse_by })],
        min_canary_failures: 0,
        ..Options::default()
    })
}

pub(crate) fn step(weight: f64, next_weight: f64) -> StepConditions {
    StepConditions {
        weight,
        next_weight,
        min_ms: 0,
        min_requests: 0,
        max_ms: None,
        inconclusive: Inconclusive::Hold,
    }
}

/// Requests of one slot: Poisson, each assigned at random.
pub(crate) fn slot(
    rng: &mut Rng,
    at_ms: u64,
    requests: f64,
    weight: f64,
    p_c: f64,
    p_s: f64,
) -> Cohort<'static> {
    let mut arm = |mean: f64, p: f64| {
        let bad = rng.poisson(mean * p);
        ArmCounts::of(bad + rng.poisson(mean * (1.0 - p)), bad)
    };
    Cohort {
        at_ms,
        weight,
        canary: arm(requests * weight, p_c),
        baseline: arm(requests * (1.0 - weight), p_s),
    }
}

/// Judges slot by slot, with a step at each change of the weight; true if it was rolled back.
fn rolled_back<C>(mut judge: Judge, seconds: u64, mut of: impl FnMut(u64) -> C) -> bool
where
    C: IntoIterator<Item = Cohort<'static>>,
{
    let mut weight = 0.0;
    for (t, cohort) in (0..seconds).flat_map(|t| of(t).into_iter().map(move |cohort| (t, cohort))) {
        if cohort.weight != weight {
            weight = cohort.weight;
            judge.begin_step(t * 1_000, step(weight, 1.0));
        }
        judge.observe(&cohort);
        if matches!(judge.verdict(cohort.at_ms), Verdict::RollBack(_)) {
            return true;
        }
    }
    false
}

pub(crate) fn s1(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    rolled_back(judge(0.01, 1.0, 0.0), 3_600, |t| {
        Some(slot(
            &mut rng,
            (t + 1) * 1_000,
            1_000.0,
            ramp(t as f64, 3_600.0),
            1e-3,
            1e-3,
        ))
    })
}

/// A2's error rate: drift by a factor of 25 and spikes of 20.
fn drift(rng: &mut Rng) -> impl Fn(f64) -> f64 + use<> {
    let spikes = Spikes::new(rng, 3_600.0, 300.0, 20.0, 5.0, 20.0);
    move |t| ((2e-4 + 4.8e-3 * t / 3_600.0) * spikes.at(t)).min(0.3)
}

pub(crate) fn s2(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let p = drift(&mut rng);
    rolled_back(judge(0.05, 1.0, 0.0), 3_600, |second| {
        let t = second as f64;
        let rps = 1_000.0 * (1.0 + 0.5 * sine(t, 1_200.0, 0.0));
        Some(slot(
            &mut rng,
            (second + 1) * 1_000,
            rps,
            ramp(t, 3_600.0),
            p(t),
            p(t),
        ))
    })
}

/// The verdict is read after each failure, since a burst that is examined only at its end reveals
/// less.
pub(crate) fn s3(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    rolled_back(judge(0.05, 1.0, 0.0), 3_600, |t| {
        let weight = ramp(t as f64, 3_600.0);
        let mut failing = Vec::new();
        for _ in 0..rng.poisson(100.0 * 5e-3 / 20.0) {
            failing.extend((0..rng.geometric(20.0)).map(|_| rng.chance(weight)));
        }
        let good = slot(&mut rng, (t + 1) * 1_000, 100.0 * 0.995, weight, 0.0, 0.0);
        let one = ArmCounts::of(1, 1);
        let single = move |canary: bool| {
            let (canary, baseline) = if canary {
                (one, ArmCounts::of(0, 0))
            } else {
                (ArmCounts::of(0, 0), one)
            };
            Cohort {
                canary,
                baseline,
                ..good
            }
        };
        std::iter::once(good).chain(failing.into_iter().map(single))
    })
}

pub(crate) fn s4(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let p = drift(&mut rng);
    rolled_back(judge(0.05, 1.1, 5e-4), 3_600, |second| {
        let t = second as f64;
        let (p_s, weight) = (p(t), ramp(t, 3_600.0));
        Some(slot(
            &mut rng,
            (second + 1) * 1_000,
            1_000.0,
            weight,
            1.1 * p_s + 5e-4,
            p_s,
        ))
    })
}

pub(crate) fn s5(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let mut judge = judge(0.01, 1.0, 0.0);
    judge.begin_step(0, step(0.01, 0.05));
    for t in 1..=3_600 {
        let weight = match judge.log_e().0 {
            high if high > 0.7 => 0.5,
            some if some > 0.0 => 0.05,
            _ => 0.01,
        };
        judge.observe(&slot(&mut rng, t * 1_000, 100.0, weight, 1e-2, 1e-2));
        if matches!(judge.verdict(t * 1_000), Verdict::RollBack(_)) {
            return true;
        }
    }
    false
}

/// Seconds without a failure are skipped: without a margin they add no evidence.
fn rare(seed: u64, rps: f64, p: impl Fn(f64) -> f64, weight: impl Fn(f64) -> f64) -> bool {
    let mut rng = Rng::new(seed);
    rolled_back(judge(0.05, 1.0, 0.0), 14_400, |t| {
        let (weight, p) = (weight(t as f64), p(t as f64));
        let (f_c, f_s) = (
            rng.poisson(rps * p * weight),
            rng.poisson(rps * p * (1.0 - weight)),
        );
        (f_c + f_s > 0).then(|| Cohort {
            at_ms: (t + 1) * 1_000,
            weight,
            canary: ArmCounts::of(f_c, f_c),
            baseline: ArmCounts::of(f_s, f_s),
        })
    })
}

pub(crate) fn s6(seed: u64) -> bool {
    rare(seed, 1_000.0, |_| 1e-5, |t| ramp(t, 14_400.0))
}

pub(crate) fn s7(seed: u64) -> bool {
    rare(seed, 5.0, |_| 1e-3, |_| 0.01)
}

/// A2 reversed: the rate falls while the weight grows.
pub(crate) fn a2b(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let spikes = Spikes::new(&mut rng, 3_600.0, 300.0, 20.0, 5.0, 20.0);
    rolled_back(judge(0.05, 1.0, 0.0), 3_600, |second| {
        let t = second as f64;
        let p = ((5e-3 - 4.8e-3 * t / 3_600.0) * spikes.at(t)).min(0.3);
        Some(slot(
            &mut rng,
            (second + 1) * 1_000,
            1_000.0,
            ramp(t, 3_600.0),
            p,
            p,
        ))
    })
}

pub(crate) fn a4(seed: u64) -> bool {
    rare(seed, 5.0, |_| 1e-2, |t| ramp(t, 14_400.0))
}

/// Four hours instead of one.
pub(crate) fn a8(seed: u64) -> bool {
    rare(seed, 100.0, |_| 1e-2, |_| 0.1)
}

pub(crate) fn a10(seed: u64) -> bool {
    let outage = |t| (1_200.0..1_560.0).contains(&t);
    rare(
        seed,
        100.0,
        |t| if outage(t) { 5e-2 } else { 1e-3 },
        |_| 0.05,
    )
}

/// Four canaries at 10 % each beside a baseline at 60 %, each with its pairwise weight and a
/// quarter of alpha; true if any of them was rolled back.
pub(crate) fn four(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let weight = 0.1 / 0.7;
    let mut judges = [0; 4].map(|_| judge(0.05 / 4.0, 1.0, 0.0));
    for t in 1..=3_600 {
        let baseline = slot(&mut rng, t * 1_000, 100.0 * 0.6, 0.0, 0.0, 1e-2).baseline;
        for judge in &mut judges {
            let canary = slot(&mut rng, t * 1_000, 100.0 * 0.1, 1.0, 1e-2, 0.0).canary;
            judge.observe(&Cohort {
                at_ms: t * 1_000,
                weight,
                baseline,
                canary,
            });
            if matches!(judge.verdict(t * 1_000), Verdict::RollBack(_)) {
                return true;
            }
        }
    }
    false
}

pub(crate) fn s11(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let judge = Judge::new(Options {
        alpha: 0.05,
        objectives: vec![Objective::Slo(Slo::ErrorRate { below: 0.01 })],
        ..Options::default()
    });
    rolled_back(judge, 12_000, |tick| {
        Some(slot(&mut rng, (tick + 1) * 100, 100.0, 0.1, 1e-2, 1e-3))
    })
}

/// The error rate of "drift+spikes" in the detection scenarios.
pub(crate) fn drift_and_spikes(rng: &mut Rng, p: f64) -> impl Fn(f64) -> f64 + use<> {
    let spikes = Spikes::new(rng, 7_200.0, 300.0, 20.0, 5.0, 20.0);
    let phase = rng.uniform();
    move |t| (p * (1.0 + 0.8 * sine(t, 3_600.0, phase)) * spikes.at(t)).min(0.9)
}

pub(crate) fn s12(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let p = drift_and_spikes(&mut rng, 1e-3);
    // With a margin that tolerates anything, so that no rollback prevents a pass.
    let mut judge = judge(1e-9, 1.1, 0.9);
    judge.begin_step(0, step(0.1, 0.25));
    for tick in 1..=18_000 {
        let p_s = p(tick as f64 / 10.0);
        judge.observe(&slot(&mut rng, tick * 100, 100.0, 0.1, p_s + 4e-3, p_s));
        if judge.verdict(tick * 100) == Verdict::Advance {
            return true;
        }
    }
    false
}

/// A failed request is retried on its own arm until it succeeds or five have failed; it counts
/// once.
pub(crate) fn s13_retries(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    rolled_back(judge(0.05, 1.0, 0.0), 3_600, |t| {
        let mut arms = [ArmCounts::of(0, 0); 2];
        for _ in 0..rng.poisson(100.0) {
            let arm = &mut arms[usize::from(rng.chance(0.1))];
            arm.requests += 1;
            // A failed request fails again.
            let attempts = if rng.chance(1e-2) { 5 } else { 1 };
            arm.failures += u64::from(attempts > 1);
        }
        let [baseline, canary] = arms;
        Some(Cohort {
            at_ms: (t + 1) * 1_000,
            weight: 0.1,
            canary,
            baseline,
        })
    })
}

/// A shared outage of five seconds per minute, in which the canary fails immediately and the
/// baseline times out.
pub(crate) fn s13_landmark(seed: u64) -> bool {
    const LANDMARK_S: f64 = 1.0;
    let mut rng = Rng::new(seed);
    let mut judge = judge(0.05, 1.0, 0.0);
    judge.begin_step(0, step(0.05, 0.25));
    for tick in 0..6_000_u64 {
        let outage = tick % 600 < 50;
        let mut arms = [ArmCounts::of(0, 0); 2];
        for _ in 0..rng.poisson(100.0) {
            let canary = rng.chance(0.05);
            let fails = outage && rng.chance(0.2);
            let finished_after = if fails && !canary { 5.0 } else { 0.01 };
            let arm = &mut arms[usize::from(canary)];
            arm.requests += 1;
            arm.failures += u64::from(fails || finished_after > LANDMARK_S);
        }
        let [baseline, canary] = arms;
        judge.observe(&Cohort {
            at_ms: tick * 100,
            weight: 0.05,
            canary,
            baseline,
        });
        if judge.verdict(tick * 100) == Verdict::RollBack(Cause::ErrorRate) {
            return true;
        }
    }
    false
}
