//! Which connections there are, what each of them waits for, and which one goes when there are too
//! many.
//!
//! There is always room for one more that says what it wants: at the limit the connection goes that
//! has been without a whole request for the longest. Where none is, one whose client does not send
//! the rest of a body, or does not read its answer, goes. One that is being served never does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A client that has not moved for so long gives way to a new one when there is no other room.
const STALL: Duration = Duration::from_millis(250);

/// A new connection has so long before it gives way, so that in a rush of others a head that is on
/// its way arrives.
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
        let stalled = |since: Instant| now.duration_since(since) >= STALL;
        match self.stage {
            Stage::Head if now.duration_since(self.since) < GRACE => None,
            Stage::Head | Stage::Idle => Some((0, self.since)),
            Stage::Serving => {
                let owes = self
                    .owes
                    .filter(|since| stalled(*since))
                    .map(|since| (1, since));
                let unread = self.unread.filter(|unread| stalled(unread.moved));
                owes.or(unread.map(|unread| (2, unread.since)))
            }
            Stage::Closed => None,
        }
    }
}

/// All connections.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    patience: ConnectionLimits,
    open: Mutex<Open>,
    /// One has ended.
    left: Notify,
}

#[derive(Debug, Default)]
struct Open {
    all: BTreeMap<u64, Arc<ConnectionProgress>>,
    numbers: u64,
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
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.lock().all.remove(&self.number);
        self.connections.left.notify_one();
    }
}

impl Connections {
    /// None yet, and at most `most`.
    pub(super) fn new(most: usize, patience: ConnectionLimits) -> Connections {
        Connections {
            most,
            patience,
            open: Mutex::default(),
            left: Notify::new(),
        }
    }

    /// A place for a new connection: at once, if one is free or can be made free.
    pub(super) async fn place(self: &Arc<Self>) -> ConnectionSlot {
        loop {
            if let Some(place) = self.try_place(Instant::now()) {
                return place;
            }
            tokio::select! {
                () = self.left.notified() => {}
                () = sleep(GRACE) => {}
            }
        }
    }

    fn try_place(self: &Arc<Self>, now: Instant) -> Option<ConnectionSlot> {
        let mut open = self.lock();
        while open.all.len() >= self.most {
            let ranked = open.all.iter();
            let ranked =
                ranked.filter_map(|(number, progress)| Some((progress.dispensable(now)?, *number)));
            let (rank, number) = ranked.min()?;
            // It is gone from the list at once; its task ends as soon as it gets its turn.
            if open.all.get(&number)?.close_if(rank, now) {
                open.all.remove(&number);
                tracing::debug!("an admin connection was closed to make room for a new one");
            }
        }
        open.numbers += 1;
        let (number, progress) = (open.numbers, Arc::new(ConnectionProgress::new(now)));
        open.all.insert(number, Arc::clone(&progress));
        drop(open);
        Some(ConnectionSlot {
            number,
            progress,
            connections: Arc::clone(self),
        })
    }

    /// Closes those whose clients take too long. Never completes.
    pub(super) async fn sweep(&self) {
        let ConnectionLimits { head, idle, write } = self.patience;
        let every = (head.min(idle).min(write) / 4).clamp(Duration::from_millis(1), LOOK_MAX);
        loop {
            sleep(every).await;
            self.close_overdue(Instant::now());
        }
    }

