//! One step of a release: its conditions, and its advance tests, which restart with each step.

use serde::{Deserialize, Serialize};

use super::advance::Advance;
use super::bins::{Bins, Slack};
use super::cohort::{Cohort, Counts};
use super::error::{Margin, Pair};
use super::latency_advance::{AnswerCounts, LatencyAdvance};
use super::units::{Unit, UnitCounts, begun_at, paired};

/// The conditions of one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepConditions {
    /// The probability that a request is assigned to the canary, 0 to 1.
    pub weight: f64,
    /// The probability at the next step, where harm would occur.
    pub next_weight: f64,
    /// The minimum duration.
    pub min_ms: u64,
    /// The minimum of canary requests.
    pub min_requests: u64,
    /// After this time without a result, the step is inconclusive; `None` means unlimited.
    pub max_ms: Option<u64>,
    /// The action in that case.
    pub inconclusive: Inconclusive,
}

/// The action after an inconclusive step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inconclusive {
    /// Wait for a person.
    #[default]
    Hold,
    /// Advance if the canary had enough requests and the evidence against it was never large.
    #[serde(alias = "advance_if_no_harm")]
    Advance,
    /// Roll back. This is policy, not evidence, and is reported as such.
    #[serde(alias = "abort")]
    RollBack,
}

/// The probability that a request is assigned to the canary, 0 to 1, at a step and at the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepWeights {
    /// At the step.
    pub now: f64,
    /// At the next step.
    pub next: f64,
}

impl StepConditions {
    /// The weights of this step and the next.
    pub fn weights(&self) -> StepWeights {
        StepWeights {
            now: self.weight,
            next: self.next_weight,
        }
    }

    /// The tolerated difference of error rates for passing the step, where `harm_budget` is a share
    /// of all requests: the smaller the next weight, the larger.
    pub fn tolerated(&self, harm_budget: f64) -> f64 {
        margin(harm_budget, self.next_weight)
    }
}

/// A step in progress.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StepProgress {
    pub(crate) step: StepConditions,
    pub(crate) begun_ms: u64,
    pub(crate) canary: Counts,
    pub(crate) baseline: Counts,
    /// The canary's requests that ended with a response or a failure; aborted ones are no evidence.
    pub(crate) outcomes: u64,
    /// Sticky releases: matured units that began at this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) units: Option<UnitCounts>,
    pub(crate) error: Option<Advance>,
    pub(crate) latency: Option<LatencyAdvance>,
}

/// The parameters of the advance tests of a step.
pub(crate) struct Tests<'a> {
    pub(crate) error: bool,
    pub(crate) harm_budget: f64,
    pub(crate) latency: Option<(Slack, Option<&'a Bins>)>,
    pub(crate) limit: f64,
}

impl StepProgress {
    pub(crate) fn new(step: StepConditions, begun_ms: u64, tests: &Tests<'_>) -> StepProgress {
        let harm = Margin {
            ratio: 1.0,
            worse_by: margin(tests.harm_budget, step.next_weight),
        };
        let latency =
            |(slack, epoch)| LatencyAdvance::new(step.weights(), slack, tests.limit, epoch);
        StepProgress {
            step,
            begun_ms,
            canary: Counts::default(),
            baseline: Counts::default(),
            outcomes: 0,
            units: None,
            error: tests.error.then(|| Advance::new(harm)),
            latency: tests.latency.map(latency),
        }
    }

    /// Scores a cohort, unless it was assigned at a smaller weight: requests from before the step
    /// are no evidence for the load of this one.
    pub(crate) fn score(&mut self, cohort: &Cohort<'_>, limit: f64) {
        if cohort.weight < self.step.weight - 1e-9 {
            return;
        }
        self.canary.add(&cohort.canary);
        self.baseline.add(&cohort.baseline);
        let aborts = cohort.canary.aborts.unwrap_or_default();
        self.outcomes += cohort.canary.requests.saturating_sub(aborts);
        if cohort.weight >= 1.0 || cohort.weight <= 0.0 {
            return;
        }
        let are_units = cohort.canary.units.is_some() || cohort.baseline.units.is_some();
        if let Some(error) = self.error.as_mut().filter(|_| !are_units) {
            let canary = Pair::of(cohort.canary.requests, cohort.canary.failures);
            error.score(cohort.weight, canary, cohort.baseline.failures);
            error.settle(limit);
        }
        if let Some(latency) = &mut self.latency
            && let (Some(canary), Some(baseline)) = (
                AnswerCounts::of(&cohort.canary),
                AnswerCounts::of(&cohort.baseline),
            )
        {
            let weight = begun_at(&cohort.canary, &cohort.baseline).unwrap_or(cohort.weight);
            if weight < 1.0 {
                latency.score(cohort.at_ms, weight, canary, baseline);
            }
        }
    }

    /// Scores matured units, unless they began at a smaller weight, `weight`.
    pub(crate) fn score_units(
        &mut self,
        weight: f64,
        canary: &[Unit],
        baseline: &[Unit],
        limit: f64,
    ) {
        if weight < self.step.weight - 1e-9 {
            return;
        }
        self.units.get_or_insert_default().add(canary, baseline);
        let Some(error) = &mut self.error else { return };
        for (weight, canary, baseline) in paired(canary, baseline) {
            error.score(
                weight,
                Pair::of(canary.requests, canary.failures),
                baseline.failures,
            );
        }
        error.settle(limit);
    }

    /// Whether the step passes: minimum duration and requests, and each of its advance tests. At
    /// full weight there is no concurrent baseline, and the fixed limits decide.
    pub(crate) fn passed(&self, now_ms: u64, limit: f64, within_fixed_limits: bool) -> bool {
        let proven = if self.step.weight >= 1.0 {
            within_fixed_limits
        } else {
            self.proven(limit)
        };
        self.age(now_ms) >= self.step.min_ms && self.has_traffic() && proven
    }

    /// Whether the canary had as many requests as the step requires.
    pub(crate) fn has_traffic(&self) -> bool {
        self.outcomes >= self.step.min_requests
    }

    fn proven(&self, limit: f64) -> bool {
        self.error.as_ref().is_none_or(|error| error.reaches(limit))
            && self.latency.as_ref().is_none_or(LatencyAdvance::passed)
    }

    pub(crate) fn out_of_time(&self, now_ms: u64) -> bool {
        self.step
            .max_ms
            .is_some_and(|max_ms| self.age(now_ms) >= max_ms)
    }

    fn age(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.begun_ms)
    }
}

/// The difference of error rates at the next weight that uses up the tolerated harm.
pub(crate) fn margin(harm_budget: f64, next_weight: f64) -> f64 {
    (harm_budget / next_weight.max(1e-6)).min(0.999)
}
