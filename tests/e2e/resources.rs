//! Many connections, and exhausted file descriptors.

use serde_json::json;

use crate::errors::is_refusal;
use crate::harness::{Client, Proxy, Upstream, eventually, shop, until};

#[test]
fn a_thousand_idle_connections_do_not_affect_requests() {
    let blue = Upstream::named("blue");
    let proxy = Proxy::with_shop(shop(&blue, &blue));
    // Half of them idle before their first request, half after it. Fewer if this process may not
    // open as many.
    let mut idle: Vec<Client> = Vec::new();
    while idle.len() < 1000 {
        let Ok(mut client) = Client::try_connect(proxy.address) else {
            break;
        };
        if idle.len().is_multiple_of(2) {
            client.get("/").expect(200);
        }
        idle.push(client);
    }
    assert!(
        idle.len() > 200,
        "only {} connections were possible",
        idle.len()
    );
    let last = idle.pop();
    drop(last);
    for client in &mut idle {
        assert_eq!(client.get("/").expect(200).text(), "blue");
    }
    proxy.roll_back();
    proxy.set_weights(0.0, 100.0);
    assert_eq!(idle[0].get("/").expect(200).text(), "blue");
}

#[test]
#[cfg(unix)]
fn a_proxy_without_file_descriptors_keeps_running_and_recovers() {
    let blue = Upstream::named("blue");
    let config = json!({ "workers": 1, "services": { "shop": shop(&blue, &blue) } });
    let mut proxy = Proxy::start_with_open_files(config, 80);
    let mut open = proxy.client();
    open.get("/").expect(200);
    let mut crowd: Vec<Client> = (0..150).map(|_| proxy.client()).collect();
    for client in &mut crowd {
        client.ask("/", "");
    }
    eventually("the shortage is logged", || {
        proxy.log().to_lowercase().contains("too many open files")
    });
    assert!(proxy.is_alive());
    // Open connections stay open: at worst there is no descriptor for an upstream connection.
    assert!(matches!(open.get("/").status, 200 | 503));
    drop(crowd);
    eventually("new connections are served again", || {
        Client::try_connect(proxy.address).is_ok_and(|mut client| {
            client
                .ask("/", "")
                .try_receive()
                .is_ok_and(|response| response.status == 200)
        })
    });
    assert_eq!(open.get("/").expect(200).text(), "blue");
    eventually("the admin API responds", || {
        proxy.admin("GET", "/readyz", "", None).status == 200
    });
}

#[test]
#[cfg(unix)]
fn a_shortage_of_file_descriptors_is_no_upstream_failure() {
    // Each request needs an upstream connection of its own.
    let blue = Upstream::start(|call| {
        call.answer("200 OK", "Connection: close\r\n", "blue");
        call.close();
    });
    let config = json!({ "workers": 1, "services": { "shop": shop(&blue, &blue) } });
    let proxy = Proxy::start_with_open_files(config, 80);
    let mut open = proxy.client();
    let crowd: Vec<Client> = (0..150).map(|_| proxy.client()).collect();
    let shortages = || proxy.log().matches("Too many open files").count();
    let refused = until("no descriptor is left", || {
        // A descriptor that becomes free, such as that of the previous response, is soon taken by a
        // waiting client.
        let known = shortages();
        eventually("the shortage is logged", || shortages() > known + 1);
        Some(open.get("/")).filter(|response| response.status != 200)
    });
    is_refusal(&refused, 503, "proxy_internal_error", "local_resources");
    drop(crowd);
    eventually("the statistics are available", || {
        proxy.admin("GET", "/readyz", "", None).status == 200
    });
    eventually("the failure counts against no upstream", || {
        let window = &proxy.service()["upstreams"]["blue"]["windows"]["1m"];
        window["failures"] == 0 && window["classes"]["client_abort"] == 1
    });
    proxy.counts_reason("local_resources", 1);
}

#[test]
#[cfg(unix)]
fn a_shortage_of_file_descriptors_makes_no_endpoint_unhealthy() {
    let blue = Upstream::named("blue");
    let mut service = shop(&blue, &blue);
    service["health"] = json!({
        "path": "/health", "interval": "20ms", "timeout": "5s",
            "unhealthy_after": 2, "healthy_after": 2,
    });
    let config = json!({ "workers": 1, "services": { "shop": service } });
    let proxy = Proxy::start_with_open_files(config, 80);
    let mut open = proxy.client();
    let crowd: Vec<Client> = (0..150).map(|_| proxy.client()).collect();
    // Two for each of the two upstreams would suffice.
    eventually("health checks are due that cannot be sent", || {
        proxy.log().matches("could not be checked").count() >= 8
    });
    let response = open.get("/");
    assert!(
        response.status == 200 || response.json()["reason"] == "local_resources",
        "{response:?}"
    );
    drop(crowd);
    eventually("requests are served again", || open.get("/").status == 200);
    assert!(
        !proxy.log().contains("healthy=false"),
        "an endpoint became unhealthy"
    );
}
