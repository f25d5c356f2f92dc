//! Statistics of the traffic: windows, percentiles, metrics, access log.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Gate, Proxy, Upstream, eventually, shop, until};

#[test]
fn windows_report_rates_and_percentiles() {
    let blue = Upstream::start(|call| match call.path() {
        "/error" => call.answer("503 Service Unavailable", "", ""),
        _ => call.ok("ok"),
    });
    let green = Upstream::named("green");
    let proxy = Proxy::with_shop(shop(&blue, &green));
    let mut client = proxy.client();
    for at in 0..100 {
        client.get(if at % 4 == 0 { "/error" } else { "/" });
    }
    for window in ["10s", "1m", "5m", "since_change"] {
        eventually(&format!("all requests are in {window}"), || {
            proxy.service()["upstreams"]["blue"]["windows"][window]["requests"] == 100
        });
    }
    let service = proxy.service();
    let window = &service["upstreams"]["blue"]["windows"]["1m"];
    assert_eq!(
        (&window["failures"], &window["error_rate"]),
        (&json!(25), &json!(0.25))
    );
    assert_eq!(window["classes"], json!({ "2xx": 75, "5xx": 25 }));
    for latency in ["latency_us", "first_byte_us"] {
        let value = |name: &str| {
            window[latency][name]
                .as_u64()
                .unwrap_or_else(|| panic!("{latency} {name}: {window}"))
        };
        let all = ["p50", "p90", "p99", "p999"].map(value);
        assert!(
            all[0] > 0 && all.is_sorted() && all[3] < 20_000_000,
            "{all:?}"
        );
    }
    let untouched = &service["upstreams"]["green"]["windows"]["1m"];
    assert_eq!(
        (&untouched["requests"], &untouched["error_rate"]),
        (&json!(0), &json!(0.0))
    );
}

#[test]
fn a_change_of_weights_starts_the_since_change_window() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    let mut client = proxy.client();
    let requests = |upstream: &str, window: &str| {
        proxy.service()["upstreams"][upstream]["windows"][window]["requests"].clone()
    };
    for _ in 0..10 {
        client.get("/");
    }
    eventually("the first ten are counted", || {
        requests("blue", "since_change") == 10
    });
    proxy.set_weights(0.0, 100.0);
    assert_eq!(requests("blue", "since_change"), 0);
    for _ in 0..5 {
        client.get("/");
    }
    eventually("the next five are counted", || {
        requests("green", "since_change") == 5
    });
    assert_eq!(
        (requests("blue", "1m"), requests("blue", "since_change")),
        (json!(10), json!(0))
    );
}

#[test]
fn metrics_follow_traffic_and_weights() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    proxy.set_weights(94.75, 5.25);
    let metrics = proxy.metrics();
    let weight = |upstream| {
        metrics.sum(
            "upstream_weight_ratio",
            &[("service", "shop"), ("upstream", upstream)],
        )
    };
    assert_eq!((weight("blue"), weight("green")), (0.9475, 0.0525));
    assert!(metrics.has("build_info"));
    assert_eq!(metrics.sum("config_last_reload_successful", &[]), 1.0);
    let endpoint = blue.address.to_string();
    let healthy = [
        ("service", "shop"),
        ("upstream", "blue"),
        ("endpoint", &*endpoint),
    ];
    assert_eq!(metrics.sum("endpoint_healthy", &healthy), 1.0);
    proxy.set_weights(100.0, 0.0);
    let mut client = proxy.client();
    client.get("/").expect(200);
    client
        .send("BREW /pot HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        .receive()
        .expect(200);
    client
        .send("DELETE / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        .receive()
        .expect(200);
    let listener = proxy.address.to_string();
    eventually("requests are counted by all their labels", || {
        let metrics = proxy.metrics();
        ["GET", "OTHER", "DELETE"].iter().all(|method| {
            let labels = [
                ("listener", &*listener),
                ("service", "shop"),
                ("upstream", "blue"),
                ("method", method),
                ("code", "200"),
            ];
            metrics.sum("http_requests_total", &labels) == 1.0
        })
    });
    proxy.roll_back();
    proxy.set_weights(50.0, 50.0);
    proxy.roll_back();
    assert!(
        proxy
            .metrics()
            .sum("rollbacks_total", &[("service", "shop")])
            >= 1.0
    );
}

#[test]
fn the_access_log_has_one_line_per_request() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::start(
        json!({ "access_log": "./access.log", "services": { "shop": shop(&blue, &green) } }),
    );
    let mut client = proxy.client();
    let id = client
        .ask("/a?b=c", "User-Agent: test\r\nAuthorization: secret\r\n")
        .receive()
        .header("x-request-id")
        .unwrap();
    client
        .send("POST /post HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\n\r\nabc")
        .receive()
        .expect(200);
    client.send("GET / HTTP/1.1\r\n\r\n").receive().expect(400);
    let path = proxy.directory.path().join("access.log");
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("the requests are logged", || read().lines().count() >= 2);
    let text = read();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        text.lines().next().unwrap().contains(&id)
            && text.contains("/a?b=c")
            && text.contains("blue"),
        "{text}"
    );
    assert!(
        lines.iter().all(Value::is_object) && !text.contains("secret"),
        "{text}"
    );
}

