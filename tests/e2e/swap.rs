//! A change of weights: in effect for the next request wherever it comes, and felt by no request
//! under way.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use serde_json::json;

use crate::errors::deaf;
use crate::harness::{Gate, Http2, Proxy, Upstream, block_on, eventually, shop};

#[test]
fn the_next_request_on_an_open_connection_goes_by_the_new_weights() {
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
fn the_next_stream_of_an_open_http2_connection_goes_by_the_new_weights() {
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

/// An upstream whose answer to `/stream` comes in two parts, the second when the gate opens.
fn in_two_parts(name: &'static str) -> (Upstream, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let upstream = Upstream::start(move |call| {
        if call.path() != "/stream" {
            return call.ok(name);
        }
        call.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .unwrap();
        held.wait();
        call.write("6\r\nsecond\r\n0\r\n\r\n").unwrap();
    });
    (upstream, gate)
}

#[test]
fn an_answer_under_way_is_not_cut() {
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
        "the client's connection was not kept"
    );
}

#[test]
fn an_upload_under_way_is_not_cut() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    proxy.set_weights(0.0, 100.0);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 6\r\n\r\nabc");
    eventually("the upload is under way", || green.count() == 1);
    proxy.roll_back();
    assert_eq!(client.send("def").receive().expect(200).text(), "green");
    assert_eq!(green.last().body.as_deref(), Some(&b"abcdef"[..]));
}

#[test]
fn a_rollback_returns_to_the_baseline_also_after_a_promotion() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    proxy.set_weights(50.0, 50.0);
    let back = proxy.roll_back().json();
    assert_eq!(
        (&back["weights"]["effective"]["blue"], &back["baseline"]),
        (&json!(100.0), &json!("blue"))
    );
    // Green holds everything, and so is the baseline; the one before is remembered.
    proxy.set_weights(0.0, 100.0);
    assert_eq!(proxy.service()["baseline"], "green");
    assert_eq!(proxy.get("/").text(), "green");
    let back = proxy.roll_back().json();
    assert_eq!(back["weights"]["effective"]["blue"], 100.0, "{back}");
    assert_eq!(proxy.get("/").text(), "blue");
}

#[test]
#[cfg(target_os = "linux")]
fn requests_that_still_wait_for_a_connection_do_not_reach_what_was_taken_out() {
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
    let asked = std::time::Instant::now();
    proxy.roll_back();
    // It does not wait for the connections: nothing has been written, so nothing has started.
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "the reply waited for the connections"
    );
    // Now green takes connections, also those that the kernel has tried in vain so far.
    let green = Upstream::on(listener, |call| call.ok("green"));
    for client in &mut waiting {
        assert_eq!(client.receive().expect(200).text(), "blue");
    }
    assert_eq!(green.count(), 0, "{:?}", green.seen());
    drop(callers);
}
