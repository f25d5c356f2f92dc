//! What the proxy answers itself: status, `Proxy-Status`, a problem body, and a counter by reason.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::harness::{
    Client, Http2, Proxy, Reserved, Response, Upstream, block_on, eventually, shop,
};

/// An answer in the proxy's own name: nothing of it is left to chance, since people search logs for
/// it.
#[track_caller]
pub(crate) fn is_refusal(response: &Response, status: u16, error: &str, reason: &str) {
    assert_eq!(response.status, status, "{response:?}\n{}", response.text());
    let proxy_status = response.header("proxy-status").unwrap_or_default();
    assert!(
        proxy_status.starts_with("weighbridge; "),
        "{proxy_status:?}"
    );
    assert!(
        proxy_status.contains(&format!("error={error}")),
        "{proxy_status:?}"
    );
    assert_eq!(
        response.header("content-type").as_deref(),
        Some("application/problem+json")
    );
    let problem = response.json();
    assert_eq!(problem["status"], status, "{problem}");
    assert_eq!(problem["reason"], reason, "{problem}");
    assert!(
        problem["title"].is_string() && problem["detail"].is_string(),
        "{problem}"
    );
    // What the client reports is what the log can be searched for.
    let id = response.header("x-request-id").unwrap_or_default();
    assert!(
        !id.is_empty() && problem["request_id"] == id,
        "{id:?}: {problem}"
    );
    assert!(response.body.len() < 1024, "{problem}");
}

/// Sends `request` on a connection of its own, and expects it to be refused and the connection to
/// be closed.
#[track_caller]
fn refuses(proxy: &Proxy, request: &str, status: u16, reason: &str) {
    let mut client = proxy.client();
    let response = client
        .send(request)
        .try_receive()
        .unwrap_or_else(|error| panic!("{request:?}: {error}"));
    assert_eq!(response.status, status, "{request:?} got {response:?}");
    is_refusal(&response, status, "http_request_error", reason);
    assert!(
        client.wire.closes(),
        "after {request:?} the connection went on"
    );
}

#[test]
fn what_can_be_read_in_two_ways_is_400_and_goes_nowhere() {
    let blue = Upstream::named("blue");
    let proxy = Proxy::with_shop(shop(&blue, &blue));
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n\r\n");
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    let cases = [
        post("Content-Length: 30\r\nTransfer-Encoding: chunked") + smuggled,
        post("Transfer-Encoding: chunked\r\nContent-Length: 30") + smuggled,
        post("Content-Length: 3\r\nContent-Length: 4") + "abcd",
        post("Content-Length: 3\r\nContent-Length: 3") + "abc",
        post("Content-Length: +3") + "abc",
        post("Content-Length: 0x3") + "abc",
        post("Content-Length: 3, 3") + "abc",
        post("Content-Length: -1"),
        post("Content-Length: 99999999999999999999"),
        post("Content_Length: 3") + "abc",
        post("Content-Length : 3") + "abc",
        post("Transfer_Encoding: chunked") + "0\r\n\r\n",
        post("X: a\r\n folded"),
        post("X: a\nContent-Length: 3") + "abc",
        post("X: a\rY: b"),
        post("X: a\0b"),
        post("no colon"),
        post(": no name"),
        post("Host: other.test"),
        "GET / HTTP/1.1\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(),
        "GET  / HTTP/1.1\r\nHost: shop.test\r\n\r\n".into(),
        "GET /a b HTTP/1.1\r\nHost: shop.test\r\n\r\n".into(),
        "GET / HTTP/1.1 \r\nHost: shop.test\r\n\r\n".into(),
        "GET / http/1.1\r\nHost: shop.test\r\n\r\n".into(),
        "GET /#fragment HTTP/1.1\r\nHost: shop.test\r\n\r\n".into(),
        "GET /\u{e9} HTTP/1.1\r\nHost: shop.test\r\n\r\n".into(),
        "GET / HTTP/1.1\nHost: shop.test\n\n".into(),
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        "G(T / HTTP/1.1\r\nHost: shop.test\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}\u{2} this is TLS \r\n\r\n".into(),
    ];
    for case in &cases {
        refuses(&proxy, case, 400, "bad_request");
    }
    assert_eq!(proxy.get("/after").text(), "blue");
    assert_eq!(blue.count(), 1, "{:?}", blue.seen());
    proxy.counts_reason("bad_request", u32::try_from(cases.len()).unwrap());
}

