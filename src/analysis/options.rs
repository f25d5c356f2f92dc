//! The analysis options of a release: objectives with margins, and the accepted error
//! probabilities. They are fixed when the release starts, since a margin changed after a look at
//! the data invalidates the tests.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bins::Slack;
use super::error::Margin;
use super::text::{share, time};

/// How a release is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// The probability that the tests roll back a release with equal versions, over the whole
    /// release.
    pub alpha: f64,
    /// The probability that a canary with the tolerated harm passes a step.
    pub beta: f64,
    /// The tolerated harm, as a share of all requests.
    #[serde(with = "share")]
    pub harm_budget: f64,
    /// The objectives. Empty means errors and latency with their default margins.
    pub objectives: Vec<Objective>,
    /// The minimum of canary failures before the tests roll back on errors: two in a row on a small
    /// share of the traffic suffice if failures are independent, and this covers the case that they
    /// are not.
    pub min_canary_failures: u64,
    /// The minimum of distinct failing clients; 0 disables it.
    pub min_distinct_clients: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            alpha: 1e-3,
            beta: 0.05,
            harm_budget: 0.001,
            objectives: Vec::new(),
            min_canary_failures: 5,
            min_distinct_clients: 0,
        }
    }
}

/// An objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The canary fails no more often than the concurrent baseline, with a margin.
    ErrorRate(ErrorRateMargin),
    /// The canary is no slower than the concurrent baseline, over the whole distribution, with a
    /// margin.
    Latency(LatencyMargin),
    /// The canary stays within a fixed limit.
    Slo(Slo),
}

/// The margin for errors: `p_canary <= ratio * p_baseline + worse_by`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorRateMargin {
    /// The factor on the baseline's rate.
    pub ratio: f64,
    /// The addition, as a share of requests; written in percentage points.
    #[serde(with = "share")]
    pub worse_by: f64,
}

impl Default for ErrorRateMargin {
    fn default() -> Self {
        ErrorRateMargin {
            ratio: 1.1,
            worse_by: 0.0005,
        }
    }
}

/// The margin for latency: slower by more than both of these is harm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyMargin {
    /// A share of the baseline's latency.
    #[serde(with = "share")]
    pub worse_by: f64,
    /// An absolute amount.
    #[serde(with = "time")]
    pub at_least: Duration,
}

impl Default for LatencyMargin {
    fn default() -> Self {
        LatencyMargin {
            worse_by: 0.05,
            at_least: Duration::from_millis(1),
        }
    }
}

/// A fixed limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Slo {
    /// At most this share of requests fails.
    ErrorRate {
        /// The limit.
        #[serde(with = "share")]
        below: f64,
    },
    /// This quantile of latency is below this time.
    Latency {
        /// The quantile, between 0 and 1.
        #[serde(with = "share")]
        quantile: f64,
        /// The limit.
        #[serde(with = "time")]
        below: Duration,
    },
}

impl Slo {
    /// The share of bad requests that is allowed.
    pub(crate) fn limit(self) -> f64 {
        match self {
            Slo::ErrorRate { below } => below,
            Slo::Latency { quantile, .. } => 1.0 - quantile,
        }
    }
}

/// What is the same for every objective of a kind, whatever its margins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectiveDescriptor {
    /// The name in plans, evidence, metrics and responses, and of the cause of a rollback.
    pub name: &'static str,
    /// It is tested against the concurrent baseline, and shares `alpha` with others of this sort; a
    /// plan has it at most once. Else it is a fixed limit.
    pub is_relative: bool,
    /// In a sticky release it counts users, not requests.
    pub counts_users: bool,
}

impl ObjectiveDescriptor {
    const ERROR_RATE: ObjectiveDescriptor = ObjectiveDescriptor {
        name: "error_rate",
        is_relative: true,
        counts_users: true,
    };
    const LATENCY: ObjectiveDescriptor = ObjectiveDescriptor {
        name: "latency",
        is_relative: true,
        counts_users: false,
    };
    const SLO: ObjectiveDescriptor = ObjectiveDescriptor {
        name: "slo",
        is_relative: false,
        counts_users: false,
    };

