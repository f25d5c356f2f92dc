//! One connection to an endpoint: the interface of our own that hides which client speaks on it.
//!
//! Today hyper's HTTP/1.1 client does. It runs in a task beside the request's; [`Link`] is what the two sides share: the
//! [ticket](super::unsent) of the request that is about to be written, and whether any byte of its answer has come.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::body::RequestBody;
use super::unsent::Ticket;

/// The most bytes of an answer's head; more is a protocol error of the upstream.
const HEAD_BYTES_MAX: usize = 256 * 1024;
/// The most fields of an answer's head.
const HEADERS_MAX: usize = 256;
/// The most bytes that may come before the final answer's head is whole. Interim answers have no end of their own, and an
/// upstream that sends nothing else would keep its worker from everything else.
const ANSWER_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// A connection on which one request at a time is sent.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    link: Rc<Link>,
}

/// Whether a connection can take a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    /// The last exchange is still being wound up.
    Busy,
    Closed,
}

/// A request that got no answer.
#[derive(Debug)]
pub(crate) struct SendError {
    /// The request, when not a byte of it was written: it may be sent again, whatever it is.
    pub(crate) unsent: Option<Request<RequestBody>>,
    /// Whether any byte of an answer had come.
    pub(crate) answered: bool,
    /// What happened.
    pub(crate) error: hyper::Error,
}

impl SendError {
    /// Whether the upstream has answered, and nothing that can be passed on.
    pub(crate) fn is_nonsense(&self) -> bool {
        let cause = std::error::Error::source(&self.error).and_then(|cause| cause.downcast_ref::<io::Error>());
        self.error.is_parse() || cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
    }
}

impl Connection {
    /// Connects to `address`.
    ///
    /// # Errors
    ///
    /// What the operating system said.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let link = Rc::new(Link::default());
        let io = TokioIo::new(Stream {
            stream,
            link: Rc::clone(&link),
        });
        let (sender, connection) = http1::Builder::new()
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .handshake(io)
            .await
            .map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            // The request that was under way learns of a failure; an idle connection that fails is just gone.
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "upstream connection ended");
            }
        });
        Ok(Connection { sender, link })
    }

    /// Whether it can take a request now.
    pub(crate) fn readiness(&self) -> Readiness {
        if self.sender.is_closed() {
            Readiness::Closed
        } else if self.sender.is_ready() {
            Readiness::Ready
        } else {
            Readiness::Busy
        }
    }

    /// Sends `request`, whose target is in origin form; `ticket` is given up with its first byte.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        ticket: Ticket,
    ) -> Result<Response<Incoming>, SendError> {
        self.link.answer.set(Some(0));
        *self.link.ticket.borrow_mut() = Some(ticket);
        self.link.unwritten.set(true);
        // The future owns nothing of `self`, so a drop half-way leaves the ticket in the link: see `Drop`.
        let sent = self.sender.try_send_request(request).await;
        let bytes = self.link.answer.take();
        sent.map_err(|mut failed| {
            self.link.give_up();
            SendError {
                unsent: failed.take_message(),
                answered: bytes != Some(0),
                error: failed.into_error(),
            }
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.give_up();
    }
}

/// What a connection's two tasks share.
#[derive(Debug, Default)]
struct Link {
    unwritten: Cell<bool>,
    ticket: RefCell<Option<Ticket>>,
    /// Bytes that have come in answer to the request at hand; `None` once there is an answer.
    answer: Cell<Option<usize>>,
}

impl Link {
    fn give_up(&self) {
        if self.unwritten.replace(false) {
            drop(self.ticket.borrow_mut().take());
        }
    }
}

/// The socket, which notices the first byte in each direction.
#[derive(Debug)]
struct Stream {
    stream: TcpStream,
    link: Rc<Link>,
}

impl Stream {
    fn noting(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(_))) {
            self.link.give_up();
        }
        written
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(bytes) = self.link.answer.get() else {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        };
        if bytes > ANSWER_BYTES_MAX {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "an answer without end")));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.link.answer.set(Some(bytes + buf.filled().len() - before));
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.noting(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.noting(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
