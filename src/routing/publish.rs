//! The swap: one place that holds the current snapshot, readers that follow it, and the proof that all have.
//!
//! Whoever changes the table makes the next one from the current one and tries again if another was faster, so no
//! change is lost and revisions only grow. Each worker says which revision it has gone over to; so a change can wait
//! until nothing is done by an older table any more.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use arc_swap::{ArcSwap, Cache, Guard};

use super::RoutingTable;

/// A table and its revision. Never changes once it is published.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows by one with each table.
    pub revision: u64,
    /// The table.
    pub table: RoutingTable,
}

/// Publishes tables. Clones publish to the same place.
#[derive(Clone, Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    acknowledgements: Arc<Mutex<Acknowledgements>>,
}

impl Publisher {
    /// Begins with `table` as revision 1.
    pub fn new(table: RoutingTable) -> Publisher {
        Publisher {
            current: Arc::new(ArcSwap::from_pointee(Snapshot { revision: 1, table })),
            acknowledgements: Arc::default(),
        }
    }

    /// Publishes what `change` makes of the current table, wakes all workers, and returns the new revision; when it
    /// makes nothing of it, the revision that this was decided on.
    ///
    /// `change` is called again whenever another table was published in between.
    pub fn update(&self, mut change: impl FnMut(&RoutingTable) -> Option<RoutingTable>) -> u64 {
        let mut current = self.current.load_full();
        loop {
            let Some(table) = change(&current.table) else {
                return current.revision;
            };
            let revision = current.revision + 1;
            let next = Arc::new(Snapshot { revision, table });
            let before = Guard::into_inner(self.current.compare_and_swap(&current, next));
            if Arc::ptr_eq(&before, &current) {
                self.wake_workers();
                return revision;
            }
            current = before;
        }
    }

    /// The snapshot of this moment.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// A reader for one worker.
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.current)))
    }

    /// Makes known a worker, which counts as having acknowledged the current revision; so it registers before it first
    /// reads. `wake` is called, from any thread, after each publication, and perhaps once more after the worker has
    /// gone.
    pub fn register(&self, wake: Box<dyn Fn() + Send + Sync>) -> Acknowledger {
        let mut acknowledgements = lock(&self.acknowledgements);
        // Read under the lock: a publication that this misses will find the worker in the list, and wake it.
        let revision = self.current.load().revision;
        let worker = acknowledgements.number();
        let wake = wake.into();
        acknowledgements.workers.insert(worker, Worker { revision, wake });
        Acknowledger {
            worker,
            last: AtomicU64::new(revision),
            acknowledgements: Arc::clone(&self.acknowledgements),
        }
    }

    /// Completes when every worker has acknowledged `revision` or a later one, or has gone.
    pub fn acknowledged(&self, revision: u64) -> Acknowledged {
        Acknowledged {
            revision,
            waiter: None,
            acknowledgements: Arc::clone(&self.acknowledgements),
        }
    }

    fn wake_workers(&self) {
        let workers = lock(&self.acknowledgements);
        let wakes: Vec<_> = workers
            .workers
            .values()
            .map(|worker| Arc::clone(&worker.wake))
            .collect();
        drop(workers);
        // Outside the lock, since a worker may acknowledge from within.
        wakes.iter().for_each(|wake| wake());
    }
}

/// Follows the current snapshot, for one worker.
#[derive(Clone, Debug)]
pub struct Reader(Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>);

impl Reader {
    /// The current snapshot; one relaxed load while it stays the same. A worker that has been woken for a revision
    /// sees at least that one.
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}

/// A worker's word that it does nothing by an older table any more. Dropped, the worker counts as gone.
#[derive(Debug)]
pub struct Acknowledger {
    worker: u64,
    /// What was said last, to keep the lock out of repetitions.
    last: AtomicU64,
    acknowledgements: Arc<Mutex<Acknowledgements>>,
}

impl Acknowledger {
    /// Says that nothing older than `revision` is under way. Cheap when it says nothing new.
    pub fn acknowledge(&self, revision: u64) {
        if self.last.fetch_max(revision, Ordering::Relaxed) >= revision {
            return;
        }
        let mut acknowledgements = lock(&self.acknowledgements);
        if let Some(worker) = acknowledgements.workers.get_mut(&self.worker) {
            worker.revision = worker.revision.max(revision);
        }
        wake_ready(acknowledgements);
    }
}

impl Drop for Acknowledger {
    fn drop(&mut self) {
        let mut acknowledgements = lock(&self.acknowledgements);
        acknowledgements.workers.remove(&self.worker);
        wake_ready(acknowledgements);
    }
}

/// Waits until all workers have acknowledged a revision; see [`Publisher::acknowledged`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Acknowledged {
    revision: u64,
    waiter: Option<u64>,
    acknowledgements: Arc<Mutex<Acknowledgements>>,
}

impl Future for Acknowledged {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut acknowledgements = lock(&this.acknowledgements);
        if acknowledgements.all_reached(this.revision) {
            return Poll::Ready(());
        }
        let waiter = *this.waiter.get_or_insert_with(|| acknowledgements.number());
        let waiting = (this.revision, context.waker().clone());
        acknowledgements.waiters.insert(waiter, waiting);
        Poll::Pending
    }
}

impl Drop for Acknowledged {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            lock(&self.acknowledgements).waiters.remove(&waiter);
        }
    }
}

/// Who has said what, and who waits for it. One lock for both, so that no word falls between a look and the wait; it
/// is taken when a table changes, never for a request.
#[derive(Default)]
struct Acknowledgements {
    workers: BTreeMap<u64, Worker>,
    waiters: BTreeMap<u64, (u64, Waker)>,
    numbers: u64,
}

struct Worker {
    revision: u64,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Acknowledgements {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn all_reached(&self, revision: u64) -> bool {
        self.workers.values().all(|worker| worker.revision >= revision)
    }
}

impl fmt::Debug for Acknowledgements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revisions: Vec<_> = self.workers.values().map(|worker| worker.revision).collect();
        f.debug_struct("Acknowledgements")
            .field("revisions", &revisions)
            .field("waiters", &self.waiters.len())
            .finish()
    }
}

/// Wakes those whose revision all have reached, after the lock is given back.
fn wake_ready(mut acknowledgements: MutexGuard<'_, Acknowledgements>) {
    let reached = acknowledgements
        .workers
        .values()
        .map(|worker| worker.revision)
        .min()
        .unwrap_or(u64::MAX);
    let ready: Vec<_> = acknowledgements
        .waiters
        .extract_if(.., |_, (revision, _)| *revision <= reached)
        .collect();
    drop(acknowledgements);
    ready.into_iter().for_each(|(_, (_, waker))| waker.wake());
}

fn lock(acknowledgements: &Mutex<Acknowledgements>) -> MutexGuard<'_, Acknowledgements> {
    // Nothing that holds the lock can leave it half done, so a panic elsewhere on that thread does not matter here.
    acknowledgements.lock().unwrap_or_else(PoisonError::into_inner)
}
