//! The budget rule: how many failures users may see from the canary before it is taken out, whatever the tests say yet.
//!
//! A bare count would be a coin toss, since with equal arms the canary's failures wander about what the baseline's rate
//! explains. So the budget is spent only by what goes beyond that expectation and its chance (STATISTICS.md 1.f).

use serde::{Deserialize, Serialize};

use super::cohort::{Arm, Cohort};

/// A budget and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    limit: u64,
    /// `ln(2/alpha)`.
    level: f64,
    spent: u64,
    /// What the baseline's rate explains (`m`), and the variance of that (`v`).
    explained: f64,
    variance: f64,
    /// Canary requests of ticks in which the baseline had none, to be held against its next.
    unmatched: f64,
}

/// A cohort that is not scored yet, since some of its requests are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Requests assigned to the canary.
    pub canary: u64,
    /// Requests assigned to the baseline.
    pub baseline: u64,
    /// Those of the baseline that failed or are still open.
    pub baseline_bad_or_open: u64,
}

impl Budget {
    /// Stand-in.
    pub fn allowance_given(&self, _pending: impl Iterator<Item = Pending>) -> u64 {
        self.allowance()
    }

    /// A budget of `limit` failures, exhausted by chance in at most a part `alpha` of releases with equal arms.
    pub fn new(limit: u64, alpha: f64) -> Budget {
        Budget {
            limit,
            level: (2.0 / alpha).ln(),
            spent: 0,
            explained: 0.0,
            variance: 0.0,
            unmatched: 0.0,
        }
    }

    /// Counts a whole cohort. Without a baseline to compare with (weight 1) there is no "beyond", and nothing counts.
    pub fn observe(&mut self, cohort: &Cohort<'_>) {
        if cohort.weight < 1.0 {
            self.explain(&cohort.canary, &cohort.baseline);
            self.spend(cohort.canary.visible_failures());
        }
    }

    /// Counts failures that users saw.
    pub fn spend(&mut self, failures: u64) {
        self.spent += failures;
    }

    /// Raises what is explained by a tick's requests on both arms.
    pub fn explain(&mut self, canary: &Arm<'_>, baseline: &Arm<'_>) {
        let canary = self.unmatched + canary.requests as f64;
        if baseline.requests == 0 {
            self.unmatched = canary;
            return;
        }
        self.unmatched = 0.0;
        let by_baseline = canary / baseline.requests as f64;
        let failures = by_baseline * baseline.failures as f64;
        self.explained += failures;
        self.variance += failures * (1.0 + by_baseline);
    }

    /// Whether the budget is exhausted.
    pub fn exhausted(&self) -> bool {
        self.spent as f64 >= self.bound()
    }

    /// How many further failures exhaust it: what a tripwire is armed with.
    pub fn allowance(&self) -> u64 {
        let left = (self.bound() - self.spent as f64).ceil().max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturates, and nobody waits for so many failures"
        )]
        let left = left as u64;
        left
    }

    /// The count at which it is exhausted: limit, expectation and chance.
    pub fn bound(&self) -> f64 {
        self.limit as f64 + self.explained + self.chance()
    }

    /// What chance explains (`u`).
    pub fn chance(&self) -> f64 {
        let level = self.level + 2.0 * self.variance.ln_1p().ln_1p();
        (2.0 * self.variance * level).sqrt() + level / 3.0
    }

    /// What the baseline's rate explains (`m`).
    pub fn explained(&self) -> f64 {
        self.explained
    }

    /// The limit as declared.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Failures that users saw.
    pub fn spent(&self) -> u64 {
        self.spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_failures_of_the_baseline_the_budget_is_its_limit_and_a_few_for_chance() {
        let mut budget = Budget::new(20, 5e-4);
        // u = ln(2/alpha)/3 = 2.76 while nothing has varied.
        assert!((budget.bound() - 22.764_7).abs() < 1e-3);
        assert_eq!(budget.allowance(), 23);
        budget.observe(&Cohort {
            at_ms: 0,
            weight: 0.05,
            baseline: Arm::of(950, 0),
            canary: Arm::of(50, 22),
        });
        assert!(!budget.exhausted());
        assert_eq!(budget.allowance(), 1);
        budget.spend(1);
        assert!(budget.exhausted());
        assert_eq!(budget.allowance(), 0);
    }

    #[test]
    fn the_formula_is_that_of_the_paper() {
        let mut budget = Budget::new(0, 0.05);
        for _ in 0..100 {
            budget.explain(&Arm::of(50, 0), &Arm::of(950, 19));
        }
        let m: f64 = 100.0 * 50.0 * 19.0 / 950.0;
        let v = m * (1.0 + 50.0 / 950.0);
        let l = (2.0_f64 / 0.05).ln() + 2.0 * (1.0 + (1.0 + v).ln()).ln();
        assert!((budget.bound() - (m + (2.0 * v * l).sqrt() + l / 3.0)).abs() < 1e-9);
    }

    #[test]
    fn requests_of_ticks_without_a_baseline_are_held_against_its_next() {
        let mut budget = Budget::new(0, 0.05);
        budget.explain(&Arm::of(3, 0), &Arm::of(0, 0));
        budget.explain(&Arm::of(1, 0), &Arm::of(2, 1));
        assert!((budget.explained() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn rescued_failures_are_not_spent_and_at_full_weight_nothing_is() {
        let mut budget = Budget::new(3, 0.05);
        let rescued = Arm {
            visible_failures: Some(0),
            ..Arm::of(10, 10)
        };
        budget.observe(&Cohort {
            at_ms: 0,
            weight: 0.5,
            baseline: Arm::of(10, 0),
            canary: rescued,
        });
        budget.observe(&Cohort {
            at_ms: 0,
            weight: 1.0,
            baseline: Arm::of(0, 0),
            canary: Arm::of(10, 10),
        });
        assert_eq!(budget.spent(), 0);
    }
}
