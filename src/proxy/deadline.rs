//! Coarse deadlines of one worker: no timer per request.
//!
//! A deadline is a number in a slab, and stands in a wheel under the time at which the worker's
//! tick has to look at it. Most are moved or dropped before their time: moving one to a later time
//! costs a store, since it is found where it stood and put further on then. So a
//! tick costs in proportion to what is due, whatever the number of connections. Deadlines fire up
//! to one tick late, never early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// Milliseconds since the worker started.
pub(crate) type Millis = u64;

/// The time between two turns of the worker's tick, in milliseconds.
pub(crate) const TICK_MS: u64 = 10;

const NEVER: Millis = Millis::MAX;
/// Slots of the wheel; what is further away than a turn of it goes round.
const SLOTS: u64 = 1024;
/// Milliseconds of a slot: a tick.
const SLOT: u64 = TICK_MS;

/// All deadlines of one worker.
#[derive(Debug)]
pub(crate) struct Deadlines {
    started: Instant,
    /// The time at the last tick; at most a tick old while anything is under way.
    coarse: Cell<Millis>,
    entries: RefCell<Slab<Entry>>,
    wheel: RefCell<Wheel>,
}

#[derive(Debug)]
struct Entry {
    at: Millis,
    /// The slot, counted from the start of the worker, whose list the entry is in.
    queued: Option<u64>,
    /// Of the entry before it in that list, and behind it.
    before: Option<usize>,
    behind: Option<usize>,
    fired: bool,
    waker: Option<Waker>,
}

/// Lists of entries by the slot in which they have to be looked at.
#[derive(Debug)]
struct Wheel {
    /// The first entry of each list.
    slots: Vec<Option<usize>>,
    /// The first slot that has not passed.
    next: u64,
    len: usize,
    /// How many entries have been looked at in all.
    looks: u64,
}

impl Wheel {
    fn slot(&mut self, slot: u64) -> Option<&mut Option<usize>> {
        self.slots
            .get_mut(usize::try_from(slot % SLOTS).unwrap_or(0))
    }

    /// Puts an entry into the list of its time, or of the next slot when that has passed.
    fn insert(&mut self, entries: &mut Slab<Entry>, key: usize) {
        let next = self.next;
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        let at = slot_of(entry.at).max(next);
        let Some(first) = self.slot(at) else { return };
        let behind = first.replace(key);
        entry.queued = Some(at);
        entry.before = None;
        entry.behind = behind;
        if let Some(behind) = behind.and_then(|behind| entries.get_mut(behind)) {
            behind.before = Some(key);
        }
        self.len += 1;
    }

    /// Takes an entry out of the list that it is in.
    fn remove(&mut self, entries: &mut Slab<Entry>, key: usize) {
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        let Some(queued) = entry.queued.take() else {
            return;
        };
        let (before, behind) = (entry.before.take(), entry.behind.take());
        match before.and_then(|before| entries.get_mut(before)) {
            Some(before) => before.behind = behind,
            None => {
                if let Some(first) = self.slot(queued) {
                    *first = behind;
                }
            }
        }
        if let Some(behind) = behind.and_then(|behind| entries.get_mut(behind)) {
            behind.before = before;
        }
        self.len -= 1;
    }

    /// Looks at the lists of all slots whose time has come, and collects whom to wake.
    fn advance(&mut self, entries: &mut Slab<Entry>, now: Millis, due: &mut Vec<Waker>) {
        let present = slot_of(now).max(self.next);
        // After a long sleep each list has to be looked at once. The present slot is looked at
        // again until it has passed.
        let from = self.next.max((present + 1).saturating_sub(SLOTS));
        self.next = present;
        for slot in from..=present {
            let mut key = self.slot(slot).and_then(|first| *first);
            while let Some(at) = key {
                self.looks += 1;
                key = entries.get(at).and_then(|entry| entry.behind);
                self.look(entries, at, now, due);
            }
        }
    }

    fn look(&mut self, entries: &mut Slab<Entry>, key: usize, now: Millis, due: &mut Vec<Waker>) {
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        if entry.at <= now {
            entry.at = NEVER;
            entry.fired = true;
            due.extend(entry.waker.take());
            self.remove(entries, key);
        } else if entry.at == NEVER {
            self.remove(entries, key);
        } else if entry.queued != Some(slot_of(entry.at)) {
            self.remove(entries, key);
            self.insert(entries, key);
        }
        // Else it is one of a later turn of the wheel.
    }
}

/// The slot that `at` is in.
fn slot_of(at: Millis) -> u64 {
    at / SLOT
}

