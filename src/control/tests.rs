//! The controller as the rest of the program sees it, over stores that work, fail and hang.

use std::path::Path;
use std::sync::mpsc as gates;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::controller::Timing;
use super::testing::spec;
use super::*;
use crate::model::{Name, ServiceSpec, api};
use crate::routing::{Acknowledger, HealthEvent, Publisher};
use crate::stats::{Class, MethodLabel, Outcome, Reason, Recorder, RequestLabels};
use crate::store::{self, Backend, Change, Committed, Entry, LoadedState, Store, StoreError};
use crate::time::{ManualClock, Timestamp};

/// A controller at work.
struct Rig {
    links: Links,
    clock: ManualClock,
    run: JoinHandle<()>,
}

const PATIENT: Duration = Duration::from_secs(600);

/// Waits for nothing but what the test does.
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
        let (mut controller, links) = Controller::new(Setup {
            services,
            listeners: vec!["web".to_owned()],
            store,
            loaded,
            clock: Arc::new(clock.clone()),
        });
        controller.timing = timing;
        let run = tokio::spawn(controller.run(std::future::pending()));
        Rig { links, clock, run }
    }

    fn open(directory: &Path, services: Vec<ServiceSpec>) -> Rig {
        let path = Some(directory.to_owned());
        let (store, loaded) = Store::open(&store::Options { path }).unwrap();
        Rig::with(store, loaded, services, TIMING)
    }

    /// Asks for so much percent on green, without waiting for the answer.
    fn put(&self, green: f64) -> JoinHandle<Result<Applied, Refusal>> {
        let handle = self.links.handle.clone();
        tokio::spawn(async move { handle.set_weights("shop", to(green), intent(None)).await })
    }

    fn roll_back(&self) -> JoinHandle<Result<Applied, Refusal>> {
        let handle = self.links.handle.clone();
        tokio::spawn(async move { handle.rollback("shop", intent(None)).await })
    }

    async fn shop(&self) -> api::Service {
        self.links.handle.service("shop").await.unwrap()
    }

    /// The percent on green that requests are split by.
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

fn to(green: f64) -> api::Percentages {
    api::Percentages::from([("blue".to_owned(), 100.0 - green), ("green".to_owned(), green)])
}

fn intent(expected_revision: Option<u64>) -> Intent {
    Intent {
        actor: "alice".to_owned(),
        reason: Some("because".to_owned()),
        expected_revision,
    }
}

fn memory() -> Store {
    Store::open(&store::Options::default()).unwrap().0
}

