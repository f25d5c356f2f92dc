//! A connection of a client from its first byte to its last, with an upstream that says what it
//! got.

use std::cell::OnceCell;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use super::model::{self, Framing, ModelRequest};
use super::model_chunked::{self, BodyEnd};
use super::stage::{TestWorker, service};
use super::{LIMITS, pieces};
use crate::net::ListenerOptions;
use crate::proxy::http1::HeadLimits;

/// Longer inputs are cut off, so that an input takes milliseconds.
const INPUT_MAX: usize = 1024;
/// How long anything may take; nothing does but for a fault.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the upstream takes: whatever the proxy adds.
const UPSTREAM_LIMITS: HeadLimits = HeadLimits {
    head_bytes: 64 * 1024,
    headers: 200,
    target_bytes: 16 * 1024,
};

thread_local! {
    static STAGE: OnceCell<TestWorker> = const { OnceCell::new() };
}

/// A connection of a client, in one piece and in several, held against the model.
pub fn connection(input: &[u8]) {
    let Some((seed, data)) = input.split_first() else {
        return;
    };
    let data = &data[..data.len().min(INPUT_MAX)];
    let Some(expected) = expect(data) else { return };
    STAGE.with(|stage| {
        let stage = stage.get_or_init(self::stage);
        expected.check(&run(stage, &[data], &expected), "in one piece");
        expected.check(&run(stage, &pieces(*seed, data), &expected), "in pieces");
    });
}

/// What the model says of a connection.
#[derive(Debug, Default)]
struct Expected {
    responses: Vec<Response>,
    /// Whether the proxy closes the connection after the last of them.
    closes: bool,
}

#[derive(Debug)]
struct Response {
    statuses: &'static [u16],
    body: Option<Vec<u8>>,
    to_head: bool,
    /// Whether the connection may end here, as the proxy did not wait for all of a body that it
    /// does not need.
    may_be_last: bool,
}

impl Response {
    fn refusal(statuses: &'static [u16]) -> Response {
        Response {
            statuses,
            body: None,
            to_head: false,
            may_be_last: false,
        }
    }
}

/// What a client got.
#[derive(Debug, Default)]
struct Transcript {
    responses: Vec<(u16, Vec<u8>)>,
    closed: bool,
}

impl Expected {
    fn check(&self, transcript: &Transcript, how: &str) {
        let got = &transcript.responses;
        for (response, (status, body)) in self.responses.iter().zip(got) {
            assert!(
                response.statuses.contains(status),
                "{how}: {self:#?} {transcript:?}"
            );
            let same = response
                .body
                .as_ref()
                .is_none_or(|expected| expected == body);
            assert!(same || *status != 200, "{how}: {self:#?} {transcript:?}");
        }
        let may_end = got.len().checked_sub(1).is_some_and(|last| {
            let last = self.responses.get(last);
            last.is_some_and(|last| last.may_be_last)
        });
        let ended = got.len() == self.responses.len() && self.closes == transcript.closed;
        assert!(
            ended || (may_end && transcript.closed),
            "{how}: {self:#?} {transcript:?}"
        );
    }
}

/// Reads a connection as the model does; `None` where something else decides.
fn expect(data: &[u8]) -> Option<Expected> {
    let mut expected = Expected::default();
    let mut rest = data;
    if rest.starts_with(b"PRI") {
        return None;
    }
    loop {
        let (head, length) = match model::request_head(rest, &LIMITS) {
            Ok(Some(head)) => head,
            Ok(None) => return Some(expected),
            Err(refused) => {
                let status = Response::refusal(status(refused));
                expected.responses.push(status);
                expected.closes = true;
                return Some(expected);
            }
        };
        // Loops are found by what the proxy itself writes.
        if head.fields.iter().any(|(name, _)| name == "via") {
            return None;
        }
        rest = &rest[length..];
        let (end, body) = body(&head, &mut rest);
        if let Some(response) = refusal(&head) {
            expected.responses.push(response);
            if end != BodyEnd::Whole || !head.keep_alive {
                expected.closes = true;
                return Some(expected);
            }
            continue;
        }
        match end {
            BodyEnd::Missing => return Some(expected),
            BodyEnd::Malformed => {
                let mut response = Response::refusal(&[400]);
                response.to_head = head.method == "HEAD";
                expected.responses.push(response);
                expected.closes = true;
                return Some(expected);
            }
            BodyEnd::Whole => {}
        }
        let to_head = head.method == "HEAD";
        expected.responses.push(Response {
            statuses: &[200],
            body: Some(if to_head {
                Vec::new()
            } else {
                describe(&head, &body)
            }),
            to_head,
            may_be_last: false,
        });
        if !head.keep_alive {
            expected.closes = true;
            return Some(expected);
        }
    }
}

fn status(refused: model::Refused) -> &'static [u16] {
    match refused {
        model::Refused::Malformed => &[400],
        model::Refused::TargetTooLong => &[414],
        model::Refused::HeadTooLarge => &[431],
        model::Refused::UnknownCoding => &[501],
        model::Refused::Version => &[505],
    }
}

