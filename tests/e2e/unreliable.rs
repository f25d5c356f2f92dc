//! Aborts on either side: a truncated message never looks complete, only safe requests are retried,
//! and a client abort does not count against the upstream.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};

use crate::errors::is_refusal;
use crate::harness::{Http2, Proxy, Upstream, block_on, eventually, shop};

fn one_worker(upstream: &Upstream) -> Proxy {
    Proxy::start(json!({ "workers": 1, "services": { "shop": shop(upstream, upstream) } }))
}

fn post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\n\r\nabc")
}

fn classes(proxy: &Proxy) -> Value {
    proxy.service()["upstreams"]["blue"]["windows"]["1m"]["classes"].clone()
}

/// Aborts by path: after the head or within the body, with a close or a reset.
fn aborting() -> Upstream {
    Upstream::start(|call| {
        call.body().unwrap();
        let (kind, end) = call.path()[1..]
            .split_once('/')
            .map(|(k, e)| (k.to_owned(), e.to_owned()))
            .unwrap();
        let part = match &*kind {
            "length" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
            "chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
            "chunk" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nshort",
            "trailers" => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\nX-T: 1\r\n"
            }
            "close" => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nshort",
            other => panic!("{other}"),
        };
        call.write(part).unwrap();
        if end == "reset" {
            call.reset()
        } else {
            call.close()
        }
    })
}

const BREAKS: [&str; 9] = [
    "/length/close",
    "/length/reset",
    "/chunked/close",
    "/chunked/reset",
    "/chunk/close",
    "/chunk/reset",
    "/trailers/close",
    "/trailers/reset",
    "/close/reset",
];

#[test]
fn a_truncated_response_never_looks_complete() {
    let upstream = aborting();
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    for path in BREAKS {
        // The reset may arrive before the head is read; then the proxy could still respond 502.
        match proxy.client().ask(path, "").try_receive() {
            Ok(response) => {
                assert_eq!(response.status, 502, "{path} looked complete: {response:?}")
            }
            Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "{path} was left open"),
        }
    }
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        for path in BREAKS {
            let request = Http2::request(path)
                .body(Empty::new().map_err(|never| match never {}).boxed())
                .unwrap();
            // The reset may arrive before the head is read.
            let Ok(response) = client.try_head(request).await else {
                continue;
            };
            let status = response.status();
            let body = response.into_body().collect().await;
            assert!(
                body.is_err() || status == 502,
                "{path} looked complete over HTTP/2"
            );
        }
    });
    let all = u32::try_from(2 * BREAKS.len()).unwrap();
    eventually("each is counted as a failure", || {
        let window = &proxy.service()["upstreams"]["blue"]["windows"]["1m"];
        window["requests"] == all && window["failures"] == all
    });
    // A close-delimited response ends with an orderly close.
    assert_eq!(proxy.get("/close/close").expect(200).text(), "short");
}

#[test]
fn a_stalled_response_is_aborted() {
    let upstream = Upstream::start(|call| {
        if call.path() == "/endless" {
            call.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                .unwrap();
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            while call.write(&chunk).is_ok() {}
            return call.close();
        }
        call.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
            .unwrap();
        call.await_hangup();
    });
    let mut service = shop(&upstream, &upstream);
    service["timeouts"] = json!({ "idle": "150ms" });
    let proxy = Proxy::with_shop(service);
    let error = proxy.client().ask("/", "").try_receive().unwrap_err();
    assert_ne!(
        error.kind(),
        ErrorKind::WouldBlock,
        "the connection was left open"
    );
    eventually("the upstream connection is closed", || {
        upstream.hangups() == 1
    });
    proxy.counts_reason("idle_timeout", 1);
    // A client that reads nothing does not hold an upstream connection forever either.
    let mut not_reading = proxy.client();
    not_reading.ask("/endless", "").head().unwrap();
    eventually("the client that reads nothing is disconnected", || {
        proxy.service()["upstreams"]["blue"]["endpoints"][0]["in_flight"] == 0
    });
}

