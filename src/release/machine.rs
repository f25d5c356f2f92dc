//! What follows from what.
//!
//! The brakes come first: a verdict against the canary, a spent budget or a dead canary end the
//! release in every phase before the end, whatever gates, freezes and pauses there are. What moves
//! traffic towards the canary passes all of them, in this order: the judge's word, a pause, the
//! schedule, the gate, the freeze.
//!
//! - *Start.* At its time, with the plan's own gate open and outside of freezes, the preflight
//!   begins. When it ends well but the release was paused or frozen meanwhile, it waits again, and
//!   the preflight is made anew later, since one of before says little.
//! - *Steps.* A step is left when the judge says so at that moment; evidence that was enough an
//!   hour ago and no longer is does not do. A step's own gate is asked before the release leaves
//!   it.
//! - *100 percent.* Reached from the last step below it; with a final bake or a gate there it is
//!   phase `baking`, without either the canary is promoted at once. A freeze does not delay the
//!   promotion from there, which moves no traffic.
//! - *Holds.* When the judge wants a person to look, the release waits. It goes on by itself when
//!   the judge changes its mind, or by `resume`, which stands for the judge's word and for nothing
//!   else: gate and freeze still count.
//! - *The end* is the end: nothing leads away from it.

use super::command::{Illegal, ReleaseCommand};
use super::state::{ReleaseState, Wait, in_words};
use super::trial::Finding;
use crate::analysis::WaitReason;
use crate::model::Weight;
use crate::model::api::{Phase, ReleaseOutcome};
use crate::time::Timestamp;

/// What a release is told.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Time has passed.
    Tick,
    /// What the judge says now: to be told on each tick while [`Release::is_judged`].
    Verdict(&'a Finding),
    /// A budget is exhausted, and the data plane has taken the canary out.
    Tripped {
        /// Which: `budget` for failures that users saw, `rescued_budget` for all.
        objective: &'static str,
        /// The failures that it counts.
        spent: u64,
        /// Those that count as seen besides since restarts, which forget what was not told in
        /// time.
        written_off: u64,
        /// The budget as declared.
        limit: u64,
        /// So many were on disk as spent when more came, if it were not the budget that ended it.
        outran: Option<u64>,
    },
    /// No endpoint of the canary is healthy.
    Unhealthy {
        /// The same in words.
        detail: &'a str,
    },
    /// How the preflight ended.
    Preflight(Result<(), &'a str>),
    /// Somebody asks for something.
    Command(ReleaseCommand<'a>),
}

/// A change of a release.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The release after it.
    pub after: ReleaseState,
    /// Its name in the journal: `release_advanced`, `release_rolled_back` and so on.
    pub action: &'static str,
    /// Which way traffic goes.
    pub direction: Direction,
    /// The same in words, with numbers and reasons.
    pub detail: String,
}

/// Which way traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Away from the baseline: to be committed before it takes effect.
    Away,
    /// Towards the baseline: to take effect before it is committed.
    Towards,
    /// No traffic is moved.
    Level,
}

/// The failures of the canary in words: those that users saw, and those that count as seen since
/// restarts.
pub(super) fn seen(spent: u64, written_off: u64) -> String {
    format!(
        "users have seen {spent} failures of the canary{}",
        forgotten(written_off)
    )
}

/// The same for all failures.
pub(super) fn failed(spent: u64, written_off: u64) -> String {
    format!(
        "{spent} requests of the canary failed, whether or not users saw it{}",
        forgotten(written_off)
    )
}

fn forgotten(written_off: u64) -> String {
    match written_off {
        0 => String::new(),
        n => format!(
            ", and {n} more count as seen since the process was killed, which forgets the last of \
             them"
        ),
    }
}

impl ReleaseState {
    /// What follows; `None` when nothing does.
    ///
    /// # Errors
    ///
    /// [`Illegal`] when a command is not possible now. Nothing but a command is ever refused.
    pub fn next(&self, input: &Input<'_>, now: Timestamp) -> Result<Option<Transition>, Illegal> {
        if let Input::Command(command) = input {
            return self.obey(command, now);
        }
        if self.phase.is_over() {
            return Ok(None);
        }
        Ok(match input {
            Input::Tick | Input::Command(_) => self.tick(now),
            Input::Verdict(finding) => self.judged(finding, now),
            Input::Tripped {
                objective,
                spent,
                written_off,
                limit,
                outran,
            } => {
                let counted = match *objective {
                    "budget" => seen(*spent, *written_off),
                    _ => failed(*spent, *written_off),
                };
                let detail = match outran {
                    None => format!(
                        "{counted}: the {objective} of {limit}, beyond what the baseline's rate \
                         and chance explain, is exhausted"
                    ),
                    Some(on_disk) => format!(
                        "{counted}, faster than the disk takes them down: it had {on_disk} of the \
                         {objective} of {limit}"
                    ),
                };
                Some(self.roll_back(objective, detail, now))
            }
            Input::Unhealthy { detail } => {
                Some(self.roll_back("health", (*detail).to_owned(), now))
            }
            Input::Preflight(result) => self.checked(*result, now),
        })
    }

