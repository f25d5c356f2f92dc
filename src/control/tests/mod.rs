//! The controller through its public interface, over stores that work, fail and hang.

mod authority;
mod changes;
mod disk;
mod model;
mod plans;
mod releases;
mod restarts;
mod services;
mod traffic;

use std::path::Path;
use std::sync::mpsc as gates;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::controller::Timing;
use super::testing::spec;
use super::*;
use crate::model::{Health, Name, ServiceSpec, Weight, api};
use crate::routing::{Acknowledger, BudgetKind, HealthEvent, Publisher};
use crate::stats::{Class, MethodLabel, Outcome, Reason, Recorder, RequestLabels};
use crate::store::{
    self, Backend, ChangeRecord, Committed, JournalEntry, LoadedState, ReleaseRecord, Store,
    StoreError,
};
use crate::time::{ManualClock, Timestamp};

/// A running controller.
struct Rig {
    links: Links,
    clock: ManualClock,
    run: JoinHandle<()>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

const PATIENT: Duration = Duration::from_secs(600);

/// Nothing is limited by time but what the test does.
const TIMING: Timing = Timing {
    durable_within: PATIENT,
    commit_within: PATIENT,
    retry: Duration::from_millis(1),
    statistics: Duration::from_millis(1),
};

impl Rig {
    fn new(store: Store, services: Vec<ServiceSpec>) -> Rig {
        Rig::with(store, LoadedState::default(), services, TIMING)
    }

    fn with(store: Store, loaded: LoadedState, services: Vec<ServiceSpec>, timing: Timing) -> Rig {
        let clock = ManualClock::new(Timestamp::new(0, 1_700_000_000_000_000));
        Rig::at(clock, store, loaded, services, timing)
    }

    fn at(
        clock: ManualClock,
        store: Store,
        loaded: LoadedState,
        services: Vec<ServiceSpec>,
        timing: Timing,
    ) -> Rig {
        let (mut controller, links) = Controller::new(Setup {
            services,
            preflighter: Arc::new(|_, _, _| Box::pin(async { Ok(()) })),
            approvals: true,
            listeners: vec!["web".to_owned()],
            workers: 1,
            store,
            loaded,
            clock: Arc::new(clock.clone()),
        });
        controller.timing = timing;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let stopped = async move {
            // Silent if the rig was dropped.
            if stopped.await.is_err() {
                std::future::pending().await
            }
        };
        let run = tokio::spawn(controller.run(stopped));
        let stop = Some(stop);
        Rig {
            links,
            clock,
            run,
            stop,
        }
    }

    async fn open(directory: &Path, services: Vec<ServiceSpec>) -> Rig {
        // A controller dropped before ends when it is polled, and its store with it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let path = Some(directory.to_owned());
        let (store, loaded) = Store::open(&store::Options { path }).unwrap();
        Rig::with(store, loaded, services, TIMING)
    }

    /// Shuts down in order.
    async fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.run).await.unwrap();
    }

    /// Requests `green` percent on green, without waiting for the reply.
    fn put(&self, green: f64) -> JoinHandle<Result<Applied, Refusal>> {
        let handle = self.links.handle.clone();
        tokio::spawn(async move { handle.set_weights("shop", to(green), intent(None)).await })
    }

    fn roll_back(&self) -> JoinHandle<Result<Applied, Refusal>> {
        let handle = self.links.handle.clone();
        tokio::spawn(async move { handle.rollback("shop", intent(None)).await })
    }

    /// The service, after the controller has processed all earlier commands.
    async fn shop(&self) -> api::Service {
        let nobody = self.links.handle.forecast("nobody", None).await;
        assert!(matches!(
            nobody,
            Err(Refusal::UnknownService(_) | Refusal::Stopped)
        ));
        self.links.handle.service("shop").unwrap()
    }

    /// The percent on green in the routing table.
    fn green(&self) -> f64 {
        let snapshot = self.links.publisher.current();
        let service = snapshot.table.service("shop").unwrap();
        service.upstream("green").unwrap().weight.percent()
    }

    async fn actions(&self) -> Vec<String> {
        let page = self.links.handle.audit(None, 100).await.unwrap();
        page.entries.into_iter().map(|entry| entry.action).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.run.abort();
    }
}

