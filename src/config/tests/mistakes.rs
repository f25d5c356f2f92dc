use super::{SHOP, check, told};

/// `fields` are further fields of the service `shop`, from line 8 on.
#[track_caller]
fn check_service(fields: &str, expected: &[&str]) {
    check(&format!("{SHOP}    {fields}\n"), expected);
}

#[test]
fn invalid_documents_are_reported_with_a_position() {
    check(
        "",
        &["1:1 : the file is empty; expected at least `services`"],
    );
    check(
        "# nothing\n",
        &["1:1 : the file is empty; expected at least `services`"],
    );
    check("[]", &["1:1 : expected a mapping, found a list"]);
    check(
        "{}",
        &["1:1 services: `services` is missing; expected a mapping of names to services"],
    );
    check(
        "services: {}",
        &["1:1 services: expected at least one service"],
    );
    check(
        "services:",
        &["1:9 services: expected a mapping, found nothing (remove the key, or write `{}`)"],
    );
    check(
        "a: [1\nb: 2\n",
        &["2:2 : not valid YAML: illegal placement of ':' indicator"],
    );
    check(
        "a: 1\n---\nb: 2\n",
        &["2:1 : expected one document; a second one starts here"],
    );
    check(
        "a: *b\n",
        &["1:4 : not valid YAML: reference to unknown value"],
    );
    let deep = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
    check(&deep, &["1:35 : nested deeper than 32 levels"]);
}

#[test]
fn exponential_alias_expansion_is_rejected() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{},", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let told = told(&text);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("too large or has too many alias references"),
        "{told:?}"
    );
}

