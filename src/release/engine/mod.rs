//! The decision engine of a release, the same for live releases and for replays.
//!
//! [`CohortBuilder`](cohorts::CohortBuilder) makes cohorts of what workers report. [`Engine`] holds
//! the state machine, the judge and the budgets, and decides by [`EngineEvent`]s. It does nothing
//! itself: the caller carries a [`Decision`] out and reports what became of it, so that a store
//! that is slow or refuses is an event like any other.
//!
//! Each event that may have changed the engine, or caused a decision, is recorded
//! ([`Writer`](super::replay::Writer)). An event that did neither leaves the engine as it was. So
//! the recorded events alone lead to the same decisions.

pub(crate) mod cohorts;
mod overdue;
pub(crate) mod scored;

use std::sync::Arc;

use super::machine::{Direction, Input, Transition};
use super::plan::{Plan, Step};
use super::state::ReleaseState;
use super::trial::{Finding, Trial};
use super::{Command, Illegal};
use crate::analysis::{Cohort, Matured, PendingCohort, WaitReason};
use crate::model::Weight;
use crate::time::Timestamp;

/// A time: milliseconds of the release, which the judge goes by, and the clock, which schedules,
/// gates and freezes go by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at_ms: u64,
    pub(crate) now: Timestamp,
}

/// What an engine decides by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EngineEvent<'a> {
    /// The baseline's history before the release: responses by latency, and failures.
    Past {
        latency_us: &'a [(u64, u64)],
        failures: u64,
    },
    /// A scored cohort.
    Cohort(&'a Cohort<'a>),
    /// A cohort of a time in which the arms cannot be compared: it only explains failures.
    Tainted(&'a Cohort<'a>),
    /// Units of a sticky release that reached the age `bake`.
    Matured(&'a Matured),
    /// What is known beside cohorts. Decides nothing by itself.
    Facts(Facts),
    /// Time has passed.
    Tick,
    /// The data plane has removed the canary: the fields of [`Input::Tripped`].
    Tripped(TrippedBudget),
    /// No endpoint of the canary is healthy.
    Unhealthy(&'a str),
    /// The result of the preflight.
    Preflight(Result<(), &'a str>),
    /// A decision is being carried out: the judge begins the step that it leads to.
    Accepted(&'a Decision),
    /// The release in effect.
    Applied(&'a ReleaseState),
    /// The last decision was not carried out.
    Refused,
    /// Another process continues the release, with these failures counted because a killed process
    /// lost its last counts: those that users saw, and all.
    Resumed { written_off: [u64; 2] },
}

/// A budget that the data plane found exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrippedBudget {
    pub(crate) objective: &'static str,
    pub(crate) spent: u64,
    pub(crate) written_off: u64,
    pub(crate) limit: u64,
    pub(crate) outran: Option<u64>,
}

/// What is known beside cohorts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The baseline has users but no healthy endpoint.
    pub(crate) baseline_down: bool,
    /// The canary was full within the last seconds.
    pub(crate) canary_full: bool,
    /// A refused decision is not tried again yet.
    pub(crate) retrying: bool,
    /// Requests of the canary that are open past the landmark.
    pub(crate) open: u32,
    /// Requests that wait for scoring.
    pub(crate) pending: PendingCohort,
    /// Failures of the canary that count as spent: those that users saw, and all.
    pub(crate) spent: [u64; 2],
}

impl Facts {
    /// These facts with other counts of pending requests and failures, which only budgets need.
    pub(super) fn with_counts(self, other: Facts) -> Facts {
        Facts {
            pending: other.pending,
            spent: other.spent,
            ..self
        }
    }
}

/// A transition that is due.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision {
    pub(crate) transition: Transition,
    /// The judge's time at which it is due.
    pub(crate) at_ms: u64,
}

impl Decision {
    /// Whether it is committed before it is in effect.
    pub(crate) fn is_away(&self) -> bool {
        self.transition.direction == Direction::Away
    }
}

/// The decision engine of one release.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    release: ReleaseState,
    trial: Trial,
    /// The step of the trial. Ahead of the release's step while a decision is carried out.
    trial_step: Option<usize>,
    facts: Facts,
    /// A decision away from the baseline is being committed.
    is_committing: bool,
    /// Time and traffic are no evidence for the canary; see [`Engine::follow_weight`].
    only_brakes: bool,
}

impl Engine {
    /// An engine for a release with this trial, which has begun the step `trial_step`.
    pub(crate) fn new(release: ReleaseState, trial: Trial, trial_step: Option<usize>) -> Engine {
        Engine {
            release,
            trial,
            trial_step,
            facts: Facts::default(),
            is_committing: false,
            only_brakes: false,
        }
    }

    pub(crate) fn release(&self) -> &ReleaseState {
        &self.release
    }

