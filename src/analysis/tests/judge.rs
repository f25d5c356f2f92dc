//! Laws of the judge as a whole: steps, weights, fixed limits, checkpoints, and evidence that can
//! be recomputed.

use super::super::{
    ArmCounts, Behind, Cause, Cohort, Inconclusive, Judge, Objective, Options, Slo, StepConditions,
    Verdict, WaitReason,
};
use super::laws::{errors, judge_of};

const STEP: StepConditions = StepConditions {
    weight: 0.05,
    next_weight: 0.25,
    min_ms: 5_000,
    min_requests: 100,
    max_ms: None,
    inconclusive: Inconclusive::Hold,
};

fn options(objectives: &str) -> Options {
    Options {
        objectives: serde_json::from_str(objectives).unwrap(),
        min_canary_failures: 0,
        ..Options::default()
    }
}

fn at(at_ms: u64, cohort: Cohort<'static>) -> Cohort<'static> {
    Cohort { at_ms, ..cohort }
}

/// Consecutive failing canary requests until the rollback, without a failure of the baseline.
fn fatal_failures(objectives: &str, weight: f64, min_canary_failures: u64) -> u64 {
    let mut judge = Judge::new(Options {
        min_canary_failures,
        ..options(objectives)
    });
    judge.warm(&[(1_000, 900), (2_000, 900), (3_000, 290), (9_000, 10)], 0);
    judge.begin_step(0, StepConditions { weight, ..STEP });
    for failures in 1.. {
        let canary = ArmCounts {
            latency_us: Some(&[]),
            ..ArmCounts::of(1, 1)
        };
        judge.observe(&Cohort {
            at_ms: failures,
            weight,
            canary,
            ..Cohort::default()
        });
        if judge.verdict(failures) == Verdict::RollBack(Cause::ErrorRate) {
            return failures;
        }
        assert_eq!(judge.verdict(failures), Verdict::Continue);
    }
    unreachable!()
}

#[test]
fn failing_canary_is_rolled_back_after_the_expected_count() {
    let plain = r#"[{"error_rate": {"ratio": 1, "worse_by": "0pp"}}]"#;
    let margin = r#"[{"error_rate": {}}]"#;
    let weights = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5];
    assert_eq!(
        weights.map(|w| fatal_failures(plain, w, 0)),
        [2, 2, 3, 4, 6, 12]
    );
    assert_eq!(
        weights.map(|w| fatal_failures(margin, w, 0)),
        [2, 2, 3, 4, 7, 13]
    );
    assert_eq!(fatal_failures(margin, 0.01, 5), 5, "the guard only delays");
}

#[test]
fn too_few_failures_do_not_roll_back_through_latency() {
    let both = r#"[{"error_rate": {}}, {"latency": {}}]"#;
    assert_eq!(fatal_failures(both, 0.01, 5), 5);
}

/// The cause of the rollback of a canary with `per_tick` requests per tick, of which `failing` fail
/// and the others have `latency_us`; the baseline is unchanged and fails one request in a hundred.
fn rollback_cause(weight: f64, per_tick: u64, failing: u64, latency_us: [u64; 4]) -> Cause {
    let mut judge = Judge::new(Options::default());
    judge.warm(&[(1_000, 900), (2_000, 900), (3_000, 290), (9_000, 10)], 0);
    judge.begin_step(0, StepConditions { weight, ..STEP });
    let [fast, usual, slow, slowest] = latency_us;
    let parts = |requests: f64| {
        [0.43, 0.43, 0.135, 0.005].map(|part| (requests * part * 200.0).round() as u64)
    };
    for tick in 1..20_000 {
        // Two hundred ticks in one, so that the rarest response has an integer count.
        let of_baseline = (per_tick as f64 * (1.0 - weight) / weight).round();
        let (a, c) = (
            parts(of_baseline * 0.99),
            parts((per_tick - failing) as f64),
        );
        let baseline = [(1_000, a[0]), (2_000, a[1]), (3_000, a[2]), (9_000, a[3])];
        let canary = [(fast, c[0]), (usual, c[1]), (slow, c[2]), (slowest, c[3])];
        let arm = |latency_us, failures| ArmCounts {
            latency_us: Some(latency_us),
            ..ArmCounts::of(
                failures + latency_us.iter().map(|(_, count)| count).sum::<u64>(),
                failures,
            )
        };
        judge.observe(&Cohort {
            at_ms: tick * 10,
            weight,
            canary: arm(&canary, 200 * failing),
            baseline: arm(&baseline, (2.0 * of_baseline).round() as u64),
        });
        if let Verdict::RollBack(cause) = judge.verdict(tick * 10) {
            return cause;
        }
    }
    panic!("never condemned")
}

