//! What people may ask of a release, and what they are told when it is not possible.
//!
//! A rollback and a cancellation are never refused before the end. Asking for what already holds (a
//! pause of a paused release, a second word of the same person) changes nothing and is no error.

use super::gate::{Gate, GateApproval};
use super::machine::Transition;
use super::state::{Barrier, ReleaseState, Statement, Wait, because};
use crate::model::Weight;
use crate::model::api::Phase;
use crate::time::Timestamp;

/// What is asked of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReleaseAction {
    /// Not to go on. The brakes work all the same.
    Pause,
    /// To go on: after a pause, or past a step that gave no answer.
    Resume,
    /// One person's word for a gate.
    Approve,
    /// To 100 percent at once; at 100 percent, to end the final bake.
    Promote,
    /// All weight back to the baseline, for good.
    RollBack,
    /// All weight back to the baseline, without a judgement.
    Cancel,
}

/// A verb with what came with it.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseCommand<'a> {
    /// What is asked.
    pub verb: ReleaseAction,
    /// Who asks: the name of the token.
    pub by: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
    /// [`Verb::Approve`]: the gate that is meant. Without it the one where the release is.
    pub gate: Option<&'a str>,
    /// [`Verb::Resume`] and [`Verb::Promote`]: go on through freeze windows.
    pub override_freeze: bool,
    /// Whether `by` may ask for that.
    pub may_override: bool,
}

/// Why a command is refused. Nothing changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// Not now (409): the text says where the release is and what would be possible.
    #[error("{0}")]
    Now(String),
    /// Not by this person (403).
    #[error("{0}")]
    Person(String),
    /// Not like this (422): a field is missing, or belongs to another verb.
    #[error("{0}")]
    Unfit(String),
}

impl ReleaseAction {
    /// Its name in paths, in the journal and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            ReleaseAction::Pause => "pause",
            ReleaseAction::Resume => "resume",
            ReleaseAction::Approve => "approve",
            ReleaseAction::Promote => "promote",
            ReleaseAction::RollBack => "rollback",
            ReleaseAction::Cancel => "cancel",
        }
    }
}

impl ReleaseCommand<'_> {
    /// Whether a freeze may be overridden, for a start as for a verb; `Ok(false)` when that is not
    /// asked for.
    ///
    /// # Errors
    ///
    /// [`Illegal::Person`] without the right to, [`Illegal::Unfit`] without a reason.
    pub fn overriding(
        asked: bool,
        may_override: bool,
        reason: Option<&str>,
    ) -> Result<bool, Illegal> {
        if !asked {
            return Ok(false);
        }
        if !may_override {
            return Err(Illegal::Person(
                "only the role admin may override a freeze".to_owned(),
            ));
        }
        if reason.is_none_or(|reason| reason.trim().is_empty()) {
            return Err(Illegal::Unfit("override_freeze needs a reason".to_owned()));
        }
        Ok(true)
    }

    fn overrides(&self) -> Result<bool, Illegal> {
        ReleaseCommand::overriding(self.override_freeze, self.may_override, self.reason)
    }

    fn told(&self, what: &str) -> String {
        format!("{what} by {}{}", self.by, because(self.reason))
    }

    /// Fields that say nothing with this verb are no reason to brake later, so only verbs that go
    /// on look at them.
    fn fits(&self) -> Result<(), Illegal> {
        let of_gate = self.verb == ReleaseAction::Approve;
        if self.gate.is_some() && !of_gate {
            return Err(Illegal::Unfit("gate goes with approve only".to_owned()));
        }
        if self.override_freeze && of_gate {
            return Err(Illegal::Unfit(
                "override_freeze goes with resume and promote only".to_owned(),
            ));
        }
        Ok(())
    }
}

impl ReleaseState {
    pub(crate) fn obey(
        &self,
        command: &ReleaseCommand<'_>,
        now: Timestamp,
    ) -> Result<Option<Transition>, Illegal> {
        if self.phase.is_over() {
            return Err(self.illegal(command.verb, now));
        }
        match command.verb {
            ReleaseAction::Pause => return Ok(self.pause(command, now)),
            ReleaseAction::RollBack => {
                return Ok(Some(self.roll_back(
                    "operator",
                    command.told("rolled back"),
                    now,
                )));
            }
            ReleaseAction::Cancel => {
                let (why, phase) = (command.told("cancelled"), Phase::Cancelled);
                return Ok(Some(self.give_up(
                    phase,
                    "release_cancelled",
                    "operator",
                    why,
                    now,
                )));
            }
            ReleaseAction::Resume | ReleaseAction::Approve | ReleaseAction::Promote => {
                command.fits()?
            }
        }
        match command.verb {
            ReleaseAction::Resume => self.resume(command, now).map(Some),
            ReleaseAction::Promote => self.promote_now(command, now).map(Some),
            _ => self.approve(command, now),
        }
    }

