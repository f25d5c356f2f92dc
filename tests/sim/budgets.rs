//! How often a budget is exhausted by chance when both arms fail alike: while the weights rise, and
//! in the final bake, where there is no concurrent baseline.

use weighbridge::analysis::Budget;

use crate::errors::{drift_and_spikes, slot};
use crate::rng::Rng;

const ALPHA: f64 = 0.05;

/// Seconds at each step, and at full weight.
struct Path {
    step: u64,
    bake: u64,
    rps: f64,
}

pub(crate) fn strict(seed: u64) -> bool {
    let path = Path {
        step: 60,
        bake: 600,
        rps: 100.0,
    };
    exhausted(seed, 0, 1e-2, &path)
}

pub(crate) fn usual(seed: u64) -> bool {
    let path = Path {
        step: 60,
        bake: 600,
        rps: 100.0,
    };
    exhausted(seed, 20, 1e-1, &path)
}

/// The baseline's rate is known from 1,600 requests and a few failures. The canary gets nearly
/// twice as many requests in the bake; for much more the rule does not promise its alpha, since
/// users would pay for the uncertainty.
pub(crate) fn short(seed: u64) -> bool {
    let path = Path {
        step: 5,
        bake: 30,
        rps: 100.0,
    };
    exhausted(seed, 5, 2e-3, &path)
}

/// While weights rise, the common rate drifts and spikes; the bake has the baseline's mean rate,
/// since no rule that knows only that could hold under another.
fn exhausted(seed: u64, limit: u64, p: f64, path: &Path) -> bool {
    let mut rng = Rng::new(seed);
    let shared = drift_and_spikes(&mut rng, p);
    let mut budget = Budget::new(limit, ALPHA, 0.0);
    let (mut expected, mut requests) = (0.0, 0.0);
    for second in 0..4 * path.step {
        let weight = [0.01, 0.05, 0.25, 0.5][(second / path.step) as usize];
        let rate = shared(second as f64).min(0.9);
        expected += rate * path.rps * (1.0 - weight);
        requests += path.rps * (1.0 - weight);
        for _ in 0..10 {
            budget.observe(&slot(
                &mut rng,
                second * 1_000,
                path.rps / 10.0,
                weight,
                rate,
                rate,
            ));
            if budget.exhausted() {
                return true;
            }
        }
    }
    let rate = expected / requests;
    for second in 0..path.bake {
        budget.observe(&slot(&mut rng, second * 1_000, path.rps, 1.0, rate, 0.0));
        if budget.exhausted() {
            return true;
        }
    }
    false
}
