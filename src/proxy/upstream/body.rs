//! The body of an answer, read in the task that passes it on.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::answer::Framing;
use super::chunked::{Chunked, Piece};
use super::inflow::Inflow;
use super::late::Late;
use super::{Connection, Fault, request};

/// An answer's body, and the connection that it comes over.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    inflow: Inflow,
    left: Left,
    /// Whether the connection may carry another request after the body.
    reusable: bool,
}

/// Where the bytes come from.
#[derive(Debug)]
pub(super) enum Source {
    Whole(TcpStream),
    /// The request is still being sent over the other half.
    Half(OwnedReadHalf, Late),
}

/// What is still to come.
#[derive(Debug)]
enum Left {
    Length(u64),
    Chunked(Box<Chunked>),
    /// Whatever comes until the connection ends.
    Close,
    /// Nothing after the end of the connection.
    Closed,
}

impl Left {
    fn is_end(&self) -> bool {
        match self {
            Left::Length(left) => *left == 0,
            Left::Chunked(chunked) => chunked.is_done(),
            Left::Close => false,
            Left::Closed => true,
        }
    }
}

impl Body {
    pub(super) fn new(source: Source, mut inflow: Inflow, framing: Framing, reusable: bool) -> Body {
        let left = match framing {
            Framing::Length(length) => {
                inflow.expect(length.saturating_sub(inflow.buffer.len() as u64));
                Left::Length(length)
            }
            Framing::Chunked => Left::Chunked(Box::new(Chunked::new())),
            Framing::Close => Left::Close,
        };
        Body {
            source,
            inflow,
            left,
            reusable,
        }
    }

    /// Whether the body has been read whole.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.left.is_end()
    }

    /// How much is still to come, if that is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.left {
            Left::Length(left) => SizeHint::with_exact(left),
            Left::Closed => SizeHint::with_exact(0),
            Left::Chunked(_) | Left::Close => SizeHint::default(),
        }
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// The answer broke off or is malformed, or the request did while it was being sent: what has been read is a part.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Source::Half(_, late) = &self.source
            && late.is_broken(cx)
        {
            return Poll::Ready(Some(Err(Fault::Upload)));
        }
        loop {
            match self.next() {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(mut trailers)) => {
                    request::strip_trailers(&mut trailers);
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(self.poll_read(cx)) {
                Err(error) => return Poll::Ready(Some(Err(Fault::Io(error)))),
                Ok(0) if matches!(self.left, Left::Close) => self.left = Left::Closed,
                Ok(0) => return Poll::Ready(Some(Err(Fault::Closed))),
                Ok(_) => {}
            }
        }
    }

    /// The next piece of what has come.
    fn next(&mut self) -> Result<Piece, Fault> {
        let buffer = &mut self.inflow.buffer;
        if self.left.is_end() {
            return Ok(Piece::End);
        }
        if buffer.is_empty() {
            return Ok(Piece::More);
        }
        match &mut self.left {
            Left::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= here as u64;
                Ok(Piece::Data(buffer.split_to(here).freeze()))
            }
            Left::Close | Left::Closed => Ok(Piece::Data(buffer.split().freeze())),
            Left::Chunked(chunked) => {
                let piece = chunked.next(buffer)?;
                chunked.look_ahead(buffer);
                Ok(piece)
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &mut self.source {
            Source::Whole(stream) => self.inflow.poll_read(Pin::new(stream), cx),
            Source::Half(half, _) => self.inflow.poll_read(Pin::new(half), cx),
        }
    }

    /// What is left when the body has been read whole: the connection, if another request may be sent over it. The rest
    /// of a request that has been answered before its end goes on being sent.
    pub(crate) fn into_connection(self) -> Option<Connection> {
        // What nobody asked for makes whatever follows it doubtful.
        let reusable = self.reusable && self.inflow.buffer.is_empty() && self.is_end_stream();
        let stream = match self.source {
            Source::Whole(stream) => Some(stream),
            Source::Half(half, late) => late.into_stream(half),
        };
        let buffers: Rc<_> = self.inflow.into_buffers();
        stream.filter(|_| reusable).map(|stream| Connection { stream, buffers })
    }
}
