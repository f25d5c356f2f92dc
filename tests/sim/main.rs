//! The acceptance protocol of the decision engine, as simulations: `make sim`, or a part of it with
//! `make sim ARGS="s1 p8 --seed 7"`.
//!
//! S: false alarms on equal versions, which must not exceed alpha. P: requests until a bad canary
//! is detected. X: further scenarios of both kinds. T: cost. Every run has its own seed, so that
//! each line can be repeated. The judge is the program's own, with its own constants: a scenario
//! chooses only what a plan can choose.

#![expect(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "simulated times and counts are small, and a wrong index should end the simulation"
)]

mod bounds;
mod budgets;
mod errors;
mod full;
mod latencies;
mod power;
mod releases;
mod report;
mod rises;
mod rng;
mod speed;
mod sticky;
mod world;

use report::{Alarm, Args, Power, Report};
use world::{Law, Slower};

fn main() -> std::process::ExitCode {
    let mut report = Report::new(Args::parse());
    equal_versions(&mut report);
    failing_versions(&mut report);
    failing_users(&mut report);
    slow_versions(&mut report);
    whole_releases(&mut report);
    other_equal_versions(&mut report);
    speed::measure(&mut report);
    report.finish()
}

/// A line of the table: id, scenario, runs, accepted probability, the reference implementation's
/// count, one run.
type Equal = (
    &'static str,
    &'static str,
    u64,
    f64,
    &'static str,
    fn(u64) -> bool,
);

fn equal_versions(report: &mut Report) {
    let table: [Equal; 25] = [
        (
            "S18.1",
            "full weight, constant",
            2_000,
            0.01,
            "0",
            full::constant,
        ),
        (
            "S18.2",
            "full weight, drift of 20 %",
            2_000,
            0.01,
            "0",
            full::drifting,
        ),
        (
            "S18.3",
            "steps [100] after 300 requests",
            2_000,
            0.01,
            "0",
            full::at_once,
        ),
        ("S1", "A1 steady", 10_000, 0.01, "38", errors::s1),
        ("S2", "A2 drift and spikes", 4_000, 0.05, "93", errors::s2),
        ("S3", "A5 shared bursts", 4_000, 0.05, "92", errors::s3),
        ("S4", "A6 at the margin", 4_000, 0.05, "73", errors::s4),
        (
            "S5",
            "A7 weights by the evidence",
            10_000,
            0.01,
            "61",
            errors::s5,
        ),
        (
            "S6",
            "A3 one failure in 100,000",
            4_000,
            0.05,
            "83",
            errors::s6,
        ),
        (
            "S7",
            "A9 five requests per second",
            4_000,
            0.05,
            "67",
            errors::s7,
        ),
        (
            "S8",
            "L2 latency, drift and spikes",
            2_000,
            0.05,
            "66",
            latencies::s8,
        ),
        (
            "S9",
            "L5 latency at the margin",
            2_000,
            0.05,
            "53",
            latencies::s9,
        ),
        (
            "S10",
            "whole release, drift and spikes",
            1_000,
            0.05,
            "21",
            releases::s10,
        ),
        ("S11", "fixed limit, at it", 2_000, 0.05, "28", errors::s11),
        (
            "S12",
            "advance test at the harm",
            2_000,
            0.05,
            "58",
            errors::s12,
        ),
        (
            "S13.1",
            "sticky users, some of whom always fail",
            2_000,
            0.05,
            "-",
            sticky::s13_units,
        ),
        (
            "S13.2",
            "retries counted once",
            2_000,
            0.05,
            "-",
            errors::s13_retries,
        ),
        (
            "S13.3",
            "fast failure against timeout",
            2_000,
            0.05,
            "-",
            errors::s13_landmark,
        ),
        (
            "S17.1",
            "sticky units, drift",
            2_000,
            0.05,
            "46",
            sticky::s17,
        ),
        (
            "S17.2",
            "sticky units at the margin",
            2_000,
            0.05,
            "28",
            sticky::s17_boundary,
        ),
        (
            "S19.1",
            "keys assigned twice, then an outage",
            1_000,
            0.05,
            "-",
            rises::one_rise,
        ),
        (
            "S19.2",
            "the same with default margins",
            1_000,
            0.01,
            "-",
            rises::one_rise_with_margins,
        ),
        (
            "S19.3",
            "keys assigned at each rise, then an outage",
            1_000,
            0.05,
            "-",
            rises::each_rise,
        ),
        (
            "S19.4",
            "the same with default margins",
            1_000,
            0.01,
            "-",
            rises::each_rise_with_margins,
        ),
        (
            "S19.5",
            "weights up and down, outages",
            1_000,
            0.05,
            "-",
            rises::up_and_down,
        ),
    ];
    all_equal(report, &table);
}

