//! An answer's bytes as they come in, in pieces whose size follows from how many come at once.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncRead;

use super::buffers::{BLOCK, Buffers, ReadResult};

/// The most bytes that are read at once, which a client that reads slowly costs: an answer over
/// HTTP/1.1 may hold no more.
const WINDOW_MAX: usize = 64 * 1024;
/// From so many bytes on a window of one's own is worth its allocation; smaller pieces are read
/// into the worker's block.
const WINDOW_MIN: usize = 16 * 1024;

/// What has come and not been used.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    pub(super) buffer: BytesMut,
    buffers: Rc<Buffers>,
    /// How much to ask for; 0 means what the worker's block has room for.
    window: usize,
}

impl ReadBuffer {
    pub(super) fn new(buffers: Rc<Buffers>) -> ReadBuffer {
        ReadBuffer {
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
            // One more than there are, since a read that fills its room says nothing of what else
            // there is.
            self.window =
                usize::try_from(bytes).map_or(WINDOW_MAX, |bytes| (bytes + 1).min(WINDOW_MAX));
        }
    }

    /// Reads once, so that no more than `room` bytes of memory are held for what has come.
    /// Without much of it, small pieces are copied out of the memory that connections share.
    pub(super) fn poll_read(
        &mut self,
        stream: Pin<&mut impl AsyncRead>,
        room: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<ReadResult>> {
        if self.window == 0 || (room < self.window && room <= BLOCK) {
            let copied = if room < BLOCK { usize::MAX } else { 0 };
            let read = self
                .buffers
                .poll_read(stream, &mut self.buffer, room, copied, cx);
            if matches!(read, Poll::Ready(Ok(read)) if read.bytes >= WINDOW_MIN) {
                self.window = WINDOW_MAX / 2;
            }
            return read;
        }
        let read =
            self.buffers
                .poll_read_large(stream, &mut self.buffer, self.window.min(room), room, cx);
        if let Poll::Ready(Ok(read)) = read {
            if read.bytes >= self.window {
                self.window = (self.window * 2).min(WINDOW_MAX);
            } else if read.bytes < self.window / 4 {
                let less = self.window / 2;
                self.window = if less < WINDOW_MIN { 0 } else { less };
            }
        }
        read
    }
}
