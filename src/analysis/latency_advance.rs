//! The advance test for latency: at the baseline's p50, p90 and p99, does the canary certainly not
//! exceed its tolerated multiple of the threshold more often than the baseline exceeds the
//! threshold itself?
//!
//! A threshold becomes stale while latency drifts; in a spike of both arms, "p99" is suddenly in
//! the body of the distribution, and the tolerated multiple makes the canary look good there
//! whatever its tail does. So the evidence per second is bounded, and a second after one in which
//! the baseline exceeded a threshold three times too often is ignored.

use std::array;

use serde::{Deserialize, Serialize};

use super::advance::Advance;
use super::bins::{Bins, Slack, Threshold};
use super::cohort::ArmCounts;
use super::error::{Margin, Pair};
use super::recent::RecentLatency;
use super::step::StepWeights;

/// A second is ignored if the baseline exceeded a threshold more than this many times too often in
/// the previous second with baseline requests.
const STALE: f64 = 3.0;
/// The maximum evidence per second, as a part of `ln(1/beta)`.
const PART: f64 = 0.25;
const SECOND_MS: u64 = 1_000;

/// The slack of the advance test at a weight: early steps risk little and need little evidence.
pub(crate) fn tolerated(weight: f64) -> f64 {
    match weight {
        w if w <= 0.01 => 1.0,
        w if w <= 0.05 => 0.5,
        w if w <= 0.25 => 0.25,
        _ => 0.15,
    }
}

/// The evidence required by the step, in units of `ln(1/beta)`. Before a step at 100 % it is
/// doubled: that comparison is the last one, and a canary that is slower by less than tolerated,
/// but by more than the objective allows, gains evidence in the advance test about as fast as it is
/// detected. Under latency drift, more than one such canary in a hundred would be promoted. With
/// this it is 8 of 2,000, and together with [`RecentLatency`] 1 of 2,000 (P14d.7 of `make sim`,
/// seeds 1 to 10); a healthy canary waits some six seconds longer at 1,000 requests per second
/// (P13).
pub(crate) fn required_evidence(next_weight: f64) -> f64 {
    if next_weight >= 1.0 { 2.0 } else { 1.0 }
}

/// The running test of one step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LatencyAdvance {
    slack: Slack,
    /// `ln` of the evidence that passes the step.
    limit: f64,
    /// The maximum gain per second.
    cap: f64,
    second: u64,
    tests: [ThresholdTest; 3],
    baseline_seen: f64,
    /// Before a step at 100 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lately: Option<RecentLatency>,
}

/// The test at one threshold.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ThresholdTest {
    threshold: Option<Threshold>,
    test: Advance,
    /// The evidence when the second began.
    opening: f64,
    baseline_beyond: f64,
    frozen: bool,
}

impl ThresholdTest {
    fn new(harm: Margin) -> ThresholdTest {
        ThresholdTest {
            threshold: None,
            test: Advance::new(harm),
            opening: 0.0,
            baseline_beyond: 0.0,
            frozen: false,
        }
    }
}

impl LatencyAdvance {
    /// The test of a step, with `limit` for `ln(1/beta)`. A slowdown that the abort test tolerates
    /// is tolerated here too; otherwise a canary within its objective could be neither rolled back
    /// nor promoted.
    pub(crate) fn new(
        weights: StepWeights,
        objective: Slack,
        limit: f64,
        epoch: Option<&Bins>,
    ) -> LatencyAdvance {
        let harm = Margin {
            ratio: 1.0,
            worse_by: 0.0,
        };
        let mut test = LatencyAdvance {
            slack: Slack {
                worse_by: tolerated(weights.now - 1e-9).max(objective.worse_by),
                at_least_us: objective.at_least_us,
            },
            limit: limit * required_evidence(weights.next),
            cap: limit * PART,
            second: 0,
            tests: array::from_fn(|_| ThresholdTest::new(harm)),
            baseline_seen: 0.0,
            lately: (weights.next >= 1.0).then(|| RecentLatency::new(objective)),
        };
        if let Some(epoch) = epoch {
            test.recut(epoch);
        }
        test
    }

