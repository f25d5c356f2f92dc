//! Changes of a service: manual weights, rollbacks, and every transition of a release.
//!
//! Towards the baseline: publish, then commit, so that the disk cannot delay a rollback. Away from
//! it: commit, then publish, so that a restart never finds less traffic on the canary than there
//! was. A change towards the baseline supersedes changes that are not yet published.

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::commit_queue::CommitId;
use super::controller::{Controller, DueReply, ServiceEntry, UncommittedChange};
use super::metrics::MANUAL;
use super::release::AppliedTransition;
use super::state::{self, ServiceState, percentages};
use super::{Applied, Intent, Refusal};
use crate::model::{Name, Weights, api};
use crate::store::{ChangeRecord, Committed, NewJournalEntry, ReleaseRecord, StoreError};
use crate::time::Timestamp;

/// Changes of one service that may wait for the change before them.
const WAITING_MAX: usize = 16;

/// Weights as a client requested them.
pub(super) struct RequestedWeights {
    pub(super) weights: api::Percentages,
    pub(super) intent: Intent,
    pub(super) reply: WeightsReply,
}

type WeightsReply = oneshot::Sender<Result<Applied, Refusal>>;

/// Where the result of a change is sent.
pub(super) enum Reply {
    /// Manual weights, or a rollback.
    Service(WeightsReply),
    /// A command on a release; the change carries the release's id.
    Release(
        Box<str>,
        oneshot::Sender<Result<api::ReleaseChange, Refusal>>,
    ),
    /// An automatic transition; nobody waits for a reply.
    Nobody,
}

impl Reply {
    /// Sends a refusal. A receiver that is gone needs none.
    pub(super) fn refuse(self, refusal: Refusal) {
        match self {
            Reply::Service(reply) => drop(reply.send(Err(refusal))),
            Reply::Release(_, reply) => drop(reply.send(Err(refusal))),
            Reply::Nobody => {}
        }
    }
}

/// A change: the new state and everything that is published or stored with it.
pub(super) struct Change {
    pub(super) next: ServiceState,
    /// Its action in the journal and in events.
    pub(super) action: &'static str,
    pub(super) intent: Intent,
    /// The transition of a release, if the change is one.
    pub(super) turn: Option<Box<AppliedTransition>>,
    /// Protections of the configuration that manual weights override, for the journal.
    pub(super) overridden: Vec<String>,
    pub(super) reply: Reply,
}

/// A change away from the baseline that the store has not committed yet.
pub(super) struct PendingChange {
    pub(super) moved: Change,
    ticket: CommitId,
    since: Timestamp,
}

impl PendingChange {
    pub(super) const fn ticket(&self) -> CommitId {
        self.ticket
    }
}

impl Controller {
    pub(super) fn set_weights(&mut self, service: &str, requested: RequestedWeights) {
        match self.begin(service, &requested) {
            Err(refusal) => drop(requested.reply.send(Err(refusal))),
            Ok(Step::Wait(name)) => self.wait(&name, requested),
            Ok(Step::Brake(name, next)) => {
                self.apply_safe_change(&name, Change::weights(next, requested))
            }
            Ok(Step::Away(name, next, passed)) => {
                let moved = Change {
                    overridden: passed,
                    ..Change::weights(next, requested)
                };
                self.commit_first(&name, moved);
            }
        }
    }

    /// Decides how a request for weights is carried out.
    fn begin(&self, service: &str, requested: &RequestedWeights) -> Result<Step, Refusal> {
        let (name, managed) = self.managed(service)?;
        let weights = state::parse(&managed.spec, &requested.weights).map_err(Refusal::Invalid)?;
        if let Some(active) = &managed.active {
            return Err(active.locks_weights());
        }
        let brake = managed.state.is_towards_baseline(&weights);
        if managed.pending.is_some() && !brake {
            return Ok(Step::Wait(name));
        }
        managed.expect(requested.intent.expected_revision)?;
        let now = self.clock.now();
        let passed = if brake {
            Vec::new()
        } else {
            managed.bypassed_protections(now)
        };
        managed.may_set_weights(&passed, &requested.intent)?;
        let next = managed.next(weights, &now.rfc3339(), &requested.intent);
        Ok(if brake {
            Step::Brake(name, next)
        } else {
            Step::Away(name, next, passed)
        })
    }

