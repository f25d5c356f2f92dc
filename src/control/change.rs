//! Changes of weights.
//!
//! Towards the baseline: publish, then commit, so that nothing delays a brake. Away from it: commit, then publish, so
//! that no restart finds less traffic on the canary than there was. A brake overtakes what has not been published.

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::controller::{Answered, Controller, Managed, Unsaved};
use super::outbox::Ticket;
use super::state::{self, State, percentages};
use super::{Applied, Intent, Refusal};
use crate::model::{Name, Weights, api};
use crate::store::{Change, Committed, NewEntry, StoreError};
use crate::time::Timestamp;

/// Changes of one service that may wait for the one before them.
const WAITING_MAX: usize = 16;

/// The way back to a caller.
pub(super) type Reply = oneshot::Sender<Result<Applied, Refusal>>;

/// New weights, as a caller wants them.
pub(super) struct Asked {
    pub(super) weights: api::Percentages,
    pub(super) intent: Intent,
    pub(super) reply: Reply,
}

/// A change away from the baseline that waits for the store.
pub(super) struct Pending {
    pub(super) state: State,
    ticket: Ticket,
    since: Timestamp,
    intent: Intent,
    reply: Reply,
}

impl Pending {
    pub(super) const fn ticket(&self) -> Ticket {
        self.ticket
    }

    pub(super) fn into_reply(self) -> Reply {
        self.reply
    }
}

/// What a change is called in the journal and in events.
#[derive(Clone, Copy)]
enum Action {
    Weights,
    Rollback,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Action::Weights => "weights",
            Action::Rollback => "rollback",
        }
    }
}

impl Controller {
    pub(super) fn set_weights(&mut self, service: &str, asked: Asked) {
        match self.begin(service, &asked) {
            Err(refusal) => drop(asked.reply.send(Err(refusal))),
            Ok(Step::Wait(name)) => self.wait(&name, asked),
            Ok(Step::Brake(name, next)) => self.brake(&name, next, Action::Weights, asked.intent, asked.reply),
            Ok(Step::Away(name, next)) => self.commit_first(&name, next, asked.intent, asked.reply),
        }
    }

    /// What a wish for weights leads to.
    fn begin(&self, service: &str, asked: &Asked) -> Result<Step, Refusal> {
        let (name, managed) = self.managed(service)?;
        let weights = state::parse(&managed.spec, &asked.weights).map_err(Refusal::Invalid)?;
        let brake = managed.state.is_towards_baseline(&weights);
        if managed.pending.is_some() && !brake {
            return Ok(Step::Wait(name));
        }
        managed.expect(asked.intent.expected_revision)?;
        let next = managed.next(weights, &self.clock.now().rfc3339(), &asked.intent);
        Ok(if brake {
            Step::Brake(name, next)
        } else {
            Step::Away(name, next)
        })
    }

    pub(super) fn rollback(&mut self, service: &str, intent: Intent, reply: Reply) {
        let decided = self.clock.now();
        let next = self.managed(service).and_then(|(name, managed)| {
            managed.expect(intent.expected_revision)?;
            let revision = managed.next_revision();
            Ok((
                name,
                managed
                    .state
                    .rolled_back(revision, &decided.rfc3339(), intent.reason.clone()),
            ))
        });
        match next {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok((name, next)) => {
                self.brake(&name, next, Action::Rollback, intent, reply);
                self.metrics.add_rollback(&name, decided, self.clock.now());
            }
        }
    }

    fn managed(&self, service: &str) -> Result<(Name, &Managed), Refusal> {
        let found = self.services.get_key_value(service);
        let found = found.map(|(name, managed)| (Name::clone(name), managed));
        found.ok_or_else(|| Refusal::UnknownService(service.to_owned()))
    }

