//! What is known of a release by its traffic: the judge and the two budgets, which are always fed
//! together.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine::{failed, seen};
use super::objectives;
use super::plan::Plan;
use crate::analysis::{
    AbortCounts, Behind, Budget, Cause, Cohort, Evidence, Judge, LatencyBins, Matured,
    PendingCohort, Verdict, WaitReason,
};
use crate::model::api::BudgetStatus;

/// The trial of one canary. It can be written down whole and go on from there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    judge: Judge,
    /// Of the failures that users saw.
    budget: Budget,
    /// Of all failures of the canary.
    rescued_budget: Budget,
    /// Of the failures that are spent, those that nobody may have seen.
    #[serde(default)]
    written_off: u64,
    /// The same of all failures.
    #[serde(default)]
    failed_written_off: u64,
}

/// What follows from what is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Nothing yet.
    Continue,
    /// The canary is good enough for the next step.
    Advance,
    /// A person should look.
    Hold(WaitReason),
    /// The canary is to be taken out.
    RollBack {
        /// What decided: `error_rate`, `latency`, `slo`, `budget`, `rescued_budget`,
        /// `inconclusive`.
        objective: &'static str,
        /// The same in words, with its numbers.
        detail: String,
    },
}

impl Trial {
    /// The trial of attempt `attempt` (from 1) at a build by `plan`.
    pub fn new(plan: &Plan, attempt: u32) -> Trial {
        Trial {
            judge: Judge::new(plan.analysis(attempt)),
            budget: plan.budget_rule(plan.budget(), attempt),
            rescued_budget: plan.budget_rule(plan.rescued_budget(), attempt),
            written_off: 0,
            failed_written_off: 0,
        }
    }

    /// Tells what the baseline did before the release: answers by latency in microseconds with
    /// their counts, and failures.
    pub fn warm(&mut self, latency_us: &[(u64, u64)], failures: u64) {
        self.judge.warm(latency_us, failures);
        self.budget.warm(latency_us, failures);
        self.rescued_budget.warm(latency_us, failures);
    }

    /// The release has come to step `index`, counted from 0; beyond the last nothing begins.
    pub fn begin_step(&mut self, at_ms: u64, index: usize, plan: &Plan) {
        if let Some(step) = plan.steps().get(index) {
            self.judge.begin_step(at_ms, step.judged);
        }
    }

    /// Judges a cohort, and raises what the baseline's rate explains. What users saw is not taken
    /// from it, since it was counted on the request path already: [`Trial::set_spent`].
    pub fn observe(&mut self, cohort: &Cohort<'_>) {
        self.judge(cohort);
        self.explain(cohort);
    }

    /// Judges a cohort, and nothing else: where users are sticky, each counts once for the judge.
    pub fn judge(&mut self, cohort: &Cohort<'_>) {
        self.judge.observe(cohort);
    }

    /// Judges units of a sticky release that have become as old as `bake`.
    pub fn mature(&mut self, at_ms: u64, matured: &Matured) {
        self.judge
            .mature(at_ms, matured.weight, &matured.canary, &matured.baseline);
    }

    /// Raises what the baseline's rate explains, and nothing else. What users saw is counted
    /// request by request, so this has to be told of all requests too, whether or not they are
    /// judged.
    pub fn explain(&mut self, cohort: &Cohort<'_>) {
        self.budget.explain(cohort);
        self.rescued_budget.explain(cohort);
    }

    /// Users have seen `spent` failures of the canary in the whole release. It never falls.
    pub fn set_spent(&mut self, spent: u64) {
        self.budget.spend(spent.saturating_sub(self.budget.spent()));
    }

    /// So many requests of the canary have failed in the whole release, whether or not users saw
    /// it.
    pub fn set_failed(&mut self, failed: u64) {
        self.rescued_budget.set_spent(failed);
    }

    /// So many of the failures that users saw, and of all failures, count only because a killed
    /// process forgets the last of them.
    pub fn set_written_off(&mut self, visible: u64, all: u64) {
        (self.written_off, self.failed_written_off) = (visible, all);
    }

    /// What follows at `now_ms`, on the scale of the cohorts. Evidence comes before the budget, and
    /// both before policy: the order of [`replay::Run`](crate::analysis::replay::Run).
    pub fn finding(&self, now_ms: u64) -> Finding {
        self.follow(now_ms, |budget| budget.exhausted())
    }

