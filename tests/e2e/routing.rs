//! Which service a request reaches; the matched path is the forwarded path.

use serde_json::{Value, json};

use crate::harness::{Http2, Proxy, Upstream, block_on};

fn service(upstream: &Upstream, routes: Value) -> Value {
    json!({ "routes": routes, "upstreams": { "only": { "endpoints": [upstream.address] } } })
}

/// Sends a request line with headers; returns the body, or the status if it is not 200.
fn ask(proxy: &Proxy, line: &str, headers: &str) -> String {
    let (method, rest) = line.split_once(' ').unwrap();
    let (host, path) = rest.split_once(' ').unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    let response = proxy.client().send(request).receive();
    if response.status == 200 {
        response.text()
    } else {
        response.status.to_string()
    }
}

#[test]
fn the_most_specific_route_matches() {
    let names = [
        "any", "exact", "wildcard", "path", "deeper", "post", "version",
    ];
    let upstreams = names.map(Upstream::named);
    let routes = [
        json!([{}]),
        json!([{ "host": "shop.test" }]),
        json!([{ "host": "*.shop.test" }]),
        json!([{ "host": "shop.test", "path_prefix": "/api" }]),
        json!([{ "host": "shop.test", "path_prefix": "/api/v2" }]),
        json!([{ "host": "shop.test", "path_prefix": "/api", "methods": ["POST"] }]),
        json!([{ "host": "shop.test", "path_prefix": "/api", "headers": { "X-Version": "2" } }]),
    ];
    let services: serde_json::Map<String, Value> = names
        .iter()
        .zip(upstreams.iter().zip(routes))
        .map(|(name, (upstream, routes))| ((*name).to_owned(), service(upstream, routes)))
        .collect();
    let proxy = Proxy::start(json!({ "services": services }));
    for (line, headers, expected) in [
        ("GET other.test /", "", "any"),
        ("GET shop.test /", "", "exact"),
        ("GET SHOP.TEST:8080 /", "", "exact"),
        ("GET a.shop.test /", "", "wildcard"),
        ("GET a.b.shop.test /x", "", "wildcard"),
        ("GET ashop.test /", "", "any"),
        ("GET shop.test /api", "", "path"),
        ("GET shop.test /api/", "", "path"),
        ("GET shop.test /api?x=1", "", "path"),
        ("GET shop.test /apis", "", "exact"),
        ("GET shop.test /api/v2/x", "", "deeper"),
        ("GET shop.test /api/v22", "", "path"),
        ("POST shop.test /api/x", "", "post"),
        ("GET shop.test /api", "X-Version: 2\r\n", "version"),
        ("GET shop.test /api", "X-Version: 22\r\n", "path"),
    ] {
        assert_eq!(ask(&proxy, line, headers), expected, "{line} {headers}");
    }
}

#[test]
fn the_path_is_matched_and_forwarded_unchanged() {
    let (all, private) = (Upstream::named("all"), Upstream::named("private"));
    let proxy = Proxy::start(json!({ "services": {
        "all": service(&all, json!([{}])),
        "private": service(&private, json!([{ "path_prefix": "/private" }])),
    }}));
    let mut client = proxy.client();
    // No spelling reaches another service after normalization: a path that is not literally
    // `/private` does not match it and is forwarded byte by byte.
    for path in [
        "/a/../private",
        "/a/%2e%2e/private",
        "/%70rivate",
        "//private",
        "/./private",
        "/a;x=1/..;/private",
        "/a%2Fprivate",
        "/a?q=%20%2F+/private&&",
        "/caf%C3%A9/%00",
    ] {
        assert_eq!(client.get(path).expect(200).text(), "all", "{path}");
        assert_eq!(all.last().target, path);
    }
    for path in ["/private", "/private/..;/x", "/private/../x"] {
        assert_eq!(client.get(path).expect(200).text(), "private", "{path}");
        assert_eq!(private.last().target, path);
    }
}

#[test]
fn each_request_of_a_connection_is_routed_separately() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let proxy = Proxy::start(json!({ "services": {
        "one": service(&one, json!([{ "host": "one.test" }])),
        "two": service(&two, json!([{ "host": "two.test" }])),
    }}));
    let mut client = proxy.client();
    for _ in 0..3 {
        for name in ["one", "two"] {
            let response = client
                .send(format!("GET / HTTP/1.1\r\nHost: {name}.test\r\n\r\n"))
                .receive();
            assert_eq!(response.expect(200).text(), name);
        }
    }
    // In absolute form the target sets the host, whatever Host contains.
    let response = client
        .send("GET http://two.test/x HTTP/1.1\r\nHost: one.test\r\n\r\n")
        .receive();
    assert_eq!(response.expect(200).text(), "two");
    let last = two.last();
    assert_eq!(
        (last.target.as_str(), last.header("host").as_deref()),
        ("/x", Some("two.test"))
    );
}

#[test]
fn http2_requests_are_routed_by_authority() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let proxy = Proxy::start(json!({ "services": {
        "one": service(&one, json!([{ "host": "shop.test" }])),
        "two": service(&two, json!([{ "host": "shop.test", "path_prefix": "/two" }])),
    }}));
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        assert_eq!(client.get("/").await.text, "one");
        assert_eq!(client.get("/two/x?y=z").await.text, "two");
    });
    assert_eq!(two.last().target, "/two/x?y=z");
}
