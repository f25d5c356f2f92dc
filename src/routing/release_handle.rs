//! A release as the data plane sees it: two sides, a tripwire, a limit of what may be on the canary
//! at once. Workers know nothing else of it.
//!
//! One [`Watch`] is shared by all tables from the release's first to its last, so that no reload,
//! health event or change of another service makes it forget a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::header::HeaderName;

use crate::model::{Name, Weight};
use crate::stats::{ReleaseKey, UpstreamKey};

/// Which requests of the canary the baseline answers instead when they fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RescuePolicy {
    /// None.
    Off,
    /// Those whose method is safe (GET, HEAD, OPTIONS, TRACE).
    Safe,
    /// Those too that carry this header: their sender says that they may be repeated.
    Header(HeaderName),
}

/// What does not change while a release is under way.
#[derive(Clone, Debug)]
pub struct ReleaseHandleSpec {
    /// The release's number.
    pub key: ReleaseKey,
    /// Its identity, for logs.
    pub release: Arc<str>,
    /// The upstream that holds the users.
    pub baseline: UpstreamKey,
    /// Its name.
    pub baseline_name: Name,
    /// The upstream that is being proved.
    pub canary: UpstreamKey,
    /// Its name.
    pub canary_name: Name,
    /// Whether users are known by a sticky key.
    pub sticky: bool,
    /// What is done for users whose request failed on the canary.
    pub rescue: RescuePolicy,
    /// Requests that may be on the canary at once.
    pub in_flight_max: u32,
}

/// A release under way, for the workers.
#[derive(Debug)]
pub struct ReleaseHandle {
    /// What does not change.
    pub spec: ReleaseHandleSpec,
    tripwire: Tripwire,
    in_flight: AtomicU32,
    urgent: AtomicBool,
    rescued: AtomicU64,
    /// When the answer that tripped it came, in microseconds of the monotonic clock.
    decided_us: AtomicU64,
    /// From then to the table without the canary, in microseconds; `u64::MAX` until that is
    /// published.
    took_us: AtomicU64,
    /// The baseline's p99 in microseconds; `u64::MAX` while it is not known.
    baseline_p99_us: AtomicU64,
}

impl ReleaseHandle {
    /// A release whose users have seen `spent` failures, of `failed` that the canary had. Until it
    /// is armed, every further one trips it.
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

    /// Whether the canary has as many requests as it may have at once.
    pub fn is_full(&self) -> bool {
        self.in_flight() >= self.spec.in_flight_max
    }

    /// Tells how long the baseline's slowest percent takes: a client that gives up later than that
    /// had a reason.
    pub fn set_baseline_p99_us(&self, p99_us: u64) {
        self.baseline_p99_us.store(p99_us, Ordering::Relaxed);
    }

    /// How long the baseline's slowest percent takes, in microseconds; `u64::MAX` while that is not
    /// known.
    pub fn baseline_p99_us(&self) -> u64 {
        self.baseline_p99_us.load(Ordering::Relaxed)
    }

    /// What trips the release.
    pub fn tripwire(&self) -> &Tripwire {
        &self.tripwire
    }

    /// A place for one more request on the canary; `None` when there are as many as there may be.
    pub fn enter(self: &Arc<Self>) -> Option<CanaryPermit> {
        let before = self.in_flight.fetch_add(1, Ordering::AcqRel);
        // Made first, so that a refused place is given back too.
        let place = CanaryPermit(Arc::clone(self));
        (before < self.spec.in_flight_max).then_some(place)
    }

    /// Requests on the canary at this moment.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// From here on workers hand over their notes as soon as they have one, since a failure waits
    /// to be judged.
    pub fn flush_now(&self) {
        self.urgent.store(true, Ordering::Release);
    }

    /// The control plane has judged everything that it knows to have failed.
    pub fn relax(&self) {
        self.urgent.store(false, Ordering::Release);
    }

    /// Whether notes are to be handed over at once.
    pub fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    /// A request that failed on the canary was answered well by the baseline.
    pub fn add_rescued(&self) {
        self.rescued.fetch_add(1, Ordering::Relaxed);
    }

