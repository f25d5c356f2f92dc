//! Which service a request reaches, and that what was matched is what is forwarded.

use serde_json::{Value, json};

use crate::harness::{Http2, Proxy, Upstream, block_on};

fn service(upstream: &Upstream, routes: Value) -> Value {
    json!({ "routes": routes, "upstreams": { "only": { "endpoints": [upstream.address] } } })
}

/// Asks with method, host and path, and gives the body, or the status if it is not 200.
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
fn the_most_specific_route_wins() {
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
fn what_is_matched_is_what_is_forwarded() {
    let (all, private) = (Upstream::named("all"), Upstream::named("private"));
    let proxy = Proxy::start(json!({ "services": {
        "all": service(&all, json!([{}])),
        "private": service(&private, json!([{ "path_prefix": "/private" }])),
    }}));
    let mut client = proxy.client();
    // No spelling of a path changes service on its way: what is not `/private` as it stands is not,
    // and is passed on byte by byte.
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
fn each_request_is_routed_for_itself_also_on_one_connection() {
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
    // A target in absolute form names the host, whatever Host says.
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
fn http2_is_routed_by_its_authority() {
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
