//! One client connection, from its first byte to its last.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Client, ClientStream, Overdue};
use super::error::Error;
use super::handle::unknown;
use super::rim;
use crate::stats::{MethodLabel, Reason, RequestLabels};
use crate::telemetry::AccessRecord;

/// How much of what a refused client still sends is read and thrown away, so that it gets to read why.
const LINGER_BYTES: usize = 1024 * 1024;
/// How long that may take.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How long a client that is told of the end of an idle connection has to say that it has heard it.
const FAREWELL_TIME: Duration = Duration::from_secs(1);
/// Requests that one HTTP/2 connection may have under way.
const STREAMS_MAX: u32 = 128;
/// Bytes of answers that one HTTP/2 stream may hold back; all of a connection's are bounded by [`held`](super::held).
const STREAM_BUFFER: usize = 256 * 1024;
/// Bytes of requests' bodies that an HTTP/2 connection may hold, and that one of its streams may.
const CONNECTION_WINDOW: u32 = 512 * 1024;
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that a list of fields may come to in HTTP/2, where a byte can stand for a whole field.
const HEADER_LIST_MAX: usize = 32 * 1024;
/// Fields of a request's head that hyper takes unless told otherwise.
const HYPER_HEADERS_MAX: usize = 100;

/// Serves a connection until it ends.
pub(crate) async fn serve(client: Rc<Client>, stream: TcpStream) {
    let stream = Rc::new(RefCell::new(stream));
    let socket = TokioIo::new(ClientStream::new(Rc::clone(&stream), Rc::clone(&client)));
    let builder = builder(&client);
    let end = {
        let service = rim::around(&client);
        let mut connection = std::pin::pin!(builder.serve_connection(socket, service));
        let (mut draining, mut parting) = (false, false);
        std::future::poll_fn(|cx| {
            client.turn();
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending() && client.worker.is_draining() && !std::mem::replace(&mut draining, true) {
                connection.as_mut().graceful_shutdown();
                cx.waker().wake_by_ref();
            }
            let end = std::task::ready!(watch(&client, polled, cx));
            if matches!(end, End::Overdue(Overdue::Idle)) && !std::mem::replace(&mut parting, true) {
                // A request may be on its way just now: HTTP/2 can tell its client that it will not be seen.
                connection.as_mut().graceful_shutdown();
                client.worker.rouse();
                client.deadline.set(FAREWELL_TIME);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(end)
        })
        .await
    };
    match end {
        End::Closed => {}
        End::Overdue(Overdue::Idle | Overdue::Write) => {}
        End::Overdue(Overdue::Head) => {
            let error = Error::new(Reason::HeaderTimeout, "the request's head did not come in time");
            refuse(&client, stream, error).await;
        }
        End::Refused(error) => refuse(&client, stream, error).await,
    }
}

/// How a connection ended.
enum End {
    /// By itself, on either side.
    Closed,
    /// The client sent what is not passed on.
    Refused(Error),
    /// The client took too long.
    Overdue(Overdue),
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// Whether the parser has refused what the gate let through. It is not known to, and would do so in no log.
fn is_parse_error(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
}

/// Looks, whenever the connection has been polled, whether it has to end.
fn watch(client: &Client, polled: Poll<Result<(), ConnectionError>>, cx: &Context<'_>) -> Poll<End> {
    if let Poll::Ready(ended) = polled {
        if ended.is_err_and(|error| is_parse_error(&*error)) && client.refusal().is_none() {
            // The parser has told the client already, in its own words.
            let error = Error::new(Reason::BadRequest, "the request's head is malformed");
            count(client, &error);
            log(client, &error, client.worker.new_request_id(), 0);
        }
        return Poll::Ready(End::Closed);
    }
    if let Some(refusal) = client.refusal() {
        return Poll::Ready(End::Refused(refusal.into()));
    }
    while client.deadline.poll(cx).is_ready() {
        if let Some(overdue) = client.overdue(client.worker.deadlines.coarse()) {
            return Poll::Ready(End::Overdue(overdue));
        }
    }
    Poll::Pending
}

/// Tasks of an HTTP/2 connection run in its worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        // As it is: a block that awaits it would hold it twice, as what it captures and as what it awaits.
        tokio::task::spawn_local(future);
    }
}

fn builder(client: &Client) -> auto::Builder<Local> {
    let limits = client.listener.options.limits;
    let mut builder = auto::Builder::new(Local);
    // The gate has already refused what exceeds the limits; these only have to leave it room. Where hyper's own limit
    // does, its parser works on the stack; told of any, it asks the allocator twice for each request.
    if limits.headers > HYPER_HEADERS_MAX {
        builder.http1().max_headers(limits.headers);
    }
    builder
        .http1()
        .auto_date_header(false)
        .max_buf_size(limits.header_bytes.max(64 * 1024) + 8 * 1024);
    builder
        .http2()
        .auto_date_header(false)
        .max_concurrent_streams(STREAMS_MAX)
        .max_send_buf_size(STREAM_BUFFER)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_header_list_size(u32::try_from(limits.header_bytes.min(HEADER_LIST_MAX)).unwrap_or(u32::MAX));
    builder
}

/// Tells a client why it is not served, and closes the connection so that it can read that.
async fn refuse(client: &Client, stream: Rc<RefCell<TcpStream>>, error: Error) {
    count(client, &error);
    client.worker.rouse();
    let id = client.worker.new_request_id();
    let answer = error.response(Some(&id));
    log(client, &error, id, answer.body().len());
    if let Some(stream) = Rc::into_inner(stream) {
        let farewell = part(stream.into_inner(), Error::last_words(answer));
        // Whether the client stays to read it is its own affair.
        let _ = tokio::time::timeout(LINGER_TIME, farewell).await;
    }
}

/// Counts a refusal of which no request came.
fn count(client: &Client, error: &Error) {
    let listener = client.listener.index;
    let mut recorder = client.worker.recorder.borrow_mut();
    recorder.reject(Some(listener), None, error.reason);
    recorder.count(RequestLabels {
        listener,
        upstream: None,
        method: MethodLabel::Other,
        status: error.status().as_u16(),
    });
}

/// Tells the access log of a connection that is refused, as far as anything is known of it.
fn log(client: &Client, error: &Error, id: HeaderValue, bytes: usize) {
    let log = &client.worker.access_log;
    if log.enabled() {
        log.log(AccessRecord {
            status: error.status().as_u16(),
            outcome: error.outcome(),
            reason: Some(error.reason.as_str()),
            bytes_out: bytes as u64,
            request_id: Some(id),
            ..unknown(client)
        });
    }
}

async fn part(mut stream: TcpStream, words: Vec<u8>) -> std::io::Result<()> {
    stream.write_all(&words).await?;
    stream.shutdown().await?;
    let mut scrap = [0; 4096];
    let mut read = 0;
    while read < LINGER_BYTES {
        match stream.read(&mut scrap).await? {
            0 => break,
            bytes => read += bytes,
        }
    }
    Ok(())
}
