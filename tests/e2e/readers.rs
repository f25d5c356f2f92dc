//! Clients that ask for much and read nothing: what they cost.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Client, Proxy, until_within};

mod all;
mod heads;
mod http1;
mod uploads;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// An upstream of many connections, in one thread: it answers `/endless` without an end, `/large`
/// with 100,000 bytes, `/dribble` a little at a time, `/heads` with a large head, `/partial` with a
/// part of one, `/slow` after a while, `/trailers` with many trailers, and `/never` not at all.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
    });
    address
}

async fn answer(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    let mut request = vec![0; 256 * KIB];
    loop {
        let bytes = stream.read(&mut request).await?;
        if bytes == 0 {
            return Ok(());
        }
        let (head, piece) = match request[..bytes].get(5).copied() {
            Some(b'e') => ("Content-Length: 10000000000", 64 * KIB),
            Some(b'd') => ("Transfer-Encoding: chunked", 100),
            Some(b'l') => {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}",
                    "x".repeat(100_000)
                );
                stream.write_all(answer.as_bytes()).await?;
                continue;
            }
            Some(b'h') => {
                // A head of 64 KiB.
                let field = format!("x-field: {}\r\n", "y".repeat(8000));
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{}\r\nok",
                    field.repeat(8)
                );
                stream.write_all(answer.as_bytes()).await?;
                continue;
            }
            Some(b'p') => {
                // A head of which 56 KiB come, and no end.
                let field = format!("x-field: {}\r\n", "y".repeat(8000));
                let answer = format!("HTTP/1.1 200 OK\r\n{}", field.repeat(7));
                stream.write_all(answer.as_bytes()).await?;
                continue;
            }
            Some(b's') => {
                tokio::time::sleep(Duration::from_millis(1300)).await;
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow";
                stream.write_all(answer.as_bytes()).await?;
                continue;
            }
            Some(b't') => {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n\
                     2\r\nok\r\n0\r\n{}\r\n",
                    "x: y\r\n".repeat(60)
                );
                stream.write_all(answer.as_bytes()).await?;
                continue;
            }
            _ if request.starts_with(b"POST") => return std::future::pending().await,
            _ => continue,
        };
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes())
            .await?;
        let mut data = vec![b'x'; piece];
        if piece == 100 {
            data = [&b"64\r\n"[..], &data, b"\r\n"].concat();
        }
        loop {
            stream.write_all(&data).await?;
            tokio::task::yield_now().await;
        }
    }
}

fn proxy() -> Proxy {
    let upstream = upstream();
    let service = json!({ "routes": [{}], "upstreams": { "blue": { "endpoints": [upstream] } },
    "weights": { "blue": 100 } });
    let proxy = Proxy::start(json!({ "workers": 1, "services": { "shop": service } }));
    for _ in 0..20 {
        assert_eq!(proxy.get("/large").expect(200).body.len(), 100_000);
    }
    proxy
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The beginning of an HTTP/2 connection that leaves nothing to flow control.
fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE and the window of the connection: all there can be.
    bytes.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    bytes.extend(frame(8, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes()));
    bytes
}

/// A GET of `path`, with further fields in HPACK.
fn get(stream: u32, path: &str, fields: &[u8]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x01, 4];
    block.extend_from_slice(b"shop");
    block.extend_from_slice(&[0x04, u8::try_from(path.len()).unwrap()]);
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(fields);
    frame(1, 0x5, stream, &block)
}

/// So many connections, each of which asks so many times.
fn ask(proxy: &Proxy, connections: usize, requests: impl Fn() -> Vec<u8>) -> Vec<Client> {
    let open = |_| {
        let mut client = proxy.client();
        client.send(requests());
        client
    };
    (0..connections).map(open).collect()
}

fn streams(count: u32, path: &str) -> Vec<u8> {
    let requests = (0..count).flat_map(|stream| get(2 * stream + 1, path, &[]));
    preface().into_iter().chain(requests).collect()
}