    /// Uses the thresholds of new bins.
    pub(crate) fn recut(&mut self, epoch: &Bins) {
        for (at, threshold) in self.tests.iter_mut().zip(epoch.thresholds(self.slack)) {
            at.threshold = Some(threshold);
        }
        if let Some(lately) = &mut self.lately {
            lately.recut(epoch);
        }
    }

    /// Scores a cohort assigned at `weight`, strictly between 0 and 1.
    pub(crate) fn score(
        &mut self,
        at_ms: u64,
        weight: f64,
        canary: AnswerCounts<'_>,
        baseline: AnswerCounts<'_>,
    ) {
        self.begin_second(at_ms / SECOND_MS);
        self.baseline_seen += baseline.observations() as f64;
        if let Some(lately) = &mut self.lately {
            lately.add(canary, baseline);
        }
        for at in &mut self.tests {
            let Some(threshold) = at.threshold else {
                continue;
            };
            let beyond = baseline.beyond(threshold.baseline_us);
            at.baseline_beyond += beyond as f64;
            if !at.frozen {
                let slow = canary.beyond(threshold.canary_us);
                at.test
                    .score(weight, Pair::of(canary.observations(), slow), beyond);
            }
        }
    }

    /// Whether the step passes.
    pub(crate) fn passed(&self) -> bool {
        self.log_e() >= self.limit && !self.slower_lately()
    }

    /// Whether the next step is at 100 % and the canary was slower in the last seconds than the
    /// objective allows.
    pub(crate) fn slower_lately(&self) -> bool {
        self.lately.as_ref().is_some_and(RecentLatency::slower)
    }

    /// `ln` of the evidence that passes the step.
    pub(crate) fn limit(&self) -> f64 {
        self.limit
    }

    /// `ln` of the smallest evidence of the three.
    pub(crate) fn log_e(&self) -> f64 {
        let bounded = |at: &ThresholdTest| at.test.log_e().min(at.opening + self.cap);
        self.tests.iter().map(bounded).fold(f64::INFINITY, f64::min)
    }

    fn begin_second(&mut self, second: u64) {
        if second == self.second {
            return;
        }
        if let Some(lately) = &mut self.lately {
            lately.fade(second.saturating_sub(self.second));
        }
        let seen = std::mem::take(&mut self.baseline_seen);
        for at in &mut self.tests {
            let gained = at.test.log_e() - at.opening;
            if gained > self.cap {
                at.test.forgo(gained - self.cap);
            }
            at.opening = at.test.log_e();
            let nominal = at.threshold.map_or(1.0, |threshold| threshold.nominal);
            if seen > 0.0 {
                at.frozen = at.baseline_beyond > STALE * nominal * seen;
            }
            at.baseline_beyond = 0.0;
        }
        self.second = second;
    }
}

/// An arm's responses and failures.
#[derive(Clone, Copy)]
pub(crate) struct AnswerCounts<'a> {
    pub(crate) latency_us: &'a [(u64, u64)],
    pub(crate) failures: u64,
}

