//! Reading plans: accepted input, rejected input and its messages.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{FastFollow, Plan, Rescue};
use super::{object, plan, read};
use crate::analysis::{self, Objective};
use crate::release::replay;

#[test]
fn missing_block_gives_the_default_plan() {
    let none = Plan::read(None, None).unwrap();
    assert_eq!(none, Plan::default());
    let weights: Vec<f64> = none
        .steps()
        .iter()
        .map(|step| step.weight.percent())
        .collect();
    assert_eq!(weights, [1.0, 5.0, 25.0, 50.0, 100.0]);
    assert_eq!((none.budget(), none.canary_in_flight_max), (20, 256));
    assert_eq!(
        (none.rescue.clone(), none.preflight.clone()),
        (Rescue::Safe, None)
    );
    let last = none.steps().last().unwrap().judged;
    assert_eq!((last.min_ms, last.min_requests), (10_000, 100));
    assert!(!none.needs_approval());
}

#[test]
fn reference_block_is_read() {
    let plan = plan(json!({
        "steps": [
            1, 5,
            {
                "weight": 25, "hold": "30s",
                "gate": { "name": "qa", "approvals": 2, "by": ["bob", "cas"] },
            },
            50,
        ],
        "objectives": [
            { "error_rate": { "worse_by": "0.05pp" } },
            { "latency": { "worse_by": "5%", "at_least": "1ms" } },
            { "slo": { "latency": { "quantile": 0.99, "below": "300ms" } } }
        ],
        "budget": 7, "harm_budget": "0.1pp", "bake": "10s", "min_requests": 50,
        "rescue": { "header": "X-Retry-Safe" }, "freeze": ["Fri 17:00 - Mon 08:00 Europe/Berlin"],
        "preflight": {
            "requests": ["/ready", { "path": "/cart", "method": "post", "expect": 204 }],
            "timeout": "9s",
        },
        "gate": "change-board", "fast_follow": { "within": "1h", "from_step": 2 },
        "canary_in_flight_max": 32,
    }));
    assert_eq!(plan.steps().len(), 5, "100 is appended");
    let third = &plan.steps()[2];
    assert_eq!(
        (third.judged.min_ms, third.judged.min_requests),
        (30_000, 50)
    );
    let gate = third.gate.as_ref().unwrap();
    assert_eq!(
        (gate.name.as_str(), gate.approvals, gate.by.len()),
        ("qa", 2, 2)
    );
    assert_eq!(plan.rescue, Rescue::Header("x-retry-safe".into()));
    assert_eq!(plan.start_gate.as_ref().unwrap().name, "change-board");
    assert!(plan.needs_approval());
    let preflight = plan.preflight.as_ref().unwrap();
    assert_eq!(
        (
            preflight.requests[1].method.as_str(),
            preflight.requests[1].expect.clone()
        ),
        ("POST", 204..=204)
    );
    assert_eq!(preflight.requests[0].expect, 200..=399);
    assert_eq!(plan.analysis(1).judged().len(), 3);
    assert!((plan.analysis(1).alpha - 5e-4).abs() < 1e-15);
    assert!((plan.analysis(2).alpha - 5e-4 / 6.0).abs() < 1e-15);
    assert_eq!(
        (
            plan.first_step(None),
            plan.first_step(Some(Duration::from_secs(60)))
        ),
        (0, 1)
    );
    assert_eq!(plan.first_step(Some(Duration::from_secs(3_601))), 0);
}

#[test]
fn start_request_replaces_top_level_fields() {
    let block = object(json!({ "steps": [1, 10], "budget": 3, "bake": "1s" }));
    let start = object(json!({ "steps": [50], "budget": 9 }));
    let plan = Plan::read(Some(&block), Some(&start)).unwrap();
    let weights: Vec<f64> = plan
        .steps()
        .iter()
        .map(|step| step.weight.percent())
        .collect();
    assert_eq!((weights, plan.budget()), (vec![50.0, 100.0], 9));
    assert_eq!(plan.steps()[0].judged.min_ms, 1_000);
    assert_eq!(
        plan.steps()[1].judged.min_ms,
        1_000,
        "the final bake is as long as a step's"
    );
}

