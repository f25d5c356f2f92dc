//! A piece of a message on its way out.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use tokio::io::AsyncWrite;

/// Data up to this length is copied behind what stands before it: to copy so little takes less than
/// the kernel takes to gather it.
const COPIED_MAX: usize = 4 * 1024;
/// The most memory that is kept for the next piece.
const KEPT_MAX: usize = 16 * 1024;

/// One piece at a time: what stands before the data (a head, or a chunk's size line), the data, and
/// what stands after it.
#[derive(Debug)]
pub(crate) struct OutputSegment<D> {
    /// Written up to `at`.
    pub(crate) before: Vec<u8>,
    at: usize,
    pub(crate) data: D,
    after: &'static [u8],
}

impl<D: Buf + Default> OutputSegment<D> {
    /// An empty segment that is written from `buffer`, which is empty.
    pub(crate) fn new(buffer: Vec<u8>) -> OutputSegment<D> {
        OutputSegment {
            before: buffer,
            at: 0,
            data: D::default(),
            after: b"",
        }
    }

    /// Whether everything has been written.
    pub(crate) fn is_written(&self) -> bool {
        self.at == self.before.len() && !self.data.has_remaining() && self.after.is_empty()
    }

    /// What is copied into the segment and not written.
    pub(crate) fn rest(&self) -> &[u8] {
        self.before.get(self.at..).unwrap_or_default()
    }

    /// How many bytes are copied into the segment and not written.
    pub(crate) fn gathered(&self) -> usize {
        self.before.len() - self.at
    }

    /// Whether more can be put behind what there is.
    pub(crate) fn has_room(&self) -> bool {
        !self.data.has_remaining() && self.after.is_empty() && self.before.len() < COPIED_MAX
    }

    /// Begins the next piece in the same memory, unless a long head was in it.
    pub(crate) fn clear(&mut self) {
        if self.before.capacity() > KEPT_MAX {
            self.before = Vec::new();
        }
        self.before.clear();
        self.at = 0;
    }

    /// Puts `data` and what follows it behind `before`; small data is copied.
    pub(crate) fn put(&mut self, data: D, after: &'static [u8]) {
        if data.remaining() + self.before.len() <= COPIED_MAX {
            self.before.extend_from_slice(data.chunk());
            self.before.extend_from_slice(after);
        } else {
            self.data = data;
            self.after = after;
        }
    }

    /// Puts `data` and what follows it behind `before`, so that it can be taken back until it has
    /// been written.
    pub(crate) fn hold(&mut self, data: D, after: &'static [u8]) {
        self.data = data;
        self.after = after;
    }

    /// Writes once; tells how much.
    ///
    /// # Errors
    ///
    /// What the operating system said.
    pub(crate) fn poll_write(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = self.before.get(self.at..).unwrap_or_default();
        let written = if !self.data.has_remaining() && self.after.is_empty() {
            stream.poll_write(cx, before)
        } else {
            let pieces = [before, self.data.chunk(), self.after].map(IoSlice::new);
            stream.poll_write_vectored(cx, &pieces)
        };
        match written {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(bytes)) => {
                self.written(bytes);
                Poll::Ready(Ok(bytes))
            }
            other => other,
        }
    }

    fn written(&mut self, mut bytes: usize) {
        let before = bytes.min(self.before.len() - self.at);
        self.at += before;
        bytes -= before;
        let data = bytes.min(self.data.remaining());
        self.data.advance(data);
        if !self.data.has_remaining() {
            // What the data held is let go with its last byte.
            self.data = D::default();
        }
        self.after = self.after.get(bytes - data..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// A socket that takes so many bytes at once.
    struct Narrow(usize, Vec<u8>);

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let bytes = buf.len().min(self.0);
            self.1.extend_from_slice(&buf[..bytes]);
            Poll::Ready(Ok(bytes))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn whatever_a_socket_takes_at_once_the_same_is_written(
            before in proptest::collection::vec(any::<u8>(), 0..6000),
            data in proptest::collection::vec(any::<u8>(), 0..9000),
            width in 1_usize..5000,
            held in any::<bool>(),
        ) {
            let mut segment = OutputSegment::new(Vec::new());
            segment.before.extend_from_slice(&before);
            let piece = Bytes::from(data.clone());
            if held {
                segment.hold(piece, b"\r\n");
            } else {
                segment.put(piece, b"\r\n");
            }
            let mut socket = Narrow(width, Vec::new());
            let mut cx = Context::from_waker(Waker::noop());
            while !segment.is_written() {
                let polled = segment.poll_write(Pin::new(&mut socket), &mut cx);
                prop_assert!(matches!(polled, Poll::Ready(Ok(1..))));
            }
            prop_assert_eq!(socket.1, [&before[..], &data, b"\r\n"].concat());
        }
    }
}
