//! The allowance of failures, handed to the tripwire in pieces that are on disk as spent before
//! they are armed. So a process that is killed at any moment comes back with no less spent than
//! users have seen.

use crate::routing::{BudgetKind, ReleaseHandle};

/// Failures that are leased at once: half of what is left, so that a kill costs no more than that,
/// and never fewer than this many. With few, a burst outruns the disk and trips the wire before the
/// budget is spent.
const PIECE_MIN: u32 = 3;

fn piece(left: u32) -> u32 {
    (left / 2).max(PIECE_MIN)
}

/// What of the allowance may be armed.
#[derive(Debug)]
pub(super) struct AllowanceLease {
    /// Failures that are on disk as spent; `None` where nothing is kept on disk, and nothing is to
    /// be lost.
    granted: Option<u32>,
    asked: Option<u32>,
}

impl AllowanceLease {
    /// So many are on disk as spent.
    pub(super) fn new(granted: u32, durable: bool) -> AllowanceLease {
        AllowanceLease {
            granted: durable.then_some(granted),
            asked: None,
        }
    }

    /// What a release begins with when users have seen `spent` failures, of `limit` that exhaust
    /// it.
    pub(super) fn first(spent: u32, limit: u32) -> u32 {
        limit.min(spent.saturating_add(piece(limit.saturating_sub(spent))))
    }

    /// The most failures that the wire may be armed with when `limit` exhaust the budget.
    pub(super) fn cap(&self, limit: u32) -> u32 {
        self.granted.map_or(limit, |granted| limit.min(granted))
    }

    /// What should be on disk as spent, when it is time to ask for more.
    pub(super) fn ask(&mut self, spent: u32, limit: u32) -> Option<u32> {
        let granted = self.granted?;
        let armed = granted.saturating_sub(spent);
        let wanted = AllowanceLease::first(spent, limit);
        if self.asked.is_some()
            || wanted <= granted
            || armed > piece(limit.saturating_sub(spent)).div_ceil(2)
        {
            return None;
        }
        self.asked = Some(wanted);
        self.asked
    }

    /// What the disk is asked to take down.
    pub(super) fn asked(&self) -> Option<u32> {
        self.asked
    }

    /// The disk has taken down `asked`, or has not. What was asked for since is not answered with
    /// it.
    pub(super) fn answered(&mut self, asked: Option<u32>, on_disk: bool) {
        if asked.is_none() || self.asked != asked {
            return;
        }
        self.asked = None;
        if let (true, Some(asked), Some(granted)) = (on_disk, asked, &mut self.granted) {
            *granted = asked.max(*granted);
        }
    }

    /// What is, or may soon be, on disk as spent.
    pub(super) fn on_disk(&self, spent: u32) -> u32 {
        self.asked
            .or(self.granted)
            .unwrap_or(spent)
            .max(self.granted.unwrap_or(0))
    }
}

/// One of a release's two budgets, as it is armed and kept on disk.
#[derive(Debug)]
pub(super) struct LeasedBudget {
    pub(super) wire: BudgetKind,
    pub(super) lease: AllowanceLease,
    /// Failures that count as spent only because a restart does not know better.
    pub(super) forgone: u32,
    /// The most that the wire was armed with last, when the disk had not taken down as many as the
    /// budget allows.
    pub(super) capped: Option<u32>,
    /// The failures that exhaust it, as it was armed last.
    limit: u32,
}

impl LeasedBudget {
    /// Of `wire`, with so many failures spent, on disk too.
    pub(super) fn new(wire: BudgetKind, spent: u32, durable: bool) -> LeasedBudget {
        LeasedBudget {
            wire,
            lease: AllowanceLease::new(spent, durable),
            forgone: 0,
            capped: None,
            limit: spent,
        }
    }

    /// Arms the wire so that `allowance` failures more exhaust it, when `spent` are counted and
    /// `beside` more are known that the wire does not count.
    pub(super) fn arm(
        &mut self,
        watch: &ReleaseHandle,
        allowance: u64,
        beside: u32,
        baseline_failures: u32,
    ) {
        let spent = watch.tripwire().spent(self.wire).saturating_add(beside);
        let limit = spent.saturating_add(u32::try_from(allowance).unwrap_or(u32::MAX));
        let cap = self.lease.cap(limit);
        self.capped = (cap < limit).then_some(cap);
        watch
            .tripwire()
            .arm(self.wire, cap.saturating_sub(beside), baseline_failures);
        self.limit = limit;
    }

    /// Whether the disk is asked to take down more as spent.
    pub(super) fn ask(&mut self, spent: u32) -> bool {
        self.lease.ask(spent, self.limit).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_armed_that_is_not_on_disk_as_spent() {
        let mut lease = AllowanceLease::new(AllowanceLease::first(0, 23), true);
        assert_eq!((lease.cap(23), lease.ask(5, 23)), (11, None));
        assert_eq!(lease.ask(7, 23), Some(15));
        assert_eq!(
            (lease.cap(23), lease.ask(8, 23)),
            (11, None),
            "one at a time"
        );
        assert_eq!(lease.on_disk(3), 15, "what was asked for may be on disk");
        lease.answered(lease.asked(), false);
        assert_eq!(lease.cap(23), 11);
        assert_eq!(lease.ask(9, 23), Some(16));
        lease.answered(lease.asked(), true);
        assert_eq!(lease.cap(23), 16);
        assert_eq!(lease.ask(15, 15), None);
        assert_eq!(lease.cap(9), 9, "a limit that fell counts at once");
    }

    #[test]
    fn of_a_small_budget_one_failure_is_never_the_last_that_is_armed() {
        for limit in 3..30 {
            let mut lease = AllowanceLease::new(AllowanceLease::first(0, limit), true);
            for spent in 0..limit - 1 {
                assert!(lease.cap(limit) > spent + 1, "{spent} of {limit}");
                if lease.ask(spent, limit).is_some() {
                    lease.answered(lease.asked(), true);
                }
            }
        }
    }

    #[test]
    fn without_a_disk_there_is_nothing_to_lease() {
        let mut lease = AllowanceLease::new(0, false);
        assert_eq!((lease.cap(23), lease.ask(0, 23)), (23, None));
    }
}
