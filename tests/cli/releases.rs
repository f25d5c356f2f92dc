//! `release` and `plan`: start, show, control and follow releases.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::standin::{Reply, StandIn};
use super::{Ended, command};

const EVENTS: &str = "GET /api/v1/events?service=shop";
pub(crate) const RELEASE: &str = "GET /api/v1/releases/shop-12";
pub(crate) const NEWEST: &str = "GET /api/v1/services/shop/releases?limit=1";
const START: &str = "POST /api/v1/services/shop/releases";

pub(crate) fn release(phase: &str, step: u64, weight: f64) -> Value {
    let error_rate = json!({
        "objective": "error_rate", "margins": { "ratio": 1.1, "worse_by": 0.0005 }, "share": 0.5,
        "log_e": 0.25, "log_limit": 5.3, "advance_log_e": 1.5, "advance_limit": 3.0,
        "canary": { "requests": 1204, "failures": 3 },
        "baseline": { "requests": 22912, "failures": 46 },
        "estimate": 0.0003, "confidence": { "lower": -0.004, "upper": 0.006, "level": 0.999 },
        "requests_to_advance": 2400,
    });
    let latency = json!({
        "objective": "latency", "share": 0.5, "log_e": -0.5, "log_limit": 5.3,
        "advance_log_e": 3.5, "advance_limit": 3.0,
    });
    json!({
        "id": "shop-12", "service": "shop", "baseline": "blue", "canary": "green",
        "phase": phase, "paused": false,
        "step": step, "steps": [5.0, 25.0, 100.0], "weight": weight,
        "started_at": "2026-11-25T09:00:00Z",
        "phase_since": "2026-11-25T09:01:00Z", "version": "5.2", "actor": "ci", "reason": "try 5.2",
        "budget": { "limit": 20, "spent": 3, "allowance": 18 }, "user_visible_failures": 2,
        "rescued": 1,
        "canary_requests": 1204, "baseline_requests": 22912, "log_e": 0.1, "log_limit": 4.6,
        "objectives": [error_rate, latency], "durable": true, "future_field": [1],
    })
}

pub(crate) fn ended(phase: &str) -> Value {
    let mut release = release(phase, 2, 0.0);
    release["ended_at"] = json!("2026-11-25T09:02:00Z");
    release["outcome"] =
        json!({ "verdict": phase, "objective": "error_rate", "reason": "12 of 400 failed" });
    release
}

fn change(release: &Value) -> Value {
    let mut change = release.clone();
    change["revision"] = json!(9);
    change["weights"] = json!({ "blue": 95.0, "green": 5.0 });
    change
}

fn release_event(id: u64, release: &Value) -> (u64, Value) {
    let event = json!({
        "id": id, "at": "2026-11-25T09:01:00Z", "type": "release", "release": release,
        "action": "release_advanced",
        "actor": "controller",
    });
    (id, event)
}

fn verdict(id: u64) -> (u64, Value) {
    let event = json!({
        "id": id, "at": "2026-11-25T09:01:00Z", "type": "verdict", "service": "shop",
        "release_id": "shop-12",
        "verdict": "continue", "log_e": 0.5, "log_limit": 4.6,
    });
    (id, event)
}

/// A proxy with one release that starts at 5 % and sends these events.
fn with_events(events: Vec<(u64, Value)>) -> StandIn {
    StandIn::playing(move |line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [release("progressing", 1, 5.0)] })),
        RELEASE => Reply::Json(200, release("progressing", 1, 5.0)),
        START => Reply::Json(201, change(&release("progressing", 1, 5.0))),
        EVENTS => Reply::Events {
            events: events.clone(),
            then_end: false,
        },
        _ => Reply::Problem(404, "there is nothing"),
    })
}

#[test]
fn release_start_sends_its_options_and_prints_the_id() {
    let mut plan = tempfile::NamedTempFile::new().unwrap();
    plan.write_all(b"steps: [5, { weight: 50, hold: 1m }]\nharm_budget: 0.1pp\n")
        .unwrap();
    let proxy = with_events(Vec::new());
    let started = proxy
        .run(&[
            "release",
            "start",
            "shop",
            "green",
            "--reason",
            "try 5.2",
            "--change",
            "OPS-7",
            "--version",
            "5.2",
            "--at",
            "2026-11-26T09:00:00+01:00",
            "--override-freeze",
            "--plan",
            plan.path().to_str().unwrap(),
        ])
        .code(0);
    assert_eq!(started.out, "shop-12\n");
    assert!(
        started.err.contains("release watch shop-12"),
        "{}",
        started.err
    );
    let body: Value = serde_json::from_str(&proxy.asked(START)[0].body).unwrap();
    let expected = json!({
        "canary": "green", "reason": "try 5.2", "change": "OPS-7", "version": "5.2",
        "plan": { "steps": [5, { "weight": 50, "hold": "1m" }], "harm_budget": "0.1pp" },
        "start_at": "2026-11-26T08:00:00Z", "override_freeze": true,
    });
    assert_eq!(body, expected);
    let started = proxy
        .run(&["release", "start", "shop", "green", "-o", "json"])
        .code(0);
    assert_eq!(started.json(), change(&release("progressing", 1, 5.0)));
    let body: Value = serde_json::from_str(&proxy.asked(START)[1].body).unwrap();
    assert_eq!(body, json!({ "canary": "green" }));
}

