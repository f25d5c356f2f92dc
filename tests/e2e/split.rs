//! Traffic split: exact at 0 and 100 %, unbiased between, stable per user.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::errors::is_refusal;
use crate::harness::{Client, Proxy, Upstream, shop};

fn two() -> (Upstream, Upstream) {
    (Upstream::named("blue"), Upstream::named("green"))
}

/// A proxy whose `shop` has these further settings; `trusted_proxies` covers loopback.
fn proxy(blue: &Upstream, green: &Upstream, settings: &Value) -> Proxy {
    let mut service = shop(blue, green);
    for (key, value) in settings.as_object().unwrap() {
        service[key] = value.clone();
    }
    Proxy::start(json!({
        "listeners": [{ "trusted_proxies": ["127.0.0.0/8"] }],
        "services": { "shop": service },
    }))
}

#[test]
fn weights_0_and_100_are_exact() {
    let (blue, green) = two();
    let proxy = proxy(&blue, &green, &json!({}));
    let mut client = proxy.client();
    for (weights, all, none) in [((100.0, 0.0), &blue, &green), ((0.0, 100.0), &green, &blue)] {
        proxy.set_weights(weights.0, weights.1);
        let (before, untouched) = (all.count(), none.count());
        for _ in 0..1000 {
            client.get("/").expect(200);
        }
        assert_eq!((all.count() - before, none.count() - untouched), (1000, 0));
    }
}

#[test]
fn a_weight_is_the_share_of_requests() {
    let (blue, green) = two();
    let proxy = proxy(&blue, &green, &json!({}));
    let mut client = proxy.client();
    for percent in [5_u32, 50] {
        proxy.set_weights(f64::from(100 - percent), f64::from(percent));
        let before = green.count();
        for _ in 0..2000 {
            client.get("/").expect(200);
        }
        // Six standard deviations: one false alarm in 10^9 runs.
        let share = f64::from(u32::try_from(green.count() - before).unwrap()) / 2000.0;
        let expected = f64::from(percent) / 100.0;
        let deviation = (expected * (1.0 - expected) / 2000.0).sqrt();
        assert!(
            (share - expected).abs() < 6.0 * deviation,
            "{percent} % became {share}"
        );
    }
}

/// Header lines that identify user `at` to the proxy.
type Identify = fn(usize) -> String;

/// Sends one request for each user and returns which of them reached green.
fn on_green(client: &mut Client, users: usize, identify: Identify) -> Vec<bool> {
    (0..users)
        .map(|at| client.ask("/", &identify(at)).receive().expect(200).text() == "green")
        .collect()
}

/// Raises green from 5 to 50 percent and lowers it again; checks at each step which users moved.
#[track_caller]
fn is_monotone(proxy: &Proxy, identify: Identify) {
    const USERS: usize = 300;
    let mut client = proxy.client();
    let mut before = vec![false; USERS];
    for percent in [0.0, 5.0, 25.0, 50.0] {
        proxy.set_weights(100.0 - percent, percent);
        let now = on_green(&mut client, USERS, identify);
        assert_eq!(
            now,
            on_green(&mut client, USERS, identify),
            "users moved at a fixed weight"
        );
        let fell = (0..USERS).filter(|at| before[*at] && !now[*at]).count();
        assert_eq!(fell, 0, "users left green as it grew to {percent}");
        let share = f64::from(u32::try_from(now.iter().filter(|on| **on).count()).unwrap()) / 300.0;
        assert!(
            (share - percent / 100.0).abs() < 0.18,
            "{percent} % of users became {share}"
        );
        before = now;
    }
    for percent in [25.0, 5.0] {
        proxy.set_weights(100.0 - percent, percent);
        let now = on_green(&mut client, USERS, identify);
        let rose = (0..USERS).filter(|at| !before[*at] && now[*at]).count();
        assert_eq!(rose, 0, "users moved to green as it shrank to {percent}");
        before = now;
    }
    proxy.roll_back();
    assert!(
        !on_green(&mut client, USERS, identify).contains(&true),
        "a user stayed on green after the rollback"
    );
}

#[test]
fn users_identified_by_header_move_only_with_the_weight() {
    let (blue, green) = two();
    let proxy = proxy(
        &blue,
        &green,
        &json!({ "sticky": { "header": "X-User-Id" } }),
    );
    is_monotone(&proxy, |at| format!("X-User-Id: user-{at}\r\n"));
}

#[test]
fn users_identified_by_address_move_only_with_the_weight() {
    let (blue, green) = two();
    let proxy = proxy(&blue, &green, &json!({ "sticky": { "client_ip": true } }));
    // Another port or a longer chain still identifies the same user.
    is_monotone(&proxy, |at| {
        format!(
            "X-Forwarded-For: 192.0.2.1, 10.0.{}.{}\r\n",
            at / 256,
            at % 256
        )
    });
}

