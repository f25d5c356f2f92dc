//! The queue of changes to be committed, in the order in which they were made.
//!
//! One change is written at a time, so that the state on disk was always in effect, or about to be.
//! A change in effect is retried until it is committed. Any other is tried once; if the write
//! fails, it and all such changes queued behind it are refused.

use std::collections::VecDeque;
use std::future;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::store::{ChangeRecord, Commit, Committed, Store, StoreError};

/// Changes that may wait. If the disk hangs, journal entries beyond this bound are dropped; the
/// state that is finally written is the latest one.
const WAITING_MAX: usize = 256;

/// The commit queue of the store.
#[derive(Debug)]
pub(super) struct CommitQueue {
    store: Store,
    queue: VecDeque<(CommitId, ChangeRecord)>,
    /// The commit of the first change, while the store is writing it.
    writing: Option<Commit>,
    retry_at: Option<Instant>,
    /// Changes that were refused because a change before them failed.
    refused: VecDeque<(CommitId, StoreError)>,
    tickets: u64,
}

/// Identifies a queued change; ids increase in queue order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CommitId(u64);

impl CommitQueue {
    /// An empty queue.
    pub(super) fn new(store: Store) -> CommitQueue {
        CommitQueue {
            store,
            queue: VecDeque::new(),
            writing: None,
            retry_at: None,
            refused: VecDeque::new(),
            tickets: 0,
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Queues a change. If the last write failed, the next attempt starts at once.
    pub(super) fn push(&mut self, change: ChangeRecord) -> CommitId {
        if self.queue.len() >= WAITING_MAX
            && let Some(at) = self.superseded()
        {
            let given_up = self.queue.remove(at);
            let entry = given_up.map(|(_, change)| change.entry);
            tracing::error!(
                ?entry,
                "the commit queue is full; a journal entry is dropped"
            );
        }
        self.tickets += 1;
        let ticket = CommitId(self.tickets);
        self.queue.push_back((ticket, change));
        self.retry_at = None;
        ticket
    }

    /// A change in effect whose state is replaced by later queued changes, so that dropping it
    /// loses only a journal entry. If there is none, the queue grows by a change that must not be
    /// lost: at most one per service.
    fn superseded(&self) -> Option<usize> {
        let later = |at: usize| {
            let changes = self.queue.iter().skip(at + 1).map(|(_, change)| change);
            changes.filter(|change| change.in_effect)
        };
        let service_replaced = |at: usize, name: &str| {
            later(at).any(|change| change.services.iter().any(|record| record.name == *name))
        };
        let release_replaced = |at: usize, id: &str| {
            later(at).any(|change| change.releases.iter().any(|record| record.id == *id))
        };
        // Never the first change: the store may be writing it.
        (1..self.queue.len()).find(|at| {
            let change = self.queue.get(*at).map(|(_, change)| change);
            change.is_some_and(|change| {
                let mut releases = change.releases.iter();
                change.in_effect
                    && change
                        .services
                        .iter()
                        .all(|record| service_replaced(*at, &record.name))
                    && releases.all(|record| release_replaced(*at, &record.id))
            })
        })
    }

    /// Withdraws a change. If the store has begun it, it may still be written; the change queued
    /// next then replaces it.
    pub(super) fn withdraw(&mut self, ticket: CommitId) {
        if self
            .queue
            .front()
            .is_some_and(|(first, _)| *first == ticket)
        {
            self.writing = None;
        }
        self.queue.retain(|(queued, _)| *queued != ticket);
    }

    /// The result of the next commit. A change in effect stays queued after an error and is retried
    /// after `retry`. Never completes on an empty queue; cancel-safe.
    pub(super) async fn next(
        &mut self,
        retry: Duration,
    ) -> (CommitId, Result<Committed, StoreError>) {
        if let Some((ticket, error)) = self.refused.pop_front() {
            return (ticket, Err(error));
        }
        if let Some(at) = self.retry_at {
            sleep_until(at).await;
            self.retry_at = None;
        }
        let Some((ticket, change)) = self.queue.front() else {
            return future::pending().await;
        };
        let ticket = *ticket;
        let store = &self.store;
        let result = self
            .writing
            .get_or_insert_with(|| store.commit(change.clone()))
            .await;
        self.writing = None;
        if let Err(error) = &result {
            self.fail(error, retry);
        } else {
            self.queue.pop_front();
        }
        (ticket, result)
    }

    fn fail(&mut self, error: &StoreError, retry: Duration) {
        match self.queue.front() {
            Some((_, first)) if first.in_effect => {
                self.retry_at = Some(Instant::now() + retry);
                let refused = self.queue.iter().filter(|(_, change)| !change.in_effect);
                self.refused
                    .extend(refused.map(|(ticket, _)| (*ticket, error.clone())));
                self.queue.retain(|(_, change)| change.in_effect);
            }
            _ => drop(self.queue.pop_front()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NewJournalEntry, Options, ReleaseRecord};

    /// A change in effect, for the release of this number.
    fn change(number: u64) -> ChangeRecord {
        let release = ReleaseRecord {
            id: format!("shop-{number}"),
            service: "shop".to_owned(),
            number,
            ended: true,
            state: serde_json::Value::Null,
        };
        ChangeRecord {
            services: Vec::new(),
            releases: vec![release],
            entry: NewJournalEntry {
                at: String::new(),
                actor: String::new(),
                action: "release_rolled_back".to_owned(),
                service: None,
                reason: None,
                before: serde_json::Value::Null,
                after: serde_json::Value::Null,
            },
            answer: None,
            in_effect: true,
        }
    }

    #[test]
    fn a_full_commit_queue_keeps_the_last_state_of_every_release() {
        let (store, _) = Store::open(&Options::default()).unwrap();
        let mut outbox = CommitQueue::new(store);
        outbox.push(change(1));
        outbox.push(change(2));
        for _ in 0..2 * WAITING_MAX {
            outbox.push(change(3));
        }
        assert_eq!(outbox.len(), WAITING_MAX);
        let queued = |number| {
            outbox
                .queue
                .iter()
                .filter(|(_, queued)| *queued == change(number))
                .count()
        };
        assert_eq!((queued(1), queued(2)), (1, 1));
    }
}