#[test]
fn an_invalid_plan_file_is_a_usage_error() {
    let proxy = with_events(Vec::new());
    for text in ["- 5\n", "steps: [5", "just text"] {
        let mut plan = tempfile::NamedTempFile::new().unwrap();
        plan.write_all(text.as_bytes()).unwrap();
        let path = plan.path().to_str().unwrap();
        let failed = proxy
            .run(&["release", "start", "shop", "green", "--plan", path])
            .code(2);
        assert!(failed.err.contains(path), "{}", failed.err);
    }
    assert!(proxy.asked(START).is_empty());
}

#[test]
fn start_with_wait_ends_with_the_exit_code_of_the_outcome() {
    for (phase, code, text) in [
        ("promoted", 0, "green is the new baseline"),
        ("rolled_back", 3, "green was rolled back"),
        ("cancelled", 4, "all traffic is on blue"),
    ] {
        let proxy = with_events(vec![
            verdict(7),
            release_event(8, &release("progressing", 2, 25.0)),
            release_event(9, &ended(phase)),
        ]);
        let waited = proxy
            .run(&[
                "release",
                "start",
                "shop",
                "green",
                "--wait",
                "--timeout",
                "10m",
            ])
            .code(code);
        let lines: Vec<&str> = waited.out.lines().collect();
        assert_eq!(lines.len(), 3, "{}", waited.out);
        assert!(
            lines[0].starts_with("shop-12 progressing, step 1 of 3, green at 5 %"),
            "{}",
            waited.out
        );
        assert!(
            lines[1].starts_with("shop-12 progressing, step 2 of 3, green at 25 %"),
            "{}",
            waited.out
        );
        assert!(
            lines[2].ends_with("error_rate: 12 of 400 failed"),
            "{}",
            waited.out
        );
        assert!(waited.err.contains(text), "{}", waited.err);
        assert_eq!(
            waited.err.contains("/releases/shop-12/evidence"),
            code == 3,
            "{}",
            waited.err
        );
        assert!(!waited.out.contains('\x1b'));
    }
}

#[test]
fn events_older_than_the_last_poll_are_ignored() {
    let at = |phase: &str, step: u64, since: &str, requests: u64| {
        let mut release = release(phase, step, 5.0);
        release["phase_since"] = json!(since);
        release["canary_requests"] = json!(requests);
        release
    };
    // As text `.5Z` sorts before `Z`, as a time it does not.
    let pending = at("pending", 0, "2026-11-25T09:01:00Z", 0);
    let preflight = at("preflight", 0, "2026-11-25T09:01:00.5Z", 0);
    let begun = at("progressing", 1, "2026-11-25T09:01:01Z", 0);
    let later = at("progressing", 1, "2026-11-25T09:01:01Z", 70);
    let mut paused = begun.clone();
    (paused["paused"], paused["canary_requests"]) = (json!(true), json!(10));
    let next = at("progressing", 2, "2026-11-25T09:01:02.25Z", 90);
    let mut end = ended("promoted");
    (end["canary_requests"], end["phase_since"]) = (json!(0), json!("2026-11-25T09:01:03Z"));
    let events: Vec<(u64, Value)> = (7..)
        .zip(
            [&pending, &preflight, &begun, &paused, &next, &end]
                .map(|release| release_event(0, release).1),
        )
        .collect();
    let proxy = StandIn::playing(move |line| match line {
        START => Reply::Json(201, change(&pending)),
        RELEASE => Reply::Json(200, later.clone()),
        EVENTS => Reply::Events {
            events: events.clone(),
            then_end: false,
        },
        _ => Reply::Nothing,
    });
    let waited = proxy
        .run(&["release", "start", "shop", "green", "--wait"])
        .code(0);
    let phases: Vec<&str> = waited
        .out
        .lines()
        .filter_map(|line| line.split(", ").next())
        .collect();
    assert_eq!(
        phases,
        [
            "shop-12 pending",
            "shop-12 progressing",
            "shop-12 progressing",
            "shop-12 promoted"
        ],
        "{}",
        waited.out
    );
    assert!(!waited.out.contains("(paused)"), "{}", waited.out);
}

