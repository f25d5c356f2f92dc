//! Laws of the single tests: the expected gain of a bet, and finite numbers.

use proptest::prelude::*;

use super::super::advance;
use super::super::bins::{BINS, Bins, Slack, WAYS};
use super::super::decaying_histogram::DecayingHistogram;
use super::super::error::{self, Margin};
use super::super::latency::{LatencyGains, LatencyTest, sort};
use super::super::{ArmCounts, Cohort, Inconclusive, Judge, Objective, Options, StepConditions};

/// The expected factor of a bet per request.
fn mean(w: f64, p_c: f64, p_s: f64, (bad, good, stable): (f64, f64, f64)) -> f64 {
    let canary = p_c * bad.exp() + (1.0 - p_c) * good.exp();
    w * canary + (1.0 - w) * (p_s * stable.exp() + 1.0 - p_s)
}

fn weights() -> impl Strategy<Value = f64> {
    prop_oneof![1e-4..0.02_f64, 0.02..0.98_f64, 0.98..0.9999_f64]
}

fn rates() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), 1e-6..1e-2_f64, 0.01..1.0_f64]
}

proptest! {
    #[test]
    fn error_bets_gain_nothing_under_the_null_hypothesis(
        w in weights(), p_s in rates(), ratio in 0.0..3.0_f64, worse_by in 0.0..0.2_f64,
        part in 0.0..1.0_f64,
    ) {
        let boundary = ratio * p_s + worse_by;
        prop_assume!(boundary <= 1.0);
        let table = error::ErrorGains::new(w, Margin { ratio, worse_by });
        for gains in table.gains() {
            let at = mean(w, boundary, p_s, gains);
            prop_assert!((at - 1.0).abs() <= 1e-12, "{at}");
            prop_assert!(mean(w, part * boundary, p_s, gains) <= 1.0 + 1e-12);
        }
    }

    #[test]
    fn advance_bets_gain_nothing_under_the_null_hypothesis(
        w in weights(), p_s in rates(), ratio in 0.5..2.0_f64, worse_by in 0.0..0.2_f64,
        part in 0.0..1.0_f64,
    ) {
        let boundary = ratio * p_s + worse_by;
        prop_assume!(boundary <= 1.0);
        let table = advance::AdvanceGains::new(w, Margin { ratio, worse_by });
        for gains in table.gains() {
            let at = mean(w, boundary, p_s, gains);
            // Relative to the largest gain, which dominates the mean: up to 1e4 at the highest
            // weights.
            let scale = gains.2.exp().max(1.0);
            prop_assert!((at - 1.0).abs() <= 1e-12 * scale, "{at}");
            prop_assert!(
                mean(w, boundary + part * (1.0 - boundary), p_s, gains) <= 1.0 + 1e-12 * scale
            );
        }
    }

    #[test]
    fn latency_factors_balance_in_each_bin(
        w in weights(), raw in prop::array::uniform8(1e-6..50.0_f64),
    ) {
        let mut row = raw;
        for b in 1..BINS {
            row[b] = row[b].max(row[b - 1]);
        }
        for (a, c) in LatencyGains::new(w, &[row]).rows() {
            for b in 0..BINS {
                prop_assert!((w * a[b].exp() + (1.0 - w) * c[b].exp() - 1.0).abs() <= 1e-12);
                prop_assert!(b == 0 || a[b] >= a[b - 1] - 1e-12);
            }
        }
    }

    #[test]
    fn ratios_of_any_past_are_finite_and_monotone(
        answers in prop::collection::vec((0..2_000_000_u64, 1..50_u64), 1..60),
        failures in 0..500_u64,
        worse_by in 0.0..0.5_f64,
    ) {
        let mut past = DecayingHistogram::new();
        past.record(&answers, failures);
        let slack = Slack { worse_by, at_least_us: 1_000.0 * worse_by };
        let epoch = Bins::cut(&past.view().unwrap(), slack);
        for row in &epoch.ratios {
            prop_assert!(row.iter().all(|r| r.is_finite() && *r >= 1e-6));
            prop_assert!(row.is_sorted());
            prop_assert!(row[BINS - 1] >= 1.0, "the slowest bin speaks against the canary");
        }
        prop_assert!(epoch.baseline_edges.is_sorted() && epoch.canary_edges.is_sorted());
        for (canary, baseline) in epoch.canary_edges.iter().zip(&epoch.baseline_edges) {
            let margin = (*baseline as f64 * (1.0 + worse_by)).max(
                *baseline as f64 + slack.at_least_us
            );
            prop_assert!(*canary as f64 >= margin - 1e-6);
        }
    }

    #[test]
    fn cohort_in_parts_gives_the_same_evidence(
        w in weights(),
        pieces in prop::collection::vec((0..500_u64, 0..20_u64, 0..5_000_u64, 0..50_u64), 1..20),
    ) {
        let mut split = judge_of("error_rate");
        let mut whole = judge_of("error_rate");
        let mut sum = (0, 0, 0, 0);
        for (good_c, f_c, good_s, f_s) in &pieces {
            split.observe(&errors(w, (good_c + f_c, *f_c), (good_s + f_s, *f_s)));
            sum = (sum.0 + good_c + f_c, sum.1 + f_c, sum.2 + good_s + f_s, sum.3 + f_s);
        }
        whole.observe(&errors(w, (sum.0, sum.1), (sum.2, sum.3)));
        let (split, whole) = (split.log_e().0, whole.log_e().0);
        prop_assert!((split - whole).abs() <= 1e-9 * whole.abs().max(1.0), "{split} {whole}");
    }

    /// The evidence is computed only when needed; computing it each time must give the same.
    #[test]
    fn lazy_evidence_keeps_the_exact_maximum(
        ticks in prop::collection::vec(
            (0..30_u64, 0..3_u64, 0..300_u64, 0..4_u64, 0..3_usize), 1..120,
        ),
    ) {
        let mut judge = Judge::new(Options { min_canary_failures: u64::MAX, ..Options::default() });
        judge.warm(&[(1_000, 900), (2_000, 900), (3_000, 290), (9_000, 10)], 0);
        let mut highest = 0.0_f64;
        for (i, (good_c, f_c, good_s, f_s, value)) in ticks.iter().enumerate() {
            let slow = [(900, *good_c), (2_500, *good_c), (12_000, *good_c)];
            let arm = |good, f, pairs| ArmCounts {
                latency_us: Some(pairs), ..ArmCounts::of(good + f, f)
            };
            let (canary, baseline) = (
                arm(*good_c, *f_c, &slow[*value..=*value]), [(1_500, *good_s)],
            );
            judge.observe(
                &Cohort {
                    at_ms: i as u64 * 700, weight: 0.05, canary,
                    baseline: arm(*good_s, *f_s, &baseline),
                }
            );
            let (now, most) = judge.log_e();
            highest = highest.max(now);
            prop_assert!((most - highest).abs() < 1e-5, "{most} {highest}");
        }
    }

    #[test]
    fn evidence_stays_finite_for_extreme_input(
        w in prop_oneof![Just(0.0), Just(1.0), Just(1e-4), Just(0.9999), 0.0..1.0_f64],
        n_c in prop_oneof![Just(0), Just(1_000_000_000), 0..10_000_u64],
        n_s in prop_oneof![Just(0), Just(1_000_000_000), 0..10_000_u64],
        part_c in 0.0..=1.0_f64, part_s in 0.0..=1.0_f64, latency in 0..10_000_000_000_u64,
    ) {
        let mut judge = Judge::new(Options::default());
        judge.warm(&[(5_000, 3_000), (5_001, 1)], 10);
        let (f_c, f_s) = ((n_c as f64 * part_c) as u64, (n_s as f64 * part_s) as u64);
        let (pairs_c, pairs_s) = ([(latency, n_c - f_c)], [(5_000, n_s - f_s)]);
        let arm = |n, f, pairs| ArmCounts { latency_us: Some(pairs), ..ArmCounts::of(n, f) };
        for tick in 0..40 {
            let (canary, baseline) = (arm(n_c, f_c, &pairs_c), arm(n_s, f_s, &pairs_s));
            judge.observe(&Cohort { at_ms: tick * 4_000, weight: w, baseline, canary });
        }
        let (now, most) = judge.log_e();
        prop_assert!(now.is_finite() && most.is_finite());
        if w == 0.0 {
            prop_assert!(
                now.abs() + most.abs() < 1e-9, "without a comparison there is no evidence",
            );
        }
        let json = serde_json::to_string(&judge.evidence()).unwrap();
        prop_assert!(!json.contains("null"), "{}", json);
    }
}