/// Requests that are answered without the upstream.
fn refusal(head: &ModelRequest) -> Option<Response> {
    let statuses: &[u16] = match head.method.as_str() {
        "CONNECT" => &[501],
        _ if head.target == "*" => &[200, 404],
        _ => return None,
    };
    Some(Response {
        to_head: head.method == "HEAD",
        may_be_last: head.body != Framing::Length(0),
        ..Response::refusal(statuses)
    })
}

/// Takes the body of a request off the front of what follows its head.
fn body(head: &ModelRequest, rest: &mut &[u8]) -> (BodyEnd, Vec<u8>) {
    let length = match head.body {
        Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Framing::Chunked => {
            let body = model_chunked::chunked(rest, Some(LIMITS.headers));
            *rest = &rest[rest.len() - body.rest..];
            return (body.end, body.data);
        }
        Framing::Close => 0,
    };
    let Some((body, after)) = rest.split_at_checked(length) else {
        return (BodyEnd::Missing, Vec::new());
    };
    *rest = after;
    (BodyEnd::Whole, body.to_vec())
}

/// What the upstream says of a request.
fn describe(head: &ModelRequest, body: &[u8]) -> Vec<u8> {
    let line = format!("{} {} ", head.method, head.target);
    [line.as_bytes(), body].concat()
}

/// A worker, and an upstream that [answers](answer) in the same thread.
fn stage() -> TestWorker {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("its address");
    socket.set_nonblocking(true).expect("a socket");
    let mut options = ListenerOptions::default();
    options.limits.header_bytes = LIMITS.head_bytes;
    options.limits.headers = LIMITS.headers;
    options.limits.uri_bytes = LIMITS.target_bytes;
    let stage = TestWorker::new(&[service(address)], options);
    stage.runtime.block_on(async {
        let listener = TcpListener::from_std(socket).expect("a socket");
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(answer(stream));
            }
        });
    });
    stage
}

/// Sends these pieces over a connection, one after the other.
fn run(stage: &TestWorker, pieces: &[&[u8]], expected: &Expected) -> Transcript {
    stage.runtime.block_on(async {
        let talk = tokio::time::timeout(PATIENCE, talk(stage, pieces, expected));
        let talk = talk.await;
        talk.unwrap_or_else(|_| panic!("nothing comes any more: {expected:#?}"))
    })
}

async fn talk(stage: &TestWorker, pieces: &[&[u8]], expected: &Expected) -> Transcript {
    let (client, server) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    client.set_nonblocking(true).expect("a socket");
    let mut client = UnixStream::from_std(client).expect("a socket");
    let serving = tokio::task::spawn_local(stage.serve(server));
    for piece in pieces {
        if client.write_all(piece).await.is_err() {
            break;
        }
        if pieces.len() > 1 {
            // The runtime looks at its sockets with each of these.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
    }
    let transcript = listen(&mut client, expected).await;
    drop(client);
    serving.await.expect("the connection's task ends");
    transcript
}

/// Reads as many responses as are expected, and the end of the connection if that is.
async fn listen(client: &mut UnixStream, expected: &Expected) -> Transcript {
    let mut transcript = Transcript::default();
    let mut buffer = Vec::new();
    loop {
        while let Some(next) = expected.responses.get(transcript.responses.len()) {
            let Some((response, length)) = model::response(&buffer, next.to_head) else {
                break;
            };
            buffer.drain(..length);
            transcript.responses.push(response);
        }
        let complete = transcript.responses.len() == expected.responses.len();
        if complete && !expected.closes {
            return transcript;
        }
        if matches!(client.read_buf(&mut buffer).await, Ok(0) | Err(_)) {
            transcript.closed = true;
            assert_eq!(String::from_utf8_lossy(&buffer), "", "{transcript:?}");
            return transcript;
        }
    }
}

/// Describes each request of a connection in its response.
async fn answer(mut stream: tokio::net::TcpStream) {
    let mut buffer = Vec::new();
    let mut asked = false;
    loop {
        match model::request_head(&buffer, &UPSTREAM_LIMITS) {
            Ok(Some((head, length))) => {
                if head.expects_continue && !std::mem::replace(&mut asked, true) {
                    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
                    if stream.write_all(interim).await.is_err() {
                        return;
                    }
                }
                let mut rest = &buffer[length..];
                let (end, body) = body(&head, &mut rest);
                if end == BodyEnd::Whole {
                    let said = describe(&head, &body);
                    let line = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", said.len());
                    let mut response = line.into_bytes();
                    if head.method != "HEAD" {
                        response.extend_from_slice(&said);
                    }
                    let rest = rest.len();
                    buffer.drain(..buffer.len() - rest);
                    asked = false;
                    if stream.write_all(&response).await.is_err() {
                        return;
                    }
                    continue;
                }
                assert_ne!(end, BodyEnd::Malformed, "what the upstream got");
            }
            Ok(None) => {}
            Err(refused) => panic!(
                "the upstream got what is {refused:?}: {}",
                String::from_utf8_lossy(&buffer)
            ),
        }
        if matches!(stream.read_buf(&mut buffer).await, Ok(0) | Err(_)) {
            return;
        }
    }
}
