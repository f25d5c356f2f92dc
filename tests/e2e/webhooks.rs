//! Webhooks of a release of the running program.

use serde_json::{Value, json};

use crate::harness::{Proxy, Upstream, eventually, shop};

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn a_receiver_is_notified_of_the_start_and_the_end_of_a_release() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let receiver = Upstream::start(|call| {
        call.body().unwrap();
        call.ok("");
    });
    let proxy = Proxy::start(json!({
        "services": { "shop": shop(&blue, &green) },
        "webhooks": [{
            "url": format!("http://{}/T0PS3CRET", receiver.address),
            "events": ["release_started", "release_cancelled"],
            "secret": "hunter2",
        }],
    }));
    let body = json!({ "canary": "green", "plan": { "steps": [{ "weight": 5, "hold": "1h" }] } })
        .to_string();
    let started = proxy.admin("POST", "/api/v1/services/shop/releases", JSON, Some(&body));
    let id = started.expect(201).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let cancelled = proxy.admin(
        "POST",
        &format!("/api/v1/releases/{id}/cancel"),
        JSON,
        Some("{}"),
    );
    cancelled.expect(200);
    eventually("both notifications have arrived", || receiver.count() == 2);
    eventually("both are counted", || {
        proxy
            .metrics()
            .sum("webhook_deliveries_total", &[("result", "delivered")])
            >= 2.0
    });
    let notifications: Vec<(Option<String>, Value)> = receiver
        .seen()
        .iter()
        .map(|request| {
            let body = serde_json::from_slice(request.body.as_ref().unwrap()).unwrap();
            assert!(
                request
                    .header("x-weighbridge-signature")
                    .unwrap()
                    .starts_with("sha256=")
            );
            (request.header("x-weighbridge-event"), body)
        })
        .collect();
    for ((header, body), event) in notifications
        .iter()
        .zip(["release_started", "release_cancelled"])
    {
        assert_eq!(
            (header.as_deref(), &body["event"]),
            (Some(event), &json!(event))
        );
        assert_eq!(
            (&body["release"]["id"], &body["release"]["canary"]),
            (&json!(id), &json!("green"))
        );
    }
    assert_eq!(notifications[1].1["release"]["phase"], "cancelled");
    assert!(
        !proxy.log().contains("hunter2") && !proxy.log().contains("T0PS3CRET"),
        "{}",
        proxy.log()
    );
}
