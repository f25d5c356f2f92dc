//! The budget rule: how many failures users may see from the canary before it is taken out, whatever the tests say yet.
//!
//! A bare count would be a coin toss, since with equal arms the canary's failures wander about what the baseline's rate
//! explains. So the budget is spent only by what goes beyond that expectation and its chance (STATISTICS.md 1.f).
//!
//! At full weight there is no concurrent baseline. There the canary is held against the baseline's rate over the whole
//! release: no comparison at equal times, but the only brake of a final bake besides fixed limits. The chance of a
//! false trip stays within `alpha` while that rate lasts. With `F` failures of `N` requests on the baseline and `C`
//! requests on the canary at full weight, two things are left to chance. The canary's own failures are those of any
//! other tick: a variance of `C*F/N` and steps of 1. The error of `F/N` is the same for every tick, so it adds up and
//! does not average out: a variance of `C^2*F/N^2`, and since a Poisson count of mean `x` falls short of it by more
//! than `sqrt(2*F*L) + 2*L` in a part `exp(-L)` of cases only, `2*L*C/N` on top for the case that `F` is small by luck.
//! In the first seconds of a bake `C/N` is next to nothing, so that a canary that fails altogether has no more room
//! there than at any step.
//!
//! Both grow with `C/N` without end, and users would pay for a baseline that is known by a few requests. So both have a
//! cap: the variance of the rate counts as three times the canary's own at most, which doubles the ordinary chance, and
//! the room for a small `F` is the limit again at most, or `L` if that is more. The price is alpha where the caps bind:
//! a release that is as good as its baseline is then rolled back in more than a part `alpha` of cases, up to nearly
//! always for a long bake after a handful of requests of which none failed. They do not bind while the canary had no
//! more than 1.5 times the baseline's requests and `2*L*C/N` is within the limit, which is the rule, since the baseline
//! counts from before the release. (Simulated at alpha 0.05, limit 20 and 1,000 requests of the baseline of which 2 %
//! fail: none of 2,000 bakes with 5,000 requests is rolled back, 0.3 % of those with 10,000, 12 % with 50,000.) Where
//! they do bind nobody knows what the baseline's rate was, and to go back to what worked is the honest answer to that;
//! to let users suffer for the benefit of the doubt is not.

use serde::{Deserialize, Serialize};

use super::cohort::{Arm, Cohort, Counts};
use super::units::Repeats;

/// The variance of a baseline's rate counts as so many times the canary's own at most, at full weight.
const RATE_VARIANCE: f64 = 3.0;

/// A budget and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    limit: u64,
    /// `ln(2/alpha)`.
    level: f64,
    spent: u64,
    explained: Explained,
    /// The baseline over the release so far.
    baseline: Counts,
    /// Canary requests at full weight.
    alone: f64,
}

/// What a baseline's rate explains (`m`), and the variance of that (`v`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Explained {
    mean: f64,
    variance: f64,
    /// Canary requests of ticks in which the baseline had none, to be held against its next.
    unmatched: f64,
    /// The most failures of one key of the baseline, in sticky releases; 0 counts as 1.
    #[serde(default)]
    largest_repeat: u32,
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

impl Explained {
    /// Adds a tick: the canary's requests, the baseline's, and how many of these failed; with keys, how often the same.
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
}

impl Budget {
    /// A budget of `limit` failures, exhausted by chance in at most a part `alpha` of releases with equal arms.
    pub fn new(limit: u64, alpha: f64) -> Budget {
        Budget {
            limit,
            level: (2.0 / alpha).ln(),
            spent: 0,
            explained: Explained::default(),
            baseline: Counts::default(),
            alone: 0.0,
        }
    }

    /// Counts a whole cohort.
    pub fn observe(&mut self, cohort: &Cohort<'_>) {
        self.explain_cohort(cohort);
        self.spend(cohort.canary.visible_failures());
    }

    /// Counts failures that users saw.
    pub fn spend(&mut self, failures: u64) {
        self.spent += failures;
    }

