//! `release status`, `history`, `plan` and the release in `status`.

use std::io::Write;

use serde_json::json;

use super::releases::{RELEASE, ended, release};
use super::service;
use super::standin::{Reply, StandIn};

#[test]
fn release_status_and_history_print_text_or_json() {
    let mut waiting = release("waiting", 1, 5.0);
    waiting["waiting_for"] = json!({
        "kind": "gate", "detail": "business: 1 of 2 approvals", "until": "2026-11-25T10:00:00Z",
    });
    waiting["approvals"] =
        json!([{ "gate": "business", "by": "paul", "at": "2026-11-25T09:01:00Z" }]);
    let list = json!({ "releases": [waiting, ended("rolled_back")] });
    let reply = list.clone();
    let proxy = StandIn::playing(move |_| Reply::Json(200, reply.clone()));
    let status = proxy.run(&["release", "status", "shop"]).code(0);
    for text in [
        "Phase     waiting, step 1 of 3, since 2026-11-25T09:01:00Z\n",
        "Waiting   waits (gate): business: 1 of 2 approvals until 2026-11-25T10:00:00Z\n",
        "Approved  business by paul",
        "Evidence  0.10 of 4.60",
        "Budget    3 of 20 spent; 18 more",
        "Build     5.2\n",
    ] {
        assert!(
            status.out.contains(text),
            "{text} is missing: {}",
            status.out
        );
    }
    assert_eq!(
        proxy
            .run(&["release", "status", "shop", "-o", "json"])
            .code(0)
            .json(),
        list["releases"][0]
    );
    let history = proxy.run(&["release", "history", "shop", "-q"]).code(0);
    assert_eq!(
        history.out,
        "RELEASE  CANARY  VERSION  PHASE                 STARTED               BY  FAILURES  \
         OUTCOME\nshop-12  green   5.2      waiting, step 1 of 3  2026-11-25T09:00:00Z  ci         \
         2\nshop-12  green   5.2      rolled back           2026-11-25T09:00:00Z  ci         2  \
         12 of 400 failed\n"
    );
    let all = ["release", "history", "shop", "--limit", "5", "-o", "json"];
    assert_eq!(proxy.run(&all).code(0).json(), list);
    assert_eq!(
        proxy
            .asked("GET /api/v1/services/shop/releases?limit=5 ")
            .len(),
        1
    );
}

#[test]
fn plan_shows_the_forecast_and_the_worst_case() {
    let detections = json!([
        { "error_rate": 0.01, "requests": 1050, "seconds": 42.0 },
        { "error_rate": 0.05, "requests": 120, "seconds": 4.8 },
        { "error_rate": 1.0, "requests": 6, "seconds": 0.24 },
    ]);
    let idle = json!([{ "error_rate": 0.01, "requests": 210 }, { "error_rate": 0.05 }]);
    let forecast = json!({
        "service": "shop", "requests_per_second": 500.0, "baseline_error_rate": 0.002,
        "steps": [
            { "weight": 5.0, "canary_requests_per_second": 25.0, "requests_to_advance": 4000,
            "seconds_to_advance": 160.0,
              "detections": detections },
            { "weight": 100.0, "canary_requests_per_second": 0.0, "detections": idle },
        ],
        "worst_case": { "budget": 20, "chance": 5, "in_flight": 256, "total": 281 },
        "plan": { "steps": [5, 100] }, "warnings": ["step 2 has no traffic"],
    });
    let reply = forecast.clone();
    let proxy = StandIn::playing(move |_| Reply::Json(200, reply.clone()));
    let planned = proxy.run(&["plan", "shop"]).code(0);
    assert_eq!(
        planned.out,
        "shop: 500.0 requests per second over the last minute, of which 0.200 % fail on the \
         baseline.\n\nSTEP  WEIGHT  CANARY  ADVANCES AFTER          DETECTS 1 %            \
         DETECTS 5 %           DETECTS 100 %\n\x20  1     5 %  25.0/s  3 min (4,000 requests)  \
         42 s (1,050 requests)  4.8 s (120 requests)  0.2 s (6 requests)\n\x20  2   100 %   \
         0.0/s  not automatically       210 requests           budget                -\n\n\
         DETECTS n %: typical time until a canary that fails n % of its requests is rolled back; \
         budget: only the budget detects it.\nWorst case: users see 281 failures beyond the \
         baseline's own rate: 20 of the budget, 5 by chance, 256 in flight.\n"
    );
    assert_eq!(planned.err, "warning: step 2 has no traffic\n");
    assert_eq!(
        proxy.run(&["plan", "shop", "-o", "json"]).code(0).json(),
        forecast
    );
    let mut plan = tempfile::NamedTempFile::new().unwrap();
    plan.write_all(b"steps: [50]\n").unwrap();
    proxy
        .run(&["plan", "shop", "--plan", plan.path().to_str().unwrap()])
        .code(0);
    let asked = proxy.asked("POST /api/v1/services/shop/plan");
    assert_eq!(
        [&asked[0].body, &asked[2].body],
        ["{}", r#"{"plan":{"steps":[50]}}"#]
    );
}

#[test]
fn service_status_includes_the_running_release() {
    let mut shop = service(9, true);
    shop["release"] = json!("shop-12");
    let expected = shop.clone();
    let proxy = StandIn::playing(move |line| match line {
        RELEASE => Reply::Json(200, release("progressing", 1, 5.0)),
        _ => Reply::Json(200, shop.clone()),
    });
    let shown = proxy.run(&["status", "shop"]).code(0);
    let line = "\nRelease   shop-12 progressing, step 1 of 3, green at 5 %, 1,204 canary requests";
    assert!(shown.out.contains(line), "{}", shown.out);
    assert_eq!(
        proxy.run(&["status", "shop", "-o", "json"]).code(0).json(),
        expected
    );
}
