//! The body of a response on its way through, watched to its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::exchange::Exchange;
use super::timeouts::ExchangeTimeouts;
use crate::proxy::error::Error;
use crate::proxy::upstream::held::ChargedBytes;
use crate::proxy::upstream::{self, BodyAborted, UpstreamFault};
use crate::routing::EndpointKey;
use crate::stats::Reason;

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