const TOP: &[(&str, &str)] = &[
    (
        "workers: 1.5",
        "1:10 workers: expected a whole number, found `1.5`",
    ),
    (
        "workers: \"4\"",
        "1:10 workers: expected a whole number, found `\"4\"` (remove the quotes and the unit)",
    ),
    (
        "workers: ${SECRET}",
        "1:10 workers: expected a whole number from 1 to 1024, found `${SECRET}`",
    ),
    (
        "drain: { delay: 5 s }",
        "1:17 drain.delay: expected a duration such as `30s`, `500ms` or `1m30s`, found `5 s`",
    ),
    (
        "drain: { timeout: 400d }",
        "1:19 drain.timeout: `400d` is longer than a year",
    ),
    ("drain: 30s", "1:8 drain: expected a mapping, found `30s`"),
    (
        "pool: { idle_timeout: 0s }",
        "1:23 pool.idle_timeout: expected a duration above zero",
    ),
    (
        "max_in_flight: -1",
        "1:16 max_in_flight: expected a whole number from 0 to 100000000, found `-1`",
    ),
    (
        "store: { etcd: { prefix: /w } }",
        "1:10 store.etcd: `etcd` is not supported in this version (remove it)",
    ),
    (
        "store: { path: 5 }",
        "1:16 store.path: expected a string, found `5` (write it in quotes: \"5\")",
    ),
    (
        "log: { level: warning }",
        "1:15 log.level: expected `error`, `warn`, `info`, `debug` or `trace`, found `warning`",
    ),
    (
        "log: { format: jsn }",
        "1:16 log.format: expected `text` or `json`, found `jsn` (did you mean `json`?)",
    ),
    (
        "access_log: sdtout",
        "1:13 access_log: expected `off`, `stdout` or a path with a `/`, such as `./access.log`, \
         found `sdtout`",
    ),
    (
        "access_log: { format: json }",
        "1:1 access_log.to: `to` is missing; expected `off`, `stdout` or the path of a file",
    ),
    (
        "listeners: []",
        "1:1 listeners: expected at least one listener (remove the key to listen on \
         0.0.0.0:8080)",
    ),
    (
        "listeners: [{ address: \":80\" }]",
        "1:24 listeners[0].address: expected `IP:port`, such as `0.0.0.0:8080` or `[::]:8080`, \
         found `\":80\"` (write `0.0.0.0:80` for all interfaces)",
    ),
    (
        "listeners: [{ address: \"[::]:80\", tls: {} }]",
        "1:35 listeners[0].tls: `tls` is not supported in this version (remove it)",
    ),
    (
        "listeners: [{ address: \"[::]:80\", limits: { uri_bytes: 64KiB } }]",
        "1:56 listeners[0].limits.uri_bytes: expected 1 to 65534 bytes, found `64KiB`",
    ),
    (
        "listeners: [{ address: \"[::]:80\", limits: { body_bytes: 10 } }]",
        "1:57 listeners[0].limits.body_bytes: expected a size such as `512B`, `64KiB` or `10MiB`, \
         found `10` without a unit (did you mean `10B`?)",
    ),
    (
        "listeners: [{ address: \"[::]:80\", trusted_proxies: [10.0.0.0/33] }]",
        "1:53 listeners[0].trusted_proxies[0]: expected an address or a network, such as \
         `10.0.0.0/8`, found `10.0.0.0/33`",
    ),
    (
        "listeners: [{ address: \"[::]:80\" }, { address: \"[::]:80\" }]",
        "1:37 listeners[1]: two listeners use the address [::]:80",
    ),
    (
        "admin: { address: 0.0.0.0:9900 }",
        "1:19 admin.address: 0.0.0.0:9900 can be reached by others, and the admin API has no \
         tokens (give it `tokens` or a `tokens_file`, or listen on `127.0.0.1:9900`)",
    ),
    (
        "admin: { address: 127.0.0.1:8080 }\nlisteners: [{ address: 127.0.0.1:8080 }]",
        "1:1 admin: the admin API and a listener both listen on 127.0.0.1:8080",
    ),
    (
        "admin: { tokens: [] }",
        "1:10 admin.tokens: expected at least one token",
    ),
    (
        "admin: { tokens: [{ name: a, role: root, sha256: hunter2 }] }\nadmin: {}",
        "1:36 admin.tokens[0].role: expected `view`, `operate`, `approve` or `admin`, found `root`",
    ),
    (
        "admin: { tokens_file: /nowhere/tokens }",
        "1:23 admin.tokens_file: the tokens cannot be read from /nowhere/tokens: No such file or \
         directory (os error 2)",
    ),
    (
        "admin: { allowed_origins: [example.com] }",
        "1:28 admin.allowed_origins[0]: expected an origin such as `https://admin.example.com`, \
         found `example.com`",
    ),
    (
        "wrokers: 4",
        "1:1 wrokers: unknown field `wrokers`; expected `workers`, `drain`, `pool`, \
         `max_in_flight`, `listeners`, `admin`, `store`, `log`, `access_log`, `webhooks` or \
         `services` (did you mean `workers`?)",
    ),
];

#[test]
fn each_top_level_mistake_has_its_message() {
    for (line, expected) in TOP {
        assert_eq!(
            told(&format!("{line}\n{SHOP}")).first().map(String::as_str),
            Some(*expected),
            "{line}"
        );
    }
}

