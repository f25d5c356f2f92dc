//! The evidence log: the counts behind the error test by segment, so that the evidence can be
//! recomputed.
//!
//! It is bounded: when it is full, the oldest segment is merged into the opening wealth.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::cohort::{Cohort, Counts};
use super::error::{BETS, ErrorTest, Margin, Pair};
use super::wealth::Wealth;

/// The maximum of segments: about two hours at a constant weight.
const KEPT: usize = 256;

/// A segment: cohorts at one weight within one block.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Before it, a part `1/(k+1)` of the wealth was redistributed; 0 if none.
    pub shared: u32,
    /// The probability that a request is assigned to the canary.
    pub weight: f64,
    /// The requests assigned to the canary.
    pub canary: Counts,
    /// The requests assigned to the baseline.
    pub baseline: Counts,
    /// The fixed limit of the canary's rate at full weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
}

impl Segment {
    fn opened(shared: u32, weight: f64, limit: Option<f64>) -> Segment {
        Segment {
            shared,
            weight,
            limit,
            canary: Counts::default(),
            baseline: Counts::default(),
        }
    }

    /// Repeats this segment's scoring on `test`.
    pub(crate) fn replay(&self, test: &mut ErrorTest) {
        if self.shared > 0 {
            test.share(self.shared);
        }
        let canary = Pair::of(self.canary.requests, self.canary.failures);
        match self.limit {
            Some(limit) => drop(test.score_alone(limit, canary)),
            None if self.weight > 0.0 && self.weight < 1.0 => {
                test.score(self.weight, canary, self.baseline.failures);
            }
            None => {}
        }
    }
}

/// The segments of a release, with the wealth before the first one kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EvidenceLog {
    pub(crate) opening: Wealth<BETS>,
    pub(crate) stretches: VecDeque<Segment>,
}

impl EvidenceLog {
    pub(crate) fn new() -> EvidenceLog {
        EvidenceLog {
            opening: Wealth::new(),
            stretches: VecDeque::with_capacity(KEPT),
        }
    }

    pub(crate) fn share(&mut self, k: u32, margin: Margin) {
        self.open(Segment::opened(k, 0.0, None), margin);
    }

    /// Adds a cohort whose weight is strictly between 0 and 1, or one at full weight with its
    /// limit.
    pub(crate) fn add(&mut self, cohort: &Cohort<'_>, margin: Margin, limit: Option<f64>) {
        let weight = cohort.weight;
        match self.stretches.back_mut() {
            Some(last) if last.weight == weight && last.limit == limit => {}
            Some(last) if last.weight == 0.0 => (last.weight, last.limit) = (weight, limit),
            _ => self.open(Segment::opened(0, weight, limit), margin),
        }
        if let Some(last) = self.stretches.back_mut() {
            last.canary.add(&cohort.canary);
            last.baseline.add(&cohort.baseline);
        }
    }

    /// Adds units assigned with a probability strictly between 0 and 1. Probabilities alternate
    /// between cohorts, and the order within a block does not matter, so each probability has one
    /// segment per block.
    pub(crate) fn add_units(
        &mut self,
        weight: f64,
        canary: Counts,
        baseline: Counts,
        margin: Margin,
    ) {
        let block = self
            .stretches
            .iter()
            .rposition(|stretch| stretch.shared > 0);
        let fits = |stretch: &Segment| {
            stretch.limit.is_none() && (stretch.weight == weight || stretch.weight == 0.0)
        };
        let known = (block.unwrap_or(0)..self.stretches.len())
            .find(|at| self.stretches.get(*at).is_some_and(fits));
        if known.is_none() {
            self.open(Segment::opened(0, weight, None), margin);
        }
        let at = known.unwrap_or(self.stretches.len() - 1);
        if let Some(stretch) = self.stretches.get_mut(at) {
            stretch.weight = weight;
            stretch.canary.plus(canary);
            stretch.baseline.plus(baseline);
        }
    }

    fn open(&mut self, stretch: Segment, margin: Margin) {
        if self.stretches.len() == KEPT
            && let Some(oldest) = self.stretches.pop_front()
        {
            let mut test = ErrorTest::resume(margin, self.opening.clone());
            oldest.replay(&mut test);
            self.opening = test.wealth().clone();
        }
        self.stretches.push_back(stretch);
    }
}
