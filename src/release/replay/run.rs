//! One run: an [`Engine`] whose decisions are carried out as the recording says, or at once.
//!
//! A decision is carried out with the next line, which may say that the live release did otherwise:
//! that the store took its time, or refused, or in recordings without events, that a person, a gate
//! or a freeze held the release. With [`Mode::Fixed`] the plan of the engine is the recorded
//! weights, one step for each.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::event::RecordedEvent;
use super::plan::RunPlan;
use super::units::Ages;
use crate::analysis::{Cohort, Judge, Matured, WaitReason};
use crate::model::api::Phase;
use crate::release::engine::{Decision, Engine, EngineEvent, Moment};
use crate::release::{Direction, Plan, ReleaseState, Trial};
use crate::time::Timestamp;

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
    /// What decided: `error_rate`, `latency`, `slo`, `budget`, `rescued_budget`, `health`,
    /// `preflight`, `operator`, or what it was waiting for: `split`, `slo`, `aborts`,
    /// `inconclusive`, `too_little_traffic` and so on.
    pub objective: Option<&'static str>,
    /// `ln` of the combined e-value of the relative objectives.
    pub log_e: f64,
    /// Its maximum.
    pub log_e_max: f64,
}

/// The state of the live release that a recording without events has beside a cohort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldStatus {
    /// A person, a gate or a freeze held it at its step, whatever the judge found.
    pub kept: bool,
    /// The step at which it was held, or that it reached by a command or because the hold ended;
    /// from 1.
    pub step: Option<usize>,
}

/// What a recording with events has of the live release beside the plan that decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    /// Gates and freezes.
    pub(super) plan: Plan,
    pub(super) actor: String,
    pub(super) started_us: i64,
    pub(super) start_at_us: Option<i64>,
    pub(super) override_freeze: bool,
}

/// Checkpoints that are kept: one a second is written, and a restart names its time.
const CHECKPOINTS_MAX: usize = 8;

/// The judged state of a checkpoint, with its time in milliseconds.
type Checkpoint = (u64, (Trial, Option<usize>));

/// A run in progress.
#[derive(Clone, Debug)]
pub struct Run {
    name: String,
    mode: Mode,
    engine: Engine,
    ages: Ages,
    has_events: bool,
    started_us: i64,
    now_ms: u64,
    /// The last decision, until the next line says what became of it.
    proposed: Option<Box<Decision>>,
    /// A decision that the live release was committing, with the result if it ends the run.
    committing: Option<Box<(Decision, Option<RunResult>)>>,
    /// The judged states of the last recorded checkpoints. The store may have refused some of them.
    checkpoints: VecDeque<Checkpoint>,
    /// [`Mode::Fixed`]: the number of weights so far, and the last at which the arms could be
    /// compared.
    weights: usize,
    weight: f64,
    /// [`Mode::Fixed`]: the result when the advance test of the current weight passed.
    passed: Option<RunResult>,
    /// The result when the last comparison passed, while there has been no traffic at full weight,
    /// and the plan requires no time there: a recording may end there.
    compared: Option<RunResult>,
    decided: Option<RunResult>,
    /// All decisions that were carried out: time, action and step.
    #[cfg(test)]
    carried_out: Vec<(u64, &'static str, usize)>,
}

impl Run {
    /// A run of a plan, which must have no [`RunPlan::problems`].
    pub fn new(name: impl Into<String>, plan: RunPlan, mode: Mode) -> Run {
        Run::begin(name.into(), plan, mode, None)
    }

    /// A run of a recording that has all events of the live release, with `recorded`.
    pub(super) fn begin(
        name: String,
        plan: RunPlan,
        mode: Mode,
        recorded: Option<Recorded>,
    ) -> Run {
        let bake_ms = u64::try_from(plan.bake.as_millis()).unwrap_or(u64::MAX);
        let has_events = recorded.is_some() && mode == Mode::Plan;
        let recorded = recorded.unwrap_or_default();
        let plan = Plan::of_run(plan, has_events.then_some(recorded.plan));
        let trial = Trial::of_run(&plan, mode == Mode::Plan);
        let release = ReleaseState {
            actor: recorded.actor,
            start_at_us: recorded.start_at_us,
            override_freeze: recorded.override_freeze,
            phase: match mode {
                Mode::Plan if has_events => Phase::Pending,
                Mode::Plan => Phase::Preflight,
                Mode::Fixed => Phase::Progressing,
            },
            ..ReleaseState::pending(plan, Timestamp::new(0, recorded.started_us))
        };
        Run {
            name,
            mode,
            engine: Engine::new(release, trial, None),
            ages: Ages::new(bake_ms),
            has_events,
            started_us: recorded.started_us,
            now_ms: 0,
            proposed: None,
            committing: None,
            checkpoints: VecDeque::new(),
            weights: 0,
            weight: 0.0,
            passed: None,
            compared: None,
            decided: None,
            #[cfg(test)]
            carried_out: Vec::new(),
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
                .release()
                .present_step()
                .map_or(0.0, |step| step.judged.weight),
        }
    }

