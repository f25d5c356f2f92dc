//! An answer's bytes as they come in, in pieces whose size follows from how many come at once.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::buffers::Buffers;

/// The most bytes that are read at once. Large answers spend most of their time in system calls, and gain nothing from
/// still larger pieces; a client that reads slowly costs one of these.
const WINDOW_MAX: usize = 256 * 1024;
/// From so many bytes on a window of one's own is worth its allocation; smaller pieces are read into the worker's block.
const WINDOW_MIN: usize = 16 * 1024;

/// What has come and not been used.
#[derive(Debug)]
pub(super) struct Inflow {
    pub(super) buffer: BytesMut,
    buffers: Rc<Buffers>,
    /// How much to ask for; 0 means what the worker's block has room for.
    window: usize,
}

impl Inflow {
    pub(super) fn new(buffers: Rc<Buffers>) -> Inflow {
        Inflow {
            buffer: BytesMut::new(),
            buffers,
            window: 0,
        }
    }

    pub(super) fn buffers(&self) -> &Rc<Buffers> {
        &self.buffers
    }

    pub(super) fn into_buffers(self) -> Rc<Buffers> {
        self.buffers
    }

    /// So many more bytes are expected.
    pub(super) fn expect(&mut self, bytes: u64) {
        if bytes >= WINDOW_MIN as u64 {
            // One more than there are, since a read that fills its room says nothing of what else there is.
            self.window = usize::try_from(bytes).map_or(WINDOW_MAX, |bytes| (bytes + 1).min(WINDOW_MAX));
        }
    }

    /// Reads once. Tells how much has come; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        mut stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.window == 0 {
            let read = self.buffers.poll_read(stream, &mut self.buffer, cx);
            if matches!(read, Poll::Ready(Ok(bytes)) if bytes >= WINDOW_MIN) {
                self.window = WINDOW_MAX / 4;
            }
            return read;
        }
        let room = self.buffer.capacity() - self.buffer.len();
        if room < self.window / 2 {
            self.buffer.reserve(self.window);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = poll_read_buf(stream.as_mut(), cx, &mut self.buffer);
        if matches!(read, Poll::Ready(Ok(bytes)) if bytes == room) {
            self.window = (self.window * 2).min(WINDOW_MAX);
        }
        read
    }
}
