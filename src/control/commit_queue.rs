//! Changes on their way to the store, in the order in which they were made.
//!
//! One is written at a time, so that what is on disk is always a state that was, or was about to
//! be, in effect. A change that is in effect already is tried until it is down; any other is tried
//! once, and refused together with all like it that wait behind one that cannot be written.

use std::collections::VecDeque;
use std::future;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::store::{ChangeRecord, Commit, Committed, Store, StoreError};

/// Changes that may wait. With a disk that hangs, entries of the journal are given up beyond this;
/// the state that is written in the end is the latest.
const WAITING_MAX: usize = 256;

/// The queue to the store.
#[derive(Debug)]
pub(super) struct CommitQueue {
    store: Store,
    queue: VecDeque<(CommitId, ChangeRecord)>,
    /// The commit of the first in the queue, while the store works on it.
    writing: Option<Commit>,
    retry_at: Option<Instant>,
    /// Refused together with one before them.
    refused: VecDeque<(CommitId, StoreError)>,
    tickets: u64,
}

/// A change in the queue; later ones are greater.
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

    /// Queues a change. A disk that failed before is tried again at once.
    pub(super) fn push(&mut self, change: ChangeRecord) -> CommitId {
        if self.queue.len() >= WAITING_MAX
            && let Some(at) = self.superseded()
        {
            let given_up = self.queue.remove(at);
            let entry = given_up.map(|(_, change)| change.entry);
            tracing::error!(
                ?entry,
                "the store is too far behind; an entry of the journal is lost"
            );
        }
        self.tickets += 1;
        let ticket = CommitId(self.tickets);
        self.queue.push_back((ticket, change));
        self.retry_at = None;
        ticket
    }

    /// A change whose state later ones in effect replace, so that only its entry in the journal is
    /// lost with it. Without one the queue grows by a change that must not be lost: at most by
    /// one for each service.
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
        // Not the first: the store may be at work on it.
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

    /// Takes a change back. One that the store has begun with may be written all the same; what is
    /// queued next then replaces it.
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

    /// What became of a change. One that is in effect stays queued after an error, and is tried
    /// again after `retry`. Never completes while nothing is queued; may be dropped and called
    /// again.
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

    /// A change in effect of the release with this number.
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
    fn behind_a_disk_that_hangs_the_last_state_of_every_release_stays() {
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
