//! Faults that a comparison of the arms cannot detect: at 100 %, masked by failover, requests that
//! hang or that clients abort. Releases that must hold instead of ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Client, Proxy, Upstream, eventually, shop};

/// A service whose release has one step at 100 %, with the options of the case.
fn at_once(blue: &Upstream, green: &Upstream, options: &[(&str, Value)]) -> Value {
    let mut shop = shop(blue, green);
    shop["release"] = json!({
        "steps": [100], "bake": "10ms", "final_bake": "1s", "min_requests": 20,
        "objectives": [{ "error_rate": {} }], "harm_budget": "20pp",
    });
    for (key, value) in options {
        shop["release"][*key] = value.clone();
    }
    shop
}

fn start(proxy: &Proxy, body: &Value) {
    let headers = "Content-Type: application/json\r\n";
    proxy
        .admin(
            "POST",
            "/api/v1/services/shop/releases",
            headers,
            Some(&body.to_string()),
        )
        .expect(201);
}

fn release(proxy: &Proxy) -> Value {
    proxy
        .admin("GET", "/api/v1/releases/shop-1", "", None)
        .expect(200)
        .json()
}

fn phase(proxy: &Proxy) -> String {
    release(proxy)["phase"].as_str().unwrap().to_owned()
}

/// Whether the release waits for this kind of condition.
fn waits_for(proxy: &Proxy, kind: &str) -> bool {
    release(proxy)["waiting_for"]["kind"] == kind
}

#[track_caller]
fn rolled_back_by(proxy: &Proxy, objectives: &[&str]) {
    let ended = release(proxy);
    let objective = ended["outcome"]["objective"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(ended["phase"], "rolled_back", "{ended}");
    assert!(
        objectives.contains(&objective.as_str()),
        "{objective}: {ended}"
    );
}

#[test]
fn a_canary_whose_failures_all_fail_over_is_rolled_back_at_full_weight() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.answer("500 Oh", "", "")),
    );
    let proxy = Proxy::with_shop(at_once(
        &blue,
        &green,
        &[
            ("min_canary_failures", json!(1_000)),
            ("rescued_budget", json!(40)),
            ("final_bake", json!("1h")),
        ],
    ));
    start(&proxy, &json!({ "canary": "green" }));
    // A request assigned to the baseline and moved by the step while it waits has no replay copy.
    eventually("the canary has all traffic", || phase(&proxy) == "baking");
    let mut client = proxy.client();
    eventually("the release ends", || {
        assert_eq!(client.get("/").status, 200, "the baseline responds");
        phase(&proxy) != "baking" && phase(&proxy) != "preflight" && phase(&proxy) != "pending"
    });
    rolled_back_by(&proxy, &["rescued_budget"]);
    let ended = release(&proxy);
    assert_eq!(ended["user_visible_failures"], 0);
    let failed = ended["rescued_budget"]["spent"].as_u64().unwrap();
    assert!((40..=70).contains(&failed), "{ended}");
    assert_eq!(ended["rescued_budget"]["limit"], 40);
}

#[test]
fn by_default_few_failures_at_full_weight_roll_the_canary_back() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.answer("503 Oh", "", "")),
    );
    let proxy = Proxy::with_shop(at_once(&blue, &green, &[]));
    let mut client = proxy.client();
    (0..50).for_each(|_| drop(client.get("/").expect(200)));
    start(&proxy, &json!({ "canary": "green" }));
    eventually("the release ends", || {
        client.get("/");
        phase(&proxy) == "rolled_back"
    });
    rolled_back_by(&proxy, &["error_rate", "rescued_budget"]);
    let failed = release(&proxy)["rescued_budget"]["spent"].as_u64().unwrap();
    assert!(failed <= 130, "{failed}");
}

#[test]
fn a_canary_that_never_responds_is_rolled_back_before_promotion() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.await_hangup()),
    );
    let proxy = Proxy::with_shop(at_once(&blue, &green, &[("final_bake", json!("2s"))]));
    let mut client = proxy.client();
    (0..50).for_each(|_| drop(client.get("/").expect(200)));
    start(&proxy, &json!({ "canary": "green" }));
    eventually("the canary has all traffic", || phase(&proxy) == "baking");
    let mut open: Vec<Client> = (0..120).map(|_| proxy.client()).collect();
    for client in &mut open {
        client.ask("/", "");
    }
    eventually("the release ends", || phase(&proxy) != "baking");
    rolled_back_by(&proxy, &["error_rate", "rescued_budget", "budget"]);
    assert_eq!(proxy.get("/").text(), "blue");
}

