//! Recorded runs: the format of STATISTICS.md 7.

use crate::analysis::{Inconclusive, Objective};
use crate::release::replay::{Replay, RunOutcome, RunPlan, RunResult, answers as read};

fn answers(input: &str) -> Vec<RunResult> {
    let mut replay = Replay::default();
    let lines: Vec<_> = input
        .lines()
        .map(|line| replay.line(line).unwrap())
        .collect();
    lines
        .into_iter()
        .chain([replay.finish()])
        .flatten()
        .collect()
}

fn cohort(at_ms: u64, weight: f64, canary: (u64, u64), baseline: (u64, u64)) -> String {
    let arm = |(requests, failures): (u64, u64)| {
        format!(r#"{{"requests": {requests}, "failures": {failures}}}"#)
    };
    let (canary, baseline) = (arm(canary), arm(baseline));
    format!(
        r#"{{"at_ms": {at_ms}, "weight": {weight}, "baseline": {baseline}, "canary": {canary}}}"#
    )
}

const ERRORS: &str = r#""objectives": [{"error_rate": {"ratio": 1.0, "worse_by": "0pp"}}]"#;

#[test]
fn documented_example_is_parsed() {
    let input = r#"{"run": "r42", "plan": {"alpha": 0.001, "steps": [1, 5, \
        {"weight": 25, "hold": "30s", "gate": "qa"}], "objectives": [\
        {"error_rate": {"worse_by": "0.05pp"}}, \
        {"latency": {"worse_by": "5%", "at_least": "1ms"}}, \
        {"slo": {"latency": {"quantile": 0.99, "below": "300ms"}}}], "bake": "10s", \
        "harm_budget": "0.1pp", "budget": 20, "rescue": "safe"}, "seed": 1}
{"at_ms": 10, "weight": 5.0, \
        "baseline": {"requests": 95, "failures": 0, "latency_us": [[1800, 40], [2200, 55]]}, \
        "canary": {"requests": 5, "failures": 1, "latency_us": [[2100, 4]]}}
{"end": "r42"}"#
        .replace("\\\n", "");
    let answer = &answers(&input)[0];
    assert_eq!(
        (answer.run.as_str(), answer.verdict, answer.at_ms),
        ("r42", RunOutcome::None, 10)
    );
    assert_eq!(
        (answer.canary_requests, answer.canary_failures, answer.step),
        (5, 1, 1)
    );
    let json = serde_json::to_string(answer).unwrap();
    assert!(
        json.starts_with(
            r#"{"run":"r42","verdict":"none","at_ms":10,"step":1,"canary_requests":5"#
        ),
        "{json}"
    );
}

#[test]
fn bad_canary_is_rolled_back_at_the_deciding_cohort() {
    let mut input = format!(
        "{{\"run\": \"bad\", \"mode\": \"fixed\", \"plan\": {{{ERRORS}, \"min_canary_failures\": \
         0}}}}\n"
    );
    for tick in 1..9 {
        input += &cohort(tick * 10, 1.0, (1, 1), (99, 0));
        input += "\n";
    }
    let answer = &answers(&input)[0];
    assert_eq!(
        (answer.verdict, answer.at_ms, answer.objective),
        (RunOutcome::RolledBack, 20, Some("error_rate"))
    );
    assert_eq!(answer.canary_failures, 2);
    assert!(answer.log_e >= 1000_f64.ln());
}

#[test]
fn good_canary_passes_all_steps() {
    let mut input = format!(
        "{{\"run\": \"good\", \"plan\": {{{ERRORS}, \"steps\": [5, 50], \"bake\": \"5s\"}}}}\n"
    );
    for second in 1..60 {
        // As a live engine would have recorded it: the next weight follows the decision.
        let (weight, canary) = if second <= 6 {
            (5.0, 1_000)
        } else {
            (50.0, 10_000)
        };
        input += &cohort(second * 1_000, weight, (canary, 0), (20_000 - canary, 0));
        input += "\n";
    }
    input += "{\"end\": \"good\"}\n";
    let answer = &answers(&input)[0];
    assert_eq!(
        (answer.verdict, answer.at_ms, answer.step),
        (RunOutcome::Promoted, 11_000, 3)
    );
}

