//! Operator commands on a release, and the errors for commands that are not possible.
//!
//! Rollback and cancel are never refused before the release ends. A command that asks for the
//! current state (pausing a paused release, a second approval by the same person) changes nothing
//! and is not an error.

use super::gate::{Gate, GateApproval};
use super::machine::Transition;
use super::state::{Barrier, ReleaseState, Statement, Wait, because};
use crate::model::Weight;
use crate::model::api::Phase;
use crate::time::Timestamp;

/// A verb that an operator can apply to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReleaseAction {
    /// Stop advancing. Rollbacks still work.
    Pause,
    /// Continue after a pause, or past an inconclusive step.
    Resume,
    /// Approve a gate; one approval per person.
    Approve,
    /// Go to 100 percent now; at 100 percent, end the final bake.
    Promote,
    /// Move all weight back to the baseline and end the release.
    RollBack,
    /// Move all weight back to the baseline without a verdict.
    Cancel,
}

/// A verb with its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// The verb.
    pub verb: ReleaseAction,
    /// The caller: the name of the token.
    pub by: &'a str,
    /// The reason given by the caller.
    pub reason: Option<&'a str>,
    /// For [`ReleaseAction::Approve`]: the gate. `None` means the gate of the current step.
    pub gate: Option<&'a str>,
    /// For [`ReleaseAction::Resume`] and [`ReleaseAction::Promote`]: ignore freeze windows.
    pub override_freeze: bool,
    /// Whether `by` may override freezes.
    pub may_override: bool,
}

/// Why a command is refused. The release is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// Not possible in the current state (409). The text names the state and the possible verbs.
    #[error("{0}")]
    Now(String),
    /// Not permitted for this caller (403).
    #[error("{0}")]
    Person(String),
    /// Invalid arguments (422): a field is missing or belongs to another verb.
    #[error("{0}")]
    Unfit(String),
}

