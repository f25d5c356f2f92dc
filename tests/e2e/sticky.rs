//! Sticky cookies that nobody but the proxy can make, and the answers that carry them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Client, Proxy, Response, Upstream, eventually, shop};
use crate::verbs::{ends_with, weighbridge};

fn two() -> (Upstream, Upstream) {
    (Upstream::named("blue"), Upstream::named("green"))
}

/// A service `shop` with this `sticky`.
fn sticky(blue: &Upstream, green: &Upstream, sticky: Value) -> Value {
    let mut shop = shop(blue, green);
    shop["sticky"] = sticky;
    shop
}

fn ask(client: &mut Client, cookies: &str) -> Response {
    client.ask("/", &format!("Cookie: {cookies}\r\n")).receive()
}

/// The `name=value` that an answer sets.
fn given(response: &Response) -> Option<String> {
    let cookie = response.header("set-cookie")?;
    Some(cookie.split(';').next().unwrap().to_owned())
}

/// The key in a `name=key.tag`.
fn key(cookie: &str) -> &str {
    cookie.split_once('=').unwrap().1.split('.').next().unwrap()
}

/// A signed cookie of a user whom the split sends to this upstream.
fn cookie_of(client: &mut Client, upstream: &str) -> String {
    (0..1_000)
        .find_map(|_| {
            let response = client.get("/").expect(200);
            (response.text() == upstream).then(|| given(&response).unwrap())
        })
        .unwrap()
}

#[test]
fn a_cookie_is_a_key_and_its_signature() {
    let (blue, green) = two();
    let proxy = Proxy::with_shop(sticky(&blue, &green, json!({ "cookie": "wb" })));
    let cookie = given(&proxy.get("/")).unwrap();
    let value = cookie.strip_prefix("wb=").unwrap();
    let (key, tag) = value.split_once('.').unwrap();
    let hex = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(hex(key) && hex(tag) && value.len() <= 80, "{value}");
}

#[test]
fn made_up_cookies_choose_no_version_while_a_release_runs() {
    let (blue, green) = two();
    let mut shop = sticky(&blue, &green, json!({ "cookie": "wb" }));
    shop["release"] = json!({ "steps": [50], "bake": "1h" });
    let proxy = Proxy::with_shop(shop);
    let mut client = proxy.client();
    let honest = given(&client.get("/")).unwrap();
    let was = ask(&mut client, &honest).expect(200);
    assert_eq!((was.text().as_str(), given(&was)), ("blue", None));

    ends_with(
        &weighbridge(&proxy, &["release", "start", "shop", "green"]),
        0,
    );
    eventually("half of the traffic is on green", || {
        proxy.service()["weights"]["effective"]["green"] == 50.0
    });
    // Eight of the old form and eight of the signed form that seem to lead to the canary, tried
    // eight times more.
    let (mut keys, mut on_blue) = (BTreeSet::new(), 0);
    for tag in ["", ".00112233445566778899aabbccddeeff"] {
        let values = (0..1_000).map(|at| format!("wb={at:032x}{tag}"));
        let found: Vec<String> = values
            .filter(|cookie| ask(&mut client, cookie).expect(200).text() == "green")
            .take(8)
            .collect();
        assert_eq!(found.len(), 8);
        for cookie in &found {
            for _ in 0..8 {
                let response = ask(&mut client, cookie).expect(200);
                on_blue += u32::from(response.text() == "blue");
                let new = given(&response).expect("a made-up cookie was taken for a key");
                assert_ne!(key(&new), key(cookie));
                assert!(
                    keys.insert(key(&new).to_owned()),
                    "a key was given out twice"
                );
            }
        }
    }
    // Of 128; by chance fewer once in 10^9 runs.
    assert!(on_blue > 30, "{on_blue} of 128 came to blue");
    // A user with a cookie of the proxy's own has one place, and no other cookie.
    let place = ask(&mut client, &honest).expect(200);
    assert_eq!(given(&place), None);
    for _ in 0..8 {
        assert_eq!(ask(&mut client, &honest).text(), place.text());
    }
}

