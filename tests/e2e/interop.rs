//! What other programs send that is not quite as everybody expects it, and is served all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::errors::is_refusal;
use crate::harness::{Client, Gate, Proxy, Upstream, eventually, shop};

fn proxy(listener: Value, service: Value) -> Proxy {
    Proxy::start(json!({ "listeners": [listener], "services": { "shop": service } }))
}

#[test]
fn a_client_that_half_closes_after_its_request_is_answered() {
    let gate = Arc::new(Gate::default());
    let opened = Arc::clone(&gate);
    let upstream = Upstream::start(move |call| {
        let body = call.body().unwrap();
        opened.wait();
        call.ok(format!("{} got {}", call.path(), body.len()));
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let big = "x".repeat(300_000);
    let upload =
        format!("POST /big HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 300000\r\n\r\n{big}");
    let chunked = "POST /chunked HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: \
                   chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let cases = [
        ("GET /one HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/one got 0"),
        (
            "GET /close HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n",
            "/close got 0",
        ),
        ("GET /old HTTP/1.0\r\n\r\n", "/old got 0"),
        (
            "GET /kept HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            "/kept got 0",
        ),
        (&*upload, "/big got 300000"),
        (chunked, "/chunked got 3"),
    ];
    let mut clients: Vec<Client> = cases.iter().map(|_| proxy.client()).collect();
    for ((request, _), client) in cases.iter().zip(&mut clients) {
        client.send(request);
        client.half_close();
    }
    // Nobody is answered before the end of what they send has long been known.
    let sent = Instant::now();
    eventually("all have arrived, and some time has passed", || {
        upstream.count() == cases.len() && sent.elapsed() > Duration::from_millis(300)
    });
    gate.open();
    for ((request, expected), mut client) in cases.iter().zip(clients) {
        let answer = client
            .try_receive()
            .unwrap_or_else(|error| panic!("{request:.40}: {error}"));
        assert_eq!(answer.expect(200).text(), *expected);
        assert!(client.wire.closes(), "{request:.40}");
    }
    let window = &proxy.service()["upstreams"]["blue"]["windows"]["1m"];
    assert_eq!(window["classes"].get("client_abort"), None, "{window}");
}

#[test]
fn all_of_several_requests_before_a_half_close_are_answered() {
    let upstream = Upstream::start(|call| {
        let path = call.path().to_owned();
        call.ok(path);
    });
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    let requests =
        ["/a", "/b", "/c"].map(|path| format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n"));
    client.send(requests.concat());
    client.half_close();
    for path in ["/a", "/b", "/c"] {
        assert_eq!(client.receive().expect(200).text(), path);
    }
    assert!(client.wire.closes());
}

#[test]
fn a_half_closed_client_that_resets_is_gone() {
    let upstream = Upstream::start(|call| call.await_hangup());
    let proxy = Proxy::with_shop(shop(&upstream, &upstream));
    let mut client = proxy.client();
    client.ask("/", "");
    client.half_close();
    eventually("the request has arrived", || upstream.count() == 1);
    client.reset();
    eventually("the upstream is told", || upstream.hangups() == 1);
    eventually("it is counted as an abort", || {
        proxy.service()["upstreams"]["blue"]["windows"]["1m"]["classes"]
            == json!({ "client_abort": 1 })
    });
}

#[test]
fn what_browsers_send_unescaped_is_forwarded_and_matched_as_it_is() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let mut service = shop(&blue, &green);
    service["routes"] = json!([{ "path_prefix": "/app" }]);
    let proxy = proxy(json!({}), service);
    let mut client = proxy.client();
    let targets = [
        r"/app?path=C:\temp\x",
        "/app?q=\"quoted\"",
        "/app/`tick`?a=`b`",
        "/app/a|b^c{d}[e]\"f\"?|^{}[]`\\\"'",
    ];
    for target in targets {
        client.ask(target, "").receive().expect(200);
        assert_eq!(blue.last().target, target);
    }
    // Not where the first of them stands in another request, nor byte by byte.
    let mut slow = proxy.client();
    for byte in "GET /app/`?\" HTTP/1.1\r\nHost: shop.test\r\n\r\n".bytes() {
        slow.send([byte]);
    }
    slow.receive().expect(200);
    assert_eq!(blue.last().target, "/app/`?\"");
    let absolute = "GET http://shop.test/app/`?\" HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    slow.send(absolute).receive().expect(200);
    assert_eq!(blue.last().target, "/app/`?\"");
    client.get("/app/plain").expect(200);
    assert_eq!(blue.last().target, "/app/plain");
    client.ask("/`app", "").receive().expect(404);
}

#[test]
fn every_refused_target_is_told_with_an_identity_and_counted() {
    let blue = Upstream::named("blue");
    let proxy = Proxy::with_shop(shop(&blue, &blue));
    let targets = [
        r"/a\b",
        "/<x>",
        "/?<x>",
        "/a#b",
        "/\u{e9}",
        "/\x7f",
        "http://a%zz/",
        "http://a:99999999/",
        "http://a/?#",
    ];
    for target in targets {
        let mut client = proxy.client();
        let request = format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        let answer = client.send(request).receive();
        is_refusal(&answer, 400, "http_request_error", "bad_request");
        assert!(client.wire.closes());
    }
    assert_eq!(blue.count(), 0);
    proxy.counts_reason("bad_request", u32::try_from(targets.len()).unwrap());
}

#[test]
fn the_port_that_upstreams_are_told_is_the_users() {
    let blue = Upstream::named("blue");
    let proxy = proxy(
        json!({ "trusted_proxies": ["127.0.0.0/8"] }),
        shop(&blue, &blue),
    );
    for (fields, port) in [
        ("X-Forwarded-Proto: https\r\n", "443"),
        ("X-Forwarded-Proto: http\r\n", "80"),
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.test:8443\r\n",
            "8443",
        ),
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-Port: 9443\r\n",
            "9443",
        ),
    ] {
        proxy.client().ask("/", fields).receive().expect(200);
        assert_eq!(
            blue.last().header("x-forwarded-port").as_deref(),
            Some(port),
            "{fields}"
        );
    }
}

