//! Requests and responses.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn resources_can_be_read() {
    let server = Server::start().await;
    let list = server
        .check(Ask("GET /api/v1/services", &[], ""), 200, "")
        .await;
    assert_eq!(list.json()["services"][0]["name"], "shop");
    let service = server
        .check(
            Ask("GET /api/v1/services/shop", &[], ""),
            200,
            r#""baseline":"blue""#,
        )
        .await;
    assert_eq!(service.header("etag"), "\"1\"");
    let weights = server
        .check(Ask("GET /api/v1/services/shop/weights", &[], ""), 200, "")
        .await;
    assert_eq!(weights.header("etag"), "\"1\"");
    assert_eq!(
        weights.json()["weights"],
        serde_json::json!({"blue": 100.0, "green": 0.0})
    );
    for (path, text) in [
        ("/", "<code>/api/v1/services/{service}/weights</code>"),
        ("/metrics", ""),
        ("/livez", "ok"),
        ("/api/v1/openapi.json", r#""openapi":"3.1.0""#),
    ] {
        server
            .check(Ask(&format!("GET {path}"), &[], ""), 200, text)
            .await;
        assert_eq!(
            server
                .check(Ask(&format!("HEAD {path}"), &[], ""), 200, "")
                .await
                .text(),
            ""
        );
    }
    let metrics = server.check(Ask("GET /metrics", &[], ""), 200, "").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4");
}

#[tokio::test]
async fn a_read_with_the_current_tag_is_answered_304() {
    let server = Server::start().await;
    for tags in ["\"1\"", "*", "\"7\", W/\"1\""] {
        let headers = [("if-none-match", tags)];
        let answer = server
            .check(Ask("GET /api/v1/services/shop", &headers, ""), 304, "")
            .await;
        assert_eq!((answer.header("etag"), answer.text()), ("\"1\"", ""));
        server
            .check(
                Ask("GET /api/v1/services/shop/weights", &headers, ""),
                304,
                "",
            )
            .await;
    }
    server
        .check(
            Ask(
                "GET /api/v1/services/shop",
                &[("if-none-match", "\"2\"")],
                "",
            ),
            200,
            "",
        )
        .await;
    server
        .check(
            Ask("GET /api/v1/services/shop", &[("if-none-match", "1")], ""),
            400,
            "if-none-match",
        )
        .await;
}

#[tokio::test]
async fn readiness_follows_the_controller() {
    let server = Server::start().await;
    let handle = &server.controller.handle;
    for path in ["/readyz", "/healthz"] {
        server
            .check(Ask(&format!("GET {path}"), &[], ""), 503, "starting")
            .await;
    }
    handle.set_ready();
    for path in ["/readyz", "/healthz"] {
        server
            .check(Ask(&format!("GET {path}"), &[], ""), 200, "ok")
            .await;
    }
    handle.set_draining();
    server
        .check(Ask("GET /readyz", &[], ""), 503, "draining")
        .await;
    let verbose = server
        .check(Ask("GET /readyz?verbose", &[], ""), 503, "[-] not draining")
        .await;
    assert!(verbose.text().contains("[+] configuration"));
    server.check(Ask("GET /livez", &[], ""), 200, "ok").await;
}