    /// Raises what is explained by a cohort whose failures were spent when they happened.
    pub fn explain_cohort(&mut self, cohort: &Cohort<'_>) {
        if cohort.weight < 1.0 {
            self.explain(&cohort.canary, &cohort.baseline);
        } else {
            self.explain_alone(cohort.canary.requests);
        }
    }

    /// Raises what is explained by a tick's requests on both arms.
    pub fn explain(&mut self, canary: &Arm<'_>, baseline: &Arm<'_>) {
        self.baseline.add(baseline);
        self.explained
            .add(canary.requests, baseline.requests, baseline.failures, baseline.repeats);
    }

    /// The same at full weight, by the baseline's rate so far: nothing if it never had a request.
    fn explain_alone(&mut self, requests: u64) {
        let requests = std::mem::take(&mut self.explained.unmatched) + requests as f64;
        let Some(rate) = self.baseline.rate() else { return };
        // The sum over ticks is `C * rate * (1 + C/N)`: the error of the rate is the same in all of them.
        let by_baseline = (2.0 * self.alone + requests) / self.baseline.requests as f64;
        let by_baseline = by_baseline.min(RATE_VARIANCE);
        self.alone += requests;
        self.explained.mean += requests * rate;
        self.explained.variance += requests * rate * (1.0 + by_baseline);
    }

    /// Whether the budget is exhausted.
    pub fn exhausted(&self) -> bool {
        let spent = self.spent as f64;
        spent >= self.limit as f64 + self.explained.mean && spent >= self.bound()
    }

    /// How many further failures exhaust it: what a tripwire is armed with.
    pub fn allowance(&self) -> u64 {
        self.left(&self.explained)
    }

    /// The same while cohorts are under way, whose canary failures may have been spent already. What is open on the
    /// baseline counts as failing until it is known, so that nothing trips in an outage of both arms in which the
    /// canary fails at once and the baseline hangs. Whatever the open requests turn out to be, this is no less than
    /// the allowance will be once these cohorts are scored.
    pub fn allowance_given(&self, pending: impl Iterator<Item = Pending>) -> u64 {
        let mut explained = self.explained;
        for tick in pending {
            explained.add(tick.canary, tick.baseline, tick.baseline_bad_or_open, None);
        }
        self.left(&explained)
    }

    /// The count at which it is exhausted: limit, expectation and chance.
    pub fn bound(&self) -> f64 {
        self.bound_by(&self.explained)
    }

    /// What chance explains (`u`).
    pub fn chance(&self) -> f64 {
        self.chance_of(self.explained.variance)
    }

    /// What chance can explain at most at full weight, however little is known of the baseline, while its failures have
    /// explained no more than now.
    pub fn chance_at_full_weight(&self) -> f64 {
        let level = self.level_at(self.explained.variance);
        (2.0 * self.explained.variance * level).sqrt() + level / 3.0 + self.cap(level)
    }

    /// What the baseline's rate explains (`m`).
    pub fn explained(&self) -> f64 {
        self.explained.mean
    }

