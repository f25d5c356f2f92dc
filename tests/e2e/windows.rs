//! HTTP/2 clients that keep a connection open without reading from it, frame by frame.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::harness::{DEADLINE, Proxy, Upstream, eventually, shop};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM_AND_HEADERS: u8 = 5;
const ACK: u8 = 1;
/// HPACK block (RFC 7541) of GET http://shop.test/, without dynamic table or Huffman coding.
const GET: &[u8] = b"\x82\x86\x84\x41\x09shop.test";

/// One connection whose frames are written and read explicitly.
struct Frames(TcpStream);

impl Frames {
    /// Connects, with this initial window of the streams.
    fn connect(proxy: &Proxy, window: u32) -> Frames {
        let stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut frames = Frames(stream);
        frames.0.write_all(PREFACE).unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE
        let mut settings = vec![0, 4];
        settings.extend_from_slice(&window.to_be_bytes());
        frames.send(SETTINGS, 0, 0, &settings).unwrap();
        frames.send(SETTINGS, ACK, 0, &[]).unwrap();
        frames
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.0.write_all(&frame)
    }

    /// Kind, flags and payload of the next frame; `None` at the end of the connection.
    fn next(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("the connection was left open")
            }
            Err(_) => return None,
            Ok(()) => {}
        }
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], head[4], payload))
    }

    /// Kinds of all frames until the end of the connection.
    fn kinds(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.next())
            .map(|(kind, ..)| kind)
            .collect()
    }
}

#[test]
fn a_client_that_never_opens_its_window_is_disconnected() {
    let upstream = Upstream::named("never taken");
    let mut service = shop(&upstream, &upstream);
    service["timeouts"] = json!({ "idle": "150ms" });
    let proxy = Proxy::start(json!({
        "workers": 1,
        "listeners": [{ "timeouts": { "keep_alive": "150ms", "header": "150ms" } }],
        "services": { "shop": service },
    }));
    let mut frames = Frames::connect(&proxy, 0);
    for stream in [1, 3, 5] {
        frames
            .send(HEADERS, END_STREAM_AND_HEADERS, stream, GET)
            .unwrap();
    }
    let kinds = frames.kinds();
    assert_eq!(
        kinds.iter().filter(|kind| **kind == HEADERS).count(),
        3,
        "{kinds:?}"
    );
    assert!(!kinds.contains(&DATA));
    // The same with more than one pending frame.
    let mut frames = Frames::connect(&proxy, 3);
    frames
        .send(HEADERS, END_STREAM_AND_HEADERS, 1, GET)
        .unwrap();
    assert!(frames.kinds().contains(&DATA));
    eventually("no request is in flight", || {
        proxy.service()["upstreams"]["blue"]["endpoints"][0]["in_flight"] == 0
    });
}

#[test]
fn an_idle_connection_gets_goaway() {
    let upstream = Upstream::named("blue");
    let proxy = Proxy::start(json!({
        "workers": 1,
        "listeners": [{ "timeouts": { "keep_alive": "150ms" } }],
        "services": { "shop": shop(&upstream, &upstream) },
    }));
    let mut frames = Frames::connect(&proxy, 65_535);
    frames
        .send(HEADERS, END_STREAM_AND_HEADERS, 1, GET)
        .unwrap();
    let mut kinds = Vec::new();
    while let Some((kind, flags, payload)) = frames.next() {
        kinds.push(kind);
        if kind == PING && flags & ACK == 0 {
            let _ = frames.send(PING, ACK, 0, &payload);
        }
    }
    assert!(
        kinds.contains(&DATA) && kinds.contains(&GOAWAY),
        "{kinds:?}"
    );
    // A client that does not acknowledge the PING is disconnected, too.
    let mut silent = Frames::connect(&proxy, 65_535);
    assert!(silent.kinds().contains(&GOAWAY));
}