#[test]
fn an_unsigned_cookie_of_old_is_signed_with_the_same_key_while_no_release_runs() {
    let (blue, green) = two();
    let proxy = Proxy::with_shop(sticky(&blue, &green, json!({ "cookie": "wb" })));
    proxy.set_weights(50.0, 50.0);
    let mut client = proxy.client();
    for at in 0..20 {
        let old = format!("wb={at:032x}");
        let first = ask(&mut client, &old).expect(200);
        let signed = given(&first).unwrap();
        assert_eq!(key(&signed), key(&old));
        let next = ask(&mut client, &signed).expect(200);
        assert_eq!((next.text(), given(&next)), (first.text(), None));
    }
    for foreign in [
        "green",
        "",
        "0123456789abcdef",
        &"0".repeat(31),
        &"0".repeat(33),
        &"g".repeat(32),
    ] {
        let new = given(&ask(&mut client, &format!("wb={foreign}"))).unwrap();
        assert_ne!(key(&new), foreign);
    }
}

#[test]
fn of_several_cookies_of_the_name_the_first_that_is_signed_counts() {
    let (blue, green) = two();
    let proxy = Proxy::with_shop(sticky(&blue, &green, json!({ "cookie": "wb" })));
    proxy.set_weights(50.0, 50.0);
    let mut client = proxy.client();
    let (one, other) = (
        cookie_of(&mut client, "blue"),
        cookie_of(&mut client, "green"),
    );
    let old = format!("wb={:032x}", 7);
    for (cookies, expected) in [
        (format!("{one}; {other}"), "blue"),
        (format!("{other}; {one}"), "green"),
        (
            format!(
                "wb=x; {old}; {}0; {other}; {one}",
                &one[..one.len() - 1].replace('.', "x")
            ),
            "green",
        ),
        (format!("wbx=1; awb=2; {one}"), "blue"),
    ] {
        let response = ask(&mut client, &cookies).expect(200);
        assert_eq!(
            (response.text().as_str(), given(&response)),
            (expected, None),
            "{cookies}"
        );
    }
    // So many that they cannot all be meant: no more than eight are looked at.
    let forged = format!("wb={}.{}; ", "0".repeat(32), "1".repeat(32));
    let response = ask(&mut client, &format!("{}{one}", forged.repeat(7)));
    assert_eq!(given(&response), None);
    let response = ask(&mut client, &format!("{}{one}", forged.repeat(8)));
    assert_ne!(key(&given(&response).unwrap()), key(&one));
}

#[test]
fn cookies_hold_through_a_kill_right_after_the_first_start() {
    let (blue, green) = two();
    let service = sticky(&blue, &green, json!({ "cookie": "wb" }));
    let mut proxy =
        Proxy::start(json!({ "store": { "path": "state" }, "services": { "shop": service } }));
    let cookie = given(&proxy.get("/")).unwrap();
    proxy.kill();
    proxy.run();
    assert_eq!(given(&ask(&mut proxy.client(), &cookie).expect(200)), None);

    // Without a store they end with the process.
    let mut proxy = Proxy::with_shop(sticky(&blue, &green, json!({ "cookie": "wb" })));
    let cookie = given(&proxy.get("/")).unwrap();
    assert_eq!(given(&ask(&mut proxy.client(), &cookie)), None);
    proxy.kill();
    proxy.run();
    let other = given(&ask(&mut proxy.client(), &cookie).expect(200)).unwrap();
    assert_ne!(key(&other), key(&cookie));
}

