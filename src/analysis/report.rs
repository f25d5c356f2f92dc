//! Serialization of the judge's evidence.

use super::bins::{BINS, Bins};
use super::confidence::interval;
use super::evidence::{Behind, Evidence, LatencyBins, ObjectiveEvidence};
use super::forecast::requests_to_advance;
use super::full_weight::FullWeightEvidence;
use super::judge::{CONFIDENCE, Judge};
use super::latency::LatencyTest;
use super::latency_advance::LatencyAdvance;
use super::options::Objective;
use super::sample_ratio::SampleRatioTotals;
use super::slo::SloGuard;
use super::step::{StepProgress, margin};

impl Judge {
    /// The evidence so far. `&mut`, since it narrows the confidence sequence.
    pub fn evidence(&mut self) -> Evidence {
        self.refresh_confidence();
        let mut guards = self.guards.iter();
        let objectives =
            self.options
                .judged()
                .into_iter()
                .filter_map(|objective| match objective {
                    Objective::ErrorRate(_) => self.of_errors(objective),
                    Objective::Latency(_) => self.of_latency(objective),
                    Objective::Slo(_) => guards.next().map(|guard| self.of_guard(objective, guard)),
                });
        Evidence {
            at_ms: self.now_ms,
            elapsed_ms: self.now_ms - self.started_ms.unwrap_or(self.now_ms),
            log_e: self.log_e().0,
            log_e_max: self.log_e_max,
            log_limit: self.limit,
            p_value: (-self.log_e_max).exp().min(1.0),
            canary: self.canary,
            baseline: self.baseline,
            units: self.units,
            failing_clients: self.failing_clients,
            split_log_e: self.split.log_e(),
            objectives: objectives.collect(),
            full_weight: self.full_weight_evidence(),
        }
    }

    /// Intersects the confidence sequence with the current interval.
    pub(crate) fn refresh_confidence(&mut self) {
        if let (Some(error), Some(totals)) = (&self.error, self.split.totals()) {
            let now = interval(totals, error.margin().ratio, CONFIDENCE);
            self.confidence = Some(now.and(self.confidence));
        }
    }

    /// The numbers behind promotion, while the canary is at full weight.
    pub fn full_weight_evidence(&self) -> Option<FullWeightEvidence> {
        self.full_weight.as_ref()?.evidence(self.advance_limit)
    }

    fn of_errors(&self, objective: Objective) -> Option<ObjectiveEvidence> {
        let test = self.error.as_ref()?;
        let progress = self.progress.as_ref();
        Some(ObjectiveEvidence {
            objective,
            share: self.log_share.exp(),
            log_e: test.log_e(),
            advance_log_e: progress.and_then(|progress| Some(progress.error.as_ref()?.log_e())),
            advance_limit: self.advance_limit,
            counts: Behind::ErrorRate {
                estimate: self
                    .split
                    .totals()
                    .and_then(|all| difference(all, test.margin().ratio)),
                confidence: self.confidence,
                requests_to_advance: progress
                    .and_then(|progress| self.remaining_requests(progress)),
                opening: self.ledger.opening.logs(),
                stretches: self.ledger.stretches.iter().copied().collect(),
            },
        })
    }

    fn of_latency(&self, objective: Objective) -> Option<ObjectiveEvidence> {
        let test = self.latency.as_ref()?;
        let advance = self
            .progress
            .as_ref()
            .and_then(|progress| progress.latency.as_ref());
        let bins = test.epoch().map(|epoch| Box::new(bins(test, epoch)));
        Some(ObjectiveEvidence {
            objective,
            share: self.log_share.exp(),
            log_e: test.log_e(true),
            advance_log_e: advance.map(LatencyAdvance::log_e),
            advance_limit: advance.map_or(self.advance_limit, LatencyAdvance::limit),
            counts: Behind::Latency {
                bins,
                slower_lately: advance.is_some_and(LatencyAdvance::slower_lately),
            },
        })
    }

    fn of_guard(&self, objective: Objective, guard: &SloGuard) -> ObjectiveEvidence {
        ObjectiveEvidence {
            objective,
            share: 1.0,
            log_e: guard.canary.log_e,
            advance_log_e: None,
            advance_limit: self.advance_limit,
            counts: Behind::Slo {
                canary: guard.canary.counts,
                baseline: guard.baseline.counts,
                baseline_log_e: guard.baseline.log_e,
            },
        }
    }

    /// The forecast of the step minus the canary's requests so far.
    fn remaining_requests(&self, progress: &StepProgress) -> Option<u64> {
        if let Some(all) = self.units {
            let at_step = progress.units.unwrap_or_default();
            let rate = at_step.baseline.rate().or(all.baseline.rate())?;
            let worse_by = margin(self.options.harm_budget, progress.step.next_weight);
            let whole =
                requests_to_advance(progress.step.weight, rate, worse_by, self.options.beta)?;
            return Some(whole.saturating_sub(at_step.canary.requests));
        }
        let rate = progress.baseline.rate().or(self.baseline.rate())?;
        let worse_by = margin(self.options.harm_budget, progress.step.next_weight);
        let whole = requests_to_advance(progress.step.weight, rate, worse_by, self.options.beta)?;
        Some(whole.saturating_sub(progress.canary.requests))
    }
}

/// The difference of rates per weight, averaged over the canary's requests: pooling over the
/// weights would compare different times with each other (Simpson).
fn difference(totals: &[SampleRatioTotals], ratio: f64) -> Option<f64> {
    let both = |at: &SampleRatioTotals| {
        Some((
            at.canary.requests as f64,
            at.canary.rate()? - ratio * at.baseline.rate()?,
        ))
    };
    let (weight, sum) = totals
        .iter()
        .filter_map(both)
        .fold((0.0, 0.0), |(weight, sum), (w, d)| {
            (weight + w, sum + w * d)
        });
    (weight > 0.0).then(|| sum / weight)
}

fn bins(test: &LatencyTest, epoch: &Bins) -> LatencyBins {
    let stretch = test.stretch();
    LatencyBins {
        baseline_edges_us: epoch.baseline_edges,
        canary_edges_us: epoch.canary_edges,
        ratios: epoch.ratios,
        weight: stretch.weight,
        opening: stretch.opening.logs(),
        canary: stretch.canary,
        baseline: stretch.baseline,
        worst_bin: worst(&stretch.canary, &stretch.baseline),
    }
}

/// The bin in which the canary most exceeds its share.
fn worst(canary: &[f64; BINS], baseline: &[f64; BINS]) -> Option<usize> {
    let (of_canary, of_baseline) = (canary.iter().sum::<f64>(), baseline.iter().sum::<f64>());
    let excess = canary
        .iter()
        .zip(baseline)
        .map(|(c, b)| c / of_canary - b / of_baseline);
    let worst = excess.enumerate().filter(|(_, excess)| *excess > 0.0);
    worst
        .max_by(|(_, left), (_, right)| left.total_cmp(right))
        .map(|(bin, _)| bin)
}