#[test]
fn cause_names_the_stronger_objective() {
    let as_ever = [1_000, 2_000, 3_000, 9_000];
    let slow = [3_000, 6_000, 9_000, 27_000];
    for weight in [0.01, 0.05, 0.25, 0.5, 0.9] {
        assert_eq!(
            rollback_cause(weight, 10, 10, as_ever),
            Cause::ErrorRate,
            "all fail at {weight}"
        );
        assert_eq!(
            rollback_cause(weight, 10, 5, as_ever),
            Cause::ErrorRate,
            "half fail at {weight}"
        );
        assert_eq!(
            rollback_cause(weight, 10, 0, slow),
            Cause::Latency,
            "slow at {weight}"
        );
        assert_eq!(
            rollback_cause(weight, 100, 1, slow),
            Cause::Latency,
            "slow, and fails as the baseline at {weight}"
        );
        // Slow and failing: the stronger names the cause, which is errors when most responses are
        // 500 and latency when few are.
        assert_eq!(
            rollback_cause(weight, 10, 9, slow),
            Cause::ErrorRate,
            "slow and failing at {weight}"
        );
        assert_eq!(
            rollback_cause(weight, 100, 2, slow),
            Cause::Latency,
            "slow and failing a little at {weight}"
        );
    }
}

#[test]
fn too_few_failing_clients_delay_the_rollback() {
    let mut judge = Judge::new(Options {
        min_distinct_clients: 3,
        ..options(r#"[{"error_rate": {}}]"#)
    });
    let one_client = |failing_clients| ArmCounts {
        failing_clients: Some(failing_clients),
        ..ArmCounts::of(10, 10)
    };
    let cohort = |clients| Cohort {
        at_ms: 0,
        weight: 0.01,
        canary: one_client(clients),
        ..Cohort::default()
    };
    judge.observe(&cohort(1));
    assert_eq!(judge.verdict(0), Verdict::Continue);
    judge.observe(&cohort(2));
    assert_eq!(judge.verdict(0), Verdict::RollBack(Cause::ErrorRate));
}

#[test]
fn late_cohort_is_scored_with_its_own_weight() {
    let mut late = judge_of("error_rate");
    late.observe(&errors(0.01, (10, 1), (990, 1)));
    late.observe(&errors(0.25, (250, 1), (750, 1)));
    late.observe(&errors(0.01, (10, 2), (990, 0)));
    let mut early = judge_of("error_rate");
    early.observe(&errors(0.01, (20, 3), (1_980, 1)));
    early.observe(&errors(0.25, (250, 1), (750, 1)));
    assert!((late.log_e().0 - early.log_e().0).abs() < 1e-9);
}

#[test]
fn step_passes_with_evidence_time_and_requests() {
    let mut judge = Judge::new(options(r#"[{"error_rate": {}}]"#));
    judge.begin_step(0, STEP);
    judge.observe(&at(4_000, errors(0.05, (2_000, 0), (38_000, 0))));
    assert_eq!(judge.verdict(4_999), Verdict::Continue, "too early");
    assert_eq!(judge.verdict(5_000), Verdict::Advance);
    judge.begin_step(
        5_000,
        StepConditions {
            weight: 0.25,
            next_weight: 0.5,
            ..STEP
        },
    );
    assert_eq!(judge.verdict(60_000), Verdict::Continue);
    judge.observe(&at(61_000, errors(0.05, (5_000, 0), (95_000, 0))));
    assert_eq!(
        judge.verdict(61_000),
        Verdict::Continue,
        "the old weight proves nothing of the new"
    );
    judge.observe(&at(62_000, errors(0.25, (5_000, 0), (15_000, 0))));
    assert_eq!(judge.verdict(62_000), Verdict::Advance);
}

#[test]
fn missing_baseline_latency_blocks_advancing() {
    let mut judge = Judge::new(Options::default());
    judge.begin_step(0, STEP);
    judge.observe(&at(4_000, errors(0.05, (2_000, 0), (38_000, 0))));
    assert_eq!(judge.verdict(10_000), Verdict::Continue);
}

#[test]
fn inconclusive_step_follows_the_plan() {
    let after = |inconclusive, requests| {
        let mut judge = Judge::new(options(r#"[{"error_rate": {}}]"#));
        judge.begin_step(
            0,
            StepConditions {
                max_ms: Some(60_000),
                inconclusive,
                ..STEP
            },
        );
        judge.observe(&at(59_000, errors(0.05, (requests, 0), (requests * 19, 0))));
        assert_eq!(judge.verdict(59_999), Verdict::Continue);
        judge.verdict(60_000)
    };
    assert_eq!(
        after(Inconclusive::Hold, 110),
        Verdict::Hold(WaitReason::Inconclusive)
    );
    assert_eq!(
        after(Inconclusive::Hold, 10),
        Verdict::Hold(WaitReason::TooLittleTraffic)
    );
    assert_eq!(after(Inconclusive::Advance, 110), Verdict::Advance);
    assert_eq!(
        after(Inconclusive::Advance, 10),
        Verdict::Hold(WaitReason::TooLittleTraffic)
    );
    assert_eq!(
        after(Inconclusive::RollBack, 10),
        Verdict::RollBack(Cause::Inconclusive)
    );
}

#[test]
fn slo_exceeded_by_both_arms_holds_and_by_the_canary_rolls_back() {
    let slo = Options {
        objectives: vec![Objective::Slo(Slo::ErrorRate { below: 0.01 })],
        ..Options::default()
    };
    let mut shared = Judge::new(slo.clone());
    shared.observe(&errors(0.05, (50, 1), (950, 100)));
    shared.observe(&errors(0.05, (500, 50), (9_500, 1_000)));
    assert_eq!(shared.verdict(0), Verdict::Hold(WaitReason::Slo));
    let mut alone = Judge::new(slo.clone());
    alone.observe(&errors(0.05, (500, 50), (9_500, 10)));
    assert_eq!(alone.verdict(0), Verdict::RollBack(Cause::Slo));
    let mut without_baseline = Judge::new(slo);
    without_baseline.observe(&errors(1.0, (500, 50), (0, 0)));
    assert_eq!(without_baseline.verdict(0), Verdict::RollBack(Cause::Slo));
}

#[test]
fn latency_slo_detects_a_slow_quantile() {
    let mut judge = Judge::new(options(
        r#"[{"slo": {"latency": {"quantile": 0.99, "below": "300ms"}}}]"#,
    ));
    let arm = |pairs| ArmCounts {
        latency_us: Some(pairs),
        ..ArmCounts::of(100, 0)
    };
    let (canary, baseline) = (arm(&[(299_000, 50), (301_000, 50)]), arm(&[(200_000, 100)]));
    judge.observe(&Cohort {
        at_ms: 0,
        weight: 0.5,
        baseline,
        canary,
    });
    assert_eq!(judge.verdict(0), Verdict::RollBack(Cause::Slo));
}

#[test]
fn sample_ratio_mismatch_holds() {
    let mut judge = Judge::new(options(r#"[{"error_rate": {}}]"#));
    judge.begin_step(0, STEP);
    for second in 0..10 {
        judge.observe(&at(second * 1_000, errors(0.05, (1_000, 0), (9_000, 0))));
    }
    assert_eq!(judge.verdict(10_000), Verdict::Hold(WaitReason::Split));
}

#[test]
fn rollback_verdict_is_final() {
    let mut judge = Judge::new(options(r#"[{"error_rate": {}}]"#));
    judge.observe(&errors(0.01, (10, 10), (990, 0)));
    assert_eq!(judge.verdict(0), Verdict::RollBack(Cause::ErrorRate));
    judge.observe(&errors(0.01, (100_000, 0), (9_900_000, 5_000_000)));
    judge.begin_step(1_000, STEP);
    assert_eq!(judge.verdict(100_000), Verdict::RollBack(Cause::ErrorRate));
}

#[test]
fn judge_resumes_from_a_checkpoint() {
    let pairs: Vec<(u64, u64)> = (1..40).map(|i| (i * 700, 3)).collect();
    let cohort = |tick: u64, weight| {
        let arm = |requests, failures| ArmCounts {
            latency_us: Some(&pairs),
            ..ArmCounts::of(requests, failures)
        };
        Cohort {
            at_ms: tick * 500,
            weight,
            baseline: arm(200, u64::from(tick.is_multiple_of(9))),
            canary: arm(130, 1),
        }
    };
    let mut whole = Judge::new(Options::default());
    whole.begin_step(0, STEP);
    let mut resumed = whole.clone();
    for tick in 0..200 {
        let weight = if tick < 90 { 0.05 } else { 0.25 };
        whole.observe(&cohort(tick, weight));
        resumed.observe(&cohort(tick, weight));
        if tick % 10 == 0 {
            let checkpoint = serde_json::to_string(&resumed).unwrap();
            assert!(checkpoint.len() < 24_000, "{}", checkpoint.len());
            resumed = serde_json::from_str(&checkpoint).unwrap();
        }
        assert!((whole.log_e().0 - resumed.log_e().0).abs() < 1e-9);
        assert_eq!(whole.verdict(tick * 500), resumed.verdict(tick * 500));
    }
    assert!((whole.log_e().1 - resumed.log_e().1).abs() < 1e-9);
}

#[test]
fn evidence_is_recomputed_from_its_counts() {
    let pairs = [(900, 10), (1_500, 9), (2_500, 8), (6_000, 2)];
    let mut judge = Judge::new(Options {
        min_canary_failures: u64::MAX,
        ..Options::default()
    });
    judge.warm(&[(1_000, 1_000), (2_000, 900), (5_000, 90), (8_000, 10)], 2);
    judge.begin_step(0, STEP);
    for tick in 0..12_000_u64 {
        let weight = [0.05, 0.1, 0.25][usize::try_from(tick / 100 % 3).unwrap()];
        let canary = ArmCounts {
            latency_us: Some(&pairs),
            ..ArmCounts::of(30, u64::from(tick.is_multiple_of(50)))
        };
        let baseline = ArmCounts {
            latency_us: Some(&pairs),
            ..ArmCounts::of(31, u64::from(tick.is_multiple_of(40)))
        };
        judge.observe(&Cohort {
            at_ms: tick * 170,
            weight,
            baseline,
            canary,
        });
        if tick % 1_111 == 0 {
            let evidence = judge.evidence();
            let json = serde_json::to_string(&evidence).unwrap();
            assert_eq!(
                serde_json::from_str::<super::super::Evidence>(&json)
                    .unwrap()
                    .canary,
                evidence.canary
            );
            for objective in &evidence.objectives {
                let recomputed = objective.recompute().unwrap();
                let reported = objective.log_e;
                assert!(
                    (recomputed - reported).abs() < 1e-9 * reported.abs().max(1.0),
                    "{tick}: {recomputed} {reported}"
                );
            }
        }
    }
}

#[test]
fn confidence_sequence_covers_the_truth_and_narrows() {
    let mut judge = Judge::new(options(
        r#"[{"error_rate": {"ratio": 1, "worse_by": "5pp"}}]"#,
    ));
    let mut width = f64::INFINITY;
    for weight in [0.05, 0.1, 0.25, 0.5] {
        let (n_c, n_s) = (
            (weight * 100_000.0) as u64,
            ((1.0 - weight) * 100_000.0) as u64,
        );
        judge.observe(&errors(weight, (n_c, n_c * 3 / 100), (n_s, n_s / 100)));
        let evidence = judge.evidence();
        let Behind::ErrorRate {
            estimate,
            confidence,
            ..
        } = &evidence.objectives[0].counts
        else {
            panic!()
        };
        let interval = confidence.unwrap();
        assert!(
            interval.lower < 0.02 && 0.02 < interval.upper,
            "{interval:?}"
        );
        assert!((estimate.unwrap() - 0.02).abs() < 1e-3);
        assert!(interval.upper - interval.lower < width);
        width = interval.upper - interval.lower;
    }
    assert!(width < 0.005, "{width}");
}

#[test]
fn all_problems_of_the_options_are_reported() {
    assert!(Options::default().problems().is_empty());
    let wrong = Options {
        alpha: 0.0,
        harm_budget: 2.0,
        ..options(
            r#"[
                {"error_rate": {}},
                {"error_rate": {"ratio": 0}},
                {"slo": {"error_rate": {"below": 0}}}
            ]"#,
        )
    };
    assert_eq!(wrong.problems().len(), 5, "{:?}", wrong.problems());
}

#[test]
fn retries_and_concurrent_canaries_get_less_alpha() {
    let alpha = |attempt, canaries| Options::default().for_attempt(attempt, canaries).alpha;
    assert!((alpha(1, 1) - 1e-3).abs() < 1e-15);
    assert!((alpha(2, 1) - 1e-3 / 6.0).abs() < 1e-15);
    assert!((alpha(3, 2) - 1e-3 / 24.0).abs() < 1e-15);
}

/// The verdict of each second at full weight, with 15 requests a second of which every `nth` fails,
/// after 105 requests of the baseline of which `failed` failed.
fn low_traffic(nth: u64, failed: u64, policy: Inconclusive) -> Vec<Verdict> {
    let mut judge = Judge::new(options(r#"[{"error_rate": {}}]"#));
    judge.observe(&errors(0.0, (0, 0), (105, failed)));
    let step = StepConditions {
        weight: 1.0,
        next_weight: 1.0,
        min_ms: 4_000,
        min_requests: 20,
        max_ms: Some(20_000),
        inconclusive: policy,
    };
    judge.begin_step(0, step);
    let second = |second: u64| {
        let before = (second - 1) * 15;
        let failures = (before + 1..=before + 15).filter(|n| n % nth == 0).count() as u64;
        judge.observe(&at(second * 1_000, errors(1.0, (15, failures), (0, 0))));
        judge.verdict(second * 1_000)
    };
    (1..=30).map(second).collect()
}

fn second_of(verdicts: &[Verdict], verdict: Verdict) -> Option<usize> {
    verdicts.iter().position(|v| *v == verdict).map(|at| at + 1)
}

#[test]
fn low_traffic_does_not_promote_a_canary_that_fails_more_often_than_before() {
    let inconclusive = Verdict::Hold(WaitReason::Inconclusive);
    for (nth, failed) in [(7, 0), (10, 0), (8, 1), (7, 3)] {
        for policy in [Inconclusive::Hold, Inconclusive::Advance] {
            let verdicts = low_traffic(nth, failed, policy);
            let case = format!("one in {nth} after {failed} of 105, {policy:?}");
            assert_eq!(second_of(&verdicts, Verdict::Advance), None, "{case}");
            assert_eq!(second_of(&verdicts, inconclusive), Some(20), "{case}");
        }
    }
}

#[test]
fn low_traffic_promotes_a_canary_that_fails_as_often_as_before() {
    // Without a failure, or with a rate that the baseline had, after the minimum duration; a single
    // failure more than before needs the evidence of some 80 requests.
    for (nth, failed, at_most) in [(10_000, 0, 4), (30, 4, 4), (50, 0, 6), (33, 0, 10)] {
        let advanced = second_of(
            &low_traffic(nth, failed, Inconclusive::Hold),
            Verdict::Advance,
        );
        assert!(
            advanced.is_some_and(|second| (4..=at_most).contains(&second)),
            "one in {nth} after {failed} of 105: {advanced:?}"
        );
    }
}

#[test]
fn repeated_failures_of_a_key_count_against_promotion_at_full_weight() {
    let mut judge = Judge::new(options(r#"[{"error_rate": {}}]"#));
    judge.observe(&errors(0.0, (0, 0), (2_000, 20)));
    let mut cohort = errors(1.0, (1_040, 52), (0, 0));
    // Every key has failed at an earlier step.
    cohort.canary.units = Some(&[]);
    judge.observe(&cohort);
    let evidence = judge.full_weight_evidence().unwrap();
    assert_eq!(evidence.canary.failures, 52);
    assert!(!evidence.passes);
}
