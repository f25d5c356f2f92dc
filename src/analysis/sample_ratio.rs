//! The sample-ratio test: is the traffic split according to the weights? If not, no comparison is
//! valid, and the release waits.
//!
//! For each weight a mixture of bets on other weights (Beta with 1,000 pseudo-requests) tests the
//! canary's number of requests. The product over the weights is one test of the whole release. The
//! same totals are used by the confidence sequence.

use serde::{Deserialize, Serialize};

use super::cohort::{ArmCounts, Cohort, Counts};
use super::math::ln_gamma;

/// Pseudo-requests: how far from the weight the bets reach.
const CONCENTRATION: f64 = 1_000.0;
/// The probability of rejecting a correct split.
pub(crate) const LEVEL: f64 = 1e-4;
/// The split is tested again when the assignments have grown by this factor; it is not
/// time-critical.
const EVERY: f64 = 1.0 + 1.0 / 128.0;
/// The maximum of distinct weights. A release has a few; a caller that changes the weight all the
/// time loses the confidence sequence and this test beyond it, nothing else.
const DISTINCT: usize = 1_024;

/// Totals by weight.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SampleRatioTest {
    totals: Vec<SampleRatioTotals>,
    current: usize,
    overflowed: bool,
    /// The sum of the evidence of each weight.
    log_e: f64,
}

/// The totals at one weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SampleRatioTotals {
    pub(crate) weight: f64,
    pub(crate) canary: Counts,
    pub(crate) baseline: Counts,
    /// Assignments: requests, or keys seen for the first time.
    drawn_canary: u64,
    drawn_baseline: u64,
    /// The number of assignments at which it is tested again.
    next: f64,
    log_e: f64,
}

impl SampleRatioTest {
    /// Adds a cohort whose weight is strictly between 0 and 1.
    pub(crate) fn add(&mut self, cohort: &Cohort<'_>) {
        let drawn = |arm: &ArmCounts<'_>| arm.new_keys.unwrap_or(arm.requests);
        let (canary, baseline) = (&cohort.canary, &cohort.baseline);
        self.count(
            cohort.weight,
            (canary.counts(), drawn(canary)),
            (baseline.counts(), drawn(baseline)),
        );
    }

    /// Adds units assigned with this probability, strictly between 0 and 1.
    pub(crate) fn add_units(&mut self, weight: f64, canary: Counts, baseline: Counts) {
        self.count(
            weight,
            (canary, canary.requests),
            (baseline, baseline.requests),
        );
    }

    /// Adds counts of both arms at a weight, with their numbers of assignments.
    fn count(&mut self, weight: f64, canary: (Counts, u64), baseline: (Counts, u64)) {
        let Some(totals) = self.at(weight) else {
            return;
        };
        totals.canary.plus(canary.0);
        totals.baseline.plus(baseline.0);
        totals.drawn_canary += canary.1;
        totals.drawn_baseline += baseline.1;
        if totals.drawn() >= totals.next {
            self.examine();
        }
    }

    fn at(&mut self, weight: f64) -> Option<&mut SampleRatioTotals> {
        if self
            .totals
            .get(self.current)
            .is_none_or(|totals| totals.weight != weight)
        {
            self.examine();
            self.current = match self
                .totals
                .iter()
                .position(|totals| totals.weight == weight)
            {
                Some(known) => known,
                None if self.totals.len() < DISTINCT => {
                    self.totals.push(SampleRatioTotals::new(weight));
                    self.totals.len() - 1
                }
                None => {
                    self.overflowed = true;
                    return None;
                }
            };
        }
        self.totals.get_mut(self.current)
    }

    fn examine(&mut self) {
        if let Some(totals) = self.totals.get_mut(self.current) {
            let evidence = totals.evidence();
            self.log_e += evidence - totals.log_e;
            totals.log_e = evidence;
            totals.next = totals.drawn() * EVERY;
        }
    }

    /// `ln` of the evidence that traffic is not split according to the weights.
    pub(crate) fn log_e(&self) -> f64 {
        self.log_e
    }

    pub(crate) fn doubted(&self) -> bool {
        self.log_e() >= -LEVEL.ln()
    }

    /// All totals, or `None` if there were too many distinct weights.
    pub(crate) fn totals(&self) -> Option<&[SampleRatioTotals]> {
        (!self.overflowed).then_some(&*self.totals)
    }
}

impl SampleRatioTotals {
    fn new(weight: f64) -> SampleRatioTotals {
        SampleRatioTotals {
            weight,
            canary: Counts::default(),
            baseline: Counts::default(),
            drawn_canary: 0,
            drawn_baseline: 0,
            next: 0.0,
            log_e: 0.0,
        }
    }

    fn drawn(&self) -> f64 {
        (self.drawn_canary + self.drawn_baseline) as f64
    }

    fn evidence(&self) -> f64 {
        let (canary, baseline) = (self.drawn_canary as f64, self.drawn_baseline as f64);
        let (a, b) = (
            CONCENTRATION * self.weight,
            CONCENTRATION * (1.0 - self.weight),
        );
        let log_beta = |a: f64, b: f64| ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b);
        log_beta(a + canary, b + baseline)
            - log_beta(a, b)
            - canary * self.weight.ln()
            - baseline * (-self.weight).ln_1p()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
    fn after(requests: u64, weight: f64, truth: f64) -> SampleRatioTest {
        let mut split = SampleRatioTest::default();
        let canary = (requests as f64 * truth).round() as u64;
        split.add(&Cohort {
            at_ms: 1,
            weight,
            baseline: ArmCounts::of(requests - canary, 0),
            canary: ArmCounts::of(canary, 0),
        });
        split.examine();
        split
    }

    #[test]
    fn wrong_split_is_detected() {
        assert!(!after(1_000_000, 0.05, 0.05).doubted());
        assert!(after(60_000, 0.05, 0.055).doubted());
        assert!(!after(20_000, 0.05, 0.055).doubted());
        assert!(after(250_000, 0.05, 0.0525).doubted());
    }

    #[test]
    fn expected_gain_of_one_assignment_is_one() {
        for (canary, baseline, weight) in [
            (0, 0, 0.01),
            (7, 93, 0.05),
            (5_000, 5_100, 0.5),
            (3, 30_000, 1e-4),
        ] {
            let at = |more_canary: u64, more_baseline: u64| {
                let totals = SampleRatioTotals {
                    drawn_canary: canary + more_canary,
                    drawn_baseline: baseline + more_baseline,
                    ..SampleRatioTotals::new(weight)
                };
                totals.evidence()
            };
            let mean = weight * at(1, 0).exp() + (1.0 - weight) * at(0, 1).exp();
            assert!((mean / at(0, 0).exp() - 1.0).abs() < 1e-7, "{mean}");
        }
    }

    #[test]
    fn number_of_weights_is_bounded() {
        let mut split = SampleRatioTest::default();
        for i in 0..5_000_u32 {
            let weight = 0.1 + f64::from(i) * 1e-5;
            let arm = ArmCounts::of(10, 0);
            split.add(&Cohort {
                at_ms: u64::from(i),
                weight,
                baseline: arm,
                canary: arm,
            });
        }
        assert!(split.totals().is_none());
        assert_eq!(split.totals.len(), DISTINCT);
    }
}