impl Deadlines {
    pub(crate) fn new() -> Rc<Deadlines> {
        let slots = usize::try_from(SLOTS).unwrap_or(0);
        Rc::new(Deadlines {
            started: Instant::now(),
            coarse: Cell::new(0),
            entries: RefCell::default(),
            wheel: RefCell::new(Wheel {
                slots: vec![None; slots],
                next: 0,
                len: 0,
                looks: 0,
            }),
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

    /// How long until a deadline may fire; `None` when there is none. Never too long, but perhaps
    /// too short.
    pub(crate) fn next(&self, now: Millis) -> Option<Duration> {
        let wheel = self.wheel.borrow();
        if wheel.len == 0 {
            return None;
        }
        let slots = (0..SLOTS).map(|more| wheel.next + more);
        let index = |slot: u64| usize::try_from(slot % SLOTS).unwrap_or(0);
        let mut taken =
            slots.filter(|slot| wheel.slots.get(index(*slot)).is_some_and(Option::is_some));
        let begin = taken.next().unwrap_or(wheel.next) * SLOT;
        Some(Duration::from_millis(begin.saturating_sub(now)))
    }

    /// Wakes every task whose deadline has come.
    pub(crate) fn tick(&self, now: Millis) {
        self.coarse.set(now);
        let mut due = Vec::new();
        self.wheel
            .borrow_mut()
            .advance(&mut self.entries.borrow_mut(), now, &mut due);
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
            queued: None,
            before: None,
            behind: None,
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
                .saturating_add(TICK_MS)
        };
        self.set_at(at);
    }

    /// Fires at `at`.
    pub(crate) fn set_at(&self, at: Millis) {
        let mut entries = self.all.entries.borrow_mut();
        let Some(entry) = entries.get_mut(self.key) else {
            return;
        };
        entry.at = at;
        entry.fired = false;
        // One that stands under an earlier time is found there, and put further on.
        if at != NEVER && entry.queued.is_none_or(|queued| queued > slot_of(at)) {
            let mut wheel = self.all.wheel.borrow_mut();
            wheel.remove(&mut entries, self.key);
            wheel.insert(&mut entries, self.key);
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
        let mut entries = self.all.entries.borrow_mut();
        self.all.wheel.borrow_mut().remove(&mut entries, self.key);
        entries.try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fired(deadline: &Deadline) -> bool {
        deadline
            .poll(&Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn a_deadline_fires_once_its_time_has_come_and_not_before() {
        let all = Deadlines::new();
        let (first, second) = (all.deadline(), all.deadline());
        first.set(Duration::from_millis(100));
        second.set(Duration::from_millis(300));
        all.tick(100);
        assert!(
            !fired(&first),
            "the clock may have been a tick behind when it was set"
        );
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
    fn a_tick_costs_in_proportion_to_what_is_due() {
        let all = Deadlines::new();
        let idle: Vec<_> = (0..10_000).map(|_| all.deadline()).collect();
        idle.iter()
            .for_each(|deadline| deadline.set(Duration::from_secs(60)));
        let busy = all.deadline();
        for (turn, put_off) in (1_u64..).zip(idle.iter().take(1_000)) {
            // Somebody is due in each tick, and somebody else has put off what was.
            busy.set_at(turn * SLOT);
            put_off.set(Duration::from_secs(60));
            all.tick(turn * SLOT);
            all.tick(turn * SLOT + SLOT - 1);
            assert!(fired(&busy));
        }
        // Within ten seconds the wheel comes by each of the others once, for the two or three ticks
        // of a slot. To look at all of them in each tick would be twenty million.
        let looks = all.wheel.borrow().looks;
        assert!(looks < 3 * (10_000 + 1_000), "{looks}");
        assert!(!idle.iter().any(fired));
        drop(idle);
        drop(busy);
        assert_eq!((all.wheel.borrow().len, all.entries.borrow().len()), (0, 0));
    }

    proptest! {
        #[test]
        fn each_fires_in_the_first_tick_that_is_not_before_its_time(
            steps in proptest::collection::vec((0_usize..8, 0_u64..40_000, 1_u64..3_000, 0_u8..10), 1..200),
        ) {
            let all = Deadlines::new();
            let mut deadlines: Vec<_> = (0..8).map(|_| (all.deadline(), NEVER)).collect();
            let mut now = 0;
            for (which, after, pause, what) in steps {
                match what {
                    0 => deadlines[which] = (all.deadline(), NEVER),
                    1 => {
                        deadlines[which].0.set_at(NEVER);
                        deadlines[which].1 = NEVER;
                    }
                    2..6 => {
                        deadlines[which].0.set_at(now + after);
                        deadlines[which].1 = now + after;
                    }
                    _ => {
                        if let Some(wait) = all.next(now) {
                            let first = deadlines.iter().filter(|(deadline, _)| !fired(deadline)).map(|(_, at)| *at).min().unwrap();
                            let wait = u64::try_from(wait.as_millis()).unwrap();
                            prop_assert!(first == NEVER || now + wait <= first.max(now), "{} {} {}", now, wait, first);
                        }
                        now += pause;
                        all.tick(now);
                        for (deadline, at) in &deadlines {
                            prop_assert_eq!(fired(deadline), *at <= now);
                        }
                    }
                }
            }
        }
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
