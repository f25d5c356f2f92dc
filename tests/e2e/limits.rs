//! Limits on the size and duration of what clients send, each with its response.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::errors::is_refusal;
use crate::harness::{Gate, Http2, Proxy, Upstream, block_on, eventually, shop};

/// A proxy with this listener in front of one upstream that responds with its name.
fn with_listener(listener: Value) -> (Proxy, Upstream) {
    let blue = Upstream::named("blue");
    let service = shop(&blue, &blue);
    (
        Proxy::start(json!({ "listeners": [listener], "services": { "shop": service } })),
        blue,
    )
}

#[test]
fn a_body_over_the_limit_is_413() {
    let (proxy, blue) = with_listener(json!({ "limits": { "body_bytes": "1000B" } }));
    let post = |length: usize| {
        format!("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n")
    };
    let fits = proxy
        .client()
        .send(post(1000) + &"x".repeat(1000))
        .receive();
    assert_eq!(fits.expect(200).text(), "blue");
    // Refused by its Content-Length: the client need not send it.
    is_refusal(
        &proxy.client().send(post(1001)).receive(),
        413,
        "http_request_error",
        "body_too_large",
    );
    assert_eq!(blue.count(), 1);
    proxy.counts_reason("body_too_large", 1);
}

#[test]
fn a_chunked_body_over_the_limit_is_413_and_incomplete_upstream() {
    let (proxy, blue) = with_listener(json!({ "limits": { "body_bytes": "1000B" } }));
    let post = "POST /chunked HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 500, "x".repeat(500));
    let fits = proxy
        .client()
        .send(format!("{post}{chunk}{chunk}0\r\n\r\n"))
        .receive();
    assert_eq!(fits.expect(200).text(), "blue");
    let over = proxy
        .client()
        .send(format!("{post}{chunk}{chunk}1\r\nx\r\n0\r\n\r\n"))
        .receive();
    is_refusal(&over, 413, "http_request_error", "body_too_large");
    assert_eq!(
        blue.seen()
            .iter()
            .filter(|request| request.body.is_some())
            .count(),
        1
    );
    proxy.counts_reason("body_too_large", 1);
}

#[test]
fn a_target_over_the_limit_is_414() {
    let (proxy, blue) = with_listener(json!({ "limits": { "uri_bytes": "1000B" } }));
    let ask = |bytes: usize| {
        format!(
            "GET /{} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
            "x".repeat(bytes - 1)
        )
    };
    proxy.client().send(ask(1000)).receive().expect(200);
    is_refusal(
        &proxy.client().send(ask(1001)).receive(),
        414,
        "http_request_error",
        "uri_too_long",
    );
    // Refused before the end of the line, which may never arrive.
    let endless = proxy
        .client()
        .send(format!("GET /{}", "x".repeat(20_000)))
        .receive();
    is_refusal(&endless, 414, "http_request_error", "uri_too_long");
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        assert_eq!(
            client.get(&format!("/{}", "x".repeat(1000))).await.status,
            414
        );
    });
    assert_eq!(blue.count(), 1);
    proxy.counts_reason("uri_too_long", 3);
}

#[test]
fn too_many_or_too_large_header_fields_are_431() {
    let (proxy, blue) =
        with_listener(json!({ "limits": { "headers": 10, "header_bytes": "8KiB" } }));
    let ask = |fields: String| format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n");
    proxy
        .client()
        .send(ask("X: y\r\n".repeat(9)))
        .receive()
        .expect(200);
    let many = proxy.client().send(ask("X: y\r\n".repeat(10))).receive();
    is_refusal(&many, 431, "http_request_error", "headers_too_large");
    let long = proxy
        .client()
        .send(ask(format!("X: {}\r\n", "y".repeat(9000))))
        .receive();
    is_refusal(&long, 431, "http_request_error", "headers_too_large");
    let endless = proxy
        .client()
        .send(format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(9000)))
        .receive();
    is_refusal(&endless, 431, "http_request_error", "headers_too_large");
    assert_eq!(blue.count(), 1);
    proxy.counts_reason("headers_too_large", 3);
}