    /// The judge of this run.
    pub fn judge(&self) -> &Judge {
        self.engine.trial().judge_of()
    }

    /// Adds the baseline's history before the release.
    pub fn warm(&mut self, latency_us: &[(u64, u64)], failures: u64) {
        let past = EngineEvent::Past {
            latency_us,
            failures,
        };
        self.engine.on(&past, self.at(0, None));
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
        self.settle(status);
        if self.decided.is_none() {
            self.now_ms = self.now_ms.max(cohort.at_ms);
            let at = self.at(self.now_ms, None);
            if cohort.weight >= 1.0 && cohort.canary.requests > 0 {
                self.compared = None;
            }
            self.enter(cohort.weight, at);
            while let Some(matured) = self.ages.next(self.now_ms) {
                self.engine.on(&EngineEvent::Matured(&matured), at);
            }
            self.ages.add(cohort);
            let decision = self.engine.on(&EngineEvent::Cohort(cohort), at);
            self.decide(decision, status, at);
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
        self.settle(status);
        if self.decided.is_none() {
            self.now_ms = self.now_ms.max(at_ms);
            let at = self.at(self.now_ms, None);
            if self.mode == Mode::Fixed {
                self.follow(self.weight, at);
            }
            let decision = self.engine.on(&EngineEvent::Matured(matured), at);
            self.decide(decision, status, at);
        }
        self.decided.as_ref()
    }

    /// Handles an event of a recording that has all of them.
    pub(super) fn on(&mut self, event: &RecordedEvent<'_>, at_ms: u64, unix_us: Option<i64>) {
        if !self.follows(event) {
            return;
        }
        let is_about_last = matches!(event, RecordedEvent::Committing | RecordedEvent::Refused);
        if !is_about_last {
            self.settle(HoldStatus::default());
        }
        if self.decided.is_some() && !is_about_last {
            return;
        }
        self.now_ms = self.now_ms.max(at_ms);
        let at = self.at(at_ms, unix_us);
        let decision = match event {
            RecordedEvent::Engine(event) => {
                if let EngineEvent::Cohort(cohort) = event
                    && cohort.weight >= 1.0
                    && cohort.canary.requests > 0
                {
                    self.compared = None;
                }
                self.engine.on(event, at)
            }
            RecordedEvent::Command(command) => self.engine.command(command, at).ok().flatten(),
            RecordedEvent::Committing => return self.commit(at),
            RecordedEvent::Committed => return self.committed(at),
            RecordedEvent::Refused => return self.refused(at),
            RecordedEvent::Checkpoint => {
                self.checkpoints.truncate(CHECKPOINTS_MAX - 1);
                let checkpoint = (at_ms, self.engine.checkpoint());
                self.checkpoints.push_front(checkpoint);
                return;
            }
            RecordedEvent::Restart { written_off, step } => {
                return self.resume(*written_off, *step, at);
            }
        };
        self.propose(decision);
    }

    /// Whether the run follows an event. With fixed weights nothing moves them; a recording that
    /// lacks events has commands at most.
    fn follows(&self, event: &RecordedEvent<'_>) -> bool {
        use RecordedEvent::{Command, Engine};
        let is_evidence = matches!(
            event,
            Engine(
                EngineEvent::Past { .. }
                    | EngineEvent::Cohort(_)
                    | EngineEvent::Tainted(_)
                    | EngineEvent::Matured(_)
            )
        );
        let may_come = matches!(
            event,
            Command(_) | Engine(EngineEvent::Tripped(_) | EngineEvent::Unhealthy(_))
        );
        self.has_events || is_evidence || (may_come && self.mode == Mode::Plan)
    }

    /// The recording contains the ages of units.
    pub(super) fn has_recorded_ages(&mut self) {
        self.ages.set_recorded();
    }

    /// Whether the recording has all events.
    pub(super) fn has_events(&self) -> bool {
        self.has_events
    }

    /// The result at the end of the input.
    pub fn finish(mut self) -> RunResult {
        self.settle(HoldStatus::default());
        let answers = [&self.decided, &self.passed, &self.compared];
        if let Some(answer) = answers.into_iter().flatten().next() {
            return answer.clone();
        }
        match self.engine.release().asks_for_person() {
            Some(reason) => self.answer(RunOutcome::Inconclusive, Some(reason.as_str())),
            None => self.answer(RunOutcome::None, self.waits_at_full_weight()),
        }
    }

    /// The reason when only failures at full weight keep the run from being promoted.
    fn waits_at_full_weight(&self) -> Option<&'static str> {
        let evidence = self.engine.trial().full_weight();
        let waits = evidence.is_some_and(|at| !at.passes);
        waits.then_some(WaitReason::Inconclusive.as_str())
    }

