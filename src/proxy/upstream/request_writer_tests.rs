use std::collections::VecDeque;
use std::io::{self, IoSlice};

use http::HeaderValue;
use http_body::{Frame, SizeHint};

use super::*;
use crate::proxy::upstream::forwarded_headers::samples::{hop, without_hop};

/// A body that comes as it is told; where it says `None`, it lets itself be waited for once.
#[derive(Default)]
struct Script {
    frames: VecDeque<Option<Frame<Bytes>>>,
    breaks_off: bool,
}

impl Body for Script {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        match self.frames.pop_front() {
            Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None if self.breaks_off => Poll::Ready(Some(Err(BodyAborted))),
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn script(pieces: &[Option<&'static str>]) -> Script {
    let frame = |piece: &Option<&'static str>| piece.map(|data| Frame::data(Bytes::from(data)));
    Script {
        frames: pieces.iter().map(frame).collect(),
        breaks_off: false,
    }
}

/// A socket that takes a few bytes at a time, and none every other time.
struct Narrow {
    width: usize,
    taken: Vec<u8>,
    full: bool,
}

impl AsyncWrite for Narrow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.full = !self.full;
        if self.full {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let bytes = self.width.min(buf.len());
        self.taken.extend_from_slice(&buf[..bytes]);
        Poll::Ready(Ok(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.as_mut().poll_write(cx, &all)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What goes out of a POST with this body, with the head cut off, over a socket of this width.
async fn sent(
    framing: RequestFraming,
    mut body: Script,
    width: usize,
) -> Result<String, UpstreamFault> {
    let mut request = Request::post("/").body(()).unwrap();
    if let RequestFraming::Length(length) = framing {
        request
            .headers_mut()
            .insert("content-length", HeaderValue::from(length));
    }
    let mut outgoing = RequestWriter::new(Vec::new(), None, &request, framing, &hop());
    let mut socket = Narrow {
        width,
        taken: Vec::new(),
        full: false,
    };
    std::future::poll_fn(|cx| outgoing.poll(Pin::new(&mut socket), &mut body, cx)).await?;
    assert!(outgoing.is_begun() && outgoing.is_last());
    let text = String::from_utf8(socket.taken).unwrap();
    Ok(text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn whatever_the_socket_takes_at_once_the_same_goes_out() {
    let pieces = [
        Some("hello"),
        None,
        Some(""),
        Some("0123456789abcdef"),
        None,
    ];
    let chunked = "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";
    for width in [1, 2, 3, 7, 20, 1000] {
        let text = sent(RequestFraming::Chunked, script(&pieces), width)
            .await
            .unwrap();
        assert_eq!(text, chunked, "{width} bytes at once");
        let text = sent(RequestFraming::Length(21), script(&pieces), width)
            .await
            .unwrap();
        assert_eq!(text, "hello0123456789abcdef", "{width} bytes at once");
        assert_eq!(
            sent(RequestFraming::Nothing, script(&[]), width)
                .await
                .unwrap(),
            ""
        );
        assert_eq!(
            sent(RequestFraming::Chunked, script(&[]), width)
                .await
                .unwrap(),
            "0\r\n\r\n"
        );
    }
}

#[tokio::test]
async fn trailers_follow_the_last_chunk() {
    let mut body = script(&[Some("x")]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    body.frames.push_back(Some(Frame::trailers(trailers)));
    let text = sent(RequestFraming::Chunked, body, 4).await.unwrap();
    assert_eq!(text, "1\r\nx\r\n0\r\nx-sum: 1\r\n\r\n");
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_announced_is_not_made_to_look_so() {
    for (length, pieces) in [
        (3, &[Some("12")][..]),
        (3, &[Some("12"), None, Some("34")]),
        (3, &[]),
    ] {
        let failed = sent(RequestFraming::Length(length), script(pieces), 100).await;
        assert!(
            matches!(failed, Err(UpstreamFault::Upload)),
            "{pieces:?} gave {failed:?}"
        );
    }
    let mut body = script(&[Some("12")]);
    body.breaks_off = true;
    assert!(matches!(
        sent(RequestFraming::Chunked, body, 100).await,
        Err(UpstreamFault::Upload)
    ));
}

#[test]
fn what_is_at_hand_goes_out_with_the_head() {
    let request = Request::post("/").body(()).unwrap();
    let mut outgoing =
        RequestWriter::new(Vec::new(), None, &request, RequestFraming::Chunked, &hop());
    outgoing.data(Bytes::from("body"), true).unwrap();
    let mut socket = Narrow {
        width: 1000,
        taken: Vec::new(),
        full: true,
    };
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let polled = outgoing.poll(Pin::new(&mut socket), &mut Script::default(), &mut cx);
    assert!(matches!(polled, Poll::Ready(Ok(()))), "one write is enough");
    assert_eq!(
        without_hop(&socket.taken, request.headers()),
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    );
}
