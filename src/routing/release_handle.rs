//! A release as the data plane sees it: two arms, a tripwire, and an in-flight limit of the canary.
//! Workers know nothing else of it.
//!
//! One [`ReleaseHandle`] is shared by all tables of the release, so that no reload, health event or
//! change of another service loses a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::header::HeaderName;

use crate::model::{Name, Weight};
use crate::stats::{ReleaseKey, UpstreamKey};

/// The requests that fail on the canary and are retried on the baseline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RescuePolicy {
    /// None.
    Off,
    /// Requests with a safe method (GET, HEAD, OPTIONS, TRACE).
    Safe,
    /// Also requests with this header, by which the client says that they may be repeated.
    Header(HeaderName),
}

/// The constant part of a release.
#[derive(Clone, Debug)]
pub struct ReleaseHandleSpec {
    /// The release's key.
    pub key: ReleaseKey,
    /// The release's identifier, for logs.
    pub release: Arc<str>,
    /// The upstream that holds the users.
    pub baseline: UpstreamKey,
    /// Its name.
    pub baseline_name: Name,
    /// The upstream under test.
    pub canary: UpstreamKey,
    /// Its name.
    pub canary_name: Name,
    /// Whether users are identified by a sticky key.
    pub sticky: bool,
    /// The rescue policy for requests that fail on the canary.
    pub rescue: RescuePolicy,
    /// The maximum of concurrent requests on the canary.
    pub in_flight_max: u32,
}

/// An active release, for the workers.
#[derive(Debug)]
pub struct ReleaseHandle {
    /// The constant part.
    pub spec: ReleaseHandleSpec,
    tripwire: Tripwire,
    in_flight: AtomicU32,
    urgent: AtomicBool,
    rescued: AtomicU64,
    /// The time of the response that tripped it, in microseconds of the monotonic clock.
    decided_us: AtomicU64,
    /// The time from then until the table without the canary was published, in microseconds;
    /// `u64::MAX` before that.
    took_us: AtomicU64,
    /// The baseline's p99 in microseconds; `u64::MAX` while unknown.
    baseline_p99_us: AtomicU64,
}

impl ReleaseHandle {
    /// A release with `spent` failures that users saw, of `failed` failures of the canary. Until it
    /// is armed, every further failure trips it.
    pub fn new(spec: ReleaseHandleSpec, spent: u32, failed: u32) -> ReleaseHandle {
        ReleaseHandle {
            spec,
            tripwire: Tripwire::new(spent, failed),
            in_flight: AtomicU32::new(0),
            urgent: AtomicBool::new(false),
            rescued: AtomicU64::new(0),
            decided_us: AtomicU64::new(0),
            took_us: AtomicU64::new(u64::MAX),
            baseline_p99_us: AtomicU64::new(u64::MAX),
        }
    }

    /// Whether the canary has reached its in-flight limit, or has failed as often as is recorded on
    /// disk.
    pub fn is_full(&self) -> bool {
        self.in_flight() >= self.spec.in_flight_max || self.tripwire.awaits_lease()
    }

    /// Sets the baseline's p99: an abort later than that counts as a failure.
    pub fn set_baseline_p99_us(&self, p99_us: u64) {
        self.baseline_p99_us.store(p99_us, Ordering::Relaxed);
    }

    /// The baseline's p99, in microseconds; `u64::MAX` while unknown.
    pub fn baseline_p99_us(&self) -> u64 {
        self.baseline_p99_us.load(Ordering::Relaxed)
    }

    /// The tripwire of the release.
    pub fn tripwire(&self) -> &Tripwire {
        &self.tripwire
    }

    /// A permit for one more request on the canary; `None` at the in-flight limit, and while its
    /// failures must be recorded on disk first.
    pub fn enter(self: &Arc<Self>) -> Option<CanaryPermit> {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        // Created first, so that a refused request is counted down too.
        let permit = CanaryPermit(Arc::clone(self));
        (before < self.spec.in_flight_max && !self.tripwire.awaits_lease()).then_some(permit)
    }

    /// The current number of requests on the canary.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Makes workers hand over events immediately, since a failure is waiting to be judged.
    pub fn flush_now(&self) {
        self.urgent.store(true, Ordering::Release);
    }

    /// The control plane has judged all failures that it knows of.
    pub fn relax(&self) {
        self.urgent.store(false, Ordering::Release);
    }

