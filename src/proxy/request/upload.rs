//! The body of a request: streamed with back-pressure, bounded, watched.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::client_body::{BodyError, ClientBody};
use crate::proxy::deadline::{Deadline, Millis};
use crate::proxy::error::Error;
use crate::proxy::upstream::{BodyAborted, OutboundBody};
use crate::proxy::worker::client::ClientConnection;
use crate::stats::Reason;

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

impl OutboundBody for RequestBody {
    fn is_none(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }

    fn is_streamed(&self) -> bool {
        matches!(self, RequestBody::Upload(_))
    }

    fn unread(&mut self, frame: Frame<Bytes>) {
        match self {
            RequestBody::Empty => {}
            RequestBody::Whole(bytes) => *bytes = frame.into_data().unwrap_or_default(),
            RequestBody::Upload(upload) => upload.held = Some(frame),
        }
    }

    fn deadline(&self, after: Duration) -> Option<Deadline> {
        match self {
            RequestBody::Upload(upload) => Some(upload.deadline(after)),
            RequestBody::Empty | RequestBody::Whole(_) => None,
        }
    }

    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            RequestBody::Empty | RequestBody::Whole(_) => Poll::Ready(()),
            RequestBody::Upload(upload) => upload.poll_stuck(cx),
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
            Poll::Ready(Some(Err(BodyError::TrailersTooLarge))) => self.cut(
                Reason::HeadersTooLarge,
                "the trailers of the requests under way are too large",
            ),
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
    fn deadline(&self, after: Duration) -> Deadline {
        let deadline = self.client.worker.deadlines.deadline();
        deadline.set(after);
        deadline
    }

    /// Ready when nobody has taken anything of the body for as long as the client may be silent.
    fn poll_stuck(&mut self, cx: &Context<'_>) -> Poll<()> {
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
