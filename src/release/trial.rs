//! The evidence on a release: the judge and the two budgets, always fed together.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine::{all_failures_text, visible_failures_text};
use super::objectives;
use super::plan::Plan;
use crate::analysis::{
    AbortCounts, Behind, Budget, Cause, Cohort, Evidence, FullWeightEvidence, Judge, LatencyBins,
    Matured, PendingCohort, Verdict, WaitReason,
};
use crate::model::api::BudgetStatus;

/// The trial of one canary. It can be serialized and resumed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    judge: Judge,
    /// The budget of failures that users saw.
    budget: Option<Budget>,
    /// The budget of all failures of the canary.
    rescued_budget: Option<Budget>,
    /// The canary's failures in judged cohorts: those that users saw, and all.
    #[serde(default)]
    scored: [u64; 2],
    /// The spent failures that users may not have seen, counted because restarts lost counts.
    #[serde(default)]
    written_off: u64,
    /// The same for all failures.
    #[serde(default)]
    failed_written_off: u64,
}

/// What follows from the evidence.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// No decision yet.
    Continue,
    /// The canary is good enough for the next step.
    Advance,
    /// A person should look.
    Hold(WaitReason),
    /// Remove the canary.
    RollBack {
        /// What decided: `error_rate`, `latency`, `slo`, `budget`, `rescued_budget`,
        /// `inconclusive`.
        objective: &'static str,
        /// The reason as text, with its numbers.
        detail: String,
    },
}

impl Trial {
    /// The trial of attempt `attempt` (from 1) at a build by `plan`.
    pub fn new(plan: &Plan, attempt: u32) -> Trial {
        Trial {
            judge: Judge::new(plan.analysis(attempt)),
            budget: Some(plan.budget_rule(plan.budget(), attempt)),
            rescued_budget: Some(plan.budget_rule(plan.rescued_budget(), attempt)),
            scored: [0; 2],
            written_off: 0,
            failed_written_off: 0,
        }
    }

    /// The trial of a recorded run, at its first attempt. Budgets are optional there: with them the
    /// tests have half of the error probability, and each budget a quarter.
    pub(super) fn of_run(plan: &Plan, with_budgets: bool) -> Trial {
        let (visible, all) = (plan.decided_by.budget, plan.decided_by.rescued_budget);
        if with_budgets {
            return Trial::new(plan, 1);
        }
        let any = visible.or(all).is_some();
        let judged = if any {
            plan.analysis(1)
        } else {
            plan.decided_by.options.clone()
        };
        Trial {
            judge: Judge::new(judged),
            budget: visible.map(|limit| plan.budget_rule(limit, 1)),
            rescued_budget: all.map(|limit| plan.budget_rule(limit, 1)),
            scored: [0; 2],
            written_off: 0,
            failed_written_off: 0,
        }
    }

    /// The judge, for what a replay reports.
    pub(super) fn judge_of(&self) -> &Judge {
        &self.judge
    }

    /// Adds the baseline's history before the release: responses by latency in microseconds with
    /// their counts, and failures.
    pub fn warm(&mut self, latency_us: &[(u64, u64)], failures: u64) {
        self.judge.warm(latency_us, failures);
        let budgets = self.budget.iter_mut().chain(&mut self.rescued_budget);
        for budget in budgets {
            budget.warm_as(&self.judge);
        }
    }

    /// Begins step `index`, counted from 0; beyond the last step it does nothing.
    pub fn begin_step(&mut self, at_ms: u64, index: usize, plan: &Plan) {
        if let Some(step) = plan.steps().get(index) {
            self.judge.begin_step(at_ms, step.judged);
        }
    }

    /// Judges a cohort, and raises the failures that the baseline's rate explains. Failures that
    /// users saw are set by [`Trial::set_spent`], since the request path has counted them already.
    pub fn observe(&mut self, cohort: &Cohort<'_>) {
        self.judge(cohort);
        self.explain(cohort);
    }

    /// Judges a cohort only: in a sticky release each user counts once for the judge.
    pub fn judge(&mut self, cohort: &Cohort<'_>) {
        self.judge.observe(cohort);
    }

    /// Judges units of a sticky release that have reached the age `bake`.
    pub fn mature(&mut self, at_ms: u64, matured: &Matured) {
        self.judge
            .mature(at_ms, matured.weight, &matured.canary, &matured.baseline);
    }

    /// Raises the failures that the baseline's rate explains, only. Failures that users saw are
    /// counted per request, so this needs all requests, judged or not.
    pub fn explain(&mut self, cohort: &Cohort<'_>) {
        for budget in self.budgets() {
            budget.explain(cohort);
        }
    }

    /// Counts the canary's failures in a judged cohort. The request path has usually counted them
    /// before; a recording has its counts where they decide, and otherwise only cohorts.
    pub fn count(&mut self, cohort: &Cohort<'_>) {
        if cohort.canary.failures == 0 {
            return;
        }
        let [visible, all] = &mut self.scored;
        *visible += cohort.canary.visible_failures();
        *all += cohort.canary.failures;
        let [visible, all] = self.scored;
        self.set_spent(visible);
        if let Some(budget) = &mut self.rescued_budget {
            budget.set_spent(budget.spent().max(all));
        }
    }

