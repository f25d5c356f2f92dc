//! The bodies of the requests of an HTTP/2 connection, on their way in.
//!
//! `h2` gives out each DATA frame as a part of the block of memory that it was read into, so a
//! frame of one byte can keep a block of kilobytes from being freed. Therefore the connection's
//! task takes the frames at once, whoever waits for them, and copies short ones together. The
//! client's windows are opened again only when the next piece is asked for, which is when the last
//! one is with the upstream: so the window of the connection bounds what is held.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request};
use http_body::{Frame, SizeHint};

use crate::proxy::request::client_body::{BodyError, BodyLink, ClientBody, ClientUpload};
use crate::proxy::upstream::held::{Held, HeldHead};

/// Pieces that are shorter are copied together.
const COPIED_MAX: usize = 8 * 1024;
/// The most bytes of pieces that were copied together.
const GATHERED_MAX: usize = 8 * 1024;
/// Room that is added at once for short pieces.
const GROWTH_MAX: usize = 1024;

/// The bodies that are under way.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    open: Vec<Weak<Incoming>>,
}

/// A body that is under way. The task of its stream holds it as long as the stream is open, since
/// what comes of it has to be taken from `h2` also when nobody wants it any more.
#[derive(Debug)]
pub(super) struct Incoming {
    held: Rc<Held>,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    stream: RecvStream,
    pieces: VecDeque<Bytes>,
    /// Short pieces, behind the others.
    gathered: Vec<u8>,
    /// Bytes that were given out last, and may still be on their way to the upstream.
    given: usize,
    /// Bytes that are still to be given out, if the client has said how many there are.
    left: Option<u64>,
    end: End,
    /// Who waits for the next piece.
    waiting: Option<Waker>,
    /// Whether nobody wants the rest.
    abandoned: bool,
}

/// What follows the pieces that have come.
#[derive(Debug)]
enum End {
    /// More of them.
    Open,
    Trailers(
        HeaderMap,
        #[expect(dead_code, reason = "counted until it is dropped")] HeldHead,
    ),
    Whole,
    Broken(BodyError),
}

impl Uploads {
    /// Splits off the body of a request that has just been accepted; `None` if it has none.
    pub(super) fn begin(
        &mut self,
        held: &Rc<Held>,
        request: Request<RecvStream>,
    ) -> (Request<ClientBody>, Option<Rc<Incoming>>) {
        let (head, stream) = request.into_parts();
        if stream.is_end_stream() {
            return (Request::from_parts(head, ClientBody::Nothing), None);
        }
        let incoming = Rc::new(Incoming {
            held: Rc::clone(held),
            state: RefCell::new(State {
                stream,
                pieces: VecDeque::new(),
                gathered: Vec::new(),
                given: 0,
                left: content_length(&head.headers),
                end: End::Open,
                waiting: None,
                abandoned: false,
            }),
        });
        self.open.push(Rc::downgrade(&incoming));
        let link: Rc<Incoming> = Rc::clone(&incoming);
        let body = ClientBody::Streamed(ClientUpload::new(link));
        (Request::from_parts(head, body), Some(incoming))
    }

    /// Takes what has come of all bodies.
    pub(super) fn take(&mut self) {
        self.open.retain(|incoming| {
            let incoming = incoming.upgrade();
            incoming.is_some_and(|incoming| incoming.take())
        });
    }
}

/// How long a body is, where its client says that.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Incoming {
    /// Takes what has come; tells whether there is more to come.
    fn take(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let waiting = state.waiting.clone();
        let waker = waiting.as_ref().unwrap_or(Waker::noop());
        state.take(&self.held, &mut Context::from_waker(waker));
        matches!(state.end, End::Open)
    }
}

