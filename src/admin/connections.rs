//! Which connections there are, what each of them waits for, and which one goes when there are too
//! many.
//!
//! Connections whose first head is not whole yet are cheap and have a limit of their own, so that
//! accepting never waits: at that limit the oldest of them is closed at once. A connection with a
//! whole head needs one of the places of those that are served. Where none is free, an idle
//! connection gives way, else one whose client stalls with a body or an answer; one that is being
//! served never does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A client that has not read for so long gives way to a new one when there is no other room.
const STALL: Duration = Duration::from_millis(250);

/// Above the limit of served connections, one whose first head is older than this is closed before
/// one more is accepted. A younger one stays while there is room, since its head may be on its way.
const GRACE: Duration = Duration::from_millis(20);

/// A client that has taken so much since it was first waited for is not the same slow reader any
/// more.
const PROGRESS_BYTES: usize = 64 << 10;

/// How often clients are looked at at most.
const LOOK_MAX: Duration = Duration::from_millis(250);

/// How long a client may keep a connection waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    /// From a connection's beginning, or the first byte of its next request, to the end of the
    /// request's head.
    pub(super) head: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
    /// While it reads less than [`PROGRESS_BYTES`] of an answer.
    pub(super) write: Duration,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The head of a request is on its way.
    Head,
    /// There is no request.
    Idle,
    /// A request is being served.
    Serving,
    /// It has been closed.
    Closed,
}