    fn wait(&mut self, name: &str, asked: Asked) {
        let Some(managed) = self.services.get_mut(name) else {
            return;
        };
        if managed.waiting.len() < WAITING_MAX {
            managed.waiting.push_back(asked);
        } else {
            let _ = asked
                .reply
                .send(Err(Refusal::Store("too many changes wait for the disk".to_owned())));
        }
    }

    /// Publish, then commit.
    fn brake(&mut self, name: &Name, next: State, action: Action, intent: Intent, reply: Reply) {
        self.overtake(name);
        let Some(before) = self.services.get(name).map(|managed| managed.state.clone()) else {
            return;
        };
        let table = self.publish(name, next.clone(), action, &intent);
        let (saved, told) = oneshot::channel();
        let ticket = self.outbox.push(change(name, &before, &next, action, &intent, true));
        let services = vec![Name::clone(name)];
        self.unsaved.insert(
            ticket,
            Unsaved {
                services,
                saved: Some(saved),
            },
        );
        let acknowledged = self.publisher.acknowledged(table);
        let (within, disk) = (self.timing.durable_within, self.outbox.store().is_durable());
        let service = Name::clone(name);
        self.answers.push(Box::pin(async move {
            // Both at once: the second that the store gets begins with the publication.
            let (saved, ()) = tokio::join!(timeout(within, told), acknowledged);
            let durable = disk && matches!(saved, Ok(Ok(())));
            Answered {
                service,
                durable,
                reply,
            }
        }));
    }

    /// Commit; [`Controller::settle_pending`] publishes.
    fn commit_first(&mut self, name: &Name, next: State, intent: Intent, reply: Reply) {
        let since = self.clock.now();
        let Some(managed) = self.services.get_mut(name) else {
            return;
        };
        let change = change(name, &managed.state, &next, Action::Weights, &intent, false);
        managed.pending = Some(Pending {
            state: next,
            ticket: self.outbox.push(change),
            since,
            intent,
            reply,
        });
    }

    /// The store has taken a change, or has not: if it was one that had to wait for that, it now happens, or not.
    pub(super) fn settle_pending(&mut self, ticket: Ticket, result: Result<Committed, StoreError>) {
        let is_this = |managed: &&mut Managed| managed.pending.as_ref().is_some_and(|pending| pending.ticket == ticket);
        let Some(managed) = self.services.values_mut().find(is_this) else {
            return;
        };
        let name = Name::clone(&managed.spec.name);
        let Some(pending) = managed.pending.take() else {
            return;
        };
        match result {
            Ok(committed) => self.publish_committed(&name, pending, committed),
            Err(error) => drop(pending.reply.send(Err(Refusal::Store(error.to_string())))),
        }
        self.go_on(&name);
    }

    fn publish_committed(&mut self, name: &Name, pending: Pending, committed: Committed) {
        let mut next = pending.state;
        next.since = self.clock.now().rfc3339();
        let table = self.publish(name, next, Action::Weights, &pending.intent);
        let acknowledged = self.publisher.acknowledged(table);
        let (service, reply) = (Name::clone(name), pending.reply);
        self.answers.push(Box::pin(async move {
            acknowledged.await;
            Answered {
                service,
                durable: committed.durable,
                reply,
            }
        }));
    }

    /// Those who waited for a change of this service get their turn.
    fn go_on(&mut self, name: &Name) {
        while let Some(managed) = self.services.get_mut(name) {
            if managed.pending.is_some() {
                return;
            }
            let Some(asked) = managed.waiting.pop_front() else {
                return;
            };
            self.set_weights(name, asked);
        }
    }

    /// Nothing that was asked for before a brake and is not in effect happens after it.
    fn overtake(&mut self, name: &Name) {
        let Some(managed) = self.services.get_mut(name) else {
            return;
        };
        let waiting = std::mem::take(&mut managed.waiting);
        let replies = waiting.into_iter().map(|asked| asked.reply);
        let pending = managed.pending.take();
        if let Some(pending) = &pending {
            self.outbox.withdraw(pending.ticket);
        }
        for reply in pending.map(|pending| pending.reply).into_iter().chain(replies) {
            let _ = reply.send(Err(Refusal::Overtaken));
        }
    }