#[test]
fn addresses_of_users_are_understood_with_ports_and_in_brackets() {
    let blue = Upstream::named("blue");
    let proxy = proxy(
        json!({ "trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"] }),
        shop(&blue, &blue),
    );
    for (said, user) in [
        ("203.0.113.7:51234", "203.0.113.7"),
        ("\"[2001:db8::7]:443\"", "2001:db8::7"),
        ("[2001:db8::8], 10.0.0.2:4711", "2001:db8::8"),
        ("203.0.113.9\r\nX-Forwarded-For: 10.0.0.3 ,", "203.0.113.9"),
        ("unknown, 10.0.0.2", "10.0.0.2"),
        ("unknown", "127.0.0.1"),
    ] {
        let fields = format!("X-Forwarded-For: {said}\r\n");
        proxy.client().ask("/", &fields).receive().expect(200);
        assert_eq!(
            blue.last().header("x-real-ip").as_deref(),
            Some(user),
            "{said}"
        );
    }
    let told = || {
        proxy
            .log()
            .matches("X-Forwarded-For that is not understood")
            .count()
    };
    eventually("what is not understood is told", || told() == 1);
}

#[test]
fn users_who_are_told_apart_by_address_behind_an_undeclared_proxy_are_warned_of_once() {
    let blue = Upstream::named("blue");
    let mut service = shop(&blue, &blue);
    service["sticky"] = json!({ "client_ip": true });
    let warned = |proxy: &Proxy| proxy.log().matches("not among trusted_proxies").count();
    let undeclared = proxy(json!({}), service.clone());
    for _ in 0..5 {
        undeclared.get("/").expect(200);
    }
    eventually("it is told", || warned(&undeclared) == 1);
    let declared = proxy(json!({ "trusted_proxies": ["127.0.0.0/8"] }), service);
    let users: Vec<String> = (0..5)
        .map(|user| format!("X-Forwarded-For: 203.0.113.{user}:4711\r\n"))
        .collect();
    for user in &users {
        declared.client().ask("/", user).receive().expect(200);
    }
    assert_eq!(warned(&declared), 0);
}

#[test]
fn a_connection_whose_upstream_advertises_another_protocol_is_used_again() {
    let blue = Upstream::start(|call| {
        call.answer(
            "200 OK",
            "Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\n",
            "blue",
        );
    });
    let proxy = proxy(json!({}), shop(&blue, &blue));
    let mut client = proxy.client();
    for _ in 0..3 {
        let answer = client.get("/").expect(200);
        assert_eq!(
            (answer.header("upgrade"), answer.header("connection")),
            (None, None)
        );
    }
    let connections: Vec<usize> = blue.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 0]);
}

#[test]
fn a_space_before_a_colon_is_taken_off_answers_and_refused_where_it_is_about_framing() {
    let blue = Upstream::start(|call| match call.path() {
        "/type" => call.answer(
            "200 OK",
            "Content-Type : text/plain\r\nX-A\t: 1\r\n",
            "blue",
        ),
        "/length" => {
            let _ = call.write("HTTP/1.1 200 OK\r\nContent-Length : 4\r\n\r\nblue");
            call.close();
        }
        _ => call.answer("200 OK", "Trailer : X-A\r\n", "blue"),
    });
    let proxy = proxy(json!({}), shop(&blue, &blue));
    let answer = proxy.get("/type").expect(200);
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    assert_eq!(answer.header("x-a").as_deref(), Some("1"));
    for path in ["/length", "/trailer"] {
        is_refusal(
            &proxy.get(path),
            502,
            "http_protocol_error",
            "upstream_protocol_error",
        );
    }
    let request = "GET / HTTP/1.1\r\nHost: shop.test\r\nX-A : 1\r\n\r\n";
    is_refusal(
        &proxy.client().send(request).receive(),
        400,
        "http_request_error",
        "bad_request",
    );
}

