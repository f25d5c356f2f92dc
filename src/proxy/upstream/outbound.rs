//! What a connection to an upstream needs of the body that it sends.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};

use super::fault::BodyAborted;
use crate::proxy::deadline::Deadline;

/// The body of a request that is sent to an upstream. The default is none.
pub(crate) trait OutboundBody:
    Body<Data = Bytes, Error = BodyAborted> + Default + Unpin + 'static
{
    /// Whether the request has no body at all, not even an empty one.
    fn is_none(&self) -> bool;

    /// Whether it comes from the client while it is sent.
    fn is_streamed(&self) -> bool;

    /// Takes a piece back that could not be sent; it is the next one again.
    fn unread(&mut self, frame: Frame<Bytes>);

    /// A deadline that fires after so long; only for a body that is streamed.
    fn deadline(&self, after: Duration) -> Option<Deadline>;

    /// Ready when the upstream has taken nothing of it for as long as the client may be silent, or
    /// when there is no client to wait for.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}
