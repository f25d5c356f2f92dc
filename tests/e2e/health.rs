//! Active health checks: an unhealthy endpoint gets no requests until it recovers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::{Value, json};

use crate::errors::is_refusal;
use crate::harness::{Proxy, Upstream, eventually};

/// An upstream whose health check passes while the switch is on.
fn upstream_with_health(name: &'static str) -> (Upstream, Arc<AtomicBool>) {
    let passes = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&passes);
    let upstream = Upstream::start(move |call| match (call.path(), switch.load(SeqCst)) {
        ("/health?deep=1", true) => call.ok("well"),
        ("/health?deep=1", false) => call.answer("503 Service Unavailable", "", ""),
        _ => call.ok(name),
    });
    (upstream, passes)
}

fn checked(endpoints: &[&Upstream]) -> Value {
    let endpoints: Vec<_> = endpoints.iter().map(|upstream| upstream.address).collect();
    json!({
        "routes": [{}],
        "upstreams": { "blue": { "endpoints": endpoints } },
        "health": {
            "path": "/health?deep=1", "interval": "20ms", "timeout": "5s",
                "unhealthy_after": 2, "healthy_after": 2,
        },
    })
}

fn healthy(proxy: &Proxy, at: usize) -> bool {
    proxy.service()["upstreams"]["blue"]["endpoints"][at]["healthy"] == true
}

#[test]
fn without_a_healthy_endpoint_requests_are_503_until_one_recovers() {
    let (upstream, passes) = upstream_with_health("blue");
    let proxy = Proxy::with_shop(checked(&[&upstream]));
    let mut client = proxy.client();
    client.get("/").expect(200);
    passes.store(false, SeqCst);
    eventually("the endpoint is unhealthy", || {
        client.get("/").status == 503
    });
    is_refusal(
        &client.get("/"),
        503,
        "destination_unavailable",
        "no_healthy_endpoint",
    );
    eventually("the API reports it", || !healthy(&proxy, 0));
    let endpoint = upstream.address.to_string();
    let gauge = |proxy: &Proxy| {
        proxy
            .metrics()
            .sum("endpoint_healthy", &[("endpoint", &*endpoint)])
    };
    eventually("the metrics report it", || gauge(&proxy) == 0.0);
    eventually("refusals are counted", || {
        proxy.metrics().reason("no_healthy_endpoint") >= 1.0
    });
    passes.store(true, SeqCst);
    eventually("the endpoint is used again", || {
        client.get("/").status == 200
    });
    eventually("the API and the metrics report it", || {
        healthy(&proxy, 0) && gauge(&proxy) == 1.0
    });
}

#[test]
fn an_unhealthy_endpoint_gets_no_requests_and_its_peer_all() {
    let ((one, one_passes), (two, _)) = (upstream_with_health("one"), upstream_with_health("two"));
    let proxy = Proxy::with_shop(checked(&[&one, &two]));
    let mut client = proxy.client();
    eventually("both endpoints get requests", || {
        client.get("/").expect(200);
        [&one, &two]
            .iter()
            .all(|upstream| upstream.seen().iter().any(|request| request.target == "/"))
    });
    one_passes.store(false, SeqCst);
    eventually("one endpoint is unhealthy", || !healthy(&proxy, 0));
    for _ in 0..50 {
        assert_eq!(client.get("/").expect(200).text(), "two");
    }
    assert!(healthy(&proxy, 1));
    // A change of weights keeps the health state.
    proxy
        .put_weights("", r#"{"weights": {"blue": 100}}"#)
        .expect(200);
    for _ in 0..50 {
        assert_eq!(client.get("/").expect(200).text(), "two");
    }
    one_passes.store(true, SeqCst);
    eventually("the endpoint is used again", || {
        client.get("/").expect(200).text() == "one"
    });
}

#[test]
fn health_checks_are_not_counted_as_traffic() {
    let (upstream, _passes) = upstream_with_health("blue");
    let proxy = Proxy::with_shop(checked(&[&upstream]));
    eventually("several checks have arrived", || upstream.count() > 10);
    proxy.get("/").expect(200);
    eventually("the request is counted", || {
        proxy.metrics().requests("blue") > 0.0
    });
    assert_eq!(proxy.metrics().requests("blue"), 1.0);
    assert_eq!(
        proxy.service()["upstreams"]["blue"]["windows"]["1m"]["requests"],
        1
    );
}
