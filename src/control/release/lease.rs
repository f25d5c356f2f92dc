//! The lease on the budget of failures: pieces of it are recorded on disk as spent before the
//! tripwire is armed with them. So a process that is killed at any time restarts with at least as
//! much spent as users have seen.

use crate::routing::{BudgetKind, ReleaseHandle};

/// Failures that are leased at once: half of what is left, which bounds the loss by a kill, but at
/// least this many. With fewer, a burst outruns the disk and trips the wire before the budget is
/// spent.
const PIECE_MIN: u32 = 3;

fn piece(left: u32) -> u32 {
    (left / 2).max(PIECE_MIN)
}

/// How much of the budget may be armed.
#[derive(Debug)]
pub(super) struct AllowanceLease {
    /// Failures recorded on disk as spent; `None` without a durable store, where nothing can be
    /// lost.
    granted: Option<u32>,
    requested: Option<u32>,
}

impl AllowanceLease {
    /// A lease with `granted` failures recorded on disk as spent.
    pub(super) fn new(granted: u32, durable: bool) -> AllowanceLease {
        AllowanceLease {
            granted: durable.then_some(granted),
            requested: None,
        }
    }

    /// The first lease of a release when users have seen `spent` failures, of `limit` that exhaust
    /// the budget.
    pub(super) fn first(spent: u32, limit: u32) -> u32 {
        limit.min(spent.saturating_add(piece(limit.saturating_sub(spent))))
    }

    /// The most failures that the tripwire may be armed with when `limit` exhaust the budget.
    pub(super) fn cap(&self, limit: u32) -> u32 {
        self.granted.map_or(limit, |granted| limit.min(granted))
    }

    /// What the disk should record as spent, if more must be requested.
    pub(super) fn request_more(&mut self, spent: u32, limit: u32) -> Option<u32> {
        let granted = self.granted?;
        let armed = granted.saturating_sub(spent);
        let wanted = AllowanceLease::first(spent, limit);
        if self.requested.is_some()
            || wanted <= granted
            || armed > piece(limit.saturating_sub(spent)).div_ceil(2)
        {
            return None;
        }
        self.requested = Some(wanted);
        self.requested
    }

    /// The request that the disk has not answered yet.
    pub(super) fn requested(&self) -> Option<u32> {
        self.requested
    }

    /// The disk has recorded `requested`, or has failed to. A later request stays open.
    pub(super) fn settle(&mut self, requested: Option<u32>, on_disk: bool) {
        if requested.is_none() || self.requested != requested {
            return;
        }
        self.requested = None;
        if let (true, Some(requested), Some(granted)) = (on_disk, requested, &mut self.granted) {
            *granted = requested.max(*granted);
        }
    }

    /// What is, or may soon be, recorded on disk as spent.
    pub(super) fn on_disk(&self, spent: u32) -> u32 {
        self.requested
            .or(self.granted)
            .unwrap_or(spent)
            .max(self.granted.unwrap_or(0))
    }
}

/// One of a release's two budgets, with its arming and its lease.
#[derive(Debug)]
pub(super) struct LeasedBudget {
    pub(super) wire: BudgetKind,
    pub(super) lease: AllowanceLease,
    /// Failures that count as spent only because of a restart.
    pub(super) forgone: u32,
    /// The last limit that the tripwire was armed with, if the lease was below the budget.
    pub(super) capped: Option<u32>,
    /// The number of failures that exhaust it, as last armed.
    limit: u32,
}

impl LeasedBudget {
    /// The budget of `wire`, with `spent` failures spent and recorded on disk.
    pub(super) fn new(wire: BudgetKind, spent: u32, durable: bool) -> LeasedBudget {
        LeasedBudget {
            wire,
            lease: AllowanceLease::new(spent, durable),
            forgone: 0,
            capped: None,
            limit: spent,
        }
    }

    /// Arms the tripwire so that `allowance` more failures exhaust the budget, with `spent` counted
    /// and `beside` known that the tripwire does not count.
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

    /// Whether the disk must record more failures as spent.
    pub(super) fn request_more(&mut self, spent: u32) -> bool {
        self.lease.request_more(spent, self.limit).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_recorded_on_disk_are_armed() {
        let mut lease = AllowanceLease::new(AllowanceLease::first(0, 23), true);
        assert_eq!((lease.cap(23), lease.request_more(5, 23)), (11, None));
        assert_eq!(lease.request_more(7, 23), Some(15));
        assert_eq!(
            (lease.cap(23), lease.request_more(8, 23)),
            (11, None),
            "one request at a time"
        );
        assert_eq!(lease.on_disk(3), 15, "the requested lease may be on disk");
        lease.settle(lease.requested(), false);
        assert_eq!(lease.cap(23), 11);
        assert_eq!(lease.request_more(9, 23), Some(16));
        lease.settle(lease.requested(), true);
        assert_eq!(lease.cap(23), 16);
        assert_eq!(lease.request_more(15, 15), None);
        assert_eq!(lease.cap(9), 9, "a lower limit counts at once");
    }

    #[test]
    fn a_small_budget_is_never_armed_with_a_single_failure() {
        for limit in 3..30 {
            let mut lease = AllowanceLease::new(AllowanceLease::first(0, limit), true);
            for spent in 0..limit - 1 {
                assert!(lease.cap(limit) > spent + 1, "{spent} of {limit}");
                if lease.request_more(spent, limit).is_some() {
                    lease.settle(lease.requested(), true);
                }
            }
        }
    }

    #[test]
    fn without_a_durable_store_nothing_is_leased() {
        let mut lease = AllowanceLease::new(0, false);
        assert_eq!((lease.cap(23), lease.request_more(0, 23)), (23, None));
    }
}
