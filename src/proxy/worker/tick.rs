//! The worker's one timer: while anything is under way it turns every ten milliseconds, otherwise
//! it sleeps.
//!
//! Each turn fires coarse deadlines, hands the recorder's counts over, closes idle upstream
//! connections, and acknowledges the newest routing table. A publication wakes it at once.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::state::Worker;
use crate::proxy::deadline::TICK_MS;

const TICK: Duration = Duration::from_millis(TICK_MS);
/// Counts are handed over with every fifth turn. A summary is 54 KiB for each upstream that was
/// busy, to be cleared here and added up there, and people look at seconds.
const TURNS_TO_FLUSH: u32 = 5;
/// How long a worker with nothing to wait for sleeps.
const FOREVER: Duration = Duration::from_secs(3600);

/// Runs until the worker's runtime ends.
pub(crate) async fn run(worker: Rc<Worker>, wake: Arc<Notify>) {
    let mut turns: u32 = 0;
    loop {
        let now = worker.deadlines.now();
        worker.deadlines.tick(now);
        worker.acknowledge();
        worker.flush_notes();
        if turns.is_multiple_of(TURNS_TO_FLUSH) {
            worker.flush();
        }
        turns = turns.wrapping_add(1);
        worker.pool.sweep(now);
        if worker.is_busy() {
            turn(&worker, &wake).await;
        } else {
            let sleep = worker
                .deadlines
                .next(now)
                .into_iter()
                .chain(worker.pool.next(now))
                .min();
            worker.parked.set(true);
            // Whichever comes first, there is something to look at.
            let _ = tokio::time::timeout(sleep.unwrap_or(FOREVER).max(TICK), wake.notified()).await;
            worker.parked.set(false);
        }
    }
}

/// Waits for the next turn; a publication meanwhile is acknowledged at once, and whoever pokes is
/// given the notes.
async fn turn(worker: &Worker, wake: &Notify) {
    let mut end = std::pin::pin!(tokio::time::sleep(TICK));
    loop {
        tokio::select! {
            biased;
            () = wake.notified() => {
                worker.acknowledge();
                worker.flush_notes();
            }
            () = &mut end => return,
        }
    }
}
