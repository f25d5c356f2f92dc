//! The data plane's part of a release, without a control plane: workers in this process whose table
//! has a watch, and a case that reads their notes.

mod notes;
mod rescue;
mod samples;
mod trip;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tokio::sync::mpsc;
use weighbridge::model::{
    self, HostPattern, PathPrefix, Protocol, Route, ServiceSpec, Sticky, Tester, Timeouts,
    UpstreamSpec, Weight, Weights,
};
use weighbridge::net::{ListenerOptions, Sockets};
use weighbridge::proxy::{BoundListener, Options, Reports, Workers};
use weighbridge::routing::{
    BudgetKind, KeyRegistry, LiveState, Publisher, ReleaseHandle, ReleaseHandleSpec, RescuePolicy,
    RoutingTable,
};
use weighbridge::stats::{
    Arm, Batch, EventBatch, Reason, ReleaseKey, RequestEvent, RequestEventKind, SampledExchange,
    UpstreamKey, Watermark,
};
use weighbridge::telemetry::AccessLog;

use crate::harness::{Client, DEADLINE, Response, block_on, until};

/// A release of `shop` from `blue` to `green`, before it is started.
struct Trial {
    spec: ServiceSpec,
    rescue: RescuePolicy,
    in_flight_max: u32,
    workers: usize,
    canary_points: u16,
}

/// A release under way, and the workers.
struct Rig {
    address: SocketAddr,
    publisher: Publisher,
    watch: Arc<ReleaseHandle>,
    horizon: Arc<Watermark>,
    notes: mpsc::Receiver<EventBatch>,
    batches: mpsc::Receiver<Batch>,
    workers: Option<Workers>,
    read: Vec<RequestEvent>,
    samples: Vec<SampledExchange>,
    counted: Counted,
}

/// What the recorders have handed over.
#[derive(Default)]
struct Counted {
    /// Failures of each upstream.
    failures: [u64; 2],
    /// Other finished requests of each upstream.
    successes: [u64; 2],
    /// Answers to clients, with the upstream that they are counted for.
    answers: Vec<(Option<UpstreamKey>, u16)>,
    /// Failures by reason: whether a client was told, and of which upstream.
    reasons: Vec<(bool, Option<UpstreamKey>, Reason)>,
}

impl Trial {
    /// All traffic is on green, which may fail as often as it likes and is helped by nobody.
    fn new(blue: SocketAddr, green: SocketAddr) -> Trial {
        let upstream = |name: &str, address| UpstreamSpec {
            name: name.into(),
            endpoints: vec![model::EndpointSpec(address)],
            protocol: Protocol::Http1,
        };
        let names = ["blue".into(), "green".into()];
        Trial {
            spec: ServiceSpec {
                name: "shop".into(),
                routes: vec![Route {
                    host: HostPattern::Any,
                    path_prefix: PathPrefix("".into()),
                    methods: Vec::new(),
                    headers: Vec::new(),
                }],
                upstreams: vec![upstream("blue", blue), upstream("green", green)],
                weights: Weights::all_on(&names, "blue").unwrap(),
                baseline: None,
                timeouts: Timeouts::default(),
                sticky: None,
                tester: Some(Tester::Header(HeaderName::from_static("x-version"))),
                health: None,
                release: None,
            },
            rescue: RescuePolicy::Off,
            in_flight_max: 100,
            workers: 1,
            canary_points: 10_000,
        }
    }

    fn rescue(self, rescue: RescuePolicy) -> Trial {
        Trial { rescue, ..self }
    }

    fn points(self, canary_points: u16) -> Trial {
        Trial {
            canary_points,
            ..self
        }
    }

    fn sticky(mut self, sticky: Sticky) -> Trial {
        self.spec.sticky = Some(sticky);
        self
    }

    fn timeouts(mut self, timeouts: Timeouts) -> Trial {
        self.spec.timeouts = timeouts;
        self
    }

