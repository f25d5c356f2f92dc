//! The socket of an HTTP/1.1 connection, and what has been read from it and not been used.
//!
//! The connection's task and the body of the request at hand share it, and never read at the same
//! time: while a body is being read, whoever holds it reads; before and after, the task does. Bytes
//! are read into memory that all connections of the worker share, so that an idle connection holds
//! none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use super::end::ConnectionEnd;
use crate::net::Stream;
use crate::proxy::downstream::half_close::ResetWatch;
use crate::proxy::http1::OutputSegment;
use crate::proxy::http1::chunked::{Chunked, ChunkedPiece};
use crate::proxy::http1::request::{BodyLength, RequestHead, RequestHeadReader};
use crate::proxy::request::client_body::{BodyError, BodyLink, ClientBody, ClientUpload};
use crate::proxy::upstream::BLOCK;
use crate::proxy::worker::client::ClientConnection;

/// The client's preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much of a body that nobody wants is read, so that the connection can go on.
const DRAINED_MAX: usize = 64 * 1024;
/// How much is read at once of a head, and of what comes with it.
const HEAD_READ: usize = 16 * 1024;
/// How much is read of what a client sends before it has its response.
const AHEAD_MAX: usize = 8 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Rc<ClientConnection>,
    stream: RefCell<Stream>,
    input: RefCell<Input>,
    /// Interim responses that are being written.
    interims: RefCell<OutputSegment<Bytes>>,
    /// Looks for a reset once the client has half closed the connection.
    watch: RefCell<Option<ResetWatch>>,
}

#[derive(Debug)]
struct Input {
    /// What has been read and not been used.
    buffer: BytesMut,
    /// How much of it has been looked at for a head, which was not whole.
    looked: usize,
    body: Remaining,
    /// Whether somebody holds the body, and may read it.
    held: bool,
    /// Whether the connection's task waits for the end of the body.
    awaited: bool,
    /// Whether the client sends nothing more, and waits for the response.
    half_closed: bool,
}

/// What is still to come of the body of the request at hand.
#[derive(Debug)]
enum Remaining {
    Length(u64),
    Chunked(Box<Chunked>),
    /// It does not follow the grammar, or has broken off.
    Broken,
}

impl Remaining {
    const NOTHING: Remaining = Remaining::Length(0);

    fn is_over(&self) -> bool {
        match self {
            Remaining::Length(left) => *left == 0,
            Remaining::Chunked(chunked) => chunked.is_done(),
            Remaining::Broken => false,
        }
    }
}

impl Input {
    /// The next piece of the body, as far as it has been read.
    fn piece(&mut self) -> Result<ChunkedPiece, BodyError> {
        match &mut self.body {
            Remaining::Length(0) => Ok(ChunkedPiece::End),
            Remaining::Length(_) if self.buffer.is_empty() => Ok(ChunkedPiece::More),
            Remaining::Length(left) => {
                let here = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(self.buffer.len());
                *left -= here as u64;
                Ok(ChunkedPiece::Data(self.buffer.split_to(here).freeze()))
            }
            Remaining::Chunked(chunked) => match chunked.next(&mut self.buffer) {
                Ok(piece) => {
                    chunked.look_ahead(&mut self.buffer);
                    Ok(piece)
                }
                Err(_) => {
                    self.body = Remaining::Broken;
                    Err(BodyError::Malformed)
                }
            },
            Remaining::Broken => Err(BodyError::Gone),
        }
    }
}

impl Link {
    pub(super) fn new(client: Rc<ClientConnection>, stream: Stream) -> Rc<Link> {
        Rc::new(Link {
            client,
            stream: RefCell::new(stream),
            input: RefCell::new(Input {
                buffer: BytesMut::new(),
                looked: 0,
                body: Remaining::NOTHING,
                held: false,
                awaited: false,
                half_closed: false,
            }),
            interims: RefCell::new(OutputSegment::new(Vec::new())),
            watch: RefCell::default(),
        })
    }

    /// The socket, and what has been read from it: for another protocol, which begins here.
    pub(super) fn into_parts(self: Rc<Self>) -> Option<(Stream, BytesMut)> {
        let link = Rc::into_inner(self)?;
        Some((link.stream.into_inner(), link.input.into_inner().buffer))
    }

    /// Reads once into what all connections share.
    fn poll_read(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read_part(BLOCK, 0, cx)
    }

