//! What is held in memory for one client, and its bounds.
//!
//! A client that asks for much and reads nothing must not be able to fill the memory: while the
//! bound is reached, nothing more is read from upstreams. The bounds hold by construction, since
//! every block of memory that an answer is read into is charged to its connection until the parser
//! has written the last byte of it.
//!
//! For HTTP/1.1 that is [`HTTP1_MAX`], of which 32 KiB are kept for a request that has a body, or
//! others behind it. For HTTP/2 all answers share [`POOL_MAX`], and each may hold [`SHARE`] beyond
//! that, so that answers which the client leaves alone cannot keep the others from moving. The
//! heads of requests are bounded by [`HEADS_MAX`], those of answers by [`QUEUED_MAX`] once they
//! wait to be written. While one is read, the pool pays for it; one at a time may exceed the pool,
//! so that heads of which a part has come cannot keep one another from the rest.
//!
//! What a connection of HTTP/2 holds, at most:
//!
//! | what | KiB |
//! |---|---|
//! | heads of requests, with trailers, and bodies kept to be sent twice: [`HEADS_MAX`] | 384 |
//! | bodies of requests: the window of the connection | 256 |
//! | memory that pieces of those share with other frames: [`UPLOADS_COPIED`] | 32 |
//! | answers: [`POOL_MAX`], and [`SHARE`] for each of 128 streams | 256 |
//! | the head of an answer that exceeds the pool | 72 |
//! | heads and trailers of answers that wait to be written: [`QUEUED_MAX`], or one head | 96 |
//! | 128 streams: the task, the socket and the state in `h2`, 5 KiB each | 640 |
//! | a list of fields of which a part has come: 32 KiB by its length, in a map | 224 |
//! | buffers and tables of `h2`, and what was read beyond a turn | 56 |
//! | **sum** | **2016** |
//!
//! A short head of an answer that waits to be written takes the place of what its stream's task
//! held before.

mod counted;
mod heads;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

pub(crate) use self::counted::{QueuedHead, RepeatedBody};
use self::heads::{HEADS_MAX, memory};
pub(crate) use self::heads::{HeldHead, detach, recycle};
use super::buffers::BLOCK;

/// Bytes of answers that are held for a connection of HTTP/1.1.
const HTTP1_MAX: usize = 64 * 1024;
/// Bytes of answers that all streams of an HTTP/2 connection share.
const POOL_MAX: usize = 128 * 1024;
/// Bytes of its answer that a stream may hold whatever the others hold.
const SHARE: usize = 1024;
/// Bytes of its answer that are read at first where the pool is exhausted: most heads are shorter.
const FIRST_READ: usize = 1024;
/// Bytes of the pool that are left to bodies and whole heads.
const KEPT_FROM_PARTS: usize = POOL_MAX / 2;
/// Bytes that one stream may take of the pool.
const STREAM_MAX: usize = 96 * 1024;
/// Bytes of answers' heads that wait to be written to an HTTP/2 connection.
const QUEUED_MAX: usize = 64 * 1024;
/// Bytes of an answer's head that pass uncounted, since there are no more of them than streams.
const SMALL_HEAD: usize = 2 * 1024;
/// Pieces of answers of HTTP/2 that are copied rather than charged with a whole block.
const COPIED_MAX: usize = 4 * 1024;
/// Bytes of requests' bodies that are kept for an HTTP/2 connection in order to be sent twice.
const REPEATED_MAX: usize = 128 * 1024;
/// Bytes of the bodies of requests of HTTP/2 beyond which all of them are copied.
const UPLOADS_COPIED: usize = 32 * 1024;
/// What a piece of an answer takes in an HTTP/2 connection beside its data.
const PIECE: usize = 512;
/// What a header field takes beside its text.
const FIELD: usize = 112;

/// What is held for one connection.
#[derive(Debug, Default)]
pub(crate) struct Held {
    answers: Cell<usize>,
    heads: Cell<usize>,
    /// Bytes of what has been read of requests of HTTP/1.1, and may be held beside the answer.
    input: Cell<usize>,
    /// Bytes of the bodies of an HTTP/2 connection's requests.
    uploads: Cell<usize>,
    /// Bytes of bodies that are kept in order to be sent twice.
    repeated: Arc<AtomicUsize>,
    /// Shared with what `h2` holds, which asks for `Send`.
    queued: Arc<AtomicUsize>,
    /// Whether an answer's head exceeds the pool.
    exceeded: Cell<bool>,
    /// Answers that wait until there is room for their heads.
    waiting: RefCell<Vec<Waker>>,
}

