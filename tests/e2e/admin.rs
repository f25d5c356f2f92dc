//! The admin API over its own socket.

use serde_json::{Value, json};

use crate::harness::{Client, Proxy, Response, Upstream, eventually, shop};

fn running() -> (Proxy, [Upstream; 2]) {
    let upstreams = [Upstream::named("blue"), Upstream::named("green")];
    (
        Proxy::with_shop(shop(&upstreams[0], &upstreams[1])),
        upstreams,
    )
}

#[track_caller]
fn is_problem(response: Response, status: u16) -> Value {
    let response = response.expect(status);
    assert_eq!(
        response.header("content-type").as_deref(),
        Some("application/problem+json"),
        "{response:?}"
    );
    let problem = response.json();
    assert_eq!(problem["status"], status, "{problem}");
    problem
}

#[test]
fn invalid_weights_are_422_with_the_field() {
    let (proxy, _upstreams) = running();
    let revision = proxy.service()["revision"].clone();
    for (body, pointer) in [
        (r#"{"weights": {"blue": 95, "green": 4}}"#, "/weights"),
        (r#"{"weights": {"blue": 95, "green": 5.01}}"#, "/weights"),
        (r#"{"weights": {}}"#, "/weights"),
        (r#"{"weights": {"blue": 95, "red": 5}}"#, "/weights/red"),
        (
            r#"{"weights": {"blue": 94.995, "green": 5.005}}"#,
            "/weights/blue",
        ),
        (
            r#"{"weights": {"blue": 110, "green": -10}}"#,
            "/weights/blue",
        ),
        (
            r#"{"weights": {"blue": 100, "green": -0.01}}"#,
            "/weights/green",
        ),
        (r#"{"weights": {"blue": NaN, "green": 5}}"#, "/weights/blue"),
        (
            r#"{"weights": {"blue": 95, "green": Infinity}}"#,
            "/weights/green",
        ),
        (
            r#"{"weights": {"blue": 95, "green": 1e999}}"#,
            "/weights/green",
        ),
        (
            r#"{"weights": {"blue": 95, "green": "5"}}"#,
            "/weights/green",
        ),
        (
            r#"{"weights": {"blue": 95, "green": null}}"#,
            "/weights/green",
        ),
        (r#"{"weights": {"blue": 95, "blue": 100}}"#, "/weights/blue"),
        (r#"{"weights": [95, 5]}"#, "/weights"),
        (r#"{"weights": {"blue": 100}, "wieghts": 1}"#, "/wieghts"),
        (r#"{"reason": "none"}"#, "/weights"),
    ] {
        let problem = is_problem(proxy.put_weights("", body), 422);
        let pointers: Vec<_> = problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| &error["pointer"])
            .collect();
        assert!(pointers.contains(&&json!(pointer)), "{body}: {problem}");
    }
    for body in ["", "{", "weights", r#"{"weights": {"blue": 100}} x"#] {
        is_problem(proxy.put_weights("", body), 400);
    }
    let service = proxy.service();
    assert_eq!(
        (
            &service["revision"],
            &service["weights"]["effective"]["blue"]
        ),
        (&revision, &json!(100.0))
    );
}

#[test]
fn a_weight_change_returns_its_resource_and_audit_entry() {
    let (proxy, _upstreams) = running();
    let body = json!({ "weights": { "blue": 99.99, "green": 0.01 }, "reason": "first users" });
    let service = proxy.put_weights("", &body.to_string()).expect(200).json();
    assert_eq!(service["name"], "shop");
    assert_eq!(
        service["weights"]["intended"],
        json!({ "blue": 99.99, "green": 0.01 })
    );
    assert_eq!(
        service["weights"]["effective"],
        service["weights"]["intended"]
    );
    assert_eq!(service["weights"]["reason"], "first users");
    assert!(
        service["weights"]["since"].as_str().unwrap().ends_with('Z'),
        "{service}"
    );
    assert_eq!(service["baseline"], "blue");
    // An upstream that the request omits gets weight 0.
    let service = proxy
        .put_weights("", r#"{"weights": {"green": 100}}"#)
        .expect(200)
        .json();
    assert_eq!(
        service["weights"]["effective"],
        json!({ "blue": 0.0, "green": 100.0 })
    );
    let listed = proxy
        .admin("GET", "/api/v1/services", "", None)
        .expect(200)
        .json();
    assert_eq!(
        listed["services"][0]["weights"]["effective"],
        json!({ "blue": 0.0, "green": 100.0 })
    );
    let audit = proxy
        .admin("GET", "/api/v1/audit", "", None)
        .expect(200)
        .json();
    let entries = audit["entries"].as_array().unwrap();
    assert_eq!(entries[1]["reason"], "first users", "{audit}");
    assert_eq!(
        (&entries[0]["action"], &entries[0]["service"]),
        (&json!("weights"), &json!("shop")),
        "{audit}"
    );
    assert_ne!(entries[0]["hash"], entries[1]["hash"]);
}

#[test]
fn a_stale_revision_is_412_and_a_matching_etag_304() {
    let (proxy, _upstreams) = running();
    let path = "/api/v1/services/shop";
    let tag = proxy.admin("GET", path, "", None).header("etag").unwrap();
    assert_eq!(
        proxy
            .admin("GET", &format!("{path}/weights"), "", None)
            .header("etag")
            .as_deref(),
        Some(&*tag)
    );
    for known in [&*tag, "*", &format!("W/{tag}"), &format!("\"0\", {tag}")] {
        let unchanged = proxy
            .admin("GET", path, &format!("If-None-Match: {known}\r\n"), None)
            .expect(304);
        assert_eq!(unchanged.header("etag").as_deref(), Some(&*tag));
    }
    let body = r#"{"weights": {"blue": 50, "green": 50}}"#;
    let changed = proxy
        .put_weights(&format!("If-Match: {tag}\r\n"), body)
        .expect(200);
    let fresh = changed.header("etag").unwrap();
    assert_ne!(fresh, tag);
    for stale in [&*tag, "\"999\"", &format!("W/{fresh}")] {
        is_problem(
            proxy.put_weights(
                &format!("If-Match: {stale}\r\n"),
                r#"{"weights": {"blue": 100}}"#,
            ),
            412,
        );
    }
    is_problem(
        proxy.admin(
            "POST",
            &format!("{path}/rollback"),
            &format!("If-Match: {tag}\r\n"),
            None,
        ),
        412,
    );
    assert_eq!(proxy.service()["weights"]["effective"]["green"], 50.0);
    // Traffic and health do not change the ETag.
    proxy.get("/").expect(200);
    eventually("the request is counted", || {
        proxy.metrics().sum("http_requests_total", &[]) >= 1.0
    });
    proxy
        .admin("GET", path, &format!("If-None-Match: {fresh}\r\n"), None)
        .expect(304);
    proxy
        .put_weights(
            &format!("If-Match: {fresh}\r\n"),
            r#"{"weights": {"blue": 100}}"#,
        )
        .expect(200);
}

#[test]
fn a_repeated_idempotency_key_applies_the_change_once() {
    let (proxy, _upstreams) = running();
    let key = "Idempotency-Key: one\r\n";
    let body = r#"{"weights": {"blue": 50, "green": 50}}"#;
    let first = proxy.put_weights(key, body).expect(200).json();
    proxy.roll_back();
    let again = proxy.put_weights(key, body).expect(200);
    assert_eq!(again.json()["revision"], first["revision"]);
    assert_eq!(
        proxy.service()["weights"]["effective"]["blue"],
        100.0,
        "the change was made twice"
    );
    is_problem(proxy.put_weights(key, r#"{"weights": {"blue": 100}}"#), 422);
}

#[test]
fn unknown_resources_and_methods_are_problems() {
    let (proxy, _upstreams) = running();
    is_problem(proxy.admin("GET", "/api/v1/services/absent", "", None), 404);
    is_problem(
        proxy.admin("POST", "/api/v1/services/absent/rollback", "", None),
        404,
    );
    is_problem(proxy.admin("GET", "/api/v1/nonsense", "", None), 404);
    is_problem(
        proxy.admin("DELETE", "/api/v1/services/shop", "", None),
        405,
    );
    proxy.admin("GET", "/livez", "", None).expect(200);
    proxy.admin("GET", "/readyz?verbose", "", None).expect(200);
    let openapi = proxy
        .admin("GET", "/api/v1/openapi.json", "", None)
        .expect(200)
        .json();
    for path in [
        "/api/v1/services/{service}/weights",
        "/api/v1/services/{service}/rollback",
        "/api/v1/events",
    ] {
        assert!(openapi["paths"][path].is_object(), "{path}");
    }
    let metrics = proxy.admin("GET", "/metrics", "", None).expect(200);
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
}

#[test]
fn cross_origin_requests_are_refused() {
    let (proxy, _upstreams) = running();
    let body = Some(r#"{"weights": {"green": 100}}"#);
    let json = "Content-Type: application/json\r\n";
    for headers in [
        "Host: evil.test\r\n",
        "Origin: http://evil.test\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ] {
        let headers = format!("{json}{headers}");
        let response = proxy.admin("PUT", "/api/v1/services/shop/weights", &headers, body);
        assert!(
            matches!(response.status, 403 | 421),
            "{headers} got {response:?}"
        );
        assert_eq!(response.header("access-control-allow-origin"), None);
    }
    for form in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
    ] {
        is_problem(
            proxy.admin("PUT", "/api/v1/services/shop/weights", form, body),
            415,
        );
    }
    assert_eq!(proxy.service()["weights"]["effective"]["blue"], 100.0);
}

#[test]
fn tokens_permit_the_calls_of_their_role() {
    let upstreams = [Upstream::named("blue"), Upstream::named("green")];
    // The SHA-256 digests of `viewer` and `operator`.
    let config = json!({
        "admin": { "tokens": [
            { "name": "vera", "role": "view",
                "sha256": "d35ca5051b82ffc326a3b0b6574a9a3161dee16b9478a199ee39cd803ce5b799" },
            { "name": "otto", "role": "operate",
                "sha256": "06e55b633481f7bb072957eabcf110c972e86691c3cfedabe088024bffe42f23" },
        ]},
        "services": { "shop": shop(&upstreams[0], &upstreams[1]) },
    });
    let proxy = Proxy::start(config);
    let path = "/api/v1/services/shop";
    is_problem(proxy.admin("GET", path, "", None), 401);
    is_problem(
        proxy.admin("GET", path, "Authorization: Bearer wrong\r\n", None),
        401,
    );
    proxy
        .admin("GET", path, "Authorization: Bearer viewer\r\n", None)
        .expect(200);
    let body = r#"{"weights": {"green": 100}}"#;
    is_problem(
        proxy.put_weights("Authorization: Bearer viewer\r\n", body),
        403,
    );
    proxy
        .put_weights("Authorization: Bearer operator\r\n", body)
        .expect(200);
    let audit = proxy
        .admin(
            "GET",
            "/api/v1/audit",
            "Authorization: Bearer viewer\r\n",
            None,
        )
        .expect(200)
        .json();
    assert_eq!(audit["entries"][0]["actor"], "otto", "{audit}");
    assert!(
        !proxy.log().contains("operator"),
        "a token is in the log:\n{}",
        proxy.log()
    );
}

/// The fields of the next event_fields of the stream, as sent.
fn event_fields(client: &mut Client, pending: &mut String) -> Vec<(String, String)> {
    loop {
        if let Some((block, rest)) = pending.split_once("\n\n") {
            let fields = block.lines().filter_map(|line| line.split_once(": "));
            let fields = fields
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            *pending = rest.to_owned();
            return fields;
        }
        let chunk = client.wire.chunk().unwrap().expect("the stream ended");
        pending.push_str(&String::from_utf8(chunk).unwrap());
    }
}

/// The id and the data of the next event_fields of type `kind`.
fn next(client: &mut Client, pending: &mut String, kind: &str) -> (u64, Value) {
    loop {
        let fields = event_fields(client, pending);
        let field = |name: &str| {
            fields
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        };
        if field("event").as_deref() == Some(kind) {
            return (
                field("id").unwrap().parse().unwrap(),
                serde_json::from_str(&field("data").unwrap()).unwrap(),
            );
        }
    }
}

fn watch(proxy: &Proxy, headers: &str) -> Client {
    let mut client = Client::connect(proxy.admin);
    client.send(format!(
        "GET /api/v1/events HTTP/1.1\r\nHost: {}\r\n{headers}\r\n",
        proxy.admin
    ));
    let head = client.head().unwrap();
    assert_eq!(
        head.header("content-type").as_deref(),
        Some("text/event-stream"),
        "{head:?}"
    );
    client
}

#[test]
fn the_event_stream_resumes_after_the_last_event_id() {
    let (proxy, _upstreams) = running();
    let (mut live, mut pending) = (watch(&proxy, ""), String::new());
    proxy
        .put_weights(
            "",
            r#"{"weights": {"blue": 75, "green": 25}, "reason": "a quarter"}"#,
        )
        .expect(200);
    let (first, data) = next(&mut live, &mut pending, "weights");
    assert_eq!(data["id"], first);
    assert_eq!(
        (&data["type"], &data["service"], &data["reason"]),
        (&json!("weights"), &json!("shop"), &json!("a quarter"))
    );
    assert_eq!(data["weights"], json!({ "blue": 75.0, "green": 25.0 }));
    assert_eq!(data["revision"], proxy.service()["revision"]);
    drop(live);
    proxy.roll_back();
    proxy.set_weights(0.0, 100.0);
    let (mut again, mut pending) = (
        watch(&proxy, &format!("Last-Event-ID: {first}\r\n")),
        String::new(),
    );
    let (second, data) = next(&mut again, &mut pending, "weights");
    assert_eq!(
        (&data["action"], &data["weights"]["blue"]),
        (&json!("rollback"), &json!(100.0))
    );
    let (third, data) = next(&mut again, &mut pending, "weights");
    assert_eq!(
        (&data["action"], &data["weights"]["green"]),
        (&json!("weights"), &json!(100.0))
    );
    assert!(first < second && second < third);
    // While there is traffic, statistics are sent once a second.
    proxy.get("/").expect(200);
    let (_, data) = next(&mut again, &mut pending, "statistics");
    assert_eq!(data["service"], "shop");
    assert!(data["upstreams"]["green"].is_object(), "{data}");
}
