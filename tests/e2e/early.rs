//! Responses that begin before the request has ended: neither direction waits for the other.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::json;

use crate::harness::{Proxy, Upstream, eventually, shop};

/// More than all socket buffers on the path can hold.
const LARGE: usize = 64 * 1024 * 1024;

fn one_worker(upstream: &Upstream) -> Proxy {
    Proxy::start(json!({ "workers": 1, "services": { "shop": shop(upstream, upstream) } }))
}

#[test]
fn an_upload_continues_while_the_client_does_not_read_the_response() {
    // The upstream reads and writes concurrently, each as fast as it can.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = thread::spawn(move || {
        let (mut reading, _) = listener.accept().unwrap();
        let mut writing = reading.try_clone().unwrap();
        let mut start = [0; 1];
        reading.read_exact(&mut start).unwrap();
        let response = thread::spawn(move || {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            writing.write_all(head.as_bytes()).unwrap();
            writing.write_all(&vec![b'd'; LARGE]).unwrap();
        });
        let (mut scrap, mut read) = (vec![0; 1 << 20], 0);
        while read < LARGE {
            match reading.read(&mut scrap).unwrap() {
                0 => panic!("only {read} bytes arrived"),
                some => read += some,
            }
        }
        response.join().unwrap();
    });
    let proxy = Proxy::start(json!({ "workers": 1, "services": { "shop": {
        "routes": [{}], "upstreams": { "blue": { "endpoints": [address] } },
    }}}));
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    // The client sends the whole body before it reads any of the response.
    client.send(vec![b'U'; LARGE]);
    client.head().unwrap();
    assert_eq!(client.wire.exactly(LARGE).unwrap().len(), LARGE);
    upstream.join().unwrap();
}

#[test]
fn an_upload_continues_after_its_response_has_ended() {
    let upstream = Upstream::start(|call| match call.path() {
        "/early" => call
            .write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
            .unwrap(),
        _ => call.ok("next"),
    });
    let proxy = one_worker(&upstream);
    let mut client = proxy.client();
    for framing in ["Content-Length: 300000", "Transfer-Encoding: chunked"] {
        client.send(format!(
            "POST /early HTTP/1.1\r\nHost: shop.test\r\n{framing}\r\n\r\n"
        ));
        assert_eq!(client.receive().expect(200).text(), "early");
        for _ in 0..3 {
            let piece = "u".repeat(100_000);
            let piece = if framing.starts_with('C') {
                piece
            } else {
                format!("186a0\r\n{piece}\r\n")
            };
            client.send(piece);
        }
        if framing.starts_with('T') {
            client.send("0\r\n\r\n");
        }
        eventually("the upstream gets the whole body", || {
            upstream
                .last()
                .body
                .is_some_and(|body| body.len() == 300_000)
        });
        assert_eq!(client.get("/next").expect(200).text(), "next");
    }
}

#[test]
fn a_client_whose_upload_is_refused_can_keep_sending_and_reads_the_response() {
    let upstream = Upstream::start(|call| match call.path() {
        "/refused" => {
            call.write(
                "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
            )
            .unwrap();
            call.close();
        }
        _ => call.ok("next"),
    });
    let proxy = one_worker(&upstream);
    let mut client = proxy.client();
    client.send("POST /refused HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 500000\r\n\r\n");
    // The client sends before it reads, as simple clients do.
    for _ in 0..5 {
        client.send(vec![b'u'; 100_000]);
    }
    assert_eq!(client.receive().expect(413).text(), "big");
    assert_eq!(client.get("/next").expect(200).text(), "next");
}

#[test]
fn an_aborted_upload_aborts_the_response() {
    let upstream = Upstream::start(|call| {
        call.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .unwrap();
        call.await_hangup();
    });
    let proxy = one_worker(&upstream);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.head().unwrap();
    assert_eq!(client.wire.chunk().unwrap(), Ok("first".into()));
    client.send("not a chunk\r\n");
    assert!(
        client.wire.chunk().is_err(),
        "the response continued, or looked complete"
    );
    eventually("the upstream connection is closed", || {
        upstream.hangups() == 1
    });
    proxy.counts_reason("bad_request", 1);
}

#[test]
fn an_upload_that_no_upstream_reads_is_ended() {
    let upstream = Upstream::start(|call| match call.path() {
        "/early" => {
            call.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
                .unwrap();
            call.await_hangup();
        }
        _ => call.ok("next"),
    });
    let proxy = Proxy::start(json!({
        "workers": 1,
        "listeners": [{ "timeouts": { "body_idle": "150ms" } }],
        "services": { "shop": shop(&upstream, &upstream) },
    }));
    let mut client = proxy.client();
    client.send("POST /early HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 300000\r\n\r\nbegun");
    assert_eq!(client.receive().expect(200).text(), "early");
    eventually("a client that sends nothing more is disconnected", || {
        upstream.hangups() == 1
    });
}