#[test]
fn held_release_is_not_promoted_early() {
    let judged = |free_ms: u64| {
        let mut input = format!(
            "{{\"run\": \"kept\", \"plan\": {{{ERRORS}, \"steps\": [50], \"bake\": \"5s\", \
             \"final_bake\": \"5s\"}}}}\n"
        );
        for at_ms in (1_000..=30_000).step_by(1_000) {
            let (weight, canary) = if at_ms <= 7_000 {
                (50.0, 10_000)
            } else {
                (100.0, 20_000)
            };
            let mut line = cohort(at_ms, weight, (canary, 0), (20_000 - canary, 0));
            if at_ms > free_ms {
                line.insert_str(line.len() - 1, ", \"held\": true, \"step\": 2");
            }
            input += &(line + "\n");
        }
        answers(&input)[0].clone()
    };
    let free = judged(30_000);
    assert_eq!(free.verdict, RunOutcome::Promoted);
    // The line after the one that would have promoted it says that it was held.
    assert_eq!(judged(free.at_ms).verdict, RunOutcome::None);
}

#[test]
fn a_run_at_full_weight_that_waits_for_evidence_says_so() {
    let judged = |nth: u64| {
        let mut input = format!(
            "{{\"run\": \"low\", \"plan\": {{{ERRORS}, \"steps\": [100], \"bake\": \"4s\", \
             \"final_bake\": \"4s\", \"min_requests\": 20}}}}\n"
        );
        input += &(cohort(0, 0.0, (0, 0), (105, 0)) + "\n");
        for request in 1..=300 {
            let failed = u64::from(request % nth == 0);
            input += &(cohort(request * 66, 100.0, (1, failed), (0, 0)) + "\n");
        }
        let answer = answers(&input)[0].clone();
        (answer.verdict, answer.objective)
    };
    assert_eq!(judged(7), (RunOutcome::None, Some("inconclusive")));
    assert_eq!(judged(1_000), (RunOutcome::Promoted, None));
    assert_eq!(judged(70), (RunOutcome::Promoted, None));
}

#[test]
fn fixed_run_is_promoted_when_its_last_weight_passed() {
    let mut input =
        format!("{{\"run\": \"fixed\", \"mode\": \"fixed\", \"plan\": {{{ERRORS}}}}}\n");
    for second in 0..40 {
        let (weight, canary) = if second < 20 {
            (10.0, 1_000)
        } else {
            (50.0, 5_000)
        };
        input += &cohort(second * 1_000, weight, (canary, 0), (10_000 - canary, 0));
        input += "\n";
    }
    let answer = &answers(&input)[0];
    assert_eq!(
        (answer.verdict, answer.at_ms),
        (RunOutcome::Promoted, 30_000)
    );
    let short: String = input
        .lines()
        .take(25)
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(
        answers(&short)[0].verdict,
        RunOutcome::None,
        "the last weight had no time to pass"
    );
}

