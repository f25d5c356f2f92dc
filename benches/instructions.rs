//! Instruction counts of the steps of the request path: the same parts as `hot_path`, counted under
//! valgrind instead of timed, so that the figures of a busy machine are as good as those of an idle
//! one.
//!
//! `make instructions`. It needs valgrind and the runner: `cargo install gungraun-runner --version
//! =0.20.0 --locked`, in the version of the library. Each figure is for a thousand calls, and has a
//! limit above which the run fails.

#![expect(clippy::unwrap_used, reason = "the set-up of a benchmark")]
#![expect(
    missing_docs,
    reason = "the macros generate public items without documentation"
)]

mod fixture;

use std::hint::black_box;

use fixture::{Draws, labels, outcome, table};
use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use http::{HeaderMap, Method};
use weighbridge::routing::{Publisher, RoutingTable, SnapshotReader, Split};
use weighbridge::stats::{Recorder, UpstreamKey};

/// Calls per figure: enough that the branches that the random numbers select are taken as often as
/// in service.
const CALLS: usize = 1_000;

/// A limit on the instructions per call: about a third above the measured count, which leaves room
/// for another compiler and small changes. A change that costs more must raise its limit
/// explicitly.
fn at_most(instructions: u64) -> LibraryBenchmarkConfig {
    let mut counted = Callgrind::default();
    counted.hard_limits([(EventKind::Ir, instructions * CALLS as u64)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(counted);
    config
}

// The input of each part is returned, so that it is dropped outside of the measurement.
#[library_benchmark(setup = table)]
#[bench::one_service(args = (0), config = at_most(350))]
#[bench::exact_of_1_000_hosts(args = (1_000), config = at_most(850))]
fn route(table: RoutingTable) -> RoutingTable {
    let headers = HeaderMap::new();
    for _ in 0..CALLS {
        let found = table.route(
            black_box(Some("s500.example.com")),
            black_box("/api/v1/items/17"),
            &Method::GET,
            &headers,
        );
        black_box(found.is_some());
    }
    table
}

fn split() -> Split {
    let table = table(0);
    let service = table.services().next().unwrap();
    Split::new(&service.weights, &service.baseline, 7)
}

#[library_benchmark(setup = split)]
#[bench::two_upstreams(config = at_most(40))]
fn split_draw(split: Split) -> Split {
    let mut draws = Draws::default();
    for _ in 0..CALLS {
        black_box(split.pick(draws.next()));
    }
    split
}

#[library_benchmark(setup = split)]
#[bench::of_36_bytes(config = at_most(125))]
fn split_key(split: Split) -> Split {
    for _ in 0..CALLS {
        black_box(split.pick_key(black_box(b"0192f3c8-6d1e-7b7a-9d0e-2f6a5f1c4b7d")));
    }
    split
}

/// A recorder that has seen the upstream and the labels before, as in a worker's steady state.
fn recorder() -> (Recorder, Draws) {
    let mut recorder = Recorder::new(0);
    let mut draws = Draws::default();
    (0..CALLS).for_each(|_| {
        let draw = draws.next();
        recorder.record(UpstreamKey(1), &outcome(draw));
        recorder.count(labels(draw));
    });
    (recorder, draws)
}

#[library_benchmark(setup = recorder)]
#[bench::one_upstream(config = at_most(250))]
fn recorder_record((mut recorder, mut draws): (Recorder, Draws)) -> Recorder {
    for _ in 0..CALLS {
        recorder.record(UpstreamKey(1), &outcome(draws.next()));
    }
    recorder
}

// The same, with the request counted by its labels.
#[library_benchmark(setup = recorder)]
#[bench::one_upstream(config = at_most(400))]
fn recorder_record_and_count((mut recorder, mut draws): (Recorder, Draws)) -> Recorder {
    for _ in 0..CALLS {
        let draw = draws.next();
        recorder.record(UpstreamKey(1), &outcome(draw));
        recorder.count(labels(draw));
    }
    recorder
}

fn reader() -> (Publisher, SnapshotReader) {
    let publisher = Publisher::new(table(0));
    let mut reader = publisher.reader();
    black_box(reader.load().revision);
    (publisher, reader)
}

#[library_benchmark(setup = reader)]
#[bench::unchanged(config = at_most(32))]
fn snapshot_load(
    (publisher, mut reader): (Publisher, SnapshotReader),
) -> (Publisher, SnapshotReader) {
    for _ in 0..CALLS {
        black_box(reader.load().revision);
    }
    (publisher, reader)
}

library_benchmark_group!(
    name = instructions,
    benchmarks = [
        route,
        split_draw,
        split_key,
        recorder_record,
        recorder_record_and_count,
        snapshot_load
    ]
);
main!(library_benchmark_groups = instructions);
