//! Bodies and trailers: streamed with backpressure, complete or visibly truncated.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;

use crate::harness::{Gate, Http2, Proxy, Upstream, block_on, eventually, settled, shop};

const PIECE: usize = 64 * 1024;
/// More than all socket buffers on the path can hold.
const LARGE: usize = 1024 * PIECE;
/// Bound on what they hold: far less than the whole body.
const IN_BUFFERS: usize = LARGE * 3 / 4;

/// An upstream that responds with a large body and counts the bytes that it could write.
fn large() -> (Upstream, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let upstream = Upstream::start(move |call| {
        call.write(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
        ))
        .unwrap();
        for _ in 0..LARGE / PIECE {
            if call.write([b'x'; PIECE]).is_err() {
                return call.close();
            }
            counter.fetch_add(PIECE, SeqCst);
        }
    });
    (upstream, written)
}

#[test]
fn a_client_that_does_not_read_stops_the_upstream_and_still_gets_the_whole_body() {
    let (upstream, written) = large();
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    client.ask("/", "").head().unwrap();
    let held = settled("the upstream is stopped", || written.load(SeqCst));
    assert!(
        held < IN_BUFFERS,
        "{held} bytes were read for a client that reads nothing"
    );
    assert!(
        client
            .wire
            .exactly(LARGE)
            .unwrap()
            .iter()
            .all(|byte| *byte == b'x')
    );
    assert_eq!(written.load(SeqCst), LARGE);
}

#[test]
fn an_http2_stream_that_is_not_read_stops_its_upstream_and_no_other_stream() {
    let (upstream, written) = large();
    let other = Upstream::named("other");
    let proxy = Proxy::start(serde_json::json!({ "services": {
        "large": { "routes": [{}], "upstreams": { "only": { "endpoints": [upstream.address] } } },
        "other": { "routes": [{ "path_prefix": "/other" }],
            "upstreams": { "only": { "endpoints": [other.address] } } },
    }}));
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        let request = Http2::request("/")
            .body(Empty::new().map_err(|never| match never {}).boxed())
            .unwrap();
        let response = client.head(request).await;
        let held = settled("the upstream is stopped", || written.load(SeqCst));
        assert!(
            held < IN_BUFFERS,
            "{held} bytes were read for a stream that is not read"
        );
        assert_eq!(client.get("/other").await.text, "other");
        assert_eq!(
            response
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .len(),
            LARGE
        );
    });
}

#[test]
fn an_upstream_that_does_not_read_stops_the_client_and_still_gets_the_whole_body() {
    let gate = Arc::new(Gate::default());
    let script_gate = Arc::clone(&gate);
    let upstream = Upstream::start(move |call| {
        script_gate.wait();
        let body = call.body().unwrap();
        call.ok(body.len().to_string());
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for _ in 0..LARGE / PIECE {
                client.wire.write([b'x'; PIECE]).unwrap();
                sent.fetch_add(PIECE, SeqCst);
            }
            client.receive().expect(200).text()
        });
        let held = settled("the client is stopped", || sent.load(SeqCst));
        assert!(
            held < IN_BUFFERS,
            "{held} bytes were read for an upstream that reads nothing"
        );
        gate.open();
        assert_eq!(sending.join().unwrap(), LARGE.to_string());
    });
}

