//! Waiting for conditions, with a deadline that only a failure reaches.

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any condition takes on a loaded machine; reaching it is a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(3);

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// Waits until `attempt` returns a value.
#[track_caller]
pub(crate) fn until<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    until_within(DEADLINE, what, attempt)
}

/// As [`until`], with another limit: for what takes a slow machine long.
#[track_caller]
pub(crate) fn until_within<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begin.elapsed() < limit, "timed out waiting until {what}");
        thread::sleep(POLL);
    }
}

/// Waits until `read` has returned the same value for a while, and returns it. For counters that
/// are expected to stop: a while that is too short can hide a failure but never causes one.
#[track_caller]
pub(crate) fn settled<T: PartialEq>(what: &str, mut read: impl FnMut() -> T) -> T {
    const AGREEING: u32 = 60;
    let (mut last, mut same) = (read(), 0);
    until(what, || {
        let now = read();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same >= AGREEING).then_some(())
    });
    last
}

/// A latch that scripts wait for until the case opens it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// Waits until the gate opens, or until the deadline, so that a failed case ends.
    pub(crate) fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(
            self.changed
                .wait_timeout_while(open, DEADLINE, |open| !*open)
                .unwrap(),
        );
    }
}
