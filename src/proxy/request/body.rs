//! Bodies on their way through: streamed with back-pressure, bounded, watched.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::client_body::ClientUpload;
use super::exchange::Exchange;
use super::timeouts::ExchangeTimeouts;
use crate::proxy::deadline::{Deadline, Millis};
use crate::proxy::error::Error;
use crate::proxy::upstream::held::ChargedBytes;
use crate::proxy::upstream::{self, BodyAborted, UpstreamFault};
use crate::proxy::worker::client::ClientConnection;
use crate::routing::EndpointKey;
use crate::stats::Reason;

/// A body as the client's protocol brings it.
#[derive(Debug)]
pub(crate) enum ClientBody {
    Nothing,
    Http1(ClientUpload),
    Http2(Incoming),
}

/// Why a body breaks off on the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It does not follow the grammar.
    Malformed,
    /// Nothing more comes.
    Gone,
}

impl ClientBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            ClientBody::Nothing => Poll::Ready(None),
            ClientBody::Http1(upload) => upload.poll_frame(cx),
            ClientBody::Http2(incoming) => {
                let polled = Pin::new(incoming).poll_frame(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(|_| BodyError::Gone)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ClientBody::Nothing => true,
            ClientBody::Http1(upload) => upload.is_end_stream(),
            ClientBody::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ClientBody::Nothing => SizeHint::with_exact(0),
            ClientBody::Http1(upload) => upload.size_hint(),
            ClientBody::Http2(incoming) => incoming.size_hint(),
        }
    }
}

/// A request's body.
#[derive(Debug, Default)]
pub(crate) enum RequestBody {
    /// None.
    #[default]
    Empty,
    /// All of it, read beforehand.
    Whole(Bytes),
    /// As it comes from the client.
    Upload(Box<Upload>),
}

/// A body that comes from the client.
#[derive(Debug)]
pub(crate) struct Upload {
    body: ClientBody,
    client: Rc<ClientConnection>,
    /// Bytes that may still come; `None` means without limit.
    left: Option<u64>,
    idle: Duration,
    deadline: Deadline,
    progress: Rc<UploadProgress>,
    /// A piece that was taken and could not be sent.
    held: Option<Frame<Bytes>>,
    /// Whether it is the upstream that is waited for, and the idle limit is running.
    stuck: bool,
}

/// What the two tasks of a request know of its upload.
#[derive(Debug, Default)]
pub(crate) struct UploadProgress {
    fault: Cell<Option<Error>>,
    /// Whether it is the client that is waited for, and the idle limit is running.
    waiting: Cell<bool>,
    moved: Cell<Millis>,
    bytes: Cell<u64>,
    /// Whether all of it has come.
    done: Cell<bool>,
}

impl UploadProgress {
    /// What the client did wrong, if it did.
    pub(crate) fn fault(&self) -> Option<Error> {
        self.fault.get()
    }

    /// Whether all of it has come from the client.
    pub(crate) fn is_done(&self) -> bool {
        self.done.get()
    }

    /// Whether the client is waited for: all that has come of it is with the upstream.
    pub(crate) fn awaits_client(&self) -> bool {
        self.waiting.get()
    }

    /// Bytes that have come so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Since when it has been the upstream's turn: since the body last moved, which is its end once
    /// it is through; and not before `now` while it is the client that is waited for.
    pub(crate) fn upstream_since(&self, now: Millis) -> Millis {
        if self.waiting.get() {
            now
        } else {
            self.moved.get()
        }
    }
}

impl RequestBody {
    /// The body of a request, and what is known of its progress if there is one.
    pub(crate) fn new(
        body: ClientBody,
        client: &Rc<ClientConnection>,
    ) -> (RequestBody, Option<Rc<UploadProgress>>) {
        if body.is_end_stream() {
            return (RequestBody::Empty, None);
        }
        let options = &client.listener.options;
        let progress = Rc::new(UploadProgress::default());
        progress.moved.set(client.worker.deadlines.coarse());
        let upload = Upload {
            body,
            client: Rc::clone(client),
            left: (options.limits.body_bytes > 0).then_some(options.limits.body_bytes),
            idle: options.timeouts.body_idle,
            deadline: client.worker.deadlines.deadline(),
            progress: Rc::clone(&progress),
            held: None,
            stuck: false,
        };
        (RequestBody::Upload(Box::new(upload)), Some(progress))
    }
}