/// The lines of a proxy's access log, once there are `lines` of them.
pub(crate) fn logged(proxy: &Proxy, lines: usize) -> Vec<Value> {
    let path = proxy.directory.path().join("access.log");
    let text = until("the requests are logged", || {
        let text = std::fs::read_to_string(&path).ok()?;
        (text.lines().count() >= lines).then_some(text)
    });
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_access_log_includes_requests_refused_before_routing() {
    let blue = Upstream::named("blue");
    let proxy = Proxy::start(json!({
        "access_log": "./access.log",
        "listeners": [{ "name": "web", "timeouts": { "header": "200ms" } }],
        "services": { "shop": shop(&blue, &blue) },
    }));
    let malformed = proxy.client().send("GET / HTTP/1.1\r\n\r\n").receive();
    let slow = proxy
        .client()
        .send("GET / HTTP/1.1\r\nHost: shop")
        .receive();
    let lines = logged(&proxy, 2);
    for (line, (response, status, reason)) in lines.iter().zip([
        (malformed, 400, "bad_request"),
        (slow, 408, "header_timeout"),
    ]) {
        assert_eq!(
            (&line["status"], &line["reason"]),
            (&json!(status), &json!(reason))
        );
        assert_eq!(
            (&line["listener"], &line["client"]),
            (&json!("web"), &json!("127.0.0.1"))
        );
        assert_eq!(line["bytes_out"], response.body.len());
        assert_eq!(line["request_id"], response.header("x-request-id").unwrap());
        assert!(
            line["time"].is_string() && line["method"].is_null(),
            "{line}"
        );
    }
}

#[test]
fn the_access_log_reports_a_refusal_as_rejected_and_not_as_client_abort() {
    let blue = Upstream::start(|call| match call.path() {
        "/silent" => call.await_hangup(),
        _ => {
            let _ = call.body();
            call.ok("blue");
        }
    });
    let mut service = shop(&blue, &blue);
    service["routes"] = json!([{ "path_prefix": "/shop" }, { "path_prefix": "/silent" }]);
    let proxy = Proxy::start(json!({
        "access_log": "./access.log",
        "listeners": [{ "limits": { "body_bytes": "10B" } }],
        "services": { "shop": service },
    }));
    let line = |at: usize| logged(&proxy, at + 1).remove(at);
    let responses = [
        ("GET /elsewhere HTTP/1.1\r\nHost: shop.test\r\n\r\n", 404),
        (
            "POST /shop HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 11\r\n\r\n",
            413,
        ),
        (
            "POST /shop HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: \
             chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n",
            413,
        ),
        ("GET /\r\n\r\n", 400),
    ];
    for (at, (request, status)) in responses.into_iter().enumerate() {
        let response = proxy.client().send(request).receive().expect(status);
        let line = line(at);
        assert_eq!(
            (&line["status"], &line["outcome"]),
            (&json!(status), &json!("rejected"))
        );
        assert_eq!(line["bytes_out"], response.body.len(), "{line}");
    }
    proxy
        .client()
        .send("HEAD /elsewhere HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        .head()
        .unwrap();
    let head = line(4);
    assert_eq!(
        (&head["outcome"], &head["bytes_out"]),
        (&json!("rejected"), &json!(0))
    );
    let mut leaving = proxy.client();
    leaving.ask("/silent", "");
    eventually("the request is in flight", || {
        blue.seen()
            .iter()
            .any(|request| request.target == "/silent")
    });
    leaving.reset();
    assert_eq!(line(5)["outcome"], "client_abort");
}

#[test]
fn the_access_log_includes_requests_refused_by_load_shedding() {
    let gate = Arc::new(Gate::default());
    let script_gate = Arc::clone(&gate);
    let blue = Upstream::start(move |call| {
        script_gate.wait();
        call.ok("blue");
    });
    let proxy = Proxy::start(json!({
        "workers": 1,
        "max_in_flight": 1,
        "access_log": "./access.log",
        "services": { "shop": shop(&blue, &blue) },
    }));
    let mut first = proxy.client();
    first.ask("/first", "");
    eventually("the first request is in flight", || blue.count() == 1);
    let second = proxy.get("/second").expect(503);
    let lines = logged(&proxy, 1);
    assert_eq!(
        (&lines[0]["status"], &lines[0]["reason"]),
        (&json!(503), &json!("overloaded"))
    );
    assert_eq!(
        (&lines[0]["method"], &lines[0]["target"]),
        (&json!("GET"), &json!("/second"))
    );
    assert_eq!(
        lines[0]["request_id"],
        second.header("x-request-id").unwrap()
    );
    gate.open();
    first.receive().expect(200);
}
