//! Active health checks: who fails them gets nothing, and is taken back when it is well again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::{Value, json};

use crate::errors::is_refusal;
use crate::harness::{Proxy, Upstream, eventually};

/// An upstream that is well as long as the switch says so.
fn patient(name: &'static str) -> (Upstream, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&well);
    let upstream = Upstream::start(move |call| match (call.path(), switch.load(SeqCst)) {
        ("/health?deep=1", true) => call.ok("well"),
        ("/health?deep=1", false) => call.answer("503 Service Unavailable", "", ""),
        _ => call.ok(name),
    });
    (upstream, well)
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
fn without_a_healthy_endpoint_it_is_503_until_one_recovers() {
    let (upstream, well) = patient("blue");
    let proxy = Proxy::with_shop(checked(&[&upstream]));
    let mut client = proxy.client();
    client.get("/").expect(200);
    well.store(false, SeqCst);
    eventually("the endpoint is taken out", || {
        client.get("/").status == 503
    });
    is_refusal(
        &client.get("/"),
        503,
        "destination_unavailable",
        "no_healthy_endpoint",
    );
    eventually("that is told", || !healthy(&proxy, 0));
    let endpoint = upstream.address.to_string();
    let gauge = |proxy: &Proxy| {
        proxy
            .metrics()
            .sum("endpoint_healthy", &[("endpoint", &*endpoint)])
    };
    eventually("the metrics tell it", || gauge(&proxy) == 0.0);
    eventually("refusals are counted", || {
        proxy.metrics().reason("no_healthy_endpoint") >= 1.0
    });
    well.store(true, SeqCst);
    eventually("the endpoint is taken back", || {
        client.get("/").status == 200
    });
    eventually("that is told", || {
        healthy(&proxy, 0) && gauge(&proxy) == 1.0
    });
}

#[test]
fn a_sick_endpoint_gets_nothing_and_its_neighbour_everything() {
    let ((one, one_well), (two, _)) = (patient("one"), patient("two"));
    let proxy = Proxy::with_shop(checked(&[&one, &two]));
    let mut client = proxy.client();
    eventually("both are used", || {
        client.get("/").expect(200);
        [&one, &two]
            .iter()
            .all(|upstream| upstream.seen().iter().any(|seen| seen.target == "/"))
    });
    one_well.store(false, SeqCst);
    eventually("one is taken out", || !healthy(&proxy, 0));
    for _ in 0..50 {
        assert_eq!(client.get("/").expect(200).text(), "two");
    }
    assert!(healthy(&proxy, 1));
    // What users get is not changed by a change of weights: health is not forgotten.
    proxy
        .put_weights("", r#"{"weights": {"blue": 100}}"#)
        .expect(200);
    for _ in 0..50 {
        assert_eq!(client.get("/").expect(200).text(), "two");
    }
    one_well.store(true, SeqCst);
    eventually("one is used again", || {
        client.get("/").expect(200).text() == "one"
    });
}

#[test]
fn checks_are_not_counted_as_traffic() {
    let (upstream, _well) = patient("blue");
    let proxy = Proxy::with_shop(checked(&[&upstream]));
    eventually("checks have come", || upstream.count() > 10);
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