#[test]
fn watch_prints_each_event_as_a_json_line() {
    let events = vec![verdict(7), release_event(8, &ended("rolled_back"))];
    let watched = with_events(events.clone())
        .run(&["release", "watch", "shop", "-o", "json"])
        .code(3);
    let lines: Vec<Value> = watched
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["type"], &lines[0]["action"]),
        (&json!("release"), &json!("seen"))
    );
    assert_eq!(lines[1..], [events[0].1.clone(), events[1].1.clone()]);
}

#[test]
fn watch_ends_at_the_timeout_and_the_release_continues() {
    let watched = with_events(Vec::new())
        .run(&["release", "watch", "shop", "--timeout", "200ms"])
        .code(4);
    assert!(
        watched
            .err
            .contains("has not ended before the timeout and continues"),
        "{}",
        watched.err
    );
}

fn waiting(kind: &str, detail: &str) -> Value {
    let mut waiting = release("waiting", 1, 5.0);
    waiting["waiting_for"] = json!({ "kind": kind, "detail": detail });
    waiting
}

#[test]
fn an_inconclusive_step_ends_the_wait_and_names_the_next_commands() {
    for (kind, words) in [
        (
            "inconclusive",
            &["release", "start", "shop", "green", "--wait"][..],
        ),
        (
            "too_little_traffic",
            &["release", "start", "shop", "green", "--wait", "-o", "json"],
        ),
        ("inconclusive", &["release", "watch", "shop"]),
        (
            "too_little_traffic",
            &["release", "watch", "shop", "-o", "json"],
        ),
    ] {
        let proxy = with_events(vec![
            verdict(7),
            release_event(8, &waiting(kind, "the step had its time")),
        ]);
        // A wait that does not end would report the timeout instead.
        let all: Vec<&str> = words.iter().copied().chain(["--timeout", "10s"]).collect();
        let waited = proxy.run(&all).code(4);
        for text in [
            format!(
                "shop-12 waits ({kind}): the step had its time. It is still running, green at 5 %"
            )
            .as_str(),
            "release resume shop-12",
            "release promote shop-12",
            "release rollback shop-12",
        ] {
            assert!(
                waited.err.contains(text),
                "{text} is missing: {}",
                waited.err
            );
        }
        assert!(
            !waited.err.contains("before the timeout and continues"),
            "{}",
            waited.err
        );
    }
}

#[test]
fn gates_freezes_schedules_and_pauses_do_not_end_the_wait() {
    for kind in ["gate", "freeze", "schedule", "resume", "split", "slo"] {
        let proxy = with_events(vec![
            release_event(8, &waiting(kind, "something")),
            release_event(9, &ended("promoted")),
        ]);
        proxy
            .run(&["release", "start", "shop", "green", "--wait"])
            .code(0);
    }
}

#[test]
fn watch_of_an_ended_release_returns_at_once() {
    let proxy = StandIn::playing(|line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [ended("promoted")] })),
        _ => Reply::Nothing,
    });
    proxy.run(&["release", "watch", "shop"]).code(0);
}

#[test]
fn watch_polls_the_release_without_an_event_stream() {
    let mut looks = 0;
    let proxy = StandIn::playing(move |line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [release("progressing", 1, 5.0)] })),
        RELEASE => {
            looks += 1;
            match looks {
                1 => Reply::Json(200, release("progressing", 2, 25.0)),
                // The proxy restarts.
                2 => Reply::Nothing,
                _ => Reply::Json(200, ended("rolled_back")),
            }
        }
        _ => Reply::Problem(503, "there are too many event streams"),
    });
    let watched = proxy.run(&["release", "watch", "shop"]).code(3);
    assert_eq!(watched.out.lines().count(), 3, "{}", watched.out);
    assert!(watched.err.contains("retrying"), "{}", watched.err);
}

#[test]
fn a_broken_event_stream_resumes_after_the_last_event() {
    let mut streams = 0;
    let proxy = StandIn::playing(move |line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [release("progressing", 1, 5.0)] })),
        RELEASE => Reply::Json(200, release("progressing", 1, 5.0)),
        _ => {
            streams += 1;
            let events = if streams == 1 {
                vec![verdict(7)]
            } else {
                vec![release_event(8, &ended("promoted"))]
            };
            Reply::Events {
                events,
                then_end: streams == 1,
            }
        }
    });
    proxy.run(&["release", "watch", "shop"]).code(0);
    let streams = proxy.asked(EVENTS);
    let last: Vec<_> = streams
        .iter()
        .map(|asked| asked.header("last-event-id"))
        .collect();
    assert_eq!(last, [None, Some("7")]);
}

