//! One run: a judge, a budget and a plan, processed cohort by cohort.

use serde::{Deserialize, Serialize};

use crate::analysis::{Budget, Cause, Cohort, Judge, Matured, Options, Verdict, WaitReason};

use super::plan::{BUDGET, RESCUED_BUDGET, RunPlan};
use super::units::Ages;

/// Which weights a run follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Those of the plan; a cohort's weight is the one at which it was assigned.
    #[default]
    Plan,
    /// Those of the cohorts; the run only judges.
    Fixed,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// The canary was worse.
    RolledBack,
    /// It was good enough at every step; in [`Mode::Fixed`], at the last weight at which both arms
    /// had traffic.
    Promoted,
    /// The release was waiting for a person when the input ended.
    Inconclusive,
    /// Nothing had been decided when the input ended.
    None,
}

/// A run's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The run's name.
    pub run: String,
    /// How it ended.
    pub verdict: RunOutcome,
    /// The time of the cohort that decided, or of the last.
    pub at_ms: u64,
    /// The last step, counted from 1; 0 if none had begun.
    pub step: usize,
    /// The requests assigned to the canary until then.
    pub canary_requests: u64,
    /// The failed ones among them.
    pub canary_failures: u64,
    /// What decided: `error_rate`, `latency`, `slo`, `budget`, `rescued_budget`, or what it was
    /// waiting for: `split`, `slo`, `aborts`, `inconclusive`, `too_little_traffic`.
    pub objective: Option<&'static str>,
    /// `ln` of the combined e-value of the relative objectives.
    pub log_e: f64,
    /// Its maximum.
    pub log_e_max: f64,
}

/// A run in progress.
#[derive(Clone, Debug)]
pub struct Run {
    name: String,
    plan: RunPlan,
    mode: Mode,
    judge: Judge,
    budget: Option<Budget>,
    rescued_budget: Option<Budget>,
    ages: Ages,
    steps: Vec<crate::analysis::StepConditions>,
    step: usize,
    weight: f64,
    now_ms: u64,
    /// [`Mode::Fixed`]: the result when the advance test of the current weight passed.
    passed: Option<RunResult>,
    /// The result when the last comparison passed, while there has been no traffic at full weight,
    /// and the plan requires no time there: a recording may end there.
    compared: Option<RunResult>,
    /// The current reason for waiting for a person.
    held: Option<WaitReason>,
    /// The judge and the step before the last cohort advanced the run, in case the live release was
    /// held there.
    before_advance: Option<Box<(Judge, usize)>>,
    decided: Option<RunResult>,
}

/// The state of the live release that a recording contains beside a cohort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldStatus {
    /// A person, a gate or a freeze held it at its step, whatever the judge found.
    pub kept: bool,
    /// The step at which it was held, or that it reached by a command or because the hold ended;
    /// from 1.
    pub step: Option<usize>,
}

impl Run {
    /// A run of a plan, which must have no [`RunPlan::problems`].
    pub fn new(name: impl Into<String>, plan: RunPlan, mode: Mode) -> Run {
        let walked = |default| (mode == Mode::Plan).then_some(default);
        let limit = plan.budget.or(walked(BUDGET));
        let rescued = plan.rescued_budget.or(walked(RESCUED_BUDGET));
        // With budgets, the tests have half of the error probability, and each budget a quarter.
        let alpha = plan.options.alpha;
        let part = if limit.or(rescued).is_some() {
            0.5
        } else {
            1.0
        };
        let options = Options {
            alpha: alpha * part,
            ..plan.options.clone()
        };
        let budget = |limit| Budget::new(limit, alpha * 0.25, plan.worse_by());
        Run {
            name: name.into(),
            judge: Judge::new(options),
            budget: limit.map(budget),
            rescued_budget: rescued.map(budget),
            ages: Ages::new(u64::try_from(plan.bake.as_millis()).unwrap_or(u64::MAX)),
            steps: plan.walk(),
            plan,
            mode,
            step: 0,
            weight: 0.0,
            now_ms: 0,
            passed: None,
            compared: None,
            held: None,
            before_advance: None,
            decided: None,
        }
    }

