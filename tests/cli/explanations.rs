//! `explain`: why a release is where it is, in words.

use serde_json::{Value, json};

use super::releases::{NEWEST, ended, release};
use super::service;
use super::standin::{Reply, StandIn};

#[test]
fn why_a_release_is_where_it_is_is_told_in_words() {
    let proxy = StandIn::playing(|line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [release("progressing", 1, 5.0)] })),
        _ => Reply::Json(200, service(9, true)),
    });
    let told = proxy.run(&["explain", "shop"]).code(0);
    assert_eq!(
        told.out,
        "shop-12 of shop is progressing, step 1 of 3, since 2026-11-25T09:01:00Z. green has 5 % \
         of the traffic, blue the rest.\n\nWhat it still needs is evidence that the canary is \
         good enough in error rate.\n\nerror rate (ratio 1.1, worse_by 0.0005)\n\x20 Failures: \
         0.249 % of 1,204 requests on the canary, 0.201 % of 22,912 requests on the \
         baseline.\n\x20 Beyond the allowed ratio: +0.030 percentage points, surely within -0.400 \
         and +0.600.\n\x20 Against the canary: ln e = 0.25 of 5.30; at the limit it is taken \
         out.\n\x20 For going on: ln e = 1.50 of 3.00; about 2,400 more canary requests are \
         needed, which takes 3 min at the present rate.\n\nlatency\n\x20 Against the canary: ln e \
         = -0.50 of 5.30; at the limit it is taken out.\n\x20 For going on: ln e = 3.50 of 3.00; \
         which is enough.\n\nUsers saw 2 failures of the canary, the baseline answered 1 instead. \
         The budget is 20; 18 more, beyond what the baseline's rate and chance explain, would \
         take the canary out at once.\n"
    );
    let proxy = StandIn::playing(|line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [ended("rolled_back")] })),
        _ => Reply::Json(200, service(9, true)),
    });
    let told = proxy.run(&["explain", "shop"]).code(0);
    assert!(
        told.out
            .contains("Decided by error rate: 12 of 400 failed."),
        "{}",
        told.out
    );
    assert!(!told.out.contains("For going on"), "{}", told.out);
}

#[test]
fn what_is_still_missing_and_how_it_goes_on_is_told_in_words() {
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
        objectives
            .push(json!({ "objective": "slo", "margins": margins, "share": 1.0, "log_e": 0.0, "log_limit": 4.6 }));
    }
    let proxy = StandIn::playing(move |line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [paused.clone()] })),
        _ => Reply::Json(200, service(9, true)),
    });
    let told = proxy.run(&["explain", "shop"]).code(0);
    for text in [
        "It waits (resume): paused by paul: lunch. It goes on after `weighbridge release resume`;",
        "What it still needs is evidence that the canary is good enough in error rate and \
         latency.\n",
        "\nThe step has had its time and lacks traffic: 37 of 1,000 requests of the canary at \
         this step.\n",
        "\nless than 2 % failures\n",
        "\n99 % of answers within 300ms\n",
    ] {
        assert!(told.out.contains(text), "{text} is missing: {}", told.out);
    }
}

#[test]
fn a_canary_that_was_slower_in_the_last_seconds_is_told_to_wait_for_that() {
    let mut last = release("progressing", 2, 25.0);
    last["objectives"][0]["advance_log_e"] = json!(3.1);
    last["objectives"][1]["slower_lately"] = json!(true);
    let proxy = StandIn::playing(move |line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [last.clone()] })),
        _ => Reply::Json(200, service(9, true)),
    });
    let told = proxy.run(&["explain", "shop"]).code(0);
    for text in [
        "What it still needs is evidence that the canary is good enough in latency.\n",
        "For going on: ln e = 3.50 of 3.00; which is enough, but the canary was slower than is \
         allowed in the last seconds",
    ] {
        assert!(told.out.contains(text), "{text} is missing: {}", told.out);
    }
}

#[test]
fn with_all_traffic_on_the_canary_no_more_evidence_is_asked_for() {
    for phase in ["baking", "waiting"] {
        let mut full = release(phase, 3, 100.0);
        let slo = |margins: Value, failures: u64| {
            json!({ "objective": "slo", "margins": margins, "share": 1.0, "log_e": 0.0, "log_limit": 4.6,
                "canary": { "requests": 2000, "failures": failures }, "baseline": { "requests": 400, "failures": 1 } })
        };
        let objectives = full["objectives"].as_array_mut().unwrap();
        objectives.push(slo(
            json!({ "latency": { "quantile": 0.99, "below": "300ms" } }),
            10,
        ));
        objectives.push(slo(json!({ "error_rate": { "below": 0.02 } }), 4));
        let proxy = StandIn::playing(move |line| match line {
            NEWEST => Reply::Json(200, json!({ "releases": [full.clone()] })),
            _ => Reply::Json(200, service(9, true)),
        });
        let told = proxy.run(&["explain", "shop"]).code(0).out;
        for text in [
            "only the step's own time, its least number of requests, a gate and the fixed limits \
             count now.\n",
            "\n99 % of answers within 300ms\n  Slow: 0.500 % of 2,000 requests on the canary, \
             0.250 % of 400 requests",
            "\nless than 2 % failures\n  Failures: 0.200 % of 2,000 requests on the canary",
        ] {
            assert!(told.contains(text), "{text} is missing: {told}");
        }
        assert!(
            !told.contains("still needs") && !told.contains("For going on"),
            "{told}"
        );
    }
}
