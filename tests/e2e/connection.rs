//! HTTP/1.1 connections of clients: how bytes come does not matter, nor in which state a client
//! goes.

use std::io::Read;

use serde_json::json;

use crate::errors::is_refusal;
use crate::harness::{Client, Proxy, Upstream, eventually, shop};
use crate::stats::logged;

const PLAIN: &str = "GET /plain HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const LENGTH: &str = "POST /length HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello";
const CHUNKED: &str = "POST /chunked HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: \
                       chunked\r\nTrailer: x-t\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX-T: \
                       1\r\n\r\n";

/// Answers with the path, the body and a trailer of the request.
fn echo() -> (Upstream, Proxy) {
    let upstream = Upstream::start(|call| {
        let body = String::from_utf8(call.body().unwrap_or_default()).unwrap();
        let answer = format!("{} {body}", call.path());
        call.ok(answer);
    });
    let mut service = shop(&upstream, &upstream);
    service["routes"] = json!([{ "host": "shop.test" }]);
    let proxy = Proxy::start(json!({
        "access_log": "./access.log", "workers": 1, "services": { "shop": service },
    }));
    (upstream, proxy)
}

/// Sends bytes in pieces of this length.
fn send(client: &mut Client, text: &str, piece: usize) {
    for piece in text.as_bytes().chunks(piece) {
        client.send(piece);
    }
}

#[test]
fn requests_are_answered_alike_however_their_bytes_come() {
    let (_upstream, proxy) = echo();
    let all = [PLAIN, LENGTH, "\r\n", CHUNKED, PLAIN].concat();
    for piece in [all.len(), 1, 2, 7, 64] {
        let mut client = proxy.client();
        send(&mut client, &all, piece);
        for expected in ["/plain ", "/length hello", "/chunked hello", "/plain "] {
            assert_eq!(
                client.receive().expect(200).text(),
                expected,
                "in pieces of {piece}"
            );
        }
    }
}

