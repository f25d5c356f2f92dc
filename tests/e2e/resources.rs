//! Many connections, and too few file descriptors.

use serde_json::json;

use crate::errors::is_refusal;
use crate::harness::{Client, Proxy, Upstream, eventually, shop, until};

#[test]
fn a_thousand_idle_connections_do_not_hinder() {
    let blue = Upstream::named("blue");
    let proxy = Proxy::with_shop(shop(&blue, &blue));
    // Half of them before their first request, half of them after it. Fewer where this process may
    // not open so many.
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
fn without_file_descriptors_it_lives_and_recovers() {
    let blue = Upstream::named("blue");
    let config = json!({ "workers": 1, "services": { "shop": shop(&blue, &blue) } });
    let mut proxy = Proxy::start_with_open_files(config, 80);
    let mut open = proxy.client();
    open.get("/").expect(200);
    let mut crowd: Vec<Client> = (0..150).map(|_| proxy.client()).collect();
    for client in &mut crowd {
        client.ask("/", "");
    }
    eventually("the want is noticed", || {
        proxy.log().to_lowercase().contains("too many open files")
    });
    assert!(proxy.is_alive());
    // Who is in stays in: at worst there is no descriptor for a connection to the upstream.
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
    eventually("the admin API answers", || {
        proxy.admin("GET", "/readyz", "", None).status == 200
    });
}

#[test]
#[cfg(unix)]
fn the_want_of_file_descriptors_is_no_failure_of_the_upstream() {
    // Each request needs a connection of its own.
    let blue = Upstream::start(|call| {
        call.answer("200 OK", "Connection: close\r\n", "blue");
        call.close();
    });
    let config = json!({ "workers": 1, "services": { "shop": shop(&blue, &blue) } });
    let proxy = Proxy::start_with_open_files(config, 80);
    let mut open = proxy.client();
    let crowd: Vec<Client> = (0..150).map(|_| proxy.client()).collect();
    let wants = || proxy.log().matches("Too many open files").count();
    let refused = until("there is none left", || {
        // One that becomes free, such as that of the answer before, is soon taken for a client that
        // waits.
        let known = wants();
        eventually("the want is noticed", || wants() > known + 1);
        Some(open.get("/")).filter(|answer| answer.status != 200)
    });
    is_refusal(&refused, 503, "proxy_internal_error", "local_resources");
    drop(crowd);
    eventually("the statistics can be asked for", || {
        proxy.admin("GET", "/readyz", "", None).status == 200
    });
    eventually("it counts as nobody's fault", || {
        let window = &proxy.service()["upstreams"]["blue"]["windows"]["1m"];
        window["failures"] == 0 && window["classes"]["client_abort"] == 1
    });
    proxy.counts_reason("local_resources", 1);
}

#[test]
#[cfg(unix)]
fn the_want_of_file_descriptors_takes_no_endpoint_out() {
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
    // Two for each of the two upstreams would be enough.
    eventually("checks are due that cannot be made", || {
        proxy.log().matches("could not be checked").count() >= 8
    });
    let answer = open.get("/");
    assert!(
        answer.status == 200 || answer.json()["reason"] == "local_resources",
        "{answer:?}"
    );
    drop(crowd);
    eventually("it is served again", || open.get("/").status == 200);
    assert!(
        !proxy.log().contains("healthy=false"),
        "an endpoint was taken out"
    );
}
