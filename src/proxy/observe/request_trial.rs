//! What a request of a release owes it: which side it was drawn for, one note for each thing that
//! happens to it, its place on the canary, and the canary's end when it is the failure that
//! exhausts the allowance.
//!
//! A request counts for the side that it was drawn for, whoever answers it in the end. Services
//! without a release cost one look at an empty option.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::sample::{SampleCandidate, SampledResponse};
use crate::model::Weight;
use crate::proxy::sticky::Choice;
use crate::proxy::worker::state::Worker;
use crate::routing::{
    BudgetKind, CanaryPermit, ReleaseHandle, RoutedService, RoutedUpstream, Trip,
};
use crate::stats::{Arm, Assignment, Class, RequestEvent, RequestEventKind, UpstreamKey};
use crate::time::SystemClock;

/// Not the seed of any split, which are salts of services: who shares a hash here does not share a
/// side for it.
const USER_SEED: u64 = 0x7567_6162_7269_6467;

/// A request that was drawn for one side of a release, until its answer has ended.
#[derive(Debug)]
pub(crate) struct RequestTrial {
    watch: Arc<ReleaseHandle>,
    assignment: Assignment,
    user: u32,
    place: Option<CanaryPermit>,
    state: State,
    /// The client is still sending the request, and the upstream takes what comes.
    uploading: Cell<bool>,
    /// The head of a good answer is here.
    headed: bool,
    /// What a sample of it would tell, until that is decided.
    subject: Option<SampleCandidate>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is known yet.
    Open,
    /// It failed on the canary, and the baseline has been asked.
    FailedOver,
    /// The baseline has begun to answer well what the canary failed.
    Rescued,
    /// What it comes to has been noted.
    Settled,
}

/// A request that is about to be given to a side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingAssignment {
    /// The upstream that it was drawn for.
    pub(crate) drawn: UpstreamKey,
    /// Whose it is: [`user`].
    pub(crate) user: u32,
    /// Its body is still to come from the client.
    pub(crate) uploading: bool,
}

/// What becomes of a request that is drawn.
#[derive(Debug)]
pub(crate) enum Drawn {
    /// It is on one of the two sides.
    On(Box<RequestTrial>),
    /// It was drawn for the canary, which is full: the baseline gets it, and it counts for neither.
    Displaced,
    /// It was drawn for an upstream that has no part in the release.
    Aside,
}

impl RequestTrial {
    /// Gives a request to the side that it was drawn for by this very state of the service, and
    /// notes that.
    ///
    /// While the canary is full nothing is compared, whichever arm is drawn: the canary would have
    /// only the requests that came when it had room, and the baseline all.
    pub(crate) fn draw(
        worker: &Worker,
        service: &RoutedService,
        watch: &Arc<ReleaseHandle>,
        request: &PendingAssignment,
    ) -> Drawn {
        let PendingAssignment {
            drawn,
            user,
            uploading,
        } = *request;
        let spec = &watch.spec;
        let side = if drawn == spec.canary {
            Arm::Canary
        } else if drawn == spec.baseline {
            Arm::Baseline
        } else {
            return Drawn::Aside;
        };
        let canary_full = watch.is_full();
        let place = (side == Arm::Canary).then(|| watch.enter());
        let displaced = matches!(place, Some(None));
        let points = |key| weight(service, key).basis_points();
        let mut notes = worker.notes.borrow_mut();
        notes.expect();
        let assignment = Assignment {
            watch: spec.key,
            at_us: us(Instant::now()),
            canary_points: points(spec.canary),
            baseline_points: points(spec.baseline),
            side,
        };
        notes.push(RequestEvent {
            assignment,
            user,
            happened: RequestEventKind::Assigned {
                uploading,
                canary_full,
            },
        });
        drop(notes);
        let trial = RequestTrial {
            watch: Arc::clone(watch),
            assignment,
            user,
            place: place.flatten(),
            state: State::Open,
            uploading: Cell::new(uploading),
            headed: false,
            subject: None,
        };
        if displaced {
            trial.note(worker, RequestEventKind::Displaced);
            return Drawn::Displaced;
        }
        trial.hand_over(worker);
        Drawn::On(Box::new(trial))
    }