/// A service with health checks whose first result counts.
fn checked() -> ServiceSpec {
    let health = Health {
        path: "/".into(),
        host: None,
        panic: Weight::default(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        unhealthy_after: 1,
        healthy_after: 1,
    };
    ServiceSpec {
        health: Some(health),
        ..spec("shop", 0.0)
    }
}

fn to(green: f64) -> api::Percentages {
    api::Percentages::from([
        ("blue".to_owned(), 100.0 - green),
        ("green".to_owned(), green),
    ])
}

fn intent(expected_revision: Option<u64>) -> Intent {
    Intent {
        actor: "alice".to_owned(),
        reason: Some("because".to_owned()),
        expected_revision,
        may_override: false,
        idempotency: None,
    }
}

fn memory() -> Store {
    Store::open(&store::Options::default()).unwrap().0
}

/// Waits until a condition holds.
async fn until(mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("the condition never became true");
}

/// A worker that acknowledges every table as soon as it is published.
fn prompt_worker(publisher: &Publisher) -> Arc<OnceLock<Acknowledger>> {
    let slot = Arc::<OnceLock<Acknowledger>>::default();
    let (worker, table) = (Arc::downgrade(&slot), publisher.clone());
    let acknowledger = publisher.register(Box::new(move || {
        if let Some(acknowledger) = worker.upgrade().as_ref().and_then(|slot| slot.get()) {
            acknowledger.acknowledge(table.current().revision);
        }
    }));
    slot.set(acknowledger).unwrap();
    slot
}

/// A store whose commits the test lets through.
struct Gated {
    gate: gates::Receiver<bool>,
    log: Arc<Mutex<StoreLog>>,
}

#[derive(Default)]
struct StoreLog {
    begun: u64,
    written: Vec<ChangeRecord>,
}

struct Gate {
    open: gates::Sender<bool>,
    log: Arc<Mutex<StoreLog>>,
}

impl Gate {
    fn new() -> (Gate, Store) {
        let (open, gate) = gates::channel();
        let log = Arc::<Mutex<StoreLog>>::default();
        let store = Store::over(Box::new(Gated {
            gate,
            log: Arc::clone(&log),
        }))
        .unwrap();
        (Gate { open, log }, store)
    }

    /// Lets one commit through, which succeeds or fails.
    fn pass(&self, works: bool) {
        self.open.send(works).unwrap();
    }

    fn begun(&self) -> u64 {
        self.log.lock().unwrap().begun
    }

    /// What was written: action, percent on green.
    fn written(&self) -> Vec<(String, f64)> {
        let log = self.log.lock().unwrap();
        let send_events = |change: &ChangeRecord| {
            let green = change
                .services
                .first()
                .map_or(-1.0, |record| record.weights["green"].percent());
            (change.entry.action.clone(), green)
        };
        log.written.iter().map(send_events).collect()
    }
}

impl Backend for Gated {
    fn durable(&self) -> bool {
        true
    }

    fn commit(&mut self, change: &ChangeRecord) -> Result<Committed, StoreError> {
        self.log.lock().unwrap().begun += 1;
        // After the test has ended no more commits are let through.
        if !self.gate.recv().unwrap_or(false) {
            return Err(StoreError::Write("database or disk is full".to_owned()));
        }
        let mut log = self.log.lock().unwrap();
        log.written.push(change.clone());
        let sequence = log.written.len() as u64;
        Ok(Committed {
            sequence,
            durable: true,
        })
    }

    fn audit(&mut self, _: Option<u64>, _: usize) -> Result<Vec<JournalEntry>, StoreError> {
        Ok(Vec::new())
    }

    fn checkpoint(&mut self, _: &str, _: &serde_json::Value) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn releases(&mut self, _: &str, _: usize) -> Result<Vec<ReleaseRecord>, StoreError> {
        Ok(Vec::new())
    }

    fn release(&mut self, _: &str) -> Result<Option<ReleaseRecord>, StoreError> {
        Ok(None)
    }

    fn put_evidence(&mut self, _: &ReleaseRecord, _: &serde_json::Value) -> Result<(), StoreError> {
        Ok(())
    }

    fn evidence(&mut self, _: &str) -> Result<Option<serde_json::Value>, StoreError> {
        Ok(None)
    }
}

/// A rig over a gated store that has committed the start.
async fn gated(timing: Timing) -> (Rig, Gate) {
    let (gate, store) = Gate::new();
    gate.pass(true);
    let rig = Rig::with(
        store,
        LoadedState::default(),
        vec![spec("shop", 0.0)],
        timing,
    );
    until(|| gate.written().len() == 1).await;
    (rig, gate)
}

/// Exhausts the budget of visible failures, like a worker that finishes the last one.
fn trip(watch: &crate::routing::ReleaseHandle) -> bool {
    let (full, none) = (crate::model::Weight::FULL, crate::model::Weight::ZERO);
    // The controller may arm it in between.
    let spend = |_| {
        watch.tripwire().arm(BudgetKind::Visible, 0, 0);
        watch.tripwire().spend(BudgetKind::Visible, full, none)
    };
    (0..100).any(spend)
}