/// Plans with one wrong field: its pointer, and a part of the message.
#[track_caller]
fn refused<const N: usize>(cases: [(Value, &str, &str); N]) {
    for (value, pointer, says) in cases {
        let problems = read(value.clone()).expect_err(&value.to_string());
        assert_eq!(problems.len(), 1, "{value}: {problems:?}");
        assert_eq!(problems[0].pointer, pointer, "{value}: {problems:?}");
        assert!(
            problems[0].detail.contains(says),
            "{value}: {}",
            problems[0].detail
        );
    }
}

#[test]
fn invalid_steps_are_reported_with_pointer() {
    refused([
        (json!({ "steps": 5 }), "/steps", "expected a list of steps"),
        (json!({ "steps": [0] }), "/steps/0", "above 0"),
        (
            json!({ "steps": [1, 101] }),
            "/steps/1",
            "above 0 and up to 100",
        ),
        (
            json!({ "steps": [0.001] }),
            "/steps/0",
            "at most two decimals",
        ),
        (
            json!({ "steps": [5, 5] }),
            "/steps/1",
            "must increase, but 5 follows 5",
        ),
        (
            json!({ "steps": [5, { "weight": 1 }] }),
            "/steps/1",
            "must increase",
        ),
        (
            json!({ "steps": ["5%"] }),
            "/steps/0",
            "as a number, found `5%`",
        ),
        (
            json!({ "steps": [{ "hold": "1s" }] }),
            "/steps/0/weight",
            "missing",
        ),
        (
            json!({ "steps": [{ "weight": 5, "hold": 10 }] }),
            "/steps/0/hold",
            "did you mean `10s`?",
        ),
        (
            json!({ "steps": [{ "weight": 5, "hodl": "1s" }] }),
            "/steps/0/hodl",
            "did you mean `hold`",
        ),
    ]);
}

#[test]
fn invalid_gates_are_reported_with_pointer() {
    refused([
        (
            json!({ "steps": [{ "weight": 5, "gate": {} }] }),
            "/steps/0/gate/name",
            "missing",
        ),
        (
            json!({ "steps": [{ "weight": 5, "gate": "" }] }),
            "/steps/0/gate",
            "the name of a gate",
        ),
        (
            json!({ "gate": { "name": "a", "approvals": 0 } }),
            "/gate/approvals",
            "from 1 to",
        ),
        (
            json!({ "gate": { "name": "a", "approvals": 2, "by": ["x"] } }),
            "/gate/approvals",
            "from 1 to 1",
        ),
        (
            json!({ "gate": { "name": "a", "by": ["x", "x"] } }),
            "/gate/by/1",
            "twice",
        ),
        (
            json!({ "gate": { "name": "a", "expires": "0s" } }),
            "/gate/expires",
            "above zero",
        ),
        (
            json!({ "gate": "a", "steps": [{ "weight": 5, "gate": "a" }] }),
            "/steps",
            "two gates are named `a`",
        ),
    ]);
}

#[test]
fn invalid_probabilities_and_durations_are_reported_with_pointer() {
    refused([
        (json!({ "alpha": 0 }), "/alpha", "between 0 and 1"),
        (
            json!({ "alpha": "small" }),
            "/alpha",
            "expected a number between 0 and 1, found `small`",
        ),
        (json!({ "beta": 1 }), "/beta", "between 0 and 1"),
        (
            json!({ "harm_budget": "150pp" }),
            "/harm_budget",
            "below 100pp",
        ),
        (
            json!({ "harm_budget": "much" }),
            "/harm_budget",
            "`much` is not a share",
        ),
        (
            json!({ "bake": 10 }),
            "/bake",
            "found `10` without a unit; did you mean `10s`?",
        ),
        (json!({ "bake": "400d" }), "/bake", "longer than a year"),
        (json!({ "bake": null }), "/bake", "found nothing"),
        (json!({ "budget": -1 }), "/budget", "a whole number from 0"),
        (json!({ "budget": 1.5 }), "/budget", "a whole number"),
        (
            json!({ "inconclusive": "stop" }),
            "/inconclusive",
            "`hold`, `advance`",
        ),
        (
            json!({ "canary_in_flight_max": 0 }),
            "/canary_in_flight_max",
            "from 1 to",
        ),
    ]);
}