    /// Which upstream it was drawn for.
    pub(crate) fn upstream(&self) -> UpstreamKey {
        match self.assignment.side {
            Arm::Baseline => self.watch.spec.baseline,
            Arm::Canary => self.watch.spec.canary,
        }
    }

    /// The release, while it is the canary that has the request.
    pub(crate) fn on_canary(&self) -> Option<&Arc<ReleaseHandle>> {
        (self.assignment.side == Arm::Canary && self.state == State::Open).then_some(&self.watch)
    }

    /// Remembers what a sample would tell of the request.
    pub(crate) fn describe(&mut self, subject: SampleCandidate) {
        self.subject = Some(subject);
    }

    /// Keeps the exchange for people if one of its kind is due. To be told before what it comes to,
    /// so that a note that is handed over at once takes it along.
    pub(crate) fn sample(&mut self, worker: &Worker, seen: &SampledResponse<'_>) {
        let (watch, side) = (self.watch.spec.key, self.assignment.side);
        if let Some(subject) = &mut self.subject
            && subject.see(worker, watch, side, seen)
        {
            self.subject = None;
        }
    }

    /// The head of an answer is here, from whichever side.
    pub(crate) fn head(&mut self, worker: &Worker, status: u16, ended: bool, now: Instant) {
        let bad = Class::of_status(status).is_failure();
        match self.state {
            State::Open | State::FailedOver if bad => self.fail(worker, now),
            State::Open => {
                self.headed = true;
                if !ended {
                    self.note(worker, RequestEventKind::Headed);
                }
            }
            State::FailedOver => {
                self.state = State::Rescued;
                self.note(worker, RequestEventKind::Bad { visible: false });
            }
            _ => {}
        }
    }

    /// The client has sent all of the request, or more than the upstream takes: from here on it is
    /// the upstream that is waited for.
    pub(crate) fn sent(&self, worker: &Worker) {
        if self.uploading.take() && self.state == State::Open && !self.headed {
            self.note(worker, RequestEventKind::Sent);
        }
    }

    /// The upstream takes the rest of the request again, or its answer is not read since the client
    /// reads nothing: from here on it is the client that is waited for.
    pub(crate) fn uploads(&self, worker: &Worker) {
        if !self.uploading.replace(true) && self.state == State::Open && !self.headed {
            self.note(worker, RequestEventKind::Uploading);
        }
    }

    /// The request is over.
    pub(crate) fn end(mut self, worker: &Worker, class: Class, now: Instant) {
        match self.state {
            State::Open | State::FailedOver if class.is_failure() => self.fail(worker, now),
            State::Open if class == Class::ClientAbort => self.abort(worker, now),
            State::Open => {
                let latency_us = u32::try_from(us(now).saturating_sub(self.assignment.at_us))
                    .unwrap_or(u32::MAX);
                self.note(worker, RequestEventKind::Good { latency_us });
            }
            // The canary failed; that the client did not wait for the baseline does not make that
            // good.
            State::FailedOver => self.note(worker, RequestEventKind::Bad { visible: false }),
            // What the user got in place of the canary's failure is broken too.
            State::Rescued if class.is_failure() => {
                self.spend(worker, BudgetKind::Visible, now);
                worker.flush_notes();
            }
            State::Rescued if class != Class::ClientAbort => self.watch.add_rescued(),
            State::Rescued | State::Settled => {}
        }
    }

    /// The upstream was taken out while the request waited for it, so that another answers what it
    /// never saw. Gives what a sample would tell.
    pub(crate) fn reroute(self, worker: &Worker) -> Option<SampleCandidate> {
        match self.state {
            State::Open => self.note(worker, RequestEventKind::Aborted { late: false }),
            State::FailedOver => self.note(worker, RequestEventKind::Bad { visible: false }),
            State::Rescued | State::Settled => {}
        }
        self.subject
    }

    /// The canary has failed, and the baseline is asked. What to note is known only when that is
    /// known to have answered; but whoever judges should look soon.
    pub(crate) fn fail_over(&mut self, worker: &Worker, now: Instant) {
        self.state = State::FailedOver;
        self.spend(worker, BudgetKind::All, now);
        self.place = None;
        self.watch.flush_now();
        self.note(worker, RequestEventKind::Failed);
        worker.flush_notes();
    }

