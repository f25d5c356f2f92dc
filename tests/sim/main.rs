//! The acceptance protocol of the decision engine, as simulations: `make sim`, or a part of it with
//! `make sim ARGS="s1 p8 --seed 7"`.
//!
//! S: how often equal versions are told apart, which must not exceed alpha. P: how many requests of a bad canary it
//! takes to see it. Every run has its own seed, so that each line can be repeated.

#![expect(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "simulated times and counts are small, and a wrong index should end the simulation"
)]

mod errors;
mod latencies;
mod power;
mod releases;
mod report;
mod rng;
mod speed;
mod world;

use report::{Alarm, Args, Power, Report};
use world::{Law, Slower};

fn main() -> std::process::ExitCode {
    let mut report = Report::new(Args::parse());
    equal_versions(&mut report);
    failing_versions(&mut report);
    slow_versions(&mut report);
    whole_releases(&mut report);
    speed::measure(&mut report);
    report.finish()
}

/// A line of the table: id, scenario, runs, pass up to, fail from, the reference implementation's count, one run.
type Equal = (&'static str, &'static str, [u64; 3], &'static str, fn(u64) -> bool);

fn equal_versions(report: &mut Report) {
    let many = [10_000, 77, 133];
    let some = [4_000, 168, 245];
    let few = [2_000, 77, 132];
    let table: [Equal; 15] = [
        ("S1", "A1 steady, alpha .01", many, "38", errors::s1),
        ("S2", "A2 drift and spikes", some, "93", errors::s2),
        ("S3", "A5 shared bursts", some, "92", errors::s3),
        ("S4", "A6 at the margin", some, "73", errors::s4),
        (
            "S5",
            "A7 weights chosen by the evidence, alpha .01",
            many,
            "61",
            errors::s5,
        ),
        ("S6", "A3 one failure in 100,000", some, "83", errors::s6),
        ("S7", "A9 five requests per second", some, "67", errors::s7),
        ("S8", "L2 latency, drift and spikes", few, "66", latencies::s8),
        ("S9", "L5 latency at the margin", few, "53", latencies::s9),
        (
            "S10",
            "whole release, drift and spikes",
            [1_000, 34, 74],
            "21",
            releases::s10,
        ),
        ("S11", "fixed limit, at it", few, "28", errors::s11),
        ("S12", "advance test at the harm", few, "58", errors::s12),
        (
            "S13.1",
            "sticky users, first failure of each",
            few,
            "-",
            errors::s13_sticky,
        ),
        ("S13.2", "retries counted once", few, "-", errors::s13_retries),
        ("S13.3", "fast failure against timeout", few, "-", errors::s13_landmark),
    ];
    for (id, name, [runs, pass, hard], reference, run) in table {
        let bars = Alarm {
            runs,
            pass,
            hard,
            reference,
        };
        report.alarm(id, name, &bars, run);
    }
}

fn failing_versions(report: &mut Report) {
    let cases = [
        ("P1", "0.1 to 1 %, w 1 %", 0.01, 1e-3, 1e-2, 631.0, 730.0),
        ("P2", "0.1 to 1 %, w 10 %", 0.1, 1e-3, 1e-2, 773.0, 890.0),
        ("P3.1", "0.1 to 5 %, w 1 %", 0.01, 1e-3, 5e-2, 59.0, 70.0),
        ("P3.2", "0.1 to 5 %, w 10 %", 0.1, 1e-3, 5e-2, 79.0, 92.0),
        ("P4", "0.001 to 0.1 %, w 10 %", 0.1, 1e-5, 1e-3, 3_870.0, 4_450.0),
        ("P5", "0.1 to 0.2 %, w 10 %", 0.1, 1e-3, 2e-3, 28_400.0, 33_000.0),
    ];
    for (id, name, weight, p_s, p_c, reference, bar) in cases {
        let bars = Power {
            runs: 400,
            reference,
            bar,
        };
        let run = |seed| power::detect(seed, weight, p_s, p_c, 8.0 * reference);
        report.power(id, name, &bars, |seen| seen.requests, run);
    }
    report.other("P6", "all fail: requests at w .1/1/5/10/25/50 %", 12, || {
        let weights = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5];
        let plain = weights.map(|w| power::fail_fast(w, 1.0, 0.0));
        let margin = weights.map(|w| power::fail_fast(w, 1.1, 5e-4));
        let good = plain == [2, 2, 3, 4, 6, 12] && margin == [2, 2, 3, 4, 7, 13];
        (good, format!("{plain:?} {margin:?}"), "exact".to_owned())
    });
    let bars = Power {
        runs: 400,
        reference: 8.6,
        bar: 10.5,
    };
    report.power(
        "P7",
        "0.1 to 1 % after 30 min, w 25 %: seconds",
        &bars,
        |seen| seen.seconds,
        power::late,
    );
}

