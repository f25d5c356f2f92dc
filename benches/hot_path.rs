//! The cost of a request outside of sockets: selecting its route, upstream and endpoint, and
//! counting it.
//!
//! `cargo bench --bench hot_path`. Compare only figures of the same idle machine.

#![expect(clippy::unwrap_used, reason = "the set-up of a benchmark")]

mod fixture;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use fixture::{Draws, labels, outcome, table};
use http::{HeaderMap, Method};
use weighbridge::model::Weight;
use weighbridge::routing::{
    BudgetKind, Publisher, ReleaseHandle, ReleaseHandleSpec, RescuePolicy, Split,
};
use weighbridge::stats::{
    Arm, Assignment, EventBuffer, Recorder, ReleaseKey, RequestEvent, RequestEventKind, Summary,
    UpstreamKey, Watermark, Windows,
};
use weighbridge::time::Timestamp;

fn route(c: &mut Criterion) {
    let headers = HeaderMap::new();
    let mut group = c.benchmark_group("route");
    for (name, services, host, path) in [
        (
            "one service, any host",
            0,
            "shop.example.com:8080",
            "/cart/items/17",
        ),
        (
            "1,000 hosts, exact",
            1_000,
            "s500.example.com",
            "/api/v1/items/17",
        ),
        (
            "1,000 hosts, upper case",
            1_000,
            "S500.Example.COM:8443",
            "/api/v1/items/17",
        ),
        (
            "1,000 hosts, wildcard",
            1_000,
            "a.b.wild.example.com",
            "/api/v1/items/17",
        ),
        (
            "1,000 hosts, none",
            1_000,
            "nobody.example.org",
            "/api/v1/items/17",
        ),
    ] {
        let table = table(services);
        group.bench_function(name, |b| {
            b.iter(|| {
                let found = table.route(
                    black_box(Some(host)),
                    black_box(path),
                    &Method::GET,
                    &headers,
                );
                black_box(found.is_some())
            });
        });
    }
    group.finish();
}

fn split(c: &mut Criterion) {
    let table = table(0);
    let service = table.services().next().unwrap();
    let split = Split::new(&service.weights, &service.baseline, 7);
    let mut draws = Draws::default();
    c.bench_function("split/draw", |b| b.iter(|| split.pick(draws.next())));
    let cookie = b"0192f3c8-6d1e-7b7a-9d0e-2f6a5f1c4b7d";
    c.bench_function("split/key of 36 bytes", |b| {
        b.iter(|| split.pick_key(black_box(cookie)))
    });
    let upstream = service.upstreams.first().unwrap();
    c.bench_function("balance/two of four", |b| {
        b.iter(|| upstream.endpoint(draws.next()).map(|endpoint| endpoint.key));
    });
}

fn record(c: &mut Criterion) {
    let mut recorder = Recorder::new(0);
    let mut draws = Draws::default();
    c.bench_function("recorder/record", |b| {
        b.iter(|| recorder.record(UpstreamKey(1), &outcome(draws.next())));
    });
    c.bench_function("recorder/record and count", |b| {
        b.iter(|| {
            let draw = draws.next();
            recorder.record(UpstreamKey(1), &outcome(draw));
            recorder.count(labels(draw));
        });
    });
    // A flush, at most a hundred times per second, with and without returning the memory.
    c.bench_function("recorder/flush of 100 requests, memory returned", |b| {
        let mut used = None;
        b.iter(|| {
            (0..100).for_each(|_| recorder.record(UpstreamKey(1), &outcome(draws.next())));
            used = Some(recorder.take(used.take()));
        });
    });
    c.bench_function("recorder/flush of 100 requests", |b| {
        b.iter(|| {
            (0..100).for_each(|_| recorder.record(UpstreamKey(1), &outcome(draws.next())));
            recorder.take(None)
        });
    });
}

/// The additional cost of a request of a release.
fn release(c: &mut Criterion) {
    let mut buffer = EventBuffer::new(0, Arc::new(Watermark::new(1)));
    let event = |at_us, happened| RequestEvent {
        assignment: Assignment {
            watch: ReleaseKey(0),
            at_us,
            canary_points: 500,
            baseline_points: 9_500,
            side: Arm::Canary,
        },
        user: 7,
        happened,
    };
    let mut at_us = 0;
    // Flushed every hundred requests, as in a worker's steady state.
    c.bench_function("release/events of one request", |b| {
        b.iter(|| {
            at_us += 1;
            buffer.expect();
            buffer.push(black_box(event(at_us, RequestEventKind::ASSIGNED)));
            buffer.push(black_box(event(at_us, RequestEventKind::Headed)));
            buffer.push(black_box(event(
                at_us,
                RequestEventKind::Good { latency_us: 300 },
            )));
            if at_us % 100 == 0 {
                drop(black_box(buffer.take(at_us)));
                buffer.handed_over();
            }
        });
    });
    let handle = Arc::new(handle());
    let weight = |points| Weight::from_basis_points(points).unwrap();
    handle.tripwire().arm(BudgetKind::Visible, u32::MAX, 0);
    c.bench_function("release/tripwire spend", |b| {
        b.iter(|| {
            handle.tripwire().spend(
                BudgetKind::Visible,
                black_box(weight(500)),
                black_box(weight(9_500)),
            )
        });
    });
    c.bench_function("release/canary permit", |b| {
        b.iter(|| black_box(handle.enter().is_some()))
    });
}

fn handle() -> ReleaseHandle {
    let spec = ReleaseHandleSpec {
        key: ReleaseKey(0),
        release: "shop-1".into(),
        baseline: UpstreamKey(0),
        baseline_name: "blue".into(),
        canary: UpstreamKey(1),
        canary_name: "green".into(),
        sticky: false,
        rescue: RescuePolicy::Safe,
        in_flight_max: 256,
    };
    ReleaseHandle::new(spec, 0, 0)
}

fn windows(c: &mut Criterion) {
    let mut draws = Draws::default();
    let mut summary = Summary::new();
    (0..1_000).for_each(|_| summary.record(&outcome(draws.next())));
    let mut windows = Windows::new(Timestamp::default());
    let mut now = Timestamp::default();
    c.bench_function("windows/push", |b| {
        b.iter(|| {
            now = now.plus(std::time::Duration::from_millis(10));
            windows.push(now, &summary);
        });
    });
    c.bench_function("windows/read all four", |b| b.iter(|| windows.read(now)));
}

fn snapshot(c: &mut Criterion) {
    let publisher = Publisher::new(table(0));
    let mut reader = publisher.reader();
    c.bench_function("snapshot/load", |b| {
        b.iter(|| black_box(reader.load().revision))
    });
    let publisher = Publisher::new(table(1_000));
    let live = publisher.current().table.service("s500").unwrap().live();
    c.bench_function("snapshot/new weights, 1,000 services", |b| {
        b.iter(|| publisher.update(|table| table.with_weights("s500", &live)));
    });
}

criterion_group!(hot_path, route, split, record, release, windows, snapshot);
criterion_main!(hot_path);