#[test]
fn each_102_restarts_the_wait_and_interim_answers_have_a_bound() {
    let blue = Upstream::start(|call| match call.path() {
        "/works" => {
            for _ in 0..8 {
                call.write("HTTP/1.1 102 Processing\r\n\r\n").unwrap();
                std::thread::sleep(Duration::from_millis(150));
            }
            call.ok("blue");
        }
        "/hints" => {
            while call.write("HTTP/1.1 103 Early Hints\r\n\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(150));
            }
        }
        _ => {
            let _ = call.write("HTTP/1.1 102 Processing\r\n\r\n".repeat(101));
            call.ok("blue");
        }
    });
    let mut service = shop(&blue, &blue);
    service["timeouts"] = json!({ "first_byte": "1s" });
    let proxy = proxy(json!({}), service);
    assert_eq!(proxy.get("/works").expect(200).text(), "blue");
    is_refusal(
        &proxy.get("/hints"),
        504,
        "http_response_timeout",
        "first_byte_timeout",
    );
    is_refusal(
        &proxy.get("/many"),
        502,
        "http_protocol_error",
        "upstream_protocol_error",
    );
}

/// An upstream whose health check answers this host alone, while the switch is on.
fn choosy(host: &'static str) -> (Upstream, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&well);
    let upstream = Upstream::start(move |call| {
        let asked = call.request.header("host");
        match (
            call.path(),
            asked.as_deref() == Some(host) && switch.load(SeqCst),
        ) {
            ("/", _) => call.ok("blue"),
            (_, true) => call.ok("well"),
            (_, false) => call.answer("400 Bad Request", "", ""),
        }
    });
    (upstream, well)
}

#[test]
fn checks_and_preflight_ask_for_the_host_of_the_first_route_or_for_the_one_that_is_named() {
    for (given, host) in [
        (None, "shop.test"),
        (Some("inner.test:81"), "inner.test:81"),
    ] {
        let ((blue, _), (green, _)) = (choosy(host), choosy(host));
        let mut service = shop(&blue, &green);
        service["routes"] =
            json!([{ "host": "*.wild.test" }, { "host": "shop.test" }, { "host": "other.test" }]);
        service["health"] = json!({ "path": "/health", "interval": "20ms", "unhealthy_after": 1 });
        if let Some(given) = given {
            service["health"]["host"] = json!(given);
        }
        let proxy = proxy(json!({}), service);
        eventually("both have been checked several times", || {
            blue.count() > 5 && green.count() > 5
        });
        proxy.client().ask("/", "").receive().expect(200);
        let plan = json!({ "canary": "green", "plan": { "steps": [100],
        "preflight": { "requests": ["/smoke"] } } });
        let headers = "Content-Type: application/json\r\n";
        proxy
            .admin(
                "POST",
                "/api/v1/services/shop/releases",
                headers,
                Some(&plan.to_string()),
            )
            .expect(201);
        eventually("the preflight has asked", || {
            green.seen().iter().any(|seen| seen.target == "/smoke")
        });
        let smoke = green
            .seen()
            .into_iter()
            .find(|seen| seen.target == "/smoke")
            .unwrap();
        assert_eq!(smoke.header("host").as_deref(), Some(host));
    }
}

#[test]
fn when_all_endpoints_fail_their_checks_all_are_used_if_that_is_asked_for() {
    let (blue, well) = choosy("shop.test");
    let mut service = shop(&blue, &blue);
    service["routes"] = json!([{ "host": "shop.test" }]);
    service["health"] =
        json!({ "path": "/health", "interval": "20ms", "unhealthy_after": 1, "panic": "50%" });
    let proxy = proxy(json!({}), service);
    well.store(false, SeqCst);
    eventually("the endpoint is known to be ill", || {
        proxy.service()["upstreams"]["blue"]["endpoints"][0]["healthy"] == false
    });
    assert_eq!(proxy.get("/").expect(200).text(), "blue");
}

#[test]
fn the_share_of_an_upstream_without_endpoints_goes_to_the_baseline() {
    let ((blue, _), (green, well)) = (choosy("shop.test"), choosy("shop.test"));
    let mut service = shop(&blue, &green);
    service["routes"] = json!([{ "host": "shop.test" }]);
    service["weights"] = json!({ "blue": 50, "green": 50 });
    service["baseline"] = json!("blue");
    service["health"] = json!({ "path": "/health", "interval": "20ms", "unhealthy_after": 1 });
    let proxy = proxy(json!({}), service);
    well.store(false, SeqCst);
    eventually("green is known to be ill", || {
        proxy.service()["upstreams"]["green"]["endpoints"][0]["healthy"] == false
    });
    let mut client = proxy.client();
    for _ in 0..50 {
        client.get("/").expect(200);
    }
}
