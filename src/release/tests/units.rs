//! Sticky releases: the laws of units, and recordings of them.

use crate::analysis::{
    ArmCounts, Cohort, Inconclusive, Judge, Objective, Options, StepConditions, Unit, Verdict,
};
use crate::release::replay::{Replay, RunOutcome, RunResult};

fn unit(weight: f64, begun: u64, failed: u64) -> Unit {
    Unit {
        weight,
        begun,
        failed,
    }
}

fn judge() -> Judge {
    let mut judge = Judge::new(Options {
        objectives: vec![Objective::ErrorRate(crate::analysis::ErrorRateMargin {
            ratio: 1.1,
            worse_by: 5e-4,
        })],
        min_canary_failures: 5,
        ..Options::default()
    });
    judge.begin_step(0, step(0.05));
    judge
}

fn step(weight: f64) -> StepConditions {
    StepConditions {
        weight,
        next_weight: 0.25,
        min_ms: 1_000,
        min_requests: 10,
        max_ms: None,
        inconclusive: Inconclusive::Hold,
    }
}

/// A cohort of many requests with these units.
fn cohort<'a>(at_ms: u64, canary: &'a [Unit], baseline: &'a [Unit]) -> Cohort<'a> {
    let arm = |units| ArmCounts {
        units: Some(units),
        ..ArmCounts::of(1_000, 100)
    };
    Cohort {
        at_ms,
        weight: 0.05,
        baseline: arm(baseline),
        canary: arm(canary),
    }
}

#[test]
fn units_give_the_evidence_of_requests_with_their_probability() {
    let (mut by_units, mut by_requests) = (judge(), judge());
    by_units.observe(&cohort(
        10,
        &[unit(0.05, 40, 0), unit(0.2, 9, 1)],
        &[unit(0.05, 700, 0)],
    ));
    by_units.observe(&cohort(
        20,
        &[unit(0.05, 0, 3)],
        &[unit(0.05, 20, 2), unit(0.2, 0, 4)],
    ));
    let mut requests = |weight, canary: (u64, u64), baseline: (u64, u64)| {
        by_requests.observe(&Cohort {
            at_ms: 20,
            weight,
            canary: ArmCounts::of(canary.0, canary.1),
            baseline: ArmCounts::of(baseline.0, baseline.1),
        });
    };
    requests(0.05, (40, 3), (720, 2));
    requests(0.2, (9, 1), (100, 4));
    assert!((by_units.log_e().0 - by_requests.log_e().0).abs() < 1e-12);
}

#[test]
fn expected_gain_of_one_unit_at_the_margin_is_one() {
    let (ratio, worse_by) = (1.1, 5e-4);
    for weight in [0.05, 0.2 / 0.95, 0.5, 0.9] {
        for p_s in [0.0, 1e-3, 0.3] {
            let after = |canary: &[Unit], baseline: &[Unit]| {
                let mut judge = judge();
                judge.observe(&cohort(10, canary, baseline));
                judge.log_e().0.exp()
            };
            let p_c: f64 = ratio * p_s + worse_by;
            let canary = p_c * after(&[unit(weight, 1, 1)], &[])
                + (1.0 - p_c) * after(&[unit(weight, 1, 0)], &[]);
            let baseline = p_s * after(&[], &[unit(weight, 1, 1)])
                + (1.0 - p_s) * after(&[], &[unit(weight, 1, 0)]);
            let mean = weight * canary + (1.0 - weight) * baseline;
            assert!((mean - 1.0).abs() < 1e-12, "{weight} {p_s}: {mean}");
        }
    }
}

#[test]
fn evidence_of_units_is_recomputed() {
    let mut judge = judge();
    for at in 0..2_000 {
        let canary = [
            unit(0.05, 2, u64::from(at % 9 == 0)),
            unit(0.2 / 0.95, at % 2, 0),
        ];
        judge.observe(&cohort(
            at * 100,
            &canary,
            &[unit(0.05, 30, u64::from(at % 7 == 0))],
        ));
    }
    let evidence = judge.evidence();
    let objective = &evidence.objectives[0];
    assert!((objective.recompute().unwrap() - objective.log_e).abs() < 1e-6);
    let units = evidence.units.unwrap();
    assert_eq!(
        (units.canary.requests, units.baseline.requests),
        (5_000, 60_000)
    );
    assert_eq!(
        evidence.canary.requests, 2_000_000,
        "requests are counted beside"
    );
}

#[test]
fn minimum_failures_count_keys() {
    let mut judge = judge();
    judge.observe(&cohort(10, &[unit(0.05, 4, 4)], &[]));
    assert!(judge.log_e().0 > 6.9, "evidence enough, of four users");
    assert_eq!(judge.verdict(10), Verdict::Continue);
    judge.observe(&cohort(20, &[unit(0.05, 1, 1)], &[]));
    assert!(matches!(judge.verdict(20), Verdict::RollBack(_)));
}