#[test]
fn a_key_of_one_service_is_none_of_another() {
    let (blue, green) = two();
    let service = |host: &str| {
        let mut service = sticky(&blue, &green, json!({ "cookie": "wb" }));
        service["routes"] = json!([{ "host": host }]);
        service
    };
    let proxy =
        Proxy::start(json!({ "services": { "a": service("a.test"), "b": service("b.test") } }));
    let mut client = proxy.client();
    let mut get = |host: &str, cookie: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n");
        given(&client.send(request).receive().expect(200))
    };
    let old = format!("wb={:032x}", 7);
    let (a, b) = (get("a.test", &old).unwrap(), get("b.test", &old).unwrap());
    assert_eq!(key(&a), key(&b));
    assert_ne!(a, b, "two services sign alike");
    assert_eq!((get("a.test", &a), get("b.test", &b)), (None, None));
    assert_ne!(key(&get("b.test", &a).unwrap()), key(&a));
}

#[test]
fn a_header_is_a_key_from_trusted_proxies_alone_where_there_are_some() {
    let (blue, green) = two();
    let on = |trusted: Value| {
        let proxy = Proxy::start(json!({
            "listeners": [{ "trusted_proxies": trusted }],
            "services": { "shop": sticky(&blue, &green, json!({ "header": "X-User-Id" })) },
        }));
        proxy.set_weights(50.0, 50.0);
        let mut client = proxy.client();
        (0..60)
            .map(|_| {
                client
                    .ask("/", "X-User-Id: 7\r\n")
                    .receive()
                    .expect(200)
                    .text()
            })
            .collect::<BTreeSet<String>>()
            .len()
    };
    assert_eq!(on(json!([])), 1);
    assert_eq!(on(json!(["127.0.0.0/8"])), 1);
    assert_eq!(
        on(json!(["192.0.2.0/24"])),
        2,
        "a stranger chose a version by a header"
    );
}

#[test]
fn an_answer_that_caches_may_share_carries_no_cookie() {
    let blue = Upstream::start(|call| {
        let (status, headers) = match call.path() {
            "/public" => ("200 OK", "Cache-Control: public, max-age=60\r\n"),
            "/shared" => ("200 OK", "Cache-Control: s-maxage=60\r\n"),
            "/fresh" => ("200 OK", "Cache-Control: max-age=60\r\n"),
            "/far" => ("200 OK", "Expires: Fri, 31 Dec 9999 23:59:59 GMT\r\n"),
            "/cdn" => (
                "200 OK",
                "Cache-Control: private\r\nCDN-Cache-Control: max-age=60\r\n",
            ),
            "/same" => ("304 Not Modified", "ETag: \"1\"\r\n"),
            "/private" => ("200 OK", "Cache-Control: private, max-age=60\r\n"),
            "/never" => ("200 OK", "Cache-Control: no-store\r\n"),
            "/again" => ("200 OK", "Cache-Control: no-cache\r\nETag: \"1\"\r\n"),
            "/old" => ("200 OK", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
            "/moved" => ("301 Moved Permanently", "Location: /\r\n"),
            "/found" => ("302 Found", "Location: /\r\n"),
            "/fails" => ("500 Internal Server Error", ""),
            _ => ("200 OK", ""),
        };
        call.answer(status, headers, "");
    });
    let proxy = Proxy::with_shop(sticky(&blue, &blue, json!({ "cookie": "wb" })));
    let get = |method: &str, path: &str| {
        let mut client = proxy.client();
        let host = proxy.address;
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
        ));
        let head = client.head().unwrap();
        let controls = head
            .headers
            .iter()
            .filter(|(name, _)| name == "cache-control");
        let controls: Vec<_> = controls.map(|(_, value)| value.clone()).collect();
        (head.header("set-cookie").is_some(), controls.join(", "))
    };
    for path in ["/public", "/shared", "/fresh", "/far", "/cdn", "/same"] {
        assert!(!get("GET", path).0, "{path}");
        assert!(!get("HEAD", path).0, "{path}");
    }
    for (path, control) in [
        ("/private", "private, max-age=60"),
        ("/never", "no-store"),
        ("/again", "no-cache, private"),
        ("/old", "private"),
        ("/moved", "private"),
        ("/found", ""),
        ("/fails", ""),
        ("/", ""),
    ] {
        assert_eq!(get("GET", path), (true, control.to_owned()), "{path}");
        assert_eq!(get("HEAD", path), (true, control.to_owned()), "{path}");
    }
    assert_eq!(get("POST", "/old"), (true, String::new()));
}