fn slow_versions(report: &mut Report) {
    use Law::{Bimodal, Lognormal, Pareto, WholeMs};
    use Slower::{All, Tail};
    let free = f64::INFINITY;
    let cases = [
        ("P8.1", "all x1.1, w 1 %", 0.01, Lognormal, All(0.1), 836.0, 960.0),
        ("P8.2", "all x1.1, w 10 %", 0.1, Lognormal, All(0.1), 930.0, 1_070.0),
        ("P9", "tail +20 %, w 10 %", 0.1, Lognormal, Tail(0.2), 3_070.0, 3_550.0),
        ("P10.1", "tail +100 %, w 1 %", 0.01, Lognormal, Tail(1.0), 204.0, 245.0),
        ("P10.2", "tail +100 %, w 10 %", 0.1, Lognormal, Tail(1.0), 248.0, 290.0),
        ("P11.1", "all x2, w 1 %", 0.01, Lognormal, All(1.0), 17.0, 21.0),
        ("P11.2", "all x2, w 10 %", 0.1, Lognormal, All(1.0), 19.0, 23.0),
        ("P11.3", "all x10, w 1 %", 0.01, Lognormal, All(9.0), 2.0, 3.0),
        ("P12.1", "bimodal x1.1, w 10 %", 0.1, Bimodal, All(0.1), 396.0, 460.0),
        ("P12.2", "Pareto x1.1, w 10 %", 0.1, Pareto, All(0.1), 90.0, 105.0),
        (
            "P12.3",
            "whole milliseconds x1.1, w 10 %",
            0.1,
            WholeMs,
            All(0.1),
            162.0,
            190.0,
        ),
        ("P12.4", "all x2, w 50 % (no bar)", 0.5, Lognormal, All(1.0), 37.0, free),
        (
            "P12.5",
            "all x1.1, w 50 % (no bar)",
            0.5,
            Lognormal,
            All(0.1),
            1_620.0,
            free,
        ),
    ];
    for (id, name, weight, law, slower, reference, bar) in cases {
        let bars = Power {
            runs: 200,
            reference,
            bar,
        };
        let run = |seed| latencies::detect(seed, weight, law, slower, 8.0 * reference);
        report.power(id, name, &bars, |seen| seen.requests, run);
    }
}

fn whole_releases(report: &mut Report) {
    let seed = report.seed();
    report.other("P13", "healthy release: median seconds to 100 %", 400, || {
        let walk = |i| releases::walk(seed + i, releases::plan(1e-3, true), releases::HEALTHY, false);
        let answers: Vec<_> = (0..400).map(walk).collect();
        let promoted: Vec<f64> = answers
            .iter()
            .filter(|answer| answer.verdict == weighbridge::analysis::replay::Outcome::Promoted)
            .map(|answer| answer.at_ms as f64 / 1e3)
            .collect();
        let missed = answers.len() - promoted.len();
        let middle = report::median(promoted);
        (
            middle <= 175.0 && missed <= 2,
            format!("{middle:.0} ({missed} not)"),
            "<=175".to_owned(),
        )
    });
    for (id, name, canary, bar) in releases::bad() {
        report.other(id, &format!("bad release: {name}"), 200, || {
            releases::judge_bad(seed, canary, bar)
        });
    }
}
