//! The command line against a running proxy: the way by which people and pipelines change weights.

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
fn weights_are_set_and_taken_back_from_the_command_line() {
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
fn a_look_at_everything_shows_what_was_served() {
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let proxy = Proxy::with_shop(shop(&blue, &green));
    assert_eq!(proxy.get("/").text(), "blue");
    let shows = || {
        let top = weighbridge(&proxy, &["top", "--once", "--output", "json"]);
        ends_with(&top, 0);
        let seen: Value = serde_json::from_slice(&top.stdout).unwrap();
        seen["services"][0]["upstreams"]["blue"]["windows"]["10s"]["requests"] == 1
    };
    eventually("the request is measured", shows);
    let top = String::from_utf8(weighbridge(&proxy, &["top", "shop", "--once"]).stdout).unwrap();
    assert!(top.contains("blue *") && top.contains("green"), "{top}");
}

#[test]
fn without_a_proxy_it_is_said_that_nobody_is_there() {
    let proxy = Proxy::prepare(serde_json::json!({ "services": {} }));
    ends_with(&weighbridge(&proxy, &["status"]), 6);
    assert_ne!(weighbridge(&proxy, &["healthcheck"]).status.code(), Some(0));
}
