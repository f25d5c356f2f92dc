//! The body of a request, as its connection brings it.

use std::fmt::Debug;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Why a body breaks off on the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It does not follow the grammar.
    Malformed,
    /// There is no room for its trailers.
    TrailersTooLarge,
    /// Nothing more comes.
    Gone,
}

/// The connection that a body comes over.
pub(crate) trait BodyLink: Debug {
    /// The next piece; `None` at its end.
    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>;

    /// Whether all of it has been given out.
    fn has_ended(&self) -> bool;

    /// Whether it need not be held any more, although somebody may still hold it.
    fn is_released(&self) -> bool;

    /// How much is still to come, if that is known.
    fn remaining(&self) -> SizeHint;

    /// Nobody reads it any more.
    fn let_go(&self);
}

/// A body as the client's protocol brings it.
#[derive(Debug)]
pub(crate) enum ClientBody {
    Nothing,
    Streamed(ClientUpload),
}

impl ClientBody {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            ClientBody::Nothing => Poll::Ready(None),
            ClientBody::Streamed(upload) => upload.poll_frame(cx),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            ClientBody::Nothing => true,
            ClientBody::Streamed(upload) => upload.is_end_stream(),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            ClientBody::Nothing => SizeHint::with_exact(0),
            ClientBody::Streamed(upload) => upload.size_hint(),
        }
    }
}

/// The body of the request at hand. It lets go of the connection with its last piece, as it may be
/// held for longer.
#[derive(Debug)]
pub(crate) struct ClientUpload {
    link: Option<Rc<dyn BodyLink>>,
}

impl ClientUpload {
    pub(crate) fn new(link: Rc<dyn BodyLink>) -> ClientUpload {
        ClientUpload { link: Some(link) }
    }

    /// The next piece; `None` at its end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(link) = &self.link else {
            return Poll::Ready(None);
        };
        let polled = link.poll_body(cx);
        if link.is_released() {
            self.let_go();
        }
        polled
    }

    /// Whether all of it has been given out.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.has_ended())
    }

    /// How much is still to come, if that is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.link {
            Some(link) => link.remaining(),
            None => SizeHint::with_exact(0),
        }
    }

    fn let_go(&mut self) {
        if let Some(link) = self.link.take() {
            link.let_go();
        }
    }
}

impl Drop for ClientUpload {
    fn drop(&mut self) {
        self.let_go();
    }
}
