//! Requests of the canary that were scored as failed at the landmark, and are open still: until they end they hold the
//! step, and what becomes of them must not be counted a second time (STATISTICS.md 1.k.3).

use std::collections::BTreeMap;

use super::cohorts::{Key, key};
use crate::stats::{Happened, Note};

/// Requests of the canary that had no head at the landmark, and were scored as failed then.
#[derive(Debug, Default)]
pub(super) struct Late {
    open: BTreeMap<Key, Vec<LateOpen>>,
    /// How many are open and have no head yet.
    count: u32,
    /// All of them, but for those that failed in the end, which the tripwire has counted too.
    unfinished: u32,
}

#[derive(Clone, Copy, Debug)]
struct LateOpen {
    user: u32,
    headed: bool,
}

impl Late {
    pub(super) fn add(&mut self, key: Key, user: u32) {
        let open = LateOpen { user, headed: false };
        self.open.entry(key).or_default().push(open);
        self.count += 1;
        self.unfinished = self.unfinished.saturating_add(1);
    }

    /// Something has happened to a request that was scored already.
    pub(super) fn hear(&mut self, note: &Note) {
        let key = key(&note.assignment);
        let Some(all) = self.open.get_mut(&key) else {
            return;
        };
        let Some(at) = all.iter().position(|open| open.user == note.user) else {
            return;
        };
        let (ends, heads) = (note.happened.is_last(), note.happened == Happened::Headed);
        let Some(open) = all.get_mut(at).filter(|_| ends || heads) else {
            return;
        };
        self.count = self.count.saturating_sub(u32::from(!open.headed));
        open.headed = true;
        if !ends {
            return;
        }
        if note.happened.is_bad() {
            self.unfinished = self.unfinished.saturating_sub(1);
        }
        all.swap_remove(at);
        if all.is_empty() {
            self.open.remove(&key);
        }
    }

    /// Nothing more will be told of those that are open.
    pub(super) fn forget_open(&mut self) {
        self.open.clear();
        self.count = 0;
    }

    /// How many are open without a head.
    pub(super) fn hanging(&self) -> u32 {
        self.count
    }

    /// How many were scored as failed that the tripwire has not counted.
    pub(super) fn unfinished(&self) -> u32 {
        self.unfinished
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Assignment, Side, WatchKey};

    fn note(at_us: u64, user: u32, happened: Happened) -> Note {
        Note {
            assignment: Assignment {
                watch: WatchKey(0),
                at_us,
                canary_points: 10_000,
                baseline_points: 0,
                side: Side::Canary,
            },
            user,
            happened,
        }
    }

    #[test]
    fn a_late_request_counts_once_whatever_comes_of_it() {
        let mut late = Late::default();
        for user in 0..4 {
            late.add(key(&note(7, user, Happened::Headed).assignment), user);
        }
        assert_eq!((late.hanging(), late.unfinished()), (4, 4));
        // The tripwire counts the failure when it comes; the head before it ends the hanging.
        late.hear(&note(7, 0, Happened::Headed));
        assert_eq!((late.hanging(), late.unfinished()), (3, 4));
        late.hear(&note(7, 0, Happened::Bad { visible: true }));
        late.hear(&note(7, 1, Happened::Good { latency_us: 9 }));
        late.hear(&note(7, 2, Happened::Aborted { late: true }));
        assert_eq!((late.hanging(), late.unfinished()), (1, 2));
        late.hear(&note(8, 3, Happened::Bad { visible: true }));
        assert_eq!(late.hanging(), 1, "another request");
        assert!(late.open.len() == 1);
    }
}