    /// Moves all weight to the baseline, which ends a release in progress.
    pub(super) fn rollback(&mut self, service: &str, intent: Intent, reply: WeightsReply) {
        let decided = self.clock.now();
        let found = self.managed(service).and_then(|(name, managed)| {
            managed.expect(intent.expected_revision)?;
            Ok((name, managed.active.is_some()))
        });
        match found {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok((name, true)) => self.roll_back_release(&name, intent, Reply::Service(reply)),
            Ok((name, false)) => {
                let Some(managed) = self.services.get(&name) else {
                    return;
                };
                let (revision, at) = (managed.next_revision(), decided.rfc3339());
                let moved = Change {
                    next: managed
                        .state
                        .rolled_back(revision, &at, intent.reason.clone()),
                    action: "rollback",
                    intent,
                    turn: None,
                    overridden: Vec::new(),
                    reply: Reply::Service(reply),
                };
                let moves = moved.next.weights != managed.state.weights;
                self.apply_safe_change(&name, moved);
                if moves {
                    self.metrics
                        .add_rollback(&name, MANUAL, self.clock.now().since(decided));
                }
            }
        }
    }

    pub(super) fn managed(&self, service: &str) -> Result<(Name, &ServiceEntry), Refusal> {
        let found = self.services.get_key_value(service);
        let found = found.map(|(name, managed)| (Name::clone(name), managed));
        found.ok_or_else(|| Refusal::UnknownService(service.to_owned()))
    }

    fn wait(&mut self, name: &str, requested: RequestedWeights) {
        let Some(managed) = self.services.get_mut(name) else {
            return;
        };
        if managed.waiting.len() < WAITING_MAX {
            managed.waiting.push_back(requested);
        } else {
            let _ = requested.reply.send(Err(Refusal::Store(
                "too many changes are waiting for the disk; try again later".to_owned(),
            )));
        }
    }

    /// Publishes, then commits.
    pub(super) fn apply_safe_change(&mut self, name: &Name, mut moved: Change) {
        let withdrawn = self.supersede(name);
        if !self.claims_promotion(name, &moved) {
            return self.refused(name, moved.reply, Refusal::Overtaken);
        }
        let Some(before) = self.services.get(name).map(|managed| managed.state.clone()) else {
            return;
        };
        let mut change = self.change(name, &before, &moved, true);
        let reply = std::mem::replace(&mut moved.reply, Reply::Nobody);
        change.releases.extend(withdrawn);
        let table = self.publish(name, moved);
        let (saved, on_disk) = oneshot::channel();
        let ticket = self.outbox.push(change);
        let services = vec![Name::clone(name)];
        self.unsaved.insert(
            ticket,
            UncommittedChange {
                services,
                saved: Some(saved),
            },
        );
        self.show(name);
        let acknowledged = self.publisher.acknowledged(table);
        let (within, disk) = (self.timing.durable_within, self.outbox.store().is_durable());
        let service = Name::clone(name);
        self.answers.push(Box::pin(async move {
            // Polled together, so that the commit reaches the store at the time of publication.
            let (saved, ()) = tokio::join!(timeout(within, on_disk), acknowledged);
            let durable = disk && matches!(saved, Ok(Ok(())));
            DueReply {
                service,
                durable,
                reply,
            }
        }));
    }

    /// Commits; [`Controller::settle_pending`] publishes.
    pub(super) fn commit_first(&mut self, name: &Name, moved: Change) {
        let since = self.clock.now();
        let Some(before) = self.services.get(name).map(|managed| managed.state.clone()) else {
            return;
        };
        let change = self.change(name, &before, &moved, false);
        let ticket = self.outbox.push(change);
        if let Some(managed) = self.services.get_mut(name) {
            managed.pending = Some(PendingChange {
                moved,
                ticket,
                since,
            });
        }
        self.show(name);
    }

