//! The advance test (a non-inferiority test): is the canary certainly *not* worse than tolerated?
//! Its null hypothesis is the harm, so little traffic proves nothing. It restarts at each step,
//! since a fault under load shows only at the new weight.

use std::array;

use serde::{Deserialize, Serialize};

use super::error::{Margin, Pair};
use super::wealth::AdvanceWealth;

/// Bet sizes.
pub(crate) const KAPPA: [f64; 10] = [
    1.0 / 64.0,
    1.0 / 32.0,
    1.0 / 16.0,
    1.0 / 8.0,
    1.0 / 4.0,
    1.0 / 2.0,
    0.75,
    0.9,
    0.97,
    0.995,
];

/// The log gain of each bet for each kind of request, at one weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdvanceGains {
    canary_bad: [f64; KAPPA.len()],
    canary_good: [f64; KAPPA.len()],
    baseline_bad: [f64; KAPPA.len()],
}

impl AdvanceGains {
    /// The gains at `weight`, strictly between 0 and 1, where harm means `p_canary >= ratio *
    /// p_baseline + worse_by`.
    ///
    /// `worse_by` is negative only for the confidence sequence; the bets are then smaller, so that
    /// no gain falls below zero.
    pub(crate) fn new(weight: f64, harm: Margin) -> AdvanceGains {
        let rho = harm.ratio * weight / (1.0 - weight);
        let margin = harm.worse_by;
        let kappa = KAPPA.map(|kappa| kappa / (1.0 + (-margin).max(0.0)));
        let row = |gain: &dyn Fn(f64) -> f64| {
            array::from_fn(|j| kappa.get(j).map_or(0.0, |kappa| gain(*kappa)))
        };
        AdvanceGains {
            canary_bad: row(&|kappa| (-kappa * (1.0 - margin)).ln_1p()),
            canary_good: row(&|kappa| (kappa * margin).ln_1p()),
            baseline_bad: row(&|kappa| (kappa * rho).ln_1p()),
        }
    }

    /// Adds the gains of a cohort to the bets and returns the largest gain.
    pub(crate) fn score(
        &self,
        bets: &mut [f64; KAPPA.len()],
        canary: Pair,
        baseline_bad: f64,
    ) -> f64 {
        let rows = self
            .canary_bad
            .iter()
            .zip(&self.canary_good)
            .zip(&self.baseline_bad);
        let mut most = f64::NEG_INFINITY;
        for (bet, ((bad, good), stable)) in bets.iter_mut().zip(rows) {
            let gain = canary.bad * bad + canary.good * good + baseline_bad * stable;
            *bet += gain;
            most = most.max(gain);
        }
        most
    }

    /// The expected log gain of the best bet per canary request at these failure rates, including
    /// the baseline requests that arrive with it.
    pub(crate) fn growth(&self, weight: f64, canary_rate: f64, baseline_rate: f64) -> f64 {
        let with_it = baseline_rate * (1.0 - weight) / weight;
        let rows = self
            .canary_bad
            .iter()
            .zip(&self.canary_good)
            .zip(&self.baseline_bad);
        rows.map(|((bad, good), stable)| {
            canary_rate * bad + (1.0 - canary_rate) * good + with_it * stable
        })
        .fold(f64::NEG_INFINITY, f64::max)
    }

    #[cfg(test)]
    pub(crate) fn gains(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        (0..KAPPA.len()).map(|j| {
            (
                self.canary_bad[j],
                self.canary_good[j],
                self.baseline_bad[j],
            )
        })
    }
}

/// The running test of one step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Advance {
    harm: Margin,
    stakes: AdvanceWealth<{ KAPPA.len() }>,
    /// Upper bound of the evidence, which is computed only when it may have reached a limit.
    bound: f64,
    #[serde(skip)]
    table: Option<(f64, AdvanceGains)>,
}

impl Advance {
    pub(crate) fn new(harm: Margin) -> Advance {
        Advance {
            harm,
            stakes: AdvanceWealth::new(),
            bound: 0.0,
            table: None,
        }
    }

    /// Scores a cohort assigned at `weight`, strictly between 0 and 1.
    pub(crate) fn score(&mut self, weight: f64, canary: Pair, baseline_bad: u64) {
        if self
            .table
            .as_ref()
            .is_none_or(|(known, _)| *known != weight)
        {
            self.table = Some((weight, AdvanceGains::new(weight, self.harm)));
        }
        if let Some((_, table)) = &self.table {
            self.bound += table.score(self.stakes.bets_mut(), canary, baseline_bad as f64);
        }
    }

    /// Whether the evidence is at least `limit`.
    pub(crate) fn reaches(&self, limit: f64) -> bool {
        self.bound >= limit && self.log_e() >= limit
    }

    /// Replaces the bound by the exact evidence, so that the next checks are cheap again.
    pub(crate) fn settle(&mut self, limit: f64) {
        if self.bound >= limit {
            self.bound = self.log_e();
        }
    }

    pub(crate) fn log_e(&self) -> f64 {
        self.stakes.log_e()
    }

    pub(crate) fn forgo(&mut self, excess: f64) {
        self.stakes.forgo(excess);
        self.bound -= excess;
    }
}
