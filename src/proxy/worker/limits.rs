//! Limits that all workers share: requests under way in the process, and connections of one
//! listener.
//!
//! Shares of a limit, one for each worker, would refuse what all of them together still have room
//! for: the kernel spreads connections by their addresses, and all requests of an HTTP/2 connection
//! are its worker's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for so many requests. Without a limit there is nothing to count, and no memory that the
/// workers share.
#[derive(Clone, Debug)]
pub(crate) struct RequestLimit {
    taken: Option<Arc<AtomicUsize>>,
    max: usize,
}

/// A request's place, given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Permit(Option<Arc<AtomicUsize>>);

impl RequestLimit {
    /// Zero means without limit.
    pub(crate) fn new(max: usize) -> RequestLimit {
        RequestLimit {
            taken: (max > 0).then(Arc::default),
            max,
        }
    }

    /// A place, if one is left.
    pub(crate) fn enter(&self) -> Option<Permit> {
        let Some(taken) = &self.taken else {
            return Some(Permit::default());
        };
        // The count guards no other memory.
        let one_more = |taken| (taken < self.max).then_some(taken + 1);
        let entered = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.is_ok().then(|| Permit(Some(Arc::clone(taken))))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(taken) = &self.0 {
            taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Seats for the connections of one listener. A connection that ends on one worker makes room on
/// each.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimit(Option<Arc<Semaphore>>);

/// A connection's seat, given back when dropped.
pub(crate) type ConnectionPermit = Option<OwnedSemaphorePermit>;

impl ConnectionLimit {
    /// Zero means without limit.
    pub(crate) fn new(max: usize) -> ConnectionLimit {
        ConnectionLimit(
            (max > 0).then(|| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))),
        )
    }

    /// Waits until there is one to take, which somebody else may take first.
    pub(crate) async fn wait(&self) {
        if let Some(seats) = &self.0 {
            drop(seats.acquire().await);
        }
    }

    /// Takes one, once there is one.
    pub(crate) async fn take(&self) -> ConnectionPermit {
        match &self.0 {
            // It is never closed, which would be the only error.
            Some(seats) => Arc::clone(seats).acquire_owned().await.ok(),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn there_is_room_for_as_many_as_the_limit_says_and_again_when_one_has_left() {
        let room = RequestLimit::new(2);
        let elsewhere = room.clone();
        let (first, second) = (room.enter(), elsewhere.enter());
        assert!(first.is_some() && second.is_some() && room.enter().is_none());
        drop(second);
        assert!(room.enter().is_some());
        let unlimited = RequestLimit::new(0);
        let places: Vec<_> = (0..100).map(|_| unlimited.enter()).collect();
        assert!(places.iter().all(Option::is_some));
    }

    #[test]
    fn whoever_waits_for_a_seat_is_woken_wherever_one_is_given_back() {
        let seats = ConnectionLimit::new(1);
        let elsewhere = seats.clone();
        let seat = elsewhere.take().now_or_never();
        assert!(seat.is_some());
        let (waiting, taking) = (seats.wait(), seats.take());
        let (mut waiting, mut taking) = (Box::pin(waiting), Box::pin(taking));
        assert!(
            waiting.as_mut().now_or_never().is_none() && taking.as_mut().now_or_never().is_none()
        );
        drop(seat);
        // Who only waited lets the next one have it.
        assert!(waiting.as_mut().now_or_never().is_some());
        assert!(taking.as_mut().now_or_never().is_some());
        assert!(ConnectionLimit::new(0).take().now_or_never().is_some());
    }
}
