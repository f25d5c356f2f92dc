//! Commands on a release.

use tokio::sync::oneshot;

use crate::control::change::Reply;
use crate::control::controller::Controller;
use crate::control::metrics::MANUAL;
use crate::control::{Intent, Refusal};
use crate::model::{Name, api};
use crate::release::engine::Decision;
use crate::release::{Command, Direction, ReleaseAction};
use crate::time::Timestamp;

impl Controller {
    pub(in crate::control) fn command_release(
        &mut self,
        id: &str,
        verb: ReleaseAction,
        command: &api::ReleaseCommand,
        intent: Intent,
        reply: oneshot::Sender<Result<api::ReleaseChange, Refusal>>,
    ) {
        let reply = Reply::Release(id.into(), reply);
        match self.service_of(id) {
            Ok(name) => self.carry_out(&name, verb, command, intent, reply),
            Err(refusal) => reply.refuse(refusal),
        }
    }

    /// The service of this release, if it is in progress.
    fn service_of(&self, id: &str) -> Result<Name, Refusal> {
        let is_this = |release: Option<&str>| release == Some(id);
        let mut services = self.services.iter();
        let found = services.find_map(|(name, managed)| {
            let active = managed
                .active
                .as_ref()
                .map(|active| active.release().id.as_str());
            let ended = managed
                .ended
                .as_ref()
                .map(|ended| ended.active.release().id.as_str());
            let last = managed.last.as_ref().map(|last| last.id.as_str());
            let known = is_this(active) || is_this(ended) || is_this(last);
            known.then(|| (Name::clone(name), is_this(active)))
        });
        match found {
            Some((name, true)) => Ok(name),
            Some((_, false)) => Err(Refusal::Conflict(format!("the release {id} has ended"))),
            // Older releases are only in the store; no command applies to them either.
            None => Err(Refusal::UnknownRelease(id.to_owned())),
        }
    }

    /// Carries out an operator's command on a service's release.
    pub(super) fn carry_out(
        &mut self,
        name: &Name,
        verb: ReleaseAction,
        command: &api::ReleaseCommand,
        intent: Intent,
        reply: Reply,
    ) {
        let now = self.clock.now();
        let by = intent.clone();
        let asked = Command {
            verb,
            by: &by.actor,
            reason: by.reason.as_deref(),
            gate: command.gate.as_deref(),
            override_freeze: command.override_freeze,
            may_override: intent.may_override,
        };
        match self.decide(name, &asked, intent.expected_revision, now) {
            Err(refusal) => reply.refuse(refusal),
            Ok(None) => self.leave(name, verb, reply),
            Ok(Some(due)) => {
                let brakes = due.transition.direction == Direction::Towards;
                self.decided = now;
                if let Some(managed) = self.services.get_mut(name)
                    && let Some(active) = &mut managed.active
                    && !(due.is_away() && managed.pending.is_some())
                {
                    active.record_command(&asked, active.at(now));
                }
                self.apply_transition(name, due, intent, reply);
                if brakes && verb == ReleaseAction::RollBack {
                    let took = self.clock.now().since(self.decided);
                    self.metrics.add_rollback(name, MANUAL, took);
                }
            }
        }
    }

    /// The command changes nothing: replies with the release as it is.
    fn leave(&self, name: &Name, verb: ReleaseAction, reply: Reply) {
        match reply {
            Reply::Release(id, reply) => {
                drop(reply.send(self.release_change(name, &id, self.is_durable(name))))
            }
            other => other.refuse(Refusal::Conflict(format!(
                "{} has no effect in the current state",
                verb.as_str()
            ))),
        }
    }

    fn decide(
        &self,
        name: &Name,
        command: &Command<'_>,
        expected_revision: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<Decision>, Refusal> {
        let (_, managed) = self.managed(name)?;
        managed.expect(expected_revision)?;
        let Some(active) = &managed.active else {
            return Err(Refusal::Conflict("no release is in progress".to_owned()));
        };
        Ok(active.engine.command(command, active.at(now))?)
    }
}
