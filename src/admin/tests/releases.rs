//! Releases: start, verbs, evidence and events.

use super::play::HOSTILE;
use super::*;
use crate::model::api::EventKind;

const START: &str = "POST /api/v1/services/shop/releases";
const GREEN: &str = r#"{"canary": "green"}"#;
const VERBS: [&str; 6] = [
    "pause", "resume", "approve", "promote", "rollback", "cancel",
];

/// The line of a verb on the first release.
fn line(verb: &str) -> String {
    format!("POST /api/v1/releases/shop-1/{verb}")
}

async fn with_release() -> Server {
    let server = Server::start().await;
    server.check(Ask(START, &[JSON], GREEN), 201, "").await;
    server
}

#[tokio::test]
async fn starting_a_release_creates_a_resource() {
    let server = Server::start().await;
    let body = r#"{"canary": "green", "reason": "5.2", "change": "OPS-7", "version": "5.2",
        "plan": {"steps": [5]}, "start_at": "2026-01-01T00:00:00Z"}"#;
    let started = server
        .check(Ask(START, &[JSON], body), 201, r#""change":"OPS-7""#)
        .await;
    assert_eq!(started.header("location"), "/api/v1/releases/shop-1");
    assert_eq!(started.header("etag"), "\"2\"");
    assert_eq!(started.json()["revision"], 2);
    let line = format!("GET {}", started.header("location"));
    let release = server
        .check(Ask(&line, &[], ""), 200, r#""phase":"progressing""#)
        .await;
    assert_eq!(release.json()["reason"], "5.2");
    server
        .check(
            Ask("GET /api/v1/services/shop", &[], ""),
            200,
            r#""release":"shop-1""#,
        )
        .await;
    server
        .check(Ask(START, &[JSON], GREEN), 409, "another release")
        .await;
    let history = server
        .check(
            Ask("GET /api/v1/services/shop/releases?limit=1", &[], ""),
            200,
            "",
        )
        .await;
    assert_eq!(history.json()["releases"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_invalid_release_start_names_the_field() {
    let server = Server::start().await;
    for (body, pointer) in [
        ("{}", "/canary"),
        (r#"{"canary": "red"}"#, "/canary"),
        (
            r#"{"canary": "green", "plan": {"stepz": []}}"#,
            "/plan/stepz",
        ),
        (r#"{"canary": "green", "plan": []}"#, "/plan"),
        (r#"{"canary": "green", "color": "red"}"#, "/color"),
        (r#"{"canary": "green", "override_freeze": true}"#, "/reason"),
        (
            r#"{"canary": "green", "override_freeze": true, "reason": " "}"#,
            "/reason",
        ),
    ] {
        let answer = server.check(Ask(START, &[JSON], body), 422, "").await;
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{body}");
    }
    for (field, most) in [("reason", 1000), ("change", 1000), ("version", 200)] {
        let body = |length| {
            format!(
                r#"{{"canary": "green", "{field}": "{}"}}"#,
                "x".repeat(length)
            )
        };
        server
            .check(
                Ask(START, &[JSON], &body(most + 1)),
                422,
                &format!("/{field}"),
            )
            .await;
    }
    server.check(Ask(START, &[], GREEN), 415, "").await;
    server
        .check(
            Ask("POST /api/v1/services/none/releases", &[JSON], GREEN),
            404,
            "unknown-service",
        )
        .await;
    let body = r#"{"canary": "green", "reason": "disk full"}"#;
    server
        .check(Ask(START, &[JSON], body), 507, "nothing was changed")
        .await;
    assert_eq!(server.revision().await, 1);
}

#[tokio::test]
async fn release_verbs_are_executed() {
    let server = with_release().await;
    let shown = server
        .check(Ask("GET /api/v1/releases/shop-1", &[], ""), 200, "")
        .await;
    let current = server.revision().await.to_string();
    assert_eq!(shown.header("etag").trim_matches('"'), current);
    for field in [
        "ended_at",
        "outcome",
        "reason",
        "change",
        "version",
        "waiting_for",
    ] {
        assert!(shown.json().get(field).is_some(), "{field} is left out");
    }
    for (verb, text) in [
        ("pause", r#""paused":true"#),
        ("resume", r#""paused":false"#),
        ("approve", r#""gate":"go""#),
        ("promote", r#""phase":"promoted""#),
    ] {
        let answer = server.check(Ask(&line(verb), &[], ""), 200, text).await;
        assert!(!answer.header("etag").is_empty());
        assert_eq!(answer.header("location"), "");
    }
    for verb in VERBS {
        server
            .check(Ask(&line(verb), &[JSON], "{}"), 409, "shop-1 is promoted")
            .await;
        let unknown = format!("POST /api/v1/releases/shop-9/{verb}");
        server
            .check(Ask(&unknown, &[], ""), 404, "/problems/unknown-release")
            .await;
    }
    for (verb, phase) in [("rollback", "rolled_back"), ("cancel", "cancelled")] {
        let started = server.check(Ask(START, &[JSON], GREEN), 201, "").await;
        let line = format!("POST {}/{verb}", started.header("location"));
        let body = r#"{"reason": "enough"}"#;
        server.check(Ask(&line, &[JSON], body), 200, phase).await;
    }
    let list = server
        .check(Ask("GET /api/v1/services/shop/releases", &[], ""), 200, "")
        .await;
    let releases = list.json()["releases"].clone();
    let ids: Vec<_> = releases
        .as_array()
        .unwrap()
        .iter()
        .map(|release| release["id"].clone())
        .collect();
    assert_eq!(ids, ["shop-3", "shop-2", "shop-1"]);
}

#[tokio::test]
async fn a_command_with_a_field_its_verb_does_not_use_is_refused() {
    let server = with_release().await;
    for (verb, body, pointer) in [
        ("pause", r#"{"gate": "go"}"#, "/gate"),
        (
            "rollback",
            r#"{"override_freeze": true, "reason": "x"}"#,
            "/override_freeze",
        ),
        ("resume", r#"{"override_freeze": true}"#, "/reason"),
        ("resume", r#"{"why": "x"}"#, "/why"),
    ] {
        let answer = server.check(Ask(&line(verb), &[JSON], body), 422, "").await;
        assert_eq!(
            answer.json()["errors"][0]["pointer"],
            pointer,
            "{verb} {body}"
        );
    }
    let body = r#"{"gate": "nobody's"}"#;
    server
        .check(
            Ask(&line("approve"), &[JSON], body),
            403,
            "/problems/forbidden",
        )
        .await;
    assert_eq!(server.revision().await, 2);
}

#[tokio::test]
async fn release_writes_honour_if_match_and_idempotency_key() {
    let server = Server::start().await;
    let key = |key| [JSON, ("idempotency-key", key)];
    let first = server.check(Ask(START, &key("k1"), GREEN), 201, "").await;
    let again = server.check(Ask(START, &key("k1"), GREEN), 201, "").await;
    assert_eq!(first.body, again.body);
    for name in ["location", "etag"] {
        assert_eq!(first.header(name), again.header(name));
    }
    assert_eq!(again.header("idempotency-replayed"), "true");
    server
        .check(
            Ask(START, &key("k1"), r#"{"canary": "blue"}"#),
            422,
            "idempotency-key-reused",
        )
        .await;
    let stale = [JSON, ("if-match", "\"1\"")];
    server
        .check(Ask(START, &stale, GREEN), 412, "stale-revision")
        .await;
    server
        .check(Ask(&line("pause"), &stale, "{}"), 412, "stale-revision")
        .await;
    let current = [JSON, ("if-match", "\"2\""), ("idempotency-key", "k2")];
    let paused = server
        .check(Ask(&line("pause"), &current, "{}"), 200, "")
        .await;
    let again = server
        .check(Ask(&line("pause"), &current, "{}"), 200, "")
        .await;
    assert_eq!(
        (paused.header("etag"), again.header("etag")),
        ("\"3\"", "\"3\"")
    );
    // The same key on another verb is another request, also where the paths end alike.
    server
        .check(
            Ask(&line("resume"), &current, "{}"),
            422,
            "idempotency-key-reused",
        )
        .await;
    server.check(Ask(ROLLBACK, &key("k3"), "{}"), 200, "").await;
    server
        .check(
            Ask(&line("rollback"), &key("k3"), "{}"),
            422,
            "idempotency-key-reused",
        )
        .await;
    assert_eq!(server.controller.releases.lock().unwrap().asked.len(), 2);
}

#[tokio::test]
async fn release_calls_require_their_role() {
    let server = Server::with_tokens().await;
    for (token, least) in [
        ("vera", "approve"),
        ("anna", "approve"),
        ("vera", "operate"),
    ] {
        let token = bearer(token);
        let headers = [JSON, ("authorization", &token)];
        let verbs: &[&str] = if least == "approve" {
            &["approve"]
        } else {
            &["pause", "resume", "promote", "rollback", "cancel"]
        };
        for verb in verbs {
            server
                .check(Ask(&line(verb), &headers, "{}"), 403, least)
                .await;
        }
    }
}

#[tokio::test]
async fn starts_and_overrides_require_their_role_and_are_made_in_the_name_of_the_caller() {
    let server = Server::with_tokens().await;
    let as_ = |token: &str| bearer(token);
    let (vera, anna, paul, boss) = (as_("vera"), as_("anna"), as_("paul"), as_("boss"));
    server
        .check(
            Ask(START, &[JSON, ("authorization", &vera)], GREEN),
            403,
            "operate",
        )
        .await;
    server
        .check(Ask(START, &[JSON, ("authorization", "-")], GREEN), 401, "")
        .await;
    let frozen = r#"{"canary": "green", "override_freeze": true, "reason": "hotfix"}"#;
    for token in [&anna, &paul] {
        server
            .check(
                Ask(START, &[JSON, ("authorization", token)], frozen),
                403,
                "admin",
            )
            .await;
    }
    server
        .check(
            Ask(START, &[JSON, ("authorization", &boss)], frozen),
            201,
            "",
        )
        .await;
    let go_on = r#"{"override_freeze": true, "reason": "hotfix"}"#;
    server
        .check(
            Ask(&line("resume"), &[JSON, ("authorization", &paul)], go_on),
            403,
            "admin",
        )
        .await;
    for (verb, token) in [
        ("approve", &paul),
        ("pause", &anna),
        ("resume", &boss),
        ("promote", &paul),
    ] {
        server
            .check(Ask(&line(verb), &[("authorization", token)], ""), 200, "")
            .await;
    }
    for path in ["", "/evidence"] {
        let line = format!("GET /api/v1/releases/shop-1{path}");
        server
            .check(Ask(&line, &[("authorization", &vera)], ""), 200, "")
            .await;
        server
            .check(Ask(&line, &[("authorization", "-")], ""), 401, "")
            .await;
    }
    let asked = server.controller.releases.lock().unwrap().asked.clone();
    let expected = [
        "start boss true",
        "approve paul false",
        "pause anna false",
        "resume boss true",
        "promote paul false",
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn plans_are_forecast_without_a_change() {
    let server = Server::start().await;
    const PLAN: &str = "/api/v1/services/shop/plan";
    let (get, post) = (format!("GET {PLAN}"), format!("POST {PLAN}"));
    server
        .check(Ask(&get, &[], ""), 200, r#""steps":[5,100]"#)
        .await;
    server
        .check(Ask(&post, &[], ""), 200, r#""steps":[5,100]"#)
        .await;
    let other = r#"{"plan": {"steps": [50]}}"#;
    server
        .check(Ask(&post, &[JSON], other), 200, r#""steps":[50]"#)
        .await;
    server
        .check(
            Ask(&post, &[JSON], r#"{"plan": {"stepz": 1}}"#),
            422,
            "/plan/stepz",
        )
        .await;
    server
        .check(Ask(&post, &[JSON], r#"{"steps": [1]}"#), 422, "/steps")
        .await;
    server
        .check(Ask("GET /api/v1/services/none/plan", &[], ""), 404, "none")
        .await;
    assert_eq!(server.revision().await, 1);
}

#[tokio::test]
async fn unknown_releases_and_invalid_parameters_are_refused() {
    let server = Server::start().await;
    for path in ["", "/evidence", "/recording"] {
        let line = format!("GET /api/v1/releases/shop-9{path}");
        server
            .check(Ask(&line, &[], ""), 404, "/problems/unknown-release")
            .await;
        let hostile = format!("GET /api/v1/releases/%3Cb%3E{path}");
        server.check(Ask(&hostile, &[], ""), 404, "").await;
    }
    server
        .check(
            Ask("GET /api/v1/services/none/releases", &[], ""),
            404,
            "none",
        )
        .await;
    for query in ["limit=0", "limit=201", "limit=x", "from=1"] {
        let line = format!("GET /api/v1/services/shop/releases?{query}");
        server.check(Ask(&line, &[], ""), 422, "").await;
    }
    let server = with_release().await;
    for query in ["format=pdf", "formt=html"] {
        let line = format!("GET /api/v1/releases/shop-1/evidence?{query}");
        server.check(Ask(&line, &[], ""), 422, "").await;
    }
    server
        .check(Ask("GET /api/v1/releases/shop-1/pause", &[], ""), 405, "")
        .await;
}

#[tokio::test]
async fn evidence_is_json_or_a_page_with_escaped_text() {
    let server = with_release().await;
    const EVIDENCE: &str = "GET /api/v1/releases/shop-1/evidence";
    let bundle = server.check(Ask(EVIDENCE, &[], ""), 200, "").await.json();
    assert_eq!(
        bundle["weights"],
        serde_json::json!([[0, 5.0], [40_000, 0.0]])
    );
    assert_eq!(bundle["notes"][0], HOSTILE);
    let by_header = server
        .check(Ask(EVIDENCE, &[("accept", "text/html")], ""), 200, "")
        .await;
    let by_query = server
        .check(
            Ask(&format!("{EVIDENCE}?format=html"), &[], ""),
            200,
            "<h1>Release shop-1</h1>",
        )
        .await;
    assert_eq!(by_header.body, by_query.body);
    assert_eq!(by_header.header("vary"), "accept");
    server
        .check(
            Ask(
                &format!("{EVIDENCE}?format=json"),
                &[("accept", "text/html")],
                "",
            ),
            200,
            "{",
        )
        .await;
    let page = by_header.text();
    for forbidden in [
        "<script", "alert('", "\u{202e}", "style=\"", "http:", "https:",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.matches("&lt;script&gt;").count() >= 20, "{page}");
    check_nesting(page);
    let policy = by_header.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'") && policy.contains("style-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    for part in [
        "<polyline class=\"evidence\" points=\"60.0,",
        "5.0 % (25 of 500)",
        "1.50 of 4.60",
        "GET /api/v1",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

/// Every element is closed, in the order in which they were opened.
fn check_nesting(page: &str) {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.split_whitespace().next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if tag.ends_with('/') || ["!DOCTYPE", "meta"].contains(&name) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test]
async fn recordings_are_sent_in_complete_lines() {
    let server = with_release().await;
    const RECORDING: &str = "GET /api/v1/releases/shop-1/recording";
    let directory = tempfile::tempdir().unwrap();
    server.controller.releases.lock().unwrap().recordings = directory.path().to_owned();
    server
        .check(Ask(RECORDING, &[], ""), 404, "no recording")
        .await;
    let lines: String = (0..20_000)
        .map(|n| format!("{{\"t_ms\": {n}}}\n"))
        .collect();
    let file = directory.path().join("shop-1.jsonl");
    for (written, expected) in [
        (String::new(), ""),
        ("{\"t_ms\": ".to_owned(), ""),
        (format!("{lines}{{\"t_ms\": "), &*lines),
        (lines.clone(), &*lines),
    ] {
        std::fs::write(&file, written).unwrap();
        let answer = server.check(Ask(RECORDING, &[], ""), 200, "").await;
        assert!(answer.text() == expected, "{:.100}", answer.text());
        assert_eq!(answer.header("content-length"), expected.len().to_string());
    }
}

#[tokio::test]
async fn release_events_reach_the_streams_of_their_service() {
    let server = with_release().await;
    let release = |service: &str| {
        let mut release = super::play::release(1);
        release.service = service.to_owned();
        EventKind::Release {
            release: Box::new(release),
            action: "release_advanced".into(),
            actor: "controller".into(),
        }
    };
    let verdict = EventKind::Verdict {
        service: "shop".into(),
        release_id: "shop-1".into(),
        verdict: "advance".into(),
        log_e: -0.5,
        log_limit: 4.6,
    };
    for kind in [release("other"), release("shop"), verdict] {
        server
            .controller
            .events
            .send("2026-01-01T00:00:00Z".into(), kind);
    }
    let headers = [("last-event-id", "0")];
    let mut stream = server
        .open(Ask("GET /api/v1/events?service=shop", &headers, ""))
        .await;
    let mut text = String::new();
    while !text.contains("\"advance\"") {
        let frame = stream.body_mut().frame().await.unwrap().unwrap();
        text.push_str(str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(
        text.contains("event: release\n") && text.contains("event: verdict\n"),
        "{text}"
    );
    assert!(
        text.contains("\"action\":\"release_advanced\"") && !text.contains("other"),
        "{text}"
    );
}
