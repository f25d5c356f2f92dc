//! The abort test: do clients abort requests on the canary more often than on the baseline? It is
//! the error-rate test with its own margins. It can only hold a release, since an abort is not a
//! failure of either arm (STATISTICS.md 1.k.5).

use serde::{Deserialize, Serialize};

use super::cohort::Cohort;
use super::error::{ErrorTest, Margin, Pair};

const MARGIN: Margin = Margin {
    ratio: 1.5,
    worse_by: 0.01,
};

/// The running test and its counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AbortTest {
    test: ErrorTest,
    log_e: f64,
    aborts: AbortCounts,
}

/// Requests that clients aborted, by arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbortCounts {
    /// Aborts on the baseline.
    pub baseline: u64,
    /// Aborts on the canary.
    pub canary: u64,
}

impl AbortTest {
    pub(crate) fn new() -> AbortTest {
        AbortTest {
            test: ErrorTest::new(MARGIN),
            log_e: 0.0,
            aborts: AbortCounts::default(),
        }
    }

    /// Scores a cohort; only one with a weight strictly between 0 and 1 compares the arms.
    pub(crate) fn score(&mut self, cohort: &Cohort<'_>) {
        let (canary, baseline) = (
            cohort.canary.aborts.unwrap_or_default(),
            cohort.baseline.aborts.unwrap_or_default(),
        );
        self.aborts.canary += canary;
        self.aborts.baseline += baseline;
        let counted = cohort.canary.aborts.is_some() || cohort.baseline.aborts.is_some();
        if !counted || cohort.weight <= 0.0 || cohort.weight >= 1.0 {
            return;
        }
        self.test.score(
            cohort.weight,
            Pair::of(cohort.canary.requests, canary),
            baseline,
        );
        self.log_e = self.test.log_e();
    }

    pub(crate) fn share(&mut self, k: u32) {
        self.test.share(k);
    }

    /// Whether the evidence shows that clients abort more often on the canary than tolerated.
    pub(crate) fn is_beyond(&self, limit: f64) -> bool {
        self.log_e >= limit
    }

    pub(crate) fn counted(&self) -> AbortCounts {
        self.aborts
    }
}

#[cfg(test)]
mod tests {
    use super::super::cohort::ArmCounts;
    use super::*;

    fn after(weight: f64, canary: u64, baseline: u64) -> AbortTest {
        let arm = |aborts| ArmCounts {
            aborts: Some(aborts),
            ..ArmCounts::of(100, 0)
        };
        let mut test = AbortTest::new();
        for at_ms in 0..50 {
            test.score(&Cohort {
                at_ms,
                weight,
                canary: arm(canary),
                baseline: arm(baseline),
            });
        }
        test
    }

    #[test]
    fn more_aborts_on_the_canary_are_detected() {
        assert!(after(0.5, 20, 2).is_beyond(7.6));
        assert!(!after(0.5, 20, 20).is_beyond(7.6));
        assert!(
            !after(0.5, 1, 0).is_beyond(7.6),
            "within a percentage point"
        );
        assert!(!after(1.0, 20, 0).is_beyond(7.6), "nothing to compare with");
        assert_eq!(
            after(0.5, 3, 1).counted(),
            AbortCounts {
                baseline: 50,
                canary: 150
            }
        );
    }
}
