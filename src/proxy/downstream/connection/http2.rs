//! HTTP/2, which `h2` speaks: a task for the connection, and one for each stream.

mod stream;
mod uploads;

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::RecvStream;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::uploads::Uploads;
use super::end::ConnectionEnd;
use crate::net::Stream;
use crate::proxy::downstream::gate_frames::Frames;
use crate::proxy::downstream::load_shedding;
use crate::proxy::upstream::held::ChargedBytes;
use crate::proxy::worker::client::{ClientConnection, Overdue};

/// How long a client that is told of the end of an idle connection has to say that it has heard it.
const FAREWELL_TIME: Duration = Duration::from_secs(1);
/// Requests that one HTTP/2 connection may have under way.
const STREAMS_MAX: u32 = 128;
/// Bytes of answers that one HTTP/2 stream may hold back; all of a connection's are bounded by
/// [`held`](crate::proxy::upstream::held).
const STREAM_BUFFER: usize = 256 * 1024;
/// Bytes of requests' bodies that an HTTP/2 connection may hold, and that one of its streams may.
const CONNECTION_WINDOW: u32 = 256 * 1024;
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that a list of fields may come to in HTTP/2, where a byte can stand for a whole field.
const HEADER_LIST_MAX: usize = 32 * 1024;
/// Pieces that are together no longer than this are written as one: to copy so little takes less
/// than the kernel takes to gather it.
const GATHERED_MAX: usize = 4 * 1024;

/// Serves a connection whose first bytes, the preface among them, have been read, until it ends.
pub(super) async fn serve(
    client: Rc<ClientConnection>,
    stream: Stream,
    begun: &[u8],
) -> ConnectionEnd {
    let pacer = Rc::new(Pacer::new(begun));
    let socket = Socket {
        stream,
        client: Rc::clone(&client),
        pacer: Rc::clone(&pacer),
    };
    let mut server = Server {
        state: Progress::Handshake(Box::pin(builder(&client).handshake(socket))),
        uploads: Uploads::default(),
        client: &client,
        pacer: &pacer,
        closing: false,
    };
    let (mut draining, mut parting) = (false, false);
    std::future::poll_fn(|cx| {
        pacer.frames.borrow_mut().turn();
        if server.poll(cx).is_ready() {
            return Poll::Ready(ConnectionEnd::Closed);
        }
        if client.worker.is_draining() && !std::mem::replace(&mut draining, true) {
            server.close();
            cx.waker().wake_by_ref();
        }
        let overdue = ready!(client.poll_overdue(cx));
        if overdue == Overdue::Idle && !std::mem::replace(&mut parting, true) {
            // A request may be on its way just now: the client can be told that it will not be
            // seen.
            server.close();
            client.worker.wake();
            client.deadline.set(FAREWELL_TIME);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(ConnectionEnd::Overdue(overdue))
    })
    .await
}

/// A connection, and the bodies that come over it.
struct Server<'a> {
    state: Progress,
    uploads: Uploads,
    client: &'a Rc<ClientConnection>,
    pacer: &'a Pacer,
    /// Whether the client is told to begin no more requests.
    closing: bool,
}

enum Progress {
    Handshake(Pin<Box<Handshake<Socket, ChargedBytes>>>),
    Open(Box<Connection<Socket, ChargedBytes>>),
}

impl Server<'_> {
    /// Has the client told that this is the end, once what is under way has been answered.
    fn close(&mut self) {
        if !std::mem::replace(&mut self.closing, true)
            && let Progress::Open(connection) = &mut self.state
        {
            connection.graceful_shutdown();
        }
    }

    /// Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.state {
                Progress::Handshake(handshake) => {
                    let Ok(mut connection) = ready!(handshake.as_mut().poll(cx)) else {
                        return Poll::Ready(());
                    };
                    if self.closing {
                        connection.graceful_shutdown();
                    }
                    self.state = Progress::Open(Box::new(connection));
                }
                Progress::Open(connection) => match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    Poll::Pending => break,
                },
            }
        }
        if self.pacer.frames.borrow().brought_messages() {
            self.uploads.take();
        }
        Poll::Pending
    }

    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<ChargedBytes>) {
        let (request, incoming) = self.uploads.begin(&self.client.held, request);
        let handling = load_shedding::begin(self.client, request);
        tokio::task::spawn_local(async move {
            if let Err(error) = stream::answer(handling, respond).await {
                tracing::debug!(%error, "a stream is over");
            }
            drop(incoming);
        });
    }
}

fn builder(client: &ClientConnection) -> Builder {
    let limits = client.listener.options.limits;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buffer_size(STREAM_BUFFER)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_window_size(STREAM_WINDOW)
        .max_header_list_size(
            u32::try_from(limits.header_bytes.min(HEADER_LIST_MAX)).unwrap_or(u32::MAX),
        );
    builder
}

/// Holds back what exceeds a turn's share of what the client sends.
#[derive(Debug)]
struct Pacer {
    frames: RefCell<Frames>,
    /// What has been read, and passes in another turn.
    rest: RefCell<Vec<u8>>,
}

impl Pacer {
    fn new(begun: &[u8]) -> Pacer {
        Pacer {
            frames: RefCell::new(Frames::new()),
            rest: RefCell::new(begun.to_vec()),
        }
    }

    /// Keeps what does not pass in this turn, of what was read. Tells whether anything passes.
    fn pass(&self, buf: &mut ReadBuf<'_>, before: usize) -> bool {
        let new = buf.filled().get(before..).unwrap_or_default();
        let passed = self.frames.borrow_mut().pass(new);
        if let Some(held_back @ [_, ..]) = new.get(passed..) {
            self.rest.borrow_mut().extend_from_slice(held_back);
            buf.set_filled(before + passed);
        }
        passed > 0
    }

    /// What an earlier turn has held back, as far as it passes in this one; `None` when there is
    /// nothing.
    fn poll_rest(&self, buf: &mut ReadBuf<'_>, cx: &Context<'_>) -> Option<Poll<io::Result<()>>> {
        let mut rest = self.rest.borrow_mut();
        if rest.is_empty() {
            return None;
        }
        let next = rest
            .get(..buf.remaining().min(rest.len()))
            .unwrap_or_default();
        let passed = self.frames.borrow_mut().pass(next);
        if passed == 0 {
            cx.waker().wake_by_ref();
            return Some(Poll::Pending);
        }
        buf.put_slice(next.get(..passed).unwrap_or_default());
        rest.drain(..passed);
        if rest.is_empty() {
            *rest = Vec::new();
        }
        Some(Poll::Ready(Ok(())))
    }
}

/// The socket of a client, as `h2` sees it.
#[derive(Debug)]
struct Socket {
    stream: Stream,
    client: Rc<ClientConnection>,
    pacer: Rc<Pacer>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(read) = self.pacer.poll_rest(buf, cx) {
            return read;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() == before || self.pacer.pass(buf, before) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.client.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = if bufs.iter().map(|buf| buf.len()).sum::<usize>() > GATHERED_MAX {
            Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        } else {
            let buffers = Rc::clone(&self.client.worker.buffers);
            let mut whole = buffers.acquire();
            bufs.iter().for_each(|buf| whole.extend_from_slice(buf));
            let written = Pin::new(&mut self.stream).poll_write(cx, &whole);
            buffers.release(whole);
            written
        };
        self.client.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.client.held.flushed();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
