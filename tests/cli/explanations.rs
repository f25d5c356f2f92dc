//! `explain`: the state of a release in sentences.

use serde_json::{Value, json};

use super::fake_api::{FakeApi, Reply};
use super::releases::{NEWEST, ended, release};
use super::service;

#[test]
fn explain_shows_the_state_and_evidence_of_a_release() {
    let proxy = FakeApi::scripted(|line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [release("progressing", 1, 5.0)] })),
        _ => Reply::Json(200, service(9, true)),
    });
    let explained = proxy.run(&["explain", "shop"]).code(0);
    assert_eq!(
        explained.out,
        "shop-12 of shop is progressing, step 1 of 3, since 2026-11-25T09:01:00Z. green has 5 % \
         of the traffic, blue the rest.\n\nIt still needs evidence that the canary is good enough \
         in error rate.\n\nerror rate (ratio 1.1, worse_by 0.0005)\n\x20 Failures: 0.249 % of \
         1,204 requests on the canary, 0.201 % of 22,912 requests on the baseline.\n\x20 Above \
         the allowed ratio: +0.030 percentage points, confidence interval -0.400 to \
         +0.600.\n\x20 Evidence against the canary: ln e = 0.25 of 5.30; at the limit it is \
         rolled back.\n\x20 Evidence for advancing: ln e = 1.50 of 3.00; about 2,400 more canary \
         requests are needed, which takes 3 min at the current rate.\n\nlatency\n\x20 Evidence \
         against the canary: ln e = -0.50 of 5.30; at the limit it is rolled back.\n\x20 \
         Evidence for advancing: ln e = 3.50 of 3.00; which is enough.\n\nUsers saw 2 failures \
         of the canary; the baseline rescued 1. The budget is 20; 18 more than the baseline's \
         rate and chance explain roll the canary back at once.\n"
    );
    let proxy = FakeApi::scripted(|line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [ended("rolled_back")] })),
        _ => Reply::Json(200, service(9, true)),
    });
    let explained = proxy.run(&["explain", "shop"]).code(0);
    assert!(
        explained
            .out
            .contains("Decided by error rate: 12 of 400 failed."),
        "{}",
        explained.out
    );
    assert!(
        !explained.out.contains("for advancing"),
        "{}",
        explained.out
    );
}

#[test]
fn explain_lists_missing_evidence_and_the_next_command() {
    let mut paused = release("waiting", 1, 5.0);
    paused["paused"] = json!(true);
    paused["too_few_requests"] = json!({ "canary": 37, "least": 1000 });
    paused["waiting_for"] = json!({ "kind": "resume", "detail": "paused by paul: lunch" });
    let objectives = paused["objectives"].as_array_mut().unwrap();
    objectives[1]["advance_log_e"] = json!(0.5);
    for margins in [
        json!({ "error_rate": { "below": 0.02 } }),
        json!({ "latency": { "quantile": 0.99, "below": "300ms" } }),
    ] {
        objectives.push(json!({
            "objective": "slo", "margins": margins, "share": 1.0, "log_e": 0.0, "log_limit": 4.6,
        }));
    }
    let proxy = FakeApi::scripted(move |line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [paused.clone()] })),
        _ => Reply::Json(200, service(9, true)),
    });
    let explained = proxy.run(&["explain", "shop"]).code(0);
    for text in [
        "It waits (resume): paused by paul: lunch. `weighbridge release resume` continues it;",
        "It still needs evidence that the canary is good enough in error rate and latency.\n",
        "\nThe hold of the step is over, but traffic is too low: 37 of 1,000 canary requests at \
         this step.\n",
        "\nless than 2 % failures\n",
        "\n99 % of responses within 300ms\n",
    ] {
        assert!(
            explained.out.contains(text),
            "{text} is missing: {}",
            explained.out
        );
    }
}

#[test]
fn explain_names_a_recent_latency_regression_that_blocks_the_last_step() {
    let mut last = release("progressing", 2, 25.0);
    last["objectives"][0]["advance_log_e"] = json!(3.1);
    last["objectives"][1]["slower_lately"] = json!(true);
    let proxy = FakeApi::scripted(move |line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [last.clone()] })),
        _ => Reply::Json(200, service(9, true)),
    });
    let explained = proxy.run(&["explain", "shop"]).code(0);
    for text in [
        "It still needs evidence that the canary is good enough in latency.\n",
        "Evidence for advancing: ln e = 3.50 of 3.00; which is enough, but in the last seconds \
         the canary was slower than allowed",
    ] {
        assert!(
            explained.out.contains(text),
            "{text} is missing: {}",
            explained.out
        );
    }
}

#[test]
fn explain_needs_no_more_evidence_at_full_weight() {
    for phase in ["baking", "waiting"] {
        let mut full = release(phase, 3, 100.0);
        let slo = |margins: Value, failures: u64| {
            json!({
                "objective": "slo", "margins": margins, "share": 1.0, "log_e": 0.0,
                "log_limit": 4.6, "canary": { "requests": 2000, "failures": failures },
                "baseline": { "requests": 400, "failures": 1 },
            })
        };
        let objectives = full["objectives"].as_array_mut().unwrap();
        objectives.push(slo(
            json!({ "latency": { "quantile": 0.99, "below": "300ms" } }),
            10,
        ));
        objectives.push(slo(json!({ "error_rate": { "below": 0.02 } }), 4));
        let proxy = FakeApi::scripted(move |line| match line {
            NEWEST => Reply::Json(200, json!({ "releases": [full.clone()] })),
            _ => Reply::Json(200, service(9, true)),
        });
        let explained = proxy.run(&["explain", "shop"]).code(0).out;
        for text in [
            "only the hold of the step, its minimum number of requests, failures compared with the \
             baseline's past, a gate and the fixed limits count now.\n",
            "\n99 % of responses within 300ms\n  Slow: 0.500 % of 2,000 requests on the canary, \
             0.250 % of 400 requests",
            "\nless than 2 % failures\n  Failures: 0.200 % of 2,000 requests on the canary",
        ] {
            assert!(explained.contains(text), "{text} is missing: {explained}");
        }
        assert!(
            !explained.contains("still needs") && !explained.contains("for advancing"),
            "{explained}"
        );
    }
}
