//! The transition of a release: its effect on the service, and what remains after the last one.

use serde_json::Value;

use super::protect::PlanRecord;
use super::running::{PreflightState, RunningRelease};
use crate::control::change::{Change, Reply};
use crate::control::controller::{Controller, ServiceEntry};
use crate::control::{Intent, Refusal};
use crate::model::{Name, api};
use crate::release::engine::{Decision, EngineEvent};
use crate::release::replay::Writer;
use crate::release::{Command, Input, ReleaseAction, ReleaseState};
use crate::routing::LiveState;
use crate::store::ReleaseRecord;
use crate::time::Timestamp;

/// The actor of automatic transitions.
pub(super) const ITSELF: &str = "weighbridge";

/// A transition that is applied to a release.
pub(in crate::control) struct AppliedTransition {
    pub(super) after: ReleaseState,
    pub(super) detail: String,
    /// The new release, if it begins with this transition.
    pub(super) active: Option<Box<RunningRelease>>,
    /// The journal's record of the plan, if the release begins with this transition.
    pub(super) plan: Option<PlanRecord>,
}

impl AppliedTransition {
    /// The row of the release, if it begins with this transition.
    pub(in crate::control) fn record(&self, now: Timestamp) -> Option<ReleaseRecord> {
        Some(self.active.as_ref()?.record(&self.after, now))
    }

    /// The record of a release whose start was refused and may already be on disk; `None` for any
    /// other transition, where the release stays as it is.
    pub(in crate::control) fn withdrawn(
        self: Box<Self>,
        now: Timestamp,
    ) -> Option<Box<AppliedTransition>> {
        self.active.as_ref()?;
        let cancel = Input::Command(Command {
            verb: ReleaseAction::Cancel,
            by: "store",
            reason: None,
            gate: None,
            override_freeze: false,
            may_override: false,
        });
        let transition = self.after.next(&cancel, now).ok().flatten()?;
        Some(Box::new(AppliedTransition {
            after: transition.after,
            detail: transition.detail,
            active: self.active,
            plan: None,
        }))
    }
}

/// A release that has just ended. Its last requests may still be in progress.
pub(in crate::control) struct FinishedRelease {
    pub(super) active: Box<RunningRelease>,
    pub(super) at: Timestamp,
}

impl FinishedRelease {
    fn new(mut active: Box<RunningRelease>, at: Timestamp) -> FinishedRelease {
        // Stalled requests must not take the canary out of a table that no longer belongs to this
        // release.
        let _ = active.watch.tripwire().seal();
        // Dropping the recording flushes it.
        if let Some(recording) = active.recording.take() {
            recording.add(Writer::end(active.release()));
        }
        FinishedRelease { active, at }
    }
}

impl AppliedTransition {
    /// Whether a release begins with this transition.
    pub(in crate::control) fn begins(&self) -> bool {
        self.active.is_some()
    }
}

impl ServiceEntry {
    /// The release as it will be shown after this transition.
    pub(in crate::control) fn foreseen_release(
        &self,
        turn: &AppliedTransition,
        now: Timestamp,
    ) -> Option<api::Release> {
        let active = turn.active.as_deref().or(self.active.as_deref())?;
        Some(active.view(&turn.after, now, true))
    }

    /// The input of the routing table.
    pub(in crate::control) fn live(&self) -> LiveState {
        LiveState {
            watch: self
                .active
                .as_ref()
                .map(|active| std::sync::Arc::clone(&active.watch)),
            ..self.state.live(&self.spec.name)
        }
    }

    /// Applies a transition that is in effect. Returns whether the release has ended with it.
    pub(in crate::control) fn turn(
        &mut self,
        turn: AppliedTransition,
        action: &str,
        actor: &str,
        now: Timestamp,
    ) -> bool {
        let AppliedTransition {
            after,
            detail,
            active,
            ..
        } = turn;
        if let Some(mut active) = self.active.take().or(active) {
            if after.phase == api::Phase::Preflight {
                active.preflight = PreflightState::Due;
            }
            let weight = after.weight().percent();
            active.history.turn(now, action, actor, detail, weight);
            active.feed(&EngineEvent::Applied(&after), active.at(now));
            self.active = Some(active);
        }
        let is_over = self
            .active
            .as_ref()
            .is_some_and(|active| active.release().phase.is_over());
        if is_over {
            self.ended = self
                .active
                .take()
                .map(|active| FinishedRelease::new(active, now));
        }
        is_over
    }

    /// The row of the release after this transition, and its journal entry.
    pub(in crate::control) fn record_turn(
        &self,
        turn: &AppliedTransition,
        now: Timestamp,
        was: &mut Value,
        is: &mut Value,
    ) -> Option<ReleaseRecord> {
        let active = turn.active.as_deref().or(self.active.as_deref())?;
        let known = turn.active.is_none();
        if let (Some(was), true) = (was.as_object_mut(), known) {
            was.insert("release".to_owned(), to_json(active.release()));
        }
        if let Some(is) = is.as_object_mut() {
            let mut release = to_json(&turn.after);
            if let Some(release) = release.as_object_mut() {
                release.insert("detail".to_owned(), Value::from(turn.detail.as_str()));
                release.extend(turn.plan.iter().flat_map(PlanRecord::fields));
            }
            is.insert("release".to_owned(), release);
        }
        Some(active.record(&turn.after, now))
    }