    pub(crate) fn trial(&self) -> &Trial {
        &self.trial
    }

    pub(crate) fn trial_step(&self) -> Option<usize> {
        self.trial_step
    }

    pub(crate) fn facts(&self) -> Facts {
        self.facts
    }

    /// Handles an event; returns the transition that follows, if one does.
    pub(crate) fn on(&mut self, event: &EngineEvent<'_>, at: Moment) -> Option<Decision> {
        match *event {
            EngineEvent::Past {
                latency_us,
                failures,
            } => self.trial.warm(latency_us, failures),
            EngineEvent::Cohort(cohort) => {
                self.trial.explain(cohort);
                self.trial.judge(cohort);
                self.trial.count(cohort);
                return self.judged(at);
            }
            EngineEvent::Tainted(cohort) => self.trial.explain(cohort),
            EngineEvent::Matured(matured) => {
                self.trial.mature(at.at_ms, matured);
                return self.judged(at);
            }
            EngineEvent::Facts(facts) => self.know(facts),
            EngineEvent::Tick => return self.judged(at),
            EngineEvent::Tripped(trip) => return self.tripped(trip, at),
            EngineEvent::Unhealthy(detail) => return self.next(&Input::Unhealthy { detail }, at),
            EngineEvent::Preflight(result) => return self.next(&Input::Preflight(result), at),
            EngineEvent::Accepted(decision) => self.accept(decision),
            EngineEvent::Applied(release) => {
                self.is_committing = false;
                self.release = release.clone();
            }
            EngineEvent::Refused => self.step_back(at),
            EngineEvent::Resumed { written_off } => {
                let [visible, all] = written_off;
                self.trial.set_written_off(visible, all);
                self.step_back(at);
                self.facts = Facts::default();
            }
        }
        None
    }

    /// The transition that a command causes, if any.
    pub(crate) fn command(
        &self,
        command: &Command<'_>,
        at: Moment,
    ) -> Result<Option<Decision>, Illegal> {
        let next = self
            .release
            .next(&Input::Command(*command), at.now)?
            .map(|transition| Decision {
                transition,
                at_ms: at.at_ms,
            });
        Ok(next)
    }

    /// The finding at this time, as far as it may decide.
    pub(crate) fn finding(&self, at_ms: u64) -> Finding {
        let finding = if self.only_brakes {
            self.trial.brake()
        } else {
            self.trial.finding_given(at_ms, self.facts.pending)
        };
        self.checked(finding)
    }

    /// Whether more of the canary's requests are open past the landmark than the baseline's rate
    /// explains.
    pub(crate) fn is_stalled(&self) -> bool {
        // The limit of the baseline's rate is found by bisection, and this runs with each cohort.
        let open = self.facts.open;
        open > 0 && f64::from(open) > self.trial.unfinished_explained()
    }

    /// Whether the budgets decide the same with these counts as with those that are known.
    pub(super) fn decides_alike(&self, counts: Facts) -> bool {
        let by = |facts: Facts| self.trial.is_exhausted_by(facts.spent, facts.pending);
        counts == self.facts || by(counts) == by(self.facts)
    }

    /// Follows weights that are set from outside. A weight at which the arms can be compared is a
    /// step of its own, the only one of the plan; any other is no evidence for the canary.
    pub(super) fn follow_weight(&mut self, weight: f64, only_brakes: bool, at: Moment) {
        self.only_brakes = only_brakes;
        let known = self.release.present_step();
        if only_brakes || known.is_some_and(|step| step.judged.weight == weight) {
            return;
        }
        let judged = self.release.plan.decided_by.fit(weight);
        let step = Step {
            weight: weight_of(weight),
            gate: None,
            judged,
        };
        Arc::make_mut(&mut self.release.plan).steps = vec![step];
        self.release.step = Some(0);
        self.release.phase = crate::model::api::Phase::Progressing;
        self.release.wait = None;
        self.trial_step = None;
        self.begin_step(0, at.at_ms);
    }

    /// The judged state, as a checkpoint has it.
    pub(super) fn checkpoint(&self) -> (Trial, Option<usize>) {
        (self.trial.clone(), self.trial_step)
    }

    /// Goes back to the judged state of a checkpoint, as a process does that continues a release.
    pub(super) fn go_back(&mut self, (trial, trial_step): (Trial, Option<usize>)) {
        (self.trial, self.trial_step) = (trial, trial_step);
    }

    /// From here on a passed weight stays passed.
    pub(super) fn only_brake(&mut self) {
        self.only_brakes = true;
    }

    pub(super) fn only_brakes(&self) -> bool {
        self.only_brakes
    }