    fn pause(&self, command: &ReleaseCommand<'_>, now: Timestamp) -> Option<Transition> {
        let word = Statement {
            by: command.by.to_owned(),
            reason: command.reason.map(str::to_owned),
        };
        let pause = |after: &mut ReleaseState| after.paused = Some(word);
        let wanted = self.paused.is_none();
        wanted.then(|| self.change("release_paused", command.told("paused"), now, pause))
    }

    /// Ends a pause; without one it is a person's word for a step that gave no answer. With
    /// `override_freeze` the rest of the release goes through freeze windows, which may be all
    /// that is asked.
    fn resume(&self, command: &ReleaseCommand<'_>, now: Timestamp) -> Result<Transition, Illegal> {
        let overrides = command.overrides()?;
        let by_judge = matches!(self.wait, Some(Wait::Judge(_)));
        let with_override = ReleaseState {
            override_freeze: self.override_freeze || overrides,
            ..self.clone()
        };
        if by_judge && self.paused.is_none() {
            with_override.unbarred(command.verb, now)?;
            let detail = command.told("taken on past a step that gave no answer");
            let mut transition = with_override.go_on(detail, now);
            transition.detail += overriding(overrides);
            return Ok(transition);
        }
        if self.paused.is_none() && !overrides {
            return Err(self.illegal(command.verb, now));
        }
        let detail = command.told("resumed") + overriding(overrides);
        Ok(self.change("release_resumed", detail, now, |after| {
            after.paused = None;
            after.override_freeze = with_override.override_freeze;
        }))
    }

    /// A voice for a gate that is ahead. A gate where the release is not yet must be named, so that
    /// nobody approves blindly. Said again by the same person it is still one voice, which
    /// where voices expire is young again.
    fn approve(
        &self,
        command: &ReleaseCommand<'_>,
        now: Timestamp,
    ) -> Result<Option<Transition>, Illegal> {
        let now_us = now.unix_us();
        let gate = self.meant(command, now_us)?;
        gate.admits(command.by, &self.actor)
            .map_err(Illegal::Person)?;
        let of_person = |voice: &GateApproval| voice.gate == gate.name && voice.by == command.by;
        let counts = self
            .voices
            .iter()
            .any(|voice| of_person(voice) && gate.is_fresh(voice, now_us));
        if counts && gate.expires.is_none() {
            return Ok(None);
        }
        let voice = GateApproval {
            gate: gate.name.clone(),
            by: command.by.to_owned(),
            unix_us: now_us,
            reason: command.reason.map(str::to_owned),
        };
        let detail = format!("gate `{}` {}", gate.name, command.told("approved"));
        let approved = self.change("release_approved", detail, now, |after| {
            after.voices.retain(|voice| !of_person(voice));
            after.voices.push(voice);
        });
        Ok(Some(approved))
    }

    fn meant(&self, command: &ReleaseCommand<'_>, now_us: i64) -> Result<&Gate, Illegal> {
        let ahead: Vec<&str> = self.gates_ahead().map(|gate| gate.name.as_str()).collect();
        let quoted = ahead
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        match command.gate {
            _ if ahead.is_empty() => Err(Illegal::Now(format!(
                "release {} is {}, and no gate is ahead of it",
                self.id,
                self.whereabouts()
            ))),
            Some(name) => self
                .gates_ahead()
                .find(|gate| gate.name == name)
                .ok_or_else(|| {
                    Illegal::Now(format!(
                        "no gate `{name}` is ahead of release {}; there are {quoted}",
                        self.id
                    ))
                }),
            None => self
                .present_gate()
                .filter(|gate| {
                    !gate.is_open(&self.voices, now_us)
                        || gate.expires.is_some()
                        || ahead.len() == 1
                })
                .ok_or_else(|| {
                    Illegal::Now(format!(
                        "release {} is {} and waits for no gate; name the one that is meant: \
                         {quoted}",
                        self.id,
                        self.whereabouts()
                    ))
                }),
        }
    }

