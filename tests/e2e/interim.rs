//! Interim responses (1xx), and bodies that the client sends only after a 100.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Client, Proxy, Upstream, eventually, shop};

fn proxy(upstream: &Upstream) -> Proxy {
    Proxy::start(json!({ "workers": 1, "services": { "shop": shop(upstream, upstream) } }))
}

/// Sends the head of a request with `Expect: 100-continue`.
fn expect(client: &mut Client, path: &str, framing: &str) {
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: shop.test\r\n{framing}\r\nExpect: 100-continue\r\n\r\n"
    ));
}

#[test]
fn interim_responses_are_forwarded_in_order_to_http11_clients_only() {
    let upstream = Upstream::start(|call| {
        let hints =
            "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-own\r\nX-Own: 1\r\n\r\n";
        call.write(format!("HTTP/1.1 102 Busy\r\n\r\n{hints}"))
            .unwrap();
        call.ok("final");
    });
    let proxy = proxy(&upstream);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.ask("/", "");
        let busy = client.receive();
        assert_eq!((busy.status, &*busy.head.first), (102, "HTTP/1.1 102 Busy"));
        let hints = client.receive();
        assert_eq!(hints.status, 103);
        assert_eq!(
            hints.head.headers,
            [("link".to_owned(), "</a.css>".to_owned())]
        );
        assert_eq!(client.receive().expect(200).text(), "final");
    }
    let old = proxy
        .client()
        .send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n")
        .receive();
    assert_eq!((old.status, old.text().as_str()), (200, "final"));
}

#[test]
fn an_interim_response_is_forwarded_before_the_final_one() {
    let upstream = Upstream::start(|call| {
        call.write("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
            .unwrap();
        call.await_hangup();
    });
    let proxy = proxy(&upstream);
    assert_eq!(proxy.client().ask("/", "").receive().status, 103);
    eventually(
        "the upstream connection is closed with the client's",
        || upstream.hangups() == 1,
    );
}

#[test]
fn continue_is_sent_when_the_upstream_sends_it() {
    let upstream = Upstream::start(|call| {
        assert_eq!(
            call.request.header("expect").as_deref(),
            Some("100-continue")
        );
        call.write("HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let body = call.body().unwrap();
        call.ok(body);
    });
    let proxy = proxy(&upstream);
    let mut client = proxy.client();
    for _ in 0..2 {
        expect(&mut client, "/", "Content-Length: 3");
        assert_eq!(client.receive().status, 100);
        assert_eq!(client.send("abc").receive().expect(200).text(), "abc");
        expect(&mut client, "/", "Transfer-Encoding: chunked");
        assert_eq!(client.receive().status, 100);
        assert_eq!(
            client
                .send("3\r\nabc\r\n0\r\n\r\n")
                .receive()
                .expect(200)
                .text(),
            "abc"
        );
    }
}

#[test]
fn a_final_response_before_100_suppresses_the_body() {
    let upstream = Upstream::start(|call| match call.path() {
        "/refused" => {
            call.write("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
                .unwrap();
            call.await_hangup();
        }
        _ => call.ok("next"),
    });
    let proxy = proxy(&upstream);
    let mut client = proxy.client();
    expect(&mut client, "/refused", "Content-Length: 3");
    let refused = client.receive().expect(413);
    assert_eq!(
        (
            refused.text().as_str(),
            refused.header("connection").as_deref()
        ),
        ("big", Some("close"))
    );
    // A client that sends the body anyway does no harm: none of it is parsed as another request.
    client.send("GET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert!(client.wire.closes());
    eventually("the upstream's connection is not reused", || {
        upstream.hangups() == 1
    });
    assert_eq!(proxy.get("/next").expect(200).text(), "next");
    assert_eq!(upstream.count(), 2);
}

#[test]
fn without_a_100_from_the_upstream_the_body_is_sent_after_one_second() {
    let upstream = Upstream::start(|call| {
        let body = call.body().unwrap();
        call.ok(body);
    });
    let proxy = proxy(&upstream);
    let mut client = proxy.client();
    let started = Instant::now();
    expect(&mut client, "/", "Content-Length: 3");
    assert_eq!(client.receive().status, 100);
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "the proxy did not wait for the upstream"
    );
    assert_eq!(client.send("abc").receive().expect(200).text(), "abc");
}

#[test]
fn no_continue_is_sent_to_a_client_that_sends_its_body_at_once() {
    let upstream = Upstream::start(|call| {
        let expects = call.request.header("expect").is_some();
        let body = call.body().unwrap();
        call.ok(format!("{expects} {}", String::from_utf8_lossy(&body)));
    });
    let proxy = proxy(&upstream);
    let mut client = proxy.client();
    let request = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\nExpect: \
                   100-continue\r\n\r\nabc";
    assert_eq!(
        client.send(request).receive().expect(200).text(),
        "false abc"
    );
    // Without a body there is nothing to wait for, and HTTP/1.0 has no 100.
    let head = "Host: shop.test\r\nExpect: 100-continue\r\n";
    client.send(format!("GET / HTTP/1.1\r\n{head}\r\n"));
    assert_eq!(client.receive().expect(200).text(), "false ");
    let mut old = proxy.client();
    old.send(format!(
        "POST / HTTP/1.0\r\n{head}Content-Length: 3\r\n\r\n"
    ));
    assert_eq!(old.send("abc").receive().expect(200).text(), "false abc");
}

#[test]
fn no_continue_is_sent_to_a_client_that_the_proxy_refuses() {
    let upstream = Upstream::named("blue");
    let proxy = Proxy::start(json!({
        "listeners": [{ "limits": { "body_bytes": "10B" } }],
        "services": { "shop": shop(&upstream, &upstream) },
    }));
    let mut client = proxy.client();
    expect(&mut client, "/", "Content-Length: 11");
    assert_eq!(
        client.receive().expect(413).header("connection").as_deref(),
        Some("close")
    );
    assert!(client.wire.closes());
    assert_eq!(upstream.count(), 0);
}
