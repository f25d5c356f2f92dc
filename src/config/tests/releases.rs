use std::time::Duration;

use super::{SHOP, check, fs, good, load};
use crate::model::{Webhook, WebhookFormat};
use crate::release::{Plan, Rescue};

/// The plan that the block `release: …` makes.
fn plan_of(block: &str) -> Plan {
    let config = good(&format!("{SHOP}    release: {block}\n"));
    Plan::read(config.services[0].release.as_deref(), None).unwrap()
}

#[test]
fn a_release_block_is_parsed_into_a_plan() {
    assert_eq!(good(SHOP).services[0].release, None);
    assert_eq!(plan_of("{}"), Plan::default());
    let plan = plan_of(
        r#"{ steps: [2.5, { weight: 50, hold: 1m }], budget: 7, rescue: { header: X-Safe }, canary_in_flight_max: 9,
             objectives: [{ slo: { latency: { quantile: 0.99, below: 300ms } } }],
             preflight: { requests: [/ready] }, freeze: ["22:00 - 06:00"], fast_follow: { within: 1h, from_step: 2 } }"#,
    );
    let weights: Vec<f64> = plan
        .steps()
        .iter()
        .map(|step| step.weight.percent())
        .collect();
    assert_eq!(weights, [2.5, 50.0, 100.0]);
    assert_eq!((plan.budget(), plan.canary_in_flight_max), (7, 9));
    assert_eq!(plan.rescue, Rescue::Header("x-safe".to_owned()));
    assert_eq!(plan.preflight.unwrap().requests[0].path, "/ready");
    assert_eq!(plan.freeze.len(), 1);
    assert_eq!(plan.fast_follow.unwrap().within, Duration::from_secs(3600));
}

#[test]
fn numbers_and_strings_are_resolved_from_variables() {
    let plan = plan_of(
        r#"{ budget: "${WORKERS}", steps: ["${WORKERS}", { weight: "${WORKERS}0" }], bake: "${WORKERS}s" }"#,
    );
    assert_eq!(plan.budget(), 3);
    let weights: Vec<f64> = plan
        .steps()
        .iter()
        .map(|step| step.weight.percent())
        .collect();
    assert_eq!(weights, [3.0, 30.0, 100.0]);
    // What has to be a text stays one, though it reads as a number.
    let headers = r#"{ budget: "${WORKERS}", preflight: { requests: [{ path: /a, headers: { X-A: "${WORKERS}" } }] } }"#;
    let smoke = plan_of(headers).preflight.unwrap().requests.remove(0);
    assert_eq!(smoke.headers, [("x-a".to_owned(), "3".to_owned())]);
}

