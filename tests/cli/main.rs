//! The command line: the real binary against a fake admin API.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may end by panicking, also in its helpers"
)]

mod configuration;
mod demo;
mod explanations;
mod recordings;
mod releases;
mod shown;
mod standin;
mod top;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

/// A finished run of the program.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            code: output.status.code().expect("ended by a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    fn code(self, code: i32) -> Ended {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.out, self.err
        );
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weighbridge"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEIGHBRIDGE_") {
            command.env_remove(name);
        }
    }
    command
        .env("NO_COLOR", "1")
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn weighbridge(arguments: &[&str]) -> Ended {
    command(arguments).output().unwrap().into()
}

/// A request received by the fake admin API.
#[derive(Clone, Debug, Default)]
struct Asked {
    line: String,
    headers: Vec<String>,
    body: String,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| {
            let (key, value) = header.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// An admin API that sends one response and records the request.
struct Fake {
    address: SocketAddr,
    asked: mpsc::Receiver<Asked>,
}

impl Fake {
    fn answering(status: u16, kind: &str, body: &Value) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::channel();
        let body = body.to_string();
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            sender.send(read_request(&stream)).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        Fake { address, asked }
    }

    fn ok(body: &Value) -> Fake {
        Fake::answering(200, "application/json", body)
    }

    fn problem(status: u16, detail: &str, errors: &Value) -> Fake {
        let body = json!({
            "type": "/problems/some", "title": "Some problem", "status": status, "detail": detail,
            "request_id": "r-1", "errors": errors,
        });
        Fake::answering(status, "application/problem+json", &body)
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let admin = format!("http://{}", self.address);
        let all: Vec<&str> = arguments
            .iter()
            .copied()
            .chain(["--admin", &admin])
            .collect();
        weighbridge(&all)
    }

    fn asked(self) -> Asked {
        self.asked.recv().unwrap()
    }
}

fn read_request(stream: &TcpStream) -> Asked {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.remove(0);
    let mut asked = Asked {
        line,
        headers: lines,
        body: String::new(),
    };
    let length = asked
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    asked.body = String::from_utf8(body).unwrap();
    asked
}

fn window(requests: u64, failures: u64) -> Value {
    let rate = if requests == 0 {
        0.0
    } else {
        failures as f64 / requests as f64
    };
    let latency = json!({ "p50": 5120, "p90": 7000, "p99": 8000, "p999": 51000 });
    json!({
        "requests": requests, "failures": failures, "error_rate": rate,
        "classes": { "2xx": requests - failures },
        "latency_us": latency, "first_byte_us": latency,
    })
}

fn upstream(address: &str, healthy: bool, requests: u64) -> Value {
    let spans = ["10s", "1m", "5m", "since_change"];
    let windows: serde_json::Map<_, _> = spans
        .iter()
        .map(|span| ((*span).to_owned(), window(requests, 1)))
        .collect();
    json!({ "endpoints": [{ "address": address, "healthy": healthy, "in_flight": 3 }],
    "windows": windows })
}

fn service(revision: u64, durable: bool) -> Value {
    let weights = json!({ "blue": 95.0, "green": 5.0 });
    json!({
        "name": "shop", "revision": revision, "baseline": "blue", "future_field": true,
        "weights": {
            "intended": weights, "effective": weights, "since": "2026-11-23T09:00:00Z",
            "reason": "try 5.2",
            "durable": durable,
        },
        "routes": ["shop.example.com/"],
        "upstreams": { "blue": upstream("10.0.0.1:3000", true, 2850),
        "green": upstream("10.0.1.1:3000", false, 150) },
    })
}

#[test]
fn help_documents_exit_codes_and_signals() {
    let top = weighbridge(&["--help"]).code(0);
    for text in [
        "Exit codes:",
        "78",
        "rolled back",
        "WEIGHBRIDGE_ADMIN",
        "--token-file",
        "rollback",
        "healthcheck",
    ] {
        assert!(top.out.contains(text), "{text} is missing: {}", top.out);
    }
    let run = weighbridge(&["run", "--help"]).code(0);
    for text in [
        "SIGTERM",
        "SIGHUP",
        "/etc/weighbridge/weighbridge.yaml",
        "WEIGHBRIDGE_CONFIG",
    ] {
        assert!(run.out.contains(text), "{text} is missing: {}", run.out);
    }
}

#[test]
fn every_verb_has_help() {
    let verbs = [
        "run",
        "check",
        "validate",
        "schema",
        "status",
        "top",
        "weights",
        "rollback",
        "plan",
        "explain",
        "replay",
        "healthcheck",
        "demo",
        "completions",
        "version",
        "release",
        "release start",
        "release status",
        "release watch",
        "release pause",
        "release resume",
        "release approve",
        "release promote",
        "release rollback",
        "release cancel",
        "release history",
    ];
    for verb in verbs {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let help = weighbridge(&words).code(0);
        assert!(
            help.out.contains("Usage: weighbridge"),
            "{verb}: {}",
            help.out
        );
        assert!(
            help.out.lines().all(|line| line.chars().count() <= 120),
            "{verb}: {}",
            help.out
        );
    }
}

#[test]
fn an_invalid_command_line_is_a_usage_error() {
    let cases: [&[&str]; 22] = [
        &[],
        &["frobnicate"],
        &["weights"],
        &["weights", "shop", "blue"],
        &["weights", "shop", "blue=NaN"],
        &["weights", "shop", "blue=99.999", "green=0.001"],
        &["weights", "shop", "blue=50", "blue=50"],
        &["weights", "shop", "--if-match", "7"],
        &["weights", "shop", "blue=100", "--if-match", "x"],
        &["status", "--output", "xml"],
        &["status", "--admin", "https://127.0.0.1:1"],
        &["status", "-q", "-v"],
        &["check"],
        &["release"],
        &["release", "start", "shop"],
        &["release", "start", "shop", "green", "--timeout", "5m"],
        &[
            "release",
            "start",
            "shop",
            "green",
            "--wait",
            "--timeout",
            "5",
        ],
        &["release", "start", "shop", "green", "--at", "tomorrow"],
        &["release", "start", "shop", "green", "--override-freeze"],
        &[
            "release",
            "start",
            "shop",
            "green",
            "--plan",
            "/nonexistent.yaml",
        ],
        &["release", "history", "shop", "--limit", "0"],
        &["replay"],
    ];
    for case in cases {
        let ended = weighbridge(case).code(2);
        assert_eq!(ended.out, "", "{case:?}");
        assert_ne!(ended.err, "", "{case:?}");
    }
}

#[test]
fn version_and_completions_are_printed_to_standard_output() {
    let version = weighbridge(&["version"]).code(0);
    assert_eq!(
        version.out,
        format!("weighbridge {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        weighbridge(&["version", "-o", "json"]).json()["version"],
        env!("CARGO_PKG_VERSION")
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = weighbridge(&["completions", shell]).code(0).out;
        for verb in ["rollback", "top", "explain"] {
            assert!(script.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn a_closed_output_pipe_ends_the_program_silently() {
    let mut child = command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended: Ended = child.wait_with_output().unwrap().into();
    assert_eq!(ended.code(0).err, "");
}

#[test]
fn status_lists_every_upstream() {
    let fake = Fake::ok(&json!({ "services": [service(7, true)] }));
    let ended = fake.run(&["status"]).code(0);
    assert_eq!(
        ended.out,
        "SERVICE  UPSTREAM  WEIGHT  HEALTHY  REQUESTS   ERRORS      P50      P99\n\
         shop     blue *      95 %  1/1         2,850  0.035 %  5.12 ms  8.00 ms\n\
         \x20        green        5 %  0/1           150  0.667 %  5.12 ms  8.00 ms\n"
    );
    assert!(ended.err.contains("baseline"), "{}", ended.err);
    assert_eq!(fake.asked().line, "GET /api/v1/services HTTP/1.1");
}

#[test]
fn status_of_one_service_shows_details() {
    let fake = Fake::ok(&service(7, false));
    let ended = fake.run(&["status", "shop", "-q"]).code(0);
    for text in [
        "shop.example.com/",
        "blue 95 %, green 5 %",
        "try 5.2",
        "Revision  7",
        "not stored",
        "unhealthy",
        "51 ms",
    ] {
        assert!(ended.out.contains(text), "{text} is missing: {}", ended.out);
    }
    assert_eq!(ended.err, "");
    assert_eq!(fake.asked().line, "GET /api/v1/services/shop HTTP/1.1");
}

#[test]
fn json_output_is_the_api_resource() {
    let fake = Fake::ok(&service(7, true));
    let ended = fake.run(&["status", "shop", "--output", "json"]).code(0);
    assert_eq!(ended.json(), service(7, true));
}

#[test]
fn weights_without_arguments_shows_the_weights() {
    let fake = Fake::ok(&json!({
        "revision": 7, "weights": { "blue": 95.0, "green": 5.0 }, "effective": { "blue": 100.0,
        "green": 0.0 },
        "since": "2026-11-23T09:00:00Z",
    }));
    let ended = fake.run(&["weights", "shop"]).code(0);
    assert_eq!(
        ended.out,
        "UPSTREAM  WEIGHT  EFFECTIVE\nblue        95 %      100 %\ngreen        5 %        0 %\n"
    );
    assert!(ended.err.contains("revision 7"), "{}", ended.err);
    assert_eq!(
        fake.asked().line,
        "GET /api/v1/services/shop/weights HTTP/1.1"
    );
}

#[test]
fn weights_sends_the_reason_and_the_revision() {
    let fake = Fake::ok(&service(8, true));
    let change = [
        "weights",
        "shop",
        "blue=95",
        "green=5%",
        "--reason",
        "try 5.2",
        "--if-match",
        "7",
    ];
    let ended = fake.run(&change).code(0);
    assert!(
        ended.err.contains("revision 8: blue 95 %, green 5 %"),
        "{}",
        ended.err
    );
    let asked = fake.asked();
    assert_eq!(asked.line, "PUT /api/v1/services/shop/weights HTTP/1.1");
    assert_eq!(asked.header("if-match"), Some("\"7\""));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!(
        body,
        json!({ "weights": { "blue": 95.0, "green": 5.0 }, "reason": "try 5.2" })
    );
}

#[test]
fn a_change_that_is_not_durable_prints_a_warning() {
    let fake = Fake::ok(&service(8, false));
    let ended = fake.run(&["rollback", "shop", "-q"]).code(0);
    assert!(ended.err.starts_with("warning:"), "{}", ended.err);
    let asked = fake.asked();
    assert_eq!(
        (asked.line.as_str(), asked.body.as_str()),
        ("POST /api/v1/services/shop/rollback HTTP/1.1", "{}")
    );
}

#[test]
fn a_problem_is_printed_with_its_fields_and_a_hint() {
    let fields = json!([{ "pointer": "/weights", "detail": "the weights sum to 95, not to 100" }]);
    let fake = Fake::problem(422, "the weights are not valid", &fields);
    let ended = fake.run(&["weights", "shop", "blue=95"]).code(1);
    assert_eq!(ended.out, "");
    assert_eq!(
        ended.err,
        "error: the weights are not valid\n  /weights: the weights sum to 95, not to 100\nhint: \
         these weights sum to 95, not 100; an upstream that is left out gets 0\n"
    );
}

#[test]
fn rejected_calls_map_to_exit_codes() {
    for (status, code) in [
        (409, 5),
        (412, 5),
        (401, 1),
        (403, 1),
        (404, 1),
        (503, 1),
        (507, 1),
    ] {
        let fake = Fake::problem(status, "no", &json!([]));
        let ended = fake.run(&["rollback", "shop"]).code(code);
        assert!(
            ended.err.starts_with("error: no\n"),
            "{status}: {}",
            ended.err
        );
    }
}

#[test]
fn errors_are_json_in_json_format() {
    let fake = Fake::problem(412, "the service is at revision 9", &json!([]));
    let ended = fake.run(&["rollback", "shop", "-o", "json"]).code(5);
    let told: Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!(
        (&told["error"], &told["exit_code"]),
        (&json!("the service is at revision 9"), &json!(5))
    );
}

#[test]
fn an_address_without_a_listener_is_unreachable() {
    // Bound without listening, so that no other process can use the port.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let admin = format!(
        "http://{}",
        socket.local_addr().unwrap().as_socket().unwrap()
    );
    for verb in [
        &["status"][..],
        &["weights", "shop"],
        &["rollback", "shop"],
        &["weights", "shop", "blue=100"],
    ] {
        let arguments: Vec<&str> = verb.iter().copied().chain(["--admin", &admin]).collect();
        let ended = weighbridge(&arguments).code(6);
        assert!(
            ended.err.contains("cannot be reached") && ended.err.contains("hint:"),
            "{}",
            ended.err
        );
    }
    weighbridge(&["healthcheck", "--admin", &admin]).code(1);
}

#[test]
fn a_response_of_another_server_is_reported_as_unexpected() {
    let fake = Fake::answering(200, "text/html", &json!("hello"));
    assert!(
        fake.run(&["status"])
            .code(1)
            .err
            .contains("not a Weighbridge admin API")
    );
    let fake = Fake::answering(404, "text/html", &json!("hello"));
    assert!(
        fake.run(&["status"])
            .code(1)
            .err
            .contains("not a Weighbridge admin API")
    );
}

#[test]
fn healthcheck_maps_readiness_to_an_exit_code() {
    let fake = Fake::answering(200, "text/plain", &json!("ok"));
    assert_eq!(fake.run(&["healthcheck"]).code(0).out, "ready\n");
    assert_eq!(fake.asked().line, "GET /readyz HTTP/1.1");
    let fake = Fake::answering(503, "text/plain", &json!("draining"));
    assert!(fake.run(&["healthcheck"]).code(1).err.contains("draining"));
}

#[test]
fn the_token_is_read_from_a_file_or_the_environment() {
    let fake = Fake::ok(&json!({ "services": [] }));
    let mut from_environment = command(&["status", "--admin", &fake.address.to_string()]);
    Ended::from(
        from_environment
            .env("WEIGHBRIDGE_TOKEN", "secret-1")
            .output()
            .unwrap(),
    )
    .code(0);
    assert_eq!(
        fake.asked().header("authorization"),
        Some("Bearer secret-1")
    );

    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "secret-2").unwrap();
    let fake = Fake::ok(&json!({ "services": [] }));
    fake.run(&["status", "--token-file", file.path().to_str().unwrap()])
        .code(0);
    assert_eq!(
        fake.asked().header("authorization"),
        Some("Bearer secret-2")
    );

    weighbridge(&["status", "--token-file", "/nonexistent/token"]).code(1);
}

#[test]
fn verbose_prints_the_api_calls() {
    let fake = Fake::ok(&service(8, true));
    let ended = fake.run(&["rollback", "shop", "-v"]).code(0);
    assert!(
        ended.err.contains("POST http://") && ended.err.contains("200 OK in"),
        "{}",
        ended.err
    );
}
