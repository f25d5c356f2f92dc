//! How many exchanges may be kept for people.

use std::cell::RefCell;

use crate::proxy::deadline::Millis;
use crate::stats::{Arm, ReleaseKey};

/// Failures of one release that one worker keeps in a second.
const FAILURES_MAX: u32 = 20;
/// Releases whose rates one worker remembers: more than it can have under way within the second
/// that matters.
const RATES_MAX: usize = 256;

/// How many exchanges have been kept in this second, by release, of one worker.
#[derive(Debug, Default)]
pub(crate) struct SampleRates(RefCell<Vec<Rate>>);

#[derive(Debug)]
struct Rate {
    watch: ReleaseKey,
    second: u64,
    failures: u32,
    good: [bool; 2],
}

impl SampleRates {
    /// Whether one more failure may be kept.
    pub(crate) fn failure(&self, watch: ReleaseKey, now: Millis) -> bool {
        self.with(watch, now, |rate| {
            rate.failures += 1;
            rate.failures <= FAILURES_MAX
        })
    }

    /// Whether a good answer of this side may be kept: one in a second, to compare the failures
    /// with.
    pub(crate) fn good(&self, watch: ReleaseKey, side: Arm, now: Millis) -> bool {
        self.with(watch, now, |rate| {
            let [baseline, canary] = &mut rate.good;
            let taken = match side {
                Arm::Baseline => baseline,
                Arm::Canary => canary,
            };
            !std::mem::replace(taken, true)
        })
    }

    fn with(&self, watch: ReleaseKey, now: Millis, act: impl FnOnce(&mut Rate) -> bool) -> bool {
        let second = now / 1_000;
        let new = Rate {
            watch,
            second,
            failures: 0,
            good: [false; 2],
        };
        let mut rates = self.0.borrow_mut();
        if let Some(rate) = rates.iter_mut().find(|rate| rate.watch == watch) {
            if rate.second != second {
                *rate = new;
            }
            return act(rate);
        }
        rates.retain(|rate| rate.second == second);
        let mut rate = new;
        let may = rates.len() < RATES_MAX && act(&mut rate);
        rates.push(rate);
        rates.truncate(RATES_MAX);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCH: ReleaseKey = ReleaseKey(3);

    #[test]
    fn a_second_has_a_few_failures_and_one_good_answer_of_each_side() {
        let rates = SampleRates::default();
        for second in [0, 1_000] {
            let now = second + 999;
            assert_eq!((0..100).filter(|_| rates.failure(WATCH, now)).count(), 20);
            for side in [Arm::Baseline, Arm::Canary] {
                assert!(rates.good(WATCH, side, now) && !rates.good(WATCH, side, now));
            }
        }
        assert!(
            rates.good(ReleaseKey(4), Arm::Canary, 1_999),
            "releases do not share it"
        );
    }

    #[test]
    fn releases_of_the_past_are_forgotten() {
        let rates = SampleRates::default();
        for release in 0..10_000 {
            rates.failure(ReleaseKey(release), u64::from(release) * 1_000);
            assert_eq!(rates.0.borrow().len(), 1);
        }
        for release in 0..10_000 {
            rates.failure(ReleaseKey(release), 0);
        }
        assert_eq!(rates.0.borrow().len(), RATES_MAX);
    }
}