    /// Whether events must be handed over immediately.
    pub fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    /// Counts a request that failed on the canary and succeeded on the baseline.
    pub fn add_rescued(&self) {
        self.rescued.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a worker has removed the canary.
    pub fn set_trip(&self, trip: Trip) {
        let took_us = u64::try_from(trip.took.as_micros()).unwrap_or(u64::MAX);
        self.decided_us.store(trip.decided_us, Ordering::Relaxed);
        self.took_us
            .store(took_us.min(u64::MAX - 1), Ordering::Release);
    }

    /// The trip by a worker; `None` until the table without the canary is published.
    pub fn trip(&self) -> Option<Trip> {
        let took_us = self.took_us.load(Ordering::Acquire);
        (took_us != u64::MAX).then(|| Trip {
            decided_us: self.decided_us.load(Ordering::Relaxed),
            took: Duration::from_micros(took_us),
        })
    }

    /// Requests rescued by the baseline since this handle was created.
    pub fn rescued(&self) -> u64 {
        self.rescued.load(Ordering::Relaxed)
    }
}

/// A trip, as recorded by the worker that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// The time of the response that exhausted the allowance: microseconds on the monotonic clock
    /// that all workers share.
    pub decided_us: u64,
    /// The time from then until the table without the canary was published.
    pub took: Duration,
}

/// Handles are compared by identity, since their counters differ otherwise.
impl PartialEq for ReleaseHandle {
    fn eq(&self, other: &ReleaseHandle) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for ReleaseHandle {}

/// A request in flight on the canary.
#[derive(Debug)]
pub struct CanaryPermit(Arc<ReleaseHandle>);

impl Drop for CanaryPermit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The failures of the canary that an allowance counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetKind {
    /// Failures that users saw.
    Visible,
    /// All failures, rescued ones included.
    All,
}

impl BudgetKind {
    /// The name of the budget in plans, outcomes and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            BudgetKind::Visible => "budget",
            BudgetKind::All => "rescued_budget",
        }
    }
}

/// Two allowances of failures. The worker whose failure exhausts one of them removes the canary
/// itself.
///
/// The control plane computes the failures that the budgets, the baseline's rate and chance allow,
/// and arms the wire with them. Between two armings the workers also count the baseline's failures,
/// which explain a share of the canary's according to the weights: an outage of both arms exhausts
/// nothing before the control plane has reacted.
#[derive(Debug)]
pub struct Tripwire {
    visible: Allowance,
    all: Allowance,
    baseline_failures: AtomicU32,
    /// The exhausted allowance; [`NOT_TRIPPED`], or [`SEALED`] when the allowances were withdrawn.
    tripped: AtomicU8,
}

const NOT_TRIPPED: u8 = 0;
const BY_VISIBLE: u8 = 1;
const BY_ALL: u8 = 2;
const SEALED: u8 = 3;

#[derive(Debug)]
struct Allowance {
    spent: AtomicU32,
    /// Both parts of an arming in one word, so that no worker sees one without the other: the
    /// limit, and the number of baseline failures that it includes.
    armed: AtomicU64,
    /// Failures recorded on disk as spent. At that number the canary gets no requests, but is not
    /// removed.
    leased: AtomicU32,
}

impl Tripwire {
    fn new(spent: u32, failed: u32) -> Tripwire {
        let allowance = |spent| Allowance {
            spent: AtomicU32::new(spent),
            armed: AtomicU64::new(pack(spent, 0)),
            leased: AtomicU32::new(u32::MAX),
        };
        Tripwire {
            visible: allowance(spent),
            all: allowance(failed),
            baseline_failures: AtomicU32::new(0),
            tripped: AtomicU8::new(NOT_TRIPPED),
        }
    }

    fn of(&self, wire: BudgetKind) -> &Allowance {
        match wire {
            BudgetKind::Visible => &self.visible,
            BudgetKind::All => &self.all,
        }
    }

    /// Sets the limit: `limit` failures in total exhaust the allowance; it already includes the
    /// first `baseline_failures` of the baseline.
    pub fn arm(&self, wire: BudgetKind, limit: u32, baseline_failures: u32) {
        let armed = &self.of(wire).armed;
        armed.store(pack(limit, baseline_failures), Ordering::Release);
    }