    /// Publishes or refuses the pending change, according to the result of its commit.
    pub(super) fn settle_pending(
        &mut self,
        ticket: CommitId,
        result: Result<Committed, StoreError>,
    ) {
        let is_this = |managed: &&mut ServiceEntry| {
            managed
                .pending
                .as_ref()
                .is_some_and(|pending| pending.ticket == ticket)
        };
        let Some(managed) = self.services.values_mut().find(is_this) else {
            return;
        };
        let name = Name::clone(&managed.spec.name);
        let Some(pending) = managed.pending.take() else {
            return;
        };
        self.show(&name);
        match result {
            Ok(committed) => self.publish_committed(&name, pending, committed),
            Err(error) => self.refused(
                &name,
                pending.moved.reply,
                Refusal::Store(error.to_string()),
            ),
        }
        self.run_waiting(&name);
    }

    fn publish_committed(&mut self, name: &Name, pending: PendingChange, committed: Committed) {
        let mut moved = pending.moved;
        if !self.claims_promotion(name, &moved) {
            // The end of this change is queued behind it and will overwrite what the store has just
            // committed.
            return self.refused(name, moved.reply, Refusal::Overtaken);
        }
        moved.next.since = self.clock.now().rfc3339();
        let reply = std::mem::replace(&mut moved.reply, Reply::Nobody);
        let table = self.publish(name, moved);
        let acknowledged = self.publisher.acknowledged(table);
        let service = Name::clone(name);
        self.answers.push(Box::pin(async move {
            acknowledged.await;
            DueReply {
                service,
                durable: committed.durable,
                reply,
            }
        }));
    }

    /// Refuses a change that was waiting for the store.
    fn refused(&mut self, name: &Name, reply: Reply, refusal: Refusal) {
        reply.refuse(refusal);
        let now = self.clock.now();
        if let Some(active) = self
            .services
            .get_mut(name)
            .and_then(|managed| managed.active.as_mut())
        {
            active.step_back(now);
        }
    }

    /// Starts the changes of this service that were waiting for the last one.
    fn run_waiting(&mut self, name: &Name) {
        while let Some(managed) = self.services.get_mut(name) {
            if managed.pending.is_some() {
                return;
            }
            let Some(requested) = managed.waiting.pop_front() else {
                return;
            };
            self.set_weights(name, requested);
        }
    }

    /// Refuses every change that was requested before a change towards the baseline and is not in
    /// effect yet. Returns the record that the store must get for a superseded release start, which
    /// may already be on disk.
    fn supersede(&mut self, name: &Name) -> Option<ReleaseRecord> {
        let now = self.clock.now();
        let managed = self.services.get_mut(name)?;
        let waiting = std::mem::take(&mut managed.waiting);
        let mut withdrawn = None;
        if let Some(pending) = managed.pending.take() {
            self.show(name);
            self.outbox.withdraw(pending.ticket);
            let turn = pending.moved.turn.and_then(|turn| turn.withdrawn(now));
            withdrawn = turn.and_then(|turn| turn.record(now));
            self.refused(name, pending.moved.reply, Refusal::Overtaken);
        }
        for requested in waiting {
            let _ = requested.reply.send(Err(Refusal::Overtaken));
        }
        withdrawn
    }

