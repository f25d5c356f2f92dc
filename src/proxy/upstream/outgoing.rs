//! A request on its way out: the head with what there is of the body, then the body as the client
//! brings it and the upstream takes it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::Fault;
use super::request::{self, Framing};
use crate::proxy::body::Cut;
use crate::proxy::hop::Hop;
use crate::proxy::unsent::Ticket;

/// One piece at a time: what stands before the data, the data, and what stands after it.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The head, or a chunk's size line; written up to `at`.
    before: Vec<u8>,
    at: usize,
    data: Bytes,
    after: &'static [u8],
    framing: Framing,
    /// Whether the piece at hand is the last.
    last: bool,
    /// Given up with the first byte.
    ticket: Option<Ticket>,
    begun: bool,
}

impl Outgoing {
    /// A request whose head is the first piece, written into `buffer`, which is empty.
    pub(super) fn new<B>(
        buffer: Vec<u8>,
        ticket: Option<Ticket>,
        request: &Request<B>,
        framing: Framing,
        hop: &Hop<'_>,
    ) -> Outgoing {
        let mut outgoing = Outgoing {
            before: buffer,
            at: 0,
            data: Bytes::new(),
            after: b"",
            framing,
            last: matches!(framing, Framing::Nothing | Framing::Length(0)),
            ticket,
            begun: false,
        };
        request::write_head(&mut outgoing.before, request, framing, hop);
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

    fn is_written(&self) -> bool {
        self.at == self.before.len() && self.data.is_empty() && self.after.is_empty()
    }

    /// What was taken of the body and not written.
    pub(super) fn into_data(self) -> Bytes {
        self.data
    }

    /// The buffer, which is no longer needed once everything is written.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.before
    }

    /// Writes until everything is written.
    ///
    /// # Errors
    ///
    /// The upstream takes no more, or the body broke off; the connection is of no further use for
    /// writing.
    pub(super) fn poll<B: Body<Data = Bytes, Error = Cut> + Unpin>(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        loop {
            while !self.is_written() {
                let bytes = ready!(self.poll_write(stream.as_mut(), cx)).map_err(Fault::Io)?;
                self.written(bytes);
            }
            if self.last {
                return Poll::Ready(Ok(()));
            }
            self.before.clear();
            self.at = 0;
            ready!(self.poll_piece(body, cx))?;
        }
    }

    fn poll_write(
        &self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = self.before.get(self.at..).unwrap_or_default();
        let written = if self.data.is_empty() && self.after.is_empty() {
            stream.poll_write(cx, before)
        } else {
            let pieces = [before, &self.data, self.after].map(IoSlice::new);
            stream.poll_write_vectored(cx, &pieces)
        };
        match written {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => written,
        }
    }

    fn written(&mut self, mut bytes: usize) {
        self.ticket = None;
        self.begun = true;
        let before = bytes.min(self.before.len() - self.at);
        self.at += before;
        bytes -= before;
        let data = bytes.min(self.data.len());
        self.data.advance(data);
        self.after = self.after.get(bytes - data..).unwrap_or_default();
    }

    /// Gets the next piece of the body ready.
    fn poll_piece<B: Body<Data = Bytes, Error = Cut> + Unpin>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
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
    pub(super) fn data(&mut self, data: Bytes, last: bool) -> Result<(), Fault> {
        match &mut self.framing {
            // An empty chunk would end the body.
            Framing::Chunked if data.is_empty() => return Ok(()),
            Framing::Chunked => {
                request::write_chunk_size(&mut self.before, data.len());
                self.last = last;
                self.after = if last {
                    request::CHUNK_END_AND_LAST
                } else {
                    request::CHUNK_END
                };
            }
            Framing::Length(left) => {
                // More than was announced would be read as another request.
                *left = left.checked_sub(data.len() as u64).ok_or(Fault::Upload)?;
                self.last = *left == 0;
            }
            Framing::Nothing => return Err(Fault::Upload),
        }
        self.data = data;
        Ok(())
    }

    /// The body has ended.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Fault> {
        match (self.framing, trailers) {
            (Framing::Length(left), _) if left > 0 => return Err(Fault::Upload),
            (Framing::Chunked, Some(trailers)) => {
                request::write_trailers(&mut self.before, &trailers)
            }
            (Framing::Chunked, None) => self.after = request::LAST_CHUNK,
            _ => {}
        }
        self.last = true;
        Ok(())
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
