//! The data plane of a release without a control plane: workers in this process whose routing table
//! has a release handle; the case reads their events.

mod events;
mod rescue;
mod samples;
mod tripwire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tokio::sync::mpsc;
use weighbridge::model::{
    self, HostPattern, PathPrefix, Protocol, Route, ServiceSpec, Sticky, Tester, Timeouts,
    UpstreamSpec, Weight, Weights,
};
use weighbridge::net::{self, ListenerOptions};
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

/// Options of a release of `shop` from `blue` to `green`.
struct Trial {
    spec: ServiceSpec,
    rescue: RescuePolicy,
    in_flight_max: u32,
    workers: usize,
    canary_points: u16,
}

/// A running release with its workers.
struct Rig {
    address: SocketAddr,
    publisher: Publisher,
    handle: Arc<ReleaseHandle>,
    watermark: Arc<Watermark>,
    events: mpsc::Receiver<EventBatch>,
    batches: mpsc::Receiver<Batch>,
    workers: Option<Workers>,
    read: Vec<RequestEvent>,
    samples: Vec<SampledExchange>,
    counted: Counted,
}

/// Totals of the batches that the recorders have sent.
#[derive(Default)]
struct Counted {
    /// Failures of each upstream.
    failures: [u64; 2],
    /// Other completed requests of each upstream.
    successes: [u64; 2],
    /// Responses to clients, with the upstream that they count for.
    responses: Vec<(Option<UpstreamKey>, u16)>,
    /// Failures by reason: whether it reached a client, and of which upstream.
    reasons: Vec<(bool, Option<UpstreamKey>, Reason)>,
}

impl Trial {
    /// All traffic goes to green, with an unlimited budget and no failover.
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
        let handle = Arc::new(ReleaseHandle::new(
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
        handle.tripwire().arm(BudgetKind::Visible, 1_000_000, 0);
        handle.tripwire().arm(BudgetKind::All, 1_000_000, 0);
        publish(&publisher, &handle, self.canary_points);
        let ((batches, batch_reader), (events, event_reader)) =
            (mpsc::channel(1_000), mpsc::channel(1_000));
        let watermark = Arc::new(Watermark::new(self.workers));
        let reports = Reports {
            batches,
            notes: events,
            horizon: Arc::clone(&watermark),
        };
        let options = Options {
            workers: self.workers.try_into().unwrap(),
            ..Options::default()
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sockets = net::bind(any, self.workers).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let listener = BoundListener {
            options: ListenerOptions::on(address),
            sockets,
        };
        let log = AccessLog::open(None).unwrap();
        let workers = Workers::start(&options, vec![listener], &publisher, &reports, &log).unwrap();
        Rig {
            address,
            publisher,
            handle,
            watermark,
            events: event_reader,
            batches: batch_reader,
            workers: Some(workers),
            read: Vec::new(),
            samples: Vec::new(),
            counted: Counted::default(),
        }
    }
}

fn publish(publisher: &Publisher, handle: &Arc<ReleaseHandle>, canary_points: u16) {
    let points = |points| Weight::from_basis_points(points).unwrap();
    let weights = [
        ("blue".into(), points(10_000 - canary_points)),
        ("green".into(), points(canary_points)),
    ];
    let weights = Weights::new(weights.iter().map(|(name, _)| name), &weights).unwrap();
    publisher.update(|table| {
        let live = LiveState {
            weights: weights.clone(),
            watch: Some(Arc::clone(handle)),
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

    /// Publishes this weight of the canary.
    fn publish(&self, canary_points: u16) {
        publish(&self.publisher, &self.handle, canary_points);
    }

    /// The canary's weight in the current routing table.
    fn canary_points(&self) -> u16 {
        let snapshot = self.publisher.current();
        let service = snapshot.table.service("shop").unwrap();
        service.upstream("green").unwrap().weight.basis_points()
    }

    /// All events so far.
    fn events(&mut self) -> &[RequestEvent] {
        while let Ok(batch) = self.events.try_recv() {
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

    /// All events, once `requests` requests have ended.
    #[track_caller]
    fn ended(&mut self, requests: usize) -> Vec<RequestEvent> {
        until(&format!("{requests} requests have ended"), || {
            let events = self.events();
            let ended = events
                .iter()
                .filter(|event| event.happened.is_last())
                .count();
            assert!(ended <= requests, "{events:?}");
            (ended == requests).then(|| events.to_vec())
        })
    }

    /// The arm and the last event of the only request, which has one `Assigned` event.
    #[track_caller]
    fn verdict(&mut self) -> (Arm, RequestEventKind) {
        let events = self.ended(1);
        assert!(matches!(
            events[0].happened,
            RequestEventKind::Assigned { .. }
        ));
        assert!(
            events
                .iter()
                .all(|event| event.assignment == events[0].assignment),
            "{events:?}"
        );
        assert!(
            events[1..]
                .iter()
                .all(|event| !matches!(event.happened, RequestEventKind::Assigned { .. }))
        );
        let last = events[events.len() - 1];
        (last.assignment.side, last.happened)
    }

    /// The totals, once `responses` responses are counted.
    #[track_caller]
    fn counted(&mut self, responses: usize) -> &Counted {
        until(&format!("{responses} responses are counted"), || {
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
                    self.counted.responses.extend(repeated);
                }
            }
            (self.counted.responses.len() >= responses).then_some(())
        });
        assert_eq!(self.counted.responses.len(), responses);
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

/// Timeouts that a silent upstream soon exceeds.
fn short_timeouts() -> Timeouts {
    Timeouts {
        first_byte: Duration::from_millis(50),
        ..Timeouts::default()
    }
}
