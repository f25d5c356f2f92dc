//! One worker: what the connections of one core share, in memory that no other thread touches.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use http::HeaderValue;
use tokio::sync::Notify;

use super::limits::RequestLimit;
use super::reports::Reports;
use super::retry_budget::RetryBudgets;
use super::sample_rates::SampleRates;
use crate::proxy::deadline::Deadlines;
use crate::proxy::options::Options;
use crate::proxy::sticky::{self, Signer};
use crate::proxy::upstream::Buffers;
use crate::proxy::upstream::pool::Pool;
use crate::proxy::upstream::revision_guard::UnsentRequests;
use crate::routing::{Publisher, Snapshot, SnapshotReader};
use crate::stats::{EventBuffer, Recorder, UpstreamKey};
use crate::telemetry::AccessLog;
use crate::time::SystemClock;

/// The state of one worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) pool: Pool,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) recorder: RefCell<Recorder>,
    pub(crate) unsent: Rc<UnsentRequests>,
    pub(crate) access_log: AccessLog,
    /// Whether the tick sleeps until something happens.
    pub(crate) parked: Cell<bool>,
    /// Client connections that are open; written by this worker alone, read by whoever shows it.
    pub(crate) connections: Arc<AtomicUsize>,
    reader: RefCell<SnapshotReader>,
    random: RefCell<fastrand::Rng>,
    pub(crate) notes: RefCell<EventBuffer>,
    /// How many requests may be rescued.
    pub(crate) retries: RetryBudgets,
    /// How many exchanges may be kept for people.
    pub(crate) samples: SampleRates,
    publisher: Publisher,
    reports: Reports,
    wake: Arc<Notify>,
    requests: Cell<usize>,
    /// What all workers have in common for sticky cookies.
    pub(crate) sticky: sticky::Common,
    /// Signs and verifies them.
    pub(crate) signer: Signer,
    /// What all workers together may have under way.
    pub(crate) room: RequestLimit,
    draining: Cell<bool>,
    date: RefCell<(u64, HeaderValue)>,
    /// Memory for identities of requests.
    ids: RefCell<BytesMut>,
}

/// Bytes of the memory that identities of requests are cut from. An identity that is kept keeps a
/// block of it.
const IDS_BLOCK: usize = 4 * 1024;

impl Worker {
    /// The worker of this number.
    pub(crate) fn new(
        number: usize,
        options: &Options,
        publisher: &Publisher,
        reports: Reports,
        access_log: AccessLog,
        connections: Arc<AtomicUsize>,
        (room, sticky): (RequestLimit, sticky::Common),
    ) -> (Rc<Worker>, Arc<Notify>) {
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        let acknowledger = publisher.register(Box::new(move || waker.notify_one()));
        let worker = Worker {
            deadlines: Deadlines::new(),
            pool: Pool::new(options.pool),
            buffers: Buffers::new(),
            recorder: RefCell::new(Recorder::new(number)),
            unsent: UnsentRequests::new(acknowledger),
            access_log,
            parked: Cell::new(false),
            connections,
            reader: RefCell::new(publisher.reader()),
            random: RefCell::new(fastrand::Rng::new()),
            notes: RefCell::new(EventBuffer::new(number, Arc::clone(&reports.horizon))),
            retries: RetryBudgets::default(),
            samples: SampleRates::default(),
            publisher: publisher.clone(),
            reports,
            wake: Arc::clone(&wake),
            requests: Cell::new(0),
            signer: Signer::new(&sticky.secret),
            sticky,
            room,
            draining: Cell::new(false),
            date: RefCell::new((0, HeaderValue::from_static(""))),
            ids: RefCell::default(),
        };
        (Rc::new(worker), wake)
    }

    /// Looks at the newest snapshot. Whatever outlives the call has to be cloned out of it.
    pub(crate) fn with_snapshot<T>(&self, look: impl FnOnce(&Snapshot) -> T) -> T {
        look(self.reader.borrow_mut().load())
    }

    /// Tells the control plane how far this worker has come.
    pub(crate) fn acknowledge(&self) {
        let revision = self.with_snapshot(|snapshot| snapshot.revision);
        self.unsent.advance(revision);
    }

    /// Hands over what was counted; keeps counting when nobody takes it.
    pub(crate) fn flush(&self) {
        self.flush_notes();
        let mut recorder = self.recorder.borrow_mut();
        if !recorder.is_dirty() {
            return;
        }
        if let Ok(permit) = self.reports.batches.try_reserve() {
            permit.send(recorder.take(None));
        }
    }

    /// Hands over the notes alone; keeps them when nobody takes them.
    pub(crate) fn flush_notes(&self) {
        let mut notes = self.notes.borrow_mut();
        if notes.is_empty() {
            return;
        }
        if let Ok(permit) = self.reports.notes.try_reserve() {
            permit.send(notes.take(SystemClock::monotonic_ns(Instant::now()) / 1_000));
            notes.handed_over();
        }
    }

    /// Gives an upstream's weight to the baseline, in whatever table is in use by now: the one
    /// thing that a worker publishes.
    pub(crate) fn take_out(&self, upstream: UpstreamKey) {
        self.publisher.update(|table| table.drained(upstream));
    }

    /// Whether the tick has to go on turning.
    pub(crate) fn is_busy(&self) -> bool {
        self.requests.get() > 0
            || self.recorder.borrow().is_dirty()
            || !self.notes.borrow().is_empty()
    }

    /// Something begins that the tick has to watch. To be called before its deadlines are set:
    /// while the tick slept, the coarse time stood still, and it does not know of earlier
    /// deadlines than those that it went to sleep with.
    pub(crate) fn wake(&self) {
        if self.parked.replace(false) {
            self.deadlines.refresh();
            self.wake.notify_one();
        }
    }

    /// A request has arrived.
    pub(crate) fn begin(&self) {
        self.requests.set(self.requests.get() + 1);
        self.wake();
    }

    /// A request is over.
    pub(crate) fn end(&self) {
        self.requests.set(self.requests.get().saturating_sub(1));
    }

    /// A uniform draw of 64 bits.
    pub(crate) fn draw(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// A new identity for a request: a UUID of version 7.
    pub(crate) fn new_request_id(&self) -> HeaderValue {
        let millis = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_millis();
        let mut random = [0; 10];
        self.random.borrow_mut().fill(&mut random);
        let id =
            uuid::Builder::from_unix_timestamp_millis(u64::try_from(millis).unwrap_or(0), &random)
                .into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = id.hyphenated().encode_lower(&mut text);
        // Cut from a block for many, so that neither an identity nor a copy of it asks the
        // allocator for memory.
        let mut block = self.ids.borrow_mut();
        if block.capacity() < text.len() {
            *block = BytesMut::with_capacity(IDS_BLOCK);
        }
        block.extend_from_slice(text.as_bytes());
        let shared = block.split().freeze();
        HeaderValue::from_maybe_shared(shared).unwrap_or(HeaderValue::from_static("unknown"))
    }

    /// The time as `Date` has it. Written once a second; it follows the clock when that is set
    /// back.
    pub(crate) fn date(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            let text = httpdate::fmt_http_date(now);
            *date = (
                second,
                HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("")),
            );
        }
        date.1.clone()
    }

    /// From here on connections are closed after the request at hand.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        self.deadlines.wake_all();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }
}