#[test]
fn an_upload_that_exceeds_a_limit_after_the_response_began_is_no_upstream_failure() {
    let echo = Upstream::start(|call| {
        call.chunk();
        call.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            .unwrap();
        call.await_hangup();
    });
    let service = shop(&echo, &echo);
    let proxy = Proxy::start(json!({
        "listeners": [{ "limits": { "body_bytes": "10B" } }],
        "services": { "shop": service },
    }));
    let mut client = proxy.client();
    client
        .send("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    client.head().unwrap();
    client.send(format!("14\r\n{}\r\n", "a".repeat(20)));
    proxy.counts_reason("body_too_large", 1);
    eventually("the windows count it as a client error", || {
        let window = &proxy.service()["upstreams"]["blue"]["windows"]["1m"];
        window["classes"]["client_abort"] == 1 && window["failures"] == 0
    });
}

#[test]
fn a_slow_request_head_is_408() {
    let (proxy, blue) = with_listener(json!({ "timeouts": { "header": "200ms" } }));
    let mut client = proxy.client();
    let slow = client.send("GET / HTTP/1.1\r\nHost: shop").receive();
    is_refusal(&slow, 408, "http_request_error", "header_timeout");
    assert!(client.wire.closes());
    // The timeout covers the whole head: further bytes do not extend it.
    let mut dripping = proxy.client();
    dripping.send("GET / HTTP/1.1\r\nHost: shop.test\r\nX: ");
    eventually("the slow client is disconnected", || {
        dripping.send("y").wire.has_news()
    });
    is_refusal(
        &dripping.receive(),
        408,
        "http_request_error",
        "header_timeout",
    );
    assert_eq!(blue.count(), 0);
    proxy.counts_reason("header_timeout", 2);
}

#[test]
fn a_stalled_request_body_is_408() {
    let upstream = Upstream::start(|call| call.await_hangup());
    let service = shop(&upstream, &upstream);
    let proxy = Proxy::start(json!({
        "listeners": [{ "timeouts": { "body_idle": "200ms" } }],
        "services": { "shop": service },
    }));
    let stuck = proxy
        .client()
        .send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\n")
        .receive();
    is_refusal(&stuck, 408, "http_request_error", "body_timeout");
    proxy.counts_reason("body_timeout", 1);
    eventually("the upstream connection is closed", || {
        upstream.hangups() == 1
    });
}

#[test]
fn an_idle_connection_is_closed_without_a_response() {
    let (proxy, _blue) =
        with_listener(json!({ "timeouts": { "keep_alive": "200ms", "header": "60s" } }));
    let mut client = proxy.client();
    client.get("/").expect(200);
    assert!(client.wire.closes());
}

#[test]
fn connections_over_the_limit_wait_for_a_free_slot() {
    let blue = Upstream::named("blue");
    let service = shop(&blue, &blue);
    let proxy = Proxy::start(json!({
        "workers": 1,
        "listeners": [{ "limits": { "connections": 2 } }],
        "services": { "shop": service },
    }));
    let (mut first, mut second) = (proxy.client(), proxy.client());
    first.get("/").expect(200);
    second.get("/").expect(200);
    let mut third = proxy.client();
    third.ask("/", "");
    first.get("/").expect(200);
    second.get("/").expect(200);
    assert!(
        !third.wire.has_news(),
        "a connection over the limit was served"
    );
    drop(first);
    assert_eq!(third.receive().expect(200).text(), "blue");
}

#[test]
fn the_connection_limit_is_shared_by_all_workers() {
    let blue = Upstream::named("blue");
    let proxy = Proxy::start(json!({
        "workers": 4,
        "listeners": [{ "limits": { "connections": 16 } }],
        "services": { "shop": shop(&blue, &blue) },
    }));
    // For any distribution of the connections by the kernel.
    let mut seated: Vec<_> = (0..16).map(|_| proxy.client()).collect();
    for client in &mut seated {
        client.get("/").expect(200);
    }
    let mut waiting: Vec<_> = (0..8).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.ask("/waiting", "");
    }
    for client in &mut seated {
        client.get("/").expect(200);
    }
    assert!(
        blue.seen()
            .iter()
            .all(|request| request.target != "/waiting")
    );
    // A slot that one worker frees is free for every worker.
    for left in 1..=8 {
        seated.pop();
        eventually("another connection is served", || {
            waiting
                .iter_mut()
                .map(|client| client.wire.has_news())
                .filter(|news| *news)
                .count()
                == left
        });
    }
    for client in &mut waiting {
        assert_eq!(client.receive().expect(200).text(), "blue");
    }
}

#[test]
fn the_request_limit_is_shared_by_all_workers() {
    let gate = Arc::new(Gate::default());
    let script_gate = Arc::clone(&gate);
    let blue = Upstream::start(move |call| {
        script_gate.wait();
        call.ok("blue");
    });
    let proxy = Proxy::start(
        json!({ "workers": 4, "max_in_flight": 4, "services": { "shop": shop(&blue, &blue) } }),
    );
    block_on(async {
        // All on one connection, which belongs to one worker.
        let client = Http2::connect(proxy.address).await;
        let ask = |_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.get("/").await.status })
        };
        let under_way: Vec<_> = (0..4).map(ask).collect();
        while blue.count() < 4 {
            assert!(
                under_way.iter().all(|one| !one.is_finished()),
                "a request was refused"
            );
            tokio::task::yield_now().await;
        }
        is_refusal(
            &proxy.get("/"),
            503,
            "connection_limit_reached",
            "overloaded",
        );
        assert_eq!(ask(4).await.unwrap(), 503);
        gate.open();
        for one in under_way {
            assert_eq!(one.await.unwrap(), 200);
        }
    });
    // Each request has released its slot, a refused one as well.
    for _ in 0..8 {
        proxy.get("/").expect(200);
    }
    proxy.counts_reason("overloaded", 2);
}

#[test]
fn requests_over_the_limit_are_503_at_once() {
    let gate = Arc::new(Gate::default());
    let script_gate = Arc::clone(&gate);
    let blue = Upstream::start(move |call| {
        script_gate.wait();
        call.ok("blue");
    });
    let service = shop(&blue, &blue);
    let proxy =
        Proxy::start(json!({ "workers": 1, "max_in_flight": 1, "services": { "shop": service } }));
    let mut first = proxy.client();
    first.ask("/", "");
    eventually("the first request is in flight", || blue.count() == 1);
    let second = proxy.get("/");
    is_refusal(&second, 503, "connection_limit_reached", "overloaded");
    assert!(second.header("retry-after").is_some());
    gate.open();
    assert_eq!(first.receive().expect(200).text(), "blue");
    assert_eq!(proxy.get("/").expect(200).text(), "blue");
    proxy.counts_reason("overloaded", 1);
}