    /// Goes to a step, counted from 1, that the live release reached by a command.
    pub(super) fn go_to_step(&mut self, number: usize, at: Moment) {
        let step = number.saturating_sub(1);
        if step < self.release.plan.steps().len() {
            self.release.step = Some(step);
            self.release.be_at_step();
            self.begin_step(step, at.at_ms);
        }
    }

    fn know(&mut self, facts: Facts) {
        let [visible, all] = facts.spent;
        self.trial.set_spent(visible);
        self.trial.set_failed(all);
        self.facts = facts;
    }

    /// The transition that follows from the evidence, or else from the time.
    fn judged(&self, at: Moment) -> Option<Decision> {
        let finding = self.finding(at.at_ms);
        self.next(&Input::Verdict(&finding), at)
            .or_else(|| self.next(&Input::Tick, at))
    }

    /// Adjusts a finding by facts that no cohort has: nothing is compared while the canary is full
    /// or the baseline is down, and no step ends while more requests are stalled than the
    /// baseline's rate explains.
    fn checked(&self, finding: Finding) -> Finding {
        let is_policy = matches!(
            &finding,
            Finding::RollBack {
                objective: "inconclusive",
                ..
            }
        );
        let brakes = matches!(finding, Finding::RollBack { .. });
        if self.facts.baseline_down && (!brakes || is_policy) {
            return Finding::Hold(WaitReason::BaselineDown);
        }
        if !brakes && self.facts.canary_full {
            return Finding::Hold(WaitReason::CanaryFull);
        }
        if finding == Finding::Advance && self.is_stalled() {
            return Finding::Continue;
        }
        finding
    }

    fn tripped(&self, trip: TrippedBudget, at: Moment) -> Option<Decision> {
        let budget = match trip.objective {
            "budget" => self.release.plan.budget(),
            _ => self.release.plan.rescued_budget(),
        };
        // A recording may be judged by a plan with larger budgets than the live release had.
        if budget > trip.limit {
            return None;
        }
        let input = Input::Tripped {
            objective: trip.objective,
            spent: trip.spent,
            written_off: trip.written_off,
            limit: trip.limit,
            outran: trip.outran,
        };
        self.next(&input, at)
    }

    /// An illegal input has no caller to report it to; it gives no transition. While a decision is
    /// carried out, or waits to be tried again, only traffic towards the baseline moves.
    fn next(&self, input: &Input<'_>, at: Moment) -> Option<Decision> {
        let transition = self.release.next(input, at.now).ok().flatten()?;
        let waits = self.is_committing || self.facts.retrying;
        (transition.direction == Direction::Towards || !waits).then_some(Decision {
            transition,
            at_ms: at.at_ms,
        })
    }

    /// The judge begins a step when that is decided, not when it is in effect.
    fn accept(&mut self, decision: &Decision) {
        if !decision.is_away() {
            return;
        }
        self.is_committing = true;
        if let Some(step) = decision.transition.after.step() {
            self.begin_step(step, decision.at_ms);
        }
    }

    /// Undoes the begin of a step whose transition did not happen.
    fn step_back(&mut self, at: Moment) {
        self.is_committing = false;
        self.facts.retrying = true;
        match self.release.step() {
            Some(step) => self.begin_step(step, at.at_ms),
            None => self.trial_step = None,
        }
    }

    fn begin_step(&mut self, step: usize, at_ms: u64) {
        if self.trial_step != Some(step) {
            self.trial_step = Some(step);
            let plan = Arc::clone(&self.release.plan);
            self.trial.begin_step(at_ms, step, &plan);
        }
    }
}

/// The nearest weight of a routing table, between both ends unless it is one.
pub(super) fn weight_of(weight: f64) -> Weight {
    let percent = (weight * 1e4).round() / 1e2;
    let percent = if weight < 1.0 {
        percent.clamp(0.01, 99.99)
    } else {
        100.0
    };
    Weight::from_percent(percent).unwrap_or(Weight::FULL)
}

impl Plan {
    /// The plan of a recorded run: its steps, and with `live` also the gates and freezes of the
    /// release that was recorded.
    pub(super) fn of_run(decided_by: super::replay::RunPlan, live: Option<Plan>) -> Plan {
        let mut plan = live.unwrap_or_default();
        let gates = std::mem::take(&mut plan.steps);
        let judged = decided_by.walk().into_iter().enumerate();
        plan.steps = judged
            .map(|(at, judged)| Step {
                weight: weight_of(judged.weight),
                gate: gates.get(at).and_then(|step| step.gate.clone()),
                judged,
            })
            .collect();
        plan.decided_by = decided_by;
        plan
    }

    /// Whether its decisions depend on the time of day.
    pub(super) fn reads_clock(&self) -> bool {
        !self.freeze.is_empty() || self.gates().any(|gate| gate.expires.is_some())
    }
}
