//! What waits for one receiver: a bounded number of events, in their order.
//!
//! Whoever puts an event in never waits. Where there are too many, the oldest gives way, but the
//! end of a release only to other ends: it is what a receiver must not miss. It does not overtake
//! what happened before it, since a receiver that is told of a step after the end would take it for
//! the later.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::message::Notification;

/// Events that may wait.
pub(super) const QUEUE_MAX: usize = 256;

/// A queue that one task takes from.
#[derive(Debug, Default)]
pub(super) struct DeliveryQueue {
    waiting: Mutex<VecDeque<Arc<Notification>>>,
    added: Notify,
}

impl DeliveryQueue {
    /// Adds an event. Gives the one that had to give way to it, if one had; that may be itself.
    pub(super) fn push(&self, news: Arc<Notification>) -> Option<Arc<Notification>> {
        let mut waiting = self.waiting();
        waiting.push_back(news);
        let surplus = waiting.len() > QUEUE_MAX;
        let oldest = || waiting.iter().position(|news| !news.is_end()).unwrap_or(0);
        let at = surplus.then(oldest);
        let lost = at.and_then(|at| waiting.remove(at));
        drop(waiting);
        self.added.notify_one();
        lost
    }

    /// The event that has waited for longest, once there is one.
    pub(super) async fn next(&self) -> Arc<Notification> {
        loop {
            let first = self.waiting().pop_front();
            match first {
                Some(news) => return news,
                None => self.added.notified().await,
            }
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Notification>>> {
        // No panic can come between two steps of a change, so the queue is whole even if a holder
        // was not.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, release};
    use super::*;

    fn news(id: u64, action: &str) -> Arc<Notification> {
        let mut release = release();
        release.id = format!("shop-{id}");
        Arc::new(Notification::of(event(id, action, release)).unwrap())
    }

    fn ids(queue: &DeliveryQueue) -> Vec<String> {
        queue
            .waiting()
            .iter()
            .map(|news| news.release.id.clone())
            .collect()
    }

    #[test]
    fn the_end_of_a_release_is_dropped_for_other_ends_only() {
        let queue = DeliveryQueue::default();
        assert!(queue.push(news(0, "release_rolled_back")).is_none());
        let mut lost = 0;
        for id in 1..2 * QUEUE_MAX as u64 {
            lost += queue.push(news(id, "release_advanced")).iter().count();
        }
        assert_eq!((queue.len(), lost), (QUEUE_MAX, QUEUE_MAX));
        assert_eq!(
            ids(&queue)[..2],
            ["shop-0", "shop-257"],
            "in their order all the same"
        );

        for id in 0..QUEUE_MAX as u64 {
            queue.push(news(1_000 + id, "release_promoted"));
        }
        assert_eq!(
            ids(&queue)[..2],
            ["shop-1000", "shop-1001"],
            "the oldest end went last"
        );
        let lost = queue.push(news(2_000, "release_advanced")).unwrap();
        assert_eq!(lost.release.id, "shop-2000");
    }
}
