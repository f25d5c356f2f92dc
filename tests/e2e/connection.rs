//! HTTP/1.1 downstream connections: input in pieces of any size, and disconnects in every state.

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

/// An upstream that responds with the path, the body and a trailer of the request, and a proxy.
fn echo() -> (Upstream, Proxy) {
    let upstream = Upstream::start(|call| {
        let body = String::from_utf8(call.body().unwrap_or_default()).unwrap();
        let response = format!("{} {body}", call.path());
        call.ok(response);
    });
    let mut service = shop(&upstream, &upstream);
    service["routes"] = json!([{ "host": "shop.test" }]);
    let proxy = Proxy::start(json!({
        "access_log": "./access.log", "workers": 1, "services": { "shop": service },
    }));
    (upstream, proxy)
}

/// Sends `text` in pieces of `piece` bytes.
fn send(client: &mut Client, text: &str, piece: usize) {
    for piece in text.as_bytes().chunks(piece) {
        client.send(piece);
    }
}

#[test]
fn responses_do_not_depend_on_how_the_request_is_split() {
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

/// Requests that are refused, with the status and the reason.
fn malformed_requests() -> [(String, u16, &'static str); 7] {
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n");
    [
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
    ]
}

#[test]
fn a_refused_request_ends_the_connection_alike_however_its_bytes_come() {
    let (upstream, proxy) = echo();
    let mut ids = Vec::new();
    let cases = malformed_requests();
    for (index, (bad, status, reason)) in cases.iter().enumerate() {
        for piece in [usize::MAX, 1] {
            // As the first request of a connection, and pipelined after a valid one.
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
                ids.push((refused.header("x-request-id").unwrap(), *status, *reason));
                assert!(client.wire.ends(), "the connection stays open");
            }
        }
    }
    let good = cases.len() * 2;
    assert_eq!(
        upstream.count(),
        good,
        "a refused request, or one after it, reached the upstream"
    );
    let count = |status: u16| {
        4 * cases
            .iter()
            .map(|(_, refused, _)| u8::from(*refused == status))
            .sum::<u8>()
    };
    for status in [400, 414, 431, 501, 505] {
        let code = status.to_string();
        eventually("each request is counted once", || {
            proxy
                .metrics()
                .sum("http_requests_total", &[("code", &code)])
                == f64::from(count(status))
        });
    }
    let lines = logged(&proxy, ids.len() + good);
    for (id, status, reason) in ids {
        let line = lines.iter().find(|line| line["request_id"] == id.as_str());
        let line = line.unwrap_or_else(|| panic!("no line for {id}, {reason}"));
        assert_eq!(
            (&line["status"], &line["reason"]),
            (&json!(status), &json!(reason))
        );
    }
}

#[test]
fn a_malformed_body_is_refused_once_however_it_is_split() {
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
fn a_client_may_disconnect_in_any_state() {
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
                eventually("the upstream has the request", || {
                    upstream.last().target == path
                });
            }
            // A half-close right after a request means that the client still reads its response.
            std::thread::sleep(std::time::Duration::from_millis(100));
            leave(client);
            hangups += 1;
            eventually("the upstream connection is closed", || {
                upstream.hangups() == hangups
            });
        }
    }
    assert_eq!(proxy.get("/").expect(200).text(), "whole");
    eventually("no connection is left", || {
        proxy.metrics().sum("connections_active", &[]) < 0.5
    });
}

#[test]
fn a_client_whose_upload_is_refused_reads_the_response() {
    let (_upstream, proxy) = echo();
    let mut client = proxy.client();
    // No route matches, and the client sends more than the proxy reads at once.
    client.send("POST / HTTP/1.1\r\nHost: nowhere.test\r\nContent-Length: 800000\r\n\r\n");
    for _ in 0..8 {
        client.send(vec![b'u'; 100_000]);
    }
    let refused = client.receive();
    assert_eq!(refused.header("connection").as_deref(), Some("close"));
    assert!(client.wire.ends());
    // The rest of a small body is read, and the connection is kept.
    let mut small = proxy.client();
    small.send(LENGTH.replace("shop.test", "nowhere.test") + PLAIN);
    assert_eq!(small.receive().status, refused.status);
    assert_eq!(small.receive().expect(200).text(), "/plain ");
}

#[test]
fn a_truncated_response_to_http10_resets_the_connection() {
    let upstream = Upstream::start(|call| {
        call.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .unwrap();
        call.close();
    });
    let proxy = Proxy::start(json!({ "services": { "shop": shop(&upstream, &upstream) } }));
    let mut stream = std::net::TcpStream::connect(proxy.address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n").unwrap();
    let ended = stream.read_to_end(&mut Vec::new());
    assert!(ended.is_err(), "the body ends with the connection");
}

#[test]
fn keep_alive_follows_the_version_and_connection_fields() {
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