    /// Those of all objectives.
    pub const ALL: [ObjectiveDescriptor; 3] = [Self::ERROR_RATE, Self::LATENCY, Self::SLO];
}

impl Objective {
    /// What is the same for every objective of this kind.
    pub fn descriptor(&self) -> ObjectiveDescriptor {
        match self {
            Objective::ErrorRate(_) => ObjectiveDescriptor::ERROR_RATE,
            Objective::Latency(_) => ObjectiveDescriptor::LATENCY,
            Objective::Slo(_) => ObjectiveDescriptor::SLO,
        }
    }

    /// The name in evidence, metrics and responses.
    pub fn name(&self) -> &'static str {
        self.descriptor().name
    }
}

impl From<ErrorRateMargin> for Margin {
    fn from(objective: ErrorRateMargin) -> Margin {
        Margin {
            ratio: objective.ratio,
            worse_by: objective.worse_by,
        }
    }
}

impl From<LatencyMargin> for Slack {
    fn from(objective: LatencyMargin) -> Slack {
        Slack {
            worse_by: objective.worse_by,
            at_least_us: objective.at_least.as_secs_f64() * 1e6,
        }
    }
}

impl Options {
    /// The configured objectives, or errors and latency with their defaults.
    pub fn judged(&self) -> Vec<Objective> {
        if self.objectives.is_empty() {
            return vec![
                Objective::ErrorRate(ErrorRateMargin::default()),
                Objective::Latency(LatencyMargin::default()),
            ];
        }
        self.objectives.clone()
    }

    /// The options for attempt `attempt` (from 1) at the same build, and for one of `canaries`
    /// concurrent canaries. Error probabilities add up, so each retry after a rollback gets less:
    /// `alpha / (k(k+1))`, and all retries together half an `alpha`.
    #[must_use]
    pub fn for_attempt(&self, attempt: u32, canaries: u32) -> Options {
        let k = f64::from(attempt);
        let part = if attempt <= 1 {
            1.0
        } else {
            1.0 / (k * (k + 1.0))
        };
        Options {
            alpha: self.alpha * part / f64::from(canaries.max(1)),
            ..self.clone()
        }
    }

    /// All problems of the options; empty if they are valid.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |holds: bool, problem: &str| {
            if !holds {
                problems.push(problem.to_owned());
            }
        };
        check(
            self.alpha > 0.0 && self.alpha < 1.0,
            "alpha must be between 0 and 1",
        );
        check(
            self.beta > 0.0 && self.beta < 1.0,
            "beta must be between 0 and 1",
        );
        check(
            within(self.harm_budget),
            "harm_budget must be above 0 and below 100pp",
        );
        let count = |name: &str| self.objectives.iter().filter(|o| o.name() == name).count();
        for objective in ObjectiveDescriptor::ALL {
            check(
                !objective.is_relative || count(objective.name) <= 1,
                &format!("{} can be an objective only once", objective.name),
            );
        }
        check(
            self.objectives.len() <= MOST_OBJECTIVES,
            "there can be at most 16 objectives",
        );
        for objective in &self.objectives {
            match objective {
                Objective::ErrorRate(o) => {
                    check(
                        o.ratio.is_finite() && o.ratio > 0.0,
                        "error_rate.ratio must be above 0",
                    );
                    check(
                        (0.0..1.0).contains(&o.worse_by),
                        "error_rate.worse_by must be below 100pp",
                    );
                }
                Objective::Latency(o) => {
                    check(
                        o.worse_by.is_finite() && o.worse_by >= 0.0,
                        "latency.worse_by must not be negative",
                    );
                }
                Objective::Slo(o) => check(
                    within(o.limit()),
                    "an slo must allow more than 0 % and less than 100 % of requests to be bad",
                ),
            }
        }
        problems
    }
}

/// The maximum of objectives per release.
const MOST_OBJECTIVES: usize = 16;

fn within(value: f64) -> bool {
    value > 0.0 && value < 1.0
}