/// What is held of the answers of HTTP/1.1, which come one after the other, or of one answer of
/// HTTP/2.
#[derive(Debug)]
pub(crate) struct Account {
    held: Rc<Held>,
    streams: bool,
    own: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

/// Memory that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    account: Rc<Account>,
    bytes: usize,
}

impl Held {
    /// Counts a body of so many bytes that is kept in order to be sent twice, if there is room for
    /// it.
    pub(crate) fn repeat(&self, bytes: usize) -> Option<RepeatedBody> {
        let repeated = self.repeated.load(Ordering::Relaxed) + bytes;
        if repeated > REPEATED_MAX || self.heads.get() + repeated > HEADS_MAX {
            return None;
        }
        Some(RepeatedBody::new(&self.repeated, bytes))
    }

    /// So many bytes of the body of a request of HTTP/2 have come, within the window of the
    /// connection.
    pub(crate) fn keep_upload(&self, bytes: usize) {
        self.uploads.set(self.uploads.get() + bytes);
    }

    /// So many of them are with the upstream, or nobody wants them.
    pub(crate) fn release_upload(&self, bytes: usize) {
        self.uploads.set(self.uploads.get().saturating_sub(bytes));
    }

    /// So many bytes of a request of HTTP/1.1 may be held beside the answer to it.
    pub(crate) fn hold_input(&self, bytes: usize) {
        self.input.set(bytes);
    }

    /// Whether so much of requests' bodies is held that it should take no more memory than it is
    /// long.
    pub(crate) fn is_upload_large(&self) -> bool {
        self.uploads.get() > UPLOADS_COPIED
    }

    /// Whether what is held should take no more memory than it is long.
    pub(crate) fn is_scarce(&self) -> bool {
        self.answers.get() + BLOCK > POOL_MAX
    }

    /// How much may be read at once of an answer whose head has not come.
    pub(crate) fn first_read(&self) -> usize {
        if self.is_scarce() { FIRST_READ } else { BLOCK }
    }