#[test]
fn a_permanent_error_ends_watch() {
    let proxy = StandIn::playing(move |line| match line {
        NEWEST => Reply::Json(200, json!({ "releases": [release("progressing", 1, 5.0)] })),
        _ => Reply::Problem(401, "the token was revoked"),
    });
    let failed = proxy.run(&["release", "watch", "shop"]).code(1);
    assert!(failed.err.contains("revoked"), "{}", failed.err);
}

#[test]
fn interrupting_watch_does_not_change_the_release() {
    let proxy = with_events(Vec::new());
    let mut child = command(&["release", "watch", "shop", "--admin", &proxy.admin()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("shop-12"));
    // Once it requests events, it handles the signal.
    let pid = child.id().to_string();
    while proxy.asked(EVENTS).is_empty() {
        std::thread::yield_now();
    }
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let interrupted = Ended::from(child.wait_with_output().unwrap()).code(130);
    assert!(
        interrupted.err.contains("shop-12 continues"),
        "{}",
        interrupted.err
    );
    assert!(proxy.asked("POST").is_empty());
}

#[test]
fn release_commands_find_the_release_and_show_its_new_state() {
    for (words, path, body) in [
        (
            "pause shop --reason wait",
            "pause",
            json!({ "reason": "wait" }),
        ),
        ("resume shop-12", "resume", json!({})),
        (
            "resume shop --override-freeze --reason hotfix",
            "resume",
            json!({ "reason": "hotfix", "override_freeze": true }),
        ),
        ("approve shop --gate qa", "approve", json!({ "gate": "qa" })),
        (
            "approve shop --reason ok",
            "approve",
            json!({ "reason": "ok" }),
        ),
        ("promote shop", "promote", json!({})),
        (
            "promote shop --override-freeze --reason hotfix",
            "promote",
            json!({ "reason": "hotfix", "override_freeze": true }),
        ),
        (
            "rollback shop --reason slow",
            "rollback",
            json!({ "reason": "slow" }),
        ),
        (
            "cancel shop --reason later",
            "cancel",
            json!({ "reason": "later" }),
        ),
    ] {
        let proxy = StandIn::playing(|line| match line {
            NEWEST => Reply::Json(200, json!({ "releases": [release("progressing", 1, 5.0)] })),
            RELEASE => Reply::Json(200, release("progressing", 1, 5.0)),
            line if line.starts_with("POST /api/v1/releases/shop-12/") => {
                Reply::Json(200, change(&release("progressing", 1, 5.0)))
            }
            _ => Reply::Problem(404, "there is no such service"),
        });
        let words: Vec<&str> = ["release"].into_iter().chain(words.split(' ')).collect();
        let done = proxy.run(&words).code(0);
        assert!(done.out.starts_with("shop-12 progressing"), "{}", done.out);
        assert!(
            done.err
                .contains("shop is at revision 9: blue 95 %, green 5 %"),
            "{}",
            done.err
        );
        let asked = proxy.asked(&format!("POST /api/v1/releases/shop-12/{path} "));
        assert_eq!(serde_json::from_str::<Value>(&asked[0].body).unwrap(), body);
    }
}

#[test]
fn rejected_release_commands_map_to_exit_codes() {
    for (status, code) in [(409, 5), (412, 5), (422, 1), (403, 1), (507, 1)] {
        let proxy = StandIn::playing(move |line| match line {
            NEWEST => Reply::Json(200, json!({ "releases": [release("progressing", 1, 5.0)] })),
            _ => Reply::Problem(status, "no"),
        });
        for words in [
            &["release", "start", "shop", "green", "--wait"][..],
            &["release", "promote", "shop"],
        ] {
            assert!(proxy.run(words).code(code).err.starts_with("error: no\n"));
        }
    }
    let proxy = StandIn::playing(|_| Reply::Problem(404, "there is no release \"nope\""));
    let failed = proxy.run(&["release", "status", "nope"]).code(1);
    assert!(failed.err.contains("no release \"nope\""), "{}", failed.err);
    let proxy = StandIn::playing(|_| Reply::Json(200, json!({ "releases": [] })));
    let failed = proxy.run(&["release", "status", "shop"]).code(1);
    assert!(
        failed.err.contains("no release yet") && failed.err.contains("release start shop"),
        "{}",
        failed.err
    );
}
