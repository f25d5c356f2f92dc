//! Keys that are assigned repeatedly while the canary's weight rises, and an outage of both
//! versions: S19.

use weighbridge::analysis::{Judge, Units};
use weighbridge::stats::Arm;

use crate::errors::{judge, step};
use crate::rng::Rng;
use crate::sticky::{BAKE_US, SECOND_US, Second};

/// Length of a phase.
const SECONDS: u64 = 20;
const KEYS: u64 = 20_000;

/// A period at one weight.
struct Phase {
    weight: f64,
    /// New keys in it.
    new_keys: u64,
    /// Requests per known key, on average.
    requests: f64,
    /// The probability that a request fails, on either version.
    failing: f64,
}

impl Phase {
    const fn quiet(weight: f64, new_keys: u64, requests: f64) -> Phase {
        Phase {
            weight,
            new_keys,
            requests,
            failing: 0.0,
        }
    }

    const fn outage(weight: f64, requests: f64) -> Phase {
        Phase {
            weight,
            new_keys: 0,
            requests,
            failing: 0.1,
        }
    }
}

/// Whether equal versions are rolled back.
fn rolled_back(seed: u64, mut judge: Judge, phases: &[Phase]) -> bool {
    let mut rng = Rng::new(seed);
    let mut places: Vec<f64> = Vec::new();
    let mut units = Units::new(true, BAKE_US);
    let mut second = 0;
    for phase in phases {
        judge.begin_step(second * 1_000, step(phase.weight, 1.0));
        for _ in 0..SECONDS {
            let end_us = (second + 1) * SECOND_US;
            let known = places.len() as u64;
            let mut arms = [Second::default(), Second::default()];
            let mut ask = |user: u64, place: f64, failed: bool| {
                let side = [Arm::Baseline, Arm::Canary][usize::from(place < phase.weight)];
                let entered =
                    units.enter(user as u32, side, phase.weight, second * SECOND_US, failed);
                Second::add(&mut arms, side, failed, &entered);
            };
            for new in 0..phase.new_keys / SECONDS {
                places.push(rng.uniform());
                ask(
                    known + new,
                    places[(known + new) as usize],
                    rng.chance(phase.failing),
                );
            }
            for _ in 0..rng.poisson(known as f64 * phase.requests / SECONDS as f64) {
                let user = (rng.uniform() * known as f64) as u64;
                ask(user, places[user as usize], rng.chance(phase.failing));
            }
            if Second::rolls_back(&arms, &mut judge, &mut units, phase.weight, end_us) {
                return true;
            }
            second += 1;
        }
    }
    false
}

/// Keys have their first request at 5 %, and the next one in an outage at 25 %.
const ONE_RISE: &[Phase] = &[Phase::quiet(0.05, KEYS, 0.0), Phase::outage(0.25, 3.0)];

/// Keys return after each rise, and the outage follows the last one.
const EACH_RISE: &[Phase] = &[
    Phase::quiet(0.01, KEYS, 1.0),
    Phase::quiet(0.05, 0, 2.0),
    Phase::quiet(0.25, 0, 2.0),
    Phase::quiet(0.5, 0, 2.0),
    Phase::outage(0.5, 3.0),
];

/// The same with new keys at each weight, keys that rarely return, and weights that are lowered in
/// between.
const UP_AND_DOWN: &[Phase] = &[
    Phase::quiet(0.05, KEYS / 2, 0.5),
    Phase::quiet(0.25, KEYS / 4, 0.5),
    Phase::quiet(0.1, KEYS / 4, 0.5),
    Phase::outage(0.05, 0.1),
    Phase::quiet(0.5, KEYS / 4, 0.5),
    Phase::outage(0.25, 0.2),
    Phase::outage(0.5, 2.0),
];

pub(crate) fn one_rise(seed: u64) -> bool {
    rolled_back(seed, judge(0.05, 1.0, 0.0), ONE_RISE)
}

pub(crate) fn one_rise_with_margins(seed: u64) -> bool {
    rolled_back(seed, judge(0.01, 1.1, 5e-4), ONE_RISE)
}

pub(crate) fn each_rise(seed: u64) -> bool {
    rolled_back(seed, judge(0.05, 1.0, 0.0), EACH_RISE)
}

pub(crate) fn each_rise_with_margins(seed: u64) -> bool {
    rolled_back(seed, judge(0.01, 1.1, 5e-4), EACH_RISE)
}

pub(crate) fn up_and_down(seed: u64) -> bool {
    rolled_back(seed, judge(0.05, 1.0, 0.0), UP_AND_DOWN)
}
