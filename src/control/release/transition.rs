//! One turn of a release: what it changes of the service, and what it leaves when it is the last.

use serde_json::Value;

use super::protect::PlanRecord;
use super::recording::end;
use super::running::{Due, PreflightState, RunningRelease};
use crate::control::change::{Change, Reply};
use crate::control::controller::{Controller, ServiceEntry};
use crate::control::{Intent, Refusal};
use crate::model::{Name, api};
use crate::release::{Direction, Input, ReleaseAction, ReleaseCommand, ReleaseState};
use crate::routing::LiveState;
use crate::store::ReleaseRecord;
use crate::time::Timestamp;

/// The actor of what a release does by itself.
pub(super) const ITSELF: &str = "weighbridge";

/// A release after a turn.
pub(in crate::control) struct AppliedTransition {
    pub(super) after: ReleaseState,
    pub(super) detail: String,
    /// Everything else of a release that begins with this turn.
    pub(super) active: Option<Box<RunningRelease>>,
    /// What the journal says of the plan of a release that begins with this turn.
    pub(super) plan: Option<PlanRecord>,
}

impl AppliedTransition {
    /// The row of a release that begins with this turn.
    pub(in crate::control) fn record(&self, now: Timestamp) -> Option<ReleaseRecord> {
        Some(self.active.as_ref()?.record(&self.after, now))
    }

    /// What the store should say of a release whose beginning was refused, and may be on disk all
    /// the same; `None` for a turn of one that is under way, which stays as it is.
    pub(in crate::control) fn taken_back(
        self: Box<Self>,
        now: Timestamp,
    ) -> Option<Box<AppliedTransition>> {
        self.active.as_ref()?;
        let cancel = Input::Command(ReleaseCommand {
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

/// A release that has just ended. Requests of its last moment may still be under way.
pub(in crate::control) struct FinishedRelease {
    pub(super) active: Box<RunningRelease>,
    pub(super) at: Timestamp,
}

impl FinishedRelease {
    fn new(mut active: Box<RunningRelease>, at: Timestamp) -> FinishedRelease {
        // Requests that still hang must not take the canary out of a table that is no longer this
        // release's.
        let _ = active.watch.tripwire().seal();
        // Dropped, the recording is written out.
        if let Some(recording) = active.recording.take() {
            end(&recording, &active.release);
        }
        FinishedRelease { active, at }
    }
}

impl AppliedTransition {
    /// Whether a release begins with it.
    pub(in crate::control) fn begins(&self) -> bool {
        self.active.is_some()
    }
}

impl ServiceEntry {
    /// The release as it will be told after this turn.
    pub(in crate::control) fn foreseen_release(
        &self,
        turn: &AppliedTransition,
        now: Timestamp,
    ) -> Option<api::Release> {
        let active = turn.active.as_deref().or(self.active.as_deref())?;
        Some(active.view(&turn.after, now, true))
    }

    /// What the routing table is built from.
    pub(in crate::control) fn live(&self) -> LiveState {
        LiveState {
            watch: self
                .active
                .as_ref()
                .map(|active| std::sync::Arc::clone(&active.watch)),
            ..self.state.live(&self.spec.name)
        }
    }

    /// The turn is in effect. Whether the release has ended with it.
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
            active.chronicle.turn(now, action, actor, detail, weight);
            active.release = after;
            self.active = Some(active);
        }
        let is_over = self
            .active
            .as_ref()
            .is_some_and(|active| active.release.phase.is_over());
        if is_over {
            self.ended = self
                .active
                .take()
                .map(|active| FinishedRelease::new(active, now));
        }
        is_over
    }

    /// The row of a release that takes this turn, and what the journal says of it.
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
            was.insert("release".to_owned(), to_json(&active.release));
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
        Some(active.record(&active.release, now))
    }
}

/// What the journal says of a release.
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
    /// Takes a turn. Whether it is taken, or on its way.
    pub(super) fn apply_transition(
        &mut self,
        name: &Name,
        due: Due,
        intent: Intent,
        reply: Reply,
    ) -> bool {
        let now = self.clock.now();
        let Some(managed) = self.services.get_mut(name) else {
            return false;
        };
        let Due { transition, at_ms } = due;
        let away = transition.direction == Direction::Away;
        let by_itself = matches!(reply, Reply::Nobody);
        let waits = managed
            .active
            .as_ref()
            .is_some_and(|active| now < active.retry_at);
        if by_itself
            && (managed.pending.is_some() || waits)
            && transition.direction != Direction::Towards
        {
            return false;
        }
        if away && managed.pending.is_some() {
            reply.refuse(Refusal::Conflict(
                "another change is on its way; ask again".to_owned(),
            ));
            return false;
        }
        if let Some(active) = managed.active.as_ref() {
            let step = transition
                .after
                .step()
                .filter(|step| active.release.step() != Some(*step));
            match step.filter(|_| !by_itself || active.release.is_held()) {
                Some(step) => active.record_step(at_ms, step),
                None if by_itself => active.record_mark(at_ms, now),
                None => {}
            }
        }
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
            managed.begin_step(&moved, at_ms);
            self.commit_first(name, moved);
        } else {
            self.apply_safe_change(name, moved);
        }
        true
    }

    /// All weight back to the baseline, by hand: the release ends with it.
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
    /// The service's state after a turn of its release.
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

    /// The judge begins a step when it is decided, not when it is in effect, so that a replay of
    /// what was recorded decides at the same times.
    fn begin_step(&mut self, moved: &Change, at_ms: u64) {
        let after = moved.turn.as_ref().map(|turn| &turn.after);
        if let (Some(active), Some(after)) = (&mut self.active, after)
            && let Some(step) = after.step()
        {
            active.begin_step(step, at_ms);
        }
    }
}

impl Controller {
    /// A promotion ends the release, and with it what its tripwire is good for: it is taken away
    /// first. Whether that could be done; not if a worker was faster, for then the canary is
    /// out, and stays out.
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

    /// A release that ends while the one before it has only just ended: the evidence of that is
    /// final now.
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

    /// People are told of a turn.
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
        let release = active.view(&active.release, now, durable);
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
            // At once, in case the process ends now, and again when the last requests have ended.
            self.keep_evidence(name, now);
        }
        self.emit(api::EventKind::Release {
            release: Box::new(release),
            action: action.to_owned(),
            actor: intent.actor.clone(),
        });
    }
}