#[test]
fn an_answer_of_the_proxys_own_carries_no_cookie() {
    let blue = Upstream::start(|call| call.reset());
    let proxy = Proxy::with_shop(sticky(&blue, &blue, json!({ "cookie": "wb" })));
    let response = proxy.get("/").expect(502);
    assert_eq!(response.header("set-cookie"), None);
}

#[test]
fn a_cookie_is_secure_where_the_client_came_by_https() {
    let (blue, green) = two();
    let attributes = |trusted: &str, cookie: Value, headers: &str| {
        let proxy = Proxy::start(json!({
            "listeners": [{ "trusted_proxies": [trusted] }],
            "services": { "shop": sticky(&blue, &green, json!({ "cookie": cookie })) },
        }));
        let cookie = proxy
            .client()
            .ask("/", headers)
            .receive()
            .expect(200)
            .header("set-cookie");
        cookie.unwrap().split_once("; ").unwrap().1.to_owned()
    };
    const HERE: &str = "127.0.0.0/8";
    const SECURE: &str = "Path=/; Secure; HttpOnly; SameSite=Lax";
    const PLAIN: &str = "Path=/; HttpOnly; SameSite=Lax";
    for (trusted, headers, expected) in [
        (HERE, "X-Forwarded-Proto: https\r\n", SECURE),
        (HERE, "X-Forwarded-Proto: HTTPS, http\r\n", SECURE),
        (HERE, "X-Forwarded-Proto: http, https\r\n", PLAIN),
        (
            HERE,
            "X-Forwarded-Proto: http\r\nForwarded: proto=https\r\n",
            PLAIN,
        ),
        (
            HERE,
            "Forwarded: for=192.0.2.1;Proto=\"https\";by=x, proto=http\r\n",
            SECURE,
        ),
        (HERE, "Forwarded: for=192.0.2.1, proto=https\r\n", PLAIN),
        (HERE, "", PLAIN),
        ("192.0.2.0/24", "X-Forwarded-Proto: https\r\n", PLAIN),
    ] {
        assert_eq!(
            attributes(trusted, json!("wb"), headers),
            expected,
            "{trusted} {headers}"
        );
    }
    assert_eq!(attributes(HERE, json!("__Host-wb"), ""), SECURE);
    let full = json!({
        "name": "wb", "path": "/shop", "domain": "example.com", "max_age": "30d",
        "same_site": "strict", "secure": true,
    });
    assert_eq!(
        attributes(HERE, full, ""),
        "Path=/shop; Domain=example.com; Max-Age=2592000; Secure; HttpOnly; SameSite=Strict"
    );
}

#[test]
fn an_upstreams_cookie_of_the_same_name_is_not_passed_on_and_warned_of_once() {
    let blue = Upstream::start(|call| {
        call.answer(
            "200 OK",
            "Set-Cookie: a=1\r\nSet-Cookie: wb=mine; Path=/\r\n",
            "",
        )
    });
    let proxy = Proxy::start(json!({
        "workers": 2,
        "services": { "shop": sticky(&blue, &blue, json!({ "cookie": "wb" })) },
    }));
    let all = |response: &Response| {
        let cookies = response
            .head
            .headers
            .iter()
            .filter(|(name, _)| name == "set-cookie");
        cookies.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let first = proxy.get("/").expect(200);
    let cookies = all(&first);
    assert_eq!(
        (cookies.len(), cookies[0].as_str()),
        (2, "a=1"),
        "{cookies:?}"
    );
    let mine = cookies[1].split(';').next().unwrap();
    assert_eq!(key(mine).len(), 32, "{mine}");
    for _ in 0..10 {
        assert_eq!(all(&ask(&mut proxy.client(), mine).expect(200)), ["a=1"]);
    }
    eventually("it is warned of", || {
        proxy.log().contains("sets a cookie of the name")
    });
    assert_eq!(proxy.log().matches("sets a cookie of the name").count(), 1);
}