    /// Reads at most `max` bytes; pieces of up to `copied` take no more memory than they are long.
    fn poll_read_part(
        &self,
        max: usize,
        copied: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let buffer = &mut self.input.borrow_mut().buffer;
        if buffer.is_empty() {
            // Not even an empty part of the shared memory is held while nothing comes.
            *buffer = BytesMut::new();
        }
        let mut stream = self.stream.borrow_mut();
        let buffers = &self.client.worker.buffers;
        let read = ready!(buffers.poll_read(Pin::new(&mut *stream), buffer, max, copied, cx))?;
        Poll::Ready(Ok(read.bytes))
    }

    /// The head of the next request. The connection is `fresh` until its first one.
    pub(super) fn poll_head(
        &self,
        reader: &mut RequestHeadReader,
        fresh: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RequestHead, ConnectionEnd>> {
        self.client.keep_task(cx);
        loop {
            if let Some(end) = self.advance(reader, fresh) {
                self.client.end_head();
                return Poll::Ready(end);
            }
            let input = self.input.borrow();
            let in_head = reader.is_in_head(input.buffer.len());
            if input.half_closed || (!fresh && !in_head && self.client.worker.is_draining()) {
                return Poll::Ready(Err(ConnectionEnd::Closed));
            }
            drop(input);
            if in_head {
                self.client.begin_head();
            }
            // Little is held of what follows a long head.
            let (max, copied) = match in_head {
                true => (AHEAD_MAX, usize::MAX),
                false => (HEAD_READ, 0),
            };
            match self.poll_read_part(max, copied, cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Err(ConnectionEnd::Closed)),
                Poll::Pending => {
                    return self
                        .client
                        .poll_overdue(cx)
                        .map(|overdue| Err(ConnectionEnd::Overdue(overdue)));
                }
            }
        }
    }

    /// Looks whether what has been read is a head, or something else that ends the waiting for one.
    fn advance(
        &self,
        reader: &mut RequestHeadReader,
        fresh: bool,
    ) -> Option<Result<RequestHead, ConnectionEnd>> {
        let Input { buffer, looked, .. } = &mut *self.input.borrow_mut();
        if buffer.len() == *looked {
            return None;
        }
        if fresh && buffer.first() == PREFACE.first() {
            if buffer.starts_with(PREFACE) {
                return Some(Err(ConnectionEnd::Http2));
            }
            if PREFACE.starts_with(buffer) {
                return None;
            }
        }
        match reader.advance(buffer, || self.client.worker.buffers.borrow_fields()) {
            Ok(Some(head)) => {
                if std::mem::take(looked) > 0 {
                    // What follows a head that came in pieces does not hold the memory of that.
                    *buffer = BytesMut::from(&buffer[..]);
                }
                Some(Ok(head))
            }
            Ok(None) => {
                if std::mem::replace(looked, buffer.len()) == 0 {
                    // A part of a head does not hold the whole block that it was read into.
                    *buffer = BytesMut::from(&buffer[..]);
                }
                None
            }
            Err(refusal) => Some(Err(ConnectionEnd::Refused(refusal.into()))),
        }
    }