#[test]
fn fixed_run_ignores_weights_without_comparison() {
    let run = |plan: &str, cohorts: &[(f64, u64, u64)]| {
        let mut input =
            format!("{{\"run\": \"fixed\", \"mode\": \"fixed\", \"plan\": {{{ERRORS}{plan}}}}}\n");
        for (second, (weight, requests, failures)) in (0_u64..).zip(cohorts) {
            let baseline = if *weight < 100.0 { *requests } else { 0 };
            input += &cohort(
                second * 1_000,
                *weight,
                (*requests, *failures),
                (baseline, 0),
            );
            input += "\n";
        }
        let answer = answers(&input)[0].clone();
        (answer.verdict, answer.at_ms, answer.objective)
    };
    assert_eq!(run("", &[(100.0, 50, 0)]).0, RunOutcome::None);
    // Failures there are compared with a fixed limit.
    assert_eq!(
        run("", &[(100.0, 50, 50)]),
        (RunOutcome::RolledBack, 0, Some("error_rate"))
    );
    assert_eq!(run("", &[(0.0, 0, 0); 30]).0, RunOutcome::None);
    let (half, full, none) = ((50.0, 5_000, 0), (100.0, 100, 0), (0.0, 0, 0));
    for after in [full, none] {
        // The evidence sufficed at once, but the step's minimum duration had not passed.
        let early = [vec![half; 5], vec![after; 30]].concat();
        assert_eq!(run("", &early).0, RunOutcome::None);
        // It continues where it was.
        let again = [early, vec![half]].concat();
        assert_eq!(run("", &again), (RunOutcome::Promoted, 35_000, None));
        let passed = [vec![half; 15], vec![after; 30]].concat();
        assert_eq!(run("", &passed), (RunOutcome::Promoted, 10_000, None));
        // A step is not out of time by then either.
        let few = [vec![(50.0, 1, 0); 5], vec![after; 30]].concat();
        let limited = r#", "max_duration": "20s""#;
        assert_eq!(run(limited, &few).0, RunOutcome::None);
        let out_of_time = [vec![(50.0, 1, 0); 25], vec![after; 30]].concat();
        let expected = (RunOutcome::Inconclusive, Some("too_little_traffic"));
        let (verdict, _, objective) = run(limited, &out_of_time);
        assert_eq!((verdict, objective), expected);
    }
    // Rollbacks still work.
    assert_eq!(
        run(r#", "budget": 0"#, &[(50.0, 100, 0), (100.0, 50, 50)]).2,
        Some("error_rate")
    );
}

#[test]
fn fixed_run_has_a_budget_only_if_configured() {
    // Failures that the margin tolerates, but users do not.
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
        (RunOutcome::RolledBack, Some("budget"))
    );
    assert_eq!(
        walked.canary_failures, 23,
        "20 and the few that chance explains"
    );
    let fixed = run(&format!("\"mode\": \"fixed\", \"plan\": {{{lenient}}}"));
    assert_ne!(fixed.verdict, RunOutcome::RolledBack);
    let named = run(&format!(
        "\"mode\": \"fixed\", \"plan\": {{{lenient}, \"budget\": 0}}"
    ));
    assert_eq!(
        (named.objective, named.canary_failures),
        (Some("budget"), 3)
    );
}

