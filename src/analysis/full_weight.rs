//! The canary at full weight: the baseline gets no further requests, so failures and latency are
//! compared with limits from the baseline's past (STATISTICS.md 1.k.2).
//!
//! With few requests the limit is wide, and evidence *against* the canary takes long. So a step at
//! full weight passes only by one of two findings about its `n` requests, of which `f` failed:
//!
//! - `f / n` is at most the rate that was observed on the baseline. A canary without failures
//!   passes at once.
//! - The canary fails less often than tolerated: the advance test of 1.a with r1 = 0 and d1 = the
//!   limit `2 p + 0.5 pp` reaches `ln(1/beta)`. A canary at or above the limit passes by this in at
//!   most a share `beta` of releases, however long it waits.
//!
//! Otherwise the step goes on, and after `max_duration` it is inconclusive.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::advance::Advance;
use super::baseline::BaselineRate;
use super::cohort::{ArmCounts, Counts};
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
    /// What the step needs to pass; absent in states of earlier versions.
    #[serde(default)]
    passing: Option<Passing>,
}

/// The evidence for the canary at full weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Passing {
    /// Requests and failures of the baseline that the limit was computed from.
    baseline: (f64, f64),
    canary: Counts,
    below_limit: Advance,
}

impl Passing {
    fn passes(&self, advance_limit: f64) -> bool {
        let (requests, failures) = self.baseline;
        let Counts {
            requests: canary,
            failures: failed,
        } = self.canary;
        // Without requests of the baseline, only a canary without failures.
        failed as f64 * requests.max(1.0) <= failures * canary as f64
            || self.below_limit.reaches(advance_limit)
    }
}

/// The numbers behind promotion at full weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FullWeightEvidence {
    /// The share of requests that may fail.
    pub tolerated: f64,
    /// The canary's requests at full weight and the failed ones.
    pub canary: Counts,
    /// The baseline's requests that the tolerated share was computed from.
    pub baseline_requests: f64,
    /// The failed ones among them.
    pub baseline_failures: f64,
    /// `ln` of the evidence that the canary fails less often than tolerated.
    pub advance_log_e: f64,
    /// The value at which it suffices.
    pub advance_limit: f64,
    /// Whether the failures of the canary allow to promote it.
    pub passes: bool,
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
            passing: Some(Passing {
                baseline: baseline.totals(),
                canary: Counts::default(),
                below_limit: Advance::new(Margin::fixed(limit)),
            }),
        }
    }

    /// Scores a cohort for promotion: all failures, as the baseline's past counts them too.
    pub(crate) fn score_passing(&mut self, canary: &ArmCounts<'_>, advance_limit: f64) {
        if let Some(passing) = &mut self.passing {
            passing.canary.add(canary);
            let counts = Pair::of(canary.requests, canary.failures);
            // A fixed limit does not depend on the weight.
            passing.below_limit.score(0.0, counts, 0);
            passing.below_limit.settle(advance_limit);
        }
    }

    /// Scores a cohort against the limits; of a sticky service only each key's first failure.
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

    /// Whether the failures so far allow to promote the canary.
    pub(crate) fn passes(&self, advance_limit: f64) -> bool {
        self.passing
            .as_ref()
            .is_none_or(|passing| passing.passes(advance_limit))
    }

    /// The numbers behind [`FullWeight::passes`].
    pub(crate) fn evidence(&self, advance_limit: f64) -> Option<FullWeightEvidence> {
        let passing = self.passing.as_ref()?;
        let (baseline_requests, baseline_failures) = passing.baseline;
        Some(FullWeightEvidence {
            tolerated: self.limit,
            canary: passing.canary,
            baseline_requests,
            baseline_failures,
            advance_log_e: passing.below_limit.log_e(),
            advance_limit,
            passes: passing.passes(advance_limit),
        })
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