    /// The limit as declared.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Failures that users saw.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    fn left(&self, explained: &Explained) -> u64 {
        let left = (self.bound_by(explained) - self.spent as f64).ceil().max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturates, and nobody waits for so many failures"
        )]
        let left = left as u64;
        left
    }

    fn bound_by(&self, explained: &Explained) -> f64 {
        self.limit as f64 + explained.mean + self.chance_of(explained.variance)
    }

    fn chance_of(&self, variance: f64) -> f64 {
        let level = self.level_at(variance);
        let of_rate = match self.baseline.requests {
            0 => 0.0,
            requests => 2.0 * level * self.alone / requests as f64,
        };
        let one = level / 3.0 * f64::from(self.explained.largest_repeat.max(1));
        (2.0 * variance * level).sqrt() + one + of_rate.min(self.cap(level))
    }

    /// `L`.
    fn level_at(&self, variance: f64) -> f64 {
        self.level + 2.0 * variance.ln_1p().ln_1p()
    }

    /// The most that is left to chance for a baseline's rate that is known by few failures.
    fn cap(&self, level: f64) -> f64 {
        level.max(self.limit as f64)
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
    fn failures_of_the_same_key_of_the_baseline_leave_more_to_chance() {
        let mut budget = Budget::new(0, 0.05);
        let poison = Arm {
            repeats: Some(Repeats { weight: 9, largest: 3 }),
            ..Arm::of(950, 3)
        };
        budget.explain(&Arm::of(50, 0), &poison);
        let m: f64 = 50.0 * 3.0 / 950.0;
        let v: f64 = 50.0 * 9.0 / 950.0 * (1.0 + 50.0 / 950.0);
        let l = (2.0_f64 / 0.05).ln() + 2.0 * (1.0 + (1.0 + v).ln()).ln();
        assert!((budget.explained() - m).abs() < 1e-9);
        assert!((budget.chance() - ((2.0 * v * l).sqrt() + l)).abs() < 1e-9);
    }

    #[test]
    fn requests_of_ticks_without_a_baseline_are_held_against_its_next() {
        let mut budget = Budget::new(0, 0.05);
        budget.explain(&Arm::of(3, 0), &Arm::of(0, 0));
        budget.explain(&Arm::of(1, 0), &Arm::of(2, 1));
        assert!((budget.explained() - 2.0).abs() < 1e-12);
    }

    fn cohort(weight: f64, canary: (u64, u64), baseline: (u64, u64)) -> Cohort<'static> {
        Cohort {
            at_ms: 0,
            weight,
            baseline: Arm::of(baseline.0, baseline.1),
            canary: Arm::of(canary.0, canary.1),
        }
    }

    #[test]
    fn rescued_failures_are_not_spent() {
        let mut budget = Budget::new(3, 0.05);
        let rescued = Arm {
            visible_failures: Some(0),
            ..Arm::of(10, 10)
        };
        budget.observe(&Cohort {
            canary: rescued,
            ..cohort(0.5, (0, 0), (10, 0))
        });
        assert_eq!(budget.spent(), 0);
    }

    #[test]
    fn at_full_weight_the_baselines_rate_so_far_explains_and_its_error_adds_up() {
        let mut budget = Budget::new(0, 0.05);
        budget.observe(&cohort(0.5, (0, 0), (1_000, 20)));
        assert!(budget.explained().abs() < 1e-12);
        for _ in 0..50 {
            budget.observe(&cohort(1.0, (100, 0), (0, 0)));
        }
        assert!((budget.explained() - 5_000.0 * 0.02).abs() < 1e-9);
        // The error of the rate counts in full up to C/N = 1.5, and with three times the canary's own variance then.
        let v: f64 = 1_500.0 * 0.02 * (1.0 + 1.5) + 3_500.0 * 0.02 * (1.0 + 3.0);
        let l = (2.0_f64 / 0.05).ln() + 2.0 * (1.0 + (1.0 + v).ln()).ln();
        let u = (2.0 * v * l).sqrt() + l / 3.0 + l;
        assert!((budget.chance() - u).abs() < 1e-9, "{} {u}", budget.chance());
    }

    #[test]
    fn while_the_baseline_is_known_well_the_caps_do_not_bind() {
        let mut budget = Budget::new(20, 5e-4);
        budget.explain(&Arm::of(0, 0), &Arm::of(100_000, 100));
        budget.observe(&cohort(1.0, (50_000, 50), (0, 0)));
        let v: f64 = 50.0 * (1.0 + 0.5);
        let l = (2.0_f64 / 5e-4).ln() + 2.0 * (1.0 + (1.0 + v).ln()).ln();
        let u = (2.0 * v * l).sqrt() + l / 3.0 + 2.0 * l * 0.5;
        assert!((budget.chance() - u).abs() < 1e-9, "{} {u}", budget.chance());
    }

    #[test]
    fn users_do_not_pay_for_a_baseline_that_is_known_by_few_requests() {
        for known in [1, 10, 100, 1_000] {
            let mut budget = Budget::new(20, 5e-4);
            budget.explain(&Arm::of(0, 0), &Arm::of(known, 0));
            for _ in 0..1_000 {
                budget.observe(&cohort(1.0, (1_000, 0), (0, 0)));
            }
            // Twenty of the budget, twenty for the rate, and 2.76 as ever.
            assert!((budget.bound() - 42.764_7).abs() < 1e-3, "{known}: {}", budget.bound());
            assert!((budget.chance() - budget.chance_at_full_weight()).abs() < 1e-9);
        }
        // With failures the chance is twice at most what the canary's own count makes it.
        let mut budget = Budget::new(20, 5e-4);
        budget.explain(&Arm::of(0, 0), &Arm::of(100, 2));
        budget.observe(&cohort(1.0, (100_000, 0), (0, 0)));
        let level = budget.level_at(8_000.0);
        let ordinary = (2.0 * 2_000.0 * level).sqrt() + level / 3.0;
        assert!(
            budget.chance() <= 2.0 * ordinary + 20.0,
            "{} {ordinary}",
            budget.chance()
        );
    }

    #[test]
    fn a_canary_that_fails_altogether_in_the_final_bake_exhausts_it() {
        let mut budget = Budget::new(20, 5e-4);
        budget.observe(&cohort(0.5, (50_000, 50), (50_000, 50)));
        let before = budget.allowance();
        let mut failed = 0;
        while !budget.exhausted() {
            budget.observe(&cohort(1.0, (10, 10), (0, 0)));
            failed += 10;
        }
        assert!(failed < before + 20, "{failed} {before}");
        let mut without_baseline = Budget::new(20, 5e-4);
        without_baseline.observe(&cohort(1.0, (23, 23), (0, 0)));
        assert!(without_baseline.exhausted());
    }

    #[test]
    fn requests_that_found_no_baseline_are_explained_at_full_weight() {
        let mut budget = Budget::new(0, 0.05);
        budget.observe(&cohort(0.5, (0, 0), (100, 10)));
        budget.observe(&cohort(0.9, (30, 0), (0, 0)));
        budget.observe(&cohort(1.0, (70, 0), (0, 0)));
        assert!((budget.explained() - 10.0).abs() < 1e-12);
    }

    #[test]
    fn a_baseline_that_hangs_explains_a_canary_that_fails_at_once() {
        let mut budget = Budget::new(5, 0.05);
        for _ in 0..20 {
            budget.spend(5);
        }
        assert!(budget.exhausted());
        let hanging = |bad| Pending {
            canary: 5,
            baseline: 95,
            baseline_bad_or_open: bad,
        };
        let open = budget.allowance_given((0..20).map(|_| hanging(95)));
        assert!(open > 5, "all that failed is explained, and chance besides: {open}");
        assert_eq!(budget.allowance_given((0..20).map(|_| hanging(0))), 0);
        for failures in [0, 19, 95] {
            let mut scored = budget.clone();
            for _ in 0..20 {
                scored.explain(&Arm::of(5, 5), &Arm::of(95, failures));
            }
            assert!(scored.allowance() <= open, "{failures}");
        }
    }

    #[test]
    fn what_is_pending_is_matched_like_ticks_and_changes_nothing() {
        let budget = Budget::new(0, 0.05);
        let tick = |canary, baseline, baseline_bad_or_open| Pending {
            canary,
            baseline,
            baseline_bad_or_open,
        };
        let split = budget.allowance_given([tick(3, 0, 0), tick(1, 2, 1)].into_iter());
        let whole = budget.allowance_given([tick(4, 2, 1)].into_iter());
        assert_eq!(split, whole);
        assert_eq!(budget.allowance_given(std::iter::empty()), budget.allowance());
    }
}