/// A tick, a hundred per second in a live release, must not allocate.
#[test]
fn tick_does_not_allocate() {
    let mut judge = Judge::new(Options {
        alpha: 1e-12,
        ..Options::default()
    });
    judge.warm(&[(1_000, 900), (2_000, 900), (3_000, 290), (9_000, 10)], 3);
    let step = StepConditions {
        weight: 0.05,
        next_weight: 0.25,
        min_ms: 0,
        min_requests: 0,
        max_ms: None,
        inconclusive: Inconclusive::Hold,
    };
    judge.begin_step(0, step);
    let pairs: Vec<(u64, u64)> = (1..40).map(|i| (i * 250, 1)).collect();
    let mut tick = |at_ms| {
        let arm = |requests| ArmCounts {
            latency_us: Some(&pairs),
            ..ArmCounts::of(requests, 1)
        };
        judge.observe(&Cohort {
            at_ms,
            weight: 0.05,
            canary: arm(50),
            baseline: arm(950),
        });
        judge.verdict(at_ms)
    };
    tick(0);
    // Over a minute: bins are rebuilt and wealth is redistributed meanwhile.
    let allocations = allocation_counter::measure(|| {
        for second in 1..70 {
            tick(second * 1_000);
        }
    });
    assert_eq!(allocations.count_total, 0);
}

