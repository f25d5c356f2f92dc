//! The memory that a worker's connections write from, and those to upstreams read into.
//!
//! Connections share it, since each needs it for a moment only: so an idle one holds none, and a
//! busy worker goes over the same few cache lines again and again instead of asking the allocator
//! for each answer.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use http::HeaderMap;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// The block that answers are read into. What is read is split off it, and stays valid as long as
/// somebody needs it: a block is used again once nobody needs any of it.
pub(crate) const BLOCK: usize = 32 * 1024;
/// The least room to read into; with less, another block is begun.
const ROOM_MIN: usize = 8 * 1024;
/// The most bytes that a buffer for writing may keep while nobody writes.
const SPARE_MAX: usize = 64 * 1024;

/// How many maps of header fields are kept, and of how many fields at most.
const FIELDS_KEPT: usize = 32;
pub(super) const FIELDS_MAX: usize = 64;

/// From this length on a buffer grows by an eighth, and not to twice its length.
const SLOW_GROWTH: usize = 16 * 1024;
/// ... to a multiple of this, so that the memory of a smaller one is of use for another.
const GROWTH: usize = 16 * 1024;

/// What was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadResult {
    /// How much has come; 0 is the end.
    pub(crate) bytes: usize,
    /// The memory that is held for it.
    pub(crate) held: usize,
}

/// The buffers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    block: RefCell<BytesMut>,
    /// Memory for one large read.
    large: RefCell<BytesMut>,
    spare: RefCell<Vec<u8>>,
    /// Empty maps of header fields, whose memory is used again.
    fields: RefCell<Vec<HeaderMap>>,
}

impl Buffers {
    pub(crate) fn new() -> Rc<Buffers> {
        Rc::default()
    }

    /// Reads once, at most `max` bytes, and appends to `buffer` what has come. Pieces of up to
    /// `copied` bytes are copied, so that they hold no more memory than they are long.
    pub(crate) fn poll_read(
        &self,
        stream: Pin<&mut impl AsyncRead>,
        buffer: &mut BytesMut,
        max: usize,
        copied: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<ReadResult>> {
        let mut block = self.block.borrow_mut();
        if block.capacity() < ROOM_MIN {
            block.reserve(BLOCK);
        }
        let bytes = if max < block.capacity() {
            ready!(poll_read_buf(stream, cx, &mut (&mut *block).limit(max)))?
        } else {
            ready!(poll_read_buf(stream, cx, &mut *block))?
        };
        let read = block.split();
        let held = if buffer.is_empty() && bytes > copied {
            *buffer = read;
            BLOCK
        } else {
            append(buffer, &read);
            bytes
        };
        Poll::Ready(Ok(ReadResult { bytes, held }))
    }

    /// Reads once into memory of its own, of `window` bytes, and appends to `buffer` what has come;
    /// it holds no more than `room` for that.
    pub(crate) fn poll_read_large(
        &self,
        stream: Pin<&mut impl AsyncRead>,
        buffer: &mut BytesMut,
        window: usize,
        room: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<ReadResult>> {
        let mut large = self.large.borrow_mut();
        if large.capacity() < window {
            *large = BytesMut::with_capacity(window);
        }
        let bytes = ready!(poll_read_buf(stream, cx, &mut (&mut *large).limit(window)))?;
        let capacity = large.capacity();
        let held = if buffer.is_empty() && bytes >= capacity / 2 && capacity <= room {
            *buffer = std::mem::take(&mut *large);
            buffer.capacity()
        } else {
            // Not worth the memory that would be held with it.
            append(buffer, &large);
            large.clear();
            bytes
        };
        Poll::Ready(Ok(ReadResult { bytes, held }))
    }

    /// An empty buffer to write from.
    pub(crate) fn acquire(&self) -> Vec<u8> {
        self.spare.take()
    }

    /// An empty map of header fields.
    pub(crate) fn borrow_fields(&self) -> HeaderMap {
        self.fields.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a map back that is not needed any more.
    pub(crate) fn give_back_fields(&self, mut map: HeaderMap) {
        let mut fields = self.fields.borrow_mut();
        if fields.len() < FIELDS_KEPT && (1..=FIELDS_MAX).contains(&map.capacity()) {
            map.clear();
            fields.push(map);
        }
    }

    /// Takes a buffer back that has been written.
    pub(crate) fn release(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= SPARE_MAX {
            buffer.clear();
            *self.spare.borrow_mut() = buffer;
        }
    }
}

/// Puts `bytes` behind what is in `buffer`. What comes in many pieces, as a long head may, does not
/// take twice the memory.
fn append(buffer: &mut BytesMut, bytes: &[u8]) {
    let length = buffer.len() + bytes.len();
    if length > SLOW_GROWTH && length > buffer.capacity() {
        let mut larger = BytesMut::with_capacity((length + length / 8).next_multiple_of(GROWTH));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(bytes);
}
