//! One step of a release: its conditions, and the advance tests, which begin anew with it.

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
    /// The canary's chance of a request, 0 to 1.
    pub weight: f64,
    /// The same at the step after this one, which is where the harm would be done.
    pub next_weight: f64,
    /// The least time that it takes.
    pub min_ms: u64,
    /// The least requests that the canary is given in it.
    pub min_requests: u64,
    /// When this time has passed without an answer, the step is inconclusive; `None` waits for
    /// ever.
    pub max_ms: Option<u64>,
    /// What is done then.
    pub inconclusive: Inconclusive,
}

/// What is done with a step that had its time and gave no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inconclusive {
    /// Wait for a person.
    #[default]
    Hold,
    /// Go on if the canary was given enough requests and nothing ever spoke much against it.
    #[serde(alias = "advance_if_no_harm")]
    Advance,
    /// Roll back. This is policy, not evidence, and is reported as such.
    #[serde(alias = "abort")]
    RollBack,
}

/// The canary's chance of a request, 0 to 1, at a step and at the one after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepWeights {
    /// At the step.
    pub now: f64,
    /// At the one after it.
    pub next: f64,
}

impl StepConditions {
    /// Its weight, and the next step's.
    pub fn weights(&self) -> StepWeights {
        StepWeights {
            now: self.weight,
            next: self.next_weight,
        }
    }

    /// How much more often than the baseline the canary may fail for the step to be passed, when so
    /// much harm is tolerated as a share of all requests: the smaller the next weight, the
    /// more.
    pub fn tolerated(&self, harm_budget: f64) -> f64 {
        margin(harm_budget, self.next_weight)
    }
}

/// A step under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StepProgress {
    pub(crate) step: StepConditions,
    pub(crate) begun_ms: u64,
    pub(crate) canary: Counts,
    pub(crate) baseline: Counts,
    /// The canary's requests that came to an answer or a failure: those that the client gave up
    /// say nothing.
    pub(crate) outcomes: u64,
    /// Sticky releases: the units that began at this step and are old enough to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) units: Option<UnitCounts>,
    pub(crate) error: Option<Advance>,
    pub(crate) latency: Option<LatencyAdvance>,
}

/// What the advance tests of a step are made of.
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
    /// say nothing about the load of this one.
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

    /// Scores units that have become old enough, unless they began at a smaller weight, `weight`.
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

    /// Whether the step has been passed: its least time and requests, and each advance test that it
    /// has. At full weight there is nobody left to compare with.
    pub(crate) fn passed(&self, now_ms: u64, limit: f64) -> bool {
        self.age(now_ms) >= self.step.min_ms
            && self.has_traffic()
            && (self.step.weight >= 1.0 || self.proven(limit))
    }

    /// Whether the canary has had as many requests as the step asks for.
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

/// The harm at the next weight that uses up the tolerated harm, as a difference of error rates.
pub(crate) fn margin(harm_budget: f64, next_weight: f64) -> f64 {
    (harm_budget / next_weight.max(1e-6)).min(0.999)
}
