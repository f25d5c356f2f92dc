//! The transitions of a release.
//!
//! Rollbacks come first: a verdict against the canary, an exhausted budget or an unhealthy canary
//! ends the release in every phase, regardless of gates, freezes and pauses. A transition that
//! moves traffic to the canary must pass, in this order: the judge, a pause, the schedule, the
//! gate, the freeze.
//!
//! - *Start.* At the scheduled time, with the start gate open and outside of freezes, the preflight
//!   runs. If the release was paused or frozen by the time it succeeds, the release waits and runs
//!   the preflight again later, since the old result is stale.
//! - *Steps.* A step is left when the judge says so at that moment; earlier evidence that no longer
//!   suffices does not count. A step's gate is checked before the release leaves it.
//! - *100 percent.* Reached from the last step below it. With a final bake or a gate there the
//!   phase is `baking`; otherwise the canary is promoted immediately. A freeze does not delay the
//!   promotion, since that moves no traffic.
//! - *Holds.* When the judge asks for a person, the release waits. It continues when the judge
//!   changes its verdict, or by `resume`, which replaces the judge's verdict only: gate and freeze
//!   still apply.
//! - *End.* No transition leaves an ended release.

use super::command::{Command, Illegal};
use super::state::{ReleaseState, Wait, wait_detail};
use super::trial::Finding;
use crate::analysis::WaitReason;
use crate::model::Weight;
use crate::model::api::{Phase, ReleaseOutcome};
use crate::time::Timestamp;

/// An input of the state machine.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Time has passed.
    Tick,
    /// The current verdict, sent on each tick while [`ReleaseState::is_judged`].
    Verdict(&'a Finding),
    /// A budget is exhausted, and the data plane has removed the canary.
    Tripped {
        /// `budget` for failures that users saw, `rescued_budget` for all failures.
        objective: &'static str,
        /// The failures counted.
        spent: u64,
        /// Further failures counted as seen because restarts lost unreported counts.
        written_off: u64,
        /// The configured budget.
        limit: u64,
        /// The failures that were on disk as spent when more arrived, if writing was too slow
        /// rather than the budget exhausted.
        outran: Option<u64>,
    },
    /// No endpoint of the canary is healthy.
    Unhealthy {
        /// The reason as text.
        detail: &'a str,
    },
    /// The result of the preflight.
    Preflight(Result<(), &'a str>),
    /// An operator command.
    Command(Command<'a>),
}

/// A change of a release.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The release after the change.
    pub after: ReleaseState,
    /// The action in the journal: `release_advanced`, `release_rolled_back` and so on.
    pub action: &'static str,
    /// The direction in which traffic moves.
    pub direction: Direction,
    /// The description, with numbers and reasons.
    pub detail: String,
}

/// The direction in which traffic moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Away from the baseline: committed before it takes effect.
    Away,
    /// Towards the baseline: takes effect before it is committed.
    Towards,
    /// No traffic moves.
    Level,
}

/// The failures of the canary as text: those that users saw, and those counted as seen because of
/// restarts.
pub(super) fn visible_failures_text(spent: u64, written_off: u64) -> String {
    format!(
        "users have seen {spent} failures of the canary{}",
        written_off_text(written_off)
    )
}

/// The text for all failures.
pub(super) fn all_failures_text(spent: u64, written_off: u64) -> String {
    format!(
        "{spent} requests of the canary failed, whether or not users saw it{}",
        written_off_text(written_off)
    )
}

fn written_off_text(written_off: u64) -> String {
    match written_off {
        0 => String::new(),
        n => format!(
            ", and {n} more are counted because a killed process lost its last \
             counts"
        ),
    }
}

