//! Releases whose baseline goes down and recovers: the canary serves all traffic meanwhile, and no
//! evidence is collected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::{Value, json};

use crate::harness::{Client, Proxy, Upstream, eventually, settled, shop, until};
use crate::verbs::{ends_with, weighbridge};

/// Behaviour of an upstream, set by the case.
#[derive(Default)]
struct Switches {
    unhealthy: AtomicBool,
    fails: AtomicBool,
}

fn upstream(name: &'static str) -> (Upstream, Arc<Switches>) {
    let switches = Arc::new(Switches::default());
    let state = Arc::clone(&switches);
    let upstream = Upstream::start(move |call| match call.path() {
        "/health" if state.unhealthy.load(SeqCst) => call.answer("503 Service Unavailable", "", ""),
        "/health" => call.ok("well"),
        _ if state.fails.load(SeqCst) => call.answer("500 Internal Server Error", "", name),
        _ => call.ok(name),
    });
    (upstream, switches)
}

fn released(blue: &Upstream, green: &Upstream) -> Value {
    let mut shop = shop(blue, green);
    shop["health"] = json!({
        "path": "/health", "interval": "20ms", "timeout": "5s",
            "unhealthy_after": 1, "healthy_after": 1,
    });
    shop["tester"] = json!({ "header": "X-Version" });
    shop["release"] = json!({
        "steps": [20], "bake": "1h", "min_requests": 20, "budget": 5, "rescued_budget": 8,
        "objectives": [{ "error_rate": {} }],
    });
    shop
}

