//! HTTP/2, which hyper speaks.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::end::ConnectionEnd;
use crate::net::Stream;
use crate::proxy::downstream::gate_frames::Frames;
use crate::proxy::downstream::load_shedding;
use crate::proxy::worker::client::{ClientConnection, Overdue};

/// How long a client that is told of the end of an idle connection has to say that it has heard it.
const FAREWELL_TIME: Duration = Duration::from_secs(1);
/// Requests that one HTTP/2 connection may have under way.
const STREAMS_MAX: u32 = 128;
/// Bytes of answers that one HTTP/2 stream may hold back; all of a connection's are bounded by
/// [`held`](crate::proxy::upstream::held).
const STREAM_BUFFER: usize = 256 * 1024;
/// Bytes of requests' bodies that an HTTP/2 connection may hold, and that one of its streams may.
const CONNECTION_WINDOW: u32 = 512 * 1024;
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
    let socket = TokioIo::new(Socket {
        stream,
        client: Rc::clone(&client),
        pacer: Rc::clone(&pacer),
    });
    let mut connection =
        std::pin::pin!(builder(&client).serve_connection(socket, load_shedding::around(&client)));
    let (mut draining, mut parting) = (false, false);
    std::future::poll_fn(|cx| {
        pacer.frames.borrow_mut().turn();
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(ConnectionEnd::Closed);
        }
        if client.worker.is_draining() && !std::mem::replace(&mut draining, true) {
            connection.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        let overdue = ready!(client.poll_overdue(cx));
        if overdue == Overdue::Idle && !std::mem::replace(&mut parting, true) {
            // A request may be on its way just now: the client can be told that it will not be
            // seen.
            connection.as_mut().graceful_shutdown();
            client.worker.wake();
            client.deadline.set(FAREWELL_TIME);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(ConnectionEnd::Overdue(overdue))
    })
    .await
}

/// Tasks of an HTTP/2 connection run in its worker.
#[derive(Clone, Copy, Debug)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        // As it is: a block that awaits it would hold it twice, as what it captures and as what it
        // awaits.
        tokio::task::spawn_local(future);
    }
}

fn builder(client: &ClientConnection) -> http2::Builder<Local> {
    let limits = client.listener.options.limits;
    let mut builder = http2::Builder::new(Local);
    builder
        .auto_date_header(false)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(STREAM_BUFFER)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
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
        Some(Poll::Ready(Ok(())))
    }
}

/// The socket of a client, as hyper sees it.
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