#[test]
fn step_passes_with_matured_units_of_the_step() {
    let mut judge = judge();
    for at in 1..=20 {
        judge.observe(&cohort(
            at * 100,
            &[unit(0.05, 100, 0)],
            &[unit(0.05, 1_900, 0)],
        ));
    }
    assert_eq!(
        judge.verdict(2_000),
        Verdict::Continue,
        "none is old enough"
    );
    judge.mature(2_000, 0.01, &[unit(0.01, 2_000, 0)], &[]);
    assert_eq!(
        judge.verdict(2_000),
        Verdict::Continue,
        "these began before it"
    );
    judge.mature(
        2_000,
        0.05,
        &[unit(0.05, 2_000, 0)],
        &[unit(0.05, 38_000, 0)],
    );
    assert_eq!(judge.verdict(2_000), Verdict::Advance);
}

#[test]
fn sample_ratio_test_counts_units() {
    let mut judge = judge();
    for at in 0..100 {
        judge.observe(&cohort(at, &[unit(0.05, 50, 0)], &[unit(0.05, 950, 0)]));
    }
    assert_eq!(
        judge.verdict(100),
        Verdict::Continue,
        "though as many requests on both sides"
    );
    for at in 100..200 {
        judge.observe(&cohort(at, &[unit(0.05, 60, 0)], &[unit(0.05, 940, 0)]));
    }
    assert!(matches!(judge.verdict(200), Verdict::Hold(_)));
}

const PLAN: &str = r#"{"run": "r", "plan": {"steps": [50], "bake": "1s", "final_bake": "0s",
 "min_requests": 0, "harm_budget": "20pp",
 "min_canary_failures": 0, "objectives": [{"error_rate": {"worse_by": "0.05pp"}}]}"#;

fn answer(lines: &[String], run: &str) -> RunResult {
    let mut replay = Replay::default();
    let plan = PLAN.replace('\n', "") + run + "}";
    for line in std::iter::once(&plan).chain(lines) {
        replay.line(line).unwrap();
    }
    replay.finish().unwrap()
}

fn line(at_ms: u64, canary: &str, baseline: &str) -> String {
    let arm = |units: &str| {
        format!(r#"{{"requests": 500, "failures": 20, "visible_failures": 0, "units": {units}}}"#)
    };
    format!(
        r#"{{"at_ms": {at_ms}, "weight": 50, "canary": {}, "baseline": {}}}"#,
        arm(canary),
        arm(baseline)
    )
}

#[test]
fn recording_with_units_is_judged_by_units() {
    let bad: Vec<String> = (0..20)
        .map(|at| line(at * 10, "[[0.5, 10, 5, {}]]", "[[0.5, 10, 0, {}]]"))
        .collect();
    let found = answer(&bad, "");
    assert_eq!(
        (found.verdict, found.objective),
        (RunOutcome::RolledBack, Some("error_rate"))
    );
    let good: Vec<String> = (0..150)
        .map(|at| {
            line(
                at * 10,
                "[[0.5, 10, 0, {\"missing\": 3}]]",
                "[[0.5, 10, 0]]",
            )
        })
        .collect();
    let found = answer(&good, "");
    assert_eq!(
        found.verdict,
        RunOutcome::Promoted,
        "though 4 % of the requests of both fail"
    );
    assert!(
        found.at_ms > 1_000,
        "no unit counts before it is as old as bake"
    );
}

#[test]
fn recorded_ages_decide_when_units_count() {
    let good: Vec<String> = (0..150)
        .map(|at| line(at * 10, "[[0.5, 10, 0]]", "[[0.5, 10, 0]]"))
        .collect();
    assert_eq!(
        answer(&good, r#", "recorded_ages": true"#).verdict,
        RunOutcome::None
    );
    let matured = r#"{"at_ms": 1500, "weight": 50,
        "matured": {"canary": [[0.5, 900, 0]], "baseline": [[0.5, 900, 0]]}}"#;
    let lines: Vec<String> = good.into_iter().chain([matured.to_owned()]).collect();
    let found = answer(&lines, r#", "recorded_ages": true"#);
    assert_eq!((found.verdict, found.at_ms), (RunOutcome::Promoted, 1_500));
}

#[test]
fn invalid_units_are_rejected_with_a_message() {
    let cases = [
        (
            "[[5, 10, 0]]",
            "the probability of a unit is 5; expected more than 0 and at most 1, such as 0.05 \
             for 5 percent",
        ),
        (
            "[[0.5, 501, 0]]",
            "an arm has 501 units that began but 500 requests",
        ),
        (
            "[[0.5, 30, 41]]",
            "an arm has 41 failed units with the probability 0.5, but both arms have 40 failures",
        ),
        (
            "[[0.5, 3]]",
            "expected units as `[w_u, begun, failed]` or `[w_u, begun, failed, {kinds}]`",
        ),
        ("[[0.5, 3, 1, 7]]", "expected a map"),
    ];
    // Every failure is one of a key that was assigned twice.
    let twice = line(10, "[]", "[[0.5, 0, 40], [0.2, 0, 40]]");
    assert_eq!(answer(&[twice], "").verdict, RunOutcome::None);
    for (units, problem) in cases {
        let mut replay = Replay::default();
        replay.line(&(PLAN.replace('\n', "") + "}")).unwrap();
        let error = replay.line(&line(10, units, "[]")).unwrap_err().to_string();
        assert!(
            error.starts_with("line 2: ") && error.contains(problem),
            "{error}"
        );
    }
}
