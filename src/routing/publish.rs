//! Publication: the current snapshot, the readers that follow it, and the acknowledgements of all
//! workers.
//!
//! A change builds the next table from the current one and retries if another change was faster, so
//! no change is lost and revisions only grow. Each worker acknowledges the revision that it uses,
//! so a change can wait until no worker uses an older table.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use arc_swap::{ArcSwap, Cache, Guard};

use super::RoutingTable;

/// A table and its revision. Immutable once published.
#[derive(Debug)]
pub struct Snapshot {
    /// Increases by one with each table.
    pub revision: u64,
    /// The table.
    pub table: RoutingTable,
}

/// Publishes tables. Clones share the same state.
#[derive(Clone, Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    acknowledgements: Arc<Mutex<Acknowledgements>>,
}

impl Publisher {
    /// Starts with `table` as revision 1.
    pub fn new(table: RoutingTable) -> Publisher {
        Publisher {
            current: Arc::new(ArcSwap::from_pointee(Snapshot { revision: 1, table })),
            acknowledgements: Arc::default(),
        }
    }

    /// Publishes the table that `change` makes from the current one, wakes all workers, and returns
    /// the new revision; if it makes none, returns the revision on which this was decided.
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

    /// The current snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// A reader for one worker.
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader(Cache::new(Arc::clone(&self.current)))
    }

    /// Registers a worker, which counts as having acknowledged the current revision, so it must
    /// register before it first reads. `wake` is called, from any thread, after each publication,
    /// and possibly once more after the worker has gone.
    pub fn register(&self, wake: Box<dyn Fn() + Send + Sync>) -> Acknowledger {
        let mut acknowledgements = lock(&self.acknowledgements);
        // Read under the lock: a later publication finds the worker in the list, and wakes it.
        let revision = self.current.load().revision;
        let worker = acknowledgements.number();
        let wake = wake.into();
        acknowledgements
            .workers
            .insert(worker, Worker { revision, wake });
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

    /// Wakes all workers without a publication, so that they hand over buffered events.
    pub fn wake_all(&self) {
        self.wake_workers();
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
pub struct SnapshotReader(Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>);

impl SnapshotReader {
    /// The current snapshot; one relaxed load while it stays the same. A worker woken for a
    /// revision sees at least that one.
    pub fn load(&mut self) -> &Arc<Snapshot> {
        self.0.load()
    }
}

/// A worker's handle for acknowledging revisions. When it is dropped, the worker counts as gone.
#[derive(Debug)]
pub struct Acknowledger {
    worker: u64,
    /// The last acknowledged revision, so that repetitions need no lock.
    last: AtomicU64,
    acknowledgements: Arc<Mutex<Acknowledgements>>,
}

impl Acknowledger {
    /// Acknowledges that nothing older than `revision` is in use. Cheap when repeated.
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

/// Acknowledgements and waiters. One lock for both, so that no acknowledgement is missed between
/// check and wait; it is taken when a table changes, never for a request.
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
        self.workers
            .values()
            .all(|worker| worker.revision >= revision)
    }
}

impl fmt::Debug for Acknowledgements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let revisions: Vec<_> = self
            .workers
            .values()
            .map(|worker| worker.revision)
            .collect();
        f.debug_struct("Acknowledgements")
            .field("revisions", &revisions)
            .field("waiters", &self.waiters.len())
            .finish()
    }
}