    /// Waits until there is room for the head of an answer of HTTP/2 among those that wait to be
    /// written, which a large one takes until it is.
    pub(crate) fn poll_queue(
        &self,
        headers: &HeaderMap,
        cx: &Context<'_>,
    ) -> Poll<Option<QueuedHead>> {
        let bytes = fields(headers);
        if bytes <= SMALL_HEAD {
            return Poll::Ready(None);
        }
        let bytes = memory(headers);
        let queued = self.queued.load(Ordering::Relaxed);
        if queued > 0 && queued + bytes > QUEUED_MAX {
            self.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(Some(QueuedHead::new(&self.queued, bytes)))
    }

    /// What could be written has been; there may be room for other heads.
    pub(crate) fn flushed(&self) {
        if self.queued.load(Ordering::Relaxed) < QUEUED_MAX {
            self.wake();
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    fn wake(&self) {
        if !self.waiting.borrow().is_empty() {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// Pays for the head of an answer of HTTP/2 while it is read, and until it is among those that wait
/// to be written.
#[derive(Debug)]
pub(crate) struct HeadCharge {
    account: Rc<Account>,
    charge: Charge,
    /// Whether this is the one that may exceed the pool.
    exceeds: bool,
}

impl HeadCharge {
    pub(crate) fn new(held: &Rc<Held>) -> HeadCharge {
        let account = Account::http2(held);
        HeadCharge {
            charge: account.charge(0),
            account,
            exceeds: false,
        }
    }

    /// Who pays for the whole answer.
    pub(crate) fn account(&self) -> Rc<Account> {
        Rc::clone(&self.account)
    }

    /// How much may be read at once; not ready while the client has to take something before.
    pub(crate) fn poll_room(&mut self, cx: &Context<'_>) -> Poll<usize> {
        let held = &self.account.held;
        if self.charge.bytes == 0 {
            return Poll::Ready(held.first_read());
        }
        let room = self.account.room().saturating_sub(KEPT_FROM_PARTS);
        if room > 0 {
            return Poll::Ready(room);
        }
        if !self.exceeds && held.exceeded.replace(true) {
            held.wait(cx);
            return Poll::Pending;
        }
        self.exceeds = true;
        Poll::Ready(BLOCK)
    }

    /// Charges what has come of a head that is not whole, and takes it out of the memory that
    /// connections share.
    pub(crate) fn hold_part(&mut self, buffer: &mut BytesMut) {
        if self.charge.bytes == 0 {
            *buffer = BytesMut::from(&buffer[..]);
        }
        self.hold(buffer.capacity());
    }

    /// Charges a whole head.
    pub(crate) fn hold_whole(&mut self, headers: &mut HeaderMap) {
        if fields(headers) > SMALL_HEAD {
            detach(headers);
            self.hold(memory(headers));
        }
    }

    fn hold(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.charge.bytes);
        self.charge.merge(self.account.charge(more));
    }
}

impl Drop for HeadCharge {
    fn drop(&mut self) {
        if self.exceeds {
            self.account.held.exceeded.set(false);
            self.account.held.wake();
        }
    }
}

fn fields(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| FIELD + name.as_str().len() + value.len())
        .sum()
}

impl Account {
    /// For the answers of a connection of HTTP/1.1.
    pub(crate) fn http1(held: &Rc<Held>) -> Rc<Account> {
        Account::new(held, false)
    }

    /// For one answer of a connection of HTTP/2.
    pub(crate) fn http2(held: &Rc<Held>) -> Rc<Account> {
        Account::new(held, true)
    }

    fn new(held: &Rc<Held>, streams: bool) -> Rc<Account> {
        Rc::new(Account {
            held: Rc::clone(held),
            streams,
            own: Cell::new(0),
            waker: RefCell::default(),
        })
    }

    /// How many bytes may be held beyond what is; 0 while nothing more is to be read.
    pub(crate) fn room(&self) -> usize {
        let own = self.own.get();
        if !self.streams {
            return HTTP1_MAX.saturating_sub(own + self.held.input.get());
        }
        let pool = POOL_MAX.saturating_sub(self.held.answers.get());
        let room = pool.min(STREAM_MAX.saturating_sub(own));
        if room < SHARE && own == 0 {
            SHARE
        } else {
            room
        }
    }

    /// Whether a piece of so many bytes is better copied than held with the memory that it was read
    /// into.
    pub(crate) fn prefers_copies(&self, bytes: usize) -> bool {
        self.room() < BLOCK || (self.streams && bytes <= COPIED_MAX)
    }

    /// Whether trailers of an answer of HTTP/2, of which this has come, have to wait until those
    /// before are written. A few of them never wait.
    pub(crate) fn waits_to_queue(&self, trailers: &[u8], cx: &Context<'_>) -> bool {
        let bytes = || trailers.len() + FIELD * memchr::memchr_iter(b'\n', trailers).count();
        let full = self.streams && self.held.queued.load(Ordering::Relaxed) >= QUEUED_MAX;
        let waits = full && bytes() > SMALL_HEAD;
        if waits {
            self.held.wait(cx);
        }
        waits
    }

    /// Has the trailers of an answer of HTTP/2 counted until they are written.
    pub(crate) fn queue(&self, trailers: &mut HeaderMap) {
        if self.streams && fields(trailers) > SMALL_HEAD {
            QueuedHead::new(&self.held.queued, memory(trailers)).onto(trailers);
        }
    }

    /// What a piece of an answer takes beside its data.
    pub(crate) fn overhead(&self) -> usize {
        if self.streams { PIECE } else { 0 }
    }

    /// Holds so many bytes.
    pub(crate) fn charge(self: &Rc<Self>, bytes: usize) -> Charge {
        self.own.set(self.own.get() + bytes);
        self.held.answers.set(self.held.answers.get() + bytes);
        Charge {
            account: Rc::clone(self),
            bytes,
        }
    }

    /// Wakes the task once less is held.
    pub(crate) fn wait(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *waker = Some(cx.waker().clone());
        }
    }

    fn release(&self, bytes: usize) {
        self.own.set(self.own.get().saturating_sub(bytes));
        self.held
            .answers
            .set(self.held.answers.get().saturating_sub(bytes));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        self.held.wake();
    }
}

impl Charge {
    /// Splits off what `bytes` of the memory cost, which are let go apart from the rest.
    pub(crate) fn split(&mut self, bytes: usize) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge {
            account: Rc::clone(&self.account),
            bytes,
        }
    }

    /// Takes over what another holds, of the same account.
    pub(crate) fn merge(&mut self, mut other: Charge) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.release(self.bytes);
        }
    }
}