#[test]
fn a_body_that_breaks_off_in_its_framing_never_looks_complete_upstream() {
    let blue = Upstream::named("blue");
    let proxy = Proxy::with_shop(shop(&blue, &blue));
    let head =
        "POST /up HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let cases = [
        "zz\r\n",
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "ffffffffffffffffff\r\n",
        "0\r\nContent-Length: 3\r\n\r\n",
    ];
    for rest in cases {
        let response = proxy.client().send(format!("{head}{rest}")).receive();
        is_refusal(&response, 400, "http_request_error", "bad_request");
    }
    assert_eq!(proxy.get("/after").text(), "blue");
    for seen in blue.seen().iter().filter(|seen| seen.target == "/up") {
        assert_eq!(seen.body, None, "an upstream took a broken body for whole");
    }
    proxy.counts_reason("bad_request", u32::try_from(cases.len()).unwrap());
}

#[test]
fn codings_and_methods_that_are_not_understood_are_501() {
    let blue = Upstream::named("blue");
    let proxy = Proxy::with_shop(shop(&blue, &blue));
    for coding in [
        "gzip",
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "xchunked",
        "\"chunked\"",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"
        );
        refuses(&proxy, &request, 501, "not_implemented");
    }
    let connect = "CONNECT other.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n";
    is_refusal(
        &proxy.client().send(connect).receive(),
        501,
        "http_request_error",
        "not_implemented",
    );
    assert_eq!(blue.count(), 0);
    proxy.counts_reason("not_implemented", 7);
}

#[test]
fn without_a_route_it_is_404() {
    let blue = Upstream::named("blue");
    let mut service = shop(&blue, &blue);
    service["routes"] = json!([{ "host": "shop.test", "path_prefix": "/shop" }]);
    let proxy = Proxy::with_shop(service);
    let mut client = proxy.client();
    is_refusal(
        &client.get("/elsewhere"),
        404,
        "destination_not_found",
        "no_route",
    );
    let other = client
        .send("GET /shop HTTP/1.1\r\nHost: other.test\r\n\r\n")
        .receive();
    is_refusal(&other, 404, "destination_not_found", "no_route");
    let id = other.header("x-request-id").unwrap();
    assert_eq!(other.json()["request_id"], *id);
    assert_eq!(
        client.get("/shop/x").text(),
        "blue",
        "the connection was not kept"
    );
    proxy.counts_reason("no_route", 2);
}

#[test]
fn an_upstream_that_refuses_connections_is_502() {
    let nobody = Reserved::new();
    let proxy = Proxy::with_shop(json!({
        "routes": [{}],
        "upstreams": { "blue": { "endpoints": [nobody.address] } },
    }));
    let mut client = proxy.client();
    is_refusal(
        &client.get("/"),
        502,
        "connection_refused",
        "connect_refused",
    );
    is_refusal(
        &client.get("/"),
        502,
        "connection_refused",
        "connect_refused",
    );
    proxy.counts_reason("connect_refused", 2);
    eventually("the windows tell of connect errors", || {
        let window = &proxy.service()["upstreams"]["blue"]["windows"]["1m"];
        window["classes"]["connect_error"] == 2
            && window["failures"] == 2
            && window["error_rate"] == 1.0
    });
}

