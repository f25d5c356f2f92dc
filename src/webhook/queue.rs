//! The queue of one receiver: a bounded number of events, in order.
//!
//! Adding an event never blocks. If the queue is full, the oldest event is dropped, but the end of
//! a release only for other ends, since a receiver must not miss it. It does not overtake earlier
//! events: a receiver that gets a step after the end would take it for the later.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::message::Notification;

/// Events that may wait.
pub(super) const QUEUE_MAX: usize = 256;

/// A queue with one consumer.
#[derive(Debug, Default)]
pub(super) struct DeliveryQueue {
    waiting: Mutex<VecDeque<Arc<Notification>>>,
    added: Notify,
}

impl DeliveryQueue {
    /// Adds an event. Returns the event that was dropped for it, if any; that may be itself.
    pub(super) fn push(&self, notification: Arc<Notification>) -> Option<Arc<Notification>> {
        let mut waiting = self.waiting();
        waiting.push_back(notification);
        let surplus = waiting.len() > QUEUE_MAX;
        let oldest = || {
            waiting
                .iter()
                .position(|notification| !notification.is_end())
                .unwrap_or(0)
        };
        let at = surplus.then(oldest);
        let lost = at.and_then(|at| waiting.remove(at));
        drop(waiting);
        self.added.notify_one();
        lost
    }

    /// The oldest event, once there is one.
    pub(super) async fn next(&self) -> Arc<Notification> {
        loop {
            let first = self.waiting().pop_front();
            match first {
                Some(notification) => return notification,
                None => self.added.notified().await,
            }
        }
    }

    /// Number of waiting events.
    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Notification>>> {
        // No panic is possible within a change, so the queue is consistent even if the lock is
        // poisoned.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, release};
    use super::*;

    fn notification(id: u64, action: &str) -> Arc<Notification> {
        let mut release = release();
        release.id = format!("shop-{id}");
        Arc::new(Notification::of(event(id, action, release)).unwrap())
    }

    fn ids(queue: &DeliveryQueue) -> Vec<String> {
        queue
            .waiting()
            .iter()
            .map(|notification| notification.release.id.clone())
            .collect()
    }

    #[test]
    fn the_end_of_a_release_is_dropped_for_other_ends_only() {
        let queue = DeliveryQueue::default();
        assert!(queue.push(notification(0, "release_rolled_back")).is_none());
        let mut lost = 0;
        for id in 1..2 * QUEUE_MAX as u64 {
            lost += queue
                .push(notification(id, "release_advanced"))
                .iter()
                .count();
        }
        assert_eq!((queue.len(), lost), (QUEUE_MAX, QUEUE_MAX));
        assert_eq!(ids(&queue)[..2], ["shop-0", "shop-257"], "still in order");

        for id in 0..QUEUE_MAX as u64 {
            queue.push(notification(1_000 + id, "release_promoted"));
        }
        assert_eq!(
            ids(&queue)[..2],
            ["shop-1000", "shop-1001"],
            "the oldest end is dropped last"
        );
        let lost = queue.push(notification(2_000, "release_advanced")).unwrap();
        assert_eq!(lost.release.id, "shop-2000");
    }
}