    /// The same while cohorts are not scored yet. Requests of the baseline that are open count as
    /// failing until they have ended, so that an outage that strikes both arms exhausts nothing
    /// because the canary is the first to fail.
    pub fn finding_given(&self, now_ms: u64, pending: PendingCohort) -> Finding {
        self.follow(now_ms, |budget| {
            budget.allowance_given(std::iter::once(pending)) == 0
        })
    }

    fn follow(&self, now_ms: u64, is_exhausted: impl Fn(&Budget) -> bool) -> Finding {
        let verdict = self.judge.verdict(now_ms);
        match verdict {
            Verdict::RollBack(cause) if cause != Cause::Inconclusive => self.condemned(cause),
            _ if is_exhausted(&self.budget) => Finding::RollBack {
                objective: "budget",
                detail: self.overspent(),
            },
            _ if is_exhausted(&self.rescued_budget) => Finding::RollBack {
                objective: "rescued_budget",
                detail: self.overfailed(),
            },
            Verdict::RollBack(cause) => self.condemned(cause),
            Verdict::Advance => Finding::Advance,
            Verdict::Hold(reason) => Finding::Hold(reason),
            Verdict::Continue => Finding::Continue,
        }
    }

    /// How many further failures that users see exhaust the budget: what a tripwire is armed with.
    pub fn allowance(&self) -> u64 {
        self.budget.allowance()
    }

    /// The same while cohorts are not scored yet; see [`Trial::finding_given`].
    pub fn allowance_given(&self, pending: PendingCohort) -> u64 {
        self.budget.allowance_given(std::iter::once(pending))
    }

    /// How many further failures of any kind exhaust the second budget.
    pub fn rescued_allowance(&self) -> u64 {
        self.rescued_budget.allowance()
    }

    /// The same while cohorts are not scored yet.
    pub fn rescued_allowance_given(&self, pending: PendingCohort) -> u64 {
        self.rescued_budget
            .allowance_given(std::iter::once(pending))
    }

    /// How many requests may be open past the landmark at the present step: so many as the
    /// baseline's failure rate so far explains of those that the canary was given
    /// (STATISTICS.md 1.k.3).
    pub fn unfinished_explained(&self) -> f64 {
        self.judge.baseline_upper() * self.judge.at_step().requests as f64
    }

    /// The canary's requests at the present step that came to an answer or a failure.
    pub fn outcomes(&self) -> u64 {
        self.judge.outcomes()
    }

    /// Requests that clients gave up, by arm.
    pub fn aborts(&self) -> AbortCounts {
        self.judge.aborts()
    }

    /// The count of failures at which it is exhausted.
    pub fn bound(&self) -> f64 {
        self.budget.bound()
    }

    /// The budget as people are shown it.
    pub fn budget(&self) -> BudgetStatus {
        status(&self.budget)
    }

    /// The budget of all failures as people are shown it.
    pub fn rescued_budget(&self) -> BudgetStatus {
        status(&self.rescued_budget)
    }

    /// `ln` of the combined evidence against the canary, and the limit from which on it is rolled
    /// back.
    pub fn log_e(&self) -> (f64, f64) {
        (self.judge.log_e().0, -self.judge.options().alpha.ln())
    }

    /// The numbers behind the finding.
    pub fn evidence(&self) -> Evidence {
        // Evidence narrows the confidence sequence; what is shown to people must not change what is
        // known.
        self.judge.clone().evidence()
    }

    /// Each objective with its evidence, flat and by stable names, for people and dashboards. Every
    /// one has
    ///
    /// - `objective`: `error_rate`, `latency` or `slo`;
    /// - `margins`: as in a plan, such as `{"ratio": 1.1, "worse_by": 0.0005}`;
    /// - `share`: its part of alpha;
    /// - `e_value` and `log_e`: the evidence against the canary, and its `ln` (`e_value` stops at
    ///   1e300);
    /// - `log_limit` and `limit`: where the canary is rolled back, had this objective alone to
    ///   decide;
    /// - `advance_log_e` and `advance_limit` (`ln` both): the evidence of this step for the canary,
    ///   and where it suffices; absent for fixed limits;
    /// - `canary` and `baseline`: `{requests, failures}`; for a fixed limit on latency the failures
    ///   are the slow ones.
    ///
    /// In a sticky release `error_rate` has `unit: "user"`: its counts are draws of keys and those
    /// of them that failed, and so are its margins and `requests_to_advance`.
    ///
    /// `error_rate` has besides, once there are requests on both sides, `estimate` (`p_canary -
    /// ratio * p_baseline`), `confidence` (`{lower, upper, level}`, which holds at all times at
    /// once) and `requests_to_advance` (further canary requests that this step is likely to
    /// need). `latency` has `insufficient: true` while the baseline has not been seen
    /// often enough, and else `bins`: a list of `{baseline_below_us, canary_below_us, baseline,
    /// canary}`, the last without edges, and `worst_bin`, counted from 0, and `slower_lately:
    /// true` while the canary would be alone after this step but has been slower in the last
    /// seconds than the objective allows. `slo` has `baseline_log_e`.
    pub fn objectives(&self) -> Vec<Value> {
        objectives::shown(&self.evidence())
    }