#[test]
fn one_dead_endpoint_of_two_is_not_noticed() {
    let (nobody, blue) = (Reserved::new(), Upstream::named("blue"));
    let proxy = Proxy::with_shop(json!({
        "routes": [{}],
        "upstreams": { "blue": { "endpoints": [nobody.address, blue.address] } },
    }));
    let mut client = proxy.client();
    for _ in 0..20 {
        let request = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(client.send(request).receive().expect(200).text(), "blue");
    }
    assert_eq!(blue.count(), 20);
}

#[test]
fn an_upstream_that_does_not_answer_in_time_is_504() {
    let silent = Upstream::start(|call| {
        if call.path() == "/quick" {
            call.ok("")
        } else {
            call.await_hangup()
        }
    });
    let mut service = shop(&silent, &silent);
    service["timeouts"] = json!({ "first_byte": "500ms" });
    let proxy = Proxy::with_shop(service);
    let mut client = proxy.client();
    client.get("/quick").expect(200);
    is_refusal(
        &client.get("/"),
        504,
        "http_response_timeout",
        "first_byte_timeout",
    );
    let post = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\n\r\nabc";
    is_refusal(
        &client.send(post).receive(),
        504,
        "http_response_timeout",
        "first_byte_timeout",
    );
    client.get("/quick").expect(200);
    assert_eq!(
        silent.count(),
        4,
        "a request was sent again after a timeout"
    );
    eventually("the upstream learns that nobody waits any more", || {
        silent.hangups() == 2
    });
    proxy.counts_reason("first_byte_timeout", 2);
    eventually("the windows tell of timeouts", || {
        proxy.service()["upstreams"]["blue"]["windows"]["1m"]["classes"]["timeout"] == 2
    });
}

#[test]
fn an_upstream_is_not_late_while_its_request_is_on_the_way() {
    let blue = Upstream::start(|call| {
        if call.path() == "/silent" {
            call.await_hangup()
        } else {
            call.ok("blue")
        }
    });
    let mut service = shop(&blue, &blue);
    service["timeouts"] = json!({ "first_byte": "300ms" });
    let proxy = Proxy::with_shop(service);
    let mut slow = proxy.client();
    slow.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\n\r\na");
    for piece in ["b", "c"] {
        eventually("the upstream has the head", || {
            blue.seen().iter().any(|seen| seen.target == "/")
        });
        // Begun after the upload, so the upload is older than the limit when it ends.
        proxy.get("/silent").expect(504);
        slow.send(piece);
    }
    assert_eq!(slow.receive().expect(200).text(), "blue");
}

#[test]
fn interim_answers_without_end_are_502_and_keep_nobody_else_waiting() {
    let endless = Upstream::start(|call| {
        let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(2000);
        while call.write(&many).is_ok() {}
        call.close();
    });
    let blue = Upstream::named("blue");
    let only = |upstream: &Upstream, path: &str| {
        json!({ "routes": [{ "path_prefix": path }],
            "upstreams": { "only": { "endpoints": [upstream.address] } } })
    };
    let services = json!({ "endless": only(&endless, "/endless"), "blue": only(&blue, "/") });
    let proxy = Proxy::start(json!({ "workers": 1, "services": services }));
    let mut victims: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for victim in &mut victims {
        victim.ask("/endless", "");
    }
    for _ in 0..10 {
        assert_eq!(proxy.get("/").expect(200).text(), "blue");
    }
    for victim in &mut victims {
        is_refusal(
            &victim.receive_final(),
            502,
            "http_protocol_error",
            "upstream_protocol_error",
        );
    }
}

#[test]
fn an_exchange_that_takes_too_long_as_a_whole_is_504() {
    let silent = Upstream::start(|call| call.await_hangup());
    let mut service = shop(&silent, &silent);
    service["timeouts"] = json!({ "first_byte": "0s", "total": "100ms" });
    let proxy = Proxy::with_shop(service);
    is_refusal(
        &proxy.get("/"),
        504,
        "http_response_timeout",
        "total_timeout",
    );
    proxy.counts_reason("total_timeout", 1);
}