/// Wakes the waiters whose revision all workers have reached, after releasing the lock.
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
    // No holder of the lock can leave it in an inconsistent state, so a panic elsewhere on that
    // thread does not matter.
    acknowledgements
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;
    use std::thread::{self, Thread};

    use super::*;
    use crate::routing::testing::{service, weights};
    use crate::routing::{EndpointKey, KeyRegistry, LiveState};

    /// Blocks on a future. A lost wake-up hangs, which the test runner's time limit reports.
    fn block_on<F: Future>(future: F) -> F::Output {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            thread::park();
        }
    }

    fn is_ready(future: &mut Acknowledged) -> bool {
        let polled = Pin::new(future).poll(&mut Context::from_waker(Waker::noop()));
        polled.is_ready()
    }

    fn publisher(services: &[&str]) -> Publisher {
        let specs: Vec<_> = services
            .iter()
            .map(|name| service(name, &[("blue", 10_000, 1), ("green", 0, 1)]))
            .collect();
        Publisher::new(RoutingTable::build(
            &specs,
            |_| None,
            &mut KeyRegistry::new(),
            None,
        ))
    }

    fn live(points: u16) -> LiveState {
        LiveState {
            weights: weights(&[("blue", 10_000 - points), ("green", points)]),
            baseline: "blue".into(),
            salt: 0,
            watch: None,
        }
    }

    /// A worker that sleeps until it is woken, and acknowledges the revision that it uses.
    fn worker(
        publisher: &Publisher,
        seen: Arc<AtomicU64>,
        stop: Arc<AtomicBool>,
    ) -> thread::JoinHandle<()> {
        let publisher = publisher.clone();
        let (registered, wait) = std::sync::mpsc::channel();
        let handle = thread::spawn(move || {
            let me = thread::current();
            let acknowledger = publisher.register(Box::new(move || me.unpark()));
            let mut reader = publisher.reader();
            registered.send(()).unwrap();
            while !stop.load(Ordering::SeqCst) {
                let revision = reader.load().revision;
                assert!(
                    seen.swap(revision, Ordering::SeqCst) <= revision,
                    "revisions only grow"
                );
                acknowledger.acknowledge(revision);
                thread::park();
            }
        });
        wait.recv().unwrap();
        handle
    }

    #[test]
    fn no_acknowledgement_is_lost() {
        let publisher = publisher(&["shop"]);
        let stop = Arc::new(AtomicBool::new(false));
        let seen: Vec<_> = (0..3).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let start = |seen: &Arc<AtomicU64>| worker(&publisher, Arc::clone(seen), Arc::clone(&stop));
        let workers: Vec<_> = seen.iter().map(start).collect();
        for round in 0..5_000_u16 {
            let revision = publisher.update(|table| table.with_weights("shop", &live(round % 2)));
            assert_eq!(revision, u64::from(round) + 2);
            block_on(publisher.acknowledged(revision));
            assert!(
                seen.iter()
                    .all(|seen| seen.load(Ordering::SeqCst) >= revision)
            );
        }
        stop.store(true, Ordering::SeqCst);
        for worker in workers {
            worker.thread().unpark();
            worker.join().unwrap();
        }
        assert!(lock(&publisher.acknowledgements).waiters.is_empty());
    }

    #[test]
    fn concurrent_updates_are_not_lost() {
        let names = ["a", "b", "c", "d"];
        let publisher = publisher(&names);
        let (publisher, rounds) = (&publisher, 2_000);
        thread::scope(|scope| {
            for name in names {
                scope.spawn(move || {
                    for round in 1..=rounds {
                        let mut before = 0;
                        let revision = publisher.update(|table| {
                            before = table
                                .service(name)
                                .unwrap()
                                .weights
                                .get("green")
                                .unwrap()
                                .basis_points();
                            table.with_weights(name, &live(round))
                        });
                        assert_eq!(before, round - 1, "only this thread changes {name}");
                        assert!(publisher.current().revision >= revision);
                    }
                });
            }
            scope.spawn(move || {
                let health =
                    |healthy| publisher.update(|table| table.with_health(EndpointKey(0), healthy));
                (0..rounds).for_each(|round| {
                    health(round % 2 == 1);
                });
            });
        });
        let last = publisher.current();
        assert_eq!(last.revision, 1 + u64::from(rounds) * 5);
        for name in names {
            assert_eq!(
                last.table.service(name).unwrap().live().weights,
                live(rounds).weights
            );
        }
        assert!(last.table.service("a").unwrap().upstreams[0].is_healthy(EndpointKey(0)));
    }

    #[test]
    fn change_without_a_table_publishes_nothing() {
        let publisher = publisher(&["shop"]);
        let before = publisher.current();
        assert_eq!(publisher.update(|_| None), 1);
        assert!(Arc::ptr_eq(&before, &publisher.current()));
    }

    #[test]
    fn wake_all_wakes_workers_without_publishing() {
        let publisher = publisher(&["shop"]);
        let wakes = Arc::new(AtomicU64::new(0));
        let workers = [0, 1].map(|_| {
            let wakes = Arc::clone(&wakes);
            publisher.register(Box::new(move || {
                wakes.fetch_add(1, Ordering::SeqCst);
            }))
        });
        let before = publisher.current();
        publisher.wake_all();
        assert_eq!(wakes.load(Ordering::SeqCst), 2);
        assert!(Arc::ptr_eq(&before, &publisher.current()));
        drop(workers);
    }

    #[test]
    fn dropped_worker_does_not_block_acknowledgement() {
        let publisher = publisher(&["shop"]);
        let (stays, goes) = (
            publisher.register(Box::new(|| ())),
            publisher.register(Box::new(|| ())),
        );
        let revision = publisher.update(|table| table.with_weights("shop", &live(1)));
        let mut acknowledged = publisher.acknowledged(revision);
        assert!(!is_ready(&mut acknowledged));
        stays.acknowledge(revision);
        stays.acknowledge(revision - 1);
        assert!(!is_ready(&mut acknowledged));
        drop(goes);
        assert!(is_ready(&mut acknowledged));
        let late = publisher.register(Box::new(|| ()));
        assert!(
            is_ready(&mut publisher.acknowledged(revision)),
            "it begins with the current one"
        );
        drop((stays, late));
        assert!(
            is_ready(&mut publisher.acknowledged(u64::MAX)),
            "no worker is left to wait for"
        );
    }

    #[test]
    fn dropped_waiter_is_removed() {
        let publisher = publisher(&["shop"]);
        let _worker = publisher.register(Box::new(|| ()));
        let mut acknowledged = publisher.acknowledged(2);
        assert!(!is_ready(&mut acknowledged));
        drop(acknowledged);
        assert!(lock(&publisher.acknowledgements).waiters.is_empty());
    }

    #[test]
    fn worker_may_acknowledge_within_its_wake_callback() {
        let publisher = publisher(&["shop"]);
        let own = Arc::new(Mutex::new(None::<Acknowledger>));
        let reader = Mutex::new(publisher.reader());
        let inner = Arc::clone(&own);
        let acknowledger = publisher.register(Box::new(move || {
            let revision = reader.lock().unwrap().load().revision;
            inner
                .lock()
                .unwrap()
                .iter()
                .for_each(|own| own.acknowledge(revision));
        }));
        *own.lock().unwrap() = Some(acknowledger);
        let revision = publisher.update(|table| table.with_weights("shop", &live(1)));
        assert!(is_ready(&mut publisher.acknowledged(revision)));
    }
}