/// Scenarios beyond the protocol, and other distributions.
fn other_equal_versions(report: &mut Report) {
    let table: [Equal; 13] = [
        (
            "X1",
            "A2b falling drift and spikes",
            4_000,
            0.05,
            "102",
            errors::a2b,
        ),
        (
            "X2",
            "A4 five requests per second, 1 %",
            4_000,
            0.05,
            "82",
            errors::a4,
        ),
        ("X3", "A8 w 10 %, 1 %", 4_000, 0.05, "102", errors::a8),
        (
            "X4",
            "A10 shared outage of 6 minutes",
            4_000,
            0.05,
            "64",
            errors::a10,
        ),
        (
            "X5",
            "latency, bimodal",
            400,
            0.05,
            "13",
            latencies::bimodal,
        ),
        ("X6", "latency, Pareto", 400, 0.05, "-", latencies::pareto),
        (
            "X7",
            "latency, whole milliseconds",
            400,
            0.05,
            "-",
            latencies::whole_ms,
        ),
        (
            "X8",
            "L3 latency, day and spikes",
            400,
            0.05,
            "10",
            latencies::l3,
        ),
        (
            "X9",
            "budget 0, equal arms and final bake, 1 %",
            4_000,
            0.05,
            "44",
            budgets::strict,
        ),
        (
            "X10",
            "budget 20, the same at 10 %",
            4_000,
            0.05,
            "0",
            budgets::usual,
        ),
        (
            "X11",
            "budget 5, a bake as long as the release",
            4_000,
            0.05,
            "-",
            budgets::short,
        ),
        (
            "X12",
            "whole release, default margins",
            1_000,
            0.05,
            "4",
            releases::with_margins,
        ),
        (
            "X13",
            "four canaries, alpha shared",
            2_000,
            0.05,
            "14",
            errors::four,
        ),
    ];
    all_equal(report, &table);
}

