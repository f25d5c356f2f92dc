//! The event stream: a bounded history for subscribers that reconnect, and a broadcast for those
//! connected.
//!
//! Sending never blocks: a slow subscriber misses events, and the broadcast reports the gap to it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::model::api;

/// Events kept for a subscriber that reconnects, and the number by which one may lag.
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
    /// A stream without events.
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

    /// Sends an event to all subscribers; `at` is an RFC 3339 time. Returns the event's id.
    pub fn send(&self, at: String, kind: api::EventKind) -> u64 {
        let mut inner = self.lock();
        inner.last_id += 1;
        let id = inner.last_id;
        let event = api::Event { id, at, kind };
        if inner.remembered.len() == REMEMBERED_MAX {
            inner.remembered.pop_front();
        }
        inner.remembered.push_back(event.clone());
        // An error only means that there is no subscriber.
        let _ = inner.live.send(event);
        id
    }

    /// The kept events after `last_id` (none without an id), and all later events, without gap or
    /// overlap. An id from before a restart gets all kept events.
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
        // No panic is possible between related writes, so the data is consistent even if the lock
        // is poisoned.
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
    fn a_reconnected_subscriber_gets_each_event_once() {
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
    fn kept_events_are_bounded() {
        let events = EventStream::new();
        for at in 0..REMEMBERED_MAX + 10 {
            events.send(String::new(), reload(at));
        }
        let (replay, _) = events.subscribe(Some(0));
        assert_eq!(replay.len(), REMEMBERED_MAX);
        assert_eq!(replay[0].id, 11);
    }
}