fn start(proxy: &Proxy) {
    let headers = "Content-Type: application/json\r\n";
    let path = "/api/v1/services/shop/releases";
    proxy
        .admin("POST", path, headers, Some(r#"{"canary": "green"}"#))
        .expect(201);
    eventually("the canary has users", || {
        release(proxy)["phase"] == "progressing"
    });
}

fn release(proxy: &Proxy) -> Value {
    proxy
        .admin("GET", "/api/v1/releases/shop-1", "", None)
        .expect(200)
        .json()
}

fn effective(proxy: &Proxy, upstream: &str) -> f64 {
    proxy.service()["weights"]["effective"][upstream]
        .as_f64()
        .unwrap()
}

fn goes_down(proxy: &Proxy, blue: &Switches) {
    blue.unhealthy.store(true, SeqCst);
    eventually("the canary takes over the weight", || {
        effective(proxy, "green") == 100.0
    });
    eventually("the release holds for the baseline", || holds(proxy));
}

fn recovers(proxy: &Proxy, blue: &Switches) {
    blue.unhealthy.store(false, SeqCst);
    eventually("the baseline has its weight again", || {
        effective(proxy, "blue") > 0.0
    });
    eventually("the release continues", || {
        release(proxy)["phase"] == "progressing"
    });
}

fn holds(proxy: &Proxy) -> bool {
    let release = release(proxy);
    release["phase"] == "waiting" && release["waiting_for"]["kind"] == "baseline_down"
}

/// Green responds to every request, whichever upstream it is assigned to.
fn all_by_green(client: &mut Client, status: u16) {
    for _ in 0..50 {
        assert_eq!(client.get("/").expect(status).text(), "green");
    }
}

fn journalled(proxy: &Proxy, action: &str, text: &str) -> bool {
    let journal = proxy
        .admin("GET", "/api/v1/audit?limit=100", "", None)
        .expect(200)
        .text();
    let journal: Value = serde_json::from_str(&journal).unwrap();
    let entries = journal["entries"]
        .as_array()
        .or(journal.as_array())
        .unwrap();
    entries
        .iter()
        .any(|entry| entry["action"] == action && entry.to_string().contains(text))
}

/// Rollback works again, and an upstream that was rolled back takes no traffic of a failed
/// baseline.
fn a_canary_that_was_rolled_back_gets_nothing(
    proxy: &Proxy,
    client: &mut Client,
    (green, green_state): (&Upstream, &Switches),
    blue_state: &Switches,
) {
    green_state.fails.store(true, SeqCst);
    eventually("the canary is rolled back", || {
        (0..20).for_each(|_| drop(client.get("/")));
        release(proxy)["phase"] == "rolled_back"
    });
    green_state.fails.store(false, SeqCst);
    blue_state.unhealthy.store(true, SeqCst);
    eventually("the baseline is down", || client.get("/").status == 503);
    let before = green
        .seen()
        .iter()
        .filter(|request| request.target == "/")
        .count();
    (0..50).for_each(|_| drop(client.get("/").expect(503)));
    let after = green
        .seen()
        .iter()
        .filter(|request| request.target == "/")
        .count();
    assert_eq!(before, after, "green was rolled back");
}

#[test]
fn the_weight_of_a_failed_baseline_goes_to_the_canary_and_the_release_holds() {
    let ((blue, blue_state), (green, green_state)) = (upstream("blue"), upstream("green"));
    let shop = released(&blue, &green);
    let mut proxy =
        Proxy::start(json!({ "store": { "path": "state" }, "services": { "shop": shop } }));
    start(&proxy);
    let mut client = proxy.client();
    eventually("both have traffic", || {
        (0..50).for_each(|_| drop(client.get("/").expect(200)));
        release(&proxy)["canary_requests"].as_u64() > Some(10)
    });

    goes_down(&proxy, &blue_state);
    let judged = || {
        let release = release(&proxy);
        (
            release["canary_requests"].clone(),
            release["baseline_requests"].clone(),
        )
    };
    let before = settled("earlier requests are judged", judged);
    all_by_green(&mut client, 200);
    assert_eq!(proxy.service()["weights"]["intended"]["blue"], 80.0);
    let gauge = |name: &str| {
        proxy
            .metrics()
            .sum("upstream_weight_ratio", &[("upstream", name)])
    };
    eventually("the metrics report it", || {
        (gauge("blue"), gauge("green")) == (0.0, 1.0)
    });
    assert!(journalled(
        &proxy,
        "release_waiting",
        "no endpoint of the baseline"
    ));
    let tester = client.ask("/", "X-Version: blue\r\n").receive();
    assert_eq!(
        tester.status, 503,
        "a tester's request fell back to the other version"
    );

    // Failures during the outage are no evidence, and there is no other upstream to fail over to.
    green_state.fails.store(true, SeqCst);
    all_by_green(&mut client, 500);
    green_state.fails.store(false, SeqCst);
    all_by_green(&mut client, 200);
    assert_eq!(settled("nothing is judged", judged), before);
    assert!(holds(&proxy));
    assert_eq!(release(&proxy)["budget"]["spent"], 0);

    proxy.kill();
    proxy.run();
    eventually("the release holds after a restart", || {
        holds(&proxy) && effective(&proxy, "green") == 100.0
    });
    let mut client = proxy.client();
    all_by_green(&mut client, 200);

    recovers(&proxy, &blue_state);
    assert_eq!(effective(&proxy, "blue"), 80.0);
    assert!(journalled(
        &proxy,
        "release_continued",
        "the baseline has a healthy endpoint again"
    ));
    eventually("blue responds", || {
        client.get("/").expect(200).text() == "blue"
    });

    a_canary_that_was_rolled_back_gets_nothing(
        &proxy,
        &mut client,
        (&green, &green_state),
        &blue_state,
    );
}

#[test]
fn sticky_users_return_to_a_recovered_baseline() {
    let ((blue, blue_state), (green, _)) = (upstream("blue"), upstream("green"));
    let mut shop = released(&blue, &green);
    shop["sticky"] = json!({ "cookie": "wb" });
    let proxy = Proxy::with_shop(shop);
    start(&proxy);
    let mut client = proxy.client();
    let cookie = |response: &crate::harness::Response| {
        let cookie = response.header("set-cookie").unwrap();
        format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
    };
    let users: Vec<(String, String)> = (0..40)
        .map(|_| {
            let response = client.get("/");
            (cookie(&response), response.expect(200).text())
        })
        .collect();
    assert!(users.iter().any(|(_, at)| at == "blue"));
    goes_down(&proxy, &blue_state);
    for (cookie, _) in &users {
        assert_eq!(
            client.ask("/", cookie).receive().expect(200).text(),
            "green"
        );
    }
    blue_state.unhealthy.store(false, SeqCst);
    eventually("the baseline has its weight again", || {
        effective(&proxy, "blue") == 80.0
    });
    for (cookie, at) in &users {
        assert_eq!(client.ask("/", cookie).receive().expect(200).text(), *at);
    }
}

#[test]
fn an_outage_of_both_versions_does_not_count_against_the_canary() {
    let ((blue, blue_state), (green, green_state)) = (upstream("blue"), upstream("green"));
    let proxy = Proxy::with_shop(released(&blue, &green));
    start(&proxy);
    let mut client = proxy.client();
    goes_down(&proxy, &blue_state);
    green_state.unhealthy.store(true, SeqCst);
    eventually("both are down", || effective(&proxy, "blue") == 80.0);
    (0..100).for_each(|_| drop(client.get("/").expect(503)));
    assert!(holds(&proxy), "{}", release(&proxy));
    green_state.unhealthy.store(false, SeqCst);
    eventually("green has recovered", || {
        effective(&proxy, "green") == 100.0
    });
    all_by_green(&mut client, 200);
    assert!(holds(&proxy), "{}", release(&proxy));
    recovers(&proxy, &blue_state);
}

#[test]
fn a_release_held_by_an_outage_is_replayed_with_the_same_result() {
    let ((blue, blue_state), (green, green_state)) = (upstream("blue"), upstream("green"));
    let mut shop = released(&blue, &green);
    shop["release"]["steps"] = json!([20, 60]);
    shop["release"]["bake"] = json!("10ms");
    shop["release"]["harm_budget"] = json!("20pp");
    // By the comparison, which is what a replay repeats.
    shop["release"]["budget"] = json!(1_000);
    shop["release"]["rescued_budget"] = json!(1_000);
    let proxy = Proxy::start(json!({ "store": { "path": "state" }, "services": { "shop": shop } }));
    start(&proxy);
    let mut client = proxy.client();
    goes_down(&proxy, &blue_state);
    all_by_green(&mut client, 200);
    blue_state.unhealthy.store(false, SeqCst);
    eventually("the release is at its second step", || {
        (0..20).for_each(|_| drop(client.get("/").expect(200)));
        release(&proxy)["step"] == 2
    });
    goes_down(&proxy, &blue_state);
    all_by_green(&mut client, 200);
    blue_state.unhealthy.store(false, SeqCst);
    eventually("the baseline has its weight again", || {
        effective(&proxy, "blue") == 40.0
    });
    green_state.fails.store(true, SeqCst);
    eventually("the canary is rolled back", || {
        (0..20).for_each(|_| drop(client.get("/")));
        release(&proxy)["phase"] == "rolled_back"
    });
    let path = "/api/v1/releases/shop-1/recording";
    let recording = until("the recording is complete", || {
        let text = proxy.admin("GET", path, "", None).expect(200).text();
        text.contains("\"end\"").then_some(text)
    });
    let file = proxy.directory.path().join("recording.jsonl");
    std::fs::write(&file, &recording).unwrap();
    let replayed = weighbridge(&proxy, &["replay", file.to_str().unwrap()]);
    ends_with(&replayed, 0);
    let replayed: Value = serde_json::from_slice(&replayed.stdout).unwrap();
    assert_eq!(replayed["verdict"], "rolled_back", "{replayed}");
    assert_eq!(replayed["step"], 2, "{replayed}");
}