    fn close_overdue(&self, now: Instant) {
        let open = self.lock();
        for progress in open.all.values() {
            if let Some(what) = progress.overdue(&self.patience, now) {
                tracing::debug!("an admin connection was closed: its client took too long {what}");
                progress.close();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: ConnectionLimits = ConnectionLimits {
        head: Duration::from_secs(3),
        idle: Duration::from_secs(10),
        write: Duration::from_secs(10),
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn connections<const N: usize>(
        most: usize,
        now: Instant,
    ) -> (Arc<Connections>, [ConnectionSlot; N]) {
        let connections = Arc::new(Connections::new(most, PATIENCE));
        let places = [(); N].map(|()| connections.try_place(now).unwrap());
        (connections, places)
    }

    fn is_closed(place: &ConnectionSlot) -> bool {
        place.progress.closed.is_cancelled()
    }

    fn answer(place: &ConnectionSlot, now: Instant) {
        place.progress.answered();
        place.progress.flushed(now);
    }

    #[tokio::test]
    async fn at_the_limit_the_oldest_without_a_whole_head_goes_and_never_one_that_is_served() {
        let now = Instant::now();
        let (connections, [served, idle, half]) = connections(3, now);
        assert!(served.progress.begin(now) && idle.progress.begin(now));
        let now = now + SECOND;
        answer(&idle, now);
        let next = connections.try_place(now).unwrap();
        assert!(is_closed(&half) && !is_closed(&idle) && !is_closed(&served));
        assert!(next.progress.begin(now));
        let last = connections.try_place(now).unwrap();
        assert!(is_closed(&idle) && !is_closed(&served) && !is_closed(&next));
        assert!(last.progress.begin(now));
        assert!(
            !half.progress.begin(now),
            "a request began on a connection that was closed"
        );
        // All three are being served: the next one waits until one has ended.
        assert!(connections.try_place(now + 60 * SECOND).is_none());
        let waits = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move { connections.place().await }
        });
        drop(served);
        waits.await.unwrap();
    }

    #[test]
    fn a_client_that_owes_a_body_or_does_not_read_gives_way_where_every_head_is_whole() {
        let now = Instant::now();
        let (connections, [owes, unread]) = connections(2, now);
        assert!(owes.progress.begin(now) && unread.progress.begin(now));
        owes.progress.set_owes(true, now);
        unread.progress.blocked(now);
        assert!(
            connections.try_place(now).is_none(),
            "neither has stalled yet"
        );
        let now = now + STALL;
        let third = connections.try_place(now).unwrap();
        assert!(is_closed(&owes) && !is_closed(&unread) && third.progress.begin(now));
        // What it takes counts.
        unread.progress.wrote(1, now);
        assert!(connections.try_place(now).is_none());
        assert!(connections.try_place(now + STALL).is_some() && is_closed(&unread));
    }

    #[test]
    fn clients_that_take_too_long_are_closed() {
        let now = Instant::now();
        let (connections, [head, idle, slow, reads, served]) = connections(9, now);
        for place in [&idle, &slow, &reads, &served] {
            assert!(place.progress.begin(now));
        }
        answer(&idle, now);
        slow.progress.blocked(now);
        reads.progress.blocked(now);
        for second in 1..=10 {
            let now = now + second * SECOND;
            head.progress.read(now);
            slow.progress.wrote(1, now);
            reads.progress.wrote(PROGRESS_BYTES, now);
            reads.progress.blocked(now);
            connections.close_overdue(now);
            assert_eq!(is_closed(&head), second >= 3);
            assert_eq!(
                (is_closed(&idle), is_closed(&slow)),
                (second == 10, second == 10)
            );
        }
        assert!(!is_closed(&reads) && !is_closed(&served));
    }

    #[test]
    fn the_time_for_a_head_begins_with_its_first_byte() {
        let now = Instant::now();
        let (_connections, [place]) = connections(1, now);
        assert!(place.progress.begin(now));
        place.progress.answered();
        // What is not written yet is still being served.
        assert_eq!(place.progress.overdue(&PATIENCE, now + PATIENCE.idle), None);
        place.progress.flushed(now);
        let now = now + 9 * SECOND;
        place.progress.read(now);
        place.progress.read(now + 2 * SECOND);
        assert_eq!(place.progress.overdue(&PATIENCE, now + 2 * SECOND), None);
        assert!(
            place
                .progress
                .overdue(&PATIENCE, now + PATIENCE.head)
                .is_some()
        );
    }
}