    /// The canary has been taken out by the worker that was told to.
    pub fn set_trip(&self, trip: Trip) {
        let took_us = u64::try_from(trip.took.as_micros()).unwrap_or(u64::MAX);
        self.decided_us.store(trip.decided_us, Ordering::Relaxed);
        self.took_us
            .store(took_us.min(u64::MAX - 1), Ordering::Release);
    }

    /// How it was tripped by a worker; `None` until the table without the canary is published.
    pub fn trip(&self) -> Option<Trip> {
        let took_us = self.took_us.load(Ordering::Acquire);
        (took_us != u64::MAX).then(|| Trip {
            decided_us: self.decided_us.load(Ordering::Relaxed),
            took: Duration::from_micros(took_us),
        })
    }

    /// Requests that were answered by the baseline instead, since this watch was made.
    pub fn rescued(&self) -> u64 {
        self.rescued.load(Ordering::Relaxed)
    }
}

/// A trip, by the worker that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// When the answer that exhausted the allowance came: microseconds on the monotonic clock that
    /// all workers share.
    pub decided_us: u64,
    /// From then until the table without the canary was published.
    pub took: Duration,
}

/// Two watches are the same when they are one: what they count differs otherwise.
impl PartialEq for ReleaseHandle {
    fn eq(&self, other: &ReleaseHandle) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for ReleaseHandle {}

/// A request on the canary.
#[derive(Debug)]
pub struct CanaryPermit(Arc<ReleaseHandle>);

impl Drop for CanaryPermit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Which failures of the canary an allowance counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetKind {
    /// Those that users saw.
    Visible,
    /// All of them, those that the baseline answered instead included.
    All,
}

impl BudgetKind {
    /// The name of its budget in plans, outcomes and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            BudgetKind::Visible => "budget",
            BudgetKind::All => "rescued_budget",
        }
    }
}

/// Two allowances of failures. The worker that finishes the one that exhausts either takes the
/// canary out itself.
///
/// The control plane works out how many failures the budgets, the baseline's rate and chance allow,
/// and arms the wire with that. Between two armings the workers go on counting the baseline's
/// failures too, and let them explain as many of the canary's as the weights say: an outage that
/// strikes both sides at once exhausts nothing before the control plane has looked.
#[derive(Debug)]
pub struct Tripwire {
    visible: Allowance,
    all: Allowance,
    baseline_failures: AtomicU32,
    /// Which allowance was exhausted; [`NOT_TRIPPED`], or [`SEALED`] when it was taken away.
    tripped: AtomicU8,
}

const NOT_TRIPPED: u8 = 0;
const BY_VISIBLE: u8 = 1;
const BY_ALL: u8 = 2;
const SEALED: u8 = 3;

#[derive(Debug)]
struct Allowance {
    spent: AtomicU32,
    /// Both halves of an arming in one word, so that no worker sees one without the other: the
    /// limit, and the baseline's failures that are part of it.
    armed: AtomicU64,
}