    fn start(self) -> Rig {
        let mut keys = KeyRegistry::new();
        let table =
            RoutingTable::build(std::slice::from_ref(&self.spec), |_| None, &mut keys, None);
        let publisher = Publisher::new(table);
        let watch = Arc::new(ReleaseHandle::new(
            ReleaseHandleSpec {
                key: ReleaseKey(7),
                release: "shop-1".into(),
                baseline: UpstreamKey(0),
                baseline_name: "blue".into(),
                canary: UpstreamKey(1),
                canary_name: "green".into(),
                sticky: self.spec.sticky.is_some(),
                rescue: self.rescue,
                in_flight_max: self.in_flight_max,
            },
            0,
            0,
        ));
        watch.tripwire().arm(BudgetKind::Visible, 1_000_000, 0);
        watch.tripwire().arm(BudgetKind::All, 1_000_000, 0);
        publish(&publisher, &watch, self.canary_points);
        let ((batches, batch_reader), (notes, note_reader)) =
            (mpsc::channel(1_000), mpsc::channel(1_000));
        let horizon = Arc::new(Watermark::new(self.workers));
        let reports = Reports {
            batches,
            notes,
            horizon: Arc::clone(&horizon),
        };
        let options = Options {
            workers: self.workers.try_into().unwrap(),
            ..Options::default()
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = Sockets::bind(any, self.workers).unwrap();
        let address = sockets.address();
        let listener = BoundListener {
            options: ListenerOptions::on(address),
            sockets,
        };
        let log = AccessLog::open(None).unwrap();
        let workers = Workers::start(&options, vec![listener], &publisher, &reports, &log).unwrap();
        Rig {
            address,
            publisher,
            watch,
            horizon,
            notes: note_reader,
            batches: batch_reader,
            workers: Some(workers),
            read: Vec::new(),
            samples: Vec::new(),
            counted: Counted::default(),
        }
    }
}

fn publish(publisher: &Publisher, watch: &Arc<ReleaseHandle>, canary_points: u16) {
    let points = |points| Weight::from_basis_points(points).unwrap();
    let given = [
        ("blue".into(), points(10_000 - canary_points)),
        ("green".into(), points(canary_points)),
    ];
    let weights = Weights::new(given.iter().map(|(name, _)| name), &given).unwrap();
    publisher.update(|table| {
        let live = LiveState {
            weights: weights.clone(),
            watch: Some(Arc::clone(watch)),
            ..table.service("shop").unwrap().live()
        };
        table.with_weights("shop", &live)
    });
}

impl Rig {
    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// One request on a connection of its own.
    #[track_caller]
    fn get(&self, headers: &str) -> Response {
        self.client().ask("/", headers).receive()
    }

    /// Moves so much weight to the canary.
    fn publish(&self, canary_points: u16) {
        publish(&self.publisher, &self.watch, canary_points);
    }

    /// The canary's weight in the table in use.
    fn canary_points(&self) -> u16 {
        let snapshot = self.publisher.current();
        let service = snapshot.table.service("shop").unwrap();
        service.upstream("green").unwrap().weight.basis_points()
    }

    /// Everything noted so far.
    fn notes(&mut self) -> &[RequestEvent] {
        while let Ok(batch) = self.notes.try_recv() {
            assert!(!batch.lost);
            self.read.extend(batch.notes);
            self.samples
                .extend(batch.samples.into_iter().map(|(key, sample)| {
                    assert_eq!(key, ReleaseKey(7));
                    sample
                }));
        }
        &self.read
    }

    /// All notes, once so many requests have come to their end.
    #[track_caller]
    fn ended(&mut self, requests: usize) -> Vec<RequestEvent> {
        until(&format!("{requests} requests have ended"), || {
            let notes = self.notes();
            let ended = notes.iter().filter(|note| note.happened.is_last()).count();
            assert!(ended <= requests, "{notes:?}");
            (ended == requests).then(|| notes.to_vec())
        })
    }

    /// What the one request came to: its side, and its last note, which follows one `Assigned`.
    #[track_caller]
    fn verdict(&mut self) -> (Arm, RequestEventKind) {
        let notes = self.ended(1);
        assert!(matches!(
            notes[0].happened,
            RequestEventKind::Assigned { .. }
        ));
        assert!(
            notes
                .iter()
                .all(|note| note.assignment == notes[0].assignment),
            "{notes:?}"
        );
        assert!(
            notes[1..]
                .iter()
                .all(|note| !matches!(note.happened, RequestEventKind::Assigned { .. }))
        );
        let last = notes[notes.len() - 1];
        (last.assignment.side, last.happened)
    }

    /// What was counted, once so many answers were.
    #[track_caller]
    fn counted(&mut self, answers: usize) -> &Counted {
        until(&format!("{answers} answers are counted"), || {
            while let Ok(batch) = self.batches.try_recv() {
                for (key, summary) in &batch.summaries {
                    self.counted.failures[key.index()] += summary.failures();
                    self.counted.successes[key.index()] += summary.requests() - summary.failures();
                }
                for ((listener, upstream, reason), count) in &batch.reasons {
                    let one = (listener.is_some(), *upstream, *reason);
                    let repeated = std::iter::repeat_n(one, usize::try_from(*count).unwrap());
                    self.counted.reasons.extend(repeated);
                }
                for (labels, count) in &batch.requests {
                    let one = (labels.upstream, labels.status);
                    let repeated = std::iter::repeat_n(one, usize::try_from(*count).unwrap());
                    self.counted.answers.extend(repeated);
                }
            }
            (self.counted.answers.len() >= answers).then_some(())
        });
        assert_eq!(self.counted.answers.len(), answers);
        &self.counted
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take().filter(|_| !std::thread::panicking()) {
            block_on(workers.drain(DEADLINE / 10));
        }
    }
}

const BLUE: Option<UpstreamKey> = Some(UpstreamKey(0));
const GREEN: Option<UpstreamKey> = Some(UpstreamKey(1));

/// Limits that a silent upstream soon reaches.
fn impatient() -> Timeouts {
    Timeouts {
        first_byte: Duration::from_millis(50),
        ..Timeouts::default()
    }
}