#[test]
fn invalid_objectives_are_reported_with_pointer() {
    refused([
        (
            json!({ "objectives": [{ "errors": {} }] }),
            "/objectives/0/errors",
            "expected `error_rate`",
        ),
        (
            json!({ "objectives": ["latency"] }),
            "/objectives/0",
            "a mapping with one field, found `latency`",
        ),
        (
            json!({ "objectives": [{ "error_rate": { "wors_by": 1 } }] }),
            "/objectives/0/error_rate/wors_by",
            "did you mean `worse_by`",
        ),
        (
            json!({ "objectives": [{ "error_rate": { "ratio": 0 } }] }),
            "/objectives/0/error_rate/ratio",
            "above 0",
        ),
        (
            json!({ "objectives": [{ "latency": {} }, { "latency": {} }] }),
            "/objectives",
            "only once",
        ),
        (
            json!({ "objectives": [{ "latency": { "at_least": 5 } }] }),
            "/objectives/0/latency/at_least",
            "without a unit",
        ),
        (
            json!({ "objectives": [{ "slo": { "latency": { "below": "1s" } } }] }),
            "/objectives/0/slo/latency/quantile",
            "missing",
        ),
        (
            json!({ "objectives": [{ "slo": { "error_rate": { "below": 0 } } }] }),
            "/objectives/0/slo/error_rate/below",
            "above 0% and below 100%",
        ),
    ]);
}

#[test]
fn other_invalid_fields_are_reported_with_pointer() {
    refused([
        (json!({ "step": [1] }), "/step", "did you mean `steps`"),
        (json!({ "rescue": "all" }), "/rescue", "`off`, `safe`"),
        (
            json!({ "rescue": { "header": "no good" } }),
            "/rescue/header",
            "the name of a header",
        ),
        (
            json!({ "preflight": { "requests": [{ "path": "ready" }] } }),
            "/preflight/requests/0/path",
            "begins with `/`",
        ),
        (
            json!({ "preflight": { "requests": [{ "path": "/", "expect": "99-700" }] } }),
            "/preflight/requests/0/expect",
            "a status",
        ),
        (
            json!({ "freeze": ["Fri 17:00 to Mon"] }),
            "/freeze/0",
            "no ` - ` between",
        ),
        (
            json!({ "freeze": "Fri 17:00 - Mon 08:00" }),
            "/freeze",
            "a list of windows",
        ),
        (
            json!({ "fast_follow": { "within": "1h" } }),
            "/fast_follow/from_step",
            "missing",
        ),
        (
            json!({ "fast_follow": { "within": "1h", "from_step": 9 } }),
            "/fast_follow/from_step",
            "there are 5 steps",
        ),
        (
            json!({
                "steps": [{ "weight": 5, "gate": "qa" }],
                "fast_follow": { "within": "1h", "from_step": 2 },
            }),
            "/fast_follow/from_step",
            "gate `qa` would be skipped",
        ),
        (json!({ "a/b~": 1 }), "/a~1b~0", "unknown field"),
    ]);
}

#[test]
fn all_problems_are_reported_together() {
    let value = json!({
        "steps": [5, 1, { "weight": 50, "gate": {}, "hold": 3 }], "alpha": 7, "bake": "soon",
        "nonsense": true,
        "freeze": ["Fri", "25:00 - 26:00"], "objectives": [{ "latency": { "worse_by": "x" } }],
    });
    let problems = read(value).unwrap_err();
    let pointers: Vec<&str> = problems
        .iter()
        .map(|problem| problem.pointer.as_str())
        .collect();
    for pointer in [
        "/steps/1",
        "/steps/2/gate/name",
        "/steps/2/hold",
        "/alpha",
        "/bake",
        "/nonsense",
        "/freeze/0",
        "/freeze/1",
        "/objectives/0/latency/worse_by",
    ] {
        assert!(pointers.contains(&pointer), "{pointer} in {pointers:?}");
    }
    assert_eq!(problems.len(), 9, "{problems:?}");
}

#[test]
fn gate_that_cannot_open_is_detected() {
    let plan = plan(json!({ "gate": { "name": "two", "approvals": 2, "by": ["ann", "bob"] } }));
    assert_eq!(plan.gate_beyond("ann").unwrap().name, "two");
    assert!(plan.gate_beyond("dan").is_none());
}

