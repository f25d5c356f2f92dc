//! The budget: the number of canary failures that users may see before it is removed, regardless of
//! the tests.
//!
//! A plain count would be unreliable, since with equal arms the canary's failures fluctuate around
//! the number that the baseline's rate explains. So the budget counts only failures beyond that
//! expectation and its chance variation (STATISTICS.md 1.f).
//!
//! At full weight there is no concurrent baseline. The expectation is then an upper confidence
//! limit of the baseline's failure rate, doubled, plus the margin of the error objective: that many
//! failures are explained for any duration, and a version that fails more often exhausts the budget
//! (STATISTICS.md 1.k.2). A baseline with few requests has a wider limit and explains more.
//!
//! A release has two budgets by this rule: one for failures that users saw, and one for all
//! failures of the canary, rescued or not (STATISTICS.md 1.k.1).

use serde::{Deserialize, Serialize};

use super::baseline::BaselineRate;
use super::cohort::Cohort;
use super::judge::Judge;
use super::units::Repeats;

/// A budget and its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    limit: u64,
    alpha: f64,
    spent: u64,
    explained: Explained,
    baseline: BaselineRate,
    /// The margin of the error objective, which also applies at full weight.
    worse_by: f64,
    /// The share of the canary's requests that is explained at full weight, once there were any.
    alone: Option<f64>,
}

/// The failures that the baseline's rate explains (`m`), and their variance (`v`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Explained {
    mean: f64,
    variance: f64,
    /// Canary requests of ticks without baseline requests, matched with the next ones.
    unmatched: f64,
    /// The most failures of one key of the baseline, in sticky releases; 0 counts as 1.
    #[serde(default)]
    largest_repeat: u32,
}

/// A cohort that is not scored yet, because some of its requests are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingCohort {
    /// Requests assigned to the canary.
    pub canary: u64,
    /// Requests assigned to the baseline.
    pub baseline: u64,
    /// Baseline requests that failed or are still open.
    pub baseline_bad_or_open: u64,
    /// Requests assigned to the canary at full weight.
    pub alone: u64,
}

impl Explained {
    /// Adds a tick: the canary's requests, the baseline's requests and failures, and with keys the
    /// repeated failures per key.
    fn add(&mut self, canary: u64, baseline: u64, failures: u64, repeats: Option<Repeats>) {
        let repeats = repeats.unwrap_or(Repeats {
            weight: failures,
            largest: 1,
        });
        self.largest_repeat = self.largest_repeat.max(repeats.largest);
        let canary = self.unmatched + canary as f64;
        if baseline == 0 {
            self.unmatched = canary;
            return;
        }
        self.unmatched = 0.0;
        let by_baseline = canary / baseline as f64;
        self.mean += by_baseline * failures as f64;
        self.variance += by_baseline * repeats.weight as f64 * (1.0 + by_baseline);
    }

    /// Adds canary requests at full weight, of which `share` may fail.
    fn add_alone(&mut self, requests: u64, share: f64) {
        let failures = (std::mem::take(&mut self.unmatched) + requests as f64) * share;
        self.mean += failures;
        self.variance += failures;
    }
}

impl Budget {
    /// A budget of `limit` failures, exhausted by chance in at most a share `alpha` of releases
    /// with equal arms. `worse_by` is the margin of the error objective, a share of requests.
    pub fn new(limit: u64, alpha: f64, worse_by: f64) -> Budget {
        Budget {
            limit,
            alpha,
            spent: 0,
            explained: Explained::default(),
            baseline: BaselineRate::default(),
            worse_by,
            alone: None,
        }
    }

    /// Counts a cohort with the failures that users saw.
    pub fn observe(&mut self, cohort: &Cohort<'_>) {
        self.explain(cohort);
        self.spend(cohort.canary.visible_failures());
    }

    /// Counts a cohort with all failures of the canary.
    pub fn observe_all(&mut self, cohort: &Cohort<'_>) {
        self.explain(cohort);
        self.spend(cohort.canary.failures);
    }

