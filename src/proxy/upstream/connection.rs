//! One connection to an endpoint, and the HTTP/1.1 that is spoken on it.
//!
//! The client is written by hand and lives in the request's own task: no second task, no channel. A
//! ready-made one costs a third of the proxy's own time for what a proxy has no use for. It takes
//! over nothing from the upstream that it does not understand: see
//! [`http1`](crate::proxy::http1), which is pure.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::header::EXPECT;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body::Frame;
use tokio::net::TcpStream;

use super::background_upload::BackgroundUpload;
use super::body::{Body, BodySource};
use super::buffers::{Buffers, FIELDS_MAX};
use super::fault::{SendError, UpstreamFault};
use super::forwarded_headers::ForwardedHeaders;
use super::held::{HeadCharge, recycle};
use super::interims::{Heard, Interims, PATIENCE};
use super::outbound::OutboundBody;
use super::read_buffer::ReadBuffer;
use super::request::{self, RequestFraming};
use super::request_writer::RequestWriter;
use super::revision_guard::RevisionGuard;
use crate::proxy::deadline::Deadline;
use crate::proxy::http1::response::{ResponseHead, ResponseHeadReader, ResponseTo};

/// A request's map of fields is used for the answer's unless it has grown beyond this, where what a
/// client's many answers may hold is bounded.
const FIELDS_KEPT: usize = 24;
/// Bytes up to which the head of an answer over HTTP/1.1 is read, a little more than it may have.
const HEAD_ROOM: usize = 66 * 1024;

/// A connection on which one request at a time is sent; while it is idle, it holds a socket and
/// nothing else.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    pub(super) stream: TcpStream,
    pub(super) buffers: Rc<Buffers>,
    /// Pays for the head of the next answer, where what its client holds is bounded for all of its
    /// answers.
    pub(super) charge: Option<HeadCharge>,
}

impl UpstreamConnection {
    /// Connects to `address`.
    ///
    /// # Errors
    ///
    /// What the operating system said.
    pub(crate) async fn open(
        address: SocketAddr,
        buffers: &Rc<Buffers>,
    ) -> io::Result<UpstreamConnection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(UpstreamConnection {
            stream,
            buffers: Rc::clone(buffers),
            charge: None,
        })
    }

    /// Has the next answer's head paid for.
    pub(crate) fn charge(&mut self, charge: HeadCharge) {
        self.charge = Some(charge);
    }

    /// Whether an idle connection can take a request: it is of no use once the upstream has closed
    /// it, and of none when it has said something unasked, since that would pass for the answer
    /// to the next request. As long as nothing has happened on it, this asks the operating
    /// system nothing.
    pub(crate) fn is_open(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends `request`, whose target is in origin form, with the fields of `hop`; `ticket` is
    /// released with its first byte. The response may begin before all of the request is sent;
    /// interim responses go to `heard` before it.
    ///
    /// The request is borrowed, since it is large and moving it costs a copy. After a response
    /// nothing of it is left. After a [`SendError`] it is unchanged if that is `unsent`, otherwise
    /// without the part of its body that has been sent, and without its head once an answer has
    /// begun.
    ///
    /// # Errors
    ///
    /// There is no answer, or none that can be understood.
    pub(crate) async fn send<B: OutboundBody>(
        self,
        request: &mut Request<B>,
        hop: ForwardedHeaders<'_>,
        ticket: RevisionGuard,
        heard: &Heard<'_>,
    ) -> Result<Response<Body>, SendError> {
        let asked = match *request.method() {
            Method::HEAD => ResponseTo::Head,
            _ => ResponseTo::Other,
        };
        let mut sending = Sending {
            stream: self.stream,
            inflow: ReadBuffer::new(self.buffers),
            charge: self.charge,
            reader: ResponseHeadReader::new(asked),
            request,
            hop,
            ticket: Some(ticket),
            heard,
            patience: None,
            outgoing: None,
            refused: None,
            answered: false,
            in_parts: false,
        };
        match std::future::poll_fn(|cx| sending.poll(cx)).await {
            Ok(head) => Ok(sending.answer(head)),
            Err(fault) => Err(sending.fail(fault)),
        }
    }
}

/// A request that is being sent, and whose answer has not begun.
struct Sending<'a, B> {
    stream: TcpStream,
    inflow: ReadBuffer,
    charge: Option<HeadCharge>,
    reader: ResponseHeadReader,
    request: &'a mut Request<B>,
    hop: ForwardedHeaders<'a>,
    ticket: Option<RevisionGuard>,
    heard: &'a Heard<'a>,
    /// Until when the upstream may take to ask for the body, where the client waits for that.
    patience: Option<Deadline>,
    outgoing: Option<RequestWriter>,
    /// Why the upstream takes no more of the request. It may have said more about that, in an
    /// answer.
    refused: Option<io::Error>,
    answered: bool,
    /// Whether the head has come in more than one read.
    in_parts: bool,
}