#[test]
fn a_release_without_traffic_waits_for_traffic_and_is_not_promoted() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(at_once(&blue, &green, &[("final_bake", json!("10ms"))]));
    start(&proxy, &json!({ "canary": "green" }));
    eventually("the release waits for traffic", || {
        waits_for(&proxy, "too_little_traffic")
    });
    let detail = release(&proxy)["waiting_for"]["detail"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        detail.contains("0 requests") && detail.contains("20"),
        "{detail}"
    );
    let mut client = proxy.client();
    for _ in 0..19 {
        assert_eq!(client.get("/").text(), "green");
    }
    assert_eq!(phase(&proxy), "baking");
    eventually("the release is promoted after enough requests", || {
        client.get("/");
        phase(&proxy) == "promoted"
    });
}

#[test]
fn client_aborts_count_against_a_canary_that_never_responds() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.await_hangup()),
    );
    let proxy = Proxy::with_shop(at_once(
        &blue,
        &green,
        &[("steps", json!([50])), ("bake", json!("1h"))],
    ));
    let mut client = proxy.client();
    (0..100).for_each(|_| drop(client.get("/").expect(200)));
    start(&proxy, &json!({ "canary": "green" }));
    eventually("the canary has traffic", || phase(&proxy) == "progressing");
    let (proxy, ended) = (&proxy, Arc::new(AtomicBool::new(false)));
    thread::scope(|scope| {
        for _ in 0..8 {
            let ended = Arc::clone(&ended);
            scope.spawn(move || {
                while !ended.load(SeqCst) {
                    let mut client = proxy.client();
                    client.ask("/", "");
                    // Longer than a response of the baseline takes, shorter than the maturity age.
                    thread::sleep(std::time::Duration::from_millis(100));
                }
            });
        }
        eventually("the release ends", || phase(proxy) == "rolled_back");
        ended.store(true, SeqCst);
    });
    rolled_back_by(proxy, &["error_rate", "latency", "rescued_budget"]);
    let aborts = &release(proxy)["aborts"];
    assert!(aborts["canary"].as_u64().unwrap() > 0, "{aborts}");
    assert_eq!(aborts["baseline"], 0, "{aborts}");
}

#[test]
fn a_scheduled_release_is_not_ended_by_an_unhealthy_canary() {
    let up = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&up);
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(move |call| match switch.load(SeqCst) {
            true => call.ok("green"),
            false => call.answer("503 Not Yet", "", ""),
        }),
    );
    let mut shop = at_once(&blue, &green, &[("final_bake", json!("10ms"))]);
    shop["health"] =
        json!({ "path": "/", "interval": "20ms", "unhealthy_after": 1, "healthy_after": 1 });
    let proxy = Proxy::with_shop(shop);
    let healthy = || proxy.service()["upstreams"]["green"]["endpoints"][0]["healthy"] == true;
    eventually("green is unhealthy", || !healthy());
    start(
        &proxy,
        &json!({ "canary": "green", "start_at": "2100-01-01T00:00:00Z" }),
    );
    // Inputs are applied within a tick, so the SLO guards are evaluated before health changes
    // again.
    up.store(true, SeqCst);
    eventually("green is healthy", healthy);
    up.store(false, SeqCst);
    eventually("green is unhealthy again", || !healthy());
    assert_eq!(phase(&proxy), "pending");
}

#[test]
fn a_release_holds_while_the_canary_is_at_its_request_limit() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| {
            let _ = call.body();
            call.ok("green");
        }),
    );
    let proxy = Proxy::with_shop(at_once(
        &blue,
        &green,
        &[("steps", json!([50])), ("canary_in_flight_max", json!(2))],
    ));
    start(&proxy, &json!({ "canary": "green" }));
    eventually("the canary has traffic", || phase(&proxy) == "progressing");
    let mut slow = Vec::new();
    eventually("slow uploads occupy the canary", || {
        let mut client = proxy.client();
        client.send("POST /slow HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\nhalf");
        slow.push(client);
        green.count() >= 2
    });
    let mut client = proxy.client();
    eventually("the release holds because the canary is full", || {
        for _ in 0..20 {
            assert_eq!(
                client.get("/").text(),
                "blue",
                "further requests go to the baseline"
            );
        }
        waits_for(&proxy, "canary_full")
    });
    drop(slow);
    eventually("the release continues", || {
        client.get("/");
        phase(&proxy) == "promoted"
    });
}