    /// Adds failures.
    pub fn spend(&mut self, failures: u64) {
        self.spent += failures;
    }

    /// Sets the number of failures.
    pub fn set_spent(&mut self, failures: u64) {
        self.spent = failures;
    }

    /// Adds the baseline's requests before the release that the judge was warmed with. They explain
    /// nothing until full weight.
    pub fn warm_as(&mut self, judge: &Judge) {
        self.baseline = judge.rate;
    }

    /// Raises the explained failures by a cohort whose failures were counted when they happened.
    pub fn explain(&mut self, cohort: &Cohort<'_>) {
        self.baseline.add(cohort.weight, &cohort.baseline);
        if cohort.weight >= 1.0 {
            // The baseline gets no further requests, so its limit is computed once; a late cohort
            // could only narrow it.
            let share = self.share_alone();
            self.alone = Some(share);
            self.explained.add_alone(cohort.canary.requests, share);
        } else {
            let (canary, baseline) = (&cohort.canary, &cohort.baseline);
            self.alone = None;
            self.explained.add(
                canary.requests,
                baseline.requests,
                baseline.failures,
                baseline.repeats,
            );
        }
    }

    /// The share of the canary's requests that may fail at full weight.
    fn share_alone(&self) -> f64 {
        let fresh = || 2.0 * self.baseline.upper(self.alpha) + self.worse_by;
        self.alone.unwrap_or_else(fresh)
    }

    /// Whether the budget is exhausted.
    pub fn exhausted(&self) -> bool {
        let spent = self.spent as f64;
        spent >= self.limit as f64 + self.explained.mean && spent >= self.bound()
    }

    /// The number of further failures that exhaust it: the tripwire's allowance.
    pub fn allowance(&self) -> u64 {
        self.left(&self.explained)
    }

    /// The allowance while cohorts are pending, whose canary failures may be counted already. Open
    /// baseline requests count as failures until they end, so that an outage of both arms, in which
    /// the canary fails fast and the baseline hangs, does not trip. Whatever the open requests turn
    /// out to be, this is at least the allowance after these cohorts are scored.
    pub fn allowance_given(&self, pending: impl Iterator<Item = PendingCohort>) -> u64 {
        let mut explained = self.explained;
        for tick in pending {
            explained.add(tick.canary, tick.baseline, tick.baseline_bad_or_open, None);
            if tick.alone > 0 {
                explained.add_alone(tick.alone, self.share_alone());
            }
        }
        self.left(&explained)
    }

    /// The count at which it is exhausted: limit, expectation and chance.
    pub fn bound(&self) -> f64 {
        self.bound_by(&self.explained)
    }

    /// The allowance for chance (`u`).
    pub fn chance(&self) -> f64 {
        self.chance_of(self.explained.variance)
    }

    /// The failures that the baseline's rate explains (`m`).
    pub fn explained(&self) -> f64 {
        self.explained.mean
    }

    /// The configured limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Failures that users saw.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    fn left(&self, explained: &Explained) -> u64 {
        let left = (self.bound_by(explained) - self.spent as f64)
            .ceil()
            .max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturates; a count this large is never reached"
        )]
        let left = left as u64;
        left
    }

    fn bound_by(&self, explained: &Explained) -> f64 {
        self.limit as f64 + explained.mean + self.chance_of(explained.variance)
    }

    fn chance_of(&self, variance: f64) -> f64 {
        let level = (2.0 / self.alpha).ln() + 2.0 * variance.ln_1p().ln_1p();
        let one = level / 3.0 * f64::from(self.explained.largest_repeat.max(1));
        (2.0 * variance * level).sqrt() + one
    }
}

#[cfg(test)]
mod tests {
    use super::super::cohort::ArmCounts;
    use super::*;

    const WORSE_BY: f64 = 5e-4;