    /// Sets the number of failures that are recorded on disk as spent. At that number the canary
    /// gets no further requests until more are recorded; only the limit removes it.
    pub fn set_leased(&self, wire: BudgetKind, leased: u32) {
        self.of(wire).leased.store(leased, Ordering::Release);
    }

    /// Whether as many failures were counted as are recorded on disk.
    pub fn awaits_lease(&self) -> bool {
        let used_up = |allowance: &Allowance| {
            allowance.spent.load(Ordering::Acquire) >= allowance.leased.load(Ordering::Acquire)
        };
        used_up(&self.visible) || used_up(&self.all)
    }

    /// Counts a failure of the canary at these weights. True if this failure exhausts the
    /// allowance: exactly one caller gets true, and must remove the canary.
    pub fn spend(&self, wire: BudgetKind, canary: Weight, baseline: Weight) -> bool {
        let allowance = self.of(wire);
        let spent = allowance.spent.fetch_add(1, Ordering::AcqRel) + 1;
        let (limit, known) = unpack(allowance.armed.load(Ordering::Acquire));
        let new = self
            .baseline_failures
            .load(Ordering::Acquire)
            .saturating_sub(known);
        let by = match wire {
            BudgetKind::Visible => BY_VISIBLE,
            BudgetKind::All => BY_ALL,
        };
        spent >= limit.saturating_add(explained(new, canary, baseline)) && self.claim(by)
    }

    /// Counts a failure of the baseline.
    pub fn baseline_failed(&self) {
        self.baseline_failures.fetch_add(1, Ordering::AcqRel);
    }

    /// Withdraws the allowances. True if neither was exhausted before.
    pub fn seal(&self) -> bool {
        self.claim(SEALED)
    }