    /// The run's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The plan's current weight, 0 to 1: 0 after a rollback.
    pub fn weight(&self) -> f64 {
        match &self.decided {
            Some(answer) if answer.verdict == RunOutcome::RolledBack => 0.0,
            Some(_) => 1.0,
            None => self
                .steps
                .get(self.step.saturating_sub(1))
                .map_or(0.0, |step| step.weight),
        }
    }

    /// The judge of this run.
    pub fn judge(&self) -> &Judge {
        &self.judge
    }

    /// The judge, to be warmed or queried for its evidence.
    pub fn judge_mut(&mut self) -> &mut Judge {
        &mut self.judge
    }

    /// The result, once no further cohort can change it.
    pub fn decided(&self) -> Option<&RunResult> {
        self.decided.as_ref()
    }

    /// Judges a cohort, and takes the step that follows. After the decision nothing counts.
    pub fn observe(&mut self, cohort: &Cohort<'_>) -> Option<&RunResult> {
        self.observe_recorded(cohort, HoldStatus::default())
    }

    /// Judges a cohort of a live release: the run goes no further than that release where it was
    /// held by something other than the judge, and as far where a command advanced it.
    pub fn observe_recorded(
        &mut self,
        cohort: &Cohort<'_>,
        status: HoldStatus,
    ) -> Option<&RunResult> {
        self.undo_advance(status);
        if self.decided.is_none() {
            self.now_ms = self.now_ms.max(cohort.at_ms);
            if cohort.weight >= 1.0 && cohort.canary.requests > 0 {
                self.compared = None;
            }
            self.enter(cohort.weight);
            while let Some(matured) = self.ages.next(self.now_ms) {
                self.judge.mature(
                    self.now_ms,
                    matured.weight,
                    &matured.canary,
                    &matured.baseline,
                );
            }
            self.ages.add(cohort);
            self.judge.observe(cohort);
            if let Some(budget) = &mut self.budget {
                budget.observe(cohort);
            }
            if let Some(budget) = &mut self.rescued_budget {
                budget.observe_all(cohort);
            }
            self.decide(cohort.weight, status.kept);
            self.go_to_step(status.step);
        }
        self.decided.as_ref()
    }

    /// Units of a sticky release that have reached the age `bake`, as recorded by a live release.
    pub fn mature_recorded(
        &mut self,
        at_ms: u64,
        matured: &Matured,
        status: HoldStatus,
    ) -> Option<&RunResult> {
        self.undo_advance(status);
        if self.decided.is_none() {
            self.now_ms = self.now_ms.max(at_ms);
            self.judge.mature(
                self.now_ms,
                matured.weight,
                &matured.canary,
                &matured.baseline,
            );
            let weight = match self.mode {
                Mode::Plan => matured.weight,
                Mode::Fixed => self.weight,
            };
            self.decide(weight, status.kept);
            self.go_to_step(status.step);
        }
        self.decided.as_ref()
    }

    /// The recording contains the ages of units.
    pub(super) fn has_recorded_ages(&mut self) {
        self.ages.set_recorded();
    }

    /// Goes back to the step at which the live release was held, if the last cohort advanced
    /// further.
    fn undo_advance(&mut self, status: HoldStatus) {
        let before = self.before_advance.take();
        let ahead = self.decided.is_some() || status.step.is_none_or(|step| step < self.step);
        if let Some(before) = before.filter(|_| status.kept && ahead) {
            (self.judge, self.step) = *before;
            self.decided = None;
            self.compared = None;
        }
    }

    /// Goes to the step `step` if it is ahead.
    fn go_to_step(&mut self, step: Option<usize>) {
        let next = step
            .filter(|step| *step > self.step && self.mode == Mode::Plan && self.decided.is_none());
        let Some((number, step)) =
            next.and_then(|number| Some((number, self.steps.get(number - 1)?)))
        else {
            return;
        };
        self.judge.begin_step(self.now_ms, *step);
        self.step = number;
    }

    /// The result at the end of the input.
    pub fn finish(self) -> RunResult {
        let answers = [&self.decided, &self.passed, &self.compared];
        if let Some(answer) = answers.into_iter().flatten().next() {
            return answer.clone();
        }
        match self.held {
            Some(reason) => answer(&self, RunOutcome::Inconclusive, Some(reason.as_str())),
            None => answer(&self, RunOutcome::None, self.waits_at_full_weight()),
        }
    }