    #[test]
    fn repeated_failures_of_a_baseline_key_widen_the_allowance() {
        let mut budget = budget(0, 0.05);
        let poison = ArmCounts {
            repeats: Some(Repeats {
                weight: 9,
                largest: 3,
            }),
            ..ArmCounts::of(950, 3)
        };
        budget.explain(&Cohort {
            baseline: poison,
            ..cohort(0.05, (50, 0), (0, 0))
        });
        let m: f64 = 50.0 * 3.0 / 950.0;
        let v: f64 = 50.0 * 9.0 / 950.0 * (1.0 + 50.0 / 950.0);
        let l = (2.0_f64 / 0.05).ln() + 2.0 * (1.0 + (1.0 + v).ln()).ln();
        assert!((budget.explained() - m).abs() < 1e-9);
        assert!((budget.chance() - ((2.0 * v * l).sqrt() + l)).abs() < 1e-9);
    }

    fn budget(limit: u64, alpha: f64) -> Budget {
        Budget::new(limit, alpha, WORSE_BY)
    }

    fn cohort(weight: f64, canary: (u64, u64), baseline: (u64, u64)) -> Cohort<'static> {
        Cohort {
            at_ms: 0,
            weight,
            baseline: ArmCounts::of(baseline.0, baseline.1),
            canary: ArmCounts::of(canary.0, canary.1),
        }
    }

    #[test]
    fn budget_without_baseline_failures_is_limit_plus_chance() {
        let mut budget = budget(20, 5e-4);
        // u = ln(2/alpha)/3 = 2.76 while the variance is zero.
        assert!((budget.bound() - 22.764_7).abs() < 1e-3);
        assert_eq!(budget.allowance(), 23);
        budget.observe(&cohort(0.05, (50, 22), (950, 0)));
        assert!(!budget.exhausted());
        assert_eq!(budget.allowance(), 1);
        budget.spend(1);
        assert!(budget.exhausted());
        assert_eq!(budget.allowance(), 0);
    }

    #[test]
    fn bound_matches_the_formula() {
        let mut budget = budget(0, 0.05);
        for _ in 0..100 {
            budget.explain(&cohort(0.05, (50, 0), (950, 19)));
        }
        let m: f64 = 100.0 * 50.0 * 19.0 / 950.0;
        let v = m * (1.0 + 50.0 / 950.0);
        let l = (2.0_f64 / 0.05).ln() + 2.0 * (1.0 + (1.0 + v).ln()).ln();
        assert!((budget.bound() - (m + (2.0 * v * l).sqrt() + l / 3.0)).abs() < 1e-9);
    }

    #[test]
    fn ticks_without_baseline_match_the_next_baseline() {
        let mut budget = budget(0, 0.05);
        budget.explain(&cohort(0.5, (3, 0), (0, 0)));
        budget.explain(&cohort(0.5, (1, 0), (2, 1)));
        assert!((budget.explained() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn rescued_failures_count_only_in_the_budget_of_all_failures() {
        let rescued = Cohort {
            canary: ArmCounts {
                visible_failures: Some(0),
                ..ArmCounts::of(10, 10)
            },
            ..cohort(0.5, (0, 0), (10, 0))
        };
        let (mut visible, mut all) = (budget(3, 0.05), budget(3, 0.05));
        visible.observe(&rescued);
        all.observe_all(&rescued);
        assert_eq!((visible.spent(), all.spent()), (0, 10));
    }

    #[test]
    fn full_weight_explains_twice_the_baseline_limit_plus_margin() {
        let mut budget = budget(0, 0.05);
        budget.observe(&cohort(0.5, (0, 0), (2_000, 20)));
        assert!(budget.explained().abs() < 1e-12);
        for _ in 0..50 {
            budget.observe(&cohort(1.0, (100, 0), (0, 0)));
        }
        let share = 2.0 * budget.baseline.upper(0.05) + WORSE_BY;
        assert!(share > 0.02 && share < 0.04, "{share}");
        let m = 5_000.0 * share;
        let l = (2.0_f64 / 0.05).ln() + 2.0 * (1.0 + (1.0 + m).ln()).ln();
        let bound = m + (2.0 * m * l).sqrt() + l / 3.0;
        assert!(
            (budget.bound() - bound).abs() < 1e-9,
            "{} {bound}",
            budget.bound()
        );
    }

    #[test]
    fn earlier_requests_explain_nothing_until_full_weight() {
        let mut budget = budget(0, 0.05);
        budget.observe(&cohort(0.0, (0, 0), (1_000, 500)));
        assert!(budget.explained().abs() < 1e-12);
        budget.observe(&cohort(1.0, (10, 0), (0, 0)));
        assert!(budget.explained() > 10.0);
    }

    #[test]
    fn failing_canary_at_full_weight_exhausts_the_budget() {
        for known in [0, 50, 50_000] {
            let mut budget = budget(20, 2.5e-4);
            budget.observe(&cohort(0.5, (known, known / 1_000), (known, known / 1_000)));
            let before = budget.allowance();
            let mut failed = 0;
            while !budget.exhausted() {
                budget.observe(&cohort(1.0, (10, 10), (0, 0)));
                failed += 10;
            }
            assert!(failed < before + 30, "{failed} {before}");
        }
    }

    #[test]
    fn unmatched_requests_are_explained_at_full_weight() {
        let mut budget = budget(0, 0.05);
        budget.observe(&cohort(0.5, (0, 0), (2_000, 10)));
        budget.observe(&cohort(0.9, (30, 0), (0, 0)));
        budget.observe(&cohort(1.0, (70, 0), (0, 0)));
        let share = 2.0 * budget.baseline.upper(0.05) + WORSE_BY;
        assert!((budget.explained() - 100.0 * share).abs() < 1e-9);
    }

    #[test]
    fn hanging_baseline_explains_fast_canary_failures() {
        let mut budget = budget(5, 0.05);
        for _ in 0..20 {
            budget.spend(5);
        }
        assert!(budget.exhausted());
        let hanging = |bad| PendingCohort {
            canary: 5,
            baseline: 95,
            baseline_bad_or_open: bad,
            alone: 0,
        };
        let open = budget.allowance_given((0..20).map(|_| hanging(95)));
        assert!(
            open > 5,
            "all that failed is explained, and chance besides: {open}"
        );
        assert_eq!(budget.allowance_given((0..20).map(|_| hanging(0))), 0);
        for failures in [0, 19, 95] {
            let mut scored = budget.clone();
            for _ in 0..20 {
                scored.explain(&cohort(0.05, (5, 5), (95, failures)));
            }
            assert!(scored.allowance() <= open, "{failures}");
        }
    }

    #[test]
    fn pending_cohorts_are_matched_like_ticks() {
        let budget = budget(0, 0.05);
        let tick = |canary, baseline, baseline_bad_or_open| PendingCohort {
            canary,
            baseline,
            baseline_bad_or_open,
            alone: 0,
        };
        let split = budget.allowance_given([tick(3, 0, 0), tick(1, 2, 1)].into_iter());
        let whole = budget.allowance_given([tick(4, 2, 1)].into_iter());
        assert_eq!(split, whole);
        assert_eq!(
            budget.allowance_given(std::iter::empty()),
            budget.allowance()
        );
    }

    #[test]
    fn pending_full_weight_requests_are_explained_as_when_scored() {
        let mut budget = budget(0, 0.05);
        budget.observe(&cohort(0.5, (0, 0), (5_000, 100)));
        let pending = PendingCohort {
            alone: 500,
            ..PendingCohort::default()
        };
        let given = budget.allowance_given(std::iter::once(pending));
        budget.explain(&cohort(1.0, (500, 0), (0, 0)));
        assert_eq!(given, budget.allowance());
    }
}