impl<'a> AnswerCounts<'a> {
    /// The observations of an arm, if its latency was measured.
    pub(crate) fn of(arm: &ArmCounts<'a>) -> Option<AnswerCounts<'a>> {
        arm.latency_us.map(|latency_us| AnswerCounts {
            latency_us,
            failures: arm.slow_failures(),
        })
    }

    pub(crate) fn observations(&self) -> u64 {
        self.failures + self.latency_us.iter().map(|(_, count)| count).sum::<u64>()
    }

    /// Observations slower than a threshold; failures are slower than any.
    pub(crate) fn beyond(&self, threshold_us: u64) -> u64 {
        let slow = self
            .latency_us
            .iter()
            .filter(|(value, _)| *value > threshold_us);
        self.failures + slow.map(|(_, count)| count).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_depends_on_the_step_weight() {
        let none = Slack {
            worse_by: 0.0,
            at_least_us: 0.0,
        };
        let weights = [0.001, 0.01, 0.011, 0.05, 0.051, 0.25, 0.26, 0.5, 0.9];
        let slacks = weights.map(|weight| {
            LatencyAdvance::new(at(weight), none, 3.0, None)
                .slack
                .worse_by
        });
        assert_eq!(slacks, [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.15, 0.15, 0.15]);
    }

    /// A step that is not the last.
    fn at(now: f64) -> StepWeights {
        StepWeights { now, next: 0.9 }
    }

    fn at_100_ms(weights: StepWeights) -> LatencyAdvance {
        let threshold = Threshold {
            baseline_us: 100_000,
            canary_us: 200_000,
            nominal: 0.1,
        };
        let none = Slack {
            worse_by: 0.0,
            at_least_us: 0.0,
        };
        let mut test = LatencyAdvance::new(weights, none, 4.0, None);
        test.tests
            .iter_mut()
            .for_each(|at| at.threshold = Some(threshold));
        test
    }

    /// A cohort of 100 requests per arm in which `slow` of the baseline's and none of the canary's
    /// are slow.
    fn cohort(test: &mut LatencyAdvance, at_ms: u64, slow: u64) {
        let baseline = [(90_000, 100 - slow), (110_000, slow)];
        let seen = |latency_us| AnswerCounts {
            latency_us,
            failures: 0,
        };
        test.score(at_ms, 0.1, seen(&[(90_000, 100)]), seen(&baseline));
    }

    #[test]
    fn evidence_per_second_is_bounded() {
        let mut test = at_100_ms(at(0.1));
        for tick in 0..100 {
            cohort(&mut test, tick * 10, 20);
        }
        assert!((test.log_e() - 1.0).abs() < 1e-9, "{}", test.log_e());
        cohort(&mut test, 1_000, 20);
        assert!(test.log_e() > 1.0 && test.log_e() < 2.0 + 1e-9);
    }

    #[test]
    fn last_comparison_needs_twice_the_evidence() {
        let seconds = |next| {
            let mut test = at_100_ms(StepWeights { now: 0.1, next });
            let passed = |second: &u64| {
                cohort(&mut test, second * 1_000, 20);
                test.passed()
            };
            (1..100).find(passed).unwrap()
        };
        assert!(seconds(1.0) >= 2 * seconds(0.25));
    }

    #[test]
    fn recently_slower_canary_does_not_reach_full_weight() {
        let allowed = Threshold {
            baseline_us: 100_000,
            canary_us: 105_000,
            nominal: 0.1,
        };
        let passes_after = |next: f64, slow_seconds: u64| {
            let mut test = at_100_ms(StepWeights { now: 0.1, next });
            if let Some(lately) = &mut test.lately {
                lately.set_thresholds([allowed; 3]);
            }
            (1..=60).for_each(|second| cohort(&mut test, second * 1_000, 20));
            for second in 61..=60 + slow_seconds {
                let seen = |latency_us| AnswerCounts {
                    latency_us,
                    failures: 0,
                };
                // The step would tolerate twice as slow; a tenth slower is more than the objective
                // allows.
                test.score(
                    second * 1_000,
                    0.1,
                    seen(&[(110_000, 100)]),
                    seen(&[(90_000, 100)]),
                );
            }
            test.passed()
        };
        assert!(passes_after(1.0, 0));
        assert!(!passes_after(1.0, 5));
        assert!(passes_after(0.9, 5), "there will be another comparison");
    }

    #[test]
    fn second_after_a_spike_is_ignored() {
        for next in [1_000, 2_000, 7_000] {
            let mut test = at_100_ms(at(0.1));
            cohort(&mut test, 0, 31);
            let before = test.log_e();
            cohort(&mut test, next, 20);
            assert!((test.log_e() - before).abs() < 1e-12, "{next}");
            cohort(&mut test, next + 1_000, 20);
            assert!(test.log_e() > before, "the second after was as usual");
        }
    }
}