    /// A change that the store has had for too long is refused; what is in effect is written again behind it, since
    /// the store may still take it.
    pub(super) fn give_up_pending(&mut self, now: Timestamp) {
        let late = |managed: &Managed| {
            let since = managed.pending.as_ref().map(|pending| pending.since);
            since.is_some_and(|since| now.since(since) >= self.timing.commit_within)
        };
        let late: Vec<Name> = self
            .services
            .iter()
            .filter(|(_, m)| late(m))
            .map(|(name, _)| Name::clone(name))
            .collect();
        for name in late {
            self.give_up(&name);
            self.go_on(&name);
        }
    }

    fn give_up(&mut self, name: &Name) {
        let Some(managed) = self.services.get_mut(name) else {
            return;
        };
        let Some(pending) = managed.pending.take() else {
            return;
        };
        self.outbox.withdraw(pending.ticket);
        let mut undo = change(
            name,
            &pending.state,
            &managed.state,
            Action::Weights,
            &pending.intent,
            true,
        );
        undo.entry.actor = "store".to_owned();
        undo.entry.action = "undo".to_owned();
        undo.entry.reason = Some("the store did not take a change in time; it was refused".to_owned());
        let (services, saved) = (vec![Name::clone(name)], None);
        self.unsaved.insert(self.outbox.push(undo), Unsaved { services, saved });
        let _ = pending
            .reply
            .send(Err(Refusal::Store("the disk does not answer".to_owned())));
    }

    /// From here on the next request is split by `next`. Gives the table's revision.
    fn publish(&mut self, name: &Name, next: State, action: Action, intent: &Intent) -> u64 {
        let live = next.live(name);
        let revision = self.publisher.update(|table| table.with_weights(name, &live));
        let now = self.clock.now();
        if let Some(service) = self.publisher.current().table.service(name) {
            self.collector.mark_change(service, now);
        }
        let weights = percentages(&next.weights);
        tracing::info!(service = %name, ?weights, actor = intent.actor, reason = intent.reason, "{}", action.as_str());
        self.tell(api::EventKind::Weights {
            service: name.to_string(),
            revision: next.revision,
            weights,
            actor: intent.actor.clone(),
            reason: intent.reason.clone(),
            action: action.as_str().to_owned(),
        });
        if let Some(managed) = self.services.get_mut(name) {
            managed.state = next;
        }
        revision
    }
}

enum Step {
    /// Until the change before it is settled.
    Wait(Name),
    /// Publish, then commit.
    Brake(Name, State),
    /// Commit, then publish.
    Away(Name, State),
}

impl Managed {
    fn expect(&self, revision: Option<u64>) -> Result<(), Refusal> {
        let current = self.state.revision;
        match revision {
            Some(expected) if expected != current => Err(Refusal::Stale { expected, current }),
            _ => Ok(()),
        }
    }

    /// Also past that of a change that may yet be overtaken: what the store has seen is not used twice.
    fn next_revision(&self) -> u64 {
        let pending = self.pending.as_ref().map_or(0, |pending| pending.state.revision);
        self.state.revision.max(pending) + 1
    }

    fn next(&self, weights: Weights, at: &str, intent: &Intent) -> State {
        self.state
            .with_weights(weights, self.next_revision(), at, intent.reason.clone())
    }
}

fn change(name: &str, before: &State, after: &State, action: Action, intent: &Intent, in_effect: bool) -> Change {
    Change {
        services: vec![after.record(name)],
        releases: Vec::new(),
        entry: NewEntry {
            at: after.since.clone(),
            actor: intent.actor.clone(),
            action: action.as_str().to_owned(),
            service: Some(name.to_owned()),
            reason: intent.reason.clone(),
            before: before.json(),
            after: after.json(),
        },
        in_effect,
    }
}
