//! Latency: false rollbacks (S8, S9), and the requests until a slower canary is detected (P8 to
//! P12).

use std::time::Duration;

use weighbridge::analysis::{ArmCounts, Cohort, Judge, LatencyMargin, Objective, Options, Verdict};

use crate::errors::step;
use crate::power::Detection;
use crate::rng::Rng;
use crate::world::{Law, Slower, Spikes, latency, past, ramp, sine};

/// The observations of one tick, drawn into reused buffers.
#[derive(Default)]
pub(crate) struct Tick {
    pub(crate) canary: Vec<(u64, u64)>,
    pub(crate) baseline: Vec<(u64, u64)>,
}

impl Tick {
    pub(crate) fn draw(
        &mut self,
        rng: &mut Rng,
        requests: f64,
        weight: f64,
        law: (Law, Slower),
        scale: f64,
    ) {
        self.canary.clear();
        self.baseline.clear();
        for _ in 0..rng.poisson(requests * weight) {
            self.canary.push((latency(rng, law.0, law.1, scale), 1));
        }
        for _ in 0..rng.poisson(requests * (1.0 - weight)) {
            self.baseline
                .push((latency(rng, law.0, Slower::No, scale), 1));
        }
    }

    pub(crate) fn cohort(&self, at_ms: u64, weight: f64) -> Cohort<'_> {
        Cohort {
            at_ms,
            weight,
            canary: arm(&self.canary),
            baseline: arm(&self.baseline),
        }
    }
}

fn arm(pairs: &[(u64, u64)]) -> ArmCounts<'_> {
    ArmCounts {
        latency_us: Some(pairs),
        ..ArmCounts::of(pairs.len() as u64, 0)
    }
}

fn judge(alpha: f64, worse_by: f64) -> Judge {
    let at_least = Duration::ZERO;
    Judge::new(Options {
        alpha,
        objectives: vec![Objective::Latency(LatencyMargin { worse_by, at_least })],
        min_canary_failures: 0,
        ..Options::default()
    })
}

/// 600 seconds of 1,000 requests per second on a ramp, in ticks of 100 ms.
fn rolled_back(
    rng: &mut Rng,
    worse_by: f64,
    law: (Law, Slower),
    scale: impl Fn(f64) -> f64,
) -> bool {
    let mut judge = judge(0.05, worse_by);
    judge.warm(&past(rng, law.0, scale(0.0), 2_000), 0);
    let mut draw = Tick::default();
    let mut weight = 0.0;
    for tick in 0..6_000 {
        let t = tick as f64 / 10.0;
        if ramp(t, 600.0) != weight {
            weight = ramp(t, 600.0);
            judge.begin_step(tick * 100, step(weight, 1.0));
        }
        draw.draw(rng, 100.0, weight, law, scale(t));
        judge.observe(&draw.cohort((tick + 1) * 100, weight));
        if matches!(judge.verdict((tick + 1) * 100), Verdict::RollBack(_)) {
            return true;
        }
    }
    false
}

pub(crate) fn s8(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let spikes = Spikes::new(&mut rng, 600.0, 60.0, 3.0, 5.0, 20.0);
    let same = (Law::Lognormal, Slower::No);
    rolled_back(&mut rng, 0.0, same, |t| {
        (0.5 + 2.5 * t / 600.0) * spikes.at(t)
    })
}

pub(crate) fn s9(seed: u64) -> bool {
    rolled_back(
        &mut Rng::new(seed),
        0.1,
        (Law::Lognormal, Slower::All(0.1)),
        |_| 1.0,
    )
}

pub(crate) fn bimodal(seed: u64) -> bool {
    rolled_back(&mut Rng::new(seed), 0.0, (Law::Bimodal, Slower::No), |_| {
        1.0
    })
}

pub(crate) fn pareto(seed: u64) -> bool {
    rolled_back(&mut Rng::new(seed), 0.0, (Law::Pareto, Slower::No), |_| 1.0)
}

pub(crate) fn whole_ms(seed: u64) -> bool {
    rolled_back(&mut Rng::new(seed), 0.0, (Law::WholeMs, Slower::No), |_| {
        1.0
    })
}

/// An hour of 100 requests per second, six times as fast.
pub(crate) fn l3(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let spikes = Spikes::new(&mut rng, 600.0, 33.0, 3.0, 1.0, 3.0);
    let phase = rng.uniform();
    let scale = |t| (1.0 + 0.6 * sine(t, 300.0, phase)) * spikes.at(t);
    rolled_back(&mut rng, 0.0, (Law::Lognormal, Slower::No), scale)
}

/// Canary requests until the slower canary is rolled back, in ticks of 10 ms at 1,000 requests per
/// second.
pub(crate) fn detect(
    seed: u64,
    weight: f64,
    law: Law,
    slower: Slower,
    most: f64,
) -> Option<Detection> {
    let mut rng = Rng::new(seed);
    let mut judge = judge(1e-3, 0.0);
    judge.warm(&past(&mut rng, law, 1.0, 3_000), 0);
    judge.begin_step(0, step(weight, 1.0));
    let mut draw = Tick::default();
    for tick in 1.. {
        draw.draw(&mut rng, 10.0, weight, (law, slower), 1.0);
        judge.observe(&draw.cohort(tick * 10, weight));
        let requests = judge.canary().requests as f64;
        if matches!(judge.verdict(tick * 10), Verdict::RollBack(_)) {
            return Some(Detection {
                requests,
                seconds: tick as f64 / 100.0,
            });
        }
        if requests > most {
            return None;
        }
    }
    None
}
