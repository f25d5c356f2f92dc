//! Header fields that the proxy removes, sets or passes on.

use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};

use crate::harness::{Http2, Proxy, Seen, Upstream, block_on, shop};

fn proxy(listener: Value, blue: &Upstream) -> Proxy {
    Proxy::start(json!({ "listeners": [listener], "services": { "shop": shop(blue, blue) } }))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn value(request: &Seen, name: &str) -> String {
    request
        .header(name)
        .unwrap_or_else(|| panic!("{name} is missing: {request:?}"))
}

#[test]
fn hop_by_hop_fields_are_removed_in_both_directions() {
    let blue = Upstream::start(|call| {
        let headers = "Connection: X-Mine, close\r\nX-Mine: 1\r\nKeep-Alive: \
                       timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Kept: \
                       1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n";
        call.answer("200 OK", headers, "");
        call.close();
    });
    let proxy = proxy(json!({}), &blue);
    let mut client = proxy.client();
    let headers = "Connection: keep-alive, X-Secret, TE, Host, Content-Length, X-Forwarded-For, \
                   X-Real-IP, X-Request-Id\r\nKeep-Alive: timeout=5\r\nX-Secret: 1\r\nTE: gzip, \
                   trailers;q=0.5, trailers\r\nProxy-Connection: keep-alive\r\nUpgrade: \
                   h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX-Kept: 1\r\nAuthorization: Basic \
                   eA==\r\nCookie: a=b\r\n";
    let response = client.ask("/", headers).receive().expect(200);
    let request = blue.last();
    for name in ["x-secret", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(
            request.header(name),
            None,
            "{name} was forwarded: {request:?}"
        );
    }
    let connection = request
        .header("connection")
        .unwrap_or_default()
        .to_ascii_lowercase();
    assert!(
        !connection.contains("secret") && !connection.contains("upgrade"),
        "{request:?}"
    );
    assert_eq!(request.header("te").as_deref(), Some("trailers"));
    for (name, kept) in [
        ("x-kept", "1"),
        ("authorization", "Basic eA=="),
        ("cookie", "a=b"),
        ("host", "shop.test"),
    ] {
        assert_eq!(value(&request, name), kept);
    }
    // A field that Connection names is still set by the proxy.
    assert_eq!(value(&request, "x-forwarded-for"), "127.0.0.1");
    assert!(is_uuid(&value(&request, "x-request-id")));
    for name in ["x-mine", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert_eq!(
            response.header(name),
            None,
            "{name} was returned: {response:?}"
        );
    }
    assert_ne!(
        response.header("connection").as_deref(),
        Some("close"),
        "the upstream's Connection: close reached the client"
    );
    assert_eq!(response.header("x-kept").as_deref(), Some("1"));
    assert_eq!(response.header("set-cookie").as_deref(), Some("a=1, b=2"));
    assert!(response.header("date").is_some());
    // The upstream's close does not close the client's connection.
    client.get("/").expect(200);
}

const CLAIMS: &str = "X-Forwarded-For: 10.9.9.9, 10.8.8.8\r\nX-Forwarded-Proto: \
                      https\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 1\r\nX-Real-IP: \
                      10.9.9.9\r\nForwarded: for=10.9.9.9\r\nX-Request-Id: \
                      chosen\r\nX-Forwarded-Prefix: /evil\r\nX_Forwarded_For: 10.9.9.9\r\n";

#[test]
fn forwarding_fields_of_an_untrusted_client_are_overwritten() {
    let blue = Upstream::named("blue");
    let proxy = proxy(json!({}), &blue);
    let response = proxy.client().ask("/", CLAIMS).receive().expect(200);
    let request = blue.last();
    let port = proxy.address.port().to_string();
    for (name, expected) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.test"),
        ("x-forwarded-port", &*port),
        ("x-real-ip", "127.0.0.1"),
    ] {
        assert_eq!(value(&request, name), expected, "{name}");
    }
    for name in ["forwarded", "x-forwarded-prefix", "x_forwarded_for"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    let id = value(&request, "x-request-id");
    assert!(is_uuid(&id), "{id}");
    assert_eq!(response.header("x-request-id"), Some(id));
}

#[test]
fn forwarding_fields_of_a_trusted_proxy_are_kept_and_extended() {
    let blue = Upstream::named("blue");
    let proxy = proxy(json!({ "trusted_proxies": ["127.0.0.0/8"] }), &blue);
    let response = proxy.client().ask("/", CLAIMS).receive().expect(200);
    let request = blue.last();
    for (name, expected) in [
        ("x-forwarded-for", "10.9.9.9, 10.8.8.8, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.test"),
        ("x-real-ip", "10.9.9.9"),
        ("x-request-id", "chosen"),
    ] {
        assert_eq!(value(&request, name), expected, "{name}");
    }
    assert_eq!(response.header("x-request-id").as_deref(), Some("chosen"));
    // An X-Forwarded-Port that is not a port is replaced by the port of this connection.
    for (forwarded_port, expected) in [
        ("8443", "8443"),
        ("8443, 443", "8443, 443"),
        ("https", "9443"),
        ("0", "9443"),
        ("99999", "9443"),
    ] {
        let headers =
            format!("X-Forwarded-Host: shop.test:9443\r\nX-Forwarded-Port: {forwarded_port}\r\n");
        proxy.client().ask("/", &headers).receive().expect(200);
        assert_eq!(
            value(&blue.last(), "x-forwarded-port"),
            expected,
            "{forwarded_port}"
        );
    }
    // A trusted peer may omit them, or send an id that is not safe to log.
    proxy
        .client()
        .ask("/", &format!("X-Request-Id: {}\r\n", "x".repeat(129)))
        .receive()
        .expect(200);
    assert_eq!(value(&blue.last(), "x-forwarded-for"), "127.0.0.1");
    assert_eq!(value(&blue.last(), "x-real-ip"), "127.0.0.1");
    assert!(is_uuid(&value(&blue.last(), "x-request-id")));
}

#[test]
fn x_real_ip_behind_trusted_proxies_is_the_client_address() {
    let blue = Upstream::named("blue");
    let proxy = proxy(
        json!({ "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"] }),
        &blue,
    );
    // A claim of the client, the client, and a proxy that is trusted like the peer.
    let chain = "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.9, 10.0.0.2\r\n";
    proxy.client().ask("/", chain).receive().expect(200);
    assert_eq!(value(&blue.last(), "x-real-ip"), "203.0.113.9");
    let fields = format!("{chain}X-Real-IP: 203.0.113.10\r\n");
    proxy.client().ask("/", &fields).receive().expect(200);
    assert_eq!(value(&blue.last(), "x-real-ip"), "203.0.113.10");
}