    fn tick(&self, now: Timestamp) -> Option<Transition> {
        if self.phase != Phase::Pending || self.barrier(now.unix_us()).is_some() {
            return None;
        }
        let detail = "the canary is asked whether it answers".to_owned();
        Some(self.change("release_preflight", detail, now, |after| {
            after.phase = Phase::Preflight
        }))
    }

    fn checked(&self, result: Result<(), &str>, now: Timestamp) -> Option<Transition> {
        if self.phase != Phase::Preflight {
            return None;
        }
        if let Err(detail) = result {
            return Some(self.roll_back("preflight", detail.to_owned(), now));
        }
        Some(match self.barrier(now.unix_us()) {
            None => self.go_on("the canary answers".to_owned(), now),
            Some(barrier) => {
                let detail = barrier.detail(self, now.unix_us());
                self.change("release_waiting", detail, now, |after| {
                    after.phase = Phase::Pending
                })
            }
        })
    }

    fn judged(&self, finding: &Finding, now: Timestamp) -> Option<Transition> {
        match finding {
            Finding::RollBack { objective, detail } => {
                Some(self.roll_back(objective, detail.clone(), now))
            }
            _ if !self.is_judged() => None,
            Finding::Advance => self.passed(now),
            Finding::Hold(reason) => self.hold(*reason, now),
            Finding::Continue => self.unproven(now),
        }
    }

    fn passed(&self, now: Timestamp) -> Option<Transition> {
        let Some(barrier) = self.barrier(now.unix_us()) else {
            let detail = format!(
                "step {} of {} is passed",
                self.step_number(),
                self.plan.steps().len()
            );
            return Some(self.go_on(detail, now));
        };
        if self.wait == Some(Wait::Passed) {
            return None;
        }
        let detail = format!(
            "the step is passed; {}",
            barrier.detail(self, now.unix_us())
        );
        Some(self.change("release_waiting", detail, now, |after| {
            after.wait_for(Wait::Passed)
        }))
    }

    fn hold(&self, reason: WaitReason, now: Timestamp) -> Option<Transition> {
        if self.wait == Some(Wait::Judge(reason)) {
            return None;
        }
        let detail = in_words(reason).to_owned();
        Some(self.change("release_waiting", detail, now, |after| {
            after.wait_for(Wait::Judge(reason))
        }))
    }

    /// The judge is of two minds again. While something else keeps the release, that may change
    /// once more unseen.
    fn unproven(&self, now: Timestamp) -> Option<Transition> {
        let kept = self.wait == Some(Wait::Passed) && self.barrier(now.unix_us()).is_some();
        if self.phase != Phase::Waiting || kept {
            return None;
        }
        let detail = match self.wait {
            Some(Wait::Judge(WaitReason::BaselineDown)) => {
                "the baseline has a healthy endpoint again and its own share: the step is under \
                 way again"
            }
            _ => {
                "the step is under way again: what is known does not suffice to go on, nor to wait"
            }
        };
        Some(self.change(
            "release_continued",
            detail.to_owned(),
            now,
            ReleaseState::be_at_step,
        ))
    }

    /// To the next step, or the first; all barriers have been passed.
    pub(crate) fn go_on(&self, why: String, now: Timestamp) -> Transition {
        let next = self.step.map_or(self.first_step, |step| step + 1);
        let Some(step) = self.plan.steps().get(next) else {
            return self.promote(why, now);
        };
        // At full weight there is nobody to compare with: without a time or a gate there is nothing
        // to stay for.
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

    /// The release after `edit`, with its times.
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
        // Also where nothing is on the canary yet: a step towards it may be on its way.
        if matches!(after.phase, Phase::RolledBack | Phase::Cancelled) {
            return Direction::Towards;
        }
        match after.weight().cmp(&self.weight()) {
            std::cmp::Ordering::Greater => Direction::Away,
            std::cmp::Ordering::Less => Direction::Towards,
            std::cmp::Ordering::Equal => Direction::Level,
        }
    }

    fn be_at_step(&mut self) {
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
