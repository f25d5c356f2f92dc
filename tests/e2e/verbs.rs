//! The command line against a running proxy, as operators and pipelines use it.

use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::{Proxy, Upstream, eventually, shop};

pub(crate) fn weighbridge(proxy: &Proxy, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weighbridge"));
    command
        .env("WEIGHBRIDGE_ADMIN", format!("http://{}", proxy.admin))
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
pub(crate) fn ends_with(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

#[test]
fn weights_and_rollback_set_the_weights() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    ends_with(&weighbridge(&proxy, &["healthcheck"]), 0);
    ends_with(
        &weighbridge(&proxy, &["weights", "shop", "green=100", "blue=0"]),
        0,
    );
    assert_eq!(proxy.get("/").text(), "green");
    ends_with(&weighbridge(&proxy, &["rollback", "shop"]), 0);
    assert_eq!(proxy.get("/").text(), "blue");
    let status = weighbridge(&proxy, &["status", "shop", "--output", "json"]);
    ends_with(&status, 0);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert!(status.to_string().contains("\"green\""), "{status}");
    let wrong = weighbridge(&proxy, &["weights", "shop", "green=50"]);
    assert_ne!(wrong.status.code(), Some(0), "{wrong:?}");
    assert_eq!(proxy.get("/").text(), "blue");
}

#[test]
fn top_shows_the_served_traffic() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    assert_eq!(proxy.get("/").text(), "blue");
    let shows = || {
        let top = weighbridge(&proxy, &["top", "--once", "--output", "json"]);
        ends_with(&top, 0);
        let snapshot: Value = serde_json::from_slice(&top.stdout).unwrap();
        snapshot["services"][0]["upstreams"]["blue"]["windows"]["10s"]["requests"] == 1
    };
    eventually("the request is in the statistics", shows);
    let top = String::from_utf8(weighbridge(&proxy, &["top", "shop", "--once"]).stdout).unwrap();
    assert!(top.contains("blue *") && top.contains("green"), "{top}");
}

#[test]
fn without_a_running_proxy_the_command_exits_with_unreachable() {
    let proxy = Proxy::prepare(serde_json::json!({ "services": {} }));
    ends_with(&weighbridge(&proxy, &["status"]), 6);
    assert_ne!(weighbridge(&proxy, &["healthcheck"]).status.code(), Some(0));
}