impl State {
    fn take(&mut self, held: &Rc<Held>, cx: &mut Context<'_>) {
        while matches!(self.end, End::Open) {
            match self.stream.poll_data(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(data))) => self.keep(held, data),
                Poll::Ready(Some(Err(error))) => self.end = End::of(&error),
                Poll::Ready(None) => match self.stream.poll_trailers(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(trailers)) => self.end = self.trailers(held, trailers),
                    Poll::Ready(Err(error)) => self.end = End::of(&error),
                },
            }
        }
    }

    fn keep(&mut self, held: &Held, data: Bytes) {
        let bytes = data.len();
        if self.abandoned {
            self.release(bytes);
            return;
        }
        held.keep_upload(bytes);
        if bytes >= COPIED_MAX && !held.is_upload_large() {
            self.seal();
            self.pieces.push_back(data);
            return;
        }
        if self.gathered.len() + bytes > GATHERED_MAX {
            self.seal();
        }
        if self.gathered.capacity() - self.gathered.len() < bytes {
            let growth = self.gathered.len().min(GROWTH_MAX);
            self.gathered.reserve_exact(bytes.max(growth));
        }
        self.gathered.extend_from_slice(&data);
    }

    /// Makes one piece of the short ones.
    fn seal(&mut self) {
        if !self.gathered.is_empty() {
            self.pieces
                .push_back(std::mem::take(&mut self.gathered).into());
        }
    }

    fn trailers(&self, held: &Rc<Held>, trailers: Option<HeaderMap>) -> End {
        match trailers {
            None => End::Whole,
            Some(_) if self.abandoned => End::Whole,
            Some(mut trailers) => match held.trailers(&mut trailers) {
                Some(counted) => End::Trailers(trailers, counted),
                None => End::Broken(BodyError::TrailersTooLarge),
            },
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.seal();
        }
        self.pieces.pop_front()
    }

    /// Lets the client send so many bytes more.
    fn release(&mut self, bytes: usize) {
        // A stream that is over has nothing to release.
        let _ = self.stream.flow_control().release_capacity(bytes);
    }

    /// What was given out last is with the upstream.
    fn release_given(&mut self, held: &Held) {
        let given = std::mem::take(&mut self.given);
        if given > 0 {
            held.release_upload(given);
            self.release(given);
        }
    }

    fn poll_frame(
        &mut self,
        held: &Rc<Held>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.release_given(held);
        let piece = self.next().or_else(|| {
            self.take(held, cx);
            self.next()
        });
        if let Some(piece) = piece {
            self.given = piece.len();
            self.left = self
                .left
                .map(|left| left.saturating_sub(piece.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match std::mem::replace(&mut self.end, End::Whole) {
            End::Open => {
                self.end = End::Open;
                if !self
                    .waiting
                    .as_ref()
                    .is_some_and(|waker| waker.will_wake(cx.waker()))
                {
                    self.waiting = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            End::Trailers(trailers, _) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            End::Whole => Poll::Ready(None),
            End::Broken(error) => {
                self.end = End::Broken(error);
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl End {
    /// What an error of the stream means.
    fn of(error: &h2::Error) -> End {
        match error.reason() {
            // The client has read an early response, and sends no more (RFC 9113 section 8.1).
            Some(h2::Reason::NO_ERROR) => End::Whole,
            _ => End::Broken(BodyError::Gone),
        }
    }
}

impl BodyLink for Incoming {
    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.state.borrow_mut().poll_frame(&self.held, cx)
    }

    fn has_ended(&self) -> bool {
        let state = self.state.borrow();
        let is_over = match state.end {
            End::Open => state.stream.is_end_stream(),
            End::Whole => true,
            End::Trailers(..) | End::Broken(_) => false,
        };
        is_over && state.pieces.is_empty() && state.gathered.is_empty()
    }

    fn is_released(&self) -> bool {
        // What was given out last is held until the next piece is asked for.
        false
    }

    fn remaining(&self) -> SizeHint {
        let left = self.state.borrow().left;
        left.map(SizeHint::with_exact).unwrap_or_default()
    }

    fn let_go(&self) {
        let state = &mut *self.state.borrow_mut();
        state.release_given(&self.held);
        while let Some(piece) = state.next() {
            self.held.release_upload(piece.len());
            state.release(piece.len());
        }
        state.abandoned = true;
        state.waiting = None;
        if let End::Trailers(..) = state.end {
            state.end = End::Whole;
        }
    }
}
