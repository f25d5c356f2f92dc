//! Shutdown on SIGTERM: requests in flight finish, and the exit code says whether they did.

use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use serde_json::json;

use crate::harness::{Client, Gate, Http2, Proxy, Upstream, block_on, eventually, shop};

/// An upstream that responds to `/slow` in two parts, the second when the gate opens.
fn slow() -> (Upstream, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let script_gate = Arc::clone(&gate);
    let upstream = Upstream::start(move |call| match call.path() {
        "/slow" => {
            call.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npart")
                .unwrap();
            script_gate.wait();
            let _ = call.write("rest");
        }
        _ => call.ok("quick"),
    });
    (upstream, gate)
}

#[track_caller]
fn refuses_connections(proxy: &Proxy) {
    eventually("new connections are refused", || {
        match Client::try_connect(proxy.address) {
            Err(_) => true,
            // A connection that the kernel accepted in the last moment is closed or even answered,
            // but it does not hang.
            Ok(mut client) => {
                let _ = client.ask("/", "").try_receive();
                false
            }
        }
    });
}

#[test]
fn on_sigterm_requests_in_flight_finish_and_new_connections_are_refused() {
    let (upstream, gate) = slow();
    let mut proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let (mut under_way, mut idle) = (proxy.client(), proxy.client());
    idle.get("/").expect(200);
    under_way.ask("/slow", "");
    eventually("a request is in flight", || upstream.count() == 2);
    proxy.signal("TERM");
    eventually("readiness fails", || {
        proxy.admin("GET", "/readyz", "", None).status == 503
    });
    proxy.admin("GET", "/livez", "", None).expect(200);
    assert!(idle.wire.closes(), "an idle connection was kept");
    refuses_connections(&proxy);
    assert!(proxy.is_alive(), "the process did not wait for the request");
    gate.open();
    assert_eq!(under_way.receive().expect(200).text(), "partrest");
    assert!(under_way.wire.closes());
    let ended = proxy.ended();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

#[test]
fn on_sigterm_http2_streams_finish() {
    let (upstream, gate) = slow();
    let mut proxy = Proxy::with_shop(shop(&upstream, &upstream));
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        let request = Http2::request("/slow")
            .body(Empty::new().map_err(|never| match never {}).boxed())
            .unwrap();
        let response = client.head(request).await;
        proxy.signal("TERM");
        refuses_connections(&proxy);
        gate.open();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "partrest"
        );
    });
    assert_eq!(proxy.ended().status.code(), Some(0));
}

#[test]
fn accepting_continues_for_the_drain_delay() {
    let upstream = Upstream::named("blue");
    let service = shop(&upstream, &upstream);
    let mut proxy =
        Proxy::start(json!({ "drain": { "delay": "2s" }, "services": { "shop": service } }));
    proxy.signal("TERM");
    eventually("readiness fails", || {
        proxy.admin("GET", "/readyz", "", None).status == 503
    });
    assert_eq!(proxy.get("/").expect(200).text(), "blue");
    assert_eq!(proxy.ended().status.code(), Some(0));
}

#[test]
fn requests_that_exceed_the_drain_timeout_are_closed() {
    let (upstream, _never) = slow();
    let service = shop(&upstream, &upstream);
    let mut proxy =
        Proxy::start(json!({ "drain": { "timeout": "200ms" }, "services": { "shop": service } }));
    let mut under_way = proxy.client();
    under_way.ask("/slow", "").head().unwrap();
    proxy.signal("TERM");
    let ended = proxy.ended();
    assert!(
        ended.status.code().is_some(),
        "the process ended by a signal: {}",
        ended.status
    );
    assert!(
        under_way.wire.exactly(8).is_err(),
        "a truncated response looked complete"
    );
}

#[test]
fn sigint_drains_and_a_second_one_exits_at_once() {
    let (upstream, _never) = slow();
    let mut proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut under_way = proxy.client();
    under_way.ask("/slow", "").head().unwrap();
    proxy.signal("INT");
    refuses_connections(&proxy);
    assert!(proxy.is_alive(), "the process did not wait for the request");
    proxy.signal("INT");
    proxy.ended();
}
