//! Recorded runs: the format of STATISTICS.md 7.

use super::super::replay::{Answer, Outcome, Plan, Replay};

fn answers(input: &str) -> Vec<Answer> {
    let mut replay = Replay::default();
    let lines: Vec<_> = input.lines().map(|line| replay.line(line).unwrap()).collect();
    lines.into_iter().chain([replay.finish()]).flatten().collect()
}

fn cohort(at_ms: u64, weight: f64, canary: (u64, u64), baseline: (u64, u64)) -> String {
    let arm = |(requests, failures): (u64, u64)| format!(r#"{{"requests": {requests}, "failures": {failures}}}"#);
    let (canary, baseline) = (arm(canary), arm(baseline));
    format!(r#"{{"at_ms": {at_ms}, "weight": {weight}, "baseline": {baseline}, "canary": {canary}}}"#)
}

const ERRORS: &str = r#""objectives": [{"error_rate": {"ratio": 1.0, "worse_by": "0pp"}}]"#;

#[test]
fn the_example_of_the_paper_is_read() {
    let input = r#"{"run": "r42", "plan": {"alpha": 0.001, "steps": [1, 5, {"weight": 25, "hold": "30s", "gate": "qa"}], "objectives": [{"error_rate": {"worse_by": "0.05pp"}}, {"latency": {"worse_by": "5%", "at_least": "1ms"}}, {"slo": {"latency": {"quantile": 0.99, "below": "300ms"}}}], "bake": "10s", "harm_budget": "0.1pp", "budget": 20, "rescue": "safe"}, "seed": 1}
{"at_ms": 10, "weight": 5.0, "baseline": {"requests": 95, "failures": 0, "latency_us": [[1800, 40], [2200, 55]]}, "canary": {"requests": 5, "failures": 1, "latency_us": [[2100, 4]]}}
{"end": "r42"}"#;
    let answer = &answers(input)[0];
    assert_eq!(
        (answer.run.as_str(), answer.verdict, answer.at_ms),
        ("r42", Outcome::None, 10)
    );
    assert_eq!((answer.canary_requests, answer.canary_failures, answer.step), (5, 1, 1));
    let json = serde_json::to_string(answer).unwrap();
    assert!(
        json.starts_with(r#"{"run":"r42","verdict":"none","at_ms":10,"step":1,"canary_requests":5"#),
        "{json}"
    );
}

#[test]
fn a_bad_canary_is_rolled_back_at_the_cohort_that_decides() {
    let mut input =
        format!("{{\"run\": \"bad\", \"mode\": \"fixed\", \"plan\": {{{ERRORS}, \"min_canary_failures\": 0}}}}\n");
    for tick in 1..9 {
        input += &cohort(tick * 10, 1.0, (1, 1), (99, 0));
        input += "\n";
    }
    let answer = &answers(&input)[0];
    assert_eq!(
        (answer.verdict, answer.at_ms, answer.objective),
        (Outcome::RolledBack, 20, Some("error_rate"))
    );
    assert_eq!(answer.canary_failures, 2);
    assert!(answer.log_e >= 1000_f64.ln());
}

#[test]
fn a_good_canary_walks_the_plan() {
    let mut input = format!("{{\"run\": \"good\", \"plan\": {{{ERRORS}, \"steps\": [5, 50], \"bake\": \"5s\"}}}}\n");
    for second in 1..60 {
        // As a live engine would have recorded it: the next weight follows the decision.
        let (weight, canary) = if second <= 6 { (5.0, 1_000) } else { (50.0, 10_000) };
        input += &cohort(second * 1_000, weight, (canary, 0), (20_000 - canary, 0));
        input += "\n";
    }
    input += "{\"end\": \"good\"}\n";
    let answer = &answers(&input)[0];
    assert_eq!(
        (answer.verdict, answer.at_ms, answer.step),
        (Outcome::Promoted, 11_000, 3)
    );
}

#[test]
fn a_fixed_run_is_promoted_when_its_last_weight_passed() {
    let mut input = format!("{{\"run\": \"fixed\", \"mode\": \"fixed\", \"plan\": {{{ERRORS}}}}}\n");
    for second in 0..40 {
        let weight = if second < 20 { 10.0 } else { 50.0 };
        let canary = (weight * 100.0) as u64;
        input += &cohort(second * 1_000, weight, (canary, 0), (10_000 - canary, 0));
        input += "\n";
    }
    let answer = &answers(&input)[0];
    assert_eq!((answer.verdict, answer.at_ms), (Outcome::Promoted, 30_000));
    let short: String = input.lines().take(25).map(|line| format!("{line}\n")).collect();
    assert_eq!(
        answers(&short)[0].verdict,
        Outcome::None,
        "the last weight had no time to pass"
    );
}

#[test]
fn the_budget_counts_in_a_plan_and_in_a_fixed_run_only_when_named() {
    // Failures that the margin forgives for ever, but users do not.
    let lenient = r#""objectives": [{"error_rate": {"worse_by": "50pp"}}]"#;
    let run = |head: &str| {
        let mut input = format!("{{\"run\": \"b\", {head}}}\n");
        for tick in 1..100 {
            input += &cohort(tick * 10, 5.0, (10, 1), (190, 0));
            input += "\n";
        }
        answers(&input)[0].clone()
    };
    let walked = run(&format!("\"plan\": {{{lenient}}}"));
    assert_eq!(
        (walked.verdict, walked.objective),
        (Outcome::RolledBack, Some("budget"))
    );
    assert_eq!(walked.canary_failures, 23, "20 and the few that chance explains");
    let fixed = run(&format!("\"mode\": \"fixed\", \"plan\": {{{lenient}}}"));
    assert_ne!(fixed.verdict, Outcome::RolledBack);
    let named = run(&format!("\"mode\": \"fixed\", \"plan\": {{{lenient}, \"budget\": 0}}"));
    assert_eq!((named.objective, named.canary_failures), (Some("budget"), 3));
}

#[test]
fn several_runs_are_answered_in_their_order() {
    let input = "{\"run\": \"a\"}\n{\"end\": \"a\"}\n\n{\"run\": \"b\"}\n{\"run\": \"c\"}\n";
    let names: Vec<String> = answers(input).into_iter().map(|answer| answer.run).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn a_step_that_nobody_decides_is_inconclusive() {
    let mut input = format!("{{\"run\": \"i\", \"plan\": {{{ERRORS}, \"max_duration\": \"10s\"}}}}\n");
    for second in 0..20 {
        input += &cohort(second * 1_000, 1.0, (1, 0), (99, 0));
        input += "\n";
    }
    let answer = &answers(&input)[0];
    assert_eq!(
        (answer.verdict, answer.objective),
        (Outcome::Inconclusive, Some("too_little_traffic"))
    );
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let problem = |input: &str| {
        let mut replay = Replay::default();
        let error = input.lines().find_map(|line| replay.line(line).err()).unwrap();
        error.to_string()
    };
    assert!(problem("\n{").starts_with("line 2: "));
    assert!(problem(&cohort(1, 1.0, (1, 0), (1, 0))).contains("before the first run"));
    let with = |line: &str| problem(&format!("{{\"run\": \"x\"}}\n{line}"));
    assert!(with("{}").contains("neither"));
    assert!(with(&cohort(1, 101.0, (1, 0), (1, 0))).contains("percent"));
    assert!(with(&cohort(1, 1.0, (1, 2), (1, 0))).contains("more failures"));
    assert!(problem(r#"{"run": "x", "plan": {"steps": [5, 1]}}"#).contains("grow"));
    assert!(
        problem(r#"{"run": "x", "plan": {"objectives": [{"error_rate": {"worse_by": "1x"}}]}}"#).contains("0.05pp")
    );
}

#[test]
fn a_plan_says_how_each_weight_is_judged() {
    let plan: Plan = serde_json::from_str(r#"{"steps": [10, 25], "bake": "5s"}"#).unwrap();
    let walk = plan.walk();
    let weights: Vec<(f64, f64)> = walk.iter().map(|step| (step.weight, step.next_weight)).collect();
    assert_eq!(weights, [(0.1, 0.25), (0.25, 1.0), (1.0, 1.0)]);
    assert_eq!(plan.fit(0.1).next_weight, 0.25);
    assert_eq!(plan.fit(0.5).next_weight, 1.0);
    assert_eq!(plan.fit(0.5).min_ms, 5_000);
}