/// Waits until something is so.
async fn until(mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it never came to be");
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

/// A store that does with each commit what the test says, when it says so.
struct Gated {
    gate: gates::Receiver<bool>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    begun: u64,
    written: Vec<Change>,
}

struct Gate {
    open: gates::Sender<bool>,
    seen: Arc<Mutex<Seen>>,
}

impl Gate {
    fn new() -> (Gate, Store) {
        let (open, gate) = gates::channel();
        let seen = Arc::<Mutex<Seen>>::default();
        let store = Store::over(Box::new(Gated {
            gate,
            seen: Arc::clone(&seen),
        }))
        .unwrap();
        (Gate { open, seen }, store)
    }

    /// Lets one commit through, which works or fails.
    fn pass(&self, works: bool) {
        self.open.send(works).unwrap();
    }

    fn begun(&self) -> u64 {
        self.seen.lock().unwrap().begun
    }

    /// What was written: action, percent on green.
    fn written(&self) -> Vec<(String, f64)> {
        let seen = self.seen.lock().unwrap();
        let tell = |change: &Change| {
            let green = change
                .services
                .first()
                .map_or(-1.0, |record| record.weights["green"].percent());
            (change.entry.action.clone(), green)
        };
        seen.written.iter().map(tell).collect()
    }
}

impl Backend for Gated {
    fn durable(&self) -> bool {
        true
    }

    fn commit(&mut self, change: &Change) -> Result<Committed, StoreError> {
        self.seen.lock().unwrap().begun += 1;
        // A test that has ended opens no gate.
        if !self.gate.recv().unwrap_or(false) {
            return Err(StoreError::Write("database or disk is full".to_owned()));
        }
        let mut seen = self.seen.lock().unwrap();
        seen.written.push(change.clone());
        let sequence = seen.written.len() as u64;
        Ok(Committed {
            sequence,
            durable: true,
        })
    }

    fn audit(&mut self, _: Option<u64>, _: usize) -> Result<Vec<Entry>, StoreError> {
        Ok(Vec::new())
    }
}

/// A rig over a gated store that has taken the start.
async fn gated(timing: Timing) -> (Rig, Gate) {
    let (gate, store) = Gate::new();
    gate.pass(true);
    let rig = Rig::with(store, LoadedState::default(), vec![spec("shop", 0.0)], timing);
    until(|| gate.written().len() == 1).await;
    (rig, gate)
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_is_answered_when_all_workers_have_gone_over_to_it() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _prompt = prompt_worker(&rig.links.publisher);
    let slow = rig.links.publisher.register(Box::new(|| {}));
    let put = rig.put(12.5);
    until(|| rig.green() == 12.5).await;
    assert_eq!(rig.shop().await.weights.effective, to(12.5));
    assert!(!put.is_finished());
    slow.acknowledge(rig.links.publisher.current().revision);
    let applied = put.await.unwrap().unwrap();
    assert!(!applied.durable, "there is no disk");
    assert_eq!(applied.service, rig.shop().await);
    assert_eq!(applied.service.revision, 2);
    assert_eq!(
        (applied.service.baseline.as_str(), applied.service.weights.durable),
        ("blue", false)
    );

    let back = rig.roll_back();
    until(|| rig.green() == 0.0).await;
    assert!(!back.is_finished());
    drop(slow);
    assert_eq!(back.await.unwrap().unwrap().service.revision, 3);
    assert_eq!(rig.actions().await, ["rollback", "weights", "start"]);
    let page = rig.links.handle.metrics().render();
    assert!(
        page.contains(r#"weighbridge_rollbacks_total{service="shop",reason="manual"} 1"#),
        "{page}"
    );
    assert!(
        page.contains(r#"weighbridge_upstream_weight_ratio{service="shop",upstream="blue"} 1"#),
        "{page}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_wish_that_cannot_be_carried_out_changes_nothing() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let handle = &rig.links.handle;
    let refused = handle.set_weights("shop", to(5.0), intent(Some(7))).await.unwrap_err();
    assert!(
        matches!(
            refused,
            Refusal::Stale {
                expected: 7,
                current: 1
            }
        ),
        "{refused}"
    );
    let red = api::Percentages::from([("red".to_owned(), 100.0)]);
    let refused = handle.set_weights("shop", red, intent(None)).await.unwrap_err();
    assert!(
        matches!(&refused, Refusal::Invalid(problems) if problems[0].pointer == "/weights/red"),
        "{refused}"
    );
    let refused = handle.rollback("bank", intent(None)).await.unwrap_err();
    assert!(matches!(refused, Refusal::UnknownService(_)), "{refused}");
    let refused = handle.rollback("shop", intent(Some(7))).await.unwrap_err();
    assert!(matches!(refused, Refusal::Stale { .. }), "{refused}");
    assert_eq!((rig.green(), rig.shop().await.revision), (0.0, 1));
    // Equal weights are a change that is accepted.
    assert_eq!(
        handle
            .set_weights("shop", to(0.0), intent(Some(1)))
            .await
            .unwrap()
            .service
            .revision,
        2
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_away_that_the_store_refuses_does_not_happen() {
    let (rig, gate) = gated(TIMING).await;
    let put = rig.put(5.0);
    until(|| gate.begun() == 2).await;
    let shop = rig.shop().await;
    assert_eq!((&shop.weights.intended, &shop.weights.effective), (&to(5.0), &to(0.0)));
    gate.pass(false);
    let refused = put.await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, Refusal::Store(reason) if reason.contains("full")),
        "{refused}"
    );
    let shop = rig.shop().await;
    assert_eq!((&shop.weights.intended, shop.revision, rig.green()), (&to(0.0), 1, 0.0));
    gate.pass(true);
    assert!(rig.put(5.0).await.unwrap().unwrap().durable);
    assert_eq!((rig.green(), rig.shop().await.revision), (5.0, 2));
}

#[tokio::test(flavor = "current_thread")]
async fn a_rollback_overtakes_what_hangs_in_the_store() {
    let (rig, gate) = gated(TIMING).await;
    gate.pass(true);
    rig.put(5.0).await.unwrap().unwrap();
    let away = rig.put(50.0);
    until(|| gate.begun() == 3).await;
    let waits = rig.put(60.0);
    // The store hangs, and the rollback is in effect all the same.
    let back = rig.roll_back();
    until(|| rig.green() == 0.0).await;
    for overtaken in [away, waits] {
        assert!(matches!(overtaken.await.unwrap(), Err(Refusal::Overtaken)));
    }
    assert!(!back.is_finished());
    let shop = rig.shop().await;
    assert_eq!((shop.revision, shop.weights.durable), (4, false));
    assert_eq!(shop.weights.intended, to(0.0));
    gate.pass(true);
    gate.pass(true);
    assert!(back.await.unwrap().unwrap().durable);
    // What had begun is written too, and then what is in effect.
    let written = gate.written();
    assert_eq!(
        written[2..],
        [("weights".to_owned(), 50.0), ("rollback".to_owned(), 0.0)]
    );
    assert!(rig.shop().await.weights.durable);
}

#[tokio::test(flavor = "current_thread")]
async fn a_rollback_that_is_not_on_disk_in_time_says_so_and_is_written_later() {
    let impatient = Timing {
        durable_within: Duration::from_millis(1),
        ..TIMING
    };
    let (rig, gate) = gated(impatient).await;
    gate.pass(true);
    rig.put(5.0).await.unwrap().unwrap();
    let applied = rig.roll_back().await.unwrap().unwrap();
    assert!(!applied.durable && !applied.service.weights.durable);
    assert_eq!(rig.green(), 0.0);
    // An attempt that fails is followed by another.
    gate.pass(false);
    until(|| gate.begun() == 4).await;
    assert!(!rig.shop().await.weights.durable);
    // What is away from the baseline is refused with it.
    let refused = rig.put(5.0);
    tokio::task::yield_now().await;
    rig.shop().await;
    gate.pass(false);
    assert!(matches!(refused.await.unwrap(), Err(Refusal::Store(_))));
    gate.pass(true);
    until(|| gate.written().len() == 3).await;
    while !rig.shop().await.weights.durable {}
    assert_eq!(gate.written()[2], ("rollback".to_owned(), 0.0));
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_that_the_store_has_for_too_long_is_refused_and_undone() {
    let timing = Timing {
        commit_within: Duration::from_secs(5),
        ..TIMING
    };
    let (rig, gate) = gated(timing).await;
    let away = rig.put(50.0);
    until(|| gate.begun() == 2).await;
    rig.clock.advance(Duration::from_secs(5));
    assert!(matches!(away.await.unwrap(), Err(Refusal::Store(_))));
    assert_eq!(rig.green(), 0.0);
    gate.pass(true);
    gate.pass(true);
    until(|| gate.written().len() == 3).await;
    assert_eq!(
        gate.written()[1..],
        [("weights".to_owned(), 50.0), ("undo".to_owned(), 0.0)]
    );
    while !rig.shop().await.weights.durable {}
}

#[tokio::test(flavor = "current_thread")]
async fn changes_of_one_service_are_made_in_their_order_and_others_do_not_wait() {
    let (gate, store) = Gate::new();
    gate.pass(true);
    let rig = Rig::new(store, vec![spec("shop", 0.0), spec("bank", 0.0)]);
    until(|| gate.written().len() == 1).await;
    let puts = [10.0, 20.0, 30.0].map(|green| rig.put(green));
    until(|| gate.begun() == 2).await;
    rig.shop().await;
    assert_eq!(rig.shop().await.weights.intended, to(10.0));
    let bank = rig.links.handle.rollback("bank", intent(None));
    [true; 4].into_iter().for_each(|works| gate.pass(works));
    assert!(bank.await.unwrap().durable);
    let mut revisions = Vec::new();
    for put in puts {
        revisions.push(put.await.unwrap().unwrap().service.revision);
    }
    assert_eq!((revisions.last(), rig.green()), (Some(&4), 30.0));
}

#[tokio::test(flavor = "current_thread")]
async fn weights_survive_the_process_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]);
    for green in [5.0, 25.0, 100.0, 30.25] {
        assert!(rig.put(green).await.unwrap().unwrap().durable);
    }
    let before = rig.shop().await;
    assert_eq!(before.baseline, "green");
    drop(rig);

    // The file says something else; it does not matter any more.
    let rig = Rig::open(directory.path(), vec![spec("shop", 50.0)]);
    assert_eq!(rig.shop().await, before);
    assert_eq!(rig.green(), 30.25);
    assert!(rig.roll_back().await.unwrap().unwrap().durable);
    assert_eq!(rig.green(), 100.0);
    assert_eq!(
        rig.actions().await,
        ["rollback", "weights", "weights", "weights", "weights", "start"]
    );
    drop(rig);

    // An upstream with traffic is gone: the file's weights, and everyone is told.
    let mut other = spec("shop", 0.0);
    other.upstreams[1].name = Name::from("red");
    other.weights = crate::model::Weights::all_on(other.upstreams.iter().map(|u| &u.name), "red").unwrap();
    let rig = Rig::open(directory.path(), vec![other]);
    let shop = rig.shop().await;
    assert_eq!((shop.baseline.as_str(), shop.revision), ("red", before.revision + 2));
    let newest = rig.links.handle.audit(None, 1).await.unwrap().entries.remove(0);
    assert!(
        newest.action == "start" && newest.reason.as_ref().unwrap().contains("green"),
        "{newest:?}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_reload_changes_what_there_is_and_moves_no_traffic() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0), spec("bank", 0.0)]);
    let handle = &rig.links.handle;
    rig.put(25.0).await.unwrap().unwrap();
    let (_, mut events) = handle.events(None);

    let mut three = spec("shop", 0.0);
    let mut red = three.upstreams[0].clone();
    red.name = Name::from("red");
    three.upstreams.push(red);
    three.weights = crate::model::Weights::all_on(three.upstreams.iter().map(|u| &u.name), "red").unwrap();
    let said = handle
        .reload(vec![three.clone(), spec("cafe", 10.0)], "signal")
        .await
        .unwrap();
    assert_eq!(said, "added: cafe; changed: shop; removed: bank");
    let shop = rig.shop().await;
    assert_eq!(shop.weights.intended["red"], 0.0);
    assert_eq!((rig.green(), shop.revision), (25.0, 2));
    assert!(matches!(handle.service("bank").await, Err(Refusal::UnknownService(_))));
    assert_eq!(handle.service("cafe").await.unwrap().weights.effective, to(10.0));
    assert!(!handle.metrics().render().contains("bank"));
    let event = events.recv().await.unwrap().kind;
    assert_eq!(event, api::EventKind::Reload { ok: true, detail: said });

    // An upstream with traffic stays.
    three.upstreams.remove(1);
    let refused = handle
        .reload(vec![three.clone()], "file")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("service shop: upstream green gets 25 % of the traffic"),
        "{refused}"
    );
    assert_eq!(rig.green(), 25.0);
    assert!(
        handle
            .metrics()
            .render()
            .contains("weighbridge_config_last_reload_successful 0")
    );

    // A service that comes back has the weights that it had.
    rig.roll_back().await.unwrap().unwrap();
    handle.reload(vec![three, spec("bank", 99.0)], "file").await.unwrap();
    assert_eq!(handle.service("bank").await.unwrap().weights.effective, to(0.0));
    assert_eq!(
        rig.shop().await.weights.effective.keys().collect::<Vec<_>>(),
        ["blue", "red"]
    );
    assert_eq!(
        rig.actions().await,
        ["reload", "rollback", "reload", "weights", "start"]
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_reload_takes_along_what_waits_for_the_store() {
    let (rig, gate) = gated(TIMING).await;
    let away = rig.put(50.0);
    until(|| gate.begun() == 2).await;
    let mut blue = spec("shop", 0.0);
    blue.upstreams.truncate(1);
    blue.weights = crate::model::Weights::all_on(blue.upstreams.iter().map(|u| &u.name), "blue").unwrap();
    let refused = rig
        .links
        .handle
        .reload(vec![blue], "file")
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("green gets 50 %"), "{refused}");
    let mut three = spec("shop", 0.0);
    let mut red = three.upstreams[0].clone();
    red.name = Name::from("red");
    three.upstreams.insert(0, red);
    three.weights = crate::model::Weights::all_on(three.upstreams.iter().map(|u| &u.name), "red").unwrap();
    rig.links.handle.reload(vec![three], "file").await.unwrap();
    gate.pass(true);
    gate.pass(true);
    assert_eq!(away.await.unwrap().unwrap().service.weights.effective["green"], 50.0);
    assert_eq!(rig.green(), 50.0);
}

#[tokio::test(flavor = "current_thread")]
async fn what_workers_count_is_seen_in_windows_metrics_and_events() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let (_, mut events) = rig.links.handle.events(None);
    let key = rig.links.publisher.current().table.service("shop").unwrap().upstreams[1].key;
    let send = async |count: u64| {
        let mut recorder = Recorder::new(0);
        for _ in 0..count {
            recorder.record(
                key,
                &Outcome {
                    class: Class::ServerError,
                    first_byte_us: Some(1),
                    total_us: 2000,
                },
            );
            let labels = RequestLabels {
                listener: 0,
                upstream: Some(key),
                method: MethodLabel::Get,
                status: 500,
            };
            recorder.count(labels);
        }
        recorder.reject(0, None, Reason::NoRoute);
        rig.links.batches.send(recorder.take(None)).await.unwrap();
    };
    send(3).await;
    let event = events.recv().await.unwrap().kind;
    let api::EventKind::Statistics { service, upstreams } = event else {
        panic!("{event:?}");
    };
    assert_eq!(
        (
            service.as_str(),
            upstreams["green"].failures,
            upstreams["blue"].requests
        ),
        ("shop", 3, 0)
    );
    let green = |shop: api::Service, window: &str| shop.upstreams["green"].windows[window].requests;
    assert_eq!(green(rig.shop().await, "since_change"), 3);
    rig.put(5.0).await.unwrap().unwrap();
    assert_eq!(green(rig.shop().await, "since_change"), 0);
    assert_eq!(green(rig.shop().await, "5m"), 3);
    let page = rig.links.handle.metrics().render();
    for line in [
        r#"weighbridge_http_requests_total{listener="web",service="shop",upstream="green",method="GET",code="500"} 3"#,
        r#"weighbridge_upstream_failures_total{service="shop",upstream="green",reason="5xx"} 3"#,
        r#"weighbridge_http_errors_total{listener="web",reason="no_route"} 1"#,
        r#"weighbridge_http_request_duration_seconds_count{service="shop",upstream="green"} 3"#,
    ] {
        assert!(page.lines().any(|have| have == line), "no {line} in\n{page}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_of_health_is_published_and_told_once() {
    let mut checked = spec("shop", 0.0);
    checked.health = Some(crate::model::Health {
        path: "/".into(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        unhealthy_after: 1,
        healthy_after: 1,
    });
    let rig = Rig::new(memory(), vec![checked]);
    let (_, mut events) = rig.links.handle.events(None);
    let endpoint = rig.links.publisher.current().table.endpoints().next().unwrap().key;
    for healthy in [false, false, true] {
        let detail = "connection refused".to_owned();
        rig.links
            .health
            .send(HealthEvent {
                endpoint,
                healthy,
                detail,
            })
            .await
            .unwrap();
    }
    for expected in [false, true] {
        let event = events.recv().await.unwrap().kind;
        let api::EventKind::Health {
            service,
            upstream,
            endpoint,
            healthy,
            ..
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(
            (&*service, &*upstream, &*endpoint, healthy),
            ("shop", "blue", "127.0.0.1:1", expected)
        );
    }
    assert!(rig.shop().await.upstreams["blue"].endpoints[0].healthy);
    let line = r#"weighbridge_endpoint_healthy{service="shop",upstream="blue",endpoint="127.0.0.1:1"} 1"#;
    assert!(rig.links.handle.metrics().render().contains(line));
}

#[tokio::test(flavor = "current_thread")]
async fn the_end_waits_for_the_disk_and_then_nobody_is_answered() {
    let (gate, store) = Gate::new();
    let (controller, links) = Controller::new(Setup {
        services: vec![spec("shop", 0.0)],
        listeners: Vec::new(),
        store,
        loaded: LoadedState::default(),
        clock: Arc::new(ManualClock::default()),
    });
    assert_eq!(links.handle.readiness(), Readiness::Ready);
    let run = tokio::spawn(controller.run(std::future::ready(())));
    until(|| gate.begun() == 1).await;
    assert!(!run.is_finished());
    gate.pass(true);
    run.await.unwrap();
    assert_eq!(gate.written().len(), 1);
    assert!(matches!(links.handle.services().await, Err(Refusal::Stopped)));
    links.handle.set_draining();
    links.handle.set_ready();
    assert_eq!(links.handle.readiness(), Readiness::Draining);
}