/// A piece of an answer, held until it has been written.
#[derive(Debug, Default)]
pub(crate) struct ChargedBytes {
    data: Bytes,
    _charge: Option<Charge>,
}

impl ChargedBytes {
    pub(crate) fn new(data: Bytes, charge: Option<Charge>) -> ChargedBytes {
        ChargedBytes {
            data,
            _charge: charge,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }
}

impl From<Bytes> for ChargedBytes {
    fn from(data: Bytes) -> ChargedBytes {
        ChargedBytes::new(data, None)
    }
}

impl Buf for ChargedBytes {
    fn remaining(&self) -> usize {
        self.data.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.data
    }

    fn advance(&mut self, bytes: usize) {
        self.data.advance(bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const CONTEXT: Context<'static> = Context::from_waker(Waker::noop());

    #[test]
    fn a_stream_that_holds_nothing_may_always_go_on() {
        let held = Rc::new(Held::default());
        let greedy: Vec<_> = (0..3).map(|_| Account::http2(&held)).collect();
        let charges: Vec<_> = greedy
            .iter()
            .map(|account| account.charge(account.room()))
            .collect();
        assert_eq!(held.answers.get(), POOL_MAX + SHARE);
        let (modest, late) = (Account::http2(&held), Account::http2(&held));
        assert_eq!(modest.room(), SHARE);
        let charge = modest.charge(SHARE);
        assert_eq!((modest.room(), late.room()), (0, SHARE));
        drop(charge);
        assert_eq!(modest.room(), SHARE);
        drop(charges);
        assert_eq!((held.answers.get(), late.room()), (0, STREAM_MAX));
    }

    #[test]
    fn bodies_that_are_kept_to_be_sent_twice_are_bounded_for_the_connection() {
        let held = Held::default();
        let keep = || Some(held.repeat(50_000)?.around(vec![0; 50_000].into()));
        let (first, second) = (keep(), keep());
        assert!(first.is_some() && second.is_some() && keep().is_none());
        let copy = first.clone();
        drop(first);
        assert!(keep().is_none(), "there is a copy of the first");
        drop(copy);
        assert!(keep().is_some());
    }

    #[test]
    fn heads_of_answers_wait_until_those_before_are_written() {
        let held = Held::default();
        let mut headers = HeaderMap::new();
        headers.insert("x", "y".repeat(100_000).parse().unwrap());
        let Poll::Ready(Some(first)) = held.poll_queue(&headers, &CONTEXT) else {
            panic!("there is room for the first");
        };
        first.onto(&mut headers);
        assert!(held.poll_queue(&headers, &CONTEXT).is_pending());
        held.flushed();
        assert!(
            held.poll_queue(&headers, &CONTEXT).is_pending(),
            "it is not written"
        );
        headers.insert("x", "y".repeat(100_000).parse().unwrap());
        assert!(
            std::future::poll_fn(|cx| held.poll_queue(&headers, cx))
                .now_or_never()
                .is_some()
        );
    }

    proptest! {
        /// Whatever streams do, the bound holds, and what has been let go is no longer counted.
        #[test]
        fn a_connection_never_holds_more_than_its_bound(steps in proptest::collection::vec((0_usize..128, 0_usize..70_000, any::<bool>()), 1..400)) {
            let held = Rc::new(Held::default());
            let accounts: Vec<_> = (0..128).map(|_| Account::http2(&held)).collect();
            let mut charges: Vec<Vec<Charge>> = (0..128).map(|_| Vec::new()).collect();
            for (stream, bytes, write) in steps {
                let room = accounts[stream].room();
                if write {
                    charges[stream].pop();
                } else if room > 0 {
                    let mut charge = accounts[stream].charge(bytes.min(room));
                    let part = charge.split(bytes / 2);
                    charges[stream].extend([charge, part]);
                }
                prop_assert!(held.answers.get() <= POOL_MAX + 128 * SHARE);
            }
            drop(charges);
            prop_assert_eq!(held.answers.get(), 0);
        }
    }
}
