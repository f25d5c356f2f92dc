//! Bodies of requests in as many pieces as possible: what they cost.

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};

use super::{KIB, MIB, ask, cost, frame, preface, proxy};
use crate::harness::{Http2, Proxy, Upstream, block_on, shop};

/// A frame of a type that nobody knows, which is ignored (RFC 9113 section 4.1): with the DATA
/// frame before it, it fills a block of memory.
pub(super) fn filler() -> Vec<u8> {
    frame(0x20, 0, 0, &[0; 7900])
}

/// The head of a POST of `path`.
pub(super) fn post(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x01, 4];
    block.extend_from_slice(b"shop");
    block.extend_from_slice(&[0x04, u8::try_from(path.len()).unwrap()]);
    block.extend_from_slice(path.as_bytes());
    frame(1, 0x4, stream, &block)
}

/// One upload that begins with so many pieces of so many bytes, each followed by a filler.
fn pieces(count: usize, bytes: usize) -> Vec<u8> {
    let piece = [frame(0, 0, 1, &vec![b'x'; bytes]), filler()].concat();
    [preface(), post(1, "/never"), piece.repeat(count)].concat()
}

#[test]
fn short_pieces_of_uploads_that_nobody_takes_hold_two_mebibytes_at_most() {
    for bytes in [1, 256] {
        let proxy = proxy();
        let request = pieces(400, bytes);
        let (held, clients) = cost(&proxy, || ask(&proxy, 100, || request.clone()));
        assert!(held <= 100 * 2 * MIB, "{bytes}: {} KiB", held / KIB);
        // A bystander is served.
        assert_eq!(proxy.get("/large").expect(200).body.len(), 100_000);
        drop(clients);
    }
}

#[test]
fn short_pieces_on_all_streams_hold_two_mebibytes_at_most() {
    let proxy = proxy();
    // The window of the connection, in pieces of 64 bytes.
    let pieces = |stream| frame(0, 0, stream, &[b'x'; 64]).repeat(32);
    let streams = || (0..128).map(|stream| 2 * stream + 1);
    let request: Vec<u8> = preface()
        .into_iter()
        .chain(streams().flat_map(|stream| post(stream, "/never")))
        .chain(streams().flat_map(pieces))
        .collect();
    let (held, clients) = cost(&proxy, || ask(&proxy, 20, || request.clone()));
    assert!(held <= 20 * 2 * MIB, "{} KiB", held / KIB);
    drop(clients);
}

#[test]
fn an_upload_of_many_short_pieces_arrives_whole() {
    let upstream = Upstream::named("taken");
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    // Longer than the window, so that it has to be opened again.
    let (short, long) = (3000_usize, 100_usize);
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        let pieces = (0..short)
            .map(|_| Bytes::from_static(b"x"))
            .chain((0..long).map(|_| Bytes::from(vec![b'y'; 16 * KIB])));
        let frames = pieces.map(|piece| Ok(http_body::Frame::data(piece)));
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
        let request = Http2::request("/").method("POST").body(body).unwrap();
        assert_eq!(client.send(request).await.text, "taken");
    });
    let body = upstream.last().body.unwrap();
    assert_eq!(body.len(), short + long * 16 * KIB);
    assert!(body[..short].iter().all(|byte| *byte == b'x'));
    assert!(body[short..].iter().all(|byte| *byte == b'y'));
}
