//! What the judge needs of each request of a release: which arm it was given, when, at which
//! weights, and what had become of it. One [`RequestEvent`] when it is assigned and one for each
//! thing that happens to it; the control plane puts the notes of all workers together into cohorts.
//!
//! Notes are raw, because the judge wants outcomes by the time of their start while everything else
//! here wants them by the time of their end. They are only taken for services with a release under
//! way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::time::Timestamp;

/// A release's number in notes: unique within a process, and dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseKey(pub u32);

/// One of the two sides of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    /// The upstream that holds the users.
    Baseline,
    /// The upstream that is being proved.
    Canary,
}

/// When and how a request was assigned: what all notes of one request have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    /// Which release.
    pub watch: ReleaseKey,
    /// When it was drawn: microseconds on the monotonic clock that all workers share
    /// ([`Timestamp::monotonic_ns`](crate::time::Timestamp::monotonic_ns) by a thousand).
    pub at_us: u64,
    /// The canary's weight at the draw, in hundredths of a percent.
    pub canary_points: u16,
    /// The baseline's weight at the draw, in hundredths of a percent.
    pub baseline_points: u16,
    /// Which side it was given to. Whoever answers it in the end, it counts for this one.
    pub side: Arm,
}

/// What happened to an assigned request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestEventKind {
    /// It was drawn. The first note of a request.
    Assigned {
        /// Its body is still to come from the client, who is waited for until
        /// [`RequestEventKind::Sent`].
        uploading: bool,
        /// The canary was full at the draw, whichever arm was drawn: it is compared with nothing.
        canary_full: bool,
    },
    /// The client has sent all of it, or more than the upstream takes: the upstream is waited for.
    Sent,
    /// The upstream takes the rest of it again, and the client is waited for.
    Uploading,
    /// It has failed on the canary, and the baseline has been asked; whether the user sees that is
    /// still open.
    Failed,
    /// The head of a good answer is here (no 5xx), and its body is still to come.
    Headed,
    /// It was answered well, so long after its assignment.
    Good {
        /// Microseconds, saturating at 71 minutes.
        latency_us: u32,
    },
    /// It failed: 5xx, no connection, reset, timeout, truncated or malformed answer.
    Bad {
        /// Whether the user saw it. Not, if the baseline answered instead.
        visible: bool,
    },
    /// The client went away, or was at fault itself.
    Aborted {
        /// It had sent the whole request, and waited for the head of an answer for longer than 99
        /// % of the baseline's requests take: that is bad, in either arm. Otherwise it is
        /// neither good nor bad.
        late: bool,
    },
    /// The canary had as many requests as it may have at once, so the baseline was sent this one:
    /// its cohort counts for neither side.
    Displaced,
}

impl RequestEventKind {
    /// Whether nothing more will be noted of the request.
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

    /// The plain form of [`RequestEventKind::Assigned`]: the whole request is here, and the canary
    /// has room.
    pub const ASSIGNED: RequestEventKind = RequestEventKind::Assigned {
        uploading: false,
        canary_full: false,
    };
}

/// One thing that happened to one request of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestEvent {
    /// Which request, as far as matters.
    pub assignment: Assignment,
    /// A hash of the user: of the sticky key where the service has one, else of the client's
    /// address. Another hash than the split's. [`RequestEvent::KEYLESS`] for a request to a
    /// sticky service that can have no key.
    pub user: u32,
    /// What happened.
    pub happened: RequestEventKind,
}

impl RequestEvent {
    /// The user of a request that has no key and is given none, so that the next one may be drawn
    /// anew.
    pub const NO_KEY: u32 = u32::MAX;
}

/// One exchange of a release, kept for people to look at. What could be secret has been left out by
/// whoever took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledExchange {
    /// Which side it was given to.
    pub side: Arm,
    /// When that was.
    pub at: Timestamp,
    /// The method.
    pub method: Box<str>,
    /// The path, without its query.
    pub path: Box<str>,
    /// The status; `None` if there was none.
    pub status: Option<u16>,
    /// Why it counts as failed, if it does.
    pub reason: Option<&'static str>,
    /// From its arrival to the end of its answer, in microseconds; where that had failed by its
    /// status already, to its head.
    pub latency_us: u64,
    /// Its identity, as in the access log.
    pub request_id: Option<Box<str>>,
    /// Header fields of the answer; none if it was expected to be of no interest when they came.
    pub headers: Box<[(Box<str>, Box<str>)]>,
}

/// The notes that one worker has not handed over yet.
#[derive(Debug)]
pub struct EventBuffer {
    worker: usize,
    notes: Vec<RequestEvent>,
    samples: Vec<(ReleaseKey, SampledExchange)>,
    lost: bool,
    /// No assignment still to come is older than this.
    latest_us: u64,
    horizon: Arc<Watermark>,
}

/// Notes that a worker keeps while the control plane does not take them (10 MiB). When there are
/// more, all are thrown away, and the control plane is told: half of what happened would be worse
/// evidence than none.
const NOTES_MAX: usize = 1 << 18;

/// Exchanges that are kept for people between two flushes of one worker.
const SAMPLES_MAX: usize = 32;

