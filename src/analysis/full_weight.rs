//! The canary at full weight: the baseline gets no further requests, so failures and latency are
//! compared with limits from the baseline's past (STATISTICS.md 1.k.2).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::baseline::BaselineRate;
use super::cohort::ArmCounts;
use super::error::{ErrorTest, Margin, Pair};
use super::options::Slo;
use super::slo::SloArm;

/// Tolerated failures beyond twice the limit of the baseline's rate, as a share of requests.
const BEYOND: f64 = 0.005;
/// The share of requests that may take more than twice the baseline's past p99.
const SLOW: f64 = 0.02;

/// The limits of one period at full weight. They are set at its start and do not change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FullWeight {
    /// The share of requests that may fail.
    pub(crate) limit: f64,
    /// The bets on failures if the release has no error objective whose bets continue.
    failures: Option<ErrorTest>,
    /// The test of slow responses; absent if the baseline's latency is unknown or not judged.
    slow: Option<Slow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Slow {
    slo: Slo,
    side: SloArm,
}

impl FullWeight {
    /// The limits from the baseline's rate and its past p99 in microseconds; `alpha` is the
    /// probability that the true rate is above the limit used for it.
    pub(crate) fn new(
        baseline: &BaselineRate,
        p99_us: Option<u64>,
        alpha: f64,
        judges_errors: bool,
    ) -> FullWeight {
        let limit = (2.0 * baseline.upper(alpha) + BEYOND).min(0.999);
        let slow = |p99_us: u64| Slow {
            slo: Slo::Latency {
                quantile: 1.0 - SLOW,
                below: Duration::from_micros(p99_us.saturating_mul(2)),
            },
            side: SloArm::new(SLOW),
        };
        FullWeight {
            limit,
            failures: (!judges_errors).then(|| ErrorTest::new(Margin::fixed(limit))),
            slow: p99_us.map(slow),
        }
    }

    /// Scores a cohort at full weight.
    pub(crate) fn score(&mut self, canary: &ArmCounts<'_>) {
        if let Some(failures) = &mut self.failures {
            failures.score_alone(self.limit, Pair::of(canary.requests, canary.failures));
        }
        if let Some(slow) = &mut self.slow {
            slow.side.score(slow.slo, canary);
        }
    }

    pub(crate) fn share(&mut self, k: u32) {
        if let Some(failures) = &mut self.failures {
            failures.share(k);
        }
        if let Some(slow) = &mut self.slow {
            slow.side.share(k);
        }
    }

    /// Whether the evidence shows more failures than tolerated, without an error objective.
    pub(crate) fn is_failing(&self, limit: f64) -> bool {
        self.failures
            .as_ref()
            .is_some_and(|test| test.log_e() >= limit)
    }

    /// Whether the evidence shows that the canary is slower than tolerated.
    pub(crate) fn is_slow(&self, limit: f64) -> bool {
        self.slow
            .as_ref()
            .is_some_and(|slow| slow.side.log_e >= limit)
    }
}