#[test]
fn a_refused_request_ends_the_connection_alike_however_its_bytes_come() {
    let (upstream, proxy) = echo();
    let mut names = Vec::new();
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n");
    let cases = [
        (
            head("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
            400,
            "bad_request",
        ),
        (head("Bad Name: 1\r\n"), 400, "bad_request"),
        (head("Transfer-Encoding: gzip\r\n"), 501, "not_implemented"),
        (
            "GET / HTTP/3.0\r\nHost: a\r\n\r\n".into(),
            505,
            "not_implemented",
        ),
        (
            format!("GET /{} HTTP/1.1\r\n", "a".repeat(20_000)),
            414,
            "uri_too_long",
        ),
        (
            head(&format!("X: {}\r\n", "a".repeat(200_000))),
            431,
            "headers_too_large",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n".into(),
            400,
            "bad_request",
        ),
    ];
    for (index, (bad, status, reason)) in cases.iter().enumerate() {
        for piece in [usize::MAX, 1] {
            // The first request of a connection, and one that was sent with a good one before it.
            for before in ["", PLAIN] {
                let mut client = proxy.client();
                send(&mut client, &[before, bad, PLAIN].concat(), piece);
                if !before.is_empty() {
                    client.receive().expect(200);
                }
                let refused = client.receive();
                assert_eq!(
                    refused.status, *status,
                    "case {index} in pieces of {piece} after {before:?}"
                );
                assert_eq!(refused.header("connection").as_deref(), Some("close"));
                is_refusal(&refused, *status, "http_request_error", reason);
                names.push((refused.header("x-request-id").unwrap(), *status, *reason));
                assert!(client.wire.ends(), "nothing follows a refusal");
            }
        }
    }
    let good = cases.len() * 2;
    assert_eq!(
        upstream.count(),
        good,
        "nothing that was refused, or came after it, went on"
    );
    let count = |status: u16| {
        4 * cases
            .iter()
            .map(|(_, refused, _)| u8::from(*refused == status))
            .sum::<u8>()
    };
    for status in [400, 414, 431, 501, 505] {
        let code = status.to_string();
        eventually("each is counted once", || {
            proxy
                .metrics()
                .sum("http_requests_total", &[("code", &code)])
                == f64::from(count(status))
        });
    }
    let lines = logged(&proxy, names.len() + good);
    for (name, status, reason) in names {
        let mut lines = lines.iter();
        let line = lines.find(|line| line["request_id"] == name.as_str());
        let line = line.unwrap_or_else(|| panic!("no line for {name}, {reason}"));
        assert_eq!(
            (&line["status"], &line["reason"]),
            (&json!(status), &json!(reason))
        );
    }
}

#[test]
fn a_body_that_breaks_the_grammar_is_refused_once_however_its_bytes_come() {
    let (_upstream, proxy) = echo();
    for piece in [usize::MAX, 1] {
        let mut client = proxy.client();
        let bad = CHUNKED.replace("2\r\nlo", "x\r\nlo");
        send(&mut client, &[&bad, PLAIN].concat(), piece);
        assert_eq!(
            client.receive().expect(400).header("connection").as_deref(),
            Some("close")
        );
        assert!(client.wire.ends());
    }
    proxy.counts_reason("bad_request", 2);
}

#[test]
fn a_client_may_go_in_any_state() {
    let upstream = Upstream::start(|call| match call.path() {
        "/silent" => call.await_hangup(),
        "/stream" => {
            while call.write("5\r\nhello\r\n").is_ok() {}
            call.close();
        }
        "/begun" => {
            call.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                .unwrap();
            call.await_hangup();
        }
        _ => call.ok("whole"),
    });
    let proxy =
        Proxy::start(json!({ "workers": 1, "services": { "shop": shop(&upstream, &upstream) } }));
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    let mut hangups = 0;
    for reset in [true, false] {
        let leave = |client: Client| if reset { client.reset() } else { drop(client) };
        leave(proxy.client());
        for part in [
            "\r\n",
            "G",
            "GET / HTTP/1.1\r\nHos",
            &LENGTH[..LENGTH.len() - 2],
            &CHUNKED[..CHUNKED.len() - 20],
        ] {
            let mut client = proxy.client();
            client.send(part);
            leave(client);
        }
        let mut idle = proxy.client();
        idle.get("/");
        leave(idle);
        for path in ["/silent", "/begun"] {
            let mut client = proxy.client();
            client.send(ask(path));
            if path == "/begun" {
                client.head().unwrap();
                client.wire.chunk().unwrap().unwrap();
            } else {
                eventually("the request is with its upstream", || {
                    upstream.last().target == path
                });
            }
            // An end that comes at once is that of a client which waits for its response.
            std::thread::sleep(std::time::Duration::from_millis(100));
            leave(client);
            hangups += 1;
            eventually("the upstream is let go", || upstream.hangups() == hangups);
        }
    }
    assert_eq!(proxy.get("/").expect(200).text(), "whole");
    eventually("no connection is left", || {
        proxy.metrics().sum("connections_active", &[]) < 0.5
    });
}

#[test]
fn a_client_reads_why_nobody_wants_its_upload() {
    let (_upstream, proxy) = echo();
    let mut client = proxy.client();
    // No route leads there, and what is sent is more than is read of it at once.
    client.send("POST / HTTP/1.1\r\nHost: nowhere.test\r\nContent-Length: 800000\r\n\r\n");
    for _ in 0..8 {
        client.send(vec![b'u'; 100_000]);
    }
    let refused = client.receive();
    assert_eq!(refused.header("connection").as_deref(), Some("close"));
    assert!(client.wire.ends());
    // The little that is left of a small one is read, and the connection goes on.
    let mut small = proxy.client();
    small.send(LENGTH.replace("shop.test", "nowhere.test") + PLAIN);
    assert_eq!(small.receive().status, refused.status);
    assert_eq!(small.receive().expect(200).text(), "/plain ");
}

#[test]
fn a_response_to_http10_that_breaks_off_does_not_look_whole() {
    let upstream = Upstream::start(|call| {
        call.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .unwrap();
        call.close();
    });
    let proxy = Proxy::start(json!({ "services": { "shop": shop(&upstream, &upstream) } }));
    let mut stream = std::net::TcpStream::connect(proxy.address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n").unwrap();
    let ended = stream.read_to_end(&mut Vec::new());
    assert!(
        ended.is_err(),
        "the end of the connection is that of the body"
    );
}

#[test]
fn connections_are_kept_and_closed_as_version_and_fields_say() {
    let (_upstream, proxy) = echo();
    for (version, fields, says, kept) in [
        ("1.1", "", None, true),
        ("1.1", "Connection: close\r\n", Some("close"), false),
        ("1.1", "Connection: x, Close\r\n", Some("close"), false),
        ("1.0", "", None, false),
        (
            "1.0",
            "Connection: keep-alive\r\n",
            Some("keep-alive"),
            true,
        ),
    ] {
        let mut client = proxy.client();
        client.send(format!(
            "GET / HTTP/{version}\r\nHost: shop.test\r\n{fields}\r\n"
        ));
        let response = client.receive().expect(200);
        assert!(response.head.first.starts_with(&format!("HTTP/{version} ")));
        assert_eq!(
            response.header("connection").as_deref(),
            says,
            "{version} {fields:?}"
        );
        if kept {
            assert_eq!(client.get("/plain").text(), "/plain ");
        } else {
            assert!(client.wire.closes());
        }
    }
}
