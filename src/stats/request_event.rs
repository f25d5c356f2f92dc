//! The events of a release's requests that the judge needs: the arm of each request, the time and
//! weights of its assignment, and its outcome. One [`RequestEvent`] is recorded at the assignment
//! and one for each later change; the control plane combines the events of all workers into
//! cohorts.
//!
//! Events are raw, because the judge needs outcomes by start time while everything else here needs
//! them by end time. They are only recorded for services with an active release.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::time::Timestamp;

/// A release's key in events: unique within a process, and dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseKey(pub u32);

/// One of the two arms of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    /// The upstream that holds the users.
    Baseline,
    /// The upstream under test.
    Canary,
}

/// When and how a request was assigned: the common part of all events of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    /// The release.
    pub watch: ReleaseKey,
    /// The time of the assignment: microseconds on the monotonic clock that all workers share
    /// ([`Timestamp::monotonic_ns`](crate::time::Timestamp::monotonic_ns) divided by a thousand).
    pub at_us: u64,
    /// The canary's weight at the assignment, in hundredths of a percent.
    pub canary_points: u16,
    /// The baseline's weight at the assignment, in hundredths of a percent.
    pub baseline_points: u16,
    /// The arm of the assignment. The request counts for this arm, whichever upstream responds.
    pub side: Arm,
}

/// The change that an event records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestEventKind {
    /// It was assigned. The first event of a request.
    Assigned {
        /// The client is still sending the body, until [`RequestEventKind::Sent`].
        uploading: bool,
        /// The canary was full at the assignment, whichever arm was selected: excluded from the
        /// comparison.
        canary_full: bool,
    },
    /// The client has sent all of it, or more than the upstream accepts: waiting for the upstream.
    Sent,
    /// The upstream accepts more of it again: waiting for the client.
    Uploading,
    /// It failed on the canary and was sent to the baseline; whether the user sees the failure is
    /// open.
    Failed,
    /// The head of a good response (no 5xx) has arrived; the body has not.
    Headed,
    /// A good response, with the time since the assignment.
    Good {
        /// Microseconds, saturating at 71 minutes.
        latency_us: u32,
    },
    /// It failed: 5xx, no connection, reset, timeout, truncated or malformed response.
    Bad {
        /// Whether the user saw the failure; false if the baseline responded instead.
        visible: bool,
    },
    /// The client disconnected, or caused the error itself.
    Aborted {
        /// The client had sent the whole request, and waited for the head of the response for
        /// longer than 99 % of the baseline's requests take: that is bad, in either arm. Otherwise
        /// it is neither good nor bad.
        late: bool,
    },
    /// The canary had reached its in-flight limit, so this request was sent to the baseline: its
    /// cohort counts for neither arm.
    Displaced,
}

impl RequestEventKind {
    /// Whether this is the last event of the request.
    pub const fn is_last(self) -> bool {
        !matches!(
            self,
            RequestEventKind::Assigned { .. }
                | RequestEventKind::Sent
                | RequestEventKind::Uploading
                | RequestEventKind::Failed
                | RequestEventKind::Headed
        )
    }

    /// Whether it counts as a failure.
    pub const fn is_bad(self) -> bool {
        matches!(
            self,
            RequestEventKind::Bad { .. } | RequestEventKind::Aborted { late: true }
        )
    }

    /// The plain form of [`RequestEventKind::Assigned`]: the whole request has arrived, and the
    /// canary is not full.
    pub const ASSIGNED: RequestEventKind = RequestEventKind::Assigned {
        uploading: false,
        canary_full: false,
    };
}

/// One event of a request of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestEvent {
    /// The assignment, which identifies the request as far as needed.
    pub assignment: Assignment,
    /// A hash of the user: of the sticky key where the service has one, otherwise of the client's
    /// address. It differs from the split's hash. [`RequestEvent::NO_KEY`] for a request to a
    /// sticky service that cannot have a key.
    pub user: u32,
    /// The change.
    pub happened: RequestEventKind,
}

impl RequestEvent {
    /// The user of a request without a key that is given none, so that the next request may be
    /// assigned anew.
    pub const NO_KEY: u32 = u32::MAX;
}

/// One sampled exchange of a release, for display. The recorder has already removed what could be
/// secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledExchange {
    /// The arm of the assignment.
    pub side: Arm,
    /// The time of the assignment.
    pub at: Timestamp,
    /// The method.
    pub method: Box<str>,
    /// The path, without its query.
    pub path: Box<str>,
    /// The status; `None` if there was none.
    pub status: Option<u16>,
    /// The reason of the failure, if it failed.
    pub reason: Option<&'static str>,
    /// The time from its arrival to the end of its response, in microseconds; to its head if the
    /// status was already a failure.
    pub latency_us: u64,
    /// The request id, as in the access log.
    pub request_id: Option<Box<str>>,
    /// Header fields of the response; empty if the exchange was not expected to be sampled when
    /// they arrived.
    pub headers: Box<[(Box<str>, Box<str>)]>,
}

/// The events that one worker has not handed over yet.
#[derive(Debug)]
pub struct EventBuffer {
    worker: usize,
    notes: Vec<RequestEvent>,
    samples: Vec<(ReleaseKey, SampledExchange)>,
    lost: bool,
    /// A lower bound of all later assignments.
    latest_us: u64,
    watermark: Arc<Watermark>,
}

/// The maximum of events that a worker buffers while the control plane does not take them (10 MiB).
/// Beyond it all are dropped, and the control plane is told: incomplete evidence would be worse
/// than none.
const EVENTS_MAX: usize = 1 << 18;

/// The maximum of exchanges sampled between two flushes of one worker.
const SAMPLES_MAX: usize = 32;

