//! Clients of HTTP/2 that leave large heads of responses unread: what they cost.

use serde_json::json;

use super::{KIB, MIB, ask, cost, proxy, streams, upstream};
use crate::harness::{Client, Proxy, settled};

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
        (0..5).for_each(|_| _ = settled("the memory is steady", || proxy.memory()));
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