/// The memory in use once it is steady: when the program has had nothing to do, and the memory has
/// not moved by more than a few pages, for a while. A slow machine takes long to get there.
#[track_caller]
fn steady(proxy: &Proxy) -> usize {
    const LIMIT: Duration = Duration::from_secs(180);
    const AGREEING: u32 = 250;
    let (mut first, mut same) = (proxy.memory(), 0);
    until_within(LIMIT, "the memory is steady", || {
        let now = proxy.memory();
        // Its own tick wakes it now and then.
        same += u32::from(proxy.sleeps());
        if now.abs_diff(first) > 64 * KIB {
            (first, same) = (now, 0);
        }
        (same >= AGREEING).then_some(now)
    })
}

/// What the clients of `ask` add to the memory in use, once nothing moves any more.
#[track_caller]
fn cost(proxy: &Proxy, ask: impl FnOnce() -> Vec<Client>) -> (usize, Vec<Client>) {
    let before = steady(proxy);
    let clients = ask();
    let after = steady(proxy);
    eprintln!(
        "{} clients cost {} KiB",
        clients.len(),
        after.saturating_sub(before) / KIB
    );
    (after.saturating_sub(before), clients)
}

#[test]
fn a_hundred_readers_of_http2_that_read_nothing_hold_two_mebibytes_each_at_most() {
    let proxy = proxy();
    let (held, clients) = cost(&proxy, || ask(&proxy, 100, || streams(20, "/endless")));
    assert!(held <= 100 * 2 * MIB, "{} KiB", held / KIB);
    // A bystander is served.
    assert_eq!(proxy.get("/large").expect(200).body.len(), 100_000);
    drop(clients);
}

#[test]
fn connections_of_all_streams_hold_two_mebibytes_each_at_most() {
    for path in ["/never", "/endless", "/dribble"] {
        let proxy = proxy();
        // Enough of them that what the allocator keeps for the process as a whole does not matter.
        let (held, clients) = cost(&proxy, || ask(&proxy, 20, || streams(250, path)));
        // That includes the tasks of 128 requests and what the allocator keeps.
        assert!(held <= 20 * 2 * MIB, "{path}: {} KiB", held / KIB);
        drop(clients);
    }
}

#[test]
fn references_to_cookies_hold_two_mebibytes_at_most() {
    let proxy = proxy();
    // The first stores a long cookie in the table; then each byte stands for all of it.
    let mut long = vec![0x60, 0x7f];
    long.extend_from_slice(&[0xa1, 0x1e]);
    long.extend_from_slice(&[b'c'; 0x7f + 0x21 + (0x1e << 7)]);
    let requests = || {
        let mut bytes = preface();
        bytes.extend(get(1, "/never", &long));
        (1..250).for_each(|stream| bytes.extend(get(2 * stream + 1, "/never", &[0xbe; 7])));
        bytes
    };
    let (held, clients) = cost(&proxy, || ask(&proxy, 10, requests));
    assert!(held <= 10 * 2 * MIB, "{} KiB", held / KIB);
    drop(clients);
}

#[test]
fn a_hundred_readers_of_http1_that_read_nothing_hold_128_kibibytes_each_at_most() {
    for path in ["endless", "dribble"] {
        let proxy = proxy();
        let request = format!("GET /{path} HTTP/1.1\r\nHost: shop\r\n\r\n");
        let (held, clients) = cost(&proxy, || ask(&proxy, 100, || request.clone().into_bytes()));
        assert!(held <= 100 * 128 * KIB, "{path}: {} KiB", held / KIB);
        drop(clients);
    }
}

#[test]
fn a_hundred_uploads_that_the_upstream_does_not_read_hold_128_kibibytes_each_at_most() {
    let proxy = proxy();
    let (held, clients) = cost(&proxy, || {
        let open = |_| {
            let mut client = proxy.client();
            client.send("POST /never HTTP/1.1\r\nHost: shop\r\nContent-Length: 100000000\r\n\r\n");
            // As much as is taken.
            client.wire.push(b'x');
            client
        };
        (0..100).map(open).collect()
    });
    assert!(held <= 100 * 128 * KIB, "{} KiB", held / KIB);
    drop(clients);
}
