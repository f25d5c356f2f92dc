//! The store: one process owns it, acknowledged changes survive, the journal shows tampering.

use std::fs;
use std::path::PathBuf;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Client, Proxy, Upstream, eventually, shop};
use crate::verbs::{ends_with, weighbridge};

struct Rig {
    proxy: Proxy,
    _upstreams: [Upstream; 2],
    service: Value,
}

impl Rig {
    fn start() -> Rig {
        let upstreams = [Upstream::named("blue"), Upstream::named("green")];
        let service = shop(&upstreams[0], &upstreams[1]);
        Rig {
            proxy: Proxy::start(
                json!({ "store": { "path": "state" }, "services": { "shop": service } }),
            ),
            _upstreams: upstreams,
            service,
        }
    }

    fn state(&self) -> PathBuf {
        self.proxy.directory.path().join("state")
    }

    fn actions(&self, reason: &str) -> usize {
        let audit = self
            .proxy
            .admin("GET", "/api/v1/audit?limit=500", "", None)
            .expect(200)
            .json();
        let entries = audit["entries"].as_array().unwrap();
        entries
            .iter()
            .filter(|entry| entry["reason"] == reason)
            .count()
    }
}

fn green(service: &Value) -> &Value {
    &service["weights"]["effective"]["green"]
}

#[test]
fn a_second_process_on_the_same_store_is_refused() {
    let mut rig = Rig::start();
    rig.proxy.set_weights(50.0, 50.0);
    let mut second = Proxy::prepare(
        json!({ "store": { "path": rig.state() }, "services": { "shop": rig.service } }),
    );
    second.spawn();
    let ended = second.ended();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    for expected in ["another process uses it (pid ", "state", "store.path"] {
        assert!(ended.log.contains(expected), "{expected}: {}", ended.log);
    }
    assert_eq!(rig.proxy.roll_back().json()["durable"], true);
    // The lock is released when its process ends, for any cause.
    rig.proxy.kill();
    second.run();
    assert_eq!(green(&second.service()), &json!(0.0));
}

