//! A request of the program's own to an endpoint, to see whether it answers: on a connection of its
//! own, and of the answer only the status. These are not requests of users: nothing of them is
//! counted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, USER_AGENT};
use http::{HeaderValue, Request};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::net::is_local;

/// A request without a body.
pub(crate) type Probe = Request<Empty<Bytes>>;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeError {
    /// This machine cannot open another connection, which says nothing of the endpoint.
    #[error("no connection: {0}")]
    Local(String),
    /// The endpoint did not take the connection, or did not answer.
    #[error("{0}")]
    Endpoint(String),
}

/// Sends `probe` to `address`, with `agent` for its name; gives the status of the answer.
///
/// # Errors
///
/// Why there is none within `time`, in words.
pub(crate) async fn ask(
    address: SocketAddr,
    mut probe: Probe,
    agent: &'static str,
    time: Duration,
) -> Result<u16, ProbeError> {
    complete(probe.headers_mut(), address, agent);
    let answered = tokio::time::timeout(time, send(address, probe)).await;
    answered.unwrap_or_else(|_| Err(ProbeError::Endpoint(format!("no response within {time:?}"))))
}

/// The fields that every request has, unless the caller wants them otherwise.
fn complete(fields: &mut HeaderMap, address: SocketAddr, agent: &'static str) {
    if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
        fields.entry(HOST).or_insert(host);
    }
    fields
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static(agent));
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
}

async fn send(address: SocketAddr, probe: Probe) -> Result<u16, ProbeError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| unconnected(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ProbeError::Endpoint(error.to_string()))?;
    // The connection may take in the answer and end in one go; the answer is then there all the
    // same, or an error.
    let ended = async {
        let _ = connection.await;
        std::future::pending::<Result<_, _>>().await
    };
    let answer = tokio::select! {
        answer = sender.send_request(probe) => answer,
        never = ended => never,
    };
    answer
        .map(|answer| answer.status().as_u16())
        .map_err(|error| ProbeError::Endpoint(format!("no answer: {error}")))
}

fn unconnected(error: &io::Error) -> ProbeError {
    if is_local(error) {
        ProbeError::Local(error.to_string())
    } else {
        ProbeError::Endpoint(format!("no connection: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_answer_counts_although_the_connection_ends_with_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let mut head = Vec::new();
            for _ in 0..50 {
                let (mut stream, _) = listener.accept().await.unwrap();
                head = vec![0; 1024];
                let length = stream.read(&mut head).await.unwrap();
                head.truncate(length);
                stream
                    .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                    .await
                    .unwrap();
            }
            String::from_utf8(head).unwrap()
        });
        for _ in 0..50 {
            assert_eq!(
                ask(address, Probe::default(), "test/1", LONG).await,
                Ok(204)
            );
        }
        let asked = asked.await.unwrap().to_ascii_lowercase();
        for field in [
            &format!("host: {address}"),
            "user-agent: test/1",
            "connection: close",
        ] {
            assert!(asked.contains(field), "{asked}");
        }
    }

    #[tokio::test]
    async fn silence_is_told_when_the_time_is_over() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let time = Duration::from_millis(10);
        let told = ask(address, Probe::default(), "test/1", time)
            .await
            .unwrap_err();
        assert_eq!(told, ProbeError::Endpoint("no response within 10ms".into()));
    }
}
