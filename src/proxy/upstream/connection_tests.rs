use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::proxy::upstream::BodyAborted;
use crate::proxy::upstream::forwarded_headers::samples::hop;
use crate::proxy::upstream::revision_guard::UnsentRequests;
use crate::routing::{KeyRegistry, Publisher, RoutingTable};

/// A publisher of empty tables, and the requests of one worker that are under them.
fn unsent() -> (Publisher, Rc<UnsentRequests>) {
    let publisher = Publisher::new(RoutingTable::build(
        &[],
        |_| None,
        &mut KeyRegistry::new(),
        None,
    ));
    let unsent = UnsentRequests::new(publisher.register(Box::new(|| {})));
    (publisher, unsent)
}

fn publish(publisher: &Publisher) -> u64 {
    publisher.update(|_| {
        Some(RoutingTable::build(
            &[],
            |_| None,
            &mut KeyRegistry::new(),
            None,
        ))
    })
}

/// A connection, and the upstream's end of it.
async fn connected() -> (UpstreamConnection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connection = UpstreamConnection::open(address, &Buffers::new())
        .await
        .unwrap();
    (connection, listener.accept().await.unwrap().0)
}

/// The body of a request that has none.
#[derive(Debug, Default)]
struct NoBody;

impl http_body::Body for NoBody {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        Poll::Ready(None)
    }
}

impl OutboundBody for NoBody {
    fn is_none(&self) -> bool {
        true
    }

    fn is_streamed(&self) -> bool {
        false
    }

    fn unread(&mut self, _: Frame<Bytes>) {}

    fn deadline(&self, _: Duration) -> Option<Deadline> {
        None
    }

    fn poll_stuck(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

fn get(method: Method) -> Request<NoBody> {
    Request::builder()
        .method(method)
        .uri("/")
        .body(NoBody)
        .unwrap()
}

/// What became of an exchange.
#[derive(Debug, Default)]
struct Outcome {
    status: u16,
    body: Vec<u8>,
    trailers: HeaderMap,
    /// Of a body, or of the head when there is no status.
    fault: Option<UpstreamFault>,
    connection: Option<UpstreamConnection>,
}

/// Asks an upstream that answers with `pieces`, each when the one before has been taken in, and
/// then closes if told so.
async fn ask(method: Method, pieces: &[&[u8]], closes: bool) -> Outcome {
    let (connection, mut upstream) = connected().await;
    upstream.set_nodelay(true).unwrap();
    let (_publisher, unsent) = unsent();
    let answering = async {
        let mut scrap = [0; 1024];
        let read = upstream.read(&mut scrap).await.unwrap();
        assert!(scrap[..read].ends_with(b"\r\n\r\n"));
        for piece in pieces {
            if upstream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if closes {
            drop(upstream);
            None
        } else {
            Some(upstream)
        }
    };
    let asking = async {
        match connection
            .send(&mut get(method), hop(), unsent.enter(1), &Heard::default())
            .await
        {
            Ok(answer) => read(answer).await,
            Err(error) => Outcome {
                fault: Some(error.fault),
                ..Outcome::default()
            },
        }
    };
    tokio::join!(asking, answering).0
}

async fn read(answer: Response<Body>) -> Outcome {
    let mut outcome = Outcome {
        status: answer.status().as_u16(),
        ..Outcome::default()
    };
    let mut body = answer.into_body();
    while !body.is_end_stream() {
        match std::future::poll_fn(|cx| body.poll_frame(cx)).await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => outcome.body.extend_from_slice(data.chunk()),
                Err(other) => outcome.trailers = other.into_trailers().unwrap(),
            },
            Some(Err(fault)) => {
                outcome.fault = Some(fault);
                return outcome;
            }
            None => break,
        }
    }
    outcome.connection = body.into_connection();
    outcome
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: \
                       chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nX-T: v\r\n\r\n";

#[tokio::test]
async fn an_answer_is_the_same_byte_by_byte() {
    for (text, status, body, kept) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
            200,
            "abcde",
            true,
        ),
        (CHUNKED, 200, "abcde", true),
        (
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            404,
            "",
            true,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
            304,
            "",
            true,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
            200,
            "abcde",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nabcde",
            200,
            "abcde",
            false,
        ),
    ] {
        let single: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        for pieces in [single, vec![text.as_bytes()]] {
            let outcome = ask(Method::GET, &pieces, false).await;
            assert!(outcome.fault.is_none(), "{text:?}: {outcome:?}");
            assert_eq!(
                (outcome.status, &*outcome.body),
                (status, body.as_bytes()),
                "{text:?}"
            );
            assert_eq!(outcome.trailers.len(), usize::from(text == CHUNKED));
            assert_eq!(outcome.connection.is_some(), kept, "{text:?}");
        }
    }
    let head = ask(
        Method::HEAD,
        &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"],
        false,
    )
    .await;
    assert!(head.fault.is_none() && head.body.is_empty() && head.connection.is_some());
}