    #[cfg(test)]
    pub(super) fn carried_out(&mut self) -> Vec<(u64, &'static str, usize)> {
        self.settle(HoldStatus::default());
        self.carried_out.clone()
    }

    /// The release, with the decision that is carried out next.
    fn release(&self) -> &ReleaseState {
        let next = self.proposed.as_deref();
        next.map_or(self.engine.release(), |decision| &decision.transition.after)
    }

    fn at(&self, at_ms: u64, unix_us: Option<i64>) -> Moment {
        let passed_us = i64::try_from(at_ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let by_start = self.started_us.saturating_add(passed_us);
        let now = Timestamp::new(at_ms.saturating_mul(1_000_000), unix_us.unwrap_or(by_start));
        Moment { at_ms, now }
    }

    /// A recording without events begins the first step with the first cohort that gives the canary
    /// traffic; with fixed weights each weight at which the arms can be compared is a step.
    fn enter(&mut self, weight: f64, at: Moment) {
        if self.mode == Mode::Plan {
            return self.begin_at(weight, at);
        }
        if compares(weight) && weight != self.weight {
            self.weight = weight;
            self.weights += 1;
            self.passed = None;
        }
        self.follow(weight, at);
    }

    fn follow(&mut self, weight: f64, at: Moment) {
        let only_brakes = self.passed.is_some() || !compares(weight);
        self.engine.follow_weight(weight, only_brakes, at);
    }

    fn begin_at(&mut self, weight: f64, at: Moment) {
        if weight <= 0.0 || self.engine.release().phase != Phase::Preflight {
            return;
        }
        if let Some(decision) = self.engine.on(&EngineEvent::Preflight(Ok(())), at) {
            self.carry_out(&decision, at);
        }
    }

    /// Keeps what follows from an event, unless the live release was held.
    fn decide(&mut self, decision: Option<Decision>, status: HoldStatus, at: Moment) {
        let held = status.kept && decision.as_ref().is_some_and(goes_forward);
        self.propose(decision.filter(|_| !held));
        let ahead = status.step.filter(|step| *step > self.step());
        if let Some(step) = ahead.filter(|_| self.mode == Mode::Plan && self.decided.is_none()) {
            self.settle(HoldStatus::default());
            self.engine.go_to_step(step, at);
        }
    }

    fn propose(&mut self, decision: Option<Decision>) {
        let Some(decision) = decision else { return };
        let after = &decision.transition.after;
        let forward = goes_forward(&decision);
        if self.mode == Mode::Fixed && forward {
            self.passed = Some(self.answer(RunOutcome::Promoted, None));
            self.engine.only_brake();
            return;
        }
        // Where only rollbacks are possible a release still waits for what it waited for.
        if self.mode == Mode::Fixed && !after.phase.is_over() && self.engine.only_brakes() {
            return;
        }
        let (phase, objective) = (after.phase, objective(after));
        let full = after.present_step().filter(|step| {
            forward && !phase.is_over() && step.judged.weight >= 1.0 && step.judged.min_ms == 0
        });
        if full.is_some() {
            self.compared = Some(RunResult {
                step: after.step_number(),
                ..self.answer(RunOutcome::Promoted, None)
            });
        }
        self.decided = match phase {
            Phase::RolledBack => Some(self.answer(RunOutcome::RolledBack, objective)),
            Phase::Cancelled => Some(self.answer(RunOutcome::None, objective)),
            Phase::Promoted => Some(RunResult {
                step: after.step_number(),
                ..self.answer(RunOutcome::Promoted, None)
            }),
            _ => None,
        };
        if let Some(decided) = &mut self.decided {
            decided.at_ms = decision.at_ms;
        }
        self.proposed = Some(Box::new(decision));
    }

    /// Carries the last decision out, unless the live release was held where it was.
    fn settle(&mut self, status: HoldStatus) {
        let Some(decision) = self.proposed.take() else {
            return;
        };
        let step = decision.transition.after.step_number();
        let ahead = self.decided.is_some() || status.step.is_none_or(|known| known < step);
        if status.kept && ahead && goes_forward(&decision) {
            self.decided = None;
            self.compared = None;
            return;
        }
        let at = self.at(self.now_ms, None);
        self.carry_out(&decision, at);
    }

    fn carry_out(&mut self, decision: &Decision, at: Moment) {
        if self.committing.take().is_some() {
            self.engine.on(&EngineEvent::Refused, at);
        }
        self.engine.on(&EngineEvent::Accepted(decision), at);
        self.apply(decision, at);
    }

    fn apply(&mut self, decision: &Decision, at: Moment) {
        #[cfg(test)]
        self.carried_out.push((
            decision.at_ms,
            decision.transition.action,
            decision.transition.after.step_number(),
        ));
        let after = &decision.transition.after;
        self.engine.on(&EngineEvent::Applied(after), at);
    }

    fn commit(&mut self, at: Moment) {
        if let Some(decision) = self.proposed.take() {
            self.engine.on(&EngineEvent::Accepted(&decision), at);
            self.committing = Some(Box::new((*decision, self.decided.take())));
        }
    }

    fn committed(&mut self, at: Moment) {
        if let Some(committing) = self.committing.take() {
            let (decision, decided) = *committing;
            self.decided = decided;
            self.apply(&decision, at);
        }
    }

    /// The decision that was being committed was refused, or else the last one.
    fn refused(&mut self, at: Moment) {
        if self.committing.take().is_some() {
            self.engine.on(&EngineEvent::Refused, at);
        } else if self.proposed.take().is_some() {
            self.decided = None;
            self.compared = None;
            self.engine.on(&EngineEvent::Refused, at);
        }
    }

    /// Another process continued the release at `step`, from its last checkpoint.
    fn resume(&mut self, written_off: [u64; 2], step: Option<usize>, at: Moment) {
        let is_in_effect = |known: &&(Decision, Option<RunResult>)| {
            step == Some(known.0.transition.after.step_number())
        };
        if self.committing.as_deref().filter(is_in_effect).is_some() {
            self.committed(at);
        }
        self.committing = None;
        let mut stored = self.checkpoints.iter();
        match stored.find(|(at_ms, _)| *at_ms == at.at_ms) {
            Some((_, state)) => self.engine.go_back(state.clone()),
            None if !self.checkpoints.is_empty() => {}
            None => {
                let plan = &self.engine.release().plan;
                let trial = Trial::of_run(plan, true);
                self.engine.go_back((trial, None));
            }
        }
        self.engine.on(&EngineEvent::Resumed { written_off }, at);
    }

    fn step(&self) -> usize {
        match self.mode {
            Mode::Plan => self.release().step_number(),
            Mode::Fixed => self.weights,
        }
    }

    fn answer(&self, verdict: RunOutcome, objective: Option<&'static str>) -> RunResult {
        let canary = self.judge().canary();
        let (log_e, log_e_max) = self.judge().log_e();
        RunResult {
            run: self.name.clone(),
            verdict,
            at_ms: self.now_ms,
            step: match self.mode {
                Mode::Plan => self.engine.release().step_number(),
                Mode::Fixed => self.weights,
            },
            canary_requests: canary.requests,
            canary_failures: canary.failures,
            objective,
            log_e,
            log_e_max,
        }
    }
}

/// Whether both arms have traffic at `weight`.
fn compares(weight: f64) -> bool {
    weight > 0.0 && weight < 1.0
}

/// Whether the canary goes to its next step, or is promoted.
fn goes_forward(decision: &Decision) -> bool {
    let after = &decision.transition.after;
    decision.transition.direction == Direction::Away || after.phase == Phase::Promoted
}

/// What ended a release, as results name it.
fn objective(release: &ReleaseState) -> Option<&'static str> {
    const KNOWN: [&str; 9] = [
        "error_rate",
        "latency",
        "slo",
        "budget",
        "rescued_budget",
        "inconclusive",
        "health",
        "preflight",
        "operator",
    ];
    let outcome = release.outcome.as_ref()?;
    let by = outcome.objective.as_deref()?;
    KNOWN.into_iter().find(|known| *known == by)
}