#[test]
fn chunks_are_forwarded_in_both_directions_as_they_arrive() {
    // The upstream echoes each chunk of the request, so neither side continues before the other's
    // chunk has been forwarded.
    let upstream = Upstream::start(|call| {
        call.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        while let Some(chunk) = call.chunk() {
            let echo = format!(
                "{:x}\r\n{}\r\n",
                chunk.len(),
                String::from_utf8(chunk).unwrap()
            );
            call.write(echo).unwrap();
        }
        call.write("0\r\n\r\n").unwrap();
        call.close();
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(client.head().unwrap().is_chunked());
    for piece in ["a", "bb", "ccc"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(client.wire.chunk().unwrap(), Ok(piece.into()));
    }
    assert_eq!(
        client.send("0\r\n\r\n").wire.chunk().unwrap(),
        Err(Vec::new())
    );
}

#[test]
fn trailers_are_forwarded_in_both_directions() {
    let upstream = Upstream::start(|call| {
        call.body().unwrap();
        let head = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
        call.write(format!("{head}2\r\nok\r\n0\r\nX-Sum: down\r\n\r\n"))
            .unwrap();
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    let head = "POST / HTTP/1.1\r\nHost: shop.test\r\nTE: trailers\r\nTrailer: \
                X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    let response = client
        .send(format!("{head}2\r\nhi\r\n0\r\nX-Sum: up\r\n\r\n"))
        .receive()
        .expect(200);
    assert_eq!(
        (response.text().as_str(), &*response.trailers),
        ("ok", &[("x-sum".into(), "down".into())][..])
    );
    let up = [("x-sum".to_owned(), "up".to_owned())];
    assert_eq!(
        (upstream.last().body.as_deref(), &*upstream.last().trailers),
        (Some(&b"hi"[..]), &up[..])
    );
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", "up".parse().unwrap());
        let frames = [
            Ok(Frame::data(Bytes::from("hi"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
        let request = http::Request::post("http://shop.test/").header("te", "trailers");
        let request = request.header("trailer", "X-Sum").body(body).unwrap();
        let response = client.send(request).await;
        assert_eq!((response.status, &*response.text), (200, "ok"));
        assert_eq!(response.trailers.unwrap()["x-sum"], "down");
    });
    assert_eq!(
        (upstream.last().body.as_deref(), &*upstream.last().trailers),
        (Some(&b"hi"[..]), &up[..])
    );
}

#[test]
fn an_http2_upload_of_known_length_keeps_its_content_length() {
    let upstream = Upstream::start(|call| {
        let body = call.body().unwrap();
        call.ok(body);
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        let body = Full::new(Bytes::from("hello"))
            .map_err(|never| match never {})
            .boxed();
        let request = http::Request::post("http://shop.test/")
            .header("content-length", "5")
            .body(body)
            .unwrap();
        assert_eq!(client.send(request).await.text, "hello");
    });
    assert_eq!(
        upstream.last().header("content-length").as_deref(),
        Some("5")
    );
    assert_eq!(upstream.last().header("transfer-encoding"), None);
}

#[test]
fn responses_without_a_body_end_after_their_head() {
    let upstream = Upstream::start(|call| match call.path() {
        "/head" => call
            .write("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
            .unwrap(),
        "/204" => call.write("HTTP/1.1 204 No Content\r\n\r\n").unwrap(),
        "/304" => call
            .write("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 500\r\n\r\n")
            .unwrap(),
        "/empty" => call.ok(""),
        _ => call.ok("body"),
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("HEAD /head HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        let head = client.head().unwrap();
        assert_eq!(
            (head.first.as_str(), head.length()),
            ("HTTP/1.1 200 OK", Some(12345))
        );
        let no_content = client.get("/204").expect(204);
        assert_eq!(
            (
                no_content.header("content-length"),
                no_content.header("transfer-encoding")
            ),
            (None, None)
        );
        let unchanged = client.get("/304").expect(304);
        assert_eq!(
            (
                unchanged.header("etag").as_deref(),
                unchanged.header("transfer-encoding")
            ),
            (Some("\"x\""), None)
        );
        assert_eq!(client.get("/empty").expect(200).text(), "");
        assert_eq!(client.get("/body").expect(200).text(), "body");
    }
    // All on one connection on each side: neither side waited for a body.
    assert!(
        upstream
            .seen()
            .iter()
            .all(|request| request.connection == 0)
    );
}

#[test]
fn pipelined_requests_get_responses_in_order() {
    let upstream = Upstream::start(|call| {
        let path = call.path().to_owned();
        call.ok(path);
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    let all: String = (0..20)
        .map(|at| match at % 3 {
            0 => format!("POST /{at} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\n\r\nabc"),
            1 => format!(
                "POST /{at} HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: \
                 chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
            ),
            _ => format!("GET /{at} HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
        })
        .collect();
    client.send(all);
    for at in 0..20 {
        assert_eq!(client.receive().expect(200).text(), format!("/{at}"));
    }
}

#[test]
fn interim_responses_are_not_taken_for_the_final_one() {
    let upstream = Upstream::start(|call| {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
        call.write(format!(
            "{early}{}",
            "HTTP/1.1 102 Processing\r\n\r\n".repeat(20)
        ))
        .unwrap();
        call.ok("final");
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    for _ in 0..3 {
        // They may be forwarded or not; the final response must follow.
        client.ask("/", "");
        let last = std::iter::repeat_with(|| client.receive())
            .find(|response| response.status >= 200)
            .unwrap();
        assert_eq!((last.status, last.text().as_str()), (200, "final"));
    }
}

#[test]
fn a_response_before_the_end_of_the_upload_is_forwarded() {
    let upstream = Upstream::start(|call| {
        call.write("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
            .unwrap();
        let _ = call.body();
        call.close();
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    let early = client
        .send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100000\r\n\r\nabc")
        .receive();
    assert_eq!((early.status, early.text().as_str()), (413, "big"));
    assert_eq!(
        early.header("proxy-status"),
        None,
        "the upstream's own response was marked as the proxy's"
    );
    eventually("the next request is served", || {
        Proxy::get(&proxy, "/").status == 413
    });
}

#[test]
fn the_received_part_of_a_truncated_response_is_forwarded() {
    let upstream = Upstream::start(|call| {
        let part = match call.path() {
            "/head" => "Content-Length: 20\r\n\r\n",
            "/chunked" => "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
            _ => "Content-Length: 20\r\n\r\nok",
        };
        call.write(format!("HTTP/1.1 200 OK\r\n{part}")).unwrap();
        call.close();
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    // Repeated, since the end may arrive together with the beginning.
    for _ in 0..20 {
        let mut client = proxy.client();
        assert_eq!(client.ask("/head", "").head().unwrap().length(), Some(20));
        assert!(client.wire.closes());
        let mut client = proxy.client();
        assert_eq!(client.ask("/part", "").head().unwrap().length(), Some(20));
        assert_eq!(client.wire.exactly(2).unwrap(), b"ok");
        assert!(client.wire.closes());
        let mut client = proxy.client();
        assert!(client.ask("/chunked", "").head().unwrap().is_chunked());
        assert_eq!(client.wire.chunk().unwrap().unwrap(), b"ok");
        // Without the last chunk, which would complete the body.
        assert!(client.wire.closes());
    }
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        for _ in 0..20 {
            let request = Http2::request("/part")
                .body(Empty::new().map_err(|never| match never {}).boxed())
                .unwrap();
            let mut response = client.head(request).await;
            assert_eq!(response.status(), 200);
            let piece = response.body_mut().frame().await.unwrap().unwrap();
            assert_eq!(piece.into_data().unwrap(), "ok");
            assert!(response.body_mut().frame().await.unwrap().is_err());
        }
    });
    proxy.counts_reason("reset", 80);
}
