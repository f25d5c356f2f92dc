//! The client's side of a connection: its socket, which passes every byte through the
//! [gate](super::gate), and what the connection's task, its requests and the socket tell one
//! another.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::deadline::{Deadline, Millis};
use super::gate::{Gate, Refusal};
use super::gate_frames::Frames;
use super::half_close::{self, ResetWatch};
use super::held::{Account, Held};
use super::hop::Origin;
use super::listener::Listener;
use super::target::RawTarget;
use super::worker::Worker;

/// What is known of one client connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<Listener>,
    pub(crate) peer: SocketAddr,
    /// What each request of the connection tells its upstream.
    pub(crate) origin: Origin,
    /// Wakes the connection's task to look for what is overdue.
    pub(crate) deadline: Deadline,
    /// What is held in memory for it.
    pub(crate) held: Rc<Held>,
    /// For the answers of HTTP/1.1.
    account: Rc<Account>,
    gate: RefCell<Gate>,
    /// For HTTP/2 alone.
    frames: RefCell<Frames>,
    /// What has been read, and passes in another turn.
    rest: RefCell<Vec<u8>>,
    refusal: Cell<Option<Refusal>>,
    requests: Cell<u32>,
    /// Requests that have been handed over by the parser, and those that are over.
    begun: Cell<u64>,
    over: Cell<u64>,
    /// When something of the request at hand was last there.
    heard: Cell<Millis>,
    /// What is known of the end of what the client sends.
    input: RefCell<Input>,
    /// Since when the client has been silent between requests, or been sending one head.
    since: Cell<Millis>,
    /// Since when the client has not taken what is written to it.
    blocked: Cell<Option<Millis>>,
    write_limit: Cell<Duration>,
    /// Answers of which a piece has been given out, and no other been asked for.
    untaken: Cell<u32>,
    /// When the client last made room for a piece of any answer.
    taken: Cell<Millis>,
}

/// What is known of the end of what the client sends.
#[derive(Debug, Default)]
struct Input {
    /// It has ended, and what was asked for is still to be answered.
    half_closed: bool,
    /// The client has reset the connection since.
    reset: bool,
    /// Who reads.
    reader: Option<Waker>,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// A head that takes too long: 408.
    Head,
    /// Nothing between two requests for too long.
    Idle,
    /// An answer that the client does not take.
    Write,
}

impl Client {
    pub(crate) fn new(worker: Rc<Worker>, listener: Rc<Listener>, peer: SocketAddr) -> Client {
        let deadline = worker.deadlines.deadline();
        deadline.set(listener.options.timeouts.keep_alive);
        let address = peer.ip().to_canonical();
        let trusted = &listener.options.trusted_proxies;
        let trusted = trusted.iter().any(|net| net.contains(&address));
        let held = Rc::new(Held::default());
        Client {
            account: Account::http1(&held),
            held,
            peer,
            origin: Origin::new(address, listener.port, trusted),
            gate: RefCell::new(Gate::new(listener.head_limits())),
            frames: RefCell::new(Frames::new()),
            rest: RefCell::default(),
            refusal: Cell::new(None),
            requests: Cell::new(0),
            begun: Cell::new(0),
            over: Cell::new(0),
            heard: Cell::new(0),
            input: RefCell::default(),
            since: Cell::new(worker.deadlines.coarse()),
            blocked: Cell::new(None),
            write_limit: Cell::new(listener.options.timeouts.keep_alive),
            untaken: Cell::new(0),
            taken: Cell::new(worker.deadlines.coarse()),
            deadline,
            listener,
            worker,
        }
    }

    /// Who pays for the memory of an answer in this version of HTTP.
    pub(crate) fn account(&self, version: http::Version) -> Rc<Account> {
        if version == http::Version::HTTP_2 {
            Account::http2(&self.held)
        } else {
            Rc::clone(&self.account)
        }
    }

    /// A request of this connection begins.
    pub(crate) fn enter(&self, now: Instant) {
        self.requests.set(self.requests.get() + 1);
        self.heard.set(self.worker.deadlines.at(now));
    }

    /// Something of a request's body has come through.
    pub(crate) fn hear(&self, now: Millis) {
        self.heard.set(self.heard.get().max(now));
    }

    /// Gives the next request of the connection its target as it was sent.
    pub(crate) fn restore<B>(&self, request: &mut Request<B>) {
        self.begun.set(self.begun.get() + 1);
        if let Some(target) = self.gate.borrow_mut().target(self.begun.get())
            && let Some(target) = RawTarget::new(&target)
        {
            request.extensions_mut().insert(target);
        }
    }

    /// A request of this connection has been answered to its end, or given up.
    pub(crate) fn leave(&self) {
        let left = self.requests.get().saturating_sub(1);
        self.requests.set(left);
        self.over.set(self.over.get() + 1);
        self.wake_reader();
        if left == 0 {
            self.since.set(self.worker.deadlines.coarse());
            self.deadline.set(self.listener.options.timeouts.keep_alive);
        }
    }