const SERVICE: &[(&str, &str)] = &[
    (
        "weights: { blue: 50, green: 49.99 }",
        "8:5 services.shop.weights: the weights sum to 99.99, not to 100",
    ),
    (
        "weights: { blue: 99.999, green: 0 }",
        "8:22 services.shop.weights.blue: expected a number from 0 to 100 with at most two decimals, found `99.999`",
    ),
    (
        "weights: { blue: .nan, green: 0 }",
        "8:22 services.shop.weights.blue: expected a number from 0 to 100 with at most two decimals, found `.nan`",
    ),
    (
        "weights: { bleu: 100 }",
        "8:16 services.shop.weights.bleu: there is no upstream `bleu`; expected `blue` or `green` (did you mean `blue`?)",
    ),
    (
        "weights: { blue: 95% }",
        "8:22 services.shop.weights.blue: expected a number from 0 to 100, found `95%` (a weight is in percent, without quotes and without `%`)",
    ),
    (
        "timeouts: { conect: 1s }",
        "8:17 services.shop.timeouts.conect: unknown field `conect`; expected `connect`, `first_byte`, `idle` or `total` (did you mean `connect`?)",
    ),
    (
        "sticky: { cookie: wb, header: X-User }",
        "8:5 services.shop.sticky: expected exactly one of `cookie`, `header` and `client_ip`",
    ),
    (
        "sticky: { cookie: { path: / } }",
        "8:15 services.shop.sticky.cookie.name: `name` is missing; expected the name of the cookie",
    ),
    (
        "sticky: { cookie: { name: wb, path: shop } }",
        "8:41 services.shop.sticky.cookie.path: expected a path such as `/shop`, at most 255 characters and none of them a `;`, found `shop`",
    ),
    (
        "sticky: { cookie: { name: wb, path: \"/a;b\" } }",
        "8:41 services.shop.sticky.cookie.path: expected a path such as `/shop`, at most 255 characters and none of them a `;`, found `\"/a;b\"`",
    ),
    (
        "sticky: { cookie: { name: wb, domain: .example.com } }",
        "8:43 services.shop.sticky.cookie.domain: expected a domain such as `example.com`, found `.example.com` (write `example.com`, which holds for everything below it too)",
    ),
    (
        "sticky: { cookie: { name: wb, domain: 10.0.0.1 } }",
        "8:43 services.shop.sticky.cookie.domain: expected a domain such as `example.com`, found `10.0.0.1`",
    ),
    (
        "sticky: { cookie: { name: wb, max_age: 0s } }",
        "8:44 services.shop.sticky.cookie.max_age: expected a duration of whole seconds above zero (leave it out for a cookie that ends with the browser's session)",
    ),
    (
        "sticky: { cookie: { name: wb, same_site: laxx } }",
        "8:46 services.shop.sticky.cookie.same_site: expected `lax`, `strict` or `none`, found `laxx` (did you mean `lax`?)",
    ),
    (
        "sticky: { cookie: { name: wb, secure: always } }",
        "8:43 services.shop.sticky.cookie.secure: expected `auto`, `true` or `false`, found `always`",
    ),
    (
        "sticky: { cookie: { name: wb, same_site: none, secure: false } }",
        "8:60 services.shop.sticky.cookie.secure: browsers refuse `same_site: none` without `Secure`; expected `auto` or `true`",
    ),
    (
        "sticky: { cookie: { name: __Secure-wb, secure: false } }",
        "8:52 services.shop.sticky.cookie.secure: browsers refuse a cookie named `__Secure-wb` without `Secure`; expected `auto` or `true`",
    ),
    (
        "sticky: { cookie: { name: __Host-wb, domain: example.com } }",
        "8:50 services.shop.sticky.cookie.domain: browsers refuse a cookie named `__Host-wb` with a domain (take it out, or name the cookie otherwise)",
    ),
    (
        "sticky: { cookie: { name: __Host-wb, path: /shop } }",
        "8:48 services.shop.sticky.cookie.path: browsers refuse a cookie named `__Host-wb` with another path than `/`",
    ),
    (
        "sticky: { cookie: { name: wb, samesite: lax } }",
        "8:35 services.shop.sticky.cookie.samesite: unknown field `samesite`; expected `name`, `path`, `domain`, `max_age`, `same_site` or `secure` (did you mean `same_site`?)",
    ),
    (
        "sticky: { client_ip: no }",
        "8:26 services.shop.sticky.client_ip: expected `true`, found `no` (leave `sticky` out to draw each request)",
    ),
    (
        "sticky: { cookie: a b }",
        "8:23 services.shop.sticky.cookie: expected the name of a cookie, at most 63 letters, digits and some punctuation, found `a b`",
    ),
    (
        "tester: {}",
        "8:5 services.shop.tester: expected exactly one of `header` and `cookie`",
    ),
    (
        "health: { path: healthz }",
        "8:21 services.shop.health.path: expected a path such as `/healthz`, found `healthz`",
    ),
    (
        "health: { host: \"https://a.test\" }",
        "8:21 services.shop.health.host: expected a host such as `shop.example.com`, without a scheme or a wildcard, found `\"https://a.test\"`",
    ),
    (
        "health: { panic: 50 }",
        "8:22 services.shop.health.panic: expected a string, found `50` (write it in quotes: \"50\")",
    ),
    (
        "health: { panic: 101% }",
        "8:22 services.shop.health.panic: expected a share from `0%` to `100%`, to 0.01, such as `50%`, found `101%`",
    ),
    (
        "health: { unhealthy_after: 0 }",
        "8:32 services.shop.health.unhealthy_after: expected a whole number from 1 to 1000, found `0`",
    ),
    (
        "shadow: {}",
        "8:5 services.shop.shadow: `shadow` is not supported in this version (remove it)",
    ),
    (
        "baseline: green",
        "8:5 services.shop.baseline: duplicate key `baseline`; the first is in line 7",
    ),
];

