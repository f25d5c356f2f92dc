//! `check`, `schema` and `run` with configuration files.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use super::{Ended, command, weighbridge};

const VALID: &str = "services: { shop: { routes: [{}], upstreams: { blue: { endpoints: \
                     [\"127.0.0.1:3000\"] } } } }\n";
const INVALID: &str =
    "workers: many\nservices:\n  shop:\n    upstreams: { blue: { endpoint: [] } }\n";

fn configuration(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn check_prints_one_line_for_a_valid_configuration() {
    let file = configuration(VALID);
    let path = file.path().to_str().unwrap();
    for verb in ["check", "validate"] {
        let ended = weighbridge(&[verb, path]).code(0);
        assert_eq!(
            (ended.out.as_str(), ended.err.as_str()),
            ("", format!("{path}: OK (1 service)\n").as_str())
        );
    }
    assert_eq!(weighbridge(&["check", "-q", path]).code(0).err, "");
}

#[test]
fn check_reports_every_problem_of_every_file() {
    let (valid, invalid) = (configuration(VALID), configuration(INVALID));
    let paths = [
        invalid.path().to_str().unwrap(),
        valid.path().to_str().unwrap(),
    ];
    let ended = weighbridge(&["check", paths[0], paths[1]]).code(78);
    for text in ["workers", "endpoint", paths[0], "OK (1 service)"] {
        assert!(ended.err.contains(text), "{text} is missing: {}", ended.err);
    }
    let output = weighbridge(&["check", "--format", "json", paths[0], paths[1]])
        .code(78)
        .json();
    assert_eq!(
        (
            &output["valid"],
            &output["files"][0]["valid"],
            &output["files"][1]["valid"]
        ),
        (&json!(false), &json!(false), &json!(true))
    );
    let problem = &output["files"][0]["problems"][0];
    assert_eq!(
        (&problem["path"], &problem["line"]),
        (&json!("workers"), &json!(1))
    );
    assert!(
        output["files"][0]["problems"].as_array().unwrap().len() > 1,
        "{output}"
    );
    weighbridge(&["check", "/nonexistent.yaml"]).code(78);
}

#[test]
fn check_reads_standard_input() {
    for (text, code) in [(VALID, 0), (INVALID, 78)] {
        let mut child = command(&["check", "-"])
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
        Ended::from(child.wait_with_output().unwrap()).code(code);
    }
}

#[test]
fn schema_prints_json() {
    assert!(
        weighbridge(&["schema"])
            .code(0)
            .json()
            .get("properties")
            .is_some()
    );
}

#[test]
fn run_rejects_an_invalid_configuration_with_exit_code_78() {
    let file = configuration(INVALID);
    let ended = weighbridge(&["run", "--config", file.path().to_str().unwrap()]).code(78);
    assert!(ended.err.contains("workers"), "{}", ended.err);
}
