//! Bad releases that no comparison can see: at full weight, behind rescues, by requests that hang
//! or that clients give up. And releases that must wait instead of ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Client, Proxy, Upstream, eventually, shop};

/// A service whose release has one step, 100, with what a case wants otherwise.
fn at_once(blue: &Upstream, green: &Upstream, otherwise: &[(&str, Value)]) -> Value {
    let mut shop = shop(blue, green);
    shop["release"] = json!({
        "steps": [100], "bake": "10ms", "final_bake": "1s", "min_requests": 20,
        "objectives": [{ "error_rate": {} }], "harm_budget": "20pp",
    });
    for (key, value) in otherwise {
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

/// What is waited for, if something is.
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
fn a_canary_whose_failures_are_all_rescued_is_rolled_back_at_full_weight() {
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
    // A request that is drawn for the baseline and moved by the step while it waits has no copy
    // that could be sent again.
    eventually("it has the users", || phase(&proxy) == "baking");
    let mut client = proxy.client();
    eventually("it ends", || {
        assert_eq!(client.get("/").status, 200, "the baseline answers");
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
fn by_default_few_failures_at_full_weight_suffice() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.answer("503 Oh", "", "")),
    );
    let proxy = Proxy::with_shop(at_once(&blue, &green, &[]));
    let mut client = proxy.client();
    (0..50).for_each(|_| drop(client.get("/").expect(200)));
    start(&proxy, &json!({ "canary": "green" }));
    eventually("it ends", || {
        client.get("/");
        phase(&proxy) == "rolled_back"
    });
    rolled_back_by(&proxy, &["error_rate", "rescued_budget"]);
    let failed = release(&proxy)["rescued_budget"]["spent"].as_u64().unwrap();
    assert!(failed <= 130, "{failed}");
}

#[test]
fn a_canary_that_never_answers_is_rolled_back_before_it_is_promoted() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.await_hangup()),
    );
    let proxy = Proxy::with_shop(at_once(&blue, &green, &[("final_bake", json!("2s"))]));
    let mut client = proxy.client();
    (0..50).for_each(|_| drop(client.get("/").expect(200)));
    start(&proxy, &json!({ "canary": "green" }));
    eventually("it has the users", || phase(&proxy) == "baking");
    let mut open: Vec<Client> = (0..120).map(|_| proxy.client()).collect();
    for client in &mut open {
        client.ask("/", "");
    }
    eventually("it ends", || phase(&proxy) != "baking");
    rolled_back_by(&proxy, &["error_rate", "rescued_budget", "budget"]);
    assert_eq!(proxy.get("/").text(), "blue");
}

#[test]
fn nothing_is_promoted_without_traffic_and_the_release_says_so() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(at_once(&blue, &green, &[("final_bake", json!("10ms"))]));
    start(&proxy, &json!({ "canary": "green" }));
    eventually("it waits for traffic", || {
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
    eventually("it is promoted with enough of it", || {
        client.get("/");
        phase(&proxy) == "promoted"
    });
}

#[test]
fn clients_that_give_up_on_a_canary_that_never_answers_are_its_failures() {
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
    eventually("it has users", || phase(&proxy) == "progressing");
    let (proxy, ended) = (&proxy, Arc::new(AtomicBool::new(false)));
    thread::scope(|scope| {
        for _ in 0..8 {
            let ended = Arc::clone(&ended);
            scope.spawn(move || {
                while !ended.load(SeqCst) {
                    let mut client = proxy.client();
                    client.ask("/", "");
                    // Longer than the baseline takes, and shorter than the landmark.
                    thread::sleep(std::time::Duration::from_millis(100));
                }
            });
        }
        eventually("it ends", || phase(proxy) == "rolled_back");
        ended.store(true, SeqCst);
    });
    rolled_back_by(proxy, &["error_rate", "latency", "rescued_budget"]);
    let aborts = &release(proxy)["aborts"];
    assert!(aborts["canary"].as_u64().unwrap() > 0, "{aborts}");
    assert_eq!(aborts["baseline"], 0, "{aborts}");
}

#[test]
fn a_release_that_waits_for_its_time_is_not_ended_by_a_canary_that_is_not_up_yet() {
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
    eventually("green is known to be down", || !healthy());
    start(
        &proxy,
        &json!({ "canary": "green", "start_at": "2100-01-01T00:00:00Z" }),
    );
    // Turns follow each other within a tick, so the brakes have looked by the time that health has
    // changed again.
    up.store(true, SeqCst);
    eventually("green is up", healthy);
    up.store(false, SeqCst);
    eventually("and down again", || !healthy());
    assert_eq!(phase(&proxy), "pending");
}

#[test]
fn while_the_canary_is_full_the_release_holds_for_that() {
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
    eventually("it has users", || phase(&proxy) == "progressing");
    let mut slow = Vec::new();
    eventually("slow uploads hold the canary", || {
        let mut client = proxy.client();
        client.send("POST /slow HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\nhalf");
        slow.push(client);
        green.count() >= 2
    });
    let mut client = proxy.client();
    eventually("it holds for that", || {
        for _ in 0..20 {
            assert_eq!(
                client.get("/").text(),
                "blue",
                "the others go to the baseline"
            );
        }
        waits_for(&proxy, "canary_full")
    });
    drop(slow);
    eventually("it goes on", || {
        client.get("/");
        phase(&proxy) == "promoted"
    });
}
