//! Commands on a release.

use tokio::sync::oneshot;

use super::running::Due;
use crate::control::change::Reply;
use crate::control::controller::Controller;
use crate::control::metrics::MANUAL;
use crate::control::{Intent, Refusal};
use crate::model::{Name, api};
use crate::release::{Command, Direction, Input, ReleaseAction};

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
                .map(|active| active.release.id.as_str());
            let ended = managed
                .ended
                .as_ref()
                .map(|ended| ended.active.release.id.as_str());
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
        match self.decide(name, verb, command, &intent) {
            Err(refusal) => reply.refuse(refusal),
            Ok(None) => self.leave(name, verb, reply),
            Ok(Some(due)) => {
                let brakes = due.transition.direction == Direction::Towards;
                self.decided = self.clock.now();
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
        verb: ReleaseAction,
        command: &api::ReleaseCommand,
        intent: &Intent,
    ) -> Result<Option<Due>, Refusal> {
        let (_, managed) = self.managed(name)?;
        managed.expect(intent.expected_revision)?;
        let Some(active) = &managed.active else {
            return Err(Refusal::Conflict("no release is in progress".to_owned()));
        };
        let now = self.clock.now();
        let input = Input::Command(Command {
            verb,
            by: &intent.actor,
            reason: intent.reason.as_deref(),
            gate: command.gate.as_deref(),
            override_freeze: command.override_freeze,
            may_override: intent.may_override,
        });
        let next = active.release.next(&input, now)?;
        Ok(next.map(|transition| Due {
            transition,
            at_ms: active.timeline.ms(now),
        }))
    }
}
