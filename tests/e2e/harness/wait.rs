//! Waiting for conditions, with a deadline that only a failure reaches.

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine; whoever gets here has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(3);

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// Waits until `attempt` gives something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "waited in vain until {what}");
        thread::sleep(POLL);
    }
}

/// Waits until `read` has given the same value for a while, and gives that value. For counters that
/// are expected to stop: too short a while makes a case pass that should not, never the other way
/// round.
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

/// Something that others wait for until it is opened.
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

    /// Waits for the gate to open. A gate that never does is left after the deadline, so that a
    /// failed case ends.
    pub(crate) fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(
            self.changed
                .wait_timeout_while(open, DEADLINE, |open| !*open)
                .unwrap(),
        );
    }
}
