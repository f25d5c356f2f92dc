//! Configuration: wrong ones end the start with 78 and a place, or leave what runs as it is.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Gate, Proxy, Upstream, eventually, shop};

fn with_route(service: &Value, prefix: &str) -> Value {
    let mut service = service.clone();
    service["routes"] = json!([{ "path_prefix": prefix }]);
    json!({ "services": { "shop": service } })
}

fn last_reload(proxy: &Proxy) -> f64 {
    let metrics = proxy.metrics();
    assert!(metrics.has("config_last_reload_successful"));
    metrics.sum("config_last_reload_successful", &[])
}

#[test]
fn a_file_that_is_wrong_ends_the_start_with_78_and_tells_where() {
    let mut proxy = Proxy::prepare(json!({ "services": {} }));
    let text = "listeners:\n  - address: 127.0.0.1:0\n    limit: 3\nservices:\n  shop:\n    \
                routes: [{}]\n    upstreams:\n      blue: { endpoints: [\"127.0.0.1:1\"], wieght: \
                10 }\n    weights: { blue: 99 }\n";
    fs::write(proxy.config_path(), text).unwrap();
    proxy.spawn();
    let ended = proxy.ended();
    assert_eq!(ended.status.code(), Some(78), "{}", ended.log);
    // Everything at once, each with line and column.
    for told in [
        "weighbridge.yaml:3:5",
        "limit",
        "weighbridge.yaml:8:43",
        "wieght",
        "weighbridge.yaml:9:5",
        "99",
    ] {
        assert!(
            ended.log.contains(told),
            "{told} is missing:\n{}",
            ended.log
        );
    }
    fs::remove_file(proxy.config_path()).unwrap();
    proxy.spawn();
    assert_eq!(proxy.ended().status.code(), Some(78));
}

#[test]
fn an_open_admin_api_for_everybody_is_refused() {
    let mut proxy = Proxy::prepare(json!({ "services": {} }));
    let text = "admin: { address: \"0.0.0.0:0\" }\nservices: { shop: { routes: [{}], upstreams: { \
                blue: { endpoints: [\"127.0.0.1:1\"] } } } }\n";
    fs::write(proxy.config_path(), text).unwrap();
    proxy.spawn();
    let ended = proxy.ended();
    assert_eq!(ended.status.code(), Some(78), "{}", ended.log);
    assert!(ended.log.contains("token"), "{}", ended.log);
}

#[test]
fn a_changed_file_is_in_use_soon_and_a_request_under_way_does_not_notice() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let blue = Upstream::start(move |call| {
        if call.path() == "/one/slow" {
            held.wait();
        }
        call.ok("blue");
    });
    let service = shop(&blue, &blue);
    let proxy = Proxy::start(with_route(&service, "/one"));
    let mut slow = proxy.client();
    slow.ask("/one/slow", "");
    eventually("a request is under way", || blue.count() == 1);
    let mut client = proxy.client();
    client.get("/two").expect(404);
    proxy.write_config(with_route(&service, "/two"));
    eventually("the new route is in use", || {
        client.get("/two").status == 200
    });
    client.get("/one").expect(404);
    assert_eq!(last_reload(&proxy), 1.0);
    gate.open();
    assert_eq!(slow.receive().expect(200).text(), "blue");
}

#[test]
fn a_file_that_is_changed_in_place_is_noticed_too() {
    let blue = Upstream::named("blue");
    let service = shop(&blue, &blue);
    let proxy = Proxy::start(with_route(&service, "/one"));
    let changed = fs::read_to_string(proxy.config_path())
        .unwrap()
        .replace("/one", "/two");
    fs::write(proxy.config_path(), changed).unwrap();
    let mut client = proxy.client();
    eventually("the new route is in use", || {
        client.get("/two").status == 200
    });
}

#[test]
fn a_hangup_reloads() {
    let blue = Upstream::named("blue");
    let service = shop(&blue, &blue);
    let mut proxy = Proxy::start(with_route(&service, "/one"));
    proxy.write_config(with_route(&service, "/two"));
    proxy.signal("HUP");
    let mut client = proxy.client();
    eventually("the new route is in use", || {
        client.get("/two").status == 200
    });
    for _ in 0..20 {
        proxy.signal("HUP");
        client.get("/two").expect(200);
    }
    assert!(proxy.is_alive());
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told() {
    let blue = Upstream::named("blue");
    let service = shop(&blue, &blue);
    let mut proxy = Proxy::start(with_route(&service, "/one"));
    let good = fs::read_to_string(proxy.config_path()).unwrap();
    for bad in [
        good.replace("\"blue\": 100", "\"blue\": 90"),
        good.replace("routes", "roots"),
        "{".into(),
        String::new(),
    ] {
        fs::write(proxy.config_path(), bad).unwrap();
        proxy.signal("HUP");
        eventually("the failure is told", || last_reload(&proxy) == 0.0);
        assert_eq!(proxy.get("/one").expect(200).text(), "blue");
        proxy.write_config(with_route(&service, "/one"));
        proxy.signal("HUP");
        eventually("the repair is told", || last_reload(&proxy) == 1.0);
    }
    assert!(proxy.is_alive());
    assert!(
        proxy.log().contains("roots"),
        "the log does not say what is wrong:\n{}",
        proxy.log()
    );
}

#[test]
fn live_weights_survive_a_reload() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let service = shop(&blue, &green);
    let proxy = Proxy::start(with_route(&service, "/one"));
    let set = proxy.set_weights(0.0, 100.0).json();
    let mut changed = with_route(&service, "/two");
    changed["services"]["shop"]["weights"] = json!({ "blue": 50, "green": 50 });
    proxy.write_config(changed);
    let mut client = proxy.client();
    eventually("the new route is in use", || {
        client.get("/two").status == 200
    });
    for _ in 0..50 {
        assert_eq!(client.get("/two").expect(200).text(), "green");
    }
    let service = proxy.service();
    assert_eq!(service["weights"]["effective"], set["weights"]["effective"]);
    assert_eq!(service["baseline"], "green");
}

#[test]
fn services_come_and_go_with_a_reload() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let service = |upstream: &Upstream, path: &str| {
        json!({ "routes": [{ "path_prefix": path }],
    "upstreams": { "only": { "endpoints": [upstream.address] } } })
    };
    let proxy = Proxy::start(json!({ "services": { "one": service(&one, "/one") } }));
    let both =
        json!({ "services": { "one": service(&one, "/one"), "two": service(&two, "/two") } });
    proxy.write_config(both);
    let mut client = proxy.client();
    eventually("the second service is there", || {
        client.get("/two").status == 200
    });
    assert_eq!(client.get("/one").expect(200).text(), "one");
    // An endpoint moves.
    proxy.write_config(
        json!({ "services": { "one": service(&two, "/one"), "two": service(&two, "/two") } }),
    );
    eventually("the endpoint has moved", || {
        client.get("/one").expect(200).text() == "two"
    });
    proxy.write_config(json!({ "services": { "two": service(&two, "/two") } }));
    eventually("the first service is gone", || {
        client.get("/one").status == 404
    });
    assert_eq!(client.get("/two").expect(200).text(), "two");
    proxy
        .admin("GET", "/api/v1/services/one", "", None)
        .expect(404);
}
