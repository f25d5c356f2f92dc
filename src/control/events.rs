//! What happened, for those who watch: a bounded memory for who comes back, a broadcast for who is
//! there.
//!
//! Sending never waits: who watches too slowly misses events and is told so by the broadcast.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::model::api;

/// Events that are remembered for a watcher that comes back, and that one may lag behind.
const REMEMBERED_MAX: usize = 1024;

/// The stream of events.
#[derive(Debug)]
pub struct EventStream {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    last_id: u64,
    remembered: VecDeque<api::Event>,
    live: broadcast::Sender<api::Event>,
}

impl EventStream {
    /// A stream on which nothing has happened yet.
    pub fn new() -> EventStream {
        let inner = Inner {
            last_id: 0,
            remembered: VecDeque::with_capacity(REMEMBERED_MAX),
            live: broadcast::Sender::new(REMEMBERED_MAX),
        };
        EventStream {
            inner: Mutex::new(inner),
        }
    }

    /// Tells everyone; `at` is a time by RFC 3339. Gives the event's id.
    pub fn send(&self, at: String, kind: api::EventKind) -> u64 {
        let mut inner = self.lock();
        inner.last_id += 1;
        let id = inner.last_id;
        let event = api::Event { id, at, kind };
        if inner.remembered.len() == REMEMBERED_MAX {
            inner.remembered.pop_front();
        }
        inner.remembered.push_back(event.clone());
        // An error only says that nobody watches.
        let _ = inner.live.send(event);
        id
    }

    /// What is remembered after the event `last_id` (nothing without one), and all that is to come.
    /// No event is in both or in neither. An id from before a restart gets everything that is
    /// remembered.
    pub fn subscribe(
        &self,
        last_id: Option<u64>,
    ) -> (Vec<api::Event>, broadcast::Receiver<api::Event>) {
        let inner = self.lock();
        let replay = last_id.map_or_else(Vec::new, |last| {
            let after = if last > inner.last_id { 0 } else { last };
            inner
                .remembered
                .iter()
                .filter(|event| event.id > after)
                .cloned()
                .collect()
        });
        (replay, inner.live.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics between two related writes, so the data is whole even if a holder did.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for EventStream {
    fn default() -> Self {
        EventStream::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reload(detail: usize) -> api::EventKind {
        api::EventKind::Reload {
            ok: true,
            detail: detail.to_string(),
        }
    }

    fn ids(events: &[api::Event]) -> Vec<u64> {
        events.iter().map(|event| event.id).collect()
    }

    #[test]
    fn a_watcher_that_comes_back_misses_nothing_and_gets_nothing_twice() {
        let events = EventStream::new();
        for at in 0..3 {
            events.send(String::new(), reload(at));
        }
        let (replay, mut live) = events.subscribe(Some(1));
        assert_eq!(ids(&replay), [2, 3]);
        events.send(String::new(), reload(4));
        assert_eq!(live.try_recv().unwrap().id, 4);
        assert!(live.try_recv().is_err());
        assert!(events.subscribe(None).0.is_empty());
        assert_eq!(ids(&events.subscribe(Some(99)).0), [1, 2, 3, 4]);
    }

    #[test]
    fn memory_is_bounded() {
        let events = EventStream::new();
        for at in 0..REMEMBERED_MAX + 10 {
            events.send(String::new(), reload(at));
        }
        let (replay, _) = events.subscribe(Some(0));
        assert_eq!(replay.len(), REMEMBERED_MAX);
        assert_eq!(replay[0].id, 11);
    }
}
