//! Gates, freeze windows and preflight of the configuration, and who may override them.

use serde_json::{Value, json};

use super::traffic::start;
use super::*;

fn guarded(release: &Value) -> Rig {
    let mut spec = spec("shop", 0.0);
    spec.release = Some(release.as_object().unwrap().clone().into());
    Rig::new(memory(), vec![spec])
}

/// Every protection is set; the freeze window is always in force.
fn protected() -> Value {
    json!({
        "steps": [20, { "weight": 50, "gate": "qa" }],
        "gate": "board",
        "freeze": ["00:00 - 12:00", "12:00 - 00:00"],
        "preflight": {
            "requests": [{ "path": "/ready?key=hunter2", "headers": { "X-Key": "hunter2" } }],
        },
    })
}

fn by(may_override: bool, reason: Option<&str>) -> Intent {
    Intent {
        may_override,
        reason: reason.map(str::to_owned),
        ..intent(None)
    }
}

impl Rig {
    async fn start_with(&self, plan: Value, intent: Intent) -> Result<api::ReleaseChange, Refusal> {
        let start = api::ReleaseStart {
            reason: intent.reason.clone(),
            ..start(plan.as_object().unwrap().clone())
        };
        self.links.handle.start_release("shop", start, intent).await
    }

    pub(super) async fn newest_entry(&self) -> api::AuditEntry {
        self.links
            .handle
            .audit(None, 1)
            .await
            .unwrap()
            .entries
            .remove(0)
    }
}

