//! Whole releases through the running program, started and awaited as a pipeline does.

use std::process::Output;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Proxy, Reserved, Upstream, eventually, shop};
use crate::verbs::{ends_with, weighbridge};

/// A service whose releases need a few hundred requests, with the options of the case.
fn service(blue: &Upstream, green: &Upstream, options: &[(&str, Value)]) -> Value {
    let mut shop = shop(blue, green);
    shop["release"] = json!({
        "steps": [20, 50],
        "objectives": [{ "error_rate": { "worse_by": "0.05pp" } }],
        "harm_budget": "20pp",
        "bake": "10ms",
        "final_bake": "0s",
        "min_requests": 20,
    });
    for (key, value) in options {
        shop["release"][*key] = value.clone();
    }
    shop
}

/// Starts a release and waits for its end; passes each response of the traffic meanwhile to `user`.
fn release(proxy: &Proxy, mut user: impl FnMut(u16, String)) -> (Output, Value) {
    let start = [
        "release",
        "start",
        "shop",
        "green",
        "--version",
        "42",
        "--wait",
        "--timeout",
        "2m",
    ];
    let ended = thread::scope(|scope| {
        let waiting = scope.spawn(|| weighbridge(proxy, &start));
        while !waiting.is_finished() {
            let response = proxy.get("/");
            user(response.status, response.text());
        }
        waiting.join().unwrap()
    });
    let release = proxy
        .admin("GET", "/api/v1/releases/shop-1", "", None)
        .expect(200)
        .json();
    (ended, release)
}

#[test]
fn a_good_version_passes_preflight_and_is_promoted() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| match call.path() {
            "/smoke?deep=1" => call.answer("204 No Content", "", ""),
            _ => call.ok("green"),
        }),
    );
    let preflight = json!({
        "requests": [
            "/ready",
            { "path": "/smoke?deep=1", "method": "POST",
                "headers": { "X-Smoke": "1" }, "expect": 204, "timeout": "20s" },
        ],
        "timeout": "20s",
    });
    let proxy = Proxy::with_shop(service(&blue, &green, &[("preflight", preflight)]));
    let (ended, release) = release(&proxy, |status, _| assert_eq!(status, 200));
    ends_with(&ended, 0);
    assert_eq!(
        (&release["phase"], &release["version"]),
        (&json!("promoted"), &json!("42"))
    );
    let requests = green.seen();
    let first: Vec<_> = requests
        .iter()
        .take(3)
        .map(|request| (request.method.as_str(), request.target.as_str()))
        .collect();
    assert_eq!(
        first,
        [("GET", "/ready"), ("POST", "/smoke?deep=1"), ("GET", "/")]
    );
    assert_eq!(requests[1].header("x-smoke").as_deref(), Some("1"));
    assert_eq!(
        (proxy.get("/").text(), &proxy.service()["baseline"]),
        ("green".to_owned(), &json!("green"))
    );
    let phase = [("service", "shop"), ("phase", "promoted")];
    assert_eq!(proxy.metrics().sum("release_phase", &phase), 1.0);
    let rollback = weighbridge(&proxy, &["rollback", "shop"]);
    ends_with(&rollback, 0);
    assert_eq!(proxy.get("/").text(), "blue", "blue is still the baseline");
}

#[test]
fn a_version_that_fails_its_preflight_gets_no_traffic() {
    let slow = json!([{ "path": "/slow", "timeout": "1h" }]);
    let cases = [
        (
            json!({ "requests": ["/broken"] }),
            "status 500, expected 200 to 399",
        ),
        (
            json!({ "requests": [{ "path": "/ready", "expect": "300-399" }] }),
            "status 200, expected 300 to 399",
        ),
        (
            json!({ "requests": [{ "path": "/slow", "timeout": "50ms" }] }),
            "no response within 50ms",
        ),
        (
            json!({ "requests": slow, "timeout": "50ms" }),
            "took longer than 50ms",
        ),
    ];
    for (preflight, why) in cases {
        let (blue, green) = (
            Upstream::named("blue"),
            Upstream::start(|call| match call.path() {
                "/broken" => call.answer("500 Oh", "", ""),
                "/slow" => call.await_hangup(),
                _ => call.ok("green"),
            }),
        );
        let proxy = Proxy::with_shop(service(&blue, &green, &[("preflight", preflight)]));
        let (ended, release) = release(&proxy, |_, text| assert_eq!(text, "blue"));
        ends_with(&ended, 3);
        let outcome = &release["outcome"];
        assert_eq!(
            (&outcome["verdict"], &outcome["objective"]),
            (&json!("rolled_back"), &json!("preflight"))
        );
        assert!(
            outcome["reason"].as_str().unwrap().contains(why),
            "{outcome}"
        );
        assert!(green.seen().iter().all(|request| request.target != "/"));
        let labels = [("service", "shop"), ("reason", "preflight")];
        assert_eq!(proxy.metrics().sum("rollbacks_total", &labels), 1.0);
    }
}

#[test]
fn without_preflight_requests_every_endpoint_has_to_accept_a_connection() {
    let (blue, green, closed_port) = (
        Upstream::named("blue"),
        Upstream::named("green"),
        Reserved::new(),
    );
    let mut shop = service(&blue, &green, &[]);
    shop["upstreams"]["green"]["endpoints"] = json!([green.address, closed_port.address]);
    let proxy = Proxy::with_shop(shop);
    let (ended, release) = release(&proxy, |_, text| assert_eq!(text, "blue"));
    ends_with(&ended, 3);
    let reason = release["outcome"]["reason"].as_str().unwrap();
    assert!(
        reason.contains(&format!("{} took no connection", closed_port.address)),
        "{reason}"
    );
    assert_eq!(green.count(), 0);
}

