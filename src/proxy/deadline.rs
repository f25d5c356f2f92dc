//! Coarse deadlines of one worker: no timer per request.
//!
//! A deadline is a number in a slab. The worker's [tick](super::tick) looks at the earliest one and wakes the tasks whose
//! time has come, so that the common case, a request that ends in time, costs two stores. They fire up to one tick late,
//! never early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// Milliseconds since the worker started.
pub(crate) type Millis = u64;

const NEVER: Millis = Millis::MAX;

/// All deadlines of one worker.
#[derive(Debug)]
pub(crate) struct Deadlines {
    started: Instant,
    /// The time at the last tick; at most a tick old while anything is under way.
    coarse: Cell<Millis>,
    /// No deadline is earlier than this.
    earliest: Cell<Millis>,
    entries: RefCell<Slab<Entry>>,
}

#[derive(Debug)]
struct Entry {
    at: Millis,
    fired: bool,
    waker: Option<Waker>,
}

impl Deadlines {
    pub(crate) fn new() -> Rc<Deadlines> {
        Rc::new(Deadlines {
            started: Instant::now(),
            coarse: Cell::new(0),
            earliest: Cell::new(NEVER),
            entries: RefCell::default(),
        })
    }

    /// The time of the last tick: enough for bounds of seconds, and no call to the clock.
    pub(crate) fn coarse(&self) -> Millis {
        self.coarse.get()
    }

    /// The time now, by the clock.
    pub(crate) fn now(&self) -> Millis {
        self.at(Instant::now())
    }

    /// `instant` as milliseconds since the worker started.
    pub(crate) fn at(&self, instant: Instant) -> Millis {
        u64::try_from(instant.saturating_duration_since(self.started).as_millis()).unwrap_or(NEVER)
    }

    /// Takes the time anew, after a while without ticks.
    pub(crate) fn refresh(&self) {
        self.coarse.set(self.now());
    }

    /// How long until the earliest deadline may fire; `None` when there is none.
    pub(crate) fn next(&self, now: Millis) -> Option<Duration> {
        let earliest = self.earliest.get();
        (earliest != NEVER).then(|| Duration::from_millis(earliest.saturating_sub(now)))
    }

    /// Wakes every task whose deadline has come.
    pub(crate) fn tick(&self, now: Millis) {
        self.coarse.set(now);
        if now < self.earliest.get() {
            return;
        }
        let mut earliest = NEVER;
        let mut due = Vec::new();
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.at <= now {
                entry.at = NEVER;
                entry.fired = true;
                due.extend(entry.waker.take());
            } else {
                earliest = earliest.min(entry.at);
            }
        }
        self.earliest.set(earliest);
        due.into_iter().for_each(Waker::wake);
    }

    /// Wakes every task that has a deadline, so that each looks at the world again.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> = self
            .entries
            .borrow_mut()
            .iter_mut()
            .filter_map(|(_, e)| e.waker.take())
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A new deadline, not set.
    pub(crate) fn deadline(self: &Rc<Self>) -> Deadline {
        let entry = Entry {
            at: NEVER,
            fired: false,
            waker: None,
        };
        Deadline {
            key: self.entries.borrow_mut().insert(entry),
            all: Rc::clone(self),
        }
    }
}

/// One deadline; gone when dropped.
#[derive(Debug)]
pub(crate) struct Deadline {
    all: Rc<Deadlines>,
    key: usize,
}

impl Deadline {
    /// Fires `after` from the last tick; never for zero, as a limit of zero means none.
    pub(crate) fn set(&self, after: Duration) {
        let at = if after.is_zero() {
            NEVER
        } else {
            // The coarse time may lag by a tick; one more keeps the deadline from firing early.
            let millis = u64::try_from(after.as_millis()).unwrap_or(NEVER);
            self.all
                .coarse()
                .saturating_add(millis)
                .saturating_add(super::tick::TICK_MS)
        };
        self.set_at(at);
    }

    /// Fires at `at`.
    pub(crate) fn set_at(&self, at: Millis) {
        if let Some(entry) = self.all.entries.borrow_mut().get_mut(self.key) {
            entry.at = at;
            entry.fired = false;
        }
        if at < self.all.earliest.get() {
            self.all.earliest.set(at);
        }
    }

    /// Ready once the deadline has passed; otherwise the task is woken when it does.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut entries = self.all.entries.borrow_mut();
        let Some(entry) = entries.get_mut(self.key) else {
            return Poll::Pending;
        };
        if entry.fired {
            return Poll::Ready(());
        }
        match &entry.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => entry.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.all.entries.borrow_mut().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(deadline: &Deadline) -> bool {
        deadline.poll(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_deadline_fires_once_its_time_has_come_and_not_before() {
        let all = Deadlines::new();
        let (first, second) = (all.deadline(), all.deadline());
        first.set(Duration::from_millis(100));
        second.set(Duration::from_millis(300));
        all.tick(100);
        assert!(!fired(&first), "the clock may have been a tick behind when it was set");
        all.tick(111);
        assert!(fired(&first) && !fired(&second));
        assert_eq!(all.next(111), Some(Duration::from_millis(199)));
        first.set(Duration::from_millis(50));
        assert!(!fired(&first), "set anew");
        drop(second);
        all.tick(1_000);
        assert!(fired(&first));
        assert_eq!(all.next(1_000), None);
    }

    #[test]
    fn zero_means_no_limit() {
        let all = Deadlines::new();
        let deadline = all.deadline();
        deadline.set(Duration::ZERO);
        all.tick(u64::MAX - 1);
        assert!(!fired(&deadline));
    }
}