    /// The reason when only failures at full weight keep the run from being promoted.
    fn waits_at_full_weight(&self) -> Option<&'static str> {
        let waits = self
            .judge
            .full_weight_evidence()
            .is_some_and(|at| !at.passes);
        waits.then_some(WaitReason::Inconclusive.as_str())
    }

    /// Begins the first step with the first cohort that gives the canary traffic, and in
    /// [`Mode::Fixed`] a step with each weight at which the arms can be compared.
    fn enter(&mut self, weight: f64) {
        let begins = match self.mode {
            Mode::Plan => weight > 0.0 && self.step == 0,
            Mode::Fixed => compares(weight) && weight != self.weight,
        };
        if !begins {
            return;
        }
        self.weight = weight;
        self.passed = None;
        self.step += 1;
        let step = match self.mode {
            Mode::Fixed => Some(self.plan.fit(weight)),
            Mode::Plan => self.steps.first().copied(),
        };
        if let Some(step) = step {
            self.judge.begin_step(self.now_ms, step);
        }
    }

    /// Decides what follows from a cohort assigned at `weight`.
    fn decide(&mut self, weight: f64, kept: bool) {
        // In a fixed run a passed weight stays passed; only rollbacks remain possible then. The
        // same holds where all traffic is on one arm: time there is no evidence about the weight
        // before.
        let only_rollback =
            self.passed.is_some() || (self.mode == Mode::Fixed && !compares(weight));
        let verdict = match self.judge.condemned() {
            Some(cause) => Verdict::RollBack(cause),
            None if only_rollback => Verdict::Continue,
            None => self.judge.verdict(self.now_ms),
        };
        if !only_rollback {
            self.held = match verdict {
                Verdict::Hold(reason) => Some(reason),
                _ => None,
            };
        }
        let is_exhausted = |budget: &Option<Budget>| budget.as_ref().is_some_and(Budget::exhausted);
        let exhausted = if is_exhausted(&self.budget) {
            Some("budget")
        } else {
            is_exhausted(&self.rescued_budget).then_some("rescued_budget")
        };
        match verdict {
            Verdict::RollBack(cause) if cause != Cause::Inconclusive => {
                self.roll_back(cause.as_str())
            }
            _ if exhausted.is_some() => self.roll_back(exhausted.unwrap_or_default()),
            Verdict::RollBack(cause) => self.roll_back(cause.as_str()),
            Verdict::Advance if kept => {}
            Verdict::Advance if self.mode == Mode::Plan => {
                self.before_advance = Some(Box::new((self.judge.clone(), self.step)));
                self.advance();
            }
            Verdict::Advance => self.passed = Some(answer(self, RunOutcome::Promoted, None)),
            _ => {}
        }
    }

    fn roll_back(&mut self, why: &'static str) {
        self.decided = Some(answer(self, RunOutcome::RolledBack, Some(why)));
    }

    fn advance(&mut self) {
        match self.steps.get(self.step).copied() {
            // Without a final bake there is nothing to wait for at full weight.
            Some(next) if next.weight < 1.0 || next.min_ms > 0 || next.min_requests > 0 => {
                self.step += 1;
                if next.weight >= 1.0 && next.min_ms == 0 {
                    self.compared = Some(answer(self, RunOutcome::Promoted, None));
                }
                self.judge.begin_step(self.now_ms, next);
            }
            _ => {
                self.step = self.steps.len();
                self.decided = Some(answer(self, RunOutcome::Promoted, None));
            }
        }
    }
}

/// Whether both arms have traffic at `weight`.
fn compares(weight: f64) -> bool {
    weight > 0.0 && weight < 1.0
}

fn answer(run: &Run, verdict: RunOutcome, objective: Option<&'static str>) -> RunResult {
    let canary = run.judge.canary();
    let (log_e, log_e_max) = run.judge.log_e();
    RunResult {
        run: run.name.clone(),
        verdict,
        at_ms: run.now_ms,
        step: run.step,
        canary_requests: canary.requests,
        canary_failures: canary.failures,
        objective,
        log_e,
        log_e_max,
    }
}
