//! The numbers behind a verdict, for display, journal and other programs. The e-values of the
//! relative objectives can be recomputed from the counts included.

use serde::{Deserialize, Serialize};

use super::bins::{BINS, WAYS};
use super::cohort::Counts;
use super::confidence::Interval;
use super::error::{BETS, ErrorTest, Margin};
use super::evidence_log::Segment;
use super::full_weight::FullWeightEvidence;
use super::latency::LatencyGains;
use super::options::Objective;
use super::units::UnitCounts;
use super::wealth::Wealth;

/// The evidence on a release at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The time, on the scale of the cohorts.
    pub at_ms: u64,
    /// Time since the canary's first request.
    pub elapsed_ms: u64,
    /// `ln` of the combined e-value of the relative objectives.
    pub log_e: f64,
    /// The maximum of `log_e` so far.
    pub log_e_max: f64,
    /// The limit, `ln(1/alpha)`, at which the release is rolled back.
    pub log_limit: f64,
    /// An anytime-valid p-value: 1 divided by the highest e-value, at most 1.
    pub p_value: f64,
    /// The requests assigned to the canary so far, at all weights.
    pub canary: Counts,
    /// The requests assigned to the baseline in the same time.
    pub baseline: Counts,
    /// Sticky releases: the units by which errors are judged, that is, assignments of keys and the
    /// failed ones among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<UnitCounts>,
    /// Clients of the canary with failures.
    pub failing_clients: u64,
    /// `ln` of the evidence that traffic is not split according to the weights.
    pub split_log_e: f64,
    /// The objectives.
    pub objectives: Vec<ObjectiveEvidence>,
    /// What promotion needs while the canary is at full weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_weight: Option<FullWeightEvidence>,
}

/// The evidence on one objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveEvidence {
    /// The objective with its margins.
    pub objective: Objective,
    /// Its part of `alpha`; the relative objectives share it, an absolute objective has all of it.
    pub share: f64,
    /// `ln` of its e-value against the canary.
    pub log_e: f64,
    /// `ln` of this step's e-value for the canary being good enough; absent without an advance
    /// test.
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
        /// `p_canary - ratio * p_baseline` as observed per weight, averaged over the canary's
        /// requests.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        estimate: Option<f64>,
        /// The interval that contains it at all times.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        confidence: Option<Interval>,
        /// The estimated number of further canary requests until this step can pass, at current
        /// rates.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requests_to_advance: Option<u64>,
        /// `ln` of the wealth of each bet, and of the cash, before the first segment.
        opening: Vec<f64>,
        /// The counts since then.
        stretches: Vec<Segment>,
    },
    /// Latency. Absent bins mean that the baseline has too few requests.
    Latency {
        /// The bins and their counts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bins: Option<Box<LatencyBins>>,
        /// At the last step below full weight: the canary was slower in the last seconds than its
        /// objective allows. While this is true, the step does not pass.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        slower_lately: bool,
    },
    /// A fixed limit.
    Slo {
        /// The canary's bad requests.
        canary: Counts,
        /// The baseline's bad requests.
        baseline: Counts,
        /// `ln` of the evidence that the baseline exceeds the limit too.
        baseline_log_e: f64,
    },
}

/// The current bins of the latency test, and their counts since they were built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyBins {
    /// Upper edges for the baseline; the last bin has none.
    pub baseline_edges_us: [u64; BINS - 1],
    /// Upper edges for the canary, slack included.
    pub canary_edges_us: [u64; BINS - 1],
    /// The likelihood ratio of each bin under each alternative.
    pub ratios: [[f64; BINS]; WAYS],
    /// The probability that a request is assigned to the canary.
    pub weight: f64,
    /// `ln` of the wealth of each bet, and of the cash, when counting began.
    pub opening: Vec<f64>,
    /// The canary's observations by bin.
    pub canary: [f64; BINS],
    /// The baseline's observations by bin.
    pub baseline: [f64; BINS],
    /// The bin with the most evidence against the canary, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_bin: Option<usize>,
}

impl ObjectiveEvidence {
    /// `ln` of the e-value, recomputed from the counts; `None` for an absolute objective, whose
    /// counts are not kept by time.
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
