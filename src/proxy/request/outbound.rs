//! A request's body on its way to an upstream.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use super::body::RequestBody;
use crate::proxy::deadline::Deadline;
use crate::proxy::upstream::OutboundBody;

impl OutboundBody for RequestBody {
    fn is_none(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }

    fn is_streamed(&self) -> bool {
        matches!(self, RequestBody::Upload(_))
    }

    fn unread(&mut self, frame: Frame<Bytes>) {
        RequestBody::unread(self, frame);
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
