//! `demo`: a bad version, its rollback, and the end.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{Ended, command, weighbridge};

#[test]
fn the_demo_rolls_back_a_bad_version_and_exits() {
    let ended = weighbridge(&["demo", "--fast", "--output", "json"]).code(0);
    let report = ended.json();
    assert_eq!(report["canary_requests_after_reply"], 0, "{report}");
    assert!(
        report["user_visible_failures"].as_u64().unwrap() > 0,
        "{report}"
    );
    for text in [
        "v2 gets 50 %",
        "roll back",
        "What happened",
        "curl -s -X POST http://127.0.0.1:",
    ] {
        assert!(ended.err.contains(text), "{text} is missing: {}", ended.err);
    }
    assert!(!ended.err.contains('\x1b'), "{}", ended.err);
}

#[test]
fn demo_with_hold_runs_until_interrupted() {
    let mut child = command(&["demo", "--fast", "--hold"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines
        .find(|line| line.as_ref().unwrap().contains("curl -s http://127.0.0.1:"))
        .unwrap()
        .unwrap();
    // It is still running: its admin API responds.
    let admin = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap();
    let admin = admin.split("/api/").next().unwrap();
    let status = weighbridge(&["status", "shop", "--output", "json", "--admin", admin])
        .code(0)
        .json();
    assert_eq!(
        status["weights"]["effective"],
        json!({ "v1": 100.0, "v2": 0.0 })
    );
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(
        rest.iter().any(|line| line.contains("/demo/heal")),
        "{rest:?}"
    );
    Ended::from(child.wait_with_output().unwrap()).code(0);
}
