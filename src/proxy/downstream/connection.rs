//! One client connection, from its first byte to its last.
//!
//! [`http1`] serves it, unless it begins with the preface of HTTP/2: then [`http2`] does.

mod end;
mod http1;
mod http2;
mod link;
mod output;

use std::rc::Rc;
use std::time::Duration;

use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::end::ConnectionEnd;
use self::link::Link;
use crate::net::Stream;
use crate::proxy::error::Error;
use crate::proxy::request::access::unknown;
use crate::proxy::worker::client::{ClientConnection, Overdue};
use crate::stats::{MethodLabel, Reason, RequestLabels};
use crate::telemetry::AccessRecord;

/// How much of what a client still sends is read and thrown away, so that it gets to read why it is
/// let go.
const LINGER_BYTES: usize = 1024 * 1024;
/// How long that may take.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Serves a connection until it ends.
pub(crate) async fn serve(client: Rc<ClientConnection>, stream: Stream) {
    let link = Link::new(Rc::clone(&client), stream);
    // On the heap, since the state of a request is large, and would otherwise be moved several
    // times on its way there.
    let mut end = Box::pin(http1::serve(&link)).await;
    let (mut stream, begun) = link.into_parts().unzip();
    if matches!(end, ConnectionEnd::Http2)
        && let Some(stream) = stream.take()
    {
        end = Box::pin(http2::serve(
            Rc::clone(&client),
            stream,
            &begun.unwrap_or_default(),
        ))
        .await;
    }
    match end {
        ConnectionEnd::Closed
        | ConnectionEnd::Http2
        | ConnectionEnd::Done { lingers: false }
        | ConnectionEnd::Overdue(Overdue::Idle | Overdue::Write) => {}
        ConnectionEnd::Done { lingers: true } => {
            if let Some(stream) = stream {
                linger(stream, b"").await;
            }
        }
        ConnectionEnd::Overdue(Overdue::Head) => {
            let error = Error::new(
                Reason::HeaderTimeout,
                "the request's head did not come in time",
            );
            refuse(&client, stream, error).await;
        }
        ConnectionEnd::Refused(error) => refuse(&client, stream, error).await,
    }
}

/// Tells a client why it is not served, and closes the connection so that it can read that.
async fn refuse(client: &ClientConnection, stream: Option<Stream>, error: Error) {
    count(client, &error);
    client.worker.wake();
    let id = client.worker.new_request_id();
    let answer = error.response(Some(&id));
    log(client, &error, id, answer.body().len());
    if let Some(stream) = stream {
        linger(stream, &Error::last_words(answer)).await;
    }
}

/// Counts a refusal of which no request came.
fn count(client: &ClientConnection, error: &Error) {
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
fn log(client: &ClientConnection, error: &Error, id: HeaderValue, bytes: usize) {
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

/// Writes what there is to say, and closes the connection so that the client can read it: while it
/// goes on sending, a bounded part of that is read.
async fn linger(mut stream: Stream, words: &[u8]) {
    let farewell = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        let mut scrap = vec![0; 4096];
        let mut read = 0;
        while read < LINGER_BYTES {
            match stream.read(&mut scrap).await? {
                0 => break,
                bytes => read += bytes,
            }
        }
        std::io::Result::Ok(())
    };
    // Whether the client stays to read it is its own affair.
    let _ = tokio::time::timeout(LINGER_TIME, farewell).await;
}
