//! Clients of HTTP/2 that leave large heads of responses unread: what they cost.

use std::time::Duration;

use serde_json::json;

use super::{KIB, MIB, ask, cost, proxy, steady, streams, upstream};
use crate::harness::{Client, Proxy, eventually, until_within};

/// So many that what the process takes once, up to 5 MiB, adds little to the cost of each.
pub(super) const CLIENTS: usize = 40;

/// What `connections` that send `bytes` and read nothing cost each.
pub(super) fn each(
    proxy: &Proxy,
    connections: usize,
    bytes: impl Fn() -> Vec<u8>,
) -> (usize, Vec<Client>) {
    let (held, clients) = cost(proxy, || {
        let clients = ask(proxy, connections, &bytes);
        // It takes the proxy some time to get through all of it.
        (0..3).for_each(|_| _ = steady(proxy));
        clients
    });
    (held / connections, clients)
}

#[test]
fn large_heads_that_are_not_read_hold_two_mebibytes_at_most() {
    for path in ["/heads", "/partial", "/trailers"] {
        let proxy = proxy();
        let (held, clients) = each(&proxy, CLIENTS, || streams(128, path));
        assert!(held <= 2 * MIB, "{path}: {} KiB", held / KIB);
        // A bystander is served.
        assert_eq!(proxy.get("/large").expect(200).body.len(), 100_000);
        drop(clients);
    }
}

#[test]
fn an_upstream_whose_head_is_not_read_for_the_sake_of_its_client_is_not_late() {
    let shop = json!({
        "routes": [{}],
        "upstreams": { "blue": { "endpoints": [upstream()] } },
        "weights": { "blue": 100 },
        "timeouts": { "first_byte": "1s" },
    });
    let proxy = Proxy::start(json!({ "workers": 1, "services": { "shop": shop } }));
    let (_, clients) = each(&proxy, 1, || streams(128, "/heads"));
    // Which waits for longer than those have been held.
    for _ in 0..2 {
        assert_eq!(proxy.get("/never").expect(504).status, 504);
    }
    proxy.counts_reason("first_byte_timeout", 2);
    drop(clients);
}

#[test]
fn heads_that_wait_for_their_client_are_no_failures_of_either_version() {
    let endpoint = || json!({ "endpoints": [upstream()] });
    let shop = json!({
        "routes": [{}],
        "upstreams": { "blue": endpoint(), "green": endpoint() },
        "weights": { "blue": 100 },
        "release": {
            "steps": [50], "bake": "1h", "objectives": [{ "error_rate": {} }], "rescue": "off",
        },
    });
    let proxy = Proxy::start(json!({ "workers": 1, "services": { "shop": shop } }));
    let release = || {
        proxy
            .admin("GET", "/api/v1/releases/shop-1", "", None)
            .expect(200)
            .json()
    };
    let mut bystander = proxy.client();
    // With slow ones, so that a response is late after seconds only, also on a slow machine.
    let mut ask = || {
        (0..10).for_each(|_| drop(bystander.get("/large").expect(200)));
        bystander.get("/slow").expect(200);
    };
    (0..5).for_each(|_| ask());
    let started = proxy.admin(
        "POST",
        "/api/v1/services/shop/releases",
        "Content-Type: application/json\r\n",
        Some(r#"{"canary":"green"}"#),
    );
    started.expect(201);
    eventually("it has users", || release()["phase"] == "progressing");
    let (_, clients) = each(&proxy, 1, || streams(128, "/heads"));
    // Requests are judged in the order of their start: when these are, the others were.
    let judged = || release()["canary_requests"].as_u64().unwrap();
    let before = judged();
    until_within(
        Duration::from_secs(120),
        "later requests are judged",
        || {
            ask();
            (judged() >= before + 20).then_some(())
        },
    );
    let release = release();
    let errors = &release["objectives"][0];
    assert_eq!(errors["canary"]["failures"], 0, "{release}");
    assert_eq!(errors["baseline"]["failures"], 0, "{release}");
    assert_eq!(release["rescued_budget"]["spent"], 0, "{release}");
    assert_eq!(release["phase"], "progressing", "{release}");
    drop(clients);
}
