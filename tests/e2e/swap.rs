//! Changes of weights: in effect for the next request on every connection, without effect on
//! requests in flight.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use serde_json::json;

use crate::errors::deaf;
use crate::harness::{Gate, Http2, Proxy, Upstream, block_on, eventually, shop};

#[test]
fn the_next_request_on_an_open_connection_uses_the_new_weights() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "blue");
        proxy.set_weights(0.0, 100.0);
        assert_eq!(client.get("/").text(), "green");
        proxy.set_weights(100.0, 0.0);
    }
}

#[test]
fn the_next_stream_of_an_open_http2_connection_uses_the_new_weights() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        for _ in 0..20 {
            assert_eq!(client.get("/").await.text, "blue");
            proxy.set_weights(0.0, 100.0);
            assert_eq!(client.get("/").await.text, "green");
            proxy.set_weights(100.0, 0.0);
        }
    });
}

/// An upstream whose response to `/stream` comes in two parts, the second when the gate opens.
fn in_two_parts(name: &'static str) -> (Upstream, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let script_gate = Arc::clone(&gate);
    let upstream = Upstream::start(move |call| {
        if call.path() != "/stream" {
            return call.ok(name);
        }
        call.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .unwrap();
        script_gate.wait();
        call.write("6\r\nsecond\r\n0\r\n\r\n").unwrap();
    });
    (upstream, gate)
}

#[test]
fn a_response_in_flight_is_not_interrupted() {
    let ((green, gate), blue) = (in_two_parts("green"), Upstream::named("blue"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    proxy.set_weights(0.0, 100.0);
    let mut client = proxy.client();
    client.ask("/stream", "").head().unwrap();
    assert_eq!(client.wire.chunk().unwrap(), Ok(b"first".to_vec()));
    block_on(async {
        let mut http2 = Http2::connect(proxy.address).await;
        let request = Http2::request("/stream")
            .body(Empty::new().map_err(|never| match never {}).boxed())
            .unwrap();
        let mut body = http2.head(request).await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&*first, b"first");
        for _ in 0..10 {
            proxy.roll_back();
            assert_eq!(http2.get("/").await.text, "blue");
            proxy.set_weights(0.0, 100.0);
            assert_eq!(http2.get("/").await.text, "green");
        }
        proxy.set_weights(100.0, 0.0);
        gate.open();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "second");
    });
    assert_eq!(client.wire.chunk().unwrap(), Ok(b"second".to_vec()));
    assert_eq!(client.wire.chunk().unwrap(), Err(Vec::new()));
    assert_eq!(
        client.get("/").text(),
        "blue",
        "the client's connection was closed"
    );
}

#[test]
fn an_upload_in_flight_is_not_interrupted() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    proxy.set_weights(0.0, 100.0);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 6\r\n\r\nabc");
    eventually("the upload is in flight", || green.count() == 1);
    proxy.roll_back();
    assert_eq!(client.send("def").receive().expect(200).text(), "green");
    assert_eq!(green.last().body.as_deref(), Some(&b"abcdef"[..]));
}

#[test]
fn a_rollback_restores_the_baseline_also_after_a_promotion() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    proxy.set_weights(50.0, 50.0);
    let back = proxy.roll_back().json();
    assert_eq!(
        (&back["weights"]["effective"]["blue"], &back["baseline"]),
        (&json!(100.0), &json!("blue"))
    );
    // Green has all weight and so becomes the baseline; the previous one is remembered.
    proxy.set_weights(0.0, 100.0);
    assert_eq!(proxy.service()["baseline"], "green");
    assert_eq!(proxy.get("/").text(), "green");
    let back = proxy.roll_back().json();
    assert_eq!(back["weights"]["effective"]["blue"], 100.0, "{back}");
    assert_eq!(proxy.get("/").text(), "blue");
}

#[test]
#[cfg(target_os = "linux")]
fn requests_that_wait_for_a_connection_move_away_from_a_removed_upstream() {
    let (listener, callers) = deaf();
    let blue = Upstream::named("blue");
    let mut service = json!({
        "routes": [{}],
        "upstreams": {
            "blue": { "endpoints": [blue.address] },
            "green": { "endpoints": [listener.local_addr().unwrap()] },
        },
        "weights": { "blue": 100, "green": 0 },
        "timeouts": { "connect": "15s" },
    });
    service["baseline"] = json!("blue");
    let proxy = Proxy::with_shop(service);
    proxy.set_weights(0.01, 99.99);
    let mut waiting: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut waiting {
        client.ask("/", "");
    }
    eventually("requests wait for green", || {
        proxy.service()["upstreams"]["green"]["endpoints"][0]["in_flight"].as_u64() >= Some(18)
    });
    let sent = std::time::Instant::now();
    proxy.roll_back();
    // The change does not wait for the connections: nothing was written to them, so no request has
    // started.
    assert!(
        sent.elapsed() < Duration::from_secs(10),
        "the response waited for the connections"
    );
    // Green now accepts connections, also those that the kernel has retried so far.
    let green = Upstream::on(listener, |call| call.ok("green"));
    for client in &mut waiting {
        assert_eq!(client.receive().expect(200).text(), "blue");
    }
    assert_eq!(green.count(), 0, "{:?}", green.seen());
    drop(callers);
}