    fn condemned(&self, cause: Cause) -> Finding {
        Finding::RollBack {
            objective: cause.as_str(),
            detail: self.why(cause),
        }
    }

    fn why(&self, cause: Cause) -> String {
        let evidence = self.evidence();
        let (canary, baseline) = (evidence.canary, evidence.baseline);
        let counted = format!(
            "{} of {} requests failed on the canary, {} of {} on the baseline",
            canary.failures, canary.requests, baseline.failures, baseline.requests
        );
        let counted = match evidence.units {
            Some(units) => format!(
                "{} of {} users met a failure on the canary, {} of {} on the baseline; {counted}",
                units.canary.failures,
                units.canary.requests,
                units.baseline.failures,
                units.baseline.requests
            ),
            None => counted,
        };
        let log_e = format!(
            "evidence {:.1} of {:.1} (ln e)",
            evidence.log_e, evidence.log_limit
        );
        match cause {
            Cause::ErrorRate => {
                format!("the canary fails more often than the baseline: {counted}; {log_e}")
            }
            Cause::Latency => {
                let slow = slower(&evidence).unwrap_or_default();
                format!("the canary is slower than the baseline: {slow}{log_e}; {counted}")
            }
            Cause::Slo => {
                format!("the canary is beyond a fixed limit that the baseline keeps: {counted}")
            }
            Cause::Inconclusive => {
                format!(
                    "the step had its time and gave no answer, and the plan rolls back then: \
                     {counted}; {log_e}"
                )
            }
        }
    }

    fn overspent(&self) -> String {
        format!(
            "{}: the budget of {}, with {:.1} that the baseline's rate explains and {:.1} for \
             chance, is exhausted",
            seen(
                self.budget.spent().saturating_sub(self.written_off),
                self.written_off
            ),
            self.budget.limit(),
            self.budget.explained(),
            self.budget.chance()
        )
    }

    fn overfailed(&self) -> String {
        let budget = &self.rescued_budget;
        let forgotten = self.failed_written_off;
        format!(
            "{}: the rescued_budget of {}, with {:.1} that the baseline's rate explains and {:.1} \
             for chance, is exhausted",
            failed(budget.spent().saturating_sub(forgotten), forgotten),
            budget.limit(),
            budget.explained(),
            budget.chance()
        )
    }
}

fn status(budget: &Budget) -> BudgetStatus {
    BudgetStatus {
        limit: budget.limit(),
        spent: budget.spent(),
        allowance: budget.allowance(),
    }
}

/// How often either arm is slow, where it speaks most against the canary, since the bins were cut:
/// a few seconds ago.
fn slower(evidence: &Evidence) -> Option<String> {
    evidence
        .objectives
        .iter()
        .find_map(|objective| match &objective.counts {
            Behind::Latency {
                bins: Some(bins), ..
            } => slowest(bins),
            _ => None,
        })
}

fn slowest(bins: &LatencyBins) -> Option<String> {
    let first = bins.worst_bin?;
    let edge = first.checked_sub(1)?;
    let slow = |arm: &[f64]| {
        let all: f64 = arm.iter().sum();
        let slow: f64 = arm.iter().skip(first).sum();
        (all > 0.0).then(|| format!("{:.1} % of {all:.0}", 100.0 * slow / all))
    };
    let ms = |edges: &[u64]| edges.get(edge).map(|us| *us as f64 / 1e3);
    Some(format!(
        "lately {} requests took more than {:.1} ms on the canary, and {} more than {:.1} ms on \
         the baseline, those that failed among them; ",
        slow(&bins.canary)?,
        ms(&bins.canary_edges_us)?,
        slow(&bins.baseline)?,
        ms(&bins.baseline_edges_us)?
    ))
}