#[test]
fn a_missing_state_directory_makes_changes_not_durable() {
    let rig = Rig::start();
    let away = rig.proxy.directory.path().join("away");
    rig.proxy.set_weights(50.0, 50.0);
    fs::rename(rig.state(), &away).unwrap();
    let refused = rig
        .proxy
        .put_weights("", r#"{"weights": {"blue": 40, "green": 60}}"#);
    refused.expect(507);
    assert_eq!(green(&rig.proxy.service()), &json!(50.0));
    let braked = rig.proxy.roll_back().json();
    assert_eq!(
        (green(&braked), &braked["durable"]),
        (&json!(0.0), &json!(false))
    );
    assert!(!rig.state().exists(), "the state directory was recreated");
    // Once it is back, the state in effect is written to it.
    fs::rename(&away, rig.state()).unwrap();
    eventually("the rollback is on disk", || {
        rig.proxy.service()["weights"]["durable"] == true
    });
    assert_eq!(rig.proxy.set_weights(70.0, 30.0).json()["durable"], true);
    fs::remove_dir_all(rig.state()).unwrap();
    rig.proxy
        .put_weights("", r#"{"weights": {"blue": 40, "green": 60}}"#)
        .expect(507);
}

const TEN: &str = r#"{"weights": {"blue": 90, "green": 10}}"#;

#[test]
fn an_idempotency_key_holds_across_a_restart() {
    let mut rig = Rig::start();
    let key = "Idempotency-Key: ten\r\n";
    let first = rig.proxy.put_weights(key, TEN).expect(200).text();
    let rollback_key = "Idempotency-Key: back\r\nContent-Type: application/json\r\n";
    let path = "/api/v1/services/shop/rollback";
    let back = rig
        .proxy
        .admin("POST", path, rollback_key, Some("{}"))
        .expect(200)
        .text();
    let start = "Idempotency-Key: start\r\nContent-Type: application/json\r\n";
    let releases = "/api/v1/services/shop/releases";
    let body =
        Some(r#"{"canary": "green", "plan": {"steps": [{"weight": 1, "hold": "1h"}, 100]}}"#);
    let started = rig.proxy.admin("POST", releases, start, body).expect(201);
    rig.proxy.kill();
    rig.proxy.run();
    // The first step of the release is a revision of its own.
    eventually("the release is at its step", || {
        green(&rig.proxy.service()) == &json!(1.0)
    });
    let revision = rig.proxy.service()["revision"].clone();

    let again = rig.proxy.put_weights(key, TEN).expect(200);
    assert_eq!(
        again.header("idempotency-replayed").as_deref(),
        Some("true")
    );
    assert_eq!(again.text(), first);
    assert_eq!(
        rig.proxy
            .admin("POST", path, rollback_key, Some("{}"))
            .expect(200)
            .text(),
        back
    );
    let restarted = rig.proxy.admin("POST", releases, start, body).expect(201);
    assert_eq!(restarted.header("location"), started.header("location"));
    assert_eq!(restarted.json()["id"], started.json()["id"]);
    rig.proxy
        .put_weights(key, r#"{"weights": {"blue": 100}}"#)
        .expect(422);
    assert_eq!(
        rig.proxy.service()["revision"],
        revision,
        "a change was applied twice"
    );
}

#[test]
fn a_refused_request_may_be_retried_with_its_idempotency_key() {
    let mut rig = Rig::start();
    let away = rig.proxy.directory.path().join("away");
    let key = "Idempotency-Key: ten\r\n";
    fs::rename(rig.state(), &away).unwrap();
    rig.proxy.put_weights(key, TEN).expect(507);
    fs::rename(&away, rig.state()).unwrap();
    rig.proxy.kill();
    rig.proxy.run();
    let made = rig.proxy.put_weights(key, TEN).expect(200);
    assert_eq!(made.header("idempotency-replayed"), None);
    assert_eq!(green(&rig.proxy.service()), &json!(10.0));
}

#[test]
fn a_kill_before_the_response_applies_no_change_twice() {
    let mut rig = Rig::start();
    for round in 0..12_u32 {
        let admin = rig.proxy.admin;
        let (reason, percent) = (format!("round {round}"), round + 1);
        let body = format!(
            r#"{{"weights": {{"blue": {}, "green": {percent}}}, "reason": "{reason}"}}"#,
            100 - percent
        );
        let headers = format!("Idempotency-Key: {round}\r\n");
        let before = rig.proxy.service()["revision"].as_u64().unwrap();
        let request = format!(
            "PUT /api/v1/services/shop/weights HTTP/1.1\r\nHost: {admin}\r\nContent-Type: \
             application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        thread::scope(|scope| {
            let sent = scope.spawn(move || {
                let mut client = Client::connect(admin);
                client.send(request);
                // Does not wait for the response.
                thread::yield_now();
                client
            });
            let _client = sent.join().unwrap();
            for _ in 0..round * 40 {
                thread::yield_now();
            }
            rig.proxy.kill();
        });
        rig.proxy.run();
        let response = rig.proxy.put_weights(&headers, &body).expect(200).json();
        assert_eq!(
            response["revision"].as_u64().unwrap(),
            before + 1,
            "{reason}"
        );
        assert_eq!(green(&response), &json!(f64::from(percent)), "{reason}");
        assert_eq!(response["durable"], true, "{reason}");
        assert_eq!(rig.actions(&reason), 1, "{reason}");
        let again = rig.proxy.put_weights(&headers, &body).expect(200);
        assert_eq!(
            again.header("idempotency-replayed").as_deref(),
            Some("true")
        );
    }
}

#[test]
fn an_altered_journal_is_reported_by_command_and_api_and_the_proxy_starts() {
    let mut rig = Rig::start();
    for green in [10.0, 20.0, 30.0, 40.0] {
        rig.proxy.set_weights(100.0 - green, green);
    }
    let state = rig.state();
    let on_disk = ["audit", "verify", "--store", state.to_str().unwrap()];
    let config = rig.proxy.config_path();
    let by_config = ["audit", "verify", "--config", config.to_str().unwrap()];
    for verify in [&on_disk[..], &by_config, &["audit", "verify"]] {
        ends_with(&weighbridge(&rig.proxy, verify), 0);
    }
    let listed = weighbridge(&rig.proxy, &["audit", "--limit", "2"]);
    ends_with(&listed, 0);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 3);
    rig.proxy.kill();
    let database = rusqlite::Connection::open(state.join("weighbridge.db")).unwrap();
    database
        .execute_batch("DROP TRIGGER audit_is_never_deleted; DELETE FROM audit WHERE sequence >= 4")
        .unwrap();
    drop(database);
    ends_with(&weighbridge(&rig.proxy, &on_disk), 1);
    rig.proxy.run();
    let log = rig.proxy.log();
    assert!(
        log.contains("the journal is not whole") && log.contains("entry=4"),
        "{log}"
    );
    assert_eq!(rig.proxy.get("/").status, 200);
    assert_eq!(rig.proxy.set_weights(50.0, 50.0).json()["durable"], true);
    let verdict = rig
        .proxy
        .admin("GET", "/api/v1/audit/verify", "", None)
        .expect(200)
        .json();
    assert_eq!(
        (&verdict["whole"], &verdict["finding"]["sequence"]),
        (&json!(false), &json!(4)),
        "{verdict}"
    );
    for verify in [&on_disk[..], &by_config, &["audit", "verify"]] {
        let broken = weighbridge(&rig.proxy, verify);
        ends_with(&broken, 1);
        assert!(
            String::from_utf8_lossy(&broken.stdout).contains("entry 4"),
            "{broken:?}"
        );
    }
}