/// Plans that remove a protection, and a part of the message about each.
fn weaker() -> [(Value, &'static str); 6] {
    [
        (
            json!({ "freeze": [], "steps": [50, 100] }),
            "`00:00 - 12:00`",
        ),
        (json!({ "freeze": ["00:00 - 12:00"] }), "`12:00 - 00:00`"),
        (json!({ "steps": [100] }), "`qa` at 50%"),
        (
            json!({ "steps": [10, { "weight": 60, "gate": "qa" }] }),
            "`qa` at 50%",
        ),
        (json!({ "gate": "mine" }), "`board` at the start"),
        (json!({ "preflight": {} }), "`GET /ready`"),
    ]
}

#[tokio::test]
async fn operators_cannot_start_a_release_that_removes_protections() {
    let rig = guarded(&protected());
    let _worker = prompt_worker(&rig.links.publisher);
    for (plan, named) in weaker() {
        let refused = rig
            .start_with(plan.clone(), by(false, Some("hurry")))
            .await
            .unwrap_err();
        let Refusal::Forbidden(detail) = refused else {
            panic!("{plan}: {refused:?}");
        };
        assert!(
            detail.contains(named) && detail.contains("\"admin\""),
            "{plan}: {detail}"
        );
        assert!(!detail.contains("hunter2"), "{detail}");
    }
    assert!(
        rig.links
            .handle
            .releases("shop", 9)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(rig.newest_entry().await.action, "start");
}

#[tokio::test]
async fn an_admin_overrides_protections_with_a_reason_and_the_journal_records_them() {
    for (plan, named) in weaker() {
        let rig = guarded(&protected());
        let _worker = prompt_worker(&rig.links.publisher);
        for reason in [None, Some(" ")] {
            let refused = rig
                .start_with(plan.clone(), by(true, reason))
                .await
                .unwrap_err();
            let Refusal::Unfit(problems) = refused else {
                panic!("{plan}: {refused:?}");
            };
            assert_eq!(problems[0].pointer, "/reason");
            assert!(problems[0].detail.contains(named), "{plan}: {problems:?}");
        }
        rig.start_with(plan.clone(), by(true, Some("hotfix")))
            .await
            .unwrap();
        let entry = rig.newest_entry().await;
        assert_eq!(
            (entry.action.as_str(), entry.reason.as_deref()),
            ("release_started", Some("hotfix"))
        );
        let entry_release = &entry.after["release"];
        assert!(
            entry_release["overridden"].to_string().contains(named),
            "{entry_release}"
        );
        assert!(
            entry_release["detail"].as_str().unwrap().contains(named),
            "{entry_release}"
        );
        for (key, value) in plan.as_object().unwrap() {
            assert!(
                entry_release["replaced"].get(key).is_some(),
                "{key}: {entry_release}"
            );
            if key == "freeze" {
                assert_eq!(
                    (&entry_release["plan"][key], &entry_release["replaced"][key]),
                    (value, &protected()[key])
                );
            }
        }
        assert!(
            !entry.after.to_string().contains("hunter2"),
            "{entry_release}"
        );
    }
}

#[tokio::test]
async fn a_plan_without_protection_fields_keeps_the_protections() {
    let rig = guarded(&protected());
    let _worker = prompt_worker(&rig.links.publisher);
    let plan = json!({ "bake": "1s", "min_requests": 7 });
    let started = rig.start_with(plan, by(false, None)).await.unwrap().release;
    assert_eq!(started.waiting_for.unwrap().kind, "gate");
    let entry_release = &rig.newest_entry().await.after["release"];
    assert_eq!(entry_release["plan"]["freeze"], protected()["freeze"]);
    assert_eq!(entry_release["plan"]["steps"][1]["gate"]["name"], "qa");
    assert_eq!(
        (
            &entry_release["plan"]["min_requests"],
            &entry_release["replaced"]["min_requests"]
        ),
        (&json!(7), &json!(100))
    );
    assert!(entry_release.get("overridden").is_none());
    let bundle = rig.links.handle.evidence("shop-1").await.unwrap();
    let bundle = serde_json::to_string(&bundle).unwrap();
    assert!(
        bundle.contains("/ready") && !bundle.contains("hunter2"),
        "{bundle}"
    );
}

#[tokio::test]
async fn a_forecast_warns_that_a_plan_requires_an_admin() {
    let rig = guarded(&protected());
    let plan = json!({ "gate": "mine" });
    let entry_release = rig
        .links
        .handle
        .forecast("shop", plan.as_object().cloned())
        .await
        .unwrap();
    assert!(
        entry_release
            .warnings
            .iter()
            .any(|warning| warning.contains("`board`")),
        "{entry_release:?}"
    );
    assert!(!entry_release.plan.to_string().contains("hunter2"));
    let entry_release = rig.links.handle.forecast("shop", None).await.unwrap();
    assert!(
        !entry_release
            .warnings
            .iter()
            .any(|warning| warning.contains("admin")),
        "{entry_release:?}"
    );
}

#[tokio::test]
async fn only_an_admin_bypasses_protections_by_manual_weights_and_no_rollback_is_delayed() {
    for (release, named) in [
        (
            json!({ "freeze": ["00:00 - 12:00", "12:00 - 00:00"] }),
            "freeze window",
        ),
        (json!({ "gate": "board" }), "`board`"),
        (json!({ "steps": [{ "weight": 5, "gate": "qa" }] }), "`qa`"),
    ] {
        let rig = guarded(&release);
        let _worker = prompt_worker(&rig.links.publisher);
        let set =
            |green: f64, intent: Intent| rig.links.handle.set_weights("shop", to(green), intent);
        let refused = set(5.0, by(false, Some("hurry"))).await.unwrap_err();
        assert!(
            matches!(&refused, Refusal::Forbidden(detail) if detail.contains(named)),
            "{refused:?}"
        );
        let refused = set(5.0, by(true, None)).await.unwrap_err();
        assert!(
            matches!(&refused, Refusal::Unfit(problems) if problems[0].pointer == "/reason"),
            "{refused:?}"
        );
        assert_eq!(rig.green(), 0.0);
        set(50.0, by(true, Some("hotfix"))).await.unwrap();
        let entry = rig.newest_entry().await;
        assert!(
            entry.after["overridden"].to_string().contains(named),
            "{entry:?}"
        );
        set(20.0, by(false, None)).await.unwrap();
        assert_eq!(rig.green(), 20.0);
        rig.links
            .handle
            .rollback("shop", by(false, None))
            .await
            .unwrap();
        assert_eq!(rig.green(), 0.0);
    }
    let rig =
        guarded(&json!({ "freeze": ["2001-01-01 00:00 - 2001-01-02 00:00"], "preflight": {} }));
    let _worker = prompt_worker(&rig.links.publisher);
    rig.links
        .handle
        .set_weights("shop", to(5.0), by(false, None))
        .await
        .unwrap();
    assert_eq!(rig.green(), 5.0);
}

#[tokio::test]
async fn evidence_of_older_versions_is_redacted() {
    let rig = guarded(&protected());
    let _worker = prompt_worker(&rig.links.publisher);
    rig.start_with(json!({}), by(false, None)).await.unwrap();
    let mut bundle = *rig.links.handle.evidence("shop-1").await.unwrap();
    bundle.samples.canary.push(api::Sample {
        method: "GET".to_owned(),
        path: "/reset/hunter2".to_owned(),
        headers: vec![
            (
                "location".to_owned(),
                "https://joe:hunter2@localhost/cart".to_owned(),
            ),
            ("x-jwt".to_owned(), "hunter2".to_owned()),
        ],
        ..api::Sample::default()
    });
    bundle.routes.push(api::FailingRoute {
        side: "canary".to_owned(),
        route: Some("GET /users/hunter2/…".to_owned()),
        status: "500".to_owned(),
        count: 1,
    });
    bundle.plan = protected();
    let shown = bundle.redacted();
    let text = serde_json::to_string(&shown).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    let sample = &shown.samples.canary[0];
    assert_eq!(
        (sample.method.as_str(), sample.path.as_str()),
        ("GET", "/reset/*")
    );
    assert_eq!(
        sample.headers,
        [("location".to_owned(), "https://localhost/cart".to_owned())]
    );
    assert_eq!(shown.routes[0].route.as_deref(), Some("GET /users/*/…"));
    assert_eq!(shown.clone().redacted(), shown, "shown again");
}
