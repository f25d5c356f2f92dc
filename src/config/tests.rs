//! The configuration as a whole.

/// What each kind of mistake is told.
mod mistakes;
/// `release` and `webhooks`.
mod releases;
/// The files in `config/`.
mod shipped;

use std::fs;

use super::*;
use crate::model::{HostPattern, SameSite, Secure, Sticky, StickyCookie, Tester};
use proptest::prelude::*;

fn variables() -> HashMap<String, String> {
    [
        ("HOST", "10.0.0.9"),
        ("WORKERS", "3"),
        ("SECRET", "hunter2"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn good(text: &str) -> Config {
    parse("test.yaml", text, &variables()).unwrap_or_else(|report| panic!("{report}"))
}

/// Each problem as `line:column path: message (help)`.
fn told(text: &str) -> Vec<String> {
    let report = parse("test.yaml", text, &variables()).expect_err("the configuration is valid");
    let tell = |problem: &ConfigProblem| {
        let help = problem
            .help
            .as_ref()
            .map_or_else(String::new, |help| format!(" ({help})"));
        format!(
            "{}:{} {}: {}{help}",
            problem.line(),
            problem.column(),
            problem.path,
            problem.message
        )
    };
    report.problems().iter().map(tell).collect()
}

/// `text` is a whole configuration; exactly these problems are told.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    assert_eq!(told(text), expected, "{text}");
}

const SHOP: &str = "\
services:
  shop:
    routes: [{}]
    upstreams:
      blue: { endpoints: [\"10.0.0.1:3000\"] }
      green: { endpoints: [\"10.0.1.1:3000\"] }
    baseline: blue
";

#[test]
fn absent_keys_have_defaults() {
    let config = good(SHOP);
    assert_eq!(config.listeners, [ListenerOptions::default()]);
    assert_eq!(config.admin, crate::admin::Options::default());
    assert_eq!(config.proxy, proxy::Options::default());
    assert_eq!(config.store, store::Options::default());
    assert_eq!(config.telemetry, telemetry::Options::default());
    let [shop] = &*config.services else {
        panic!("{config:#?}")
    };
    assert_eq!(shop.weights.sole_upstream().unwrap().as_ref(), "blue");
    assert_eq!(shop.timeouts, crate::model::Timeouts::default());
}

#[test]
fn values_are_parsed_in_file_order() {
    let config = good(
        r#"
workers: ${WORKERS}
listeners: [{ address: "localhost:0", name: web, trusted_proxies: [10.1.2.3, "fd00::/8"] }]
services:
  z: { routes: [{ host: "*.Example.COM", path_prefix: /a/, methods: [GET] }], upstreams: { v9: { endpoints: ["${HOST}:80"] }, v1: { endpoints: ["[::1]:80"] } }, weights: { v1: 0.01, v9: 99.99 } }
  a: { routes: [{ host: "*.example.com" }], upstreams: { only: { endpoints: ["localhost:81"] } }, sticky: { client_ip: true }, tester: { cookie: "$${t" } }
"#
        .replace("\"$${t\"", "t")
        .as_str(),
    );
    assert_eq!(config.proxy.workers.get(), 3);
    assert_eq!(config.listeners[0].name, "web");
    assert_eq!(
        config.listeners[0].trusted_proxies[0].to_string(),
        "10.1.2.3/32"
    );
    let [z, a] = &*config.services else {
        panic!("{config:#?}")
    };
    assert_eq!((&*z.name, &*a.name), ("z", "a"));
    assert_eq!(
        z.routes[0].host,
        HostPattern::Wildcard("example.com".into())
    );
    assert_eq!(&*z.routes[0].path_prefix.0, "/a");
    assert_eq!(&*z.upstreams[0].name, "v9");
    assert_eq!(z.upstreams[0].endpoints[0].0.to_string(), "10.0.0.9:80");
    assert_eq!(z.weights.get("v1").unwrap().basis_points(), 1);
    assert_eq!(a.upstreams[0].endpoints[0].0.to_string(), "127.0.0.1:81");
    assert_eq!(a.sticky, Some(Sticky::ClientIp));
    assert_eq!(a.tester, Some(Tester::Cookie("t".into())));
    assert_eq!(a.weights.sole_upstream().unwrap().as_ref(), "only");
}

#[test]
fn a_sticky_cookie_has_a_short_and_a_long_form() {
    let sticky = |text: &str| match &good(&format!("{SHOP}    sticky: {{ cookie: {text} }}\n"))
        .services[0]
        .sticky
    {
        Some(Sticky::Cookie(cookie)) => cookie.clone(),
        other => panic!("{other:?}"),
    };
    let short = StickyCookie::named("wb");
    assert_eq!(sticky("wb"), short);
    assert_eq!(sticky("{ name: wb }"), short);
    assert_eq!(
        sticky(
            "{ name: wb, path: /shop, domain: Example.com, max_age: 30d, same_site: none, secure: \
             true }"
        ),
        StickyCookie {
            path: "/shop".into(),
            domain: Some("example.com".into()),
            max_age: Some(std::time::Duration::from_secs(30 * 86_400)),
            same_site: SameSite::None,
            secure: Secure::Always,
            ..short.clone()
        }
    );
    let never = Secure::Never;
    assert_eq!(
        sticky("{ name: wb, secure: false }"),
        StickyCookie {
            secure: never,
            ..short
        }
    );
    assert_eq!(
        sticky("{ name: __Host-wb, path: /, secure: auto }").secure,
        Secure::Auto
    );
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_text() {
    check(
        "\
workers: 0
workers: 2
listeners:
  - adress: 0.0.0.0:80
    timeouts: { header: 5 }
services:
  shop:
    routes:
      - host: shop.example.com:80
    upstreams:
      blue: { endpoints: [\"${NOWHERE}:3000\", app:80] }
      green: { endpoints: [], protocol: h2c }
    weights: { blue: 95, green: \"5\", red: 1 }
    release: { steps: [1, 1] }
",
        &[
            "1:10 workers: expected a whole number from 1 to 1024, found `0`",
            "2:1 workers: duplicate key `workers`; the first is in line 1",
            "4:5 listeners[0].address: `address` is missing; expected `IP:port`, such as \
             `0.0.0.0:8080`",
            "4:5 listeners[0].adress: unknown field `adress`; expected `address`, `name`, \
             `timeouts`, `limits` or `trusted_proxies` (did you mean `address`?)",
            "5:25 listeners[0].timeouts.header: expected a duration such as `30s`, `500ms` or \
             `1m30s`, found `5` without a unit (did you mean `5s`?)",
            "9:15 services.shop.routes[0].host: expected a host without a port, found \
             `shop.example.com:80` (write `shop.example.com`, which matches on any port)",
            "11:27 services.shop.upstreams.blue.endpoints[0]: the environment variable `NOWHERE` \
             is not set (set it, or add a default: `${NOWHERE:-default}`)",
            "11:46 services.shop.upstreams.blue.endpoints[1]: expected `IP:port`, such as \
             `10.0.0.1:3000` or `[fd00::1]:3000`, found `app:80` (host names other than \
             `localhost` are not looked up in this version)",
            "12:16 services.shop.upstreams.green.endpoints: expected at least one endpoint",
            "12:41 services.shop.upstreams.green.protocol: the protocol `h2c` is not supported in \
             this version (write `http1`, or leave it out)",
            "13:33 services.shop.weights.green: expected a number from 0 to 100, found `\"5\"` (a \
             weight is in percent, without quotes and without `%`)",
            "13:38 services.shop.weights.red: there is no upstream `red`; expected `blue` or \
             `green`",
            "14:27 services.shop.release.steps[1]: step weights must increase, but 1 \
             follows 1",
        ],
    );
}

#[test]
fn reports_contain_no_environment_values_and_no_tokens() {
    let digest = "ab".repeat(32);
    for line in [
        "admin: { address: \"${SECRET}\" }",
        "workers: ${SECRET}",
        "access_log: ${SECRET}",
        "admin: { tokens: [{ name: a, role: viw, sha256: hunter2 }] }",
        "admin: { tokens: [{ name: a, role: view, token: hunter2 }] }",
        "webhooks: [{ url: \"ftp://hunter2\" }]",
        "webhooks: [{ url: \"https://a/hunter2\", timeout: 1 }]",
        "webhooks: [{ url: \"https://a\", secret: hunter2, format: xml }]",
        "webhooks: [{ url: \"https://a\", secret: \"${SECRET}\", attempts: \"${SECRET}\" }]",
    ] {
        let report = parse("w.yaml", &format!("{line}\n{SHOP}"), &variables()).unwrap_err();
        let all = format!(
            "{report}{}{}",
            report.coloured(),
            serde_json::to_string(&report).unwrap()
        );
        assert!(!all.contains("hunter2"), "{all}");
    }
    for field in [
        "budget: \"${SECRET}\"",
        "bake: \"${SECRET}\"",
        "harm_budget: \"${SECRET}\"",
        "steps: [\"${SECRET}\"]",
        "freeze: [\"${SECRET}\", \"Fri 17:00 - ${SECRET} 08:00\", \"1:00 - 2:00 ${SECRET}\"]",
        "rescue: \"${SECRET}\"",
        "preflight: { requests: [{ path: \"${SECRET}\" }] }",
        "objectives: [{ slo: \"${SECRET}\" }]",
    ] {
        let text = format!("{SHOP}    release: {{ {field} }}\n");
        let report = parse("w.yaml", &text, &variables()).unwrap_err();
        assert!(
            report.problems()[0]
                .path
                .starts_with("services.shop.release."),
            "{report}"
        );
        assert!(!report.to_string().contains("hunter2"), "{report}");
    }
    let line = format!(
        "admin: {{ address: \"0.0.0.0:9900\", tokens: [{{ name: a, role: view, sha256: {digest} \
         }}] }}"
    );
    let config = good(&format!("{line}\n{SHOP}"));
    assert_eq!(config.admin.tokens[0].sha256, [0xab; 32]);
    assert!(!format!("{config:?}").contains("171"), "{config:?}");
}

#[test]
fn a_report_has_the_format_of_compiler_errors() {
    let report = parse(
        "dir/w.yaml",
        &SHOP.replace("blue\n", "bleu\n"),
        &variables(),
    )
    .unwrap_err();
    assert_eq!(
        report.to_string(),
        "\
error: expected `blue` or `green`, found `bleu`
 --> dir/w.yaml:7:15
  |
6 |       green: { endpoints: [\"10.0.1.1:3000\"] }
7 |     baseline: bleu
  |               ^^^^ services.shop.baseline
  |
  = help: did you mean `blue`?"
    );
    assert_eq!(
        serde_json::to_value(&report).unwrap(),
        serde_json::json!([{
            "file": "dir/w.yaml",
            "line": 7,
            "column": 15,
            "path": "services.shop.baseline",
            "message": "expected `blue` or `green`, found `bleu`",
            "help": "did you mean `blue`?",
        }])
    );
    let missing = load(Path::new("/nowhere/w.yaml")).unwrap_err();
    assert!(
        missing
            .to_string()
            .contains("cannot read the configuration"),
        "{missing}"
    );
}

#[test]
fn tokens_are_read_from_a_tokens_file() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let tokens = format!(
        "- {{ name: ci, role: operate, sha256: \"{}\" }}\n",
        "0f".repeat(32)
    );
    fs::write(at("tokens.yaml"), &tokens).unwrap();
    let line = "admin: { address: 0.0.0.0:9900, tokens_file: tokens.yaml }";
    fs::write(at("w.yaml"), format!("{line}\n{SHOP}")).unwrap();
    let config = load(&at("w.yaml")).unwrap();
    assert_eq!(config.admin.tokens[0].name, "ci");
    assert_eq!(config.admin.tokens_file, Some(at("tokens.yaml")));
    fs::write(at("tokens.yaml"), tokens.replace("operate", "oprate")).unwrap();
    let report = load(&at("w.yaml")).unwrap_err();
    assert_eq!(
        report.problems()[0].file(),
        at("tokens.yaml").display().to_string()
    );
    assert_eq!(
        (report.problems()[0].line(), report.problems()[0].column()),
        (1, 21)
    );
}

#[test]
fn only_services_can_change_without_a_restart() {
    let old = good(SHOP);
    let services = good(&SHOP.replace("10.0.0.1", "10.0.0.2"));
    assert!(changes_needing_restart(&old, &services).is_empty());
    let release = good(&format!("{SHOP}    release: {{ budget: 5 }}\n"));
    assert!(changes_needing_restart(&old, &release).is_empty());
    assert_ne!(old.services, release.services);
    let webhooks = good(&format!("webhooks: [{{ url: \"https://a\" }}]\n{SHOP}"));
    assert_eq!(changes_needing_restart(&old, &webhooks), ["webhooks"]);
    let lines = "workers: 7\nlog: { level: debug }\nstore: { path: /x }\nlisteners: [{ address: \
                 0.0.0.0:1 }]";
    let new = good(&format!("{lines}\n{SHOP}"));
    assert_eq!(
        changes_needing_restart(&old, &new),
        ["workers", "listeners", "store", "log"]
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_told_without_a_panic(text in "(?s)[ -~\\n\\t\u{e9}\u{1f511}]{0,200}") {
        if let Err(report) = parse("w.yaml", &text, &variables()) {
            prop_assert!(!report.problems().is_empty());
            prop_assert!(!report.to_string().is_empty());
        }
    }

    /// Closer to home: a valid file with a piece cut out, doubled or replaced.
    #[test]
    fn a_damaged_file_is_told_without_a_panic(
        at in 0_usize..11_000,
        length in 0_usize..60,
        with in prop_oneof![Just(""), Just("${"), Just(": "), Just("\n  - "), Just("[{"), Just("é🔑"), Just("&a *a")],
    ) {
        let text = fs::read_to_string(shipped::file("reference.yaml")).unwrap();
        let (start, end) = (text.floor_char_boundary(at), text.floor_char_boundary(at + length));
        let damaged = format!("{}{with}{}", &text[..start], &text[end..]);
        if let Err(report) = parse("w.yaml", &damaged, &variables()) {
            prop_assert!(!report.coloured().is_empty());
        }
    }
}
