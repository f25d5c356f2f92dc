//! `replay`: judges recorded releases again.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Ended, command, weighbridge};

#[test]
fn replay_prints_a_verdict_for_each_run() {
    let cohort = concat!(
        r#"{"at_ms": 10, "weight": 50, "baseline": {"requests": 500, "failures": 0}, "#,
        r#""canary": {"requests": 500, "failures": 400}}"#
    );
    let input = format!(
        "{{\"run\": \"a\", \"mode\": \"fixed\"}}\n{cohort}\n{{\"end\": \"a\"}}\n{{\"run\": \
         \"b\"}}\n{{\"end\": \"b\"}}\n"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(input.as_bytes()).unwrap();
    let from_file = weighbridge(&["replay", file.path().to_str().unwrap()]).code(0);
    let answers: Vec<Value> = from_file
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (
            &answers[0]["run"],
            &answers[0]["verdict"],
            &answers[0]["objective"]
        ),
        (&json!("a"), &json!("rolled_back"), &json!("error_rate"))
    );
    assert_eq!(
        (&answers[1]["run"], &answers[1]["verdict"]),
        (&json!("b"), &json!("none"))
    );
    for (text, code) in [(input.as_str(), 0), ("{\"run\": \"a\"}\nnonsense\n", 1)] {
        let mut child = command(&["replay", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let judged = Ended::from(child.wait_with_output().unwrap()).code(code);
        if code == 0 {
            assert_eq!(judged.out, from_file.out);
        } else {
            assert!(
                judged.err.contains("standard input: line 2"),
                "{}",
                judged.err
            );
        }
    }
    weighbridge(&["replay", "/nonexistent.jsonl"]).code(1);
}

#[test]
fn replay_accepts_every_field_of_a_release_block_in_a_plan() {
    let schema: Value = serde_json::from_str(&weighbridge(&["schema"]).code(0).out).unwrap();
    let fields = schema["$defs"]["Release"]["properties"]
        .as_object()
        .unwrap();
    assert!(fields.len() > 10, "{fields:?}");
    for field in fields.keys().map(String::as_str).chain(["colour"]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        // Whether the value is valid is not tested here.
        writeln!(file, "{}", json!({ "run": "a", "plan": { field: null } })).unwrap();
        let err = weighbridge(&["replay", file.path().to_str().unwrap()]).err;
        assert_eq!(
            err.contains("line 1: unknown field `colour` in the plan; it is ignored"),
            field == "colour",
            "{field}: {err}"
        );
    }
}