#[test]
fn problems_of_a_release_block_have_a_position() {
    check(
        &format!("{SHOP}    release:\n"),
        &[
            "8:12 services.shop.release: expected a mapping, found nothing (remove the key, or \
             write `{}`)",
        ],
    );
    let fields = [
        "stepz: [1]",
        "steps:",
        "  - 1",
        "  - { weight: 0.5, hold: 5 }",
        "  - { hold: 5s, gate: { name: a, approvals: 0 } }",
        "objectives: [{ eror_rate: {} }, { error_rate: { worse_by: lots } }]",
        "budget: -1",
        "bake: .inf",
        "freeze: [\"sometimes\"]",
        "inconclusive: \"${NOWHERE}\"",
        "preflight: { requests: [{ path: /a, headers: { X-A: 1 } }] }",
    ]
    .map(|line| format!("      {line}\n"));
    check(
        &format!("{SHOP}    release:\n{}", fields.concat()),
        &[
            "9:7 services.shop.release.stepz: unknown field `stepz`; expected `steps`, \
             `objectives`, `budget`, `rescued_budget`, `harm_budget`, `alpha`, `beta`, \
             `min_canary_failures`, `min_distinct_clients`, `bake`, `final_bake`, `min_requests`, \
             `max_duration`, `inconclusive`, `canary_in_flight_max`, `rescue`, `preflight`, \
             `gate`, `freeze` or `fast_follow` (did you mean `steps`?)",
            "12:11 services.shop.release.steps[1]: step weights must increase, but 0.5 \
             follows 1",
            "12:32 services.shop.release.steps[1].hold: expected a duration such as `30s`, `500ms` \
             or `1m30s`, found `5` without a unit (did you mean `5s`?)",
            "13:11 services.shop.release.steps[2].weight: `weight` is missing; expected a \
             percentage above 0 and up to 100",
            "13:51 services.shop.release.steps[2].gate.approvals: expected a whole number from 1 \
             to 100, found `0`",
            "14:22 services.shop.release.objectives[0].eror_rate: unknown field `eror_rate`; \
             expected `error_rate`, `latency` or `slo` (did you mean `error_rate`?)",
            "14:65 services.shop.release.objectives[1].error_rate.worse_by: `lots` is not a share \
             such as `0.05pp`, `5%` or `0.05`",
            "15:15 services.shop.release.budget: expected a whole number from 0 to 1000000000, \
             found `-1`",
            "16:13 services.shop.release.bake: expected a duration such as `30s`, `500ms` or \
             `1m30s`, found `.inf`",
            "17:16 services.shop.release.freeze[0]: `sometimes` is not a freeze window: no ` - ` \
             between start and end, as in `Fri 17:00 - Mon 08:00 Europe/Berlin`",
            "18:21 services.shop.release.inconclusive: the environment variable `NOWHERE` is not \
             set (set it, or add a default: `${NOWHERE:-default}`)",
            "19:59 services.shop.release.preflight.requests[0].headers.X-A: expected the value of \
             a header, as a string, found `1`",
        ],
    );
}