    fn promote_now(
        &self,
        command: &ReleaseCommand<'_>,
        now: Timestamp,
    ) -> Result<Transition, Illegal> {
        if !self.is_judged() {
            return Err(self.illegal(command.verb, now));
        }
        let overrides = command.overrides()?;
        if let Some(gate) = self
            .gates_ahead()
            .find(|gate| !gate.is_open(&self.voices, now.unix_us()))
        {
            let missing = gate.missing(&self.voices, now.unix_us());
            return Err(Illegal::Now(format!(
                "promote does not skip gates: {missing}"
            )));
        }
        let detail = command.told("promoted") + overriding(overrides);
        let going = ReleaseState {
            override_freeze: self.override_freeze || overrides,
            paused: None,
            hastened: Some(detail.clone()),
            ..self.clone()
        };
        going.unbarred(command.verb, now)?;
        Ok(going.to_full(detail, now))
    }

    /// To 100 percent; from there to the end.
    fn to_full(&self, why: String, now: Timestamp) -> Transition {
        if self.weight() == Weight::FULL {
            return self.promote(why, now);
        }
        // As if it stood at the last step before full weight.
        let before_last = self.plan.steps().len().saturating_sub(2);
        let at_last = ReleaseState {
            step: Some(before_last),
            ..self.clone()
        };
        let mut transition = at_last.go_on(why, now);
        transition.after.since_us = now.unix_us().max(self.since_us);
        transition
    }

    /// Whether gate and freeze let it go on.
    fn unbarred(&self, verb: ReleaseAction, now: Timestamp) -> Result<(), Illegal> {
        let barrier = self.barrier(now.unix_us());
        let Some(barrier) = barrier else {
            return Ok(());
        };
        let detail = barrier.detail(self, now.unix_us());
        let help = match barrier {
            Barrier::Freeze(_) => {
                "; the role admin may override it with override_freeze and a reason"
            }
            _ => "",
        };
        Err(Illegal::Now(format!(
            "{} is not possible now: {detail}{help}",
            verb.as_str()
        )))
    }

    fn illegal(&self, verb: ReleaseAction, now: Timestamp) -> Illegal {
        let possible = self.possible().join(", ");
        let then = if possible.is_empty() {
            "nothing follows any more; start a new release".to_owned()
        } else {
            format!("possible now: {possible}")
        };
        let frozen = self.frozen_out(now).unwrap_or_default();
        let verb = verb.as_str();
        Illegal::Now(format!(
            "{verb} is not possible: release {} is {}{frozen}; {then}",
            self.id,
            self.whereabouts()
        ))
    }

    /// Why it has not begun and how it could, where that is a freeze.
    fn frozen_out(&self, now: Timestamp) -> Option<String> {
        let barrier = self
            .barrier(now.unix_us())
            .filter(|_| self.phase == Phase::Pending)?;
        let Barrier::Freeze(_) = barrier else {
            return None;
        };
        let detail = barrier.detail(self, now.unix_us());
        Some(format!(
            " ({detail}; it begins by itself then, or at once by resume with override_freeze and \
             a reason, which the role admin may)"
        ))
    }

    /// The phase and step in words.
    fn whereabouts(&self) -> String {
        let paused = if self.is_paused() { ", paused" } else { "" };
        match self.step {
            Some(_) if !self.phase.is_over() => {
                let (step, all) = (self.step_number(), self.plan.steps().len());
                format!(
                    "{} at step {step} of {all} ({}%){paused}",
                    self.phase,
                    self.weight()
                )
            }
            _ => format!("{}{paused}", self.phase),
        }
    }

    fn possible(&self) -> Vec<&'static str> {
        if self.phase.is_over() {
            return Vec::new();
        }
        let resumable = self.is_paused() || matches!(self.wait, Some(Wait::Judge(_)));
        let verbs = [
            (ReleaseAction::Pause, !self.is_paused()),
            (ReleaseAction::Resume, resumable),
            (ReleaseAction::Approve, self.gates_ahead().next().is_some()),
            (ReleaseAction::Promote, self.is_judged()),
            (ReleaseAction::RollBack, true),
            (ReleaseAction::Cancel, true),
        ];
        let possible = verbs.into_iter().filter(|(_, possible)| *possible);
        possible.map(|(verb, _)| verb.as_str()).collect()
    }
}

/// What is said of a turn that goes through freeze windows.
pub(crate) fn overriding(overrides: bool) -> &'static str {
    if overrides {
        "; freeze windows are overridden"
    } else {
        ""
    }
}