impl ReleaseState {
    /// The transition that `input` causes, if any.
    ///
    /// # Errors
    ///
    /// [`Illegal`] when a command is not possible now. Other inputs are never refused.
    pub fn next(&self, input: &Input<'_>, now: Timestamp) -> Result<Option<Transition>, Illegal> {
        if let Input::Command(command) = input {
            return self.on_command(command, now);
        }
        if self.phase.is_over() {
            return Ok(None);
        }
        Ok(match input {
            Input::Tick | Input::Command(_) => self.tick(now),
            Input::Verdict(finding) => self.on_finding(finding, now),
            Input::Tripped {
                objective,
                spent,
                written_off,
                limit,
                outran,
            } => {
                let counted = match *objective {
                    "budget" => visible_failures_text(*spent, *written_off),
                    _ => all_failures_text(*spent, *written_off),
                };
                let detail = match outran {
                    None => format!(
                        "{counted}: the {objective} of {limit}, beyond what the baseline's rate \
                         and chance explain, is exhausted"
                    ),
                    Some(on_disk) => format!(
                        "{counted}, faster than they could be written to disk: {on_disk} of the \
                         {objective} of {limit} were on disk"
                    ),
                };
                Some(self.roll_back(objective, detail, now))
            }
            Input::Unhealthy { detail } => {
                Some(self.roll_back("health", (*detail).to_owned(), now))
            }
            Input::Preflight(result) => self.on_preflight(*result, now),
        })
    }

    fn tick(&self, now: Timestamp) -> Option<Transition> {
        if self.phase != Phase::Pending || self.barrier(now.unix_us()).is_some() {
            return None;
        }
        let detail = "preflight checks are running".to_owned();
        Some(self.change("release_preflight", detail, now, |after| {
            after.phase = Phase::Preflight
        }))
    }

    fn on_preflight(&self, result: Result<(), &str>, now: Timestamp) -> Option<Transition> {
        if self.phase != Phase::Preflight {
            return None;
        }
        if let Err(detail) = result {
            return Some(self.roll_back("preflight", detail.to_owned(), now));
        }
        Some(match self.barrier(now.unix_us()) {
            None => self.go_on("preflight checks passed".to_owned(), now),
            Some(barrier) => {
                let detail = barrier.detail(self, now.unix_us());
                self.change("release_waiting", detail, now, |after| {
                    after.phase = Phase::Pending
                })
            }
        })
    }

    fn on_finding(&self, finding: &Finding, now: Timestamp) -> Option<Transition> {
        match finding {
            Finding::RollBack { objective, detail } => {
                Some(self.roll_back(objective, detail.clone(), now))
            }
            _ if !self.is_judged() => None,
            Finding::Advance => self.on_step_passed(now),
            Finding::Hold(reason) => self.hold(*reason, now),
            Finding::Continue => self.on_continue(now),
        }
    }

    fn on_step_passed(&self, now: Timestamp) -> Option<Transition> {
        let Some(barrier) = self.barrier(now.unix_us()) else {
            let detail = format!(
                "step {} of {} passed",
                self.step_number(),
                self.plan.steps().len()
            );
            return Some(self.go_on(detail, now));
        };
        if self.wait == Some(Wait::Passed) {
            return None;
        }
        let detail = format!("the step passed; {}", barrier.detail(self, now.unix_us()));
        Some(self.change("release_waiting", detail, now, |after| {
            after.wait_for(Wait::Passed)
        }))
    }

    fn hold(&self, reason: WaitReason, now: Timestamp) -> Option<Transition> {
        if self.wait == Some(Wait::Judge(reason)) {
            return None;
        }
        let detail = wait_detail(reason).to_owned();
        Some(self.change("release_waiting", detail, now, |after| {
            after.wait_for(Wait::Judge(reason))
        }))
    }

    /// The judge no longer holds or advances. While a barrier keeps the release, this is not
    /// reported, since it may change again.
    fn on_continue(&self, now: Timestamp) -> Option<Transition> {
        let blocked = self.wait == Some(Wait::Passed) && self.barrier(now.unix_us()).is_some();
        if self.phase != Phase::Waiting || blocked {
            return None;
        }
        let detail = match self.wait {
            Some(Wait::Judge(WaitReason::BaselineDown)) => {
                "the baseline has a healthy endpoint again and receives its share: the step \
                 continues"
            }
            _ => "not enough evidence to advance; the step continues",
        };
        Some(self.change(
            "release_continued",
            detail.to_owned(),
            now,
            ReleaseState::be_at_step,
        ))
    }

