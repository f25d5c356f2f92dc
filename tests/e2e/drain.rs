//! The end of the process on SIGTERM: what is under way finishes, and the exit code says so.

use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use serde_json::json;

use crate::harness::{Client, Gate, Http2, Proxy, Upstream, block_on, eventually, shop};

/// An upstream that answers `/slow` in two parts, the second when the gate opens.
fn slow() -> (Upstream, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let upstream = Upstream::start(move |call| match call.path() {
        "/slow" => {
            call.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npart")
                .unwrap();
            held.wait();
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
            // Taken by the kernel in the last moment; then there is an end, or even an answer, but
            // nobody hangs.
            Ok(mut client) => {
                let _ = client.ask("/", "").try_receive();
                false
            }
        }
    });
}

#[test]
fn what_is_under_way_finishes_and_nothing_new_begins() {
    let (upstream, gate) = slow();
    let mut proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let (mut under_way, mut idle) = (proxy.client(), proxy.client());
    idle.get("/").expect(200);
    under_way.ask("/slow", "");
    eventually("a request is under way", || upstream.count() == 2);
    proxy.signal("TERM");
    eventually("readiness fails", || {
        proxy.admin("GET", "/readyz", "", None).status == 503
    });
    proxy.admin("GET", "/livez", "", None).expect(200);
    assert!(idle.wire.closes(), "an idle connection was kept");
    refuses_connections(&proxy);
    assert!(proxy.is_alive(), "it did not wait");
    gate.open();
    assert_eq!(under_way.receive().expect(200).text(), "partrest");
    assert!(under_way.wire.closes());
    let ended = proxy.ended();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

#[test]
fn http2_streams_finish_too() {
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
fn accepting_goes_on_for_the_delay() {
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
fn the_deadline_ends_what_does_not_finish() {
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
        "it ended by a signal: {}",
        ended.status
    );
    assert!(under_way.wire.exactly(8).is_err(), "a part looked complete");
}

#[test]
fn an_interrupt_drains_and_a_second_one_does_not_wait() {
    let (upstream, _never) = slow();
    let mut proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut under_way = proxy.client();
    under_way.ask("/slow", "").head().unwrap();
    proxy.signal("INT");
    refuses_connections(&proxy);
    assert!(proxy.is_alive(), "it did not wait");
    proxy.signal("INT");
    proxy.ended();
}