/// Events on their way to the control plane.
#[derive(Debug, Default)]
pub struct EventBatch {
    /// The worker.
    pub worker: usize,
    /// The time of the handover, on the scale of [`Assignment::at_us`].
    pub sent_us: u64,
    /// The events, in their order.
    pub notes: Vec<RequestEvent>,
    /// Sampled exchanges.
    pub samples: Vec<(ReleaseKey, SampledExchange)>,
    /// Earlier events were dropped.
    pub lost: bool,
}

impl EventBuffer {
    /// An empty buffer for the worker of this number.
    pub fn new(worker: usize, watermark: Arc<Watermark>) -> EventBuffer {
        EventBuffer {
            worker,
            notes: Vec::new(),
            samples: Vec::new(),
            lost: false,
            latest_us: 0,
            watermark,
        }
    }

    /// Announces an assignment event. Called before its time is read: the watermark then lies
    /// before that time, so no reader concludes in between that there is nothing to wait for.
    pub fn expect(&self) {
        if self.notes.is_empty() {
            self.watermark.set(self.worker, self.latest_us);
            // The other half is in `Watermark::floor`: either it sees this store, or the clock is
            // read after it.
            fence(Ordering::SeqCst);
        }
    }

    /// Adds an event. An assignment is announced by [`EventBuffer::expect`].
    pub fn push(&mut self, event: RequestEvent) {
        if matches!(event.happened, RequestEventKind::Assigned { .. }) {
            self.latest_us = event.assignment.at_us;
        }
        if self.notes.is_empty() {
            self.watermark.set(self.worker, event.assignment.at_us);
        } else if self.notes.len() >= EVENTS_MAX {
            self.notes.clear();
            self.lost = true;
        }
        self.notes.push(event);
    }

    /// Adds a sampled exchange, up to the maximum between two flushes.
    pub fn sample(&mut self, watch: ReleaseKey, sample: SampledExchange) {
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push((watch, sample));
        }
    }

    /// Whether there is nothing to hand over.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.samples.is_empty()
    }

    /// Moves the events out. When the batch has been sent, and not before, call
    /// [`EventBuffer::handed_over`].
    pub fn take(&mut self, sent_us: u64) -> EventBatch {
        self.latest_us = self.latest_us.max(sent_us);
        EventBatch {
            worker: self.worker,
            sent_us,
            notes: std::mem::take(&mut self.notes),
            samples: std::mem::take(&mut self.samples),
            lost: std::mem::take(&mut self.lost),
        }
    }

    /// Marks the batch as sent.
    pub fn handed_over(&self) {
        if self.notes.is_empty() {
            self.watermark.set(self.worker, u64::MAX);
        }
    }
}

/// The watermark: for each worker, the oldest assignment that may not have been handed over yet. It
/// is read before the event channel is drained, so that all older events are in the channel or were
/// received.
#[derive(Debug)]
pub struct Watermark(Box<[AtomicU64]>);

impl Watermark {
    /// A watermark for this many workers.
    pub fn new(workers: usize) -> Watermark {
        Watermark((0..workers).map(|_| AtomicU64::new(u64::MAX)).collect())
    }

    fn set(&self, worker: usize, at_us: u64) {
        if let Some(oldest) = self.0.get(worker) {
            oldest.store(at_us, Ordering::Release);
        }
    }

    /// The time before which every assignment has been handed over: `now_us`, which must be read
    /// before the call, if all have.
    pub fn floor(&self, now_us: u64) -> u64 {
        fence(Ordering::SeqCst);
        let oldest = self.0.iter().map(|oldest| oldest.load(Ordering::Acquire));
        oldest.fold(now_us, u64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_us: u64) -> RequestEvent {
        RequestEvent {
            assignment: Assignment {
                watch: ReleaseKey(0),
                at_us,
                canary_points: 500,
                baseline_points: 9_500,
                side: Arm::Canary,
            },
            user: 1,
            happened: RequestEventKind::ASSIGNED,
        }
    }

    #[test]
    fn watermark_is_the_oldest_pending_assignment() {
        let watermark = Arc::new(Watermark::new(2));
        let mut books = [0, 1].map(|worker| EventBuffer::new(worker, Arc::clone(&watermark)));
        assert_eq!(watermark.floor(25), 25);
        books[0].push(event(30));
        books[0].push(event(40));
        books[1].push(event(20));
        assert_eq!(watermark.floor(45), 20);
        let batch = books[1].take(50);
        assert_eq!(
            (batch.worker, batch.notes.len(), watermark.floor(50)),
            (1, 1, 20)
        );
        books[1].handed_over();
        assert_eq!(watermark.floor(50), 30);
        drop(books[0].take(60));
        books[0].handed_over();
        assert_eq!(watermark.floor(70), 70);
    }

    #[test]
    fn watermark_precedes_an_announced_assignment() {
        let watermark = Arc::new(Watermark::new(1));
        let mut book = EventBuffer::new(0, Arc::clone(&watermark));
        book.push(event(30));
        drop(book.take(40));
        book.handed_over();
        assert_eq!(watermark.floor(60), 60);
        book.expect();
        assert_eq!(
            watermark.floor(60),
            40,
            "the event may have any time since the last batch"
        );
        book.push(event(70));
        assert_eq!(watermark.floor(80), 70);
        book.expect();
        assert_eq!(watermark.floor(80), 70, "what it holds already is older");
    }

    #[test]
    fn unread_event_buffer_is_bounded_and_reports_loss() {
        let mut book = EventBuffer::new(0, Arc::new(Watermark::new(1)));
        for at_us in 0..=EVENTS_MAX as u64 {
            book.push(event(at_us));
        }
        let batch = book.take(0);
        assert!(batch.lost);
        assert_eq!(batch.notes.len(), 1);
        assert!(!book.take(0).lost);
    }
}
