//! Requests that have been routed and not yet written: what makes "no request starts any more"
//! true.
//!
//! A request counts as under the revision it was routed by until its first byte is on its way to
//! the upstream. A worker acknowledges a revision when nothing older is unwritten.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::routing::Acknowledger;

/// The unwritten requests of one worker, by revision.
#[derive(Debug)]
pub(crate) struct UnsentRequests {
    /// Revisions, oldest first, each with its number of unwritten requests. Rarely more than two.
    revisions: RefCell<VecDeque<(u64, u32)>>,
    current: Cell<u64>,
    acknowledged: Cell<u64>,
    acknowledger: Acknowledger,
}

impl UnsentRequests {
    pub(crate) fn new(acknowledger: Acknowledger) -> Rc<UnsentRequests> {
        Rc::new(UnsentRequests {
            revisions: RefCell::default(),
            current: Cell::new(0),
            acknowledged: Cell::new(0),
            acknowledger,
        })
    }

    /// A request was routed by `revision`, the newest that there is.
    pub(crate) fn enter(self: &Rc<Self>, revision: u64) -> RevisionGuard {
        let mut revisions = self.revisions.borrow_mut();
        match revisions.back_mut() {
            Some((last, count)) if *last == revision => *count += 1,
            _ => revisions.push_back((revision, 1)),
        }
        RevisionGuard {
            unsent: Rc::clone(self),
            revision,
        }
    }

    /// The worker has seen `revision`: every request from here on is routed by it or by a later
    /// one.
    pub(crate) fn advance(&self, revision: u64) {
        self.current.set(self.current.get().max(revision));
        self.settle();
    }

    fn settle(&self) {
        let oldest = self
            .revisions
            .borrow()
            .front()
            .map_or(u64::MAX, |(revision, _)| *revision);
        let reached = self.current.get().min(oldest);
        if reached > self.acknowledged.get() {
            self.acknowledged.set(reached);
            self.acknowledger.acknowledge(reached);
        }
    }

    fn leave(&self, revision: u64) {
        let mut revisions = self.revisions.borrow_mut();
        if let Some((_, count)) = revisions.iter_mut().find(|(at, _)| *at == revision) {
            *count -= 1;
        }
        while revisions.front().is_some_and(|(_, count)| *count == 0) {
            revisions.pop_front();
        }
        drop(revisions);
        if self.acknowledged.get() < self.current.get() {
            self.settle();
        }
    }
}

/// One request that is routed and not yet written. Dropped when its first byte is written, or when
/// it will never be.
#[derive(Debug)]
pub(crate) struct RevisionGuard {
    unsent: Rc<UnsentRequests>,
    revision: u64,
}

impl Drop for RevisionGuard {
    fn drop(&mut self) {
        self.unsent.leave(self.revision);
    }
}