/// What is known of one connection. The lock is held for no more than a look.
#[derive(Debug)]
pub(super) struct ConnectionProgress {
    inner: Mutex<Inner>,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Inner {
    stage: Stage,
    since: Instant,
    /// Since when the client owes more of the request's body.
    owes: Option<Instant>,
    /// The client does not read as fast as it is answered.
    unread: Option<Unread>,
    /// The answer is complete, but perhaps not written yet.
    answered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Unread {
    since: Instant,
    /// When the client last took anything.
    moved: Instant,
    taken: usize,
}

impl ConnectionProgress {
    fn new(now: Instant) -> ConnectionProgress {
        let inner = Inner {
            stage: Stage::Head,
            since: now,
            owes: None,
            unread: None,
            answered: false,
        };
        ConnectionProgress {
            inner: Mutex::new(inner),
            closed: CancellationToken::new(),
        }
    }

    /// Completes when the connection has to close.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Bytes have come.
    pub(super) fn read(&self, now: Instant) {
        let mut inner = self.lock();
        if inner.stage == Stage::Idle {
            (inner.stage, inner.since) = (Stage::Head, now);
        }
    }

    /// A head is whole, and its request is served from now on; false if the connection has been
    /// closed before.
    #[must_use]
    pub(super) fn begin(&self, now: Instant) -> bool {
        let mut inner = self.lock();
        if inner.stage == Stage::Closed {
            return false;
        }
        (inner.stage, inner.since, inner.answered) = (Stage::Serving, now, false);
        true
    }

    /// Whether the client owes more of the request's body.
    pub(super) fn set_owes(&self, owes: bool, now: Instant) {
        self.lock().owes = owes.then_some(now);
    }

    /// The answer is complete.
    pub(super) fn answered(&self) {
        self.lock().answered = true;
    }

    /// Bytes of an answer went out.
    pub(super) fn wrote(&self, bytes: usize, now: Instant) {
        let mut inner = self.lock();
        if let Some(unread) = &mut inner.unread {
            unread.moved = now;
            unread.taken += bytes;
            if unread.taken >= PROGRESS_BYTES {
                inner.unread = None;
            }
        }
    }

    /// Bytes of an answer cannot go out before the client has read others.
    pub(super) fn blocked(&self, now: Instant) {
        self.lock().unread.get_or_insert(Unread {
            since: now,
            moved: now,
            taken: 0,
        });
    }

    /// All that was to be written is written.
    pub(super) fn flushed(&self, now: Instant) {
        let mut inner = self.lock();
        inner.unread = None;
        if inner.answered && inner.stage == Stage::Serving {
            (inner.stage, inner.since, inner.answered) = (Stage::Idle, now, false);
        }
    }

    /// How soon this one goes when there are too many, the least first; `None` while it is being
    /// served.
    fn dispensable(&self, now: Instant) -> Option<Rank> {
        self.lock().dispensable(now)
    }

    /// What its client has taken too long for.
    fn overdue(&self, patience: &ConnectionLimits, now: Instant) -> Option<&'static str> {
        let inner = self.lock();
        let over = |since: Instant, patience: Duration| now.duration_since(since) >= patience;
        match inner.stage {
            Stage::Head if over(inner.since, patience.head) => {
                Some("to send the head of a request")
            }
            Stage::Idle if over(inner.since, patience.idle) => Some("between two requests"),
            _ if inner
                .unread
                .is_some_and(|unread| over(unread.since, patience.write)) =>
            {
                Some("to read an answer")
            }
            _ => None,
        }
    }

    /// Closes it if it is as dispensable as it was when it was chosen: a head may have become whole
    /// since.
    fn close_if(&self, rank: Rank, now: Instant) -> bool {
        let mut inner = self.lock();
        if inner.dispensable(now) != Some(rank) {
            return false;
        }
        inner.stage = Stage::Closed;
        drop(inner);
        self.closed.cancel();
        true
    }

    fn close(&self) {
        self.lock().stage = Stage::Closed;
        self.closed.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics between two related writes, so the data is whole even if a holder did.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection lacks (a whole head; else the rest of a body; else a reader), and since when.
type Rank = (u8, Instant);

impl Inner {
    fn dispensable(&self, now: Instant) -> Option<Rank> {
        match self.stage {
            Stage::Head if now.duration_since(self.since) < GRACE => None,
            Stage::Head | Stage::Idle => Some((0, self.since)),
            Stage::Serving => {
                // A body of this API fits in few packets, so its rest is due at once.
                let late = |since: &Instant| now.duration_since(*since) >= GRACE;
                let owes = self.owes.filter(late).map(|since| (1, since));
                let stalled = |unread: &Unread| now.duration_since(unread.moved) >= STALL;
                let unread = self.unread.filter(stalled);
                owes.or(unread.map(|unread| (2, unread.since)))
            }
            Stage::Closed => None,
        }
    }
}

/// All connections.
#[derive(Debug)]
pub(super) struct Connections {
    /// How many may be served or wait for their next request.
    served_max: usize,
    /// How many more there may be; their first heads are on their way.
    pending_max: usize,
    limits: ConnectionLimits,
    open: Mutex<ConnectionTable>,
    /// A served one has ended.
    left: Notify,
}

#[derive(Debug, Default)]
struct ConnectionTable {
    all: BTreeMap<u64, Arc<ConnectionProgress>>,
    /// Those whose first head is not whole, the oldest first.
    pending: BTreeSet<u64>,
    /// Those that have a place to be served. The others wait for one, with a whole head.
    served: BTreeSet<u64>,
    numbers: u64,
}

impl ConnectionTable {
    /// Closes the oldest connection without a first head, if that began no later than `before`.
    fn close_oldest_head(&mut self, before: Instant) -> bool {
        let oldest = self.pending.first().copied();
        let Some((number, progress)) = oldest.and_then(|number| self.all.get_key_value(&number))
        else {
            return false;
        };
        if progress.lock().since > before {
            return false;
        }
        let number = *number;
        progress.close();
        // It is gone from the list at once; its task ends as soon as it gets its turn.
        self.remove(number);
        tracing::debug!("an admin connection was closed to make room for a new one");
        true
    }

    /// Closes the served connection that can best be done without.
    fn close_dispensable(&mut self, now: Instant) -> bool {
        let ranked = self.served.iter().filter_map(|number| {
            let rank = self.all.get(number)?.dispensable(now)?;
            Some((rank, *number))
        });
        let Some((rank, number)) = ranked.min() else {
            return false;
        };
        let closed = self
            .all
            .get(&number)
            .is_some_and(|progress| progress.close_if(rank, now));
        if closed {
            self.remove(number);
            tracing::debug!("an admin connection was closed to serve another");
        }
        closed
    }

    /// Closes the oldest connection whose request waits for a place to be served; nothing was done
    /// for it yet.
    fn close_waiting(&mut self) -> bool {
        let waits = |number: &u64| !self.served.contains(number) && !self.pending.contains(number);
        let waiting = self.all.iter().find(|(number, _)| waits(number));
        let Some((&number, progress)) = waiting else {
            return false;
        };
        progress.close();
        self.remove(number);
        tracing::debug!("an admin connection that waited was closed to make room for a new one");
        true
    }

    fn remove(&mut self, number: u64) {
        self.all.remove(&number);
        self.pending.remove(&number);
        self.served.remove(&number);
    }
}

/// A connection's place among them, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    number: u64,
    progress: Arc<ConnectionProgress>,
    connections: Arc<Connections>,
}

impl ConnectionSlot {
    pub(super) fn progress(&self) -> &Arc<ConnectionProgress> {
        &self.progress
    }

    /// A head is whole. Its request is served as soon as there is a place for it; false if the
    /// connection has been closed.
    #[must_use]
    pub(super) async fn begin(&self) -> bool {
        loop {
            if let Some(begun) = self.try_begin(Instant::now()) {
                return begun;
            }
            tokio::select! {
                () = self.connections.left.notified() => {}
                () = self.progress.closed() => return false,
                () = sleep(GRACE) => {}
            }
        }
    }

    /// `None` while every place is taken by a connection that is being served.
    fn try_begin(&self, now: Instant) -> Option<bool> {
        let mut open = self.connections.lock();
        open.pending.remove(&self.number);
        // One that was closed has left the list.
        if open.all.contains_key(&self.number) && !open.served.contains(&self.number) {
            if open.served.len() >= self.connections.served_max && !open.close_dispensable(now) {
                return None;
            }
            open.served.insert(self.number);
        }
        Some(self.progress.begin(now))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.lock().remove(self.number);
        self.connections.left.notify_one();
    }
}

impl Connections {
    /// None yet; at most `most` of them served, and `heads_more` beside them whose first heads are
    /// on their way.
    pub(super) fn new(most: usize, heads_more: usize, limits: ConnectionLimits) -> Connections {
        Connections {
            served_max: most,
            pending_max: heads_more,
            limits,
            open: Mutex::default(),
            left: Notify::new(),
        }
    }

    /// A place for a new connection; `None` where all that there may be are being served.
    pub(super) fn place(self: &Arc<Self>, now: Instant) -> Option<ConnectionSlot> {
        let mut open = self.lock();
        if open.all.len() >= self.served_max {
            let old = now.checked_sub(GRACE);
            let closed = old.is_some_and(|before| open.close_oldest_head(before));
            let is_full = open.all.len() >= self.served_max + self.pending_max;
            let makes_room =
                |open: &mut ConnectionTable| open.close_oldest_head(now) || open.close_waiting();
            if !closed && is_full && !makes_room(&mut open) {
                return None;
            }
        }
        open.numbers += 1;
        let (number, progress) = (open.numbers, Arc::new(ConnectionProgress::new(now)));
        open.all.insert(number, Arc::clone(&progress));
        open.pending.insert(number);
        drop(open);
        Some(ConnectionSlot {
            number,
            progress,
            connections: Arc::clone(self),
        })
    }

    /// Closes those whose clients take too long. Never completes.
    pub(super) async fn sweep(&self) {
        let ConnectionLimits { head, idle, write } = self.limits;
        let every = (head.min(idle).min(write) / 4).clamp(Duration::from_millis(1), LOOK_MAX);
        loop {
            sleep(every).await;
            self.close_overdue(Instant::now());
        }
    }

    fn close_overdue(&self, now: Instant) {
        let open = self.lock();
        for progress in open.all.values() {
            if let Some(what) = progress.overdue(&self.limits, now) {
                tracing::debug!("an admin connection was closed: its client took too long {what}");
                progress.close();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionTable> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