fn plans() -> impl Strategy<Value = Value> {
    let weights = proptest::collection::btree_set(1_u16..10_001, 1..5);
    let gate = prop_oneof![
        Just(None),
        Just(Some(json!("by-name"))),
        Just(Some(
            json!({ "name": "full", "approvals": 2, "by": ["a", "b", "c"], "expires": "90m" })
        )),
    ];
    let objectives = prop_oneof![
        Just(json!([])),
        Just(json!([{ "error_rate": { "ratio": 1.5, "worse_by": "0.3pp" } }])),
        Just(json!([{ "latency": {} }, { "slo": { "error_rate": { "below": "1%" } } }])),
    ];
    let rescue = prop_oneof![
        Just(json!("off")),
        Just(json!("safe")),
        Just(json!({ "header": "x-safe" }))
    ];
    (
        weights,
        gate,
        objectives,
        rescue,
        0_u64..100_000,
        0_u64..1_000,
        any::<bool>(),
    )
        .prop_map(|(weights, gate, objectives, rescue, bake_ms, count, more)| {
            let mut steps: Vec<Value> = weights
                .into_iter()
                .map(|points| json!(f64::from(points) / 100.0))
                .collect();
            if let Some(gate) = gate {
                let weight = steps[0].clone();
                steps[0] = json!({
                    "weight": weight, "gate": gate, "max_duration": "1h", "inconclusive": "abort",
                });
            }
            let mut plan = json!({
                "steps": steps, "objectives": objectives, "rescue": rescue,
                "bake": format!("{bake_ms}ms"),
                "budget": count, "min_requests": count,
            });
            if more {
                plan["freeze"] = json!(["Sat 00:00 - Mon 06:00", "22:00 - 05:00 America/New_York"]);
                plan["preflight"] = json!({
                    "requests": [{ "path": "/x", "headers": { "accept": "*/*" } }],
                });
                plan["fast_follow"] = json!({ "within": "2h", "from_step": 1 });
                plan["final_bake"] = json!("0s");
            }
            plan
        })
}

proptest! {
    #[test]
    fn plan_round_trips_through_json(value in plans()) {
        let plan = plan(value);
        let json = plan.to_json();
        prop_assert_eq!(&Plan::read(Some(&json), None).unwrap(), &plan);
        prop_assert_eq!(
            &serde_json::from_str::<Plan>(&serde_json::to_string(&plan).unwrap()).unwrap(), &plan,
        );
        // A recording carries this text, and a replay must decide by the same plan.
        let replayed: replay::RunPlan = serde_json::from_value(Value::Object(json)).unwrap();
        prop_assert_eq!(&replayed, plan.decided_by());
        prop_assert_eq!(replayed.walk(), plan.judged_steps());
    }

    /// Any input gives a plan or problems.
    #[test]
    fn any_input_gives_a_plan_or_problems(
        key in "[a-z_]{1,12}", text in ".{0,20}", number in any::<f64>(),
    ) {
        let known = [
            "steps", "objectives", "gate", "freeze", "preflight", "rescue", "alpha", "bake",
        ];
        let object = json!({ key.as_str(): text });
        for value in [json!(text), json!(number), json!([text, number]), object, Value::Null] {
            for key in known.into_iter().chain([key.as_str()]) {
                let _ = read(json!({ key: value }));
                let _ = read(
                    json!({
                        "steps": [{ "weight": 5, key: value }], "objectives": [{ key: value }],
                    })
                );
            }
        }
    }
}

#[test]
fn plan_gives_the_analysis_its_options() {
    let plan =
        plan(json!({ "alpha": 0.01, "objectives": [{ "error_rate": { "worse_by": "1pp" } }] }));
    let options: analysis::Options = plan.analysis(1);
    assert!(matches!(
        options.objectives[0],
        Objective::ErrorRate(margin) if (margin.worse_by - 0.01).abs() < 1e-12,
    ));
    assert!((plan.budget_rule(20, 1).bound() - 20.0 - (8.0_f64 / 0.01).ln() / 3.0).abs() < 1e-9);
    let follow = FastFollow {
        within: Duration::ZERO,
        from_step: 3,
    };
    let plan = Plan {
        fast_follow: Some(follow),
        ..plan
    };
    assert_eq!(plan.first_step(Some(Duration::ZERO)), 2);
}

#[test]
fn default_objectives_are_serialized() {
    for given in [json!({}), json!({ "objectives": [] })] {
        let json = plan(given).to_json();
        let written = json["objectives"].as_array().unwrap();
        assert_eq!(written.len(), 2, "{written:?}");
        assert!(written[0].get("error_rate").is_some() && written[1].get("latency").is_some());
    }
}

#[test]
fn empty_steps_are_rejected() {
    let problems = read(json!({ "steps": [] })).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].pointer, "/steps");
    assert!(
        problems[0].detail.contains("at least one step"),
        "{problems:?}"
    );
}
