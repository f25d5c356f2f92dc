//! Counts of what is held that go along with the bytes: they are `Send`, as what `h2` holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

/// A part of a count, which is taken off it when this is dropped.
#[derive(Debug)]
struct Count {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Count {
    fn new(all: &Arc<AtomicUsize>, bytes: usize) -> Count {
        all.fetch_add(bytes, Ordering::Relaxed);
        Count {
            all: Arc::clone(all),
            bytes,
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The head of an answer that waits to be written, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct QueuedHead(#[expect(dead_code, reason = "counted until it is dropped")] Count);

impl QueuedHead {
    pub(super) fn new(all: &Arc<AtomicUsize>, bytes: usize) -> QueuedHead {
        QueuedHead(Count::new(all, bytes))
    }

    /// Has the head counted until it has been encoded: that is when `h2` drops its values. One of
    /// them takes this along, and is marked so that no table of the encoder keeps it.
    pub(crate) fn onto(self, headers: &mut HeaderMap) {
        let Some(value) = headers.values_mut().next() else {
            return;
        };
        let counted = Bytes::from_owner(CountedValue {
            text: value.clone(),
            _head: self,
        });
        if let Ok(counted) = HeaderValue::from_maybe_shared(counted) {
            *value = counted;
            value.set_sensitive(true);
        }
    }
}

/// The value of a field that the count of its head hangs on.
struct CountedValue {
    text: HeaderValue,
    _head: QueuedHead,
}

impl AsRef<[u8]> for CountedValue {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// A body that is kept in order to be sent twice, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct RepeatedBody(#[expect(dead_code, reason = "counted until it is dropped")] Count);

impl RepeatedBody {
    pub(super) fn new(all: &Arc<AtomicUsize>, bytes: usize) -> RepeatedBody {
        RepeatedBody(Count::new(all, bytes))
    }

    /// Has `body` counted for as long as there is a copy of it.
    pub(crate) fn around(self, body: Bytes) -> Bytes {
        Bytes::from_owner(CountedBody { body, _count: self })
    }
}

/// A body that its count hangs on.
struct CountedBody {
    body: Bytes,
    _count: RepeatedBody,
}

impl AsRef<[u8]> for CountedBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}