    fn claim(&self, by: u8) -> bool {
        self.tripped
            .compare_exchange(NOT_TRIPPED, by, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether it is exhausted or sealed. This is final: the canary gets no requests in any later
    /// table.
    pub fn is_tripped(&self) -> bool {
        self.tripped.load(Ordering::Acquire) != NOT_TRIPPED
    }

    /// The exhausted allowance, if any.
    pub fn tripped_by(&self) -> Option<BudgetKind> {
        match self.tripped.load(Ordering::Acquire) {
            BY_VISIBLE => Some(BudgetKind::Visible),
            BY_ALL => Some(BudgetKind::All),
            _ => None,
        }
    }

    /// Failures of the canary that count for the wire.
    pub fn spent(&self, wire: BudgetKind) -> u32 {
        self.of(wire).spent.load(Ordering::Acquire)
    }

    /// Failures of the baseline since this tripwire was created.
    pub fn baseline_failures(&self) -> u32 {
        self.baseline_failures.load(Ordering::Acquire)
    }

    /// The number of failures that may be counted now: the limit, or what is recorded on disk if
    /// that is less.
    pub fn limit(&self, wire: BudgetKind) -> u32 {
        let allowance = self.of(wire);
        let (limit, _) = unpack(allowance.armed.load(Ordering::Acquire));
        limit.min(allowance.leased.load(Ordering::Acquire))
    }
}

/// The canary failures that a number of baseline failures explains.
fn explained(baseline_failures: u32, canary: Weight, baseline: Weight) -> u32 {
    let (canary, baseline) = (canary.basis_points(), baseline.basis_points());
    if baseline == 0 {
        return 0;
    }
    let explained = u64::from(baseline_failures) * u64::from(canary) / u64::from(baseline);
    u32::try_from(explained).unwrap_or(u32::MAX)
}

fn pack(limit: u32, baseline_failures: u32) -> u64 {
    u64::from(limit) << 32 | u64::from(baseline_failures)
}

#[expect(clippy::cast_possible_truncation, reason = "both halves are 32 bits")]
fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(points: u16) -> Weight {
        Weight::from_basis_points(points).unwrap()
    }

    #[test]
    fn exactly_one_caller_trips_the_wire() {
        let wire = Tripwire::new(2, 0);
        wire.arm(BudgetKind::Visible, 5, 0);
        let spend = |_| wire.spend(BudgetKind::Visible, weight(500), weight(9_500));
        let results: Vec<bool> = (0..5).map(spend).collect();
        assert_eq!(results, [false, false, true, false, false]);
        assert_eq!(wire.tripped_by(), Some(BudgetKind::Visible));
        assert_eq!(wire.spent(BudgetKind::Visible), 7);
    }

    #[test]
    fn first_exhausted_budget_trips_the_wire() {
        let wire = Tripwire::new(0, 0);
        wire.arm(BudgetKind::Visible, 2, 0);
        wire.arm(BudgetKind::All, 3, 0);
        let spend = |which| wire.spend(which, weight(10_000), weight(0));
        assert_eq!(
            [spend(BudgetKind::All), spend(BudgetKind::All)],
            [false, false]
        );
        assert!(!spend(BudgetKind::Visible));
        assert!(spend(BudgetKind::All));
        assert!(
            !spend(BudgetKind::Visible),
            "another has taken the canary out already"
        );
        assert_eq!(wire.tripped_by(), Some(BudgetKind::All));
        assert!(!wire.seal());
    }

    #[test]
    fn a_used_up_lease_stops_requests_and_does_not_trip() {
        let watch = Arc::new(testing::watch(4));
        let wire = watch.tripwire();
        for kind in [BudgetKind::Visible, BudgetKind::All] {
            wire.arm(kind, 10, 0);
            wire.set_leased(kind, 2);
        }
        assert!(watch.enter().is_some() && !watch.is_full());
        let spend = || wire.spend(BudgetKind::All, weight(500), weight(9_500));
        // The third was in flight.
        assert_eq!([spend(), spend(), spend()], [false; 3]);
        assert!(watch.enter().is_none() && watch.is_full() && !wire.is_tripped());
        wire.set_leased(BudgetKind::All, 10);
        assert!(watch.enter().is_some() && !watch.is_full());
        assert!((4..10).all(|_| !spend()) && spend(), "the limit trips it");
    }

    #[test]
    fn sealed_wire_cannot_trip() {
        let wire = Tripwire::new(0, 0);
        wire.arm(BudgetKind::Visible, 1, 0);
        assert!(wire.seal() && !wire.seal());
        assert!(!wire.spend(BudgetKind::Visible, weight(100), weight(9_900)));
        assert!(wire.is_tripped());
        assert_eq!(wire.tripped_by(), None);
    }

    #[test]
    fn unarmed_wire_trips_on_the_first_failure() {
        for which in [BudgetKind::Visible, BudgetKind::All] {
            assert!(Tripwire::new(3, 3).spend(which, weight(100), weight(9_900)));
        }
    }

    #[test]
    fn baseline_failures_explain_canary_failures_by_weight() {
        let wire = Tripwire::new(0, 0);
        for _ in 0..10 {
            wire.baseline_failed();
        }
        // Four of the ten are included in the limit; the other six explain two at 25 to 75.
        wire.arm(BudgetKind::Visible, 3, 4);
        let spend = |_| wire.spend(BudgetKind::Visible, weight(2_500), weight(7_500));
        let results: Vec<bool> = (0..5).map(spend).collect();
        assert_eq!(results, [false, false, false, false, true]);
    }

    #[test]
    fn trip_reports_its_duration() {
        let watch = testing::watch(1);
        assert_eq!(watch.trip(), None);
        let trip = Trip {
            decided_us: 7,
            took: Duration::from_micros(90),
        };
        watch.set_trip(trip);
        assert_eq!(watch.trip(), Some(trip));
    }

    #[test]
    fn canary_permits_are_limited_and_released() {
        let watch = Arc::new(testing::watch(2));
        let (first, second) = (watch.enter(), watch.enter());
        assert!(first.is_some() && second.is_some());
        assert!(watch.enter().is_none());
        assert_eq!(watch.in_flight(), 2);
        drop(first);
        assert!(watch.enter().is_some());
        drop(second);
        assert_eq!(watch.in_flight(), 0);
    }

    mod testing {
        use super::*;

        pub(super) fn watch(in_flight_max: u32) -> ReleaseHandle {
            let spec = ReleaseHandleSpec {
                key: ReleaseKey(0),
                release: "shop-1".into(),
                baseline: UpstreamKey(0),
                baseline_name: "blue".into(),
                canary: UpstreamKey(1),
                canary_name: "green".into(),
                sticky: false,
                rescue: RescuePolicy::Safe,
                in_flight_max,
            };
            ReleaseHandle::new(spec, 0, 0)
        }
    }
}