#[test]
fn users_identified_by_cookie_move_only_with_the_weight() {
    let (blue, green) = two();
    let proxy = proxy(&blue, &green, &json!({ "sticky": { "cookie": "wb" } }));
    is_monotone(&proxy, |at| {
        format!("Cookie: other=1; wb={at:032x}; last=2\r\n")
    });
}

#[test]
fn a_user_without_a_cookie_gets_a_persistent_one() {
    let (blue, green) = two();
    let proxy = proxy(&blue, &green, &json!({ "sticky": { "cookie": "wb" } }));
    proxy.set_weights(50.0, 50.0);
    let mut client = proxy.client();
    let mut cookies = BTreeMap::new();
    for _ in 0..60 {
        let response = client.get("/").expect(200);
        let cookie = response.header("set-cookie").expect("no cookie");
        assert!(
            cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Lax"),
            "{cookie}"
        );
        let pair = cookie.split(';').next().unwrap().to_owned();
        assert!(
            pair.starts_with("wb=") && !pair.contains("blue") && !pair.contains("green"),
            "{pair}"
        );
        cookies.insert(pair, response.text());
    }
    assert_eq!(cookies.len(), 60, "two users got the same cookie");
    for (cookie, upstream) in &cookies {
        for _ in 0..2 {
            let again = client
                .ask("/", &format!("Cookie: {cookie}\r\n"))
                .receive()
                .expect(200);
            assert_eq!(again.text(), *upstream, "{cookie}");
            assert_eq!(
                again.header("set-cookie"),
                None,
                "a user got a second cookie"
            );
        }
    }
    let upstreams: std::collections::BTreeSet<_> = cookies.values().collect();
    assert_eq!(upstreams.len(), 2, "all users reached the same upstream");
}

#[test]
fn the_cookie_is_added_to_the_upstreams_own_cookies() {
    let blue = Upstream::start(|call| call.answer("200 OK", "Set-Cookie: session=1\r\n", ""));
    let proxy = proxy(&blue, &blue, &json!({ "sticky": { "cookie": "wb" } }));
    let response = proxy.get("/");
    let cookies: Vec<_> = response
        .head
        .headers
        .iter()
        .filter(|(name, _)| name == "set-cookie")
        .collect();
    assert_eq!(cookies.len(), 2, "{cookies:?}");
    assert_eq!(cookies[0].1, "session=1");
}

#[test]
fn a_tester_header_reaches_an_upstream_at_weight_0() {
    for (tester, named, unknown) in [
        (
            json!({ "header": "X-Upstream" }),
            "X-Upstream: green\r\n",
            "X-Upstream: red\r\n",
        ),
        (
            json!({ "cookie": "version" }),
            "Cookie: a=1; version=green\r\n",
            "Cookie: version=red\r\n",
        ),
    ] {
        let (blue, green) = two();
        let proxy = proxy(
            &blue,
            &green,
            &json!({ "tester": tester, "sticky": { "cookie": "wb" } }),
        );
        let mut client = proxy.client();
        for _ in 0..20 {
            assert_eq!(
                client.ask("/tester", named).receive().expect(200).text(),
                "green"
            );
            assert_eq!(client.get("/").expect(200).text(), "blue");
        }
        // A misspelled name must not be split like a user's request: the tester would take the old
        // version for the new one.
        let before = blue.count();
        let refused = client.ask("/", unknown).receive();
        is_refusal(&refused, 400, "http_request_error", "bad_request");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.ends_with("service shop does not have; its upstreams are: blue, green"),
            "{detail}"
        );
        assert_eq!(blue.count(), before);
        proxy.counts_reason("bad_request", 1);
        let empty = unknown.replace("red", "");
        assert_eq!(client.ask("/", &empty).receive().expect(200).text(), "blue");
        assert!(
            green
                .seen()
                .iter()
                .all(|request| request.target == "/tester"),
            "weight 0 was not exact"
        );
        // A tester also reaches the old version while the new one has all weight.
        proxy.set_weights(0.0, 100.0);
        let other_way = named.replace("green", "blue");
        assert_eq!(
            client.ask("/", &other_way).receive().expect(200).text(),
            "blue"
        );
    }
}

#[test]
fn without_the_tester_setting_the_header_is_ignored() {
    let (blue, green) = two();
    let proxy = proxy(&blue, &green, &json!({}));
    let names =
        "X-Weighbridge-Upstream: green\r\nX-Upstream: green\r\nCookie: wb=green; version=green\r\n";
    assert_eq!(
        proxy.client().ask("/", names).receive().expect(200).text(),
        "blue"
    );
    assert_eq!(green.count(), 0);
}