fn all_equal(report: &mut Report, table: &[Equal]) {
    for (id, name, runs, alpha, reference, run) in table {
        let bars = Alarm {
            runs: *runs,
            alpha: *alpha,
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
        (
            "P4",
            "0.001 to 0.1 %, w 10 %",
            0.1,
            1e-5,
            1e-3,
            3_870.0,
            4_450.0,
        ),
        (
            "P5",
            "0.1 to 0.2 %, w 10 %",
            0.1,
            1e-3,
            2e-3,
            28_400.0,
            33_000.0,
        ),
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
    report.other(
        "P6",
        "all fail: requests at w .1/1/5/10/25/50 %",
        12,
        || {
            let weights = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5];
            let plain = weights.map(|w| power::fail_fast(w, 1.0, 0.0));
            let margin = weights.map(|w| power::fail_fast(w, 1.1, 5e-4));
            let good = plain == [2, 2, 3, 4, 6, 12] && margin == [2, 2, 3, 4, 7, 13];
            (good, format!("{plain:?} {margin:?}"), "exact".to_owned())
        },
    );
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

fn failing_users(report: &mut Report) {
    for (id, name, weight, reference) in [
        ("P17.1", "keys 0.1 to 10 %, w 10 %: units", 0.1, 76.0),
        ("P17.2", "keys 0.1 to 10 %, w 50 %: units", 0.5, 219.0),
    ] {
        let bars = Power {
            runs: 400,
            reference,
            bar: 1.25 * reference,
        };
        report.power(
            id,
            name,
            &bars,
            |seen| seen.requests,
            |seed| sticky::p17(seed, weight),
        );
    }
    let seed = report.seed();
    report.other("P17.3", "8 keys that fail always: failures", 200, || {
        let most = sticky::FEW_KEYS_BUDGET + 30;
        let failures = report::parallel(200, |i| sticky::few_keys(seed + i));
        let missed = failures
            .iter()
            .filter(|failures| failures.is_none())
            .count();
        let worst = failures.iter().flatten().max().copied().unwrap_or_default();
        (
            missed == 0 && worst <= most,
            format!("{worst} ({missed} not)"),
            format!("<={most}"),
        )
    });
}

fn slow_versions(report: &mut Report) {
    use Law::{Bimodal, Lognormal, Pareto, WholeMs};
    use Slower::{All, Tail};
    let free = f64::INFINITY;
    let cases = [
        (
            "P8.1",
            "all x1.1, w 1 %",
            0.01,
            Lognormal,
            All(0.1),
            836.0,
            960.0,
        ),
        (
            "P8.2",
            "all x1.1, w 10 %",
            0.1,
            Lognormal,
            All(0.1),
            930.0,
            1_070.0,
        ),
        (
            "P9",
            "tail +20 %, w 10 %",
            0.1,
            Lognormal,
            Tail(0.2),
            3_070.0,
            3_550.0,
        ),
        (
            "P10.1",
            "tail +100 %, w 1 %",
            0.01,
            Lognormal,
            Tail(1.0),
            204.0,
            245.0,
        ),
        (
            "P10.2",
            "tail +100 %, w 10 %",
            0.1,
            Lognormal,
            Tail(1.0),
            248.0,
            290.0,
        ),
        (
            "P11.1",
            "all x2, w 1 %",
            0.01,
            Lognormal,
            All(1.0),
            17.0,
            21.0,
        ),
        (
            "P11.2",
            "all x2, w 10 %",
            0.1,
            Lognormal,
            All(1.0),
            19.0,
            23.0,
        ),
        (
            "P11.3",
            "all x10, w 1 %",
            0.01,
            Lognormal,
            All(9.0),
            2.0,
            3.0,
        ),
        (
            "P12.1",
            "bimodal x1.1, w 10 %",
            0.1,
            Bimodal,
            All(0.1),
            396.0,
            460.0,
        ),
        (
            "P12.2",
            "Pareto x1.1, w 10 %",
            0.1,
            Pareto,
            All(0.1),
            90.0,
            105.0,
        ),
        (
            "P12.3",
            "whole milliseconds x1.1, w 10 %",
            0.1,
            WholeMs,
            All(0.1),
            162.0,
            190.0,
        ),
        (
            "P12.4",
            "all x2, w 50 % (no bar)",
            0.5,
            Lognormal,
            All(1.0),
            37.0,
            free,
        ),
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
    full::report(report);
    report.other(
        "P13",
        "healthy release: median seconds to 100 %",
        400,
        || {
            let walk = |i| {
                releases::walk(
                    seed + i,
                    releases::plan(releases::ALPHA, true),
                    releases::HEALTHY,
                    false,
                )
            };
            releases::judge_healthy(&report::parallel(400, walk))
        },
    );
    for (id, name, canary, bar) in releases::bad() {
        report.other(id, &format!("bad release: {name}"), releases::RUNS, || {
            releases::judge_bad(seed, canary, bar, false)
        });
    }
    for (id, name, canary, _) in releases::bad() {
        let id = id.replace("P14", "P14d");
        report.other(
            &id,
            &format!("drift and spikes, bad: {name}"),
            releases::RUNS,
            || releases::judge_bad(seed, canary, f64::INFINITY, true),
        );
    }
}