/// Notes on their way to the control plane.
#[derive(Debug, Default)]
pub struct EventBatch {
    /// The worker that they are from.
    pub worker: usize,
    /// When they were handed over, on the scale of [`Assignment::at_us`].
    pub sent_us: u64,
    /// The notes, in the order in which things happened.
    pub notes: Vec<RequestEvent>,
    /// Exchanges that were kept.
    pub samples: Vec<(ReleaseKey, SampledExchange)>,
    /// Notes before these were thrown away.
    pub lost: bool,
}

impl EventBuffer {
    /// An empty notebook for the worker of this number.
    pub fn new(worker: usize, horizon: Arc<Watermark>) -> EventBuffer {
        EventBuffer {
            worker,
            notes: Vec::new(),
            samples: Vec::new(),
            lost: false,
            latest_us: 0,
            horizon,
        }
    }

    /// An assignment is about to be noted. To be called before its time is read: from here on the
    /// horizon lies before that time, so nobody who looks at it in between believes that there
    /// is nothing to wait for.
    pub fn expect(&self) {
        if self.notes.is_empty() {
            self.horizon.set(self.worker, self.latest_us);
            // The other half is in `Watermark::floor`: either it sees what was just set, or the
            // clock is read after it.
            fence(Ordering::SeqCst);
        }
    }

    /// Takes a note. That of an assignment is announced by [`EventBuffer::expect`].
    pub fn push(&mut self, note: RequestEvent) {
        if matches!(note.happened, RequestEventKind::Assigned { .. }) {
            self.latest_us = note.assignment.at_us;
        }
        if self.notes.is_empty() {
            self.horizon.set(self.worker, note.assignment.at_us);
        } else if self.notes.len() >= NOTES_MAX {
            self.notes.clear();
            self.lost = true;
        }
        self.notes.push(note);
    }

    /// Keeps an exchange for people; not more than a few between two flushes.
    pub fn sample(&mut self, watch: ReleaseKey, sample: SampledExchange) {
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push((watch, sample));
        }
    }

    /// Whether there is nothing to hand over.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.samples.is_empty()
    }

    /// Moves the notes out. When the batch has been sent, and not before,
    /// [`EventBuffer::handed_over`] says so.
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

    /// What was taken out has been sent.
    pub fn handed_over(&self) {
        if self.notes.is_empty() {
            self.horizon.set(self.worker, u64::MAX);
        }
    }
}

/// How far the control plane knows of all assignments: the oldest one, of each worker, that may not
/// have been handed over yet. Read before the channel of notes is emptied, so that what is older is
/// in it or has been.
#[derive(Debug)]
pub struct Watermark(Box<[AtomicU64]>);

impl Watermark {
    /// For so many workers.
    pub fn new(workers: usize) -> Watermark {
        Watermark((0..workers).map(|_| AtomicU64::new(u64::MAX)).collect())
    }

    fn set(&self, worker: usize, at_us: u64) {
        if let Some(oldest) = self.0.get(worker) {
            oldest.store(at_us, Ordering::Release);
        }
    }

    /// Every assignment before this time has been handed over: `now_us`, which has to be read
    /// before, when all have.
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
    fn the_horizon_is_the_oldest_assignment_that_was_not_handed_over() {
        let horizon = Arc::new(Watermark::new(2));
        let mut books = [0, 1].map(|worker| EventBuffer::new(worker, Arc::clone(&horizon)));
        assert_eq!(horizon.floor(25), 25);
        books[0].push(event(30));
        books[0].push(event(40));
        books[1].push(event(20));
        assert_eq!(horizon.floor(45), 20);
        let batch = books[1].take(50);
        assert_eq!(
            (batch.worker, batch.notes.len(), horizon.floor(50)),
            (1, 1, 20)
        );
        books[1].handed_over();
        assert_eq!(horizon.floor(50), 30);
        drop(books[0].take(60));
        books[0].handed_over();
        assert_eq!(horizon.floor(70), 70);
    }

    #[test]
    fn the_horizon_lies_before_an_assignment_that_is_about_to_be_noted() {
        let horizon = Arc::new(Watermark::new(1));
        let mut book = EventBuffer::new(0, Arc::clone(&horizon));
        book.push(event(30));
        drop(book.take(40));
        book.handed_over();
        assert_eq!(horizon.floor(60), 60);
        book.expect();
        assert_eq!(
            horizon.floor(60),
            40,
            "the note may be of any time since the last batch"
        );
        book.push(event(70));
        assert_eq!(horizon.floor(80), 70);
        book.expect();
        assert_eq!(horizon.floor(80), 70, "what it holds already is older");
    }

    #[test]
    fn a_notebook_that_nobody_reads_is_bounded_and_says_what_was_lost() {
        let mut book = EventBuffer::new(0, Arc::new(Watermark::new(1)));
        for at_us in 0..=NOTES_MAX as u64 {
            book.push(event(at_us));
        }
        let batch = book.take(0);
        assert!(batch.lost);
        assert_eq!(batch.notes.len(), 1);
        assert!(!book.take(0).lost);
    }
}