#[tokio::test]
async fn the_end_of_the_connection_ends_only_what_it_may() {
    let whole = ask(Method::GET, &[b"HTTP/1.1 200 OK\r\n\r\nabc", b"de"], true).await;
    assert_eq!((whole.fault.is_none(), &*whole.body), (true, &b"abcde"[..]));
    assert!(whole.connection.is_none());
    let texts = [CHUNKED, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"];
    for text in texts {
        for end in 0..text.len() {
            let part = ask(Method::GET, &[&text.as_bytes()[..end]], true).await;
            assert!(
                matches!(
                    part.fault,
                    Some(UpstreamFault::Closed | UpstreamFault::Io(_))
                ),
                "{end} bytes: {part:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_comes_after_the_answer_makes_the_connection_useless() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n",
    ] {
        let outcome = ask(Method::GET, &[text.as_bytes()], false).await;
        assert!(
            outcome.fault.is_none() && outcome.connection.is_none(),
            "{text:?}"
        );
    }
    let head = ask(
        Method::HEAD,
        &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"],
        false,
    )
    .await;
    assert!(head.fault.is_none() && head.body.is_empty() && head.connection.is_none());
}

#[tokio::test]
async fn nonsense_is_told_from_a_closed_connection() {
    for (text, nonsense) in [
        ("", false),
        ("HTTP/1.1 200", false),
        ("no", true),
        ("HTTP/1.1 2x0 OK\r\n\r\n", true),
    ] {
        let fault = ask(Method::GET, &[text.as_bytes()], true)
            .await
            .fault
            .unwrap();
        assert_eq!(fault.is_nonsense(), nonsense, "{text:?}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_open_while_the_upstream_says_nothing() {
    let (connection, mut upstream) = connected().await;
    assert!(connection.is_open());
    upstream.write_all(b"x").await.unwrap();
    connection.stream.readable().await.unwrap();
    assert!(!connection.is_open(), "something was said unasked");
    let (connection, upstream) = connected().await;
    assert!(connection.is_open());
    drop(upstream);
    connection.stream.readable().await.unwrap();
    assert!(!connection.is_open(), "it was closed");
}

#[tokio::test]
async fn a_large_body_comes_whole() {
    const LENGTH: usize = 4 * 1024 * 1024;
    let (connection, mut upstream) = connected().await;
    let (_publisher, unsent) = unsent();
    let pattern: Bytes = (0..LENGTH)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    let sent = pattern.clone();
    let sending = tokio::spawn(async move {
        // A socket that is closed with something unread resets the connection.
        let _ = upstream.read(&mut [0; 1024]).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        upstream.write_all(head.as_bytes()).await.unwrap();
        upstream.write_all(&sent).await.unwrap();
        upstream
    });
    let answer = connection
        .send(
            &mut get(Method::GET),
            hop(),
            unsent.enter(1),
            &Heard::default(),
        )
        .await
        .unwrap();
    let outcome = read(answer).await;
    assert!(outcome.fault.is_none() && outcome.body == pattern && outcome.connection.is_some());
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn the_ticket_is_given_up_with_the_first_byte() {
    let (connection, mut upstream) = connected().await;
    let (publisher, unsent) = unsent();
    let ticket = unsent.enter(1);
    let revision = publish(&publisher);
    unsent.advance(revision);
    let acknowledged = || {
        let all = publisher.acknowledged(revision);
        futures_util::FutureExt::now_or_never(all).is_some()
    };
    let mut request = get(Method::GET);
    let heard = Heard::default();
    let mut sending = Box::pin(connection.send(&mut request, hop(), ticket, &heard));
    assert!(
        !acknowledged(),
        "a request that is not written may still start"
    );
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(sending.as_mut().poll(&mut cx).is_pending());
    assert!(acknowledged(), "its answer is not waited for");
    assert_ne!(upstream.read(&mut [0; 64]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_that_is_given_up_gives_its_ticket_up() {
    let (connection, _upstream) = connected().await;
    let (publisher, unsent) = unsent();
    let ticket = unsent.enter(1);
    let revision = publish(&publisher);
    unsent.advance(revision);
    drop(connection.send(&mut get(Method::GET), hop(), ticket, &Heard::default()));
    assert!(futures_util::FutureExt::now_or_never(publisher.acknowledged(revision)).is_some());
}

#[tokio::test]
async fn a_failure_tells_what_had_happened_before_it() {
    let (_publisher, unsent) = unsent();
    for text in ["", "HTTP/1.1 2"] {
        let (connection, mut upstream) = connected().await;
        let answering = async {
            let _ = upstream.read(&mut [0; 64]).await.unwrap();
            upstream.write_all(text.as_bytes()).await.unwrap();
            drop(upstream);
        };
        let mut request = get(Method::GET);
        let heard = Heard::default();
        let sending = connection.send(&mut request, hop(), unsent.enter(1), &heard);
        let (failed, ()) = tokio::join!(sending, answering);
        let failed = failed.unwrap_err();
        assert_eq!((failed.unsent, failed.answered), (false, !text.is_empty()));
    }
    // A connection that is known to be dead takes nothing.
    let (mut connection, _upstream) = connected().await;
    AsyncWriteExt::shutdown(&mut connection.stream)
        .await
        .unwrap();
    let mut request = get(Method::POST);
    request.headers_mut().insert("x-a", "b".parse().unwrap());
    let failed = connection
        .send(&mut request, hop(), unsent.enter(1), &Heard::default())
        .await
        .unwrap_err();
    assert!(failed.unsent && !failed.answered);
    assert_eq!(request.headers()["x-a"], "b");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_answer_is_the_same_however_it_is_cut(cuts in proptest::collection::vec(1_usize..40, 0..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut rest = CHUNKED.as_bytes();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let outcome = runtime.block_on(ask(Method::GET, &pieces, false));
        prop_assert!(outcome.fault.is_none() && outcome.connection.is_some());
        prop_assert_eq!((&*outcome.body, outcome.trailers.len()), (&b"abcde"[..], 1));
    }
}