#[test]
fn equal_edges_leave_bins_empty() {
    let mut past = DecayingHistogram::new();
    past.record(&[(7_000, 10_000)], 0);
    let none = Slack {
        worse_by: 0.0,
        at_least_us: 0.0,
    };
    let epoch = Bins::cut(&past.view().unwrap(), none);
    assert!(
        epoch
            .baseline_edges
            .iter()
            .all(|edge| *edge == epoch.baseline_edges[0])
    );
    let slow = sort(
        &ArmCounts::of(2, 0),
        &[(7_000, 1), (9_000, 1)],
        &epoch.canary_edges,
    );
    assert_eq!(slow, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let mut test = LatencyTest::new(none);
    test.warm(&[(7_000, 10_000)], 0);
    assert!(test.recut(0));
    test.score(0.1, &slow, &[9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0);
    assert!(test.log_e(true).is_finite() && test.log_e(true) > 0.0);
}

#[test]
fn fastest_bin_is_evidence_for_the_canary() {
    let mut past = DecayingHistogram::new();
    let answers: Vec<(u64, u64)> = (1..1_000).map(|i| (i * 100, 5)).collect();
    past.record(&answers, 0);
    let epoch = Bins::cut(
        &past.view().unwrap(),
        Slack {
            worse_by: 0.0,
            at_least_us: 0.0,
        },
    );
    assert_eq!(epoch.ratios.len(), WAYS);
    for (a, _) in LatencyGains::new(0.1, &epoch.ratios).rows() {
        assert!(
            a[0] <= 1e-12,
            "the fastest bin speaks for the canary: {a:?}"
        );
    }
}

pub(super) fn errors(weight: f64, canary: (u64, u64), baseline: (u64, u64)) -> Cohort<'static> {
    Cohort {
        at_ms: 0,
        weight,
        baseline: ArmCounts::of(baseline.0, baseline.1),
        canary: ArmCounts::of(canary.0, canary.1),
    }
}

pub(super) fn judge_of(objective: &str) -> Judge {
    let objectives: Vec<Objective> =
        serde_json::from_str(&format!(r#"[{{"{objective}": {{}}}}]"#)).unwrap();
    Judge::new(Options {
        objectives,
        ..Options::default()
    })
}
