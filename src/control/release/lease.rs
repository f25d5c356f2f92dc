//! The lease on the budget of failures: pieces of it are recorded on disk as spent before the
//! canary may fail as often. So a process that is killed at any time restarts with at least as
//! much spent as users have seen, but for requests that were in flight when a lease was used up.
//!
//! A lease that is used up while the budget is not stops the canary's new requests, which go to the
//! baseline as if the canary were full, until the disk has recorded more. If the disk
//! refuses, the release holds, and a failure of a request that was in flight removes the canary.

use crate::routing::{BudgetKind, ReleaseHandle};

/// Failures that are leased at once: half of what is left, which bounds the loss by a kill, but at
/// least this many. With fewer, a burst waits for the disk again and again.
const PIECE_MIN: u32 = 3;
/// The least of a piece, in failures counted while the disk recorded the previous one.
const AHEAD: u32 = 2;

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
    /// Failures counted when it was requested.
    spent_at_request: u32,
    /// Failures counted while the disk recorded the last lease.
    consumed: u32,
    /// The disk has refused the last request.
    is_refused: bool,
}

impl AllowanceLease {
    /// A lease with `granted` failures recorded on disk as spent.
    pub(super) fn new(granted: u32, durable: bool) -> AllowanceLease {
        AllowanceLease {
            granted: durable.then_some(granted),
            requested: None,
            spent_at_request: 0,
            consumed: 0,
            is_refused: false,
        }
    }

    /// The first lease of a release when users have seen `spent` failures, of `limit` that exhaust
    /// the budget.
    pub(super) fn first(spent: u32, limit: u32) -> u32 {
        limit.min(spent.saturating_add(piece(limit.saturating_sub(spent))))
    }

    /// The most failures that may be counted when `limit` exhaust the budget.
    pub(super) fn cap(&self, limit: u32) -> u32 {
        self.granted.map_or(limit, |granted| limit.min(granted))
    }

    /// What the disk should record as spent, if more must be requested.
    pub(super) fn request_more(&mut self, spent: u32, limit: u32) -> Option<u32> {
        let granted = self.granted?;
        let armed = granted.saturating_sub(spent);
        let piece = piece(limit.saturating_sub(spent)).max(self.consumed.saturating_mul(AHEAD));
        let wanted = limit.min(spent.saturating_add(piece));
        if self.requested.is_some() || wanted <= granted || armed > piece.div_ceil(2) {
            return None;
        }
        self.requested = Some(wanted);
        self.spent_at_request = spent;
        self.requested
    }

    /// The request that the disk has not answered yet.
    pub(super) fn requested(&self) -> Option<u32> {
        self.requested
    }

    /// The disk has recorded `requested`, or has failed to; by now `spent` failures were counted. A
    /// later request stays open.
    pub(super) fn settle(&mut self, requested: Option<u32>, on_disk: bool, spent: u32) {
        if requested.is_none() || self.requested != requested {
            return;
        }
        self.requested = None;
        self.is_refused = !on_disk;
        self.consumed = spent.saturating_sub(self.spent_at_request);
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
    /// The last limit that the tripwire was armed with, if the disk has refused the rest of the
    /// budget.
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
        self.capped = (cap < limit && self.lease.is_refused).then_some(cap);
        let leased = self.lease.granted.unwrap_or(u32::MAX);
        let wire = watch.tripwire();
        let armed = self.capped.unwrap_or(limit).saturating_sub(beside);
        wire.arm(self.wire, armed, baseline_failures);
        wire.set_leased(self.wire, leased.saturating_sub(beside));
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
    use crate::routing::{ReleaseHandleSpec, RescuePolicy};
    use crate::stats::{ReleaseKey, UpstreamKey};

    fn spec() -> ReleaseHandleSpec {
        ReleaseHandleSpec {
            key: ReleaseKey(0),
            release: "shop-1".into(),
            baseline: UpstreamKey(0),
            baseline_name: "blue".into(),
            canary: UpstreamKey(1),
            canary_name: "green".into(),
            sticky: false,
            rescue: RescuePolicy::Safe,
            in_flight_max: 4,
        }
    }

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
        lease.settle(lease.requested(), false, 8);
        assert_eq!(lease.cap(23), 11);
        assert_eq!(lease.request_more(9, 23), Some(16));
        lease.settle(lease.requested(), true, 9);
        assert_eq!(lease.cap(23), 16);
        assert_eq!(lease.request_more(15, 15), None);
        assert_eq!(lease.cap(9), 9, "a lower limit counts at once");
    }

    #[test]
    fn a_lease_grows_with_the_failures_of_the_time_that_the_disk_takes() {
        let mut lease = AllowanceLease::new(0, true);
        assert_eq!(lease.request_more(0, 100), Some(50));
        lease.settle(lease.requested(), true, 45);
        assert_eq!(
            lease.request_more(45, 100),
            Some(100),
            "45 came in that time"
        );
        lease.settle(lease.requested(), true, 46);
        assert_eq!(lease.request_more(46, 100), None);
    }

    #[test]
    fn only_a_lease_that_the_disk_refuses_arms_less_than_the_budget() {
        let watch = ReleaseHandle::new(spec(), 4, 4);
        let mut budget = LeasedBudget::new(BudgetKind::All, 4, true);
        budget.arm(&watch, 20, 0, 0);
        let wire = watch.tripwire();
        let half = crate::model::Weight::from_percent(50.0).unwrap();
        assert!((0..10).all(|_| !wire.spend(BudgetKind::All, half, half)));
        assert!(wire.awaits_lease());
        assert!(budget.request_more(10));
        budget.lease.settle(budget.lease.requested(), true, 10);
        budget.arm(&watch, 20, 0, 0);
        assert!(!wire.awaits_lease());
        assert!(budget.request_more(wire.limit(BudgetKind::All)));
        budget.lease.settle(budget.lease.requested(), false, 10);
        budget.arm(&watch, 20, 0, 0);
        assert_eq!(budget.capped, Some(wire.limit(BudgetKind::All)));
        assert!((0..20).any(|_| wire.spend(BudgetKind::All, half, half)));
    }

    #[test]
    fn a_small_budget_is_never_armed_with_a_single_failure() {
        for limit in 3..30 {
            let mut lease = AllowanceLease::new(AllowanceLease::first(0, limit), true);
            for spent in 0..limit - 1 {
                assert!(lease.cap(limit) > spent + 1, "{spent} of {limit}");
                if lease.request_more(spent, limit).is_some() {
                    lease.settle(lease.requested(), true, spent);
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
