//! A bounded queue of text in front of a file descriptor.
//!
//! A thread of its own writes, so that a stopped reader (a full pipe, a paused terminal) blocks
//! nobody: text beyond the bound is dropped and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Pieces of text that may wait.
const PIECES_MAX: usize = 4 * 1024;
/// Bytes that may wait.
const BYTES_MAX: usize = 1024 * 1024;
/// Bytes buffered before a write while more wait.
const CHUNK: usize = 64 * 1024;

/// A queue of text for one output. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LineQueue {
    pieces: SyncSender<Box<[u8]>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes that wait or are being written.
    bytes: AtomicUsize,
    sent: AtomicU64,
    dropped: AtomicU64,
    /// Whether the last write failed for a reason other than a slow reader.
    failing: AtomicBool,
    /// Number of completed pieces, written or not. Only the writer's thread and callers of `drain`
    /// take this lock.
    done: Mutex<u64>,
    progress: Condvar,
}

impl LineQueue {
    /// Starts a queue for `output` with a writer thread of this name.
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub(crate) fn start(name: &str, output: impl Write + Send + 'static) -> io::Result<LineQueue> {
        let (pieces, incoming) = sync_channel(PIECES_MAX);
        let shared = Arc::new(Shared::default());
        let writer = Writer {
            incoming,
            output,
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name(name.into())
            .spawn(|| writer.run())?;
        Ok(LineQueue { pieces, shared })
    }

    /// Queues `text`. Never blocks; drops it if too much is waiting.
    pub(crate) fn send(&self, text: &[u8]) {
        let shared = &self.shared;
        let waiting = shared.bytes.fetch_add(text.len(), Ordering::Relaxed);
        // A text longer than the bound still passes if nothing else waits.
        let fits = waiting == 0 || waiting + text.len() <= BYTES_MAX;
        if fits && self.pieces.try_send(text.into()).is_ok() {
            shared.sent.fetch_add(1, Ordering::Release);
        } else {
            shared.bytes.fetch_sub(text.len(), Ordering::Relaxed);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Pieces lost since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Whether the output can no longer be written.
    pub(crate) fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// Waits up to `limit` until everything sent before is written. Returns whether it is.
    pub(crate) fn drain(&self, limit: Duration) -> bool {
        let sent = self.shared.sent.load(Ordering::Acquire);
        let done = self
            .shared
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .shared
            .progress
            .wait_timeout_while(done, limit, |done| *done < sent);
        waited.is_ok_and(|(done, _)| *done >= sent)
    }
}

/// Writes text through the queue; fails once the output has failed.
impl Write for LineQueue {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.is_failing() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.send(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Writer<W> {
    incoming: Receiver<Box<[u8]>>,
    output: W,
    shared: Arc<Shared>,
}

impl<W: Write> Writer<W> {
    /// Writes whenever the queue is empty or a chunk is full, until every sender is dropped.
    fn run(mut self) {
        let mut chunk = Vec::new();
        while let Ok(first) = self.incoming.recv() {
            let mut pieces = 0;
            let mut next = Some(first);
            while let Some(piece) = next {
                chunk.extend_from_slice(&piece);
                pieces += 1;
                next = if chunk.len() < CHUNK {
                    self.incoming.try_recv().ok()
                } else {
                    None
                };
            }
            self.write(&chunk, pieces);
            chunk.clear();
        }
    }

    fn write(&mut self, chunk: &[u8], pieces: u64) {
        let written = self
            .output
            .write_all(chunk)
            .and_then(|()| self.output.flush());
        let shared = &self.shared;
        shared.failing.store(written.is_err(), Ordering::Relaxed);
        if written.is_err() {
            shared.dropped.fetch_add(pieces, Ordering::Relaxed);
        }
        shared.bytes.fetch_sub(chunk.len(), Ordering::Relaxed);
        *shared.done.lock().unwrap_or_else(PoisonError::into_inner) += pieces;
        shared.progress.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// An output that accepts one chunk for each permit.
    struct Gated {
        permits: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.permits.recv().map_err(io::Error::other)?;
            self.written.send(text.to_vec()).map_err(io::Error::other)?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (LineQueue, Sender<()>, Receiver<Vec<u8>>) {
        let ((permit, permits), (written, texts)) = (channel(), channel());
        let queue = LineQueue::start("test", Gated { permits, written }).unwrap();
        (queue, permit, texts)
    }

    #[test]
    fn a_blocked_output_blocks_no_sender_and_bounds_memory() {
        let (queue, permit, texts) = gated();
        let piece = [b'x'; 1024];
        for _ in 0..10_000 {
            queue.send(&piece);
        }
        let kept = 10_000 - queue.dropped();
        assert_eq!(kept, (BYTES_MAX / piece.len()) as u64);
        assert!(!queue.drain(Duration::from_millis(10)));
        let mut bytes = 0;
        while bytes < BYTES_MAX {
            permit.send(()).unwrap();
            bytes += texts.recv().unwrap().len();
        }
        assert!(queue.drain(Duration::from_secs(20)));
        assert_eq!(bytes, BYTES_MAX);
        permit.send(()).unwrap();
        queue.send(b"again");
        assert_eq!(texts.recv().unwrap(), b"again");
        assert_eq!(10_000 - queue.dropped(), kept, "no more was dropped");
    }

    #[test]
    fn the_number_of_pieces_is_bounded() {
        let (queue, _permit, _texts) = gated();
        for _ in 0..100_000 {
            queue.send(b"x");
        }
        // The writer holds what fits into a chunk, and the channel as much again.
        assert!(queue.dropped() >= 100_000 - 2 * PIECES_MAX as u64 - CHUNK as u64);
    }

    #[test]
    fn a_failed_output_is_detected_and_counted() {
        let (mut queue, permit, texts) = gated();
        drop((permit, texts));
        queue.send(b"lost");
        assert!(queue.drain(Duration::from_secs(20)));
        assert_eq!(queue.dropped(), 1);
        assert_eq!(
            queue.write(b"x").unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
