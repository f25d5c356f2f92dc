//! Clients of HTTP/2 that do at once all that costs something.

use super::heads::{CLIENTS, each};
use super::uploads::{filler, post};
use super::{KIB, MIB, frame, get, preface, proxy};

/// Trailers of so many fields, which end their stream.
fn trailers(stream: u32, fields: usize) -> Vec<u8> {
    frame(1, 0x5, stream, &b"\x00\x01a\x01b".repeat(fields))
}

/// The beginning of a head of a request, as long as heads may be, without its end.
fn part_of_a_head(stream: u32) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x01, 4];
    block.extend_from_slice(b"shop");
    block.extend_from_slice(&[0x04, 1, b'/']);
    block.extend_from_slice(&b"\x00\x01a\x01b".repeat(600));
    let rest = b"\x00\x01a\x01b".repeat(200);
    [frame(1, 0x1, stream, &block), frame(9, 0, stream, &rest)].concat()
}

/// 128 streams: references to cookies, uploads in short pieces, answers and heads and trailers that
/// nobody reads; and after them a part of a head.
fn everything() -> Vec<u8> {
    let mut cookie = vec![0x60, 0x7f, 0xa1, 0x1e];
    cookie.extend_from_slice(&[b'c'; 0x7f + 0x21 + (0x1e << 7)]);
    let mut bytes = preface();
    bytes.extend(get(1, "/never", &cookie));
    for number in 1..127_u32 {
        let stream = 2 * number + 1;
        match number % 7 {
            0 => bytes.extend(get(stream, "/never", &[0xbe; 7])),
            1 => bytes.extend(get(stream, "/endless", &[])),
            2 => bytes.extend(get(stream, "/heads", &[])),
            3 => bytes.extend(get(stream, "/partial", &[])),
            4 => bytes.extend(get(stream, "/trailers", &[])),
            5 => {
                bytes.extend(post(stream, "/never"));
                let piece = [frame(0, 0, stream, &[b'x'; 200]), filler()].concat();
                bytes.extend(piece.repeat(20));
            }
            _ => {
                bytes.extend(post(stream, "/never"));
                bytes.extend(frame(0, 0, stream, &[b'x'; 9_000]));
                bytes.extend(trailers(stream, 300));
            }
        }
    }
    bytes.extend(part_of_a_head(255));
    bytes
}

#[test]
fn all_kinds_at_once_hold_two_mebibytes_at_most() {
    let proxy = proxy();
    let request = everything();
    let (held, clients) = each(&proxy, CLIENTS, || request.clone());
    assert!(held <= 2 * MIB, "{} KiB", held / KIB);
    // A bystander is served.
    assert_eq!(proxy.get("/large").expect(200).body.len(), 100_000);
    drop(clients);
}

#[test]
fn trailers_of_uploads_hold_two_mebibytes_at_most() {
    let proxy = proxy();
    let request: Vec<u8> = preface()
        .into_iter()
        .chain((0..128).flat_map(|number| {
            let stream = 2 * number + 1;
            [post(stream, "/never"), trailers(stream, 900)].concat()
        }))
        .collect();
    let (held, clients) = each(&proxy, 20, || request.clone());
    assert!(held <= 2 * MIB, "{} KiB", held / KIB);
    drop(clients);
}