#[test]
fn several_runs_give_results_in_order() {
    let input = "{\"run\": \"a\"}\n{\"end\": \"a\"}\n\n{\"run\": \"b\"}\n{\"run\": \"c\"}\n";
    let names: Vec<String> = answers(input)
        .into_iter()
        .map(|answer| answer.run)
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn undecided_step_is_inconclusive() {
    let mut input =
        format!("{{\"run\": \"i\", \"plan\": {{{ERRORS}, \"max_duration\": \"10s\"}}}}\n");
    for second in 0..20 {
        input += &cohort(second * 1_000, 1.0, (1, 0), (99, 0));
        input += "\n";
    }
    let answer = &answers(&input)[0];
    assert_eq!(
        (answer.verdict, answer.objective),
        (RunOutcome::Inconclusive, Some("too_little_traffic"))
    );
}

#[test]
fn errors_have_line_numbers() {
    let problem = |input: &str| {
        let mut replay = Replay::default();
        let error = input
            .lines()
            .find_map(|line| replay.line(line).err())
            .unwrap();
        error.to_string()
    };
    assert!(problem("\n{").starts_with("line 2: "));
    assert!(problem(&cohort(1, 1.0, (1, 0), (1, 0))).contains("before the first run"));
    let with = |line: &str| problem(&format!("{{\"run\": \"x\"}}\n{line}"));
    assert!(with("{}").contains("neither"));
    assert!(with(r#"{"at_ms": 1, "weight": 5}"#).contains("without `baseline`, `canary`"));
    assert!(problem(r#"{"run": "x", "plan": {"steps": []}}"#).contains("at least one step"));
    assert!(with(&cohort(1, 101.0, (1, 0), (1, 0))).contains("percent"));
    assert!(with(&cohort(1, 1.0, (1, 2), (1, 0))).contains("more failures"));
    assert!(problem(r#"{"run": "x", "plan": {"steps": [5, 1]}}"#).contains("must increase"));
    assert!(
        problem(r#"{"run": "x", "plan": {"objectives": [{"error_rate": {"worse_by": "1x"}}]}}"#)
            .contains("0.05pp")
    );
}

#[test]
fn plan_gives_conditions_for_each_weight() {
    let plan: RunPlan = serde_json::from_str(r#"{"steps": [10, 25], "bake": "5s"}"#).unwrap();
    let walk = plan.walk();
    let weights: Vec<(f64, f64)> = walk
        .iter()
        .map(|step| (step.weight, step.next_weight))
        .collect();
    assert_eq!(weights, [(0.1, 0.25), (0.25, 1.0), (1.0, 1.0)]);
    assert_eq!(plan.fit(0.1).next_weight, 0.25);
    assert_eq!(plan.fit(0.5).next_weight, 1.0);
    assert_eq!(plan.fit(0.5).min_ms, 5_000);
}

#[test]
fn constant_latency_can_pass() {
    let objectives = r#""objectives": [{"latency": {}}]"#;
    let mut input =
        format!("{{\"run\": \"same\", \"plan\": {{{objectives}, \"steps\": [5, 25, 50]}}}}\n");
    for tick in 0..400 {
        let weight = [5, 25, 50][tick / 134];
        let canary = weight * 20;
        let arm = |requests| {
            format!(
                concat!(
                    r#"{{"requests": {}, "failures": 0, "#,
                    r#""latency_us": [[1800, {}], [2200, {}]]}}"#,
                ),
                requests,
                requests / 2,
                requests / 2
            )
        };
        input += &format!(
            "{{\"at_ms\": {}, \"weight\": {weight}, \"baseline\": {}, \"canary\": {}}}\n",
            tick * 250,
            arm(2_000 - canary),
            arm(canary),
        );
    }
    assert_eq!(answers(&input)[0].verdict, RunOutcome::Promoted);
}

#[test]
fn plan_with_live_release_fields_is_parsed() {
    let text = r#"{
        "steps": [0.5, {"weight": 5, "hold": "30s", "gate": {"approvals": 2}, "min_requests": 7,
            "max_duration": "1h30m", "inconclusive": "roll_back"}, 100],
        "objectives": [{"error_rate": {"ratio": 1.2, "worse_by": "0.05pp"}},
            {"latency": {"worse_by": "5%", "at_least": "1ms"}},
            {"slo": {"latency": {"quantile": 0.99, "below": "300ms"}}},
            {"slo": {"error_rate": {"below": "1%"}}}],
        "alpha": 0.01, "beta": 0.1, "harm_budget": "0.2pp", "budget": 3, "bake": "20s",
        "min_requests": 50,
        "min_canary_failures": 2, "min_distinct_clients": 1, "inconclusive": "advance_if_no_harm",
        "max_duration": "10m",
        "final_bake": "5m", "rescue": {"header": "X-Retry-Safe"},
        "freeze": ["Fri 17:00 - Mon 08:00 Europe/Berlin"],
        "preflight": {"requests": []}, "schedule": "2026-01-01T00:00:00Z",
        "canary_in_flight_max": 64, "gate": "qa"
    }"#;
    let run = format!(r#"{{"run": "x", "plan": {}}}"#, text.replace('\n', " "));
    assert_eq!(answers(&run)[0].verdict, RunOutcome::None);
    let plan: RunPlan = serde_json::from_str(text).unwrap();
    assert!(plan.problems().is_empty());
    let steps = plan.walk();
    let shape: Vec<_> = steps
        .iter()
        .map(|step| {
            (
                step.min_ms,
                step.min_requests,
                step.max_ms,
                step.inconclusive,
            )
        })
        .collect();
    assert_eq!(
        shape,
        [
            (20_000, 50, Some(600_000), Inconclusive::Advance),
            (30_000, 7, Some(5_400_000), Inconclusive::RollBack),
            (300_000, 50, Some(600_000), Inconclusive::Advance),
        ]
    );
    assert_eq!(
        (
            plan.budget,
            plan.options.min_canary_failures,
            plan.options.min_distinct_clients
        ),
        (Some(3), 2, 1)
    );
    let names: Vec<_> = plan
        .options
        .objectives
        .iter()
        .map(Objective::name)
        .collect();
    assert_eq!(names, ["error_rate", "latency", "slo", "slo"]);
    assert!((plan.options.alpha - 0.01).abs() < 1e-15 && (plan.options.beta - 0.1).abs() < 1e-15);
    assert!((plan.options.harm_budget - 0.002).abs() < 1e-15);
    let back: RunPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(back, plan);
}

#[test]
fn mismatched_ends_and_invalid_plans_are_rejected() {
    let problem = |input: &str| {
        read(input.lines())
            .find_map(Result::err)
            .unwrap()
            .to_string()
    };
    assert_eq!(
        problem("{\"run\": \"a\"}\n{\"end\": \"b\"}"),
        "line 2: the end of `b`, but the current run is `a`"
    );
    assert_eq!(
        problem("{\"end\": \"b\"}"),
        "line 1: the end of `b`, but there is no current run"
    );
    let step = problem(r#"{"run": "a", "plan": {"steps": [1, "5%"]}}"#);
    assert!(step.contains("a weight in percent"), "{step}");
    let hold = problem(r#"{"run": "a", "plan": {"steps": [{"weight": 1, "hold": 5}]}}"#);
    assert!(hold.contains("a time such as"), "{hold}");
    assert!(problem(r#"{"run": "a", "mode": "loose"}"#).contains("`plan` or `fixed`"));
    assert!(problem(r#"{"run": "a", "plan": {"alpha": 2}}"#).contains("alpha must be"));
}

#[test]
fn misspelt_field_is_rejected_and_unknown_field_gives_a_warning() {
    let problem = |plan: &str| {
        let input = format!("\n{{\"run\": \"a\", \"plan\": {{{plan}}}}}");
        read(input.lines())
            .find_map(Result::err)
            .unwrap()
            .to_string()
    };
    let slip = problem(r#""budgets": 0"#);
    assert!(slip.starts_with("line 2: "), "{slip}");
    let expected = "unknown field `budgets` in the plan; did you mean `budget`?";
    assert!(slip.contains(expected), "{slip}");
    let step = problem(r#""steps": [1, {"weight": 5, "min_request": 7}]"#);
    let expected =
        "unknown field `min_request` in a step of the plan; did you mean `min_requests`?";
    assert!(step.contains(expected), "{step}");
    let mut replay = Replay::default();
    let line =
        r#"{"run": "a", "plan": {"colour": "green", "steps": [{"weight": 5, "colour": "red"}]}}"#;
    assert_eq!(replay.line(line), Ok(None));
    let warnings = ["the plan", "a step of the plan"]
        .map(|place| format!("line 1: unknown field `colour` in {place}; it is ignored"));
    assert_eq!(replay.warnings(), warnings);
    assert!(replay.warnings().is_empty(), "each is with_latencies once");
}

#[test]
fn reading_stops_at_an_invalid_line() {
    let input = [
        "{\"run\": \"a\"}",
        "{\"end\": \"a\"}",
        "nonsense",
        "{\"run\": \"b\"}",
        "{\"end\": \"b\"}",
    ];
    let all: Vec<_> = read(input)
        .map(|answer| answer.map(|answer| answer.run).map_err(|error| error.line))
        .collect();
    assert_eq!(all, [Ok("a".to_owned()), Err(3)]);
}

#[test]
fn unknown_record_fields_are_ignored() {
    let head = format!("{{\"run\": \"x\", \"mode\": \"fixed\", \"plan\": {{{ERRORS}}}}}\n");
    let plain: String = (1..50)
        .map(|tick| cohort(tick * 10, 1.0, (2, 1), (99, 1)) + "\n")
        .collect();
    let noted = plain
        .replace("{\"at_ms\"", "{\"proxy\": {\"name\": \"a\"}, \"at_ms\"")
        .replace("\"failures\"", "\"aborted\": 0, \"failures\"");
    assert_ne!(plain, noted);
    assert_eq!(answers(&(head.clone() + &plain)), answers(&(head + &noted)));
}

#[test]
fn arm_without_responses_needs_no_latencies() {
    let run = |canary: &str| {
        let mut input = "{\"run\": \"x\", \"mode\": \"fixed\", \"plan\": {\"objectives\": \
                         [{\"latency\": {}}]}}\n"
            .to_owned();
        for tick in 0..200 {
            let canary = if tick % 2 == 0 {
                canary
            } else {
                r#"{"requests": 4, "failures": 1, "latency_us": [[9000, 3]]}"#
            };
            input += &format!(
                "{{\"at_ms\": {}, \"weight\": 2, \"baseline\": {{\"requests\": 98, \"failures\": \
                 0, \"latency_us\": [[5000, 98]]}}, \"canary\": {canary}}}\n",
                tick * 10,
            );
        }
        answers(&input)[0].clone()
    };
    for (requests, failures) in [(0, 0), (1, 1)] {
        let with_latencies = run(&format!(
            r#"{{"requests": {requests}, "failures": {failures}, "latency_us": []}}"#
        ));
        let without_latencies = run(&format!(
            r#"{{"requests": {requests}, "failures": {failures}}}"#
        ));
        assert_eq!(with_latencies, without_latencies);
        assert_eq!(with_latencies.verdict, RunOutcome::RolledBack);
    }
}

/// A good canary at 50 percent that passes its only step at 6 s, with more lines before those at
/// some times.
fn with_events(plan: &str, events: &[(u64, &str)]) -> RunResult {
    let mut input = format!(
        "{{\"run\": \"e\", \"plan\": {{{ERRORS}, \"steps\": [50], \"bake\": \"5s\"{plan}}}}}\n"
    );
    for at_ms in (1_000..=30_000).step_by(1_000) {
        for (_, event) in events.iter().filter(|(before_ms, _)| *before_ms == at_ms) {
            input += &format!("{{\"at_ms\": {at_ms}, \"event\": {event}}}\n");
        }
        input += &(cohort(at_ms, 50.0, (10_000, 0), (10_000, 0)) + "\n");
    }
    answers(&input)[0].clone()
}

#[test]
fn commands_in_a_recording_hold_a_run_and_let_it_go_on() {
    let free = with_events("", &[]);
    assert_eq!((free.verdict, free.at_ms), (RunOutcome::Promoted, 6_000));
    let paused = with_events("", &[(3_000, r#""pause", "by": "ann""#)]);
    assert_eq!(paused.verdict, RunOutcome::None);
    let resumed = with_events("", &[(3_000, r#""pause""#), (20_000, r#""resume""#)]);
    assert_eq!(
        (resumed.verdict, resumed.at_ms),
        (RunOutcome::Promoted, 20_000)
    );
    let rolled_back = with_events("", &[(4_000, r#""rollback", "by": "ann""#)]);
    let ended = (
        rolled_back.verdict,
        rolled_back.at_ms,
        rolled_back.objective,
    );
    assert_eq!(ended, (RunOutcome::RolledBack, 4_000, Some("operator")));
}

#[test]
fn a_trip_ends_a_run_unless_its_budget_is_larger() {
    let trip = r#""trip", "objective": "budget", "spent": 30, "limit": 20"#;
    let same = with_events("", &[(3_000, trip)]);
    let ended = (same.verdict, same.at_ms, same.objective);
    assert_eq!(ended, (RunOutcome::RolledBack, 3_000, Some("budget")));
    let larger = with_events(r#", "budget": 21"#, &[(3_000, trip)]);
    assert_eq!(larger.verdict, RunOutcome::Promoted);
}

#[test]
fn an_unknown_event_gives_a_warning() {
    let mut replay = Replay::default();
    replay.line(r#"{"run": "a"}"#).unwrap();
    let event = r#"{"at_ms": 5, "event": "eclipse"}"#;
    assert_eq!(replay.line(event), Ok(None));
    let expected = "line 2: unknown event `eclipse`; it is ignored";
    assert_eq!(replay.warnings(), [expected]);
    assert!(
        replay.line(r#"{"event": "pause"}"#).is_err(),
        "without a time"
    );
}