#[test]
fn each_mistake_in_a_service_has_its_message() {
    for (field, expected) in SERVICE {
        check_service(field, &[expected]);
    }
    check(
        &SHOP.replace("    baseline: blue\n", ""),
        &[
            "2:3 services.shop: `weights` is missing, and with several upstreams and no \
             `baseline` there is no telling who gets the traffic (`weights: { blue: 100 }` does \
             it)",
        ],
    );
    check(
        &SHOP.replace("baseline: blue", "baseline: bleu"),
        &[
            "7:15 services.shop.baseline: expected `blue` or `green`, found `bleu` (did you mean \
             `blue`?)",
        ],
    );
    check(
        &SHOP.replace("shop:", "\"a shop\":"),
        &[
            "2:3 services.\"a shop\": expected a name of 1 to 63 of `a-z A-Z 0-9 . _ -` that \
             begins with a letter or a digit, found \"a shop\"",
        ],
    );
}

#[test]
fn each_mistake_in_a_route_or_endpoint_has_its_message() {
    for (route, expected) in [
        (
            "host: \"*\"",
            "3:22 services.shop.routes[0].host: expected a host such as `shop.example.com` or \
             `*.example.com`, found `\"*\"` (leave `host` out to match any host)",
        ),
        (
            "path_prefix: shop",
            "3:29 services.shop.routes[0].path_prefix: expected a path that begins with `/`, \
             found `shop` (did you mean `/shop`?)",
        ),
        (
            "path_prefix: /a?b",
            "3:29 services.shop.routes[0].path_prefix: expected a path without a query or a \
             fragment, found `/a?b`",
        ),
        (
            "methods: [get]",
            "3:26 services.shop.routes[0].methods[0]: expected a method in capitals, found `get` \
             (did you mean `GET`?)",
        ),
        (
            "methods: [CONNECT]",
            "3:26 services.shop.routes[0].methods[0]: expected a method other than CONNECT, which \
             is never forwarded, found `CONNECT`",
        ),
        (
            "headers: { X-Beta: 1 }",
            "3:35 services.shop.routes[0].headers.X-Beta: expected a string, found `1` (write it \
             in quotes: \"1\")",
        ),
        (
            "headers: { host: a }",
            "3:27 services.shop.routes[0].headers.host: a route matches hosts by its `host`, not \
             by a header",
        ),
        (
            "}, { host: a }, { host: A",
            "3:32 services.shop.routes[2]: this is the route of service \"shop\" in line 3",
        ),
    ] {
        check(
            &SHOP.replace("[{}]", &format!("[{{ {route} }}]")),
            &[expected],
        );
    }
    for (endpoint, expected) in [
        (
            "http://10.0.0.1:80",
            "expected `IP:port` without a scheme, found `\"http://10.0.0.1:80\"` (did you mean \
             `10.0.0.1:80`?)",
        ),
        (
            "10.0.0.1",
            "expected `IP:port`, such as `10.0.0.1:3000` or `[fd00::1]:3000`, found `\"10.0.0.1\"`",
        ),
        (
            "10.0.0.1:0",
            "expected the address and port of one machine, found `\"10.0.0.1:0\"`",
        ),
        (
            "0.0.0.0:80",
            "expected the address and port of one machine, found `\"0.0.0.0:80\"`",
        ),
    ] {
        let expected = format!("5:27 services.shop.upstreams.blue.endpoints[0]: {expected}");
        check(&SHOP.replace("10.0.0.1:3000", endpoint), &[&expected]);
    }
}
