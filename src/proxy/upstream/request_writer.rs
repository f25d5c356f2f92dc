//! A request on its way out: the head with what there is of the body, then the body as the client
//! brings it and the upstream takes it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::fault::{BodyAborted, UpstreamFault};
use super::forwarded_headers::ForwardedHeaders;
use super::request::{self, RequestFraming};
use super::revision_guard::RevisionGuard;
use crate::proxy::http1::{OutputSegment, chunked};

/// A request, one piece at a time.
#[derive(Debug)]
pub(super) struct RequestWriter {
    segment: OutputSegment<Bytes>,
    framing: RequestFraming,
    /// Whether the piece at hand is the last.
    last: bool,
    /// Given up with the first byte.
    ticket: Option<RevisionGuard>,
    begun: bool,
}

impl RequestWriter {
    /// A request whose head is the first piece, written into `buffer`, which is empty.
    pub(super) fn new<B>(
        buffer: Vec<u8>,
        ticket: Option<RevisionGuard>,
        request: &Request<B>,
        framing: RequestFraming,
        hop: &ForwardedHeaders<'_>,
    ) -> RequestWriter {
        let mut outgoing = RequestWriter {
            segment: OutputSegment::new(buffer),
            framing,
            last: matches!(framing, RequestFraming::Nothing | RequestFraming::Length(0)),
            ticket,
            begun: false,
        };
        request::write_head(&mut outgoing.segment.before, request, framing, hop);
        outgoing
    }

    /// Whether the piece at hand is the last.
    pub(super) fn is_last(&self) -> bool {
        self.last
    }

    /// Whether a byte has been written.
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    /// What was taken of the body and not written.
    pub(super) fn into_data(self) -> Bytes {
        self.segment.data
    }

    /// The buffer, which is no longer needed once everything is written.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.segment.before
    }

    /// Writes what is at hand, and takes nothing of the body yet; never ready with success.
    ///
    /// # Errors
    ///
    /// The upstream takes no more.
    pub(super) fn poll_head(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UpstreamFault>> {
        ready!(self.poll_segment(stream.as_mut(), cx))?;
        Poll::Pending
    }

    fn poll_segment(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UpstreamFault>> {
        while !self.segment.is_written() {
            ready!(self.segment.poll_write(stream.as_mut(), cx)).map_err(UpstreamFault::Io)?;
            self.ticket = None;
            self.begun = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes until everything is written.
    ///
    /// # Errors
    ///
    /// The upstream takes no more, or the body broke off; the connection is of no further use for
    /// writing.
    pub(super) fn poll<B: Body<Data = Bytes, Error = BodyAborted> + Unpin>(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UpstreamFault>> {
        loop {
            ready!(self.poll_segment(stream.as_mut(), cx))?;
            if self.last {
                return Poll::Ready(Ok(()));
            }
            self.segment.clear();
            ready!(self.poll_piece(body, cx))?;
        }
    }

    /// Gets the next piece of the body ready.
    fn poll_piece<B: Body<Data = Bytes, Error = BodyAborted> + Unpin>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UpstreamFault>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose()? else {
                return Poll::Ready(self.end(None));
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(self.data(data, body.is_end_stream())),
                Err(frame) => return Poll::Ready(self.end(frame.into_trailers().ok())),
            }
        }
    }

    /// Puts `data`, after which the body ends if it is the `last`, behind the piece at hand.
    ///
    /// # Errors
    ///
    /// It is more than was announced.
    pub(super) fn data(&mut self, data: Bytes, last: bool) -> Result<(), UpstreamFault> {
        let mut after: &[u8] = b"";
        match &mut self.framing {
            // An empty chunk would end the body.
            RequestFraming::Chunked if data.is_empty() => return Ok(()),
            RequestFraming::Chunked => {
                chunked::write_size(&mut self.segment.before, data.len());
                self.last = last;
                if last {
                    after = chunked::CHUNK_END_AND_LAST;
                } else {
                    after = chunked::CHUNK_END;
                }
            }
            RequestFraming::Length(left) => {
                // More than was announced would be read as another request.
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(UpstreamFault::Upload)?;
                self.last = *left == 0;
            }
            RequestFraming::Nothing => return Err(UpstreamFault::Upload),
        }
        if self.begun {
            self.segment.put(data, after);
        } else {
            // Whoever sends the request again takes it back.
            self.segment.hold(data, after);
        }
        Ok(())
    }

    /// The body has ended.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), UpstreamFault> {
        match (self.framing, trailers) {
            (RequestFraming::Length(left), _) if left > 0 => return Err(UpstreamFault::Upload),
            (RequestFraming::Chunked, Some(trailers)) => {
                request::write_trailers(&mut self.segment.before, &trailers)
            }
            (RequestFraming::Chunked, None) => self.segment.put(Bytes::new(), chunked::LAST_CHUNK),
            _ => {}
        }
        self.last = true;
        Ok(())
    }
}

#[cfg(test)]
#[path = "request_writer_tests.rs"]
mod tests;