#[test]
fn a_bad_version_is_rolled_back_and_safe_requests_fail_over() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.answer("500 Oh", "", "")),
    );
    let proxy = Proxy::with_shop(service(&blue, &green, &[("rescue", json!("safe"))]));
    let mut failures = 0;
    let (ended, release) = release(&proxy, |status, _| failures += u64::from(status != 200));
    ends_with(&ended, 3);
    assert_eq!(release["phase"], "rolled_back");
    assert_eq!(proxy.get("/").text(), "blue");
    let rescued = release["rescued"].as_u64().unwrap();
    assert!(rescued > 0, "{release}");
    assert_eq!(release["user_visible_failures"], failures);
    eventually("the failovers are counted", || {
        proxy.metrics().sum("rescues_total", &[("service", "shop")]) == rescued as f64
    });
    let evidence = proxy
        .admin("GET", "/api/v1/releases/shop-1/evidence", "", None)
        .expect(200)
        .json();
    assert_eq!(evidence["release"]["outcome"], release["outcome"]);
    assert!(
        !evidence["samples"]["canary"].as_array().unwrap().is_empty(),
        "{evidence}"
    );
    let verdict = String::from_utf8(weighbridge(&proxy, &["explain", "shop"]).stdout).unwrap();
    assert!(verdict.contains("shop-1"), "{verdict}");
}

#[test]
fn nothing_fails_over_if_the_plan_disables_it() {
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(|call| call.answer("500 Oh", "", "")),
    );
    let proxy = Proxy::with_shop(service(
        &blue,
        &green,
        &[("rescue", json!("off")), ("budget", json!(3))],
    ));
    let mut failures = 0;
    let (ended, release) = release(&proxy, |status, _| failures += u64::from(status != 200));
    ends_with(&ended, 3);
    assert_eq!(
        (&release["rescued"], &release["user_visible_failures"]),
        (&json!(0), &json!(failures))
    );
    assert!((1..=20).contains(&failures), "{failures}");
    assert_eq!(proxy.get("/").text(), "blue");
}

/// A sticky service whose canary fails for few users; failover keeps the visible failures from
/// exhausting the budget.
fn sticky(blue: &Upstream, green: &Upstream, sticky: Value) -> Proxy {
    let mut shop = service(
        blue,
        green,
        &[("harm_budget", json!("2pp")), ("budget", json!(1_000))],
    );
    shop["sticky"] = sticky;
    Proxy::with_shop(shop)
}

/// Starts a release, sends `user`'s requests until it ends, and returns its final state.
fn awaited(proxy: &Proxy, mut user: impl FnMut(u64)) -> Value {
    let start = [
        "release",
        "start",
        "shop",
        "green",
        "--wait",
        "--timeout",
        "2m",
    ];
    thread::scope(|scope| {
        let waiting = scope.spawn(|| weighbridge(proxy, &start));
        let users = (0..).take_while(|_| !waiting.is_finished());
        users.for_each(&mut user);
        waiting.join().unwrap();
    });
    let release = proxy.admin("GET", "/api/v1/releases/shop-1", "", None);
    release.expect(200).json()
}

#[test]
fn a_sticky_version_that_fails_one_first_visit_in_eight_is_rolled_back() {
    let visits = AtomicU64::new(0);
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(move |call| match call.request.header("cookie") {
            None if visits.fetch_add(1, Ordering::Relaxed).is_multiple_of(8) => {
                call.answer("500 Oh", "", "")
            }
            _ => call.ok("green"),
        }),
    );
    let proxy = sticky(&blue, &green, json!({ "cookie": "wb" }));
    let release = awaited(&proxy, |_| {
        let mut client = proxy.client();
        let cookie = client
            .ask("/", "")
            .receive()
            .header("set-cookie")
            .unwrap_or_default();
        let cookie = format!(
            "Cookie: {}\r\n",
            cookie.split(';').next().unwrap_or_default()
        );
        for _ in 0..4 {
            client.ask("/", &cookie).receive();
        }
    });
    assert_eq!(release["phase"], "rolled_back", "{release}");
    assert_eq!(release["outcome"]["objective"], "error_rate", "{release}");
    assert_eq!(release["objectives"][0]["unit"], "user", "{release}");
}

#[test]
fn a_version_that_fails_for_one_user_in_ten_is_rolled_back_despite_many_good_requests() {
    let broken = |user: &str| user.ends_with('0');
    let (blue, green) = (
        Upstream::named("blue"),
        Upstream::start(move |call| match call.request.header("x-user-id") {
            Some(user) if broken(&user) => call.answer("500 Oh", "", ""),
            _ => call.ok("green"),
        }),
    );
    let proxy = sticky(&blue, &green, json!({ "header": "X-User-Id" }));
    let release = awaited(&proxy, |at| {
        let mut client = proxy.client();
        let user = format!("X-User-Id: {at}\r\n");
        for _ in 0..5 {
            client.ask("/", &user).receive();
        }
    });
    assert_eq!(release["phase"], "rolled_back", "{release}");
    let units = &release["objectives"][0]["canary"];
    assert!(
        units["requests"].as_u64() < release["canary_requests"].as_u64(),
        "{release}"
    );
}
