//! `top`: live snapshots of services and releases.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::fake_api::{FakeApi, Reply};
use super::releases::{ended, release};
use super::{Ended, command, service, weighbridge};

const SERVICES: &str = "GET /api/v1/services";
const SHOP: &str = "GET /api/v1/services/shop";
const RELEASE: &str = "GET /api/v1/releases/shop-12";

fn service_with_release() -> Value {
    let mut service = service(7, true);
    service["release"] = json!("shop-12");
    service
}

/// A proxy with a running release.
fn proxy() -> FakeApi {
    FakeApi::scripted(|line| match line {
        SERVICES => Reply::Json(200, json!({ "services": [service_with_release()] })),
        SHOP => Reply::Json(200, service_with_release()),
        RELEASE => Reply::Json(200, release("progressing", 1, 5.0)),
        _ => Reply::Problem(404, "there is nothing"),
    })
}

fn start(proxy: &FakeApi, arguments: &[&str]) -> Child {
    let admin = proxy.admin();
    let all: Vec<&str> = ["top", "--interval", "100ms", "--admin", &admin]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let mut command = command(&all);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Sends SIGINT.
fn interrupt(child: Child) -> Ended {
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    child.wait_with_output().unwrap().into()
}

#[test]
fn one_snapshot_shows_upstreams_and_releases() {
    let ended = proxy().run(&["top", "--once"]).code(0);
    let (title, rest) = ended.out.split_once('\n').unwrap();
    assert!(
        title.contains("services: 1, running releases: 1"),
        "{title}"
    );
    assert_eq!(
        rest,
        "SERVICE  UPSTREAM  WEIGHT  HEALTHY  IN FLIGHT  REQ/S   ERRORS      P50      P90      \
         P99\nshop     blue *      95 %  1/1              3    285  0.035 %  5.12 ms  7.00 ms  \
         8.00 ms\n\x20        green        5 %  0/1              3   15.0  0.667 %  5.12 ms  7.00 \
         ms  8.00 ms\n\nshop-12 progressing, step 1 of 3, green at 5 %, 1,204 canary requests, \
         2 failures seen by users\n\n"
    );
    assert!(!ended.out.contains('\x1b'), "{}", ended.out);
}

#[test]
fn json_output_is_one_line_per_snapshot() {
    let proxy = proxy();
    let snapshot = json!({
        "services": [service_with_release()],
        "releases": [release("progressing", 1, 5.0)],
    });
    for service in [&[][..], &["shop"]] {
        let arguments = [&["top", "--once", "-o", "json"], service].concat();
        let ended = proxy.run(&arguments).code(0);
        assert_eq!(ended.out.lines().count(), 1, "{}", ended.out);
        assert_eq!(ended.json(), snapshot);
    }
    assert_eq!(proxy.requests(&format!("{SHOP} ")).len(), 1);
}

#[test]
fn an_ended_release_stays_in_the_list() {
    let mut looks = 0;
    let proxy = FakeApi::scripted(move |line| match line {
        SERVICES => {
            looks += 1;
            let shop = if looks == 1 {
                service_with_release()
            } else {
                service(8, true)
            };
            Reply::Json(200, json!({ "services": [shop] }))
        }
        RELEASE if looks == 1 => Reply::Json(200, release("progressing", 1, 5.0)),
        RELEASE => Reply::Json(200, ended("rolled_back")),
        _ => Reply::Problem(404, "there is nothing"),
    });
    let mut child = start(&proxy, &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let releases: Vec<String> = lines
        .by_ref()
        .filter(|line| line.starts_with("shop-12"))
        .take(3)
        .collect();
    assert!(releases[0].contains("progressing"), "{releases:?}");
    for line in &releases[1..] {
        assert!(
            line.starts_with("shop-12 rolled back, error_rate: 12 of 400 failed"),
            "{line}"
        );
    }
    assert_eq!(interrupt(child).code(0).err, "");
}

#[test]
fn top_retries_an_unreachable_proxy() {
    let mut looks = 0;
    let proxy = FakeApi::scripted(move |_| {
        looks += 1;
        match looks {
            2..=4 => Reply::Close,
            _ => Reply::Json(200, json!({ "services": [service(7, true)] })),
        }
    });
    let mut child = start(&proxy, &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert_eq!(
        lines
            .by_ref()
            .filter(|line| line.starts_with("SERVICE"))
            .take(3)
            .count(),
        3
    );
    let ended = interrupt(child).code(0);
    assert_eq!(ended.err.matches("retrying").count(), 1, "{}", ended.err);
}

#[test]
fn a_permanent_error_ends_top() {
    let unreachable = FakeApi::scripted(|_| Reply::Close);
    let ended = unreachable.run(&["top"]).code(6);
    assert!(ended.err.contains("cannot be reached"), "{}", ended.err);
    let ended = proxy().run(&["top", "cart"]).code(1);
    assert!(ended.err.contains("there is nothing"), "{}", ended.err);
    let mut looks = 0;
    let strict = FakeApi::scripted(move |_| {
        looks += 1;
        match looks {
            1 => Reply::Json(200, json!({ "services": [] })),
            _ => Reply::Problem(401, "no such token"),
        }
    });
    let ended = strict.run(&["top", "--interval", "100ms"]).code(1);
    assert!(ended.err.contains("no such token"), "{}", ended.err);
}

#[test]
fn the_polling_interval_has_a_lower_bound() {
    for wrong in [
        &["--interval", "50ms"][..],
        &["--interval", "1"],
        &["--once", "--interval", "1s"],
    ] {
        let arguments = [&["top"], wrong].concat();
        assert_eq!(weighbridge(&arguments).code(2).out, "", "{wrong:?}");
    }
}
