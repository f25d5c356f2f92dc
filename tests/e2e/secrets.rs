//! What people who look at a release get to see of its users: nothing that opens doors.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::{Proxy, Upstream, eventually, shop};

/// In everything below that must not be seen.
const SECRETS: [&str; 4] = ["hunter2", "Zq7yLmNoPxRs", "kxqzvwjpfhtgbd", "swordfish"];

/// Fields of an answer that hold secrets, or URLs with some.
const FIELDS: &str = "Location: \
    https://joe:hunter2@localhost/reset/swordfish?code=hunter2#swordfish\r\n\
    Content-Location: //hunter2@localhost/cart?jwt=hunter2\r\n\
    Link: </reset/hunter2>; rel=\"next\"\r\n\
    Refresh: 0; url=/cart?token=hunter2\r\n\
    Referer: https://joe:hunter2@localhost/\r\n\
    Set-Cookie: id=hunter2\r\n\
    Password: hunter2\r\n\
    Jwt: hunter2\r\n\
    X-Debug: user joe hunter2\r\n\
    X-Custom: swordfish\r\n\
    Authorization: Basic hunter2\r\n\
    WWW-Authenticate: Basic realm=\"hunter2\"\r\n\
    Etag: \"hunter2\"\r\n\
    Server: hunter2\r\n\
    Vary: Origin, hunter2\r\n\
    Cache-Control: no-store, x=hunter2\r\n\
    Content-Type: text/plain; boundary=hunter2\r\n";

/// Requests of users with secrets where people put them.
const TARGETS: [&str; 14] = [
    "/reset/swordfish",
    "/account/password/swordfish/form",
    "/api/token/swordfish",
    "/orders/Zq7yLmNoPxRs",
    "/orders/kxqzvwjpfhtgbd",
    "/users/hunter2",
    "/users/joe%40example.com/swordfish:hunter2",
    "/cart;jsessionid=hunter2",
    "/cart?password=hunter2",
    "/cart?hunter2",
    "/cart?token=swordfish&jwt=hunter2&swordfish",
    "/cart?next=https://joe:hunter2@localhost/",
    "//joe:hunter2@localhost/cart",
    "/unsubscribe/swordfish/now",
];

/// Where the admin API tells of releases.
const PLACES: [&str; 9] = [
    "/api/v1/releases/shop-1/evidence",
    "/api/v1/releases/shop-1/evidence?format=html",
    "/api/v1/releases/shop-1/recording",
    "/api/v1/releases/shop-1",
    "/api/v1/services/shop/releases",
    "/api/v1/services/shop/plan",
    "/api/v1/services/shop",
    "/api/v1/audit",
    "/metrics",
];

#[track_caller]
fn keeps_quiet(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} tells {secret}: {text}");
    }
}

/// Files of the store, as far as they hold text.
fn files(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            found.push((
                path.display().to_string(),
                String::from_utf8_lossy(&bytes).into_owned(),
            ));
        }
    }
    found
}

#[test]
fn no_secret_of_a_user_is_in_the_evidence_the_recording_the_journal_the_log_or_the_store() {
    let (blue, green) = (
        Upstream::start(|call| call.answer("200 OK", FIELDS, "blue swordfish")),
        Upstream::start(|call| call.answer("500 Oh", FIELDS, "green swordfish")),
    );
    let store = tempfile::tempdir().unwrap();
    let mut shop = shop(&blue, &green);
    shop["release"] = json!({
        "steps": [50],
        "rescue": "off",
        "min_requests": 20,
        "preflight": { "requests": [{ "path": "/ready?key=hunter2",
            "headers": { "X-Key": "hunter2" }, "expect": "200-599" }] },
    });
    let proxy =
        Proxy::start(json!({ "store": { "path": store.path() }, "services": { "shop": shop } }));
    let json_type = "Content-Type: application/json\r\n";
    let started = proxy.admin(
        "POST",
        "/api/v1/services/shop/releases",
        json_type,
        Some(r#"{"canary": "green"}"#),
    );
    started.expect(201);
    let release = || {
        proxy
            .admin("GET", "/api/v1/releases/shop-1", "", None)
            .expect(200)
            .json()
    };
    let mut client = proxy.client();
    let fields = "Authorization: Bearer hunter2\r\nCookie: id=hunter2\r\n\
                  Referer: https://joe:hunter2@localhost/?swordfish\r\n";
    eventually("the release is rolled back", || {
        for target in TARGETS {
            client.ask(target, fields).receive();
        }
        release()["phase"] == "rolled_back"
    });
    let evidence = || {
        proxy
            .admin("GET", "/api/v1/releases/shop-1/evidence", "", None)
            .expect(200)
    };
    eventually("samples of both sides are there", || {
        let samples = &evidence().json()["samples"];
        ["canary", "baseline"]
            .iter()
            .all(|side| !samples[side].as_array().unwrap().is_empty())
    });
    let bundle = evidence().json();
    let sample = &bundle["samples"]["baseline"][0];
    assert!(
        sample["headers"]
            .to_string()
            .contains("https://localhost/reset/*"),
        "{sample}"
    );
    assert!(!bundle["routes"].as_array().unwrap().is_empty(), "{bundle}");
    for path in PLACES {
        keeps_quiet(path, &proxy.admin("GET", path, "", None).expect(200).text());
    }
    keeps_quiet("the log", &proxy.log());
    // The plan itself is kept as it is, since a restart goes on with it.
    for (name, text) in files(store.path()) {
        keeps_quiet(
            &name,
            &text
                .replace("/ready?key=hunter2", "")
                .replace(r#""x-key":"hunter2""#, ""),
        );
    }
}