impl<B: OutboundBody> Sending<'_, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, UpstreamFault>> {
        loop {
            // Again after an interim answer, which may have asked for the body.
            self.write(cx)?;
            let room = match &mut self.charge {
                None => HEAD_ROOM.saturating_sub(self.inflow.buffer.len()).max(1),
                Some(charge) => {
                    let room = charge.poll_room(cx);
                    self.heard.held.set(room.is_pending());
                    ready!(room)
                }
            };
            let read = ready!(self.inflow.poll_read(Pin::new(&mut self.stream), room, cx));
            match read.map(|read| read.bytes) {
                Ok(0) => {
                    return Poll::Ready(Err(self
                        .refused
                        .take()
                        .map_or(UpstreamFault::Closed, UpstreamFault::Io)));
                }
                Ok(_) => self.answered = true,
                Err(error) => {
                    return Poll::Ready(Err(UpstreamFault::Io(
                        self.refused.take().unwrap_or(error),
                    )));
                }
            }
            let mut fresh = HeaderMap::new();
            // A request that has been sent is not needed any more once there is an answer to it.
            let headers = match self.outgoing {
                None => {
                    let headers = self.request.headers_mut();
                    let kept = match self.charge {
                        Some(_) => FIELDS_KEPT,
                        None => FIELDS_MAX,
                    };
                    recycle(headers, kept);
                    headers
                }
                Some(_) => &mut fresh,
            };
            let pass = &mut |interim: &mut Response<()>| {
                if let Some(client) = self.heard.client {
                    client.pass(interim);
                }
            };
            let head = self
                .reader
                .advance(&mut self.inflow.buffer, headers, pass)?;
            self.heard.processing.set(self.reader.processing());
            if let Some(mut head) = head {
                if let Some(charge) = &mut self.charge {
                    charge.hold_whole(head.response.headers_mut());
                }
                if self.in_parts {
                    // What follows it does not hold the memory that the parts were put together in.
                    let buffer = &mut self.inflow.buffer;
                    *buffer = BytesMut::from(&buffer[..]);
                }
                return Poll::Ready(Ok(head));
            }
            self.in_parts |= !self.inflow.buffer.is_empty();
            if let Some(charge) = &mut self.charge {
                charge.hold_part(&mut self.inflow.buffer);
            }
            if self.outgoing.is_none() {
                // It is not sent again, and the answer may be long in coming.
                *self.request.uri_mut() = Uri::default();
            }
        }
    }

    /// Writes as much as there is of the request and as the upstream takes.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), UpstreamFault> {
        if self.refused.is_some() {
            return Ok(());
        }
        if let Some(ticket) = self.ticket.take() {
            self.begin(ticket, cx)?;
        }
        let Some(outgoing) = &mut self.outgoing else {
            return Ok(());
        };
        if !self.heard.client.is_some_and(Interims::is_awaited) {
            self.patience = None;
        }
        let stream = Pin::new(&mut self.stream);
        let written = match &self.patience {
            Some(patience) if patience.poll(cx).is_pending() => outgoing.poll_head(stream, cx),
            _ => {
                self.patience = None;
                outgoing.poll(stream, self.request.body_mut(), cx)
            }
        };
        match written {
            Poll::Ready(Err(UpstreamFault::Io(error))) if outgoing.is_begun() => {
                self.refused = Some(error)
            }
            Poll::Ready(Err(fault)) => return Err(fault),
            Poll::Ready(Ok(())) => {
                if let Some(sent) = self.outgoing.take() {
                    self.inflow.buffers().release(sent.into_buffer());
                }
            }
            Poll::Pending => {}
        }
        Ok(())
    }

    /// Gets the head ready, with what is at hand of the body. It waits for nothing, since what an
    /// upstream answers may not depend on the body.
    fn begin(&mut self, ticket: RevisionGuard, cx: &mut Context<'_>) -> Result<(), UpstreamFault> {
        let framing = match self.request.body().is_none() {
            true => RequestFraming::Nothing,
            false => request::framing(self.request.headers()),
        };
        if self.request.body().is_streamed() {
            let awaited = self.heard.client.is_some_and(Interims::is_awaited);
            if awaited {
                self.patience = self.request.body().deadline(PATIENCE);
            }
            let headers = self.request.headers_mut();
            match awaited {
                true => headers.insert(EXPECT, HeaderValue::from_static("100-continue")),
                false => headers.remove(EXPECT),
            };
        }
        let buffer = self.inflow.buffers().acquire();
        let outgoing = RequestWriter::new(buffer, Some(ticket), self.request, framing, &self.hop);
        let outgoing = self.outgoing.insert(outgoing);
        let body = self.request.body_mut();
        if !outgoing.is_last()
            && self.patience.is_none()
            && let Poll::Ready(Some(frame)) = Pin::new(&mut *body).poll_frame(cx)
        {
            match frame?.into_data() {
                Ok(data) => outgoing.data(data, body.is_end_stream())?,
                Err(other) => body.unread(other),
            }
        }
        Ok(())
    }

    fn answer(self, head: ResponseHead) -> Response<Body> {
        let ResponseHead {
            response,
            framing,
            reusable,
        } = head;
        let mut reusable = reusable && self.refused.is_none();
        let source = match self.outgoing {
            Some(_) if self.patience.is_some() => {
                // The body was announced and never asked for: neither side can know whether it
                // still comes.
                *self.request.body_mut() = B::default();
                reusable = false;
                BodySource::Whole(self.stream)
            }
            None => BodySource::Whole(self.stream),
            Some(outgoing) => {
                let (read, write) = self.stream.into_split();
                let body = std::mem::take(self.request.body_mut());
                BodySource::Half(read, BackgroundUpload::spawn(write, outgoing, body))
            }
        };
        response.map(|()| Body::new(source, self.inflow, framing, reusable, self.charge))
    }

    fn fail(mut self, fault: UpstreamFault) -> SendError {
        let unbegun = self.outgoing.take().filter(|outgoing| !outgoing.is_begun());
        let unsent = unbegun.is_some();
        let data = unbegun
            .map(RequestWriter::into_data)
            .filter(|data| !data.is_empty());
        if let Some(data) = data {
            self.request.body_mut().unread(Frame::data(data));
        }
        SendError {
            unsent,
            answered: self.answered,
            fault,
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
