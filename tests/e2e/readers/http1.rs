//! Clients of HTTP/1.1 that use all that the protocol allows: what they cost.

use super::{KIB, cost, proxy};
use crate::harness::Proxy;

/// What each of `clients` clients costs that sends as much of `bytes` as is taken, and reads
/// nothing.
#[track_caller]
fn costs_128_kibibytes_at_most(proxy: &Proxy, clients: usize, what: &str, bytes: &str) {
    costs_at_most(128, proxy, clients, what, bytes);
}

fn costs_at_most(kibibytes: usize, proxy: &Proxy, clients: usize, what: &str, bytes: &str) {
    let (held, clients) = cost(proxy, || {
        let open = |_| {
            let mut client = proxy.client();
            client.wire.offer(bytes.as_bytes());
            client
        };
        (0..clients).map(open).collect()
    });
    let each = held / clients.len();
    assert!(each <= kibibytes * KIB, "{what}: {} KiB", each / KIB);
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop\r\n{fields}\r\n")
}

fn post(fields: &str, body: &str) -> String {
    format!("POST /never HTTP/1.1\r\nHost: shop\r\n{fields}\r\n\r\n{body}")
}

/// Where many long heads pass, the allocator keeps memory that is free: what is seen of a client
/// varies from 80 to 180 KiB, though it holds less.
const LONG_HEADS: usize = 256;

/// Fields of 60 KiB.
fn long_fields() -> String {
    format!("x-field: {}\r\n", "y".repeat(6000)).repeat(10)
}

#[test]
fn pipelined_requests_hold_128_kibibytes_at_most() {
    for path in ["/endless", "/never", "/dribble"] {
        let requests = get(path, "").repeat(5000);
        costs_128_kibibytes_at_most(&proxy(), 100, path, &requests);
    }
}

#[test]
fn long_heads_of_requests_are_not_kept() {
    let (fields, many) = (long_fields(), "x: y\r\n".repeat(98));
    for path in ["/endless", "/never"] {
        for fields in [&fields, &many] {
            let requests = get(path, fields).repeat(4);
            costs_at_most(LONG_HEADS, &proxy(), 100, path, &requests);
        }
    }
    let mut partial = get("/never", &fields);
    partial.truncate(partial.len() - 2);
    costs_at_most(LONG_HEADS, &proxy(), 100, "a part", &partial);
}

#[test]
fn long_heads_of_responses_are_not_kept() {
    for path in ["/heads", "/partial", "/trailers"] {
        let requests = get(path, "TE: trailers\r\n").repeat(300);
        costs_at_most(LONG_HEADS, &proxy(), 100, path, &requests);
        // With all that a request may take.
        let requests = get(path, &long_fields()).repeat(100);
        costs_at_most(LONG_HEADS, &proxy(), 100, path, &requests);
    }
}

#[test]
fn chunk_extensions_and_trailers_of_uploads_hold_128_kibibytes_at_most() {
    let chunked = "Transfer-Encoding: chunked";
    let extensions = format!("1;x={}\r\nx\r\n", "y".repeat(200)).repeat(5000);
    let pieces = "1\r\nx\r\n".repeat(50_000);
    let trailers = format!("1\r\nx\r\n0\r\n{}", "x: y\r\n".repeat(90));
    for body in [&extensions, &pieces, &trailers] {
        costs_128_kibibytes_at_most(&proxy(), 100, &body[..8], &post(chunked, body));
    }
}

#[test]
fn an_upload_beside_its_response_holds_128_kibibytes_at_most() {
    let request = "PUT /endless HTTP/1.1\r\nHost: shop\r\nContent-Length: 100000000\r\n\r\n";
    let upload = format!("{request}{}", "x".repeat(4_000_000));
    costs_128_kibibytes_at_most(&proxy(), 100, "PUT", &upload);
}
