//! Authentication, roles, hosts and origins.

use super::*;
use crate::admin::server::serve;

#[tokio::test]
async fn a_non_loopback_address_requires_tokens() {
    for (address, options, is_fine) in [
        ("127.0.0.1:0", Options::default(), true),
        ("0.0.0.0:0", Options::default(), false),
        ("0.0.0.0:0", options_with_tokens(), true),
    ] {
        let listener = TcpListener::bind(address).unwrap();
        let started = serve(
            &options,
            listener,
            TestController::start().0,
            std::future::ready(()),
        );
        match started {
            Ok(_) => assert!(is_fine, "{address}"),
            Err(error) => {
                assert!(
                    !is_fine && error.to_string().contains("admin.tokens"),
                    "{address}: {error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn tokens_determine_the_caller_and_the_role() {
    let server = Server::with_tokens().await;
    const READS: [&str; 7] = [
        "GET /api/v1/services",
        "GET /api/v1/services/shop",
        "GET /api/v1/services/shop/weights",
        "GET /api/v1/audit",
        "GET /api/v1/audit/verify",
        "GET /api/v1/openapi.json",
        "GET /metrics",
    ];
    for (authorization, read, write) in [
        ("-", 401, 401),
        ("", 401, 401),
        ("Bearer", 401, 401),
        ("Bearer ", 401, 401),
        ("Bearer wrong", 401, 401),
        ("Bearer Anna", 401, 401),
        ("Bearer ann", 401, 401),
        ("Bearer annaa", 401, 401),
        ("Basic anna", 401, 401),
        ("anna", 401, 401),
        ("Bearer vera", 200, 403),
        ("bearer anna", 200, 200),
        ("Bearer boss", 200, 200),
    ] {
        let headers = [JSON, ("authorization", authorization)];
        for line in READS {
            server.check(Ask(line, &headers[1..], ""), read, "").await;
        }
        for (line, body) in [(PUT, HALF), (ROLLBACK, "{}")] {
            let answer = server.check(Ask(line, &headers, body), write, "").await;
            let challenge = answer.header("www-authenticate");
            assert_eq!(
                challenge.starts_with("Bearer realm="),
                write == 401,
                "{authorization}: {challenge}"
            );
        }
    }
    server
        .check(Ask("GET /api/v1/services?token=anna", &[], ""), 401, "")
        .await;
    let two = [
        ("authorization", "Bearer anna"),
        ("authorization", "Bearer boss"),
    ];
    server
        .check(Ask("GET /api/v1/services", &two, ""), 401, "more than one")
        .await;
    for open in ["/", "/livez"] {
        server
            .check(Ask(&format!("GET {open}"), &[], ""), 200, "")
            .await;
    }
    server
        .check(Ask("GET /readyz", &[], ""), 503, "starting")
        .await;
    let actors = server.controller.changes.lock().unwrap();
    assert!(
        actors
            .iter()
            .map(|change| change.0.as_str())
            .eq(["anna", "anna", "boss", "boss"])
    );
}

#[tokio::test]
async fn responses_are_replayed_only_to_the_same_caller() {
    let server = Server::with_tokens().await;
    for (token, is_again) in [("anna", ""), ("boss", ""), ("anna", "true")] {
        let token = bearer(token);
        let headers = [JSON, ("authorization", &token), ("idempotency-key", "k")];
        let answer = server.check(Ask(PUT, &headers, HALF), 200, "").await;
        assert_eq!(answer.header("idempotency-replayed"), is_again);
    }
}

#[tokio::test]
async fn token_guessing_is_rate_limited_and_locks_nobody_out() {
    let server = Server::with_tokens().await;
    let guess = [("authorization", "Bearer guess")];
    let mut status = 401;
    for _ in 0..200 {
        let answer = server.send(Ask("GET /api/v1/services", &guess, "")).await;
        status = answer.status;
        if status == 429 {
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
            break;
        }
    }
    assert_eq!(status, 429);
    let right = [("authorization", "Bearer anna")];
    server
        .check(Ask("GET /api/v1/services", &right, ""), 200, "")
        .await;
}

#[tokio::test]
async fn unknown_hosts_are_refused() {
    let options = Options {
        allowed_hosts: vec![
            "Weigh.example".into(),
            "other.example:99".into(),
            "10.9.8.7".into(),
        ],
        ..Options::default()
    };
    let server = Server::start_with(options, RequestLimits::default()).await;
    for (host, status) in [
        ("127.0.0.1", 200),
        ("[::1]:9900", 200),
        ("127.9.9.9:1", 200),
        ("10.9.8.7:1", 200),
        ("10.9.8.6:1", 421),
        ("169.254.169.254", 421),
        ("0.0.0.0", 421),
        ("[::ffff:10.9.8.6]", 421),
        ("localhost:9900", 200),
        ("LOCALHOST.", 200),
        ("weigh.EXAMPLE:1234", 200),
        ("other.example:99", 200),
        ("other.example", 421),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.nip.io", 421),
        ("user@127.0.0.1", 421),
        ("localhost/..", 421),
        ("", 421),
    ] {
        for line in [
            "GET /",
            "GET /api/v1/services",
            "GET /livez",
            "GET /nowhere",
            PUT,
        ] {
            let expected = match line {
                _ if status == 421 => 421,
                "GET /nowhere" => 404,
                PUT => 422,
                _ => 200,
            };
            let body = if line == PUT { "{}" } else { "" };
            server
                .check(Ask(line, &[("host", host), JSON], body), expected, "")
                .await;
        }
    }
    server
        .check(Ask("GET http://evil.example/livez", &[], ""), 421, "")
        .await;
    server
        .check(Ask("GET /livez", &[("host", "-")], ""), 400, "Host")
        .await;
    let two = [("host", "127.0.0.1"), ("host", "evil.example")];
    server.check(Ask("GET /livez", &two, ""), 400, "Host").await;
}

#[tokio::test]
async fn cross_origin_requests_are_refused() {
    let options = Options {
        allowed_origins: vec!["https://Ops.example".into()],
        ..Options::default()
    };
    let server = Server::start_with(options, RequestLimits::default()).await;
    let own = format!("http://{}", server.address);
    let own_tls = format!("https://{}", server.address);
    let suffixed = format!("{own}.evil.example");
    const SITE: &str = "sec-fetch-site";
    for (headers, get, post) in [
        (&[][..], 200, 200),
        (&[("origin", &*own)], 200, 200),
        (&[("origin", &*own_tls)], 200, 200),
        (&[("origin", "https://ops.example")], 200, 200),
        (&[("origin", "http://ops.example")], 403, 403),
        (&[("origin", "http://evil.example")], 403, 403),
        (&[("origin", "null")], 403, 403),
        (&[("origin", "")], 403, 403),
        (&[("origin", &*suffixed)], 403, 403),
        (&[("origin", "http://localhost:1")], 403, 403),
        (&[(SITE, "same-origin")], 200, 200),
        (&[(SITE, "none")], 200, 200),
        (&[(SITE, "cross-site")], 403, 403),
        (&[(SITE, "same-site")], 403, 403),
        (
            &[(SITE, "cross-site"), ("sec-fetch-mode", "navigate")],
            200,
            403,
        ),
        (&[(SITE, "cross-site"), ("origin", &*own)], 403, 403),
    ] {
        server
            .check(Ask("GET /api/v1/services", headers, ""), get, "")
            .await;
        let answer = server.check(Ask(ROLLBACK, headers, ""), post, "").await;
        let granted = answer.header("access-control-allow-origin");
        assert_eq!(
            granted == "https://ops.example",
            headers == [("origin", "https://ops.example")]
        );
    }
    let preflight = |origin| [("origin", origin), ("access-control-request-method", "PUT")];
    let line = "OPTIONS /api/v1/services/shop/weights";
    let answer = server
        .check(Ask(line, &preflight("https://ops.example"), ""), 204, "")
        .await;
    assert!(
        answer
            .header("access-control-allow-methods")
            .contains("PUT")
    );
    let answer = server
        .check(Ask(line, &preflight("http://evil.example"), ""), 403, "")
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}