#[tokio::test]
async fn unknown_paths_wrong_methods_and_invalid_parameters_are_refused() {
    let server = Server::start().await;
    server
        .check(Ask("GET /nowhere", &[], ""), 404, "/problems/not-found")
        .await;
    server
        .check(Ask("GET /../../etc/passwd", &[], ""), 404, "")
        .await;
    server
        .check(
            Ask("GET /api/v1/services/none", &[], ""),
            404,
            "/problems/unknown-service",
        )
        .await;
    server
        .check(
            Ask("GET /api/v1/services/none/weights", &[], ""),
            404,
            "none",
        )
        .await;
    server
        .check(Ask("GET /api/v1/services/%ff", &[], ""), 400, "UTF-8")
        .await;
    for (line, allow) in [
        ("DELETE /api/v1/services", "GET,HEAD"),
        ("PATCH /api/v1/services/shop/weights", "GET,HEAD,PUT"),
        ("GET /api/v1/services/shop/rollback", "POST"),
        ("TRACE /livez", "GET,HEAD"),
        ("OPTIONS /", "GET,HEAD"),
    ] {
        let answer = server
            .check(Ask(line, &[], ""), 405, "/problems/method-not-allowed")
            .await;
        assert_eq!(answer.header("allow"), allow, "{line}");
    }
    for query in [
        "limit=0",
        "limit=501",
        "limit=x",
        "before=-1",
        "before=9223372036854775808",
        "limit=5&limit=5",
        "wrong=1",
    ] {
        server
            .check(
                Ask(&format!("GET /api/v1/audit?{query}"), &[], ""),
                422,
                "/problems/invalid",
            )
            .await;
    }
    server
        .check(
            Ask("GET /api/v1/events?wrong=1", &[], ""),
            422,
            "/problems/invalid",
        )
        .await;
    server
        .check(Ask("GET /api/v1/events?service=none", &[], ""), 404, "none")
        .await;
    server
        .check(
            Ask("GET /api/v1/events", &[("last-event-id", "x")], ""),
            400,
            "Last-Event-ID",
        )
        .await;
}

#[tokio::test]
async fn the_journal_is_paged() {
    let server = Server::start().await;
    let page = server
        .check(Ask("GET /api/v1/audit?limit=2", &[], ""), 200, "")
        .await
        .json();
    assert_eq!(
        (&page["entries"][0]["sequence"], &page["next"]),
        (&3.into(), &2.into())
    );
    let page = server
        .check(Ask("GET /api/v1/audit?before=2", &[], ""), 200, "")
        .await
        .json();
    assert_eq!(
        (&page["entries"][0]["sequence"], &page["next"]),
        (&1.into(), &Value::Null)
    );
}

#[tokio::test]
async fn writes_return_the_service() {
    let server = Server::start().await;
    let answer = server.check(Ask(PUT, &[JSON], HALF), 200, "").await;
    assert_eq!(answer.header("etag"), "\"2\"");
    let body = answer.json();
    assert_eq!(
        (&body["durable"], &body["revision"]),
        (&true.into(), &2.into())
    );
    assert_eq!(body["weights"]["intended"]["green"], 50.0);
    for (headers, body) in [
        (&[][..], ""),
        (&[JSON], ""),
        (&[JSON], "{}"),
        (
            &[("content-type", "Application/JSON; charset=\"UTF-8\"")],
            r#"{"reason": "too slow"}"#,
        ),
    ] {
        let answer = server.check(Ask(ROLLBACK, headers, body), 200, "").await;
        assert_eq!(answer.json()["weights"]["intended"]["blue"], 100.0);
    }
    let body = r#"{"reason": "not durable"}"#;
    assert_eq!(
        server
            .check(Ask(ROLLBACK, &[JSON], body), 200, "")
            .await
            .json()["durable"],
        false
    );
    let changes = server.controller.changes.lock().unwrap();
    assert_eq!(changes[0], ("anonymous".to_owned(), None, 2));
    assert_eq!(changes[4].1.as_deref(), Some("too slow"));
}