impl Tripwire {
    fn new(spent: u32, failed: u32) -> Tripwire {
        let allowance = |spent| Allowance {
            spent: AtomicU32::new(spent),
            armed: AtomicU64::new(word(spent, 0)),
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

    /// From here on `limit` failures in all exhaust the allowance, of which the first
    /// `baseline_failures` of the baseline are a part already.
    pub fn arm(&self, wire: BudgetKind, limit: u32, baseline_failures: u32) {
        let armed = &self.of(wire).armed;
        armed.store(word(limit, baseline_failures), Ordering::Release);
    }

    /// The canary failed, at these weights. Whether this is the failure that exhausts the
    /// allowance: of all callers one is told so, and has to take the canary out.
    pub fn spend(&self, wire: BudgetKind, canary: Weight, baseline: Weight) -> bool {
        let allowance = self.of(wire);
        let spent = allowance.spent.fetch_add(1, Ordering::AcqRel) + 1;
        let (limit, known) = halves(allowance.armed.load(Ordering::Acquire));
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

    /// The baseline failed too.
    pub fn baseline_failed(&self) {
        self.baseline_failures.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes the allowances away. Whether neither was exhausted before.
    pub fn seal(&self) -> bool {
        self.claim(SEALED)
    }

    fn claim(&self, by: u8) -> bool {
        self.tripped
            .compare_exchange(NOT_TRIPPED, by, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether it is exhausted or sealed. Once so, always so: the canary gets nothing in any table
    /// that is made from then on.
    pub fn is_tripped(&self) -> bool {
        self.tripped.load(Ordering::Acquire) != NOT_TRIPPED
    }

    /// Which allowance was exhausted, if one was.
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

    /// Failures of the baseline since this tripwire was made.
    pub fn baseline_failures(&self) -> u32 {
        self.baseline_failures.load(Ordering::Acquire)
    }

    /// The limit that the wire is armed with.
    pub fn limit(&self, wire: BudgetKind) -> u32 {
        halves(self.of(wire).armed.load(Ordering::Acquire)).0
    }
}

/// How many failures of the canary so many of the baseline explain.
fn explained(baseline_failures: u32, canary: Weight, baseline: Weight) -> u32 {
    let (canary, baseline) = (canary.basis_points(), baseline.basis_points());
    if baseline == 0 {
        return 0;
    }
    let explained = u64::from(baseline_failures) * u64::from(canary) / u64::from(baseline);
    u32::try_from(explained).unwrap_or(u32::MAX)
}

fn word(limit: u32, baseline_failures: u32) -> u64 {
    u64::from(limit) << 32 | u64::from(baseline_failures)
}

#[expect(clippy::cast_possible_truncation, reason = "both halves are 32 bits")]
fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(points: u16) -> Weight {
        Weight::from_basis_points(points).unwrap()
    }

    #[test]
    fn the_failure_that_exhausts_the_allowance_is_told_to_one_caller() {
        let wire = Tripwire::new(2, 0);
        wire.arm(BudgetKind::Visible, 5, 0);
        let spend = |_| wire.spend(BudgetKind::Visible, weight(500), weight(9_500));
        let told: Vec<bool> = (0..5).map(spend).collect();
        assert_eq!(told, [false, false, true, false, false]);
        assert_eq!(wire.tripped_by(), Some(BudgetKind::Visible));
        assert_eq!(wire.spent(BudgetKind::Visible), 7);
    }

    #[test]
    fn each_budget_trips_the_wire_and_only_one_of_them_does() {
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
    fn a_sealed_wire_is_tripped_by_nobody() {
        let wire = Tripwire::new(0, 0);
        wire.arm(BudgetKind::Visible, 1, 0);
        assert!(wire.seal() && !wire.seal());
        assert!(!wire.spend(BudgetKind::Visible, weight(100), weight(9_900)));
        assert!(wire.is_tripped());
        assert_eq!(wire.tripped_by(), None);
    }

    #[test]
    fn a_wire_that_was_never_armed_trips_at_once() {
        for which in [BudgetKind::Visible, BudgetKind::All] {
            assert!(Tripwire::new(3, 3).spend(which, weight(100), weight(9_900)));
        }
    }

    #[test]
    fn failures_of_the_baseline_explain_as_many_of_the_canary_as_the_weights_say() {
        let wire = Tripwire::new(0, 0);
        for _ in 0..10 {
            wire.baseline_failed();
        }
        // Four of the ten are in the limit already; the other six explain two at 25 to 75.
        wire.arm(BudgetKind::Visible, 3, 4);
        let spend = |_| wire.spend(BudgetKind::Visible, weight(2_500), weight(7_500));
        let told: Vec<bool> = (0..5).map(spend).collect();
        assert_eq!(told, [false, false, false, false, true]);
    }

    #[test]
    fn a_trip_is_told_with_how_long_it_took() {
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
    fn no_more_than_the_limit_is_on_the_canary_and_a_place_is_given_back() {
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