impl RequestBody {
    /// Takes a piece back that could not be sent; it is the next one again.
    pub(crate) fn unread(&mut self, frame: Frame<Bytes>) {
        match self {
            RequestBody::Empty => {}
            RequestBody::Whole(bytes) => *bytes = frame.into_data().unwrap_or_default(),
            RequestBody::Upload(upload) => upload.held = Some(frame),
        }
    }
}

impl Upload {
    fn cut(
        &self,
        reason: Reason,
        detail: &'static str,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        self.progress.fault.set(Some(Error::new(reason, detail)));
        Poll::Ready(Some(Err(BodyAborted)))
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        self.stuck = false;
        if let Some(frame) = self.held.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.body.poll_frame(cx) {
            Poll::Pending => {
                if !self.progress.waiting.replace(true) {
                    self.deadline.set(self.idle);
                }
                ready!(self.deadline.poll(cx));
                self.cut(
                    Reason::BodyTimeout,
                    "the request's body did not come in time",
                )
            }
            Poll::Ready(Some(Ok(frame))) => self.pass(frame),
            Poll::Ready(Some(Err(BodyError::Malformed))) => {
                self.cut(Reason::BadRequest, "the request's body is malformed")
            }
            Poll::Ready(Some(Err(BodyError::Gone))) => {
                self.cut(Reason::ClientAbort, "the client went away")
            }
            Poll::Ready(None) => {
                self.moved();
                self.progress.done.set(true);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.body.is_end_stream()
    }

    /// A deadline that fires after so long.
    pub(crate) fn deadline(&self, after: Duration) -> Deadline {
        let deadline = self.client.worker.deadlines.deadline();
        deadline.set(after);
        deadline
    }

    /// Ready when nobody has taken anything of the body for as long as the client may be silent.
    pub(crate) fn poll_stuck(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.progress.waiting.get() {
            // The client's turn, which is bounded already.
            return Poll::Pending;
        }
        if !std::mem::replace(&mut self.stuck, true) {
            self.client.worker.wake();
            self.deadline.set(self.idle);
        }
        self.deadline.poll(cx)
    }

    fn moved(&self) {
        self.progress.waiting.set(false);
        let now = self.client.worker.deadlines.coarse();
        self.progress.moved.set(now);
        self.client.hear(now);
    }

    fn pass(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        self.moved();
        // A body of known length is not always polled again after its last byte.
        self.progress.done.set(self.body.is_end_stream());
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.progress.bytes.set(self.progress.bytes.get() + bytes);
        match self.left.map(|left| left.checked_sub(bytes)) {
            Some(None) => return self.cut(Reason::BodyTooLarge, "the request's body is too large"),
            left => self.left = left.flatten(),
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        match self.get_mut() {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            RequestBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            RequestBody::Upload(upload) => upload.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Whole(bytes) => bytes.is_empty(),
            RequestBody::Upload(upload) => upload.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            RequestBody::Upload(upload) => upload.body.size_hint(),
        }
    }
}

/// An answer's body.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// An answer of the proxy's own.
    Own(Bytes),
    /// As it comes from the upstream.
    Relay(Box<Relay>),
}

/// A body that comes from an upstream, watched to its end.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Gone once it has been read to its end or has been cut; with it goes the connection that it
    /// comes over.
    pub(crate) body: Option<upstream::Body>,
    pub(crate) endpoint: EndpointKey,
    pub(crate) exchange: Exchange,
    pub(crate) limits: ExchangeTimeouts,
    /// Whether it is the client's turn to take something.
    pub(crate) offered: bool,
    /// Whether it is the client that is waited for, since enough is held for it.
    pub(crate) held: bool,
    /// Whether it has been cut, and who writes it to the client is still to be told.
    pub(crate) cut: bool,
}

impl Relay {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<ChargedBytes>, BodyAborted>>> {
        let held = std::mem::take(&mut self.held);
        if !held {
            self.offer(false);
        }
        let frame = self.poll_next(cx);
        if held && !self.held {
            self.offer(false);
        }
        // The last piece as well: it is through when the body is dropped.
        self.offer(self.held || matches!(frame, Poll::Ready(Some(Ok(_)))));
        frame
    }