    /// The row of the release as it is.
    pub(in crate::control) fn record_release(&self, now: Timestamp) -> Option<ReleaseRecord> {
        let active = self.active.as_ref()?;
        Some(active.record(active.release(), now))
    }
}

/// The journal's view of a release.
fn to_json(release: &ReleaseState) -> Value {
    serde_json::json!({
        "id": release.id,
        "phase": release.phase.as_str(),
        "step": release.step_number(),
        "weight": release.weight().percent(),
        "paused": release.is_paused(),
        "override_freeze": release.override_freeze,
        "approvals": release.approvals(),
    })
}

impl Controller {
    /// Applies a transition. Returns whether it was applied or is being committed.
    pub(super) fn apply_transition(
        &mut self,
        name: &Name,
        due: Decision,
        intent: Intent,
        reply: Reply,
    ) -> bool {
        let now = self.clock.now();
        let Some(managed) = self.services.get_mut(name) else {
            return false;
        };
        let away = due.is_away();
        if away && managed.pending.is_some() {
            reply.refuse(Refusal::Conflict(
                "another change is in progress; try again".to_owned(),
            ));
            return false;
        }
        if let Some(active) = &mut managed.active {
            active.feed(&EngineEvent::Accepted(&due), active.at(now));
        }
        let transition = due.transition;
        let moved = Change {
            next: managed.after(&transition.after, &intent, now),
            action: transition.action,
            intent,
            turn: Some(Box::new(AppliedTransition {
                after: transition.after,
                detail: transition.detail,
                active: None,
                plan: None,
            })),
            overridden: Vec::new(),
            reply,
        };
        if away {
            self.commit_first(name, moved);
        } else {
            self.apply_safe_change(name, moved);
        }
        true
    }

    /// Moves all weight to the baseline by command, which ends the release.
    pub(in crate::control) fn roll_back_release(
        &mut self,
        name: &Name,
        intent: Intent,
        reply: Reply,
    ) {
        let command = api::ReleaseCommand {
            reason: intent.reason.clone(),
            ..api::ReleaseCommand::default()
        };
        self.carry_out(name, ReleaseAction::RollBack, &command, intent, reply);
    }
}

impl ServiceEntry {
    /// The service's state after a transition of its release.
    fn after(
        &self,
        release: &ReleaseState,
        intent: &Intent,
        now: Timestamp,
    ) -> crate::control::state::ServiceState {
        let revision = self.next_revision();
        self.state
            .with_release(release, revision, &now.rfc3339(), intent.reason.clone())
    }
}

impl Controller {
    /// Seals the tripwire before a promotion, which ends the release. Returns false if a worker has
    /// tripped it first: then the canary is out, and stays out.
    pub(in crate::control) fn claims_promotion(&self, name: &Name, moved: &Change) -> bool {
        let promotes = moved
            .turn
            .as_ref()
            .is_some_and(|turn| turn.after.phase == api::Phase::Promoted);
        let active = self
            .services
            .get(name)
            .and_then(|managed| managed.active.as_ref());
        active.is_none_or(|active| !promotes || active.watch.tripwire().seal())
    }

    /// Makes the evidence of the previous release final if the next one ends already.
    pub(in crate::control) fn settle_before(
        &mut self,
        name: &Name,
        moved: &Change,
        now: Timestamp,
    ) {
        let ends = moved
            .turn
            .as_ref()
            .is_some_and(|turn| turn.after.phase.is_over());
        let before = self
            .services
            .get_mut(name)
            .filter(|_| ends)
            .and_then(|managed| managed.ended.take());
        if let Some(before) = before {
            self.write_evidence(name, &before, now);
        }
    }

    /// Publishes a transition to readers and events.
    pub(in crate::control) fn show_release(
        &mut self,
        name: &Name,
        action: &'static str,
        intent: &Intent,
        now: Timestamp,
    ) {
        let durable = self.outbox.store().is_durable();
        let Some(managed) = self.services.get(name) else {
            return;
        };
        let ended = managed.ended.as_ref().map(|ended| &ended.active);
        let Some(active) = managed.active.as_ref().or(ended) else {
            return;
        };
        let release = active.view(active.release(), now, durable);
        tracing::info!(
            release = release.id,
            phase = %release.phase,
            weight = release.weight,
            actor = intent.actor,
            reason = intent.reason,
            "{action}"
        );
        self.metrics.set_phase(name, release.phase);
        if release.phase.is_over() {
            // Written now, in case the process exits, and again when the last requests have ended.
            self.keep_evidence(name, now);
        }
        self.emit(api::EventKind::Release {
            release: Box::new(release),
            action: action.to_owned(),
            actor: intent.actor.clone(),
        });
    }
}