#[test]
fn surplus_bytes_of_an_upstream_reach_no_other_request() {
    let upstream = Upstream::start(|call| {
        let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
        let response = match call.path() {
            "/extra" => format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{poison}"),
            "/head" => format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{poison}",
                poison.len()
            ),
            "/204" => format!("HTTP/1.1 204 No Content\r\n\r\n{poison}"),
            "/304" => format!("HTTP/1.1 304 Not Modified\r\n\r\n{poison}"),
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood".into(),
        };
        if call.write(response).is_err() {
            call.close();
        }
    });
    let proxy = one_worker(&upstream);
    let mut client = proxy.client();
    for _ in 0..5 {
        for request in ["GET /extra", "HEAD /head", "GET /204", "GET /304"] {
            client.send(format!("{request} HTTP/1.1\r\nHost: shop.test\r\n\r\n"));
            client.head().unwrap();
            if request == "GET /extra" {
                assert_eq!(client.wire.exactly(2).unwrap(), b"ok");
            }
            assert_eq!(
                client.get("/good").expect(200).text(),
                "good",
                "after {request}"
            );
        }
    }
}

#[test]
fn a_get_on_a_stale_connection_is_retried() {
    // Each connection serves one request, announces keep-alive, and is closed without a response at
    // the second.
    let upstream = Upstream::start(|call| match call.on_connection {
        0 => call.ok("answered"),
        _ => call.close(),
    });
    let proxy = one_worker(&upstream);
    let mut client = proxy.client();
    for at in 0..20 {
        assert_eq!(client.get(&format!("/{at}")).expect(200).text(), "answered");
    }
    eventually("each is counted once", || {
        classes(&proxy) == json!({ "2xx": 20 })
    });
    assert_eq!(proxy.metrics().requests("blue"), 20.0);
}

#[test]
fn a_post_is_never_retried() {
    let upstream = Upstream::start(|call| {
        call.body().unwrap();
        match call.on_connection {
            0 => call.ok("answered"),
            _ => call.close(),
        }
    });
    let proxy = one_worker(&upstream);
    let mut client = proxy.client();
    for at in 0..20 {
        let response = client.send(post(&format!("/{at}"))).receive();
        if at % 2 == 0 {
            assert_eq!(response.expect(200).text(), "answered");
        } else {
            is_refusal(&response, 502, "connection_terminated", "reset");
        }
    }
    let paths: Vec<_> = upstream
        .seen()
        .into_iter()
        .map(|request| request.target)
        .collect();
    let expected: Vec<_> = (0..20).map(|at| format!("/{at}")).collect();
    assert_eq!(paths, expected);
    eventually("each is counted once", || {
        classes(&proxy) == json!({ "2xx": 10, "reset": 10 })
    });
}

#[test]
fn a_close_that_races_with_a_request_loses_no_get_and_repeats_no_post() {
    // As servers do at their idle timeout: the close crosses the next request.
    let upstream = Upstream::start(|call| {
        call.ok("answered");
        call.close();
    });
    let proxy = one_worker(&upstream);
    let mut client = proxy.client();
    let mut answered = 0;
    for at in 0..40 {
        client.get(&format!("/get/{at}")).expect(200);
        match client.send(post(&format!("/post/{at}"))).receive().status {
            200 => answered += 1,
            status => assert_eq!(status, 502),
        }
    }
    let mut posts: Vec<_> = upstream
        .seen()
        .into_iter()
        .filter(|request| request.method == "POST")
        .map(|request| request.target)
        .collect();
    let arrived = posts.len();
    posts.dedup();
    assert_eq!(posts.len(), arrived, "a POST was sent twice");
    assert_eq!(
        answered, arrived,
        "a POST arrived and its response was lost"
    );
}