#[tokio::test]
async fn invalid_writes_change_nothing() {
    let server = Server::start().await;
    let reason = |reason: &str| format!(r#"{{"weights": {{"blue": 100}}, "reason": "{reason}"}}"#);
    for (status, text, body) in [
        (
            422,
            r#""pointer":"/weights/red""#,
            r#"{"weights": {"blue": 90, "red": "10"}}"#,
        ),
        (
            422,
            r#"no upstream \"red\""#,
            r#"{"weights": {"blue": 90, "red": 10}}"#,
        ),
        (422, "sum to 99.99", r#"{"weights": {"blue": 99.99}}"#),
        (
            422,
            "two decimals",
            r#"{"weights": {"blue": 66.667, "green": 33.333}}"#,
        ),
        (
            422,
            r#""pointer":"/weights/green""#,
            r#"{"weights": {"blue": 50, "green": NaN}}"#,
        ),
        (
            422,
            r#""pointer":"/weights/green""#,
            r#"{"weights": {"blue": 50, "green": -Infinity}}"#,
        ),
        (
            422,
            r#""pointer":"/weights/green""#,
            r#"{"weights": {"green": 50, "green": 50}}"#,
        ),
        (
            422,
            r#""pointer":"/weights/blue""#,
            r#"{"weights": {"blue": -1}}"#,
        ),
        (
            422,
            r#""pointer":"/reasons""#,
            r#"{"weights": {"blue": 100}, "reasons": ""}"#,
        ),
        (422, r#""pointer":"/reason""#, &reason(&"x".repeat(1001))),
        (422, r#""pointer":"""#, "[]"),
        (
            400,
            "/problems/malformed-json",
            r#"{"weights": {"blue": 100}"#,
        ),
        (400, "empty", ""),
        (413, "64 KiB", &reason(&"x".repeat(65 << 10))),
        (409, "/problems/overtaken", &reason("overtaken")),
        (507, "disk full", &reason("disk full")),
        (503, "stopped", &reason("stop")),
    ] {
        server.check(Ask(PUT, &[JSON], body), status, text).await;
    }
    assert_eq!(server.revision().await, 1);
}

#[tokio::test]
async fn writes_to_unknown_services_and_with_unknown_fields_change_nothing() {
    let server = Server::start().await;
    let missing = "PUT /api/v1/services/none/weights";
    server.check(Ask(missing, &[JSON], HALF), 404, "none").await;
    server
        .check(
            Ask(missing, &[JSON, ("if-match", "\"1\"")], HALF),
            404,
            "none",
        )
        .await;
    server
        .check(
            Ask(ROLLBACK, &[JSON], r#"{"weights": {}}"#),
            422,
            "/weights",
        )
        .await;
    assert_eq!(server.revision().await, 1);
}

#[tokio::test]
async fn bodies_of_other_media_types_are_refused() {
    let server = Server::start().await;
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "",
        "application/json; charset=utf-16",
    ] {
        server
            .check(
                Ask(PUT, &[("content-type", kind)], HALF),
                415,
                "application/json",
            )
            .await;
        server
            .check(Ask(ROLLBACK, &[("content-type", kind)], ""), 415, "")
            .await;
    }
    server.check(Ask(PUT, &[], HALF), 415, "").await;
    server.check(Ask(ROLLBACK, &[], "{}"), 415, "").await;
    server
        .check(
            Ask(PUT, &[JSON, ("content-encoding", "gzip")], HALF),
            415,
            "",
        )
        .await;
    assert_eq!(server.revision().await, 1);
}

#[tokio::test]
async fn preconditions_are_checked() {
    let server = Server::start().await;
    let at = |tags: &'static str| [JSON, ("if-match", tags)];
    for stale in ["\"0\"", "W/\"1\"", "\"2\", \"3\"", "\"01\"", "\"\""] {
        server
            .check(Ask(PUT, &at(stale), HALF), 412, "/problems/stale-revision")
            .await;
        server
            .check(Ask(ROLLBACK, &at(stale), ""), 412, "revision 1")
            .await;
    }
    for wrong in ["1", "", "\"1"] {
        server
            .check(Ask(PUT, &at(wrong), HALF), 400, "if-match")
            .await;
    }
    server
        .check(
            Ask(PUT, &[JSON, ("if-none-match", "*")], HALF),
            412,
            "If-Match",
        )
        .await;
    assert_eq!(server.revision().await, 1);
    for (n, current) in ["\"1\"", "*", "\"9\", \"3\"", "W/\"4\", \"4\""]
        .into_iter()
        .enumerate()
    {
        let answer = server.check(Ask(PUT, &at(current), HALF), 200, "").await;
        assert_eq!(answer.header("etag"), format!("\"{}\"", n + 2));
    }
}

#[tokio::test]
async fn repeated_writes_replay_the_first_response() {
    let server = Server::start().await;
    let headers = [JSON, ("idempotency-key", "k1")];
    let first = server.check(Ask(PUT, &headers, HALF), 200, "").await;
    server.check(Ask(PUT, &[JSON], HALF), 200, "").await;
    let again = server.check(Ask(PUT, &headers, HALF), 200, "").await;
    assert_eq!(
        (again.text(), again.header("etag")),
        (first.text(), "\"2\"")
    );
    assert_eq!(again.header("idempotency-replayed"), "true");
    server
        .check(
            Ask(PUT, &headers, r#"{"weights": {"blue": 100}}"#),
            422,
            "idempotency-key-reused",
        )
        .await;
    server.check(Ask(ROLLBACK, &headers, HALF), 422, "").await;
    server
        .check(
            Ask(ROLLBACK, &[JSON, ("idempotency-key", "k1")], ""),
            422,
            "idempotency-key-reused",
        )
        .await;
    for wrong in ["", "two words"] {
        server
            .check(
                Ask(PUT, &[JSON, ("idempotency-key", wrong)], HALF),
                400,
                "Idempotency-Key",
            )
            .await;
    }
    // A failed write changed nothing, and its key may be used again.
    let headers = [JSON, ("idempotency-key", "k2")];
    let body = r#"{"weights": {"blue": 100}, "reason": "disk full"}"#;
    server.check(Ask(PUT, &headers, body), 507, "").await;
    server.check(Ask(PUT, &headers, HALF), 200, "").await;
    assert_eq!(server.revision().await, 4);
}

#[tokio::test]
async fn concurrent_duplicates_are_executed_once() {
    let server = Server::start().await;
    let headers = [JSON, ("idempotency-key", "k1")];
    let body = r#"{"reason": "slow"}"#;
    let ask = || server.check(Ask(ROLLBACK, &headers, body), 200, "");
    let go_on = async {
        server.controller.go_on.notify_one();
    };
    let (one, two, three, ()) = tokio::join!(ask(), ask(), ask(), go_on);
    assert_eq!((one.text(), two.text()), (two.text(), three.text()));
    assert_eq!(server.controller.changes.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_slow_write_times_out_and_still_takes_effect() {
    let limits = RequestLimits {
        request_timeout: Duration::from_millis(50),
        ..RequestLimits::default()
    };
    let server = Server::start_with(Options::default(), limits).await;
    let headers = [JSON, ("idempotency-key", "k1")];
    let body = r#"{"reason": "slow"}"#;
    server
        .check(Ask(ROLLBACK, &headers, body), 504, "may still take effect")
        .await;
    server.controller.go_on.notify_one();
    // The controller is free again as soon as it has made the change.
    server
        .check(
            Ask("GET /api/v1/services/shop", &[], ""),
            200,
            r#""revision":2"#,
        )
        .await;
    server
        .check(Ask(ROLLBACK, &headers, body), 200, r#""revision":2"#)
        .await;
}

#[tokio::test]
async fn request_ids_are_kept_or_generated() {
    let server = Server::start().await;
    let longest = "i".repeat(128);
    for sane in ["abc-1", &longest] {
        let answer = server
            .check(
                Ask("GET /nowhere", &[("x-request-id", sane)], ""),
                404,
                sane,
            )
            .await;
        assert_eq!(answer.header("x-request-id"), sane);
    }
    let too_long = "i".repeat(129);
    for bad in ["", "a b", &too_long] {
        let answer = server
            .check(Ask("GET /nowhere", &[("x-request-id", bad)], ""), 404, "")
            .await;
        assert_eq!(answer.header("x-request-id").len(), 36, "{bad}");
    }
}