    /// The user sees a failure.
    fn fail(&mut self, worker: &Worker, now: Instant) {
        let was = std::mem::replace(&mut self.state, State::Settled);
        match self.assignment.side {
            Arm::Baseline => self.watch.tripwire().baseline_failed(),
            // Before the note, since each microsecond may send another user there.
            Arm::Canary => {
                if was == State::Open {
                    self.spend(worker, BudgetKind::All, now);
                }
                self.spend(worker, BudgetKind::Visible, now);
            }
        }
        self.note(worker, RequestEventKind::Bad { visible: true });
    }

    /// The client gave up. If it had waited for longer than nearly all answers of the baseline
    /// take, the upstream is the reason; nobody saw a failure all the same.
    fn abort(&mut self, worker: &Worker, now: Instant) {
        let waited_us = us(now).saturating_sub(self.assignment.at_us);
        let late =
            !self.headed && !self.uploading.get() && waited_us > self.watch.baseline_p99_us();
        if late {
            match self.assignment.side {
                Arm::Baseline => self.watch.tripwire().baseline_failed(),
                Arm::Canary => self.spend(worker, BudgetKind::All, now),
            }
        }
        self.note(worker, RequestEventKind::Aborted { late });
    }

    /// A failure of the canary, which takes it out when it exhausts the allowance.
    fn spend(&self, worker: &Worker, wire: BudgetKind, now: Instant) {
        let points = |points| Weight::from_basis_points(points).unwrap_or_default();
        let (canary, baseline) = (
            points(self.assignment.canary_points),
            points(self.assignment.baseline_points),
        );
        if self.watch.tripwire().spend(wire, canary, baseline) {
            worker.take_out(self.watch.spec.canary);
            let trip = Trip {
                decided_us: us(now),
                took: now.elapsed(),
            };
            self.watch.set_trip(trip);
            tracing::warn!(
                release = &*self.watch.spec.release,
                upstream = &*self.watch.spec.canary_name,
                budget = wire.as_str(),
                took_us = trip.took.as_micros(),
                "the canary was taken out: its failures exhausted a budget"
            );
        }
    }

    fn note(&self, worker: &Worker, happened: RequestEventKind) {
        if self.assignment.side == Arm::Canary && happened.is_bad() {
            // Also when it was said before: whoever judged meanwhile and knew of no failure has
            // taken it back.
            self.watch.flush_now();
        }
        worker.notes.borrow_mut().push(RequestEvent {
            assignment: self.assignment,
            user: self.user,
            happened,
        });
        self.hand_over(worker);
    }

    fn hand_over(&self, worker: &Worker) {
        if self.watch.is_urgent() {
            worker.flush_notes();
        }
    }
}

/// Who a request is from, as far as a release is concerned: by its key, which it came with or is
/// given a cookie for, else by its address. A request to a sticky service that can have no key is
/// nobody's.
pub(crate) fn user(
    service: &RoutedService,
    choice: &Choice,
    address: impl FnOnce() -> IpAddr,
) -> u32 {
    match choice {
        Choice::Key(key) => hash(key),
        _ if service.sticky.is_some() => RequestEvent::NO_KEY,
        _ => match address() {
            IpAddr::V4(v4) => hash(&v4.octets()),
            IpAddr::V6(v6) => hash(&v6.octets()),
        },
    }
}

fn hash(key: &[u8]) -> u32 {
    let hash = xxh3_64_with_seed(key, USER_SEED) >> 32;
    u32::try_from(hash)
        .unwrap_or_default()
        .min(RequestEvent::NO_KEY - 1)
}

fn weight(service: &RoutedService, key: UpstreamKey) -> Weight {
    let found = service
        .upstreams
        .iter()
        .find(|upstream: &&RoutedUpstream| upstream.key == key);
    found.map(|upstream| upstream.weight).unwrap_or_default()
}

fn us(at: Instant) -> u64 {
    SystemClock::monotonic_ns(at) / 1_000
}