#[test]
fn forwarding_loops_are_refused_without_a_via_field() {
    let blue = Upstream::named("blue");
    let around = proxy(json!({}), &blue);
    around.client().get("/").expect(200);
    let request = blue.last();
    assert_eq!(
        request.header("via"),
        None,
        "upstreams disable compression for it"
    );
    let own = value(&request, "weighbridge-hops");
    around
        .client()
        .ask("/", "Via: 1.1 first\r\n")
        .receive()
        .expect(200);
    assert_eq!(value(&blue.last(), "via"), "1.1 first");
    // Hops of other proxies are kept, which detects loops over several proxies; a client cannot
    // forge one.
    let others = "Weighbridge-Hops: a, a, a, a\r\nWeighbridge-Hops: a, a, a, a, \
                  a\r\nWeighbridge_Hops: b\r\n";
    around.client().ask("/", others).receive().expect(200);
    assert_eq!(
        value(&blue.last(), "weighbridge-hops"),
        format!("a, a, a, a, a, a, a, a, a, {own}")
    );
    assert_eq!(blue.last().header("weighbridge_hops"), None);
    let circle = format!("Weighbridge-Hops: {}\r\n", [&*own; 8].join(","));
    assert_eq!(around.client().ask("/", &circle).receive().status, 508);
    // A proxy whose upstream is itself.
    let itself = Proxy::prepare(json!({ "services": {} }));
    let (mut itself, address) = {
        let address = itself.address;
        (itself, address)
    };
    itself.write_config(json!({ "services": { "shop": {
        "routes": [{}], "upstreams": { "blue": { "endpoints": [address] } },
    }}}));
    itself.run();
    assert_eq!(itself.get("/").status, 508);
}

#[test]
fn the_host_is_passed_on_and_set_only_if_absent() {
    let blue = Upstream::named("blue");
    let proxy = proxy(json!({}), &blue);
    proxy
        .client()
        .send("GET / HTTP/1.1\r\nHost: Shop.Test:8080\r\n\r\n")
        .receive()
        .expect(200);
    assert_eq!(value(&blue.last(), "host"), "Shop.Test:8080");
    let mut old = proxy.client();
    let response = old.send("GET /old HTTP/1.0\r\n\r\n").receive().expect(200);
    assert_eq!(response.text(), "blue");
    assert!(
        old.wire.closes(),
        "HTTP/1.0 without keep-alive ends the connection"
    );
    let request = blue.last();
    assert_eq!(request.head.first, "GET /old HTTP/1.1");
    let hosts = request
        .head
        .headers
        .iter()
        .filter(|(name, _)| name == "host")
        .count();
    assert_eq!(hosts, 1, "{request:?}");
}

#[test]
fn http2_requests_are_translated_to_http1() {
    let blue = Upstream::start(|call| {
        call.answer(
            "200 OK",
            "Connection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n",
            "blue",
        );
    });
    let proxy = proxy(json!({}), &blue);
    block_on(async {
        let mut client = Http2::connect(proxy.address).await;
        let request = Http2::request("/x?y=1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("te", "trailers");
        let request = request
            .body(Empty::new().map_err(|never| match never {}).boxed())
            .unwrap();
        let response = client.send(request).await;
        assert_eq!((response.status, &*response.text), (200, "blue"));
        for name in ["x-mine", "keep-alive", "connection", "transfer-encoding"] {
            assert!(!response.headers.contains_key(name), "{response:?}");
        }
        assert!(response.headers.contains_key("x-request-id"));
    });
    let request = blue.last();
    assert_eq!(request.head.first, "GET /x?y=1 HTTP/1.1");
    for (name, expected) in [
        ("host", "shop.test"),
        ("cookie", "a=1; b=2"),
        ("x-forwarded-host", "shop.test"),
    ] {
        assert_eq!(value(&request, name), expected, "{name}");
    }
    assert!(
        !request
            .head
            .headers
            .iter()
            .any(|(name, _)| name.starts_with(':')),
        "{request:?}"
    );
    assert_eq!(
        request.head.header("transfer-encoding"),
        None,
        "a request without a body got one"
    );
}