const TOKENS: &str = "\
admin:
  tokens:
    - { name: alice, role: approve, sha256: \
                      \"1111111111111111111111111111111111111111111111111111111111111111\" }
    - { name: bob, role: admin, sha256: \
                      \"2222222222222222222222222222222222222222222222222222222222222222\" }
    - { name: ci, role: operate, sha256: \
                      \"3333333333333333333333333333333333333333333333333333333333333333\" }
";

#[test]
fn gates_need_tokens_that_may_approve() {
    let block = |fields: &str| format!("{SHOP}    release:\n      {fields}\n");
    let gated = "steps: [1, { weight: 5, gate: sign-off }]\n      gate: { name: start }";
    check(
        &block(gated),
        &[
            "9:37 services.shop.release.steps[1].gate: the gate `sign-off` waits for an approval, \
             and the admin API has no tokens by which to know who approves (give `admin` its \
             `tokens` or a `tokens_file`, or take the gate out)",
            "10:7 services.shop.release.gate: the gate `start` waits for an approval, and the \
             admin API has no tokens by which to know who approves (give `admin` its `tokens` or \
             a `tokens_file`, or take the gate out)",
        ],
    );
    let config = good(&format!("{TOKENS}{}", block(gated)));
    let plan = Plan::read(config.services[0].release.as_deref(), None).unwrap();
    assert!(plan.needs_approval());
    good(&format!(
        "{TOKENS}{}",
        block("gate: { name: a, approvals: 2, by: [alice, bob] }")
    ));
    check(
        &format!(
            "{TOKENS}{}",
            block("gate: { name: a, by: [alice, bbo, ci] }")
        ),
        &[
            "14:36 services.shop.release.gate.by[1]: there is no token `bbo`; expected `alice`, \
             `bob` or `ci` (did you mean `bob`?)",
            "14:41 services.shop.release.gate.by[2]: the token `ci` has the role `operate`, which \
             does not approve",
        ],
    );
    check(
        &format!("{TOKENS}{}", block("gate: { name: a, approvals: 3 }")),
        &[
            "14:7 services.shop.release.gate: the gate `a` asks for 3 approvals, and 2 of the \
             tokens may give one (the roles `approve` and `admin` may)",
        ],
    );
    // Tokens that are wrong are told; nothing is made of that.
    let wrong = TOKENS.replace("operate", "oprate");
    check(
        &format!("{wrong}{}", block("gate: { name: a, by: [carol] }")),
        &[
            "5:25 admin.tokens[2].role: expected `view`, `operate`, `approve` or `admin`, found \
             `oprate` (did you mean `operate`?)",
        ],
    );
}

#[test]
fn webhooks_are_read() {
    let config = good(&format!(
        "webhooks: [{{ url: \"https://a.example/x?y\" }}]\n{SHOP}"
    ));
    let [all] = &*config.webhooks else {
        panic!("{config:?}")
    };
    assert_eq!(*all, Webhook::new("https://a.example/x?y".parse().unwrap()));
    assert_eq!(
        (all.events.len(), all.timeout, all.attempts),
        (12, Duration::from_secs(5), 5)
    );
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("key"), "hunter2\n").unwrap();
    let text = "\
webhooks:
  - { url: \"http://127.0.0.1:1\", format: slack, events: [release_promoted], \
                secret_file: key, timeout: 1s, attempts: 1 }
  - { url: \"https://b\", secret: \"a, b\" }
";
    fs::write(at("w.yaml"), format!("{text}{SHOP}")).unwrap();
    let config = load(&at("w.yaml")).unwrap();
    let [slack, signed] = &*config.webhooks else {
        panic!("{config:?}")
    };
    assert_eq!(
        (slack.format, &*slack.events),
        (WebhookFormat::Slack, &["release_promoted".to_owned()][..])
    );
    assert_eq!(
        (slack.secret.as_deref(), slack.attempts),
        (Some("hunter2"), 1)
    );
    assert_eq!(signed.secret.as_deref(), Some("a, b"));
    let shown = format!("{config:?}");
    assert!(
        !shown.contains("hunter2") && shown.contains("signed: true"),
        "{shown}"
    );
}

#[test]
fn each_mistake_in_a_webhook_has_its_message() {
    for (fields, expected) in [
        (
            "format: json",
            "1:12 webhooks[0].url: `url` is missing; expected where events are posted to",
        ),
        (
            "url: \"ftp://a\"",
            "1:19 webhooks[0].url: expected an address such as `https://hooks.example.com/releases`",
        ),
        (
            "url: \"https://me:pass@a\"",
            "1:19 webhooks[0].url: expected an address such as `https://hooks.example.com/releases` (events are signed \
             with `secret`; a name and a password do not belong into the address)",
        ),
        (
            "url: \"https://a\", events: [release_promted]",
            "1:41 webhooks[0].events[0]: expected `release_started`, `release_preflight`, `release_advanced`, \
             `release_baking`, `release_waiting`, `release_continued`, `release_paused`, `release_resumed`, \
             `release_approved`, `release_promoted`, `release_rolled_back` or `release_cancelled`, found `release_promted` (did you mean `release_promoted`?)",
        ),
        (
            "url: \"https://a\", events: [release_paused, release_paused]",
            "1:57 webhooks[0].events[1]: the event `release_paused` is given twice",
        ),
        (
            "url: \"https://a\", events: []",
            "1:32 webhooks[0].events: expected at least one event (remove the key to receive all)",
        ),
        (
            "url: \"https://a\", secret: a, secret_file: b",
            "1:56 webhooks[0].secret_file: expected either `secret` or `secret_file`",
        ),
        (
            "url: \"https://a\", secret: \"\"",
            "1:40 webhooks[0].secret: expected a secret of 1 to 4096 bytes",
        ),
        (
            "url: \"https://a\", secret: 5",
            "1:40 webhooks[0].secret: expected the secret as a string in quotes",
        ),
        (
            "url: \"https://a\", secret_file: /nowhere",
            "1:45 webhooks[0].secret_file: the secret cannot be read from /nowhere: No such file or directory (os error \
             2)",
        ),
        (
            "url: \"https://a\", timeout: 2m",
            "1:41 webhooks[0].timeout: `2m` is longer than a minute",
        ),
        (
            "url: \"https://a\", attempts: 0",
            "1:42 webhooks[0].attempts: expected a whole number from 1 to 20, found `0`",
        ),
    ] {
        check(&format!("webhooks: [{{ {fields} }}]\n{SHOP}"), &[expected]);
    }
}