    /// Refuses a change whose commit has timed out. The state in effect is written again behind it,
    /// since the store may still commit the refused change.
    pub(super) fn give_up_pending(&mut self, now: Timestamp) {
        let late = |managed: &ServiceEntry| {
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
            self.run_waiting(&name);
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
        let state = managed.state.clone();
        let now = self.clock.now();
        let undo = Change {
            next: state,
            action: "undo",
            intent: Intent {
                actor: "store".to_owned(),
                reason: Some(
                    "the store did not commit a change in time; the change was refused".to_owned(),
                ),
                idempotency: None,
                ..pending.moved.intent
            },
            // A release start that may be on disk is recorded as cancelled.
            turn: pending.moved.turn.and_then(|turn| turn.withdrawn(now)),
            overridden: Vec::new(),
            reply: Reply::Nobody,
        };
        let undo = self.change(name, &pending.moved.next, &undo, true);
        let (services, saved) = (vec![Name::clone(name)], None);
        self.unsaved.insert(
            self.outbox.push(undo),
            UncommittedChange { services, saved },
        );
        self.show(name);
        let refusal = Refusal::Store("the disk does not respond".to_owned());
        self.refused(name, pending.moved.reply, refusal);
    }

    /// Publishes: from here on requests are split by the new state. Returns the table's revision.
    fn publish(&mut self, name: &Name, moved: Change) -> u64 {
        let now = self.clock.now();
        self.settle_before(name, &moved, now);
        let Some(managed) = self.services.get_mut(name) else {
            return self.publisher.current().revision;
        };
        let is_new = managed.state.weights != moved.next.weights;
        managed.state = moved.next;
        let (action, intent) = (moved.action, moved.intent);
        let turned = moved
            .turn
            .map(|turn| managed.turn(*turn, action, &intent.actor, now));
        let live = managed.live();
        let state = managed.state.clone();
        let revision = self
            .publisher
            .update(|table| table.with_weights(name, &live));
        if is_new {
            self.show_weights(name, &state, action, &intent, now);
        }
        if turned.is_some() {
            self.show_release(name, action, &intent, now);
        }
        self.show(name);
        revision
    }

    fn show_weights(
        &mut self,
        name: &Name,
        state: &ServiceState,
        action: &'static str,
        intent: &Intent,
        now: Timestamp,
    ) {
        if let Some(service) = self.publisher.current().table.service(name) {
            self.collector.mark_change(service, now);
        }
        let weights = percentages(&state.weights);
        let (actor, reason) = (&intent.actor, intent.reason.as_ref());
        tracing::info!(service = %name, ?weights, actor, reason, "{action}");
        self.emit(api::EventKind::Weights {
            service: name.to_string(),
            revision: state.revision,
            weights,
            actor: intent.actor.clone(),
            reason: intent.reason.clone(),
            action: action.to_owned(),
        });
    }

    fn change(
        &self,
        name: &Name,
        before: &ServiceState,
        moved: &Change,
        in_effect: bool,
    ) -> ChangeRecord {
        let managed = self.services.get(name);
        let (mut was, mut is) = (before.json(), moved.next.json());
        let now = self.clock.now();
        let record = managed.and_then(|managed| match &moved.turn {
            Some(turn) => managed.record_turn(turn, now, &mut was, &mut is),
            // Withdrawing a change leaves the release unchanged.
            None => managed.record_release(now),
        });
        if let (Some(is), false) = (is.as_object_mut(), moved.overridden.is_empty()) {
            is.insert("overridden".to_owned(), serde_json::json!(moved.overridden));
        }
        ChangeRecord {
            services: vec![moved.next.record(name)],
            releases: record.into_iter().collect(),
            entry: NewJournalEntry {
                at: now.rfc3339(),
                actor: moved.intent.actor.clone(),
                action: moved.action.to_owned(),
                service: Some(name.to_string()),
                reason: moved.intent.reason.clone(),
                before: was,
                after: is,
            },
            answer: self.foreseen(name, moved, now),
            in_effect,
        }
    }
}

impl Change {
    fn weights(next: ServiceState, requested: RequestedWeights) -> Change {
        Change {
            next,
            action: "weights",
            intent: requested.intent,
            turn: None,
            overridden: Vec::new(),
            reply: Reply::Service(requested.reply),
        }
    }
}

enum Step {
    /// Waits for the change before it.
    Wait(Name),
    /// Publish, then commit.
    Brake(Name, ServiceState),
    /// Commit, then publish; with the protections of the configuration that it overrides.
    Away(Name, ServiceState, Vec<String>),
}

impl ServiceEntry {
    pub(super) fn expect(&self, revision: Option<u64>) -> Result<(), Refusal> {
        let current = self.state.revision;
        match revision {
            Some(expected) if expected != current => Err(Refusal::Stale { expected, current }),
            _ => Ok(()),
        }
    }

    /// Also greater than that of a pending change that may be superseded: a revision that the store
    /// has seen is never used twice.
    pub(super) fn next_revision(&self) -> u64 {
        let pending = self
            .pending
            .as_ref()
            .map_or(0, |pending| pending.moved.next.revision);
        self.state.revision.max(pending) + 1
    }

    fn next(&self, weights: Weights, at: &str, intent: &Intent) -> ServiceState {
        self.state
            .with_weights(weights, self.next_revision(), at, intent.reason.clone())
    }
}
