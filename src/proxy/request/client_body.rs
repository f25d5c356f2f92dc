//! The body of a request of HTTP/1.1, as its connection brings it.

use std::fmt::Debug;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::body::BodyError;

/// The connection that a body comes over.
pub(crate) trait BodyLink: Debug {
    /// The next piece; `None` at its end.
    fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>;

    /// Whether all of it has been given out.
    fn is_over(&self) -> bool;

    /// How much is still to come, if that is known.
    fn remaining(&self) -> SizeHint;

    /// Nobody reads it any more.
    fn let_go(&self);
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
        if link.is_over() {
            self.let_go();
        }
        polled
    }

    /// Whether all of it has been given out.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.link.is_none()
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
