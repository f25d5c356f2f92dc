//! The numbers behind a verdict, for people, journals and other programs. The e-values of the
//! relative objectives can be computed again from the counts that stand beside them.

use serde::{Deserialize, Serialize};

use super::bins::{BINS, WAYS};
use super::cohort::Counts;
use super::confidence::Interval;
use super::error::{BETS, ErrorTest, Margin};
use super::evidence_log::Segment;
use super::latency::LatencyGains;
use super::options::Objective;
use super::units::UnitCounts;
use super::wealth::Wealth;

/// What is known of a release at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// When, on the scale of the cohorts.
    pub at_ms: u64,
    /// Time since the canary's first request.
    pub elapsed_ms: u64,
    /// `ln` of the combined e-value of the relative objectives.
    pub log_e: f64,
    /// The highest that it has been.
    pub log_e_max: f64,
    /// The limit, `ln(1/alpha)`: from here on the release is rolled back.
    pub log_limit: f64,
    /// A p-value that is valid at any time: one by the highest e-value, at most 1.
    pub p_value: f64,
    /// What the canary was given so far, at all weights.
    pub canary: Counts,
    /// What the baseline was given meanwhile.
    pub baseline: Counts,
    /// Sticky releases: what errors are judged by, the draws of keys and those of them that
    /// failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<UnitCounts>,
    /// Clients of the canary that failed.
    pub failing_clients: u64,
    /// `ln` of the evidence that the split is not what the weights say.
    pub split_log_e: f64,
    /// Each objective.
    pub objectives: Vec<ObjectiveEvidence>,
}

/// What is known of one objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveEvidence {
    /// The objective with its margins.
    pub objective: Objective,
    /// The part of `alpha` that it has; of the relative objectives all, an absolute one has the
    /// whole for itself.
    pub share: f64,
    /// `ln` of its e-value against the canary.
    pub log_e: f64,
    /// `ln` of its e-value, at this step, for the canary being good enough; absent without an
    /// advance test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advance_log_e: Option<f64>,
    /// The limit for that: `ln(1/beta)`, twice as much for latency at the last step below full
    /// weight.
    pub advance_limit: f64,
    /// The counts behind it.
    pub counts: Behind,
}

/// The counts behind an e-value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behind {
    /// Errors.
    ErrorRate {
        /// `p_canary - ratio * p_baseline` as counted, weight by weight, in the mean over the
        /// canary's requests.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        estimate: Option<f64>,
        /// The interval that holds it at all times.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confidence: Option<Interval>,
        /// About how many further canary requests this step needs until it can be passed, at the
        /// present rates.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requests_to_advance: Option<u64>,
        /// `ln` of the wealth of each bet, and of the cash, before the first stretch.
        opening: Vec<f64>,
        /// What was counted since.
        stretches: Vec<Segment>,
    },
    /// Latency. Absent bins mean that the baseline has not been seen often enough.
    Latency {
        /// The bins and what fell into them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bins: Option<Box<LatencyBins>>,
        /// At the last step below full weight: the canary has been slower than its objective
        /// allows in the last seconds, and as long as that is so, the step is not passed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        slower_lately: bool,
    },
    /// A fixed limit.
    Slo {
        /// The canary's bad requests.
        canary: Counts,
        /// The baseline's.
        baseline: Counts,
        /// `ln` of the evidence that the baseline is beyond the limit too.
        baseline_log_e: f64,
    },
}

/// The present bins of the latency test, and what fell into them since they were cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyBins {
    /// Upper edges for the baseline; the last bin has none.
    pub baseline_edges_us: [u64; BINS - 1],
    /// Upper edges for the canary, its slack included.
    pub canary_edges_us: [u64; BINS - 1],
    /// How many times likelier each bin is, under each way of being slower.
    pub ratios: [[f64; BINS]; WAYS],
    /// The canary's chance of a request.
    pub weight: f64,
    /// `ln` of the wealth of each bet, and of the cash, when counting began.
    pub opening: Vec<f64>,
    /// The canary's observations by bin.
    pub canary: [f64; BINS],
    /// The baseline's.
    pub baseline: [f64; BINS],
    /// The bin that speaks most against the canary, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_bin: Option<usize>,
}

impl ObjectiveEvidence {
    /// The e-value's `ln`, computed anew from the counts; `None` for an absolute objective, whose
    /// counts are not told apart by time.
    pub fn recompute(&self) -> Option<f64> {
        match (&self.counts, &self.objective) {
            (
                Behind::ErrorRate {
                    opening, stretches, ..
                },
                Objective::ErrorRate(objective),
            ) => {
                let mut test = ErrorTest::resume(
                    Margin::from(*objective),
                    Wealth::<BETS>::from_logs(opening)?,
                );
                stretches
                    .iter()
                    .for_each(|stretch| stretch.replay(&mut test));
                Some(test.log_e())
            }
            (
                Behind::Latency {
                    bins: Some(bins), ..
                },
                _,
            ) => {
                let mut wealth = Wealth::<WAYS>::from_logs(&bins.opening)?;
                LatencyGains::new(bins.weight, &bins.ratios).score(
                    wealth.bets_mut(),
                    &bins.canary,
                    &bins.baseline,
                );
                Some(wealth.log_e())
            }
            (Behind::Latency { bins: None, .. }, _) => Some(0.0),
            _ => None,
        }
    }
}
