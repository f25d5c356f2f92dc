//! Who may override the gates, freezes and preflight checks that the configuration prescribes.

use std::io::Write;

use serde_json::{Value, json};

use crate::harness::{Proxy, Response, Upstream, shop};
use crate::verbs::{ends_with, weighbridge};

const JSON: &str = "Content-Type: application/json\r\n";

/// A service that is always frozen; with `gates`, its releases wait for an approval.
fn protected(blue: &Upstream, green: &Upstream, gates: bool) -> Value {
    let mut shop = shop(blue, green);
    shop["release"] = json!({
        "steps": [5, 50],
        "freeze": ["00:00 - 12:00", "12:00 - 00:00"],
        "preflight": { "requests": [{ "path": "/ready", "headers": { "X-Key": "hunter2" } }] },
    });
    if gates {
        shop["release"]["steps"] = json!([5, { "weight": 50, "gate": "qa" }]);
        shop["release"]["gate"] = json!({ "name": "board", "approvals": 2 });
    }
    shop
}

fn start(proxy: &Proxy, token: &str, body: &Value) -> Response {
    let headers = format!("{JSON}Authorization: Bearer {token}\r\n");
    proxy.admin(
        "POST",
        "/api/v1/services/shop/releases",
        &headers,
        Some(&body.to_string()),
    )
}

#[track_caller]
fn refused(response: Response, status: u16, expected: &str) {
    assert_eq!(
        response.header("content-type").as_deref(),
        Some("application/problem+json")
    );
    let problem = response.expect(status).json();
    assert!(problem.to_string().contains(expected), "{problem}");
    assert!(!problem.to_string().contains("hunter2"), "{problem}");
}

/// A proxy with one token for each role, and the service `shop`.
fn with_tokens(shop: &Value) -> Proxy {
    // The SHA-256 digests of `operator` and `admin-token`.
    Proxy::start(json!({
        "admin": { "tokens": [
            { "name": "otto", "role": "operate",
                "sha256": "06e55b633481f7bb072957eabcf110c972e86691c3cfedabe088024bffe42f23" },
            { "name": "bea", "role": "approve",
                "sha256": "b17b3a88813c8cc9214298fbdc4ba9ae45dd1983f5f8e1615df393663c51fd01" },
            { "name": "cem", "role": "approve",
                "sha256": "bd7b581c74a018403113750ce92d46f95df2755dd107a42672a73fc683dbdc70" },
            { "name": "ada", "role": "admin",
                "sha256": "10a4c7c9fc5206d6f36dc6944a81bb6f4a3cb0e25014ae3b12e6c3e52712292a" },
        ]},
        "services": { "shop": shop },
    }))
}

/// The journal entry of an override has the plan, the plan that it replaced and the reason.
fn an_admin_overrides_with_a_reason(proxy: &Proxy, operator: &str, weaker: &(Value, &str)) {
    let (plan, expected) = weaker;
    let body = json!({ "canary": "green", "reason": "hotfix", "plan": plan });
    start(proxy, "admin-token", &body).expect(201);
    let audit = proxy
        .admin("GET", "/api/v1/audit?limit=1", operator, None)
        .expect(200)
        .json();
    let entry = &audit["entries"][0];
    assert_eq!(
        (&entry["actor"], &entry["action"], &entry["reason"]),
        (&json!("ada"), &json!("release_started"), &json!("hotfix"))
    );
    let started = &entry["after"]["release"];
    assert_eq!(
        (&started["plan"]["freeze"], &started["replaced"]["freeze"]),
        (&json!([]), &json!(["00:00 - 12:00", "12:00 - 00:00"]))
    );
    assert!(
        started["overridden"].to_string().contains(expected),
        "{started}"
    );
    assert!(!audit.to_string().contains("hunter2"), "{audit}");
}

#[test]
fn overriding_gates_freezes_or_preflight_needs_an_admin_and_a_reason() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = with_tokens(&protected(&blue, &green, true));
    let weaker = [
        (json!({ "freeze": [], "steps": [50, 100] }), "00:00 - 12:00"),
        (json!({ "steps": [50, 100] }), "qa"),
        (
            json!({ "steps": [5, { "weight": 50, "gate": { "name": "qa2" } }] }),
            "qa",
        ),
        (
            json!({ "gate": { "name": "board", "approvals": 1 } }),
            "board",
        ),
        (json!({ "preflight": { "requests": [] } }), "/ready"),
    ];
    for (plan, expected) in &weaker {
        let body = json!({ "canary": "green", "reason": "hurry", "plan": plan });
        refused(start(&proxy, "operator", &body), 403, expected);
        let body = json!({ "canary": "green", "plan": plan });
        refused(start(&proxy, "admin-token", &body), 422, expected);
    }
    let operator = "Authorization: Bearer operator\r\n";
    let by_hand = r#"{"weights": {"blue": 95, "green": 5}, "reason": "hurry"}"#;
    refused(proxy.put_weights(operator, by_hand), 403, "board");
    assert_eq!(
        (green.count(), proxy.get("/").text()),
        (0, "blue".to_owned())
    );

    let body = json!({ "canary": "green", "plan": { "bake": "1s" } });
    let started = start(&proxy, "operator", &body).expect(201).json();
    assert_eq!(started["waiting_for"]["kind"], "gate", "{started}");
    let headers = format!("{JSON}{operator}");
    for (asked, body, status) in [
        ("approve", "{}", 403),
        ("promote", "{}", 409),
        ("resume", "{}", 409),
        (
            "resume",
            r#"{"override_freeze": true, "reason": "hurry"}"#,
            403,
        ),
        (
            "promote",
            r#"{"override_freeze": true, "reason": "hurry"}"#,
            403,
        ),
        ("cancel", "{}", 200),
    ] {
        let path = format!("/api/v1/releases/shop-1/{asked}");
        proxy
            .admin("POST", &path, &headers, Some(body))
            .expect(status);
    }
    assert_eq!(green.count(), 0, "the preflight sent a request");

    an_admin_overrides_with_a_reason(&proxy, operator, &weaker[0]);
}

#[test]
fn without_tokens_an_override_still_needs_a_reason() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(protected(&blue, &green, false));
    let mut plan = tempfile::NamedTempFile::new().unwrap();
    plan.write_all(b"freeze: []\npreflight: { requests: [/other] }\n")
        .unwrap();
    let start = [
        "release",
        "start",
        "shop",
        "green",
        "--plan",
        plan.path().to_str().unwrap(),
    ];
    let failed = weighbridge(&proxy, &start);
    ends_with(&failed, 1);
    let stderr = String::from_utf8(failed.stderr).unwrap();
    assert!(
        stderr.contains("reason") && stderr.contains("00:00 - 12:00") && stderr.contains("/ready"),
        "{stderr}"
    );
    ends_with(
        &weighbridge(&proxy, &[&start[..], &["--reason", "hotfix"]].concat()),
        0,
    );
    let audit = proxy
        .admin("GET", "/api/v1/audit?limit=50", "", None)
        .expect(200)
        .json();
    let entries = audit["entries"].as_array().unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry["action"] == "release_started")
        .unwrap();
    let replaced = &entry["after"]["release"]["replaced"];
    assert_eq!(
        replaced["preflight"]["requests"][0]["path"], "/ready",
        "{entry}"
    );
    assert_eq!(
        entry["after"]["release"]["overridden"]
            .as_array()
            .unwrap()
            .len(),
        3,
        "{entry}"
    );
}