    /// Sets the failures of the canary that users saw in the whole release. The count never falls.
    pub fn set_spent(&mut self, spent: u64) {
        if let Some(budget) = &mut self.budget {
            budget.set_spent(budget.spent().max(spent));
        }
    }

    /// Sets the failed requests of the canary in the whole release, visible to users or not; at
    /// least those of judged cohorts.
    pub fn set_failed(&mut self, failed: u64) {
        if let Some(budget) = &mut self.rescued_budget {
            budget.set_spent(failed.max(self.scored[1]));
        }
    }

    /// Whether a budget would be exhausted by other counts of failures and pending requests.
    pub(super) fn is_exhausted_by(&self, spent: [u64; 2], pending: PendingCohort) -> bool {
        let [visible, all] = [0, 1].map(|at| spent[at].max(self.scored[at]));
        let by = |budget: &Option<Budget>, spent| {
            budget
                .as_ref()
                .is_some_and(|budget| budget.is_exhausted_by(spent, pending))
        };
        by(&self.budget, visible) || by(&self.rescued_budget, all)
    }

    fn budgets(&mut self) -> impl Iterator<Item = &mut Budget> {
        self.budget.iter_mut().chain(&mut self.rescued_budget)
    }

    /// Sets the failures, visible and all, that are counted only because a killed process lost its
    /// last counts.
    pub fn set_written_off(&mut self, visible: u64, all: u64) {
        (self.written_off, self.failed_written_off) = (visible, all);
    }

    /// The finding at `now_ms`, on the scale of the cohorts. Evidence comes before the budgets, and
    /// both before policy.
    pub fn finding(&self, now_ms: u64) -> Finding {
        self.finding_given(now_ms, PendingCohort::default())
    }

    /// The finding while cohorts are pending. Open requests of the baseline count as failures until
    /// they end, so that an outage of both arms does not exhaust the budget only because the canary
    /// fails first.
    pub fn finding_given(&self, now_ms: u64, pending: PendingCohort) -> Finding {
        self.decide(self.judge.verdict(now_ms), pending)
    }

    /// The finding where time and traffic are no evidence for the canary: a rollback or nothing.
    pub(super) fn brake(&self) -> Finding {
        let condemned = self.judge.condemned();
        let verdict = condemned.map_or(Verdict::Continue, Verdict::RollBack);
        self.decide(verdict, PendingCohort::default())
    }

    fn decide(&self, verdict: Verdict, pending: PendingCohort) -> Finding {
        let is_exhausted = |budget: &Option<Budget>| {
            budget
                .as_ref()
                .is_some_and(|budget| budget.is_exhausted_by(budget.spent(), pending))
        };
        match verdict {
            Verdict::RollBack(cause) if cause != Cause::Inconclusive => self.roll_back(cause),
            _ if is_exhausted(&self.budget) => Finding::RollBack {
                objective: "budget",
                detail: self.budget_exhausted_text(),
            },
            _ if is_exhausted(&self.rescued_budget) => Finding::RollBack {
                objective: "rescued_budget",
                detail: self.rescued_budget_exhausted_text(),
            },
            Verdict::RollBack(cause) => self.roll_back(cause),
            Verdict::Advance => Finding::Advance,
            Verdict::Hold(reason) => Finding::Hold(reason),
            Verdict::Continue => Finding::Continue,
        }
    }

    /// The number of further visible failures that exhaust the budget: the tripwire's allowance.
    pub fn allowance(&self) -> u64 {
        self.budget.as_ref().map_or(u64::MAX, Budget::allowance)
    }

    /// The allowance while cohorts are pending; see [`Trial::finding_given`].
    pub fn allowance_given(&self, pending: PendingCohort) -> u64 {
        given(self.budget.as_ref(), pending)
    }

    /// The number of further failures of any kind that exhaust the second budget.
    pub fn rescued_allowance(&self) -> u64 {
        self.rescued_budget
            .as_ref()
            .map_or(u64::MAX, Budget::allowance)
    }

    /// The second allowance while cohorts are pending.
    pub fn rescued_allowance_given(&self, pending: PendingCohort) -> u64 {
        given(self.rescued_budget.as_ref(), pending)
    }

    /// The number of requests that may be open past the maturity age at the current step: the
    /// baseline's failure rate applied to the canary's requests (STATISTICS.md 1.k.3).
    pub fn unfinished_explained(&self) -> f64 {
        self.judge.baseline_upper() * self.judge.at_step().requests as f64
    }

    /// What promotion needs while the canary is at full weight.
    pub fn full_weight(&self) -> Option<FullWeightEvidence> {
        self.judge.full_weight_evidence()
    }

    /// The canary's requests at the current step that ended with a response or a failure.
    pub fn outcomes(&self) -> u64 {
        self.judge.outcomes()
    }

    /// Requests that clients aborted, by arm.
    pub fn aborts(&self) -> AbortCounts {
        self.judge.aborts()
    }

