//! The part of a release's plan that decides, as needed by a replay. All other fields are ignored
//! here: the release and the run line validate them, each with its own messages.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::analysis::text::time;
use crate::analysis::{ErrorRateMargin, Inconclusive, Objective, Options, StepConditions};

/// The default budget of failures beyond the baseline's rate that users may see.
pub const BUDGET: u64 = 20;

/// The default budget of all failures of the canary, rescued ones included.
pub const RESCUED_BUDGET: u64 = 100;

/// The plan that decides a release. Its text is that of the configuration's `release` block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunPlan {
    /// The analysis options.
    #[serde(flatten)]
    pub options: Options,
    /// The canary's weights in order; 100 is appended if the last is less.
    pub steps: Vec<RunStep>,
    /// The minimum time per step.
    #[serde(with = "time")]
    pub bake: Duration,
    /// The minimum of canary requests per step.
    pub min_requests: u64,
    /// The maximum time of a step without a result; 0 means unlimited.
    #[serde(with = "time")]
    pub max_duration: Duration,
    /// The action after that.
    pub inconclusive: Inconclusive,
    /// The minimum time at 100 percent.
    #[serde(with = "time")]
    pub final_bake: Duration,
    /// Failures that users may see beyond the baseline's rate.
    pub budget: Option<u64>,
    /// Failures of the canary beyond the baseline's rate, visible to users or not.
    pub rescued_budget: Option<u64>,
}

impl Default for RunPlan {
    fn default() -> Self {
        RunPlan {
            options: Options::default(),
            steps: [1.0, 5.0, 25.0, 50.0, 100.0].map(RunStep::at).into(),
            bake: Duration::from_secs(10),
            min_requests: 100,
            max_duration: Duration::ZERO,
            inconclusive: Inconclusive::Hold,
            final_bake: Duration::ZERO,
            budget: None,
            rescued_budget: None,
        }
    }
}

/// One step of a plan; omitted fields take the plan's values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "StepText")]
pub struct RunStep {
    /// The canary's weight in percent.
    pub weight: f64,
    /// The minimum time, if more than the plan's `bake`.
    #[serde(with = "time")]
    pub hold: Duration,
    /// The minimum of canary requests.
    pub min_requests: Option<u64>,
    /// The maximum time without a result.
    #[serde(with = "time")]
    pub max_duration: Duration,
    /// The action after that.
    pub inconclusive: Option<Inconclusive>,
}

/// The short form of a step, a weight, or the long form. Not an untagged enum: its errors would not
/// name the problem.
struct StepText(RunStep);

#[derive(Deserialize)]
struct LongStep {
    weight: f64,
    #[serde(default, with = "time")]
    hold: Duration,
    #[serde(default)]
    min_requests: Option<u64>,
    #[serde(default, with = "time")]
    max_duration: Duration,
    #[serde(default)]
    inconclusive: Option<Inconclusive>,
}

impl From<StepText> for RunStep {
    fn from(StepText(step): StepText) -> RunStep {
        step
    }
}

impl<'de> Deserialize<'de> for StepText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StepText, D::Error> {
        deserializer.deserialize_any(StepVisitor)
    }
}

struct StepVisitor;

impl<'de> Visitor<'de> for StepVisitor {
    type Value = StepText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a weight in percent, or `{ weight, hold, min_requests, max_duration, inconclusive }`",
        )
    }

    fn visit_f64<E: de::Error>(self, weight: f64) -> Result<StepText, E> {
        Ok(StepText(RunStep::at(weight)))
    }

    fn visit_u64<E: de::Error>(self, weight: u64) -> Result<StepText, E> {
        self.visit_f64(weight as f64)
    }

    fn visit_i64<E: de::Error>(self, weight: i64) -> Result<StepText, E> {
        self.visit_f64(weight as f64)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StepText, A::Error> {
        let long = LongStep::deserialize(MapAccessDeserializer::new(map))?;
        Ok(StepText(RunStep {
            weight: long.weight,
            hold: long.hold,
            min_requests: long.min_requests,
            max_duration: long.max_duration,
            inconclusive: long.inconclusive,
        }))
    }
}

impl RunStep {
    /// A step at `weight` percent, the rest by the plan.
    pub fn at(weight: f64) -> RunStep {
        RunStep {
            weight,
            hold: Duration::ZERO,
            min_requests: None,
            max_duration: Duration::ZERO,
            inconclusive: None,
        }
    }
}

impl RunPlan {
    /// All problems of the plan; empty if it is valid.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.options.problems();
        if self.steps.is_empty() {
            problems.push("there must be at least one step".to_owned());
        }
        let weights = || self.steps.iter().map(|step| step.weight);
        if !weights().all(|weight| weight > 0.0 && weight <= 100.0) {
            problems
                .push("the weight of a step must be above 0 and at most 100 percent".to_owned());
        }
        if !weights().is_sorted_by(|left, right| left < right) {
            problems.push("step weights must increase".to_owned());
        }
        problems
    }

    /// The margin of the error objective, which the budgets tolerate at full weight; the default
    /// margin without such an objective.
    pub fn worse_by(&self) -> f64 {
        let judged = self.options.judged();
        let margin = judged.iter().find_map(|objective| match objective {
            Objective::ErrorRate(margin) => Some(margin.worse_by),
            _ => None,
        });
        margin.unwrap_or(ErrorRateMargin::default().worse_by)
    }

    /// The steps as the judge needs them, the one at 100 percent included.
    pub fn walk(&self) -> Vec<StepConditions> {
        let mut steps: Vec<&RunStep> = self.steps.iter().collect();
        let full = RunStep::at(100.0);
        if steps.last().is_none_or(|last| last.weight < 100.0) {
            steps.push(&full);
        }
        let next = |i: usize| steps.get(i + 1).map_or(1.0, |step| step.weight / 100.0);
        steps
            .iter()
            .enumerate()
            .map(|(i, step)| self.step(step, next(i)))
            .collect()
    }

    /// The conditions for a weight set from outside.
    pub fn fit(&self, weight: f64) -> StepConditions {
        let percent = weight * 100.0;
        let near = self
            .steps
            .iter()
            .find(|step| (step.weight - percent).abs() < 1e-6);
        let next = self
            .steps
            .iter()
            .map(|step| step.weight)
            .find(|weight| *weight > percent + 1e-6);
        let at = RunStep::at(percent);
        StepConditions {
            weight,
            ..self.step(near.unwrap_or(&at), next.unwrap_or(100.0) / 100.0)
        }
    }

    fn step(&self, step: &RunStep, next_weight: f64) -> StepConditions {
        let full = step.weight >= 100.0;
        let least = if full { self.final_bake } else { self.bake };
        let most = if step.max_duration.is_zero() {
            self.max_duration
        } else {
            step.max_duration
        };
        StepConditions {
            weight: step.weight / 100.0,
            next_weight,
            min_ms: millis(least.max(step.hold)),
            min_requests: step.min_requests.unwrap_or(self.min_requests),
            max_ms: (!most.is_zero()).then(|| millis(most)),
            inconclusive: step.inconclusive.unwrap_or(self.inconclusive),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