    /// The body of a request whose head has been read, and whose client waits for a 100 if it
    /// `expects` one.
    pub(super) fn begin_body(self: &Rc<Self>, length: BodyLength, expects: bool) -> ClientBody {
        let mut input = self.input.borrow_mut();
        input.body = match length {
            BodyLength::Nothing => Remaining::NOTHING,
            BodyLength::Exactly(length) => Remaining::Length(length),
            BodyLength::Chunked => Remaining::Chunked(Box::new(Chunked::strict(
                self.client.listener.options.limits.headers,
            ))),
        };
        // Who sends the body without waiting need not be asked for it.
        self.client
            .interims
            .begin(expects && input.buffer.is_empty());
        input.held = length != BodyLength::Nothing;
        let few = !input.held && input.buffer.len() <= AHEAD_MAX;
        self.client.held.hold_input(if few { 0 } else { BLOCK });
        if input.held {
            let link: Rc<Link> = Rc::clone(self);
            ClientBody::Streamed(ClientUpload::new(link))
        } else {
            ClientBody::Nothing
        }
    }

    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let piece = self.input.borrow_mut().piece();
            match piece {
                Ok(ChunkedPiece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(ChunkedPiece::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(ChunkedPiece::End) => return Poll::Ready(None),
                Ok(ChunkedPiece::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            if self.client.interims.ask() {
                self.client.wake_task();
            }
            if !matches!(ready!(self.poll_read(cx)), Ok(1..)) {
                self.input.borrow_mut().body = Remaining::Broken;
                return Poll::Ready(Some(Err(BodyError::Gone)));
            }
        }
    }

    /// Whether the connection can carry another request as far as this one's body is concerned: it
    /// has been read, or is being read by whoever holds it. The little that is left of one that
    /// nobody wants is read here.
    pub(super) fn settle(&self, cx: &mut Context<'_>) -> bool {
        let mut read = 0;
        loop {
            let mut input = self.input.borrow_mut();
            if input.body.is_over() || input.held {
                return !matches!(input.body, Remaining::Broken);
            }
            if self.client.interims.is_awaited() || read > DRAINED_MAX {
                return false;
            }
            let piece = input.piece();
            drop(input);
            match piece {
                Ok(ChunkedPiece::More) => match self.poll_read(cx) {
                    Poll::Ready(Ok(bytes @ 1..)) => read += bytes,
                    _ => return false,
                },
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Ready when nobody reads the body of the request at hand any more; tells whether it has been
    /// read to its end.
    pub(super) fn poll_body_end(&self, cx: &Context<'_>) -> Poll<bool> {
        self.client.keep_task(cx);
        let mut input = self.input.borrow_mut();
        let whole = input.body.is_over();
        input.awaited = !whole && input.held && !matches!(input.body, Remaining::Broken);
        if input.awaited {
            Poll::Pending
        } else {
            Poll::Ready(whole)
        }
    }

    /// Whether the client has gone, while it waits for its response. What it sends meanwhile is
    /// kept for later.
    pub(super) fn is_gone(&self, cx: &mut Context<'_>) -> bool {
        if self.client.is_reset() {
            return true;
        }
        let input = self.input.borrow();
        if !input.body.is_over() || input.half_closed || !input.buffer.is_empty() {
            return false;
        }
        drop(input);
        match self.poll_read_part(AHEAD_MAX, AHEAD_MAX, cx) {
            Poll::Pending | Poll::Ready(Ok(1..)) => false,
            Poll::Ready(Ok(0)) if self.client.is_half_close() => {
                self.input.borrow_mut().half_closed = true;
                *self.watch.borrow_mut() = ResetWatch::new(&self.stream.borrow(), &self.client);
                false
            }
            Poll::Ready(_) => true,
        }
    }

    /// Writes interim responses, as far as there are any.
    pub(super) fn write_interims(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut segment = self.interims.borrow_mut();
        loop {
            while !segment.is_written() {
                match self.poll_write(&mut segment, cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Err(error),
                    // What follows waits in its own bound while the client takes nothing.
                    Poll::Pending => return Ok(()),
                }
            }
            segment.clear();
            self.client.interims.take(&mut segment.before);
            if segment.is_written() {
                return Ok(());
            }
        }
    }

    /// Puts what is left of interim responses before a response that is written to `out`.
    pub(super) fn take_interims(&self, out: &mut Vec<u8>) {
        let segment = std::mem::replace(
            &mut *self.interims.borrow_mut(),
            OutputSegment::new(Vec::new()),
        );
        out.extend_from_slice(segment.rest());
        self.client.interims.take(out);
    }

    /// Writes once.
    pub(super) fn poll_write<D: bytes::Buf + Default>(
        &self,
        segment: &mut OutputSegment<D>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = self.stream.borrow_mut();
        let written = segment.poll_write(Pin::new(&mut *stream), cx);
        self.client.note_write(written.map_ok(|_| ()))
    }

    /// Whether something has come that nobody has read. A socket that is closed with such is reset,
    /// and the client may lose what was written to it.
    pub(super) fn has_unread(&self) -> bool {
        let input = self.input.borrow();
        !input.buffer.is_empty() || self.stream.borrow().has_unread()
    }

    /// Closes the socket so that the client sees that something is missing.
    pub(super) fn abort(&self) {
        // Where the operating system cannot, the end of the connection has to do.
        let _ = self.stream.borrow().set_zero_linger();
    }
}

impl BodyLink for Link {
    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Link::poll_body(self, cx)
    }

    fn has_ended(&self) -> bool {
        // It has been let go of by then.
        false
    }

    fn is_released(&self) -> bool {
        self.input.borrow().body.is_over()
    }

    fn remaining(&self) -> SizeHint {
        match self.input.borrow().body {
            Remaining::Length(left) => SizeHint::with_exact(left),
            Remaining::Chunked(_) | Remaining::Broken => SizeHint::default(),
        }
    }

    fn let_go(&self) {
        let mut input = self.input.borrow_mut();
        input.held = false;
        if input.awaited {
            self.client.wake_task();
        }
    }
}