    /// How long a client may leave an answer untaken: the service's limit between two pieces of a
    /// body.
    pub(crate) fn limit_writes(&self, limit: Duration) {
        self.write_limit.set(limit);
    }

    /// It is the client's turn to take a piece of an answer. A socket that takes nothing is seen as
    /// such; a client of HTTP/2 may also leave a stream without window.
    pub(crate) fn offer(&self) {
        if self.untaken.replace(self.untaken.get() + 1) == 0 {
            self.taken.set(self.worker.deadlines.coarse());
        }
    }

    /// It has, or nobody waits for it any more.
    pub(crate) fn take(&self) {
        self.untaken.set(self.untaken.get().saturating_sub(1));
        self.taken.set(self.worker.deadlines.coarse());
    }

    /// What the gate refused, once everything before it has been answered.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal
            .get()
            .filter(|_| self.requests.get() == 0 && self.blocked.get().is_none())
    }

    /// What is overdue at `now`; otherwise the deadline is set for the next look.
    pub(crate) fn overdue(&self, now: Millis) -> Option<Overdue> {
        let timeouts = self.listener.options.timeouts;
        let (what, since, limit) = if let Some(blocked) = self.blocked.get() {
            (Overdue::Write, blocked, self.write_limit.get())
        } else if self.untaken.get() > 0 {
            // One answer that moves is enough: a client may well put the others off.
            (Overdue::Write, self.taken.get(), self.write_limit.get())
        } else if self.requests.get() > 0 {
            // Nothing of the connection's own is overdue; look again when something could be.
            self.deadline.set(timeouts.keep_alive.max(timeouts.header));
            return None;
        } else if self.gate.borrow().in_head() {
            (Overdue::Head, self.since.get(), timeouts.header)
        } else {
            (Overdue::Idle, self.since.get(), timeouts.keep_alive)
        };
        if limit.is_zero() {
            self.deadline.set(timeouts.keep_alive.max(timeouts.header));
            return None;
        }
        let due = since.saturating_add(u64::try_from(limit.as_millis()).unwrap_or(Millis::MAX));
        if due <= now {
            return Some(what);
        }
        self.worker.rouse();
        self.deadline.set_at(due);
        None
    }

    /// What the parser reads once the gate is closed. A request whose body was refused half-way has
    /// to learn of it; otherwise there is just nothing more, and the connection's task answers
    /// once the requests before are through.
    fn refused_read(&self) -> Poll<io::Result<()>> {
        if self.gate.borrow().closed_in_body() {
            Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "malformed request body",
            )))
        } else {
            Poll::Pending
        }
    }

    /// Whether the end of what the client sends means that it has nothing more to say, and waits
    /// for its answers. Then it comes with the end of a request; who lets go later has had
    /// enough of waiting. To look at, the two are the same: until something is written to
    /// whoever has gone, nothing comes back.
    fn is_half_close(&self) -> bool {
        let gate = self.gate.borrow();
        if !gate.is_between_messages() || gate.heads() == self.over.get() {
            return false;
        }
        let since = self.worker.deadlines.now().saturating_sub(self.heard.get());
        self.requests.get() == 0 || since <= half_close::WITHIN_MS
    }

    /// What the parser reads when the client sends nothing more: that, as soon as what was asked
    /// for has been answered.
    fn poll_end(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut input = self.input.borrow_mut();
        if input.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.gate.borrow().heads() == self.over.get() {
            return Poll::Ready(Ok(()));
        }
        input.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_half_closed(&self) -> bool {
        self.input.borrow().half_closed
    }

    /// A client that had half closed the connection has gone away for good.
    pub(crate) fn reset(&self) {
        self.input.borrow_mut().reset = true;
        self.wake_reader();
    }

    fn wake_reader(&self) {
        let reader = self.input.borrow_mut().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Lets the gate see what was read; cuts off what it refuses.
    fn inspect(&self, buf: &mut ReadBuf<'_>, before: usize) -> bool {
        let mut gate = self.gate.borrow_mut();
        let was_in_head = gate.in_head();
        if self.requests.get() > 0 {
            self.hear(self.worker.deadlines.now());
        }
        let looked = gate.advance(buf.filled().get(before..).unwrap_or_default());
        if let Some(new) = buf.filled_mut().get_mut(before..) {
            gate.mask(new);
        }
        match looked {
            Ok(()) => {
                if gate.in_head() && !was_in_head {
                    self.worker.rouse();
                    // Most heads come in one piece; only one that does not needs a limit of its
                    // own.
                    self.since.set(self.worker.deadlines.coarse());
                    self.deadline.set(self.listener.options.timeouts.header);
                }
                true
            }
            Err((passed, refusal)) => {
                buf.set_filled(before + passed);
                self.refusal.set(Some(refusal));
                passed > 0
            }
        }
    }

    /// The connection's task takes another turn.
    pub(crate) fn turn(&self) {
        self.frames.borrow_mut().turn();
    }

    /// How many bytes may be read at once of what the client sends now, where that is bounded: up
    /// to three such pieces of a body are held while the upstream takes none.
    fn read_max(&self) -> Option<usize> {
        self.gate.borrow().in_body().then_some(UPLOAD_MAX)
    }

    /// Keeps what does not pass in this turn, of what was read. Tells whether anything passes.
    fn pass(&self, buf: &mut ReadBuf<'_>, before: usize) -> bool {
        let new = buf.filled().get(before..).unwrap_or_default();
        let passed = self.frames.borrow_mut().pass(new);
        if let Some(held_back @ [_, ..]) = new.get(passed..) {
            self.rest.borrow_mut().extend_from_slice(held_back);
            buf.set_filled(before + passed);
        }
        passed > 0
    }

    /// What an earlier turn has held back, as far as it passes in this one; `None` when there is
    /// nothing.
    fn poll_rest(&self, buf: &mut ReadBuf<'_>, cx: &Context<'_>) -> Option<Poll<io::Result<()>>> {
        let mut rest = self.rest.borrow_mut();
        if rest.is_empty() {
            return None;
        }
        let next = rest
            .get(..buf.remaining().min(rest.len()))
            .unwrap_or_default();
        let passed = self.frames.borrow_mut().pass(next);
        if passed == 0 {
            cx.waker().wake_by_ref();
            return Some(Poll::Pending);
        }
        buf.put_slice(next.get(..passed).unwrap_or_default());
        rest.drain(..passed);
        Some(Poll::Ready(Ok(())))
    }

    /// Whether the client has sent something that is not passed on.
    pub(crate) fn is_refused(&self) -> bool {
        self.refusal.get().is_some()
    }

    fn note_write<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &written {
            Poll::Pending if self.blocked.get().is_none() => {
                self.worker.rouse();
                self.blocked.set(Some(self.worker.deadlines.coarse()));
                self.deadline.set(self.write_limit.get());
            }
            Poll::Ready(_) if self.blocked.get().is_some() => self.blocked.set(None),
            _ => {}
        }
        written
    }
}

