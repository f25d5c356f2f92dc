//! How the controller carries out the fields of a plan.

use serde_json::{Value, json};

use super::traffic::{quick, start};
use super::*;
use crate::control::ReleaseVerb;
use crate::model::api::Phase;
use crate::routing::{EndpointKey, RescuePolicy};

impl Rig {
    /// Starts a release of this canary with the quick plan, changed by `otherwise`.
    async fn release_of(&self, canary: &str, otherwise: &[(&str, Value)]) -> api::Release {
        let mut plan = quick();
        for (key, value) in otherwise {
            plan.insert((*key).to_owned(), value.clone());
        }
        let start = api::ReleaseStart {
            canary: canary.to_owned(),
            ..start(plan)
        };
        let started = self
            .links
            .handle
            .start_release("shop", start, intent(None))
            .await;
        let id = started.unwrap().release.id;
        self.phase(&id, Phase::Progressing).await
    }

    /// Takes the release to 100 percent and through its final bake.
    async fn promote(&self, id: &str) {
        for _ in 0..2 {
            self.verb(id, ReleaseVerb::Promote).await.unwrap();
        }
        self.phase(id, Phase::Promoted).await;
    }

    fn endpoint(&self, upstream: &str) -> EndpointKey {
        let snapshot = self.links.publisher.current();
        let service = snapshot.table.service("shop").unwrap();
        service.upstream(upstream).unwrap().endpoints[0].key
    }

    async fn report(&self, upstream: &str, healthy: bool) {
        let event = HealthEvent {
            endpoint: self.endpoint(upstream),
            healthy,
            detail: "status 503".to_owned(),
        };
        self.links.health.send(event).await.unwrap();
        while self.shop().await.upstreams[upstream].endpoints[0].healthy != healthy {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn an_unhealthy_canary_is_rolled_back_unless_the_baseline_is_unhealthy_too() {
    let rig = Rig::new(memory(), vec![checked()]);
    let _worker = prompt_worker(&rig.links.publisher);
    rig.release_of("green", &[]).await;
    rig.report("blue", false).await;
    rig.report("green", false).await;
    rig.traffic(1, Duration::from_millis(10), false).await;
    let release = rig.release("shop-1").await;
    let waits_for = release.waiting_for.map(|waits| waits.kind);
    assert_eq!(
        (release.phase, waits_for.as_deref()),
        (Phase::Waiting, Some("baseline_down"))
    );
    rig.report("blue", true).await;
    let outcome = rig
        .phase("shop-1", Phase::RolledBack)
        .await
        .outcome
        .unwrap();
    assert_eq!(outcome.objective.as_deref(), Some("health"));
    assert!(outcome.reason.contains("green"), "{}", outcome.reason);
    assert_eq!(rig.green(), 0.0);
}

#[tokio::test]
async fn an_inconclusive_step_ends_nothing_while_the_baseline_is_down() {
    let rig = Rig::new(memory(), vec![checked()]);
    let _worker = prompt_worker(&rig.links.publisher);
    let limit = [
        ("max_duration", json!("1m")),
        ("inconclusive", json!("roll_back")),
    ];
    rig.release_of("green", &limit).await;
    rig.report("blue", false).await;
    rig.phase("shop-1", Phase::Waiting).await;
    rig.clock.advance(Duration::from_secs(3_600));
    rig.traffic(5, Duration::from_millis(10), false).await;
    let release = rig.release("shop-1").await;
    assert_eq!(release.waiting_for.unwrap().kind, "baseline_down");
    assert_ne!(rig.green(), 0.0);
}

#[tokio::test]
async fn a_release_soon_after_a_promotion_starts_at_a_later_step() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    let follow = [("fast_follow", json!({ "within": "1h", "from_step": 2 }))];
    let first = rig.release_of("green", &follow).await;
    assert_eq!(
        (first.step, first.weight),
        (1, 20.0),
        "nothing was promoted yet"
    );
    rig.promote("shop-1").await;
    rig.clock.advance(Duration::from_secs(3_000));
    let second = rig.release_of("blue", &follow).await;
    assert_eq!((second.step, second.weight), (2, 50.0));
    rig.promote("shop-2").await;
    rig.clock.advance(Duration::from_secs(4_000));
    let third = rig.release_of("green", &follow).await;
    assert_eq!(third.step, 1, "too long ago");
}

#[tokio::test]
async fn workers_get_the_failover_policy_and_the_canary_limit() {
    let header = http::HeaderName::from_static("x-retry-safe");
    let cases = [
        (json!("off"), RescuePolicy::Off),
        (json!("safe"), RescuePolicy::Safe),
        (
            json!({ "header": "X-Retry-Safe" }),
            RescuePolicy::Header(header),
        ),
    ];
    for (rescue, told) in cases {
        let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
        let _worker = prompt_worker(&rig.links.publisher);
        rig.release_of(
            "green",
            &[("rescue", rescue), ("canary_in_flight_max", json!(7))],
        )
        .await;
        let watch = rig.watch().unwrap();
        assert_eq!((&watch.spec.rescue, watch.spec.in_flight_max), (&told, 7));
    }
}

#[tokio::test]
async fn an_inconclusive_step_waits_for_an_operator() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    let first = json!({
        "weight": 20,
        "max_duration": "5s",
        "min_requests": 100_000,
        "inconclusive": "hold",
    });
    let steps = json!([first, 50]);
    rig.release_of("green", &[("steps", steps)]).await;
    rig.traffic(50, Duration::from_secs(6), false).await;
    let waiting = rig
        .phase("shop-1", Phase::Waiting)
        .await
        .waiting_for
        .unwrap();
    assert_eq!(waiting.kind, "too_little_traffic");
    let resumed = rig
        .verb("shop-1", ReleaseVerb::Resume)
        .await
        .unwrap()
        .release;
    assert_eq!((resumed.phase, resumed.weight), (Phase::Progressing, 50.0));
}

#[tokio::test]
async fn a_step_lasts_for_its_hold() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    let steps = json!([{ "weight": 20, "hold": "10m" }, 50]);
    rig.release_of("green", &[("steps", steps)]).await;
    for _ in 0..40 {
        rig.traffic(50, Duration::from_millis(500), false).await;
    }
    assert_eq!(
        rig.release("shop-1").await.weight,
        20.0,
        "although it is proved"
    );
    rig.clock.advance(Duration::from_secs(600));
    rig.traffic(50, Duration::from_millis(500), false).await;
    let next = async {
        while rig.release("shop-1").await.weight < 50.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_freeze_override_is_reported_everywhere() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    let start = api::ReleaseStart {
        override_freeze: true,
        ..start(quick())
    };
    let by = Intent {
        may_override: true,
        ..intent(None)
    };
    let started = rig
        .links
        .handle
        .start_release("shop", start, by)
        .await
        .unwrap();
    assert!(started.release.override_freeze);
    let entries = rig.links.handle.audit(None, 9).await.unwrap().entries;
    let entry = entries
        .iter()
        .find(|entry| entry.action == "release_started")
        .unwrap();
    let release = &entry.after["release"];
    assert_eq!(release["override_freeze"], true);
    assert_eq!(
        release["detail"],
        "green is to replace blue; freeze windows are overridden"
    );
}