impl ReleaseAction {
    /// The name in paths, in the journal and on the command line.
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

impl Command<'_> {
    /// Whether freeze windows are overridden, by a start or by a verb; `Ok(false)` when the caller
    /// did not ask for it.
    ///
    /// # Errors
    ///
    /// [`Illegal::Person`] without the permission, [`Illegal::Unfit`] without a reason.
    pub fn overriding(
        requested: bool,
        may_override: bool,
        reason: Option<&str>,
    ) -> Result<bool, Illegal> {
        if !requested {
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
        Command::overriding(self.override_freeze, self.may_override, self.reason)
    }

    fn describe(&self, action: &str) -> String {
        format!("{action} by {}{}", self.by, because(self.reason))
    }

    /// Checked only for verbs that move forward: an irrelevant field must not block a rollback.
    fn check_fields(&self) -> Result<(), Illegal> {
        let of_gate = self.verb == ReleaseAction::Approve;
        if self.gate.is_some() && !of_gate {
            return Err(Illegal::Unfit("gate is only valid with approve".to_owned()));
        }
        if self.override_freeze && of_gate {
            return Err(Illegal::Unfit(
                "override_freeze is only valid with resume and promote".to_owned(),
            ));
        }
        Ok(())
    }
}

impl ReleaseState {
    pub(crate) fn on_command(
        &self,
        command: &Command<'_>,
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
                    command.describe("rolled back"),
                    now,
                )));
            }
            ReleaseAction::Cancel => {
                let (why, phase) = (command.describe("cancelled"), Phase::Cancelled);
                return Ok(Some(self.give_up(
                    phase,
                    "release_cancelled",
                    "operator",
                    why,
                    now,
                )));
            }
            ReleaseAction::Resume | ReleaseAction::Approve | ReleaseAction::Promote => {
                command.check_fields()?
            }
        }
        match command.verb {
            ReleaseAction::Resume => self.resume(command, now).map(Some),
            ReleaseAction::Promote => self.promote_now(command, now).map(Some),
            _ => self.approve(command, now),
        }
    }

    fn pause(&self, command: &Command<'_>, now: Timestamp) -> Option<Transition> {
        let statement = Statement {
            by: command.by.to_owned(),
            reason: command.reason.map(str::to_owned),
        };
        let pause = |after: &mut ReleaseState| after.paused = Some(statement);
        let wanted = self.paused.is_none();
        wanted.then(|| self.change("release_paused", command.describe("paused"), now, pause))
    }

    /// Ends a pause. Without a pause, it continues past an inconclusive step. With
    /// `override_freeze` the rest of the release ignores freeze windows; a command may ask for that
    /// alone.
    fn resume(&self, command: &Command<'_>, now: Timestamp) -> Result<Transition, Illegal> {
        let overrides = command.overrides()?;
        let by_judge = matches!(self.wait, Some(Wait::Judge(_)));
        let with_override = ReleaseState {
            override_freeze: self.override_freeze || overrides,
            ..self.clone()
        };
        if by_judge && self.paused.is_none() {
            with_override.check_barriers(command.verb, now)?;
            let detail = command.describe("resumed past an inconclusive step");
            let mut transition = with_override.go_on(detail, now);
            transition.detail += overriding(overrides);
            return Ok(transition);
        }
        if self.paused.is_none() && !overrides {
            return Err(self.illegal(command.verb, now));
        }
        let detail = command.describe("resumed") + overriding(overrides);
        Ok(self.change("release_resumed", detail, now, |after| {
            after.paused = None;
            after.override_freeze = with_override.override_freeze;
        }))
    }

    /// Approves a gate ahead. A gate of a later step must be named, so that nobody approves it by
    /// mistake. A repeated approval by the same person counts once; where approvals expire, it
    /// renews the first.
    fn approve(
        &self,
        command: &Command<'_>,
        now: Timestamp,
    ) -> Result<Option<Transition>, Illegal> {
        let now_us = now.unix_us();
        let gate = self.gate_of(command, now_us)?;
        gate.admits(command.by, &self.actor)
            .map_err(Illegal::Person)?;
        let of_person =
            |approval: &GateApproval| approval.gate == gate.name && approval.by == command.by;
        let counts = self
            .voices
            .iter()
            .any(|approval| of_person(approval) && gate.is_fresh(approval, now_us));
        if counts && gate.expires.is_none() {
            return Ok(None);
        }
        let approval = GateApproval {
            gate: gate.name.clone(),
            by: command.by.to_owned(),
            unix_us: now_us,
            reason: command.reason.map(str::to_owned),
        };
        let detail = format!("gate `{}` {}", gate.name, command.describe("approved"));
        let approved = self.change("release_approved", detail, now, |after| {
            after.voices.retain(|approval| !of_person(approval));
            after.voices.push(approval);
        });
        Ok(Some(approved))
    }

    fn gate_of(&self, command: &Command<'_>, now_us: i64) -> Result<&Gate, Illegal> {
        let ahead: Vec<&str> = self.gates_ahead().map(|gate| gate.name.as_str()).collect();
        let quoted = ahead
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        match command.gate {
            _ if ahead.is_empty() => Err(Illegal::Now(format!(
                "release {} is {} and has no gate ahead",
                self.id,
                self.position()
            ))),
            Some(name) => self
                .gates_ahead()
                .find(|gate| gate.name == name)
                .ok_or_else(|| {
                    Illegal::Now(format!(
                        "release {} has no gate `{name}` ahead; gates ahead: {quoted}",
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
                        "release {} is {} and is not waiting for a gate; name one of the gates \
                         ahead: {quoted}",
                        self.id,
                        self.position()
                    ))
                }),
        }
    }

    fn promote_now(&self, command: &Command<'_>, now: Timestamp) -> Result<Transition, Illegal> {
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
        let detail = command.describe("promoted") + overriding(overrides);
        let hastened = ReleaseState {
            override_freeze: self.override_freeze || overrides,
            paused: None,
            hastened: Some(detail.clone()),
            ..self.clone()
        };
        hastened.check_barriers(command.verb, now)?;
        Ok(hastened.to_full(detail, now))
    }

    /// Goes to 100 percent; at 100 percent, promotes.
    fn to_full(&self, why: String, now: Timestamp) -> Transition {
        if self.weight() == Weight::FULL {
            return self.promote(why, now);
        }
        // Advance as if from the last step below full weight.
        let before_last = self.plan.steps().len().saturating_sub(2);
        let at_last = ReleaseState {
            step: Some(before_last),
            ..self.clone()
        };
        let mut transition = at_last.go_on(why, now);
        transition.after.since_us = now.unix_us().max(self.since_us);
        transition
    }

    /// Checks that neither a gate nor a freeze blocks the release.
    fn check_barriers(&self, verb: ReleaseAction, now: Timestamp) -> Result<(), Illegal> {
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
            "the release has ended; start a new release".to_owned()
        } else {
            format!("possible now: {possible}")
        };
        let frozen = self.freeze_note(now).unwrap_or_default();
        let verb = verb.as_str();
        Illegal::Now(format!(
            "{verb} is not possible: release {} is {}{frozen}; {then}",
            self.id,
            self.position()
        ))
    }

    /// For a pending release in a freeze: the freeze, and how the release can start.
    fn freeze_note(&self, now: Timestamp) -> Option<String> {
        let barrier = self
            .barrier(now.unix_us())
            .filter(|_| self.phase == Phase::Pending)?;
        let Barrier::Freeze(_) = barrier else {
            return None;
        };
        let detail = barrier.detail(self, now.unix_us());
        Some(format!(
            " ({detail}; it starts when the freeze ends, or now by resume with override_freeze \
             and a reason, which needs the role admin)"
        ))
    }

    /// The phase and step as text.
    fn position(&self) -> String {
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

/// Suffix for the detail of a transition that overrides freeze windows.
pub(crate) fn overriding(overrides: bool) -> &'static str {
    if overrides {
        "; freeze windows are overridden"
    } else {
        ""
    }
}