    /// Goes to the next step, or the first. The caller has checked all barriers.
    pub(crate) fn go_on(&self, why: String, now: Timestamp) -> Transition {
        let next = self.step.map_or(self.first_step, |step| step + 1);
        let Some(step) = self.plan.steps().get(next) else {
            return self.promote(why, now);
        };
        // At full weight there is no concurrent baseline: without a hold time or a gate there is no
        // reason to stay.
        let stay = step.judged.min_ms > 0 || step.judged.min_requests > 0 || step.gate.is_some();
        if step.weight == Weight::FULL && !stay && self.step.is_some() {
            return self.promote(why, now);
        }
        let action = if step.weight == Weight::FULL {
            "release_baking"
        } else {
            "release_advanced"
        };
        let detail = format!("{why}; the canary gets {}%", step.weight);
        self.change(action, detail, now, |after| {
            after.step = Some(next);
            after.be_at_step();
        })
    }

    pub(crate) fn promote(&self, why: String, now: Timestamp) -> Transition {
        let reason = why.clone();
        self.change("release_promoted", why, now, |after| {
            after.step = after.plan.steps().len().checked_sub(1);
            after.end(Phase::Promoted, None, &reason);
        })
    }

    pub(crate) fn roll_back(&self, objective: &str, why: String, now: Timestamp) -> Transition {
        self.give_up(
            Phase::RolledBack,
            "release_rolled_back",
            objective,
            why,
            now,
        )
    }

    pub(crate) fn give_up(
        &self,
        phase: Phase,
        action: &'static str,
        objective: &str,
        why: String,
        now: Timestamp,
    ) -> Transition {
        let reason = why.clone();
        self.change(action, why, now, |after| {
            after.end(phase, Some(objective), &reason)
        })
    }

    /// The transition that `edit` makes, with its times.
    pub(crate) fn change(
        &self,
        action: &'static str,
        detail: String,
        now: Timestamp,
        edit: impl FnOnce(&mut ReleaseState),
    ) -> Transition {
        let mut after = self.clone();
        edit(&mut after);
        if (after.phase, after.step) != (self.phase, self.step) {
            after.since_us = now.unix_us().max(self.since_us);
        }
        if after.phase.is_over() {
            after.ended_us = Some(after.since_us);
        }
        Transition {
            direction: self.direction_to(&after),
            after,
            action,
            detail,
        }
    }

    fn direction_to(&self, after: &ReleaseState) -> Direction {
        // Also before the canary has weight: a step towards it may be in progress.
        if matches!(after.phase, Phase::RolledBack | Phase::Cancelled) {
            return Direction::Towards;
        }
        match after.weight().cmp(&self.weight()) {
            std::cmp::Ordering::Greater => Direction::Away,
            std::cmp::Ordering::Less => Direction::Towards,
            std::cmp::Ordering::Equal => Direction::Level,
        }
    }

    pub(super) fn be_at_step(&mut self) {
        self.wait = None;
        self.phase = if self
            .present_step()
            .is_some_and(|step| step.weight == Weight::FULL)
        {
            Phase::Baking
        } else {
            Phase::Progressing
        };
    }

    fn wait_for(&mut self, wait: Wait) {
        self.phase = Phase::Waiting;
        self.wait = Some(wait);
    }

    fn end(&mut self, phase: Phase, objective: Option<&str>, reason: &str) {
        self.phase = phase;
        self.wait = None;
        self.paused = None;
        self.outcome = Some(ReleaseOutcome {
            verdict: phase.as_str().to_owned(),
            objective: objective.map(str::to_owned),
            reason: reason.to_owned(),
        });
    }
}
