//! The body of an answer, read in the task that passes it on.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::background_upload::BackgroundUpload;
use super::buffers::BLOCK;
use super::connection::UpstreamConnection;
use super::fault::UpstreamFault;
use super::held::{Account, Charge, ChargedBytes, HeadCharge};
use super::read_buffer::ReadBuffer;
use super::request;
use crate::proxy::http1::chunked::{self, Chunked};
use crate::proxy::http1::response::ResponseFraming;

/// An answer's body, and the connection that it comes over.
#[derive(Debug)]
pub(crate) struct Body {
    source: BodySource,
    inflow: ReadBuffer,
    left: Left,
    /// Whether the connection may carry another request after the body.
    reusable: bool,
    /// Pays for the head until that waits to be written.
    head: Option<HeadCharge>,
    /// Who pays for the memory that is read into.
    account: Option<Rc<Account>>,
    /// For what has been read and not been passed on.
    charge: Option<Charge>,
    /// Whether nothing more is read until the client has taken what it was given.
    held: bool,
}

/// Where the bytes come from.
#[derive(Debug)]
pub(super) enum BodySource {
    Whole(TcpStream),
    /// The request is still being sent over the other half.
    Half(OwnedReadHalf, BackgroundUpload),
}

/// Pieces of a body that are shorter are gathered where each costs much beside its data.
const GATHERED_MIN: usize = 4 * 1024;

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
    pub(super) fn new(
        source: BodySource,
        mut inflow: ReadBuffer,
        framing: ResponseFraming,
        reusable: bool,
        head: Option<HeadCharge>,
    ) -> Body {
        let left = match framing {
            ResponseFraming::Length(length) => {
                inflow.expect(length.saturating_sub(inflow.buffer.len() as u64));
                Left::Length(length)
            }
            ResponseFraming::Chunked => Left::Chunked(Box::new(Chunked::new())),
            ResponseFraming::Close => Left::Close,
        };
        Body {
            source,
            inflow,
            left,
            reusable,
            head,
            account: None,
            charge: None,
            held: false,
        }
    }

    /// From here on whoever pays for the head, or else `account`, is charged for what is read, and
    /// for what came with the head.
    pub(crate) fn charge(&mut self, account: impl FnOnce() -> Rc<Account>) {
        let account = self.head.as_ref().map_or_else(account, HeadCharge::account);
        let buffer = &mut self.inflow.buffer;
        if let Left::Chunked(chunked) = &mut self.left
            && account.overhead() > 0
        {
            // Trailers without data before them are to be known as such.
            chunked.look_ahead(buffer);
        }
        if !buffer.is_empty() {
            let mut held = BLOCK.max(buffer.len());
            if account.prefers_copies(buffer.len()) {
                *buffer = BytesMut::from(&buffer[..]);
                held = buffer.len();
            }
            self.charge = Some(account.charge(held));
        }
        self.account = Some(account);
    }

    /// The head is paid for in another way now.
    pub(crate) fn release_head(&mut self) {
        self.head = None;
    }

    /// Whether it is the client that the last [`poll_frame`](Body::poll_frame) waits for.
    pub(crate) fn is_held(&self) -> bool {
        self.held
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
    /// The answer broke off or is malformed, or the request did while it was being sent: what has
    /// been read is a part.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<ChargedBytes>, UpstreamFault>>> {
        self.held = false;
        if let BodySource::Half(_, late) = &self.source
            && late.is_broken(cx)
        {
            return Poll::Ready(Some(Err(UpstreamFault::Upload)));
        }
        loop {
            if self.waits_for_room(cx) {
                self.held = true;
                return Poll::Pending;
            }
            match self.next() {
                Ok(chunked::ChunkedPiece::Data(data)) => {
                    let data = self.gather(data);
                    let piece = self.piece(data);
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Ok(chunked::ChunkedPiece::Trailers(mut trailers)) => {
                    request::strip_trailers(&mut trailers);
                    if let Some(account) = &self.account {
                        account.queue(&mut trailers);
                    }
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(chunked::ChunkedPiece::End) => return Poll::Ready(None),
                Ok(chunked::ChunkedPiece::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(self.poll_read(cx)) {
                Err(error) => return Poll::Ready(Some(Err(UpstreamFault::Io(error)))),
                Ok(0) if matches!(self.left, Left::Close) => self.left = Left::Closed,
                Ok(0) => return Poll::Ready(Some(Err(UpstreamFault::Closed))),
                Ok(_) => {}
            }
        }
    }

    /// The next piece of what has come.
    fn next(&mut self) -> Result<chunked::ChunkedPiece, UpstreamFault> {
        let buffer = &mut self.inflow.buffer;
        if self.left.is_end() {
            return Ok(chunked::ChunkedPiece::End);
        }
        if buffer.is_empty() {
            return Ok(chunked::ChunkedPiece::More);
        }
        match &mut self.left {
            Left::Length(left) => {
                let here = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                *left -= here as u64;
                Ok(chunked::ChunkedPiece::Data(buffer.split_to(here).freeze()))
            }
            Left::Close | Left::Closed => Ok(chunked::ChunkedPiece::Data(buffer.split().freeze())),
            Left::Chunked(chunked) => {
                let piece = chunked.next(buffer)?;
                chunked.look_ahead(buffer);
                Ok(piece)
            }
        }
    }

    /// Small chunks that came together go on as one piece where each would cost much beside its
    /// data.
    fn gather(&mut self, data: Bytes) -> Bytes {
        let dear = self
            .account
            .as_ref()
            .is_some_and(|account| account.overhead() > 0);
        if !dear || data.len() >= GATHERED_MIN || !self.is_in_data() {
            return data;
        }
        let mut all = BytesMut::from(&data[..]);
        while all.len() < GATHERED_MIN && self.is_in_data() {
            match self.next() {
                Ok(chunked::ChunkedPiece::Data(data)) => all.extend_from_slice(&data),
                _ => break,
            }
        }
        all.freeze()
    }

    /// Whether there is more data of a chunked body at hand.
    fn is_in_data(&self) -> bool {
        !self.inflow.buffer.is_empty()
            && matches!(&self.left, Left::Chunked(chunked) if chunked.is_in_data())
    }

    fn piece(&mut self, data: Bytes) -> ChargedBytes {
        let mut charge = if self.inflow.buffer.is_empty() {
            self.charge.take()
        } else {
            self.charge.as_mut().map(|charge| charge.split(data.len()))
        };
        if let (Some(charge), Some(account)) = (&mut charge, &self.account) {
            charge.merge(account.charge(account.overhead()));
        }
        ChargedBytes::new(data, charge)
    }

    /// Whether trailers are at hand for which there is no room yet among what waits to be written.
    fn waits_for_room(&self, cx: &Context<'_>) -> bool {
        let (Left::Chunked(chunked), Some(account)) = (&self.left, &self.account) else {
            return false;
        };
        chunked.is_in_trailers() && account.waits_to_queue(&self.inflow.buffer, cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self
            .account
            .as_ref()
            .map_or(usize::MAX, |account| account.room());
        if room == 0 {
            self.held = true;
            self.account.iter().for_each(|account| account.wait(cx));
            return Poll::Pending;
        }
        let read = match &mut self.source {
            BodySource::Whole(stream) => self.inflow.poll_read(Pin::new(stream), room, cx),
            BodySource::Half(half, _) => self.inflow.poll_read(Pin::new(half), room, cx),
        };
        let read = ready!(read)?;
        if let Some(account) = &self.account {
            let new = account.charge(read.held);
            match &mut self.charge {
                Some(charge) => charge.merge(new),
                None => self.charge = Some(new),
            }
        }
        Poll::Ready(Ok(read.bytes))
    }

    /// What is left when the body has been read whole: the connection, if another request may be
    /// sent over it. The rest of a request that has been answered before its end goes on being
    /// sent.
    pub(crate) fn into_connection(self) -> Option<UpstreamConnection> {
        // What nobody asked for makes whatever follows it doubtful.
        let reusable = self.reusable && self.inflow.buffer.is_empty() && self.is_end_stream();
        let stream = match self.source {
            BodySource::Whole(stream) => Some(stream),
            BodySource::Half(half, late) => late.into_stream(half),
        };
        let buffers: Rc<_> = self.inflow.into_buffers();
        let charge = None;
        stream
            .filter(|_| reusable)
            .map(|stream| UpstreamConnection {
                stream,
                buffers,
                charge,
            })
    }
}