    /// Tells the connection whether it is the client's turn to take something of this answer.
    pub(crate) fn offer(&mut self, offered: bool) {
        match (std::mem::replace(&mut self.offered, offered), offered) {
            (false, true) => self.exchange.client.offer(),
            (true, false) => self.exchange.client.take(),
            _ => {}
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<ChargedBytes>, BodyAborted>>> {
        if std::mem::take(&mut self.cut) {
            return Poll::Ready(Some(Err(BodyAborted)));
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        // Before the body, which may always have more for a client that takes it slowly.
        if let Poll::Ready(error) = self.limits.poll_total(cx) {
            return self.cut(&error, cx);
        }
        match body.poll_frame(cx) {
            Poll::Pending if body.is_held() => {
                self.held = true;
                self.limits.waiting = false;
                Poll::Pending
            }
            Poll::Pending => self.poll_idle(cx),
            Poll::Ready(Some(Ok(frame))) => {
                let last = body.is_end_stream();
                self.limits.waiting = false;
                self.exchange
                    .sent(frame.data_ref().map_or(0, ChargedBytes::len));
                if last {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(fault))) => {
                tracing::debug!(%fault, "the upstream's answer broke off");
                let error = self.broken_off(&fault);
                self.cut(&error, cx)
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
        }
    }

    /// Whose fault it is: the answer also ends when the client's upload, still under way, has to be
    /// cut.
    fn broken_off(&self, fault: &UpstreamFault) -> Error {
        let upload = self.exchange.upload.as_ref();
        let reason = if fault.is_nonsense() {
            Reason::UpstreamProtocolError
        } else {
            Reason::Reset
        };
        upload
            .and_then(|upload| upload.fault())
            .unwrap_or(Error::new(reason, "the upstream's answer broke off"))
    }

    fn poll_idle(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<ChargedBytes>, BodyAborted>>> {
        if !std::mem::replace(&mut self.limits.waiting, true) {
            self.limits.idle.set(self.limits.idle_limit);
        }
        ready!(self.limits.idle.poll(cx));
        self.cut(
            &Error::new(Reason::IdleTimeout, "the upstream's answer stood still"),
            cx,
        )
    }

    /// The answer cannot be completed, and must not look complete: the error makes the server cut
    /// the connection or reset the stream. That throws away what the server has not yet
    /// written, be it the head, so it is given a turn to write that before.
    fn cut(
        &mut self,
        error: &Error,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<ChargedBytes>, BodyAborted>>> {
        self.body = None;
        self.exchange.fail(error);
        self.cut = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn end(&mut self) {
        if let Some(body) = self.body.take() {
            self.exchange.complete();
            if let Some(connection) = body.into_connection() {
                self.exchange.release(self.endpoint, connection);
            }
        }
    }

    /// Whether there is nothing more to come.
    pub(crate) fn is_end_stream(&self) -> bool {
        !self.cut && self.body.as_ref().is_none_or(upstream::Body::is_end_stream)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.offer(false);
        // A body of known length is not polled again after its last byte, and an empty one never.
        if self.is_end_stream() {
            self.end();
        }
    }
}

impl ResponseBody {
    /// Ready when the exchange has taken too long as a whole, while nothing of it is asked for. The
    /// response breaks off.
    pub(crate) fn poll_expired(&mut self, cx: &Context<'_>) -> Poll<()> {
        let ResponseBody::Relay(relay) = self else {
            return Poll::Pending;
        };
        if relay.body.is_none() {
            return Poll::Pending;
        }
        let error = ready!(relay.limits.poll_total(cx));
        relay.body = None;
        relay.exchange.fail(&error);
        Poll::Ready(())
    }
}

impl Body for ResponseBody {
    type Data = ChargedBytes;
    type Error = BodyAborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<ChargedBytes>, BodyAborted>>> {
        match self.get_mut() {
            ResponseBody::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            ResponseBody::Own(bytes) => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes).into()))))
            }
            ResponseBody::Relay(relay) => relay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Own(bytes) => bytes.is_empty(),
            ResponseBody::Relay(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            ResponseBody::Relay(relay) => match &relay.body {
                Some(body) => body.size_hint(),
                None if relay.cut => SizeHint::default(),
                None => SizeHint::with_exact(0),
            },
        }
    }
}