/// The most bytes of a body of HTTP/1.1 that are read at once.
const UPLOAD_MAX: usize = 16 * 1024;

/// Pieces that are together no longer than this are written as one: to copy so little takes less
/// than the kernel takes to gather it.
const GATHERED_MAX: usize = 4 * 1024;

/// The socket of a client, as the parser sees it.
#[derive(Debug)]
pub(crate) struct ClientStream {
    stream: Rc<RefCell<TcpStream>>,
    client: Rc<Client>,
    /// Looks for a reset once the client has half closed the connection.
    watch: Option<ResetWatch>,
}

impl ClientStream {
    pub(crate) fn new(stream: Rc<RefCell<TcpStream>>, client: Rc<Client>) -> ClientStream {
        ClientStream {
            stream,
            client,
            watch: None,
        }
    }
}

impl ClientStream {
    /// Looks at what has just been read, and passes it on if it may pass now.
    fn pass_on(
        &self,
        buf: &mut ReadBuf<'_>,
        before: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.client.inspect(buf, before) {
            return self.client.refused_read();
        }
        if self.client.pass(buf, before) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads no more than `max` bytes.
    fn poll_read_some(
        &self,
        max: usize,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let max = max.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(max));
        let read = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut part);
        let bytes = part.filled().len();
        buf.advance(bytes);
        read
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.client.is_refused() {
            return self.client.refused_read();
        }
        if let Some(read) = self.client.poll_rest(buf, cx) {
            return read;
        }
        if self.client.is_half_closed() {
            return self.client.poll_end(cx);
        }
        let before = buf.filled().len();
        let read = match self.client.read_max() {
            None => Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buf),
            Some(max) => self.poll_read_some(max, cx, buf),
        };
        if !matches!(read, Poll::Ready(Ok(()))) {
            return read;
        }
        if buf.filled().len() > before {
            return self.pass_on(buf, before, cx);
        }
        if buf.remaining() == 0 || !self.client.is_half_close() {
            return read;
        }
        self.client.input.borrow_mut().half_closed = true;
        let watch = ResetWatch::new(&self.stream.borrow(), &self.client);
        self.watch = watch;
        self.client.poll_end(cx)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, buf);
        self.client.note_write(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let stream = Pin::new(&mut *stream);
        let written = if bufs.iter().map(|buf| buf.len()).sum::<usize>() > GATHERED_MAX {
            stream.poll_write_vectored(cx, bufs)
        } else {
            let buffers = &self.client.worker.buffers;
            let mut whole = buffers.borrow();
            bufs.iter().for_each(|buf| whole.extend_from_slice(buf));
            let written = stream.poll_write(cx, &whole);
            buffers.give_back(whole);
            written
        };
        self.client.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.client.held.flushed();
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}
