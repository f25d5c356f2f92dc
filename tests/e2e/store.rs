//! State that survives the end of the process.

use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Client, Proxy, Upstream, shop};

fn with_store() -> (Proxy, [Upstream; 2]) {
    let upstreams = [Upstream::named("blue"), Upstream::named("green")];
    let service = shop(&upstreams[0], &upstreams[1]);
    // A relative path is resolved against the configuration's directory.
    (
        Proxy::start(json!({ "store": { "path": "state" }, "services": { "shop": service } })),
        upstreams,
    )
}

fn green(service: &Value) -> f64 {
    service["weights"]["effective"]["green"]
        .as_f64()
        .unwrap_or_else(|| panic!("{service}"))
}

#[test]
fn weights_and_baseline_survive_a_kill() {
    let (mut proxy, _upstreams) = with_store();
    let set = proxy
        .put_weights("", r#"{"weights": {"green": 100}, "reason": "promoted"}"#)
        .expect(200)
        .json();
    assert_eq!(set["durable"], true);
    proxy.kill();
    proxy.run();
    let service = proxy.service();
    assert_eq!(
        (&service["weights"]["effective"], &service["baseline"]),
        (&set["weights"]["effective"], &json!("green"))
    );
    assert_eq!(service["weights"]["reason"], "promoted");
    assert_eq!(service["revision"], set["revision"]);
    assert_eq!(proxy.get("/").text(), "green");
    // The previous baseline is stored as well.
    proxy.roll_back();
    proxy.kill();
    proxy.run();
    assert_eq!(green(&proxy.service()), 0.0);
    let audit = proxy
        .admin("GET", "/api/v1/audit", "", None)
        .expect(200)
        .json();
    let actions: Vec<_> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].as_str())
        .collect();
    assert!(
        actions.contains(&Some("rollback")) && actions.contains(&Some("weights")),
        "{audit}"
    );
}

#[test]
fn sticky_users_keep_their_upstream_across_a_restart() {
    let upstreams = [Upstream::named("blue"), Upstream::named("green")];
    let mut service = shop(&upstreams[0], &upstreams[1]);
    service["sticky"] = json!({ "header": "X-User-Id" });
    let mut proxy =
        Proxy::start(json!({ "store": { "path": "state" }, "services": { "shop": service } }));
    proxy.set_weights(50.0, 50.0);
    let users = |proxy: &Proxy| -> Vec<String> {
        let mut client = proxy.client();
        (0..100)
            .map(|at| {
                client
                    .ask("/", &format!("X-User-Id: {at}\r\n"))
                    .receive()
                    .expect(200)
                    .text()
            })
            .collect()
    };
    let before = users(&proxy);
    proxy.kill();
    proxy.run();
    assert_eq!(users(&proxy), before);
}

#[test]
fn without_a_store_no_change_is_durable() {
    let upstreams = [Upstream::named("blue"), Upstream::named("green")];
    let mut proxy = Proxy::with_shop(shop(&upstreams[0], &upstreams[1]));
    assert_eq!(proxy.set_weights(0.0, 100.0).json()["durable"], false);
    proxy.kill();
    proxy.run();
    assert_eq!(
        green(&proxy.service()),
        0.0,
        "the process starts with the weights of the file"
    );
}

#[test]
fn a_kill_at_any_time_loses_no_acknowledged_change() {
    let (mut proxy, _upstreams) = with_store();
    let (mut value, mut acknowledged) = (0_u32, 0);
    for round in 0..15 {
        // Sent and not yet acknowledged: a state that is also permitted.
        let unanswered = Mutex::new(None);
        let answered = Mutex::new(None);
        thread::scope(|scope| {
            let (begin, admin) = (value, proxy.admin);
            let (unanswered, answered) = (&unanswered, &answered);
            scope.spawn(move || {
                let mut client = Client::connect(admin);
                for next in begin + 1.. {
                    let percent = f64::from(next % 10_000) / 100.0;
                    let body = format!(
                        r#"{{"weights": {{"green": {percent}, "blue": {:.2}}}}}"#,
                        100.0 - percent
                    );
                    let head = format!(
                        "PUT /api/v1/services/shop/weights HTTP/1.1\r\nHost: \
                         {admin}\r\nContent-Type: application/json\r\n"
                    );
                    *unanswered.lock().unwrap() = Some(next);
                    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
                    match client.send(request).try_receive() {
                        Ok(response) => assert_eq!(response.status, 200, "{}", response.text()),
                        Err(_) => return,
                    }
                    *answered.lock().unwrap() = Some(next);
                }
            });
            // Later in each round, so that the kill hits different moments of a change.
            crate::harness::eventually("changes are acknowledged", || {
                answered.lock().unwrap().unwrap_or(begin) > begin + round
            });
            proxy.kill();
        });
        let last = answered.into_inner().unwrap().unwrap();
        value = unanswered.into_inner().unwrap().unwrap();
        acknowledged += last;
        proxy.run();
        let percent = green(&proxy.service());
        let expected = [last, value].map(|value| f64::from(value % 10_000) / 100.0);
        assert!(
            expected.contains(&percent),
            "round {round}: {percent} is neither of {expected:?}"
        );
    }
    assert!(acknowledged > 0);
}