#[test]
fn a_client_abort_is_no_failure_and_cancels_its_request() {
    let upstream = Upstream::start(|call| {
        if call.path() == "/within" {
            call.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
                .unwrap();
        }
        call.await_hangup();
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut within = proxy.client();
    within.ask("/within", "").head().unwrap();
    assert_eq!(within.wire.exactly(4).unwrap(), b"part");
    let (mut before, mut abrupt) = (proxy.client(), proxy.client());
    before.ask("/before", "");
    abrupt.ask("/before", "");
    eventually("all requests have arrived", || upstream.count() == 3);
    // Immediately after a request it would be a half-close, after which the response is still sent.
    let sent = Instant::now();
    eventually("some time has passed", || {
        sent.elapsed() > Duration::from_millis(200)
    });
    drop((before, within));
    abrupt.reset();
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        let request = Http2::request("/before")
            .body(Empty::new().map_err(|never| match never {}).boxed())
            .unwrap();
        client.sender.ready().await.unwrap();
        let mut response = Box::pin(client.sender.send_request(request));
        while upstream.count() < 4 {
            let _ =
                tokio::time::timeout(std::time::Duration::from_millis(3), response.as_mut()).await;
        }
        drop(response);
    });
    let mut uploading = proxy.client();
    uploading.send("POST /upload HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100\r\n\r\npart");
    eventually("the upload has begun", || upstream.count() == 5);
    drop(uploading);
    eventually("the upstream connections are closed", || {
        upstream.hangups() >= 4
    });
    eventually("each is counted once, and none as a failure", || {
        let window = &proxy.service()["upstreams"]["blue"]["windows"]["1m"];
        window["classes"] == json!({ "client_abort": 5 })
            && window["requests"] == 5
            && window["failures"] == 0
    });
    let latency = &proxy.service()["upstreams"]["blue"]["windows"]["1m"]["latency_us"];
    assert_eq!(latency["p50"], 0, "an abort counts as a latency");
}

/// Responds or fails by path, in ways after which no request is retried.
fn faulty() -> Upstream {
    Upstream::start(|call| {
        call.body().unwrap();
        match call.path() {
            "/ok" => call.ok("ok"),
            "/error" => call.answer("500 Internal Server Error", "", ""),
            "/absent" => call.answer("404 Not Found", "", ""),
            "/moved" => call.answer("302 Found", "Location: /\r\n", ""),
            "/part" => {
                call.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
                    .unwrap();
                call.close();
            }
            "/hangup" => call.close(),
            "/silent" => call.await_hangup(),
            "/nonsense" => {
                call.write("nonsense\r\n\r\n").unwrap();
                call.close();
            }
            other => panic!("{other}"),
        }
    })
}

#[test]
fn every_request_is_counted_once_under_faults() {
    let upstream = faulty();
    let mut service = shop(&upstream, &upstream);
    service["timeouts"] = json!({ "first_byte": "1s" });
    let proxy = Proxy::with_shop(service);
    let each = [
        "/ok",
        "/error",
        "/hangup",
        "/moved",
        "/part",
        "/ok",
        "/absent",
        "/nonsense",
        "/ok",
    ];
    let paths = || each.iter().cycle().take(90).chain(["/silent"].iter());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for path in paths() {
                    if client.send(post(path)).try_receive().is_err() {
                        client = proxy.client();
                    }
                }
            });
        }
    });
    assert_eq!(upstream.count(), 273);
    let expected = json!({
        "2xx": 90, "3xx": 30, "4xx": 30, "5xx": 30, "timeout": 3, "reset": 60, "protocol_error": 30,
    });
    eventually("the windows count each once", || {
        let window = &proxy.service()["upstreams"]["blue"]["windows"]["1m"];
        window["requests"] == 273 && window["classes"] == expected && window["failures"] == 123
    });
    eventually("the metrics count each once", || {
        let metrics = proxy.metrics();
        metrics.requests("blue") == 273.0
            && metrics.sum(
                "http_request_duration_seconds_count",
                &[("upstream", "blue")],
            ) == 273.0
    });
    let metrics = proxy.metrics();
    let code = |code| {
        let labels = [("upstream", "blue"), ("code", code), ("method", "POST")];
        metrics.sum("http_requests_total", &labels)
    };
    // A truncated response counts as 200, the status that the client has read.
    let codes = ["200", "302", "404", "500", "502", "504"].map(code);
    assert_eq!(codes, [120.0, 30.0, 30.0, 30.0, 60.0, 3.0]);
    let reasons = ["reset", "upstream_protocol_error", "first_byte_timeout"]
        .map(|reason| metrics.reason(reason));
    assert_eq!(reasons, [60.0, 30.0, 3.0]);
    // The windows agree.
    assert_eq!(
        metrics.sum("upstream_failures_total", &[("upstream", "blue")]),
        123.0
    );
}