    /// The count of failures at which the budget is exhausted.
    pub fn bound(&self) -> f64 {
        self.budget.as_ref().map_or(f64::INFINITY, Budget::bound)
    }

    /// The budget for display.
    pub fn budget(&self) -> BudgetStatus {
        status(self.budget.as_ref())
    }

    /// The budget of all failures for display.
    pub fn rescued_budget(&self) -> BudgetStatus {
        status(self.rescued_budget.as_ref())
    }

    /// `ln` of the combined evidence against the canary, and the limit at which it is rolled back.
    pub fn log_e(&self) -> (f64, f64) {
        (self.judge.log_e().0, -self.judge.options().alpha.ln())
    }

    /// The numbers behind the finding.
    pub fn evidence(&self) -> Evidence {
        // Computing evidence narrows the confidence sequence; a display must not change the state.
        self.judge.clone().evidence()
    }

    /// Each objective with its evidence, flat and by stable names, for display. Every one has
    ///
    /// - `objective`: `error_rate`, `latency` or `slo`;
    /// - `margins`: as in a plan, such as `{"ratio": 1.1, "worse_by": 0.0005}`;
    /// - `share`: its part of alpha;
    /// - `e_value` and `log_e`: the evidence against the canary, and its `ln` (`e_value` is capped
    ///   at 1e300);
    /// - `log_limit` and `limit`: the value at which the canary is rolled back if this objective
    ///   alone decides;
    /// - `advance_log_e` and `advance_limit` (both `ln`): this step's evidence for the canary, and
    ///   the value at which it suffices; absent for fixed limits;
    /// - `canary` and `baseline`: `{requests, failures}`; for a fixed latency limit the failures
    ///   are the slow requests.
    ///
    /// In a sticky release `error_rate` has `unit: "user"`: its counts are assignments of keys and
    /// the failed ones among them, and so are its margins and `requests_to_advance`.
    ///
    /// Once there are requests on both arms, `error_rate` also has `estimate` (`p_canary - ratio *
    /// p_baseline`), `confidence` (`{lower, upper, level}`, valid at all times simultaneously) and
    /// `requests_to_advance` (further canary requests that this step is likely to need). At full
    /// weight it has `full_weight`: what [`FullWeightEvidence`] contains. `latency`
    /// has `insufficient: true` while the baseline has too few requests, and otherwise `bins`: a
    /// list of `{baseline_below_us, canary_below_us, baseline, canary}`, the last without edges;
    /// `worst_bin`, counted from 0; and `slower_lately: true` while the next step is at 100 % and
    /// the canary was slower in the last seconds than the objective allows. `slo` has
    /// `baseline_log_e`.
    pub fn objectives(&self) -> Vec<Value> {
        objectives::shown(&self.evidence())
    }

    fn roll_back(&self, cause: Cause) -> Finding {
        Finding::RollBack {
            objective: cause.as_str(),
            detail: self.reason(cause),
        }
    }

    fn reason(&self, cause: Cause) -> String {
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
                format!("the canary exceeds a fixed limit that the baseline meets: {counted}")
            }
            Cause::Inconclusive => {
                format!(
                    "the step is inconclusive, and the plan rolls back in this case: \
                     {counted}; {log_e}"
                )
            }
        }
    }

    fn budget_exhausted_text(&self) -> String {
        let written_off = self.written_off;
        exhausted("budget", self.budget.as_ref(), |spent| {
            visible_failures_text(spent.saturating_sub(written_off), written_off)
        })
    }

    fn rescued_budget_exhausted_text(&self) -> String {
        let written_off = self.failed_written_off;
        exhausted("rescued_budget", self.rescued_budget.as_ref(), |spent| {
            all_failures_text(spent.saturating_sub(written_off), written_off)
        })
    }
}

fn exhausted(name: &str, budget: Option<&Budget>, spent: impl Fn(u64) -> String) -> String {
    budget.map_or_else(String::new, |budget| {
        format!(
            "{}: the {name} of {}, plus {:.1} explained by the baseline's rate and {:.1} for \
             chance, is exhausted",
            spent(budget.spent()),
            budget.limit(),
            budget.explained(),
            budget.chance()
        )
    })
}

fn given(budget: Option<&Budget>, pending: PendingCohort) -> u64 {
    budget.map_or(u64::MAX, |budget| {
        budget.allowance_given(std::iter::once(pending))
    })
}

fn status(budget: Option<&Budget>) -> BudgetStatus {
    BudgetStatus {
        limit: budget.map_or(u64::MAX, Budget::limit),
        spent: budget.map_or(0, Budget::spent),
        allowance: budget.map_or(u64::MAX, Budget::allowance),
    }
}

/// How often each arm is slow, in the bin with the most evidence against the canary, since the bins
/// were set a few seconds ago.
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
        "recently, {} requests took more than {:.1} ms on the canary and {} more than {:.1} ms on \
         the baseline, including failed requests; ",
        slow(&bins.canary)?,
        ms(&bins.canary_edges_us)?,
        slow(&bins.baseline)?,
        ms(&bins.baseline_edges_us)?
    ))
}