/// A listener whose queue is full, so that nobody's connection is established. Linux: a queue of
/// length 0 takes one.
pub(crate) fn deaf() -> (TcpListener, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let callers = (0..4).map(|_| {
        let caller = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        caller.set_nonblocking(true).unwrap();
        // In progress at best; the first of them is in the queue at once.
        let _ = caller.connect(&address);
        caller
    });
    let callers = callers.collect();
    (listener.into(), callers)
}

#[test]
#[cfg(target_os = "linux")]
fn an_upstream_that_takes_no_connection_in_time_is_504() {
    let (deaf, _callers) = deaf();
    let proxy = Proxy::with_shop(json!({
        "routes": [{}],
        "upstreams": { "blue": { "endpoints": [deaf.local_addr().unwrap()] } },
        "timeouts": { "connect": "100ms" },
    }));
    is_refusal(
        &proxy.get("/"),
        504,
        "connection_timeout",
        "connect_timeout",
    );
    proxy.counts_reason("connect_timeout", 1);
}

#[test]
fn what_an_upstream_gets_wrong_is_502() {
    let upstream = Upstream::start(|call| {
        let many = "X: y\r\n".repeat(50_000);
        let wrong: &[u8] = match call.path() {
            "/many" => &["HTTP/1.1 200 OK\r\n", &many, "Content-Length: 2\r\n\r\nok"]
                .concat()
                .into_bytes(),
            "/html" => b"<html>hi</html>\r\n\r\n",
            "/status" => b"HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nok",
            "/nul" => b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nok",
            "/lengths" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nokxyz",
            "/negative" => b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
            "/unasked" => {
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\n\
                Connection: Upgrade\r\n\r\nGARBAGE"
            }
            other => panic!("{other}"),
        };
        // The proxy need not read all of it.
        let _ = call.write(wrong);
        call.close();
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let paths = [
        "/many",
        "/html",
        "/status",
        "/nul",
        "/lengths",
        "/negative",
        "/unasked",
    ];
    for path in paths {
        is_refusal(
            &proxy.get(path),
            502,
            "http_protocol_error",
            "upstream_protocol_error",
        );
    }
    assert_eq!(upstream.count(), paths.len());
    proxy.counts_reason("upstream_protocol_error", 7);
}

#[test]
fn an_upstream_that_hangs_up_on_a_new_connection_is_502_and_is_not_asked_again() {
    let upstream = Upstream::start(|call| match call.path() {
        "/reset" => call.reset(),
        _ => call.close(),
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    for path in ["/close", "/reset"] {
        is_refusal(&proxy.get(path), 502, "connection_terminated", "reset");
    }
    assert_eq!(upstream.count(), 2);
    proxy.counts_reason("reset", 2);
}

#[test]
fn http2_is_held_to_the_same_rules() {
    let blue = Upstream::named("blue");
    let mut service = shop(&blue, &blue);
    service["routes"] = json!([{ "path_prefix": "/shop" }]);
    let proxy = Proxy::with_shop(service);
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        let absent = client.get("/elsewhere").await;
        assert_eq!(absent.status, 404);
        assert!(
            absent.headers["proxy-status"]
                .to_str()
                .unwrap()
                .contains("error=destination_not_found")
        );
        assert!(absent.text.contains("no_route"), "{}", absent.text);
        assert_eq!(
            client.get("/shop").await.text,
            "blue",
            "the connection was not kept"
        );
    });
    proxy.counts_reason("no_route", 1);
}

#[test]
fn bad_bytes_after_a_good_request_do_not_spoil_its_answer() {
    let blue = Upstream::named("blue");
    let proxy = Proxy::with_shop(shop(&blue, &blue));
    let mut client: Client = proxy.client();
    client.send("GET /good HTTP/1.1\r\nHost: shop.test\r\n\r\nGET /bad\r\nHost: shop.test\r\n\r\n");
    assert_eq!(client.receive().expect(200).text(), "blue");
    is_refusal(&client.receive(), 400, "http_request_error", "bad_request");
    assert_eq!(blue.count(), 1);
}
