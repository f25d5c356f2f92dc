//! Releases from start to end, over stores that work, fail and are reopened.

use serde_json::json;

use super::traffic::{quick, start};
use super::*;
use crate::control::ReleaseVerb;
use crate::model::api::Phase;
use crate::release::replay;

#[tokio::test]
async fn a_step_that_waits_for_responses_is_reported() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    let mut release = rig.begin().await;
    while release.phase == Phase::Progressing {
        let points = if release.step == 1 { 2_000 } else { 5_000 };
        rig.traffic_at(points, 50, Duration::from_millis(500), false)
            .await;
        release = rig.release("shop-1").await;
    }
    assert_eq!((release.phase, release.waiting_for), (Phase::Baking, None));
    rig.traffic(50, Duration::from_millis(500), false).await;
    rig.hang(10_000, 8).await;
    rig.clock.advance(Duration::from_secs(6));
    rig.traffic(1, Duration::from_millis(1), false).await;
    let held = rig.release("shop-1").await;
    assert_eq!(held.phase, Phase::Baking);
    let waiting = held.waiting_for.unwrap();
    assert_eq!(waiting.kind, "unfinished");
    assert!(
        waiting
            .detail
            .starts_with("8 requests of the canary have had no response head"),
        "{}",
        waiting.detail
    );
}

#[tokio::test]
async fn a_good_canary_is_promoted_and_becomes_the_baseline() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    let release = rig.begin().await;
    assert_eq!(
        (release.id.as_str(), release.step, release.weight),
        ("shop-1", 1, 20.0)
    );
    assert_eq!(rig.green(), 20.0);
    assert_eq!(rig.shop().await.release.as_deref(), Some("shop-1"));
    let mut release = release;
    while release.phase == Phase::Progressing {
        // Drawn at this step, however late the next one is: none of it is traffic at full weight.
        let points = if release.step == 1 { 2_000 } else { 5_000 };
        rig.traffic_at(points, 50, Duration::from_millis(500), false)
            .await;
        release = rig.release("shop-1").await;
    }
    assert_eq!((release.phase, release.weight), (Phase::Baking, 100.0));
    assert_eq!(
        rig.shop().await.baseline,
        "blue",
        "until the promotion a rollback leads to the old baseline"
    );
    rig.clock.advance(Duration::from_secs(3));
    let waits = || async {
        rig.release("shop-1")
            .await
            .waiting_for
            .map(|waiting| waiting.kind)
    };
    assert_eq!(
        (rig.release("shop-1").await.phase, waits().await.as_deref()),
        (Phase::Baking, Some("too_little_traffic")),
        "nothing is promoted without traffic"
    );
    rig.traffic(50, Duration::from_millis(500), false).await;
    let promoted = rig.phase("shop-1", Phase::Promoted).await;
    assert_eq!(promoted.outcome.unwrap().verdict, "promoted");
    let shop = rig.shop().await;
    assert_eq!(
        (shop.baseline.as_str(), shop.previous_baseline.as_deref()),
        ("green", Some("blue"))
    );
    assert_eq!((shop.release, rig.green()), (None, 100.0));
    let actions = rig.actions().await;
    let wanted = [
        "release_promoted",
        "release_baking",
        "release_advanced",
        "release_advanced",
        "release_preflight",
        "release_started",
        "start",
    ];
    assert_eq!(actions, wanted);

    // After the promotion the service's rollback leads to the version before.
    rig.roll_back().await.unwrap().unwrap();
    assert_eq!(rig.green(), 0.0);
}

#[tokio::test]
async fn a_bad_canary_is_rolled_back_and_stays_out() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    rig.begin().await;
    rig.traffic(200, Duration::from_millis(400), true).await;
    let release = rig.phase("shop-1", Phase::RolledBack).await;
    assert_eq!(rig.green(), 0.0);
    let outcome = release.outcome.unwrap();
    assert_eq!(
        (outcome.verdict.as_str(), outcome.objective.as_deref()),
        ("rolled_back", Some("error_rate"))
    );
    for verb in [
        ReleaseVerb::Resume,
        ReleaseVerb::Approve,
        ReleaseVerb::Promote,
        ReleaseVerb::Pause,
    ] {
        let refused = rig.verb("shop-1", verb).await.unwrap_err();
        assert!(matches!(refused, Refusal::Conflict(_)), "{refused}");
    }
    rig.links
        .handle
        .reload(vec![spec("shop", 0.0), spec("other", 0.0)], "file")
        .await
        .unwrap();
    assert_eq!(rig.green(), 0.0);
    assert_eq!(rig.rollbacks(), [("error_rate".to_owned(), 1)]);

    // The same build has a smaller error probability; another build has all of it.
    let again = rig.begin().await;
    assert_eq!(again.id, "shop-2");
    assert!(
        again.log_limit > release.log_limit + 1.0,
        "{} {}",
        again.log_limit,
        release.log_limit
    );
}

#[tokio::test]
async fn rollbacks_work_while_paused_and_at_a_gate() {
    for held in ["paused", "gate"] {
        let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
        let _worker = prompt_worker(&rig.links.publisher);
        let mut plan = quick();
        if held == "gate" {
            plan.insert(
                "steps".into(),
                json!([{ "weight": 20, "gate": { "name": "qa", "approvals": 1 } }, 50]),
            );
        }
        rig.links
            .handle
            .start_release("shop", start(plan), intent(None))
            .await
            .unwrap();
        rig.phase("shop-1", Phase::Progressing).await;
        if held == "paused" {
            let paused = rig.verb("shop-1", ReleaseVerb::Pause).await.unwrap();
            assert!(paused.release.paused);
            let again = rig.verb("shop-1", ReleaseVerb::Pause).await.unwrap();
            assert!(
                again.release.paused && again.revision == paused.revision,
                "{again:?}"
            );
        }
        while rig.release("shop-1").await.phase == Phase::Progressing {
            rig.traffic(50, Duration::from_millis(500), false).await;
        }
        let waiting = rig.release("shop-1").await;
        assert_eq!(
            (waiting.phase, waiting.weight),
            (Phase::Waiting, 20.0),
            "{held}"
        );
        rig.traffic(200, Duration::from_millis(400), true).await;
        rig.phase("shop-1", Phase::RolledBack).await;
        assert_eq!(rig.green(), 0.0);
    }
}

#[tokio::test]
async fn a_step_past_its_minimum_duration_reports_missing_requests() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    let mut plan = quick();
    plan.insert("min_requests".into(), json!(100_000));
    let started = rig
        .links
        .handle
        .start_release("shop", start(plan), intent(None))
        .await;
    let begun = rig
        .phase(&started.unwrap().release.id, Phase::Progressing)
        .await;
    assert_eq!(
        begun.too_few_requests, None,
        "its minimum duration is not over"
    );
    let lacks = loop {
        rig.traffic(50, Duration::from_millis(500), false).await;
        let release = rig.release("shop-1").await;
        match release.too_few_requests {
            Some(lacks) if lacks.canary > 0 => break lacks,
            _ => assert_eq!(release.phase, Phase::Progressing),
        }
    };
    assert!(
        lacks.canary < lacks.least && lacks.least == 100_000,
        "{lacks:?}"
    );
}

#[tokio::test]
async fn a_gate_opens_on_approval() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    let mut plan = quick();
    plan.insert("gate".into(), json!({ "name": "go", "approvals": 1 }));
    rig.links
        .handle
        .start_release("shop", start(plan), intent(None))
        .await
        .unwrap();
    let pending = rig.release("shop-1").await;
    assert_eq!(
        pending.waiting_for.map(|wait| wait.kind).as_deref(),
        Some("gate")
    );
    let approved = rig
        .verb("shop-1", ReleaseVerb::Approve)
        .await
        .unwrap()
        .release;
    assert_eq!(approved.approvals.len(), 1);
    rig.phase("shop-1", Phase::Progressing).await;
}

#[tokio::test]
async fn a_trip_on_the_request_path_is_reported_and_committed() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    rig.begin().await;
    let watch = rig.watch().unwrap();
    // What a worker does that is told to trip.
    assert!(trip(&watch));
    rig.links
        .publisher
        .update(|table| table.drained(watch.spec.canary));
    assert_eq!(rig.green(), 0.0);
    let release = rig.phase("shop-1", Phase::RolledBack).await;
    assert_eq!(
        release.outcome.unwrap().objective.as_deref(),
        Some("budget")
    );
    assert_eq!(rig.rollbacks(), [("budget".to_owned(), 1)]);
    assert_eq!(rig.actions().await[0], "release_rolled_back");
}

#[tokio::test]
async fn a_release_refuses_manual_weights_and_a_second_start_and_ends_by_a_rollback() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    rig.begin().await;
    assert!(matches!(
        rig.put(30.0).await.unwrap(),
        Err(Refusal::Conflict(_))
    ));
    let second = rig
        .links
        .handle
        .start_release("shop", start(quick()), intent(None))
        .await;
    assert!(matches!(second, Err(Refusal::Conflict(_))));
    let mut without = spec("shop", 0.0);
    without.upstreams.truncate(1);
    without.weights = super::super::testing::weights(&[("blue", 100.0)]);
    let reload = rig
        .links
        .handle
        .reload(vec![without], "file")
        .await
        .unwrap_err();
    assert!(reload.to_string().contains("shop-1"), "{reload}");
    let applied = rig.roll_back().await.unwrap().unwrap();
    assert_eq!((applied.service.release, rig.green()), (None, 0.0));
    let release = rig.phase("shop-1", Phase::RolledBack).await;
    assert_eq!(
        release.outcome.unwrap().objective.as_deref(),
        Some("operator")
    );
    assert_eq!(rig.rollbacks(), [("manual".to_owned(), 1)]);

    rig.begin().await;
    rig.verb("shop-2", ReleaseVerb::RollBack).await.unwrap();
    assert_eq!(rig.rollbacks(), [("manual".to_owned(), 2)]);
}

#[tokio::test]
async fn a_cancellation_returns_all_weight_without_a_verdict() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    rig.begin().await;
    let change = rig.verb("shop-1", ReleaseVerb::Cancel).await.unwrap();
    assert_eq!(
        (change.release.phase, change.weights["green"]),
        (Phase::Cancelled, 0.0)
    );
    assert_eq!(rig.green(), 0.0);
    assert_eq!(rig.rollbacks(), [], "no objective failed");
    rig.put(30.0).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_invalid_start_is_reported_field_by_field() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let wrong = |edit: &dyn Fn(&mut api::ReleaseStart)| {
        let mut wrong = start(quick());
        edit(&mut wrong);
        wrong
    };
    let cases: [(api::ReleaseStart, &str); 5] = [
        (wrong(&|start| start.canary = "red".into()), "/canary"),
        (wrong(&|start| start.canary = "blue".into()), "/canary"),
        (
            wrong(&|start| start.start_at = Some("tomorrow".into())),
            "/start_at",
        ),
        (
            wrong(&|start| {
                drop(
                    start
                        .plan
                        .as_mut()
                        .unwrap()
                        .insert("steps".into(), json!([50, 20])),
                )
            }),
            "/plan/steps",
        ),
        (
            wrong(&|start| {
                drop(
                    start
                        .plan
                        .as_mut()
                        .unwrap()
                        .insert("stepps".into(), json!(1)),
                )
            }),
            "/plan/stepps",
        ),
    ];
    for (start, pointer) in cases {
        let refused = rig
            .links
            .handle
            .start_release("shop", start, intent(None))
            .await
            .unwrap_err();
        let Refusal::Unfit(problems) = refused else {
            panic!("{refused:?}");
        };
        assert!(problems[0].pointer.starts_with(pointer), "{problems:?}");
    }
}

#[tokio::test]
async fn a_failing_disk_stops_advances_but_not_rollbacks() {
    let (gate, store) = Gate::new();
    let rig = Rig::with(
        store,
        LoadedState::default(),
        vec![spec("shop", 0.0)],
        Timing {
            durable_within: Duration::ZERO,
            ..TIMING
        },
    );
    let _worker = prompt_worker(&rig.links.publisher);
    gate.pass(true); // the start of the service
    gate.pass(false);
    let refused = rig
        .links
        .handle
        .start_release("shop", start(quick()), intent(None))
        .await;
    assert!(matches!(refused, Err(Refusal::Store(_))), "{refused:?}");
    assert_eq!(rig.shop().await.release, None);
    for _ in 0..3 {
        gate.pass(true);
    }
    let release = rig
        .links
        .handle
        .start_release("shop", start(quick()), intent(None))
        .await
        .unwrap()
        .release;
    rig.phase(&release.id, Phase::Progressing).await;
    let rolled_back = rig.roll_back().await.unwrap().unwrap();
    assert_eq!((rolled_back.durable, rig.green()), (false, 0.0));
}

#[tokio::test]
async fn a_replay_decides_the_same_at_the_same_time() {
    for (bad, sticky) in [(true, false), (false, false), (true, true), (false, true)] {
        let directory = tempfile::tempdir().unwrap();
        let spec = ServiceSpec {
            sticky: sticky.then_some(crate::model::Sticky::ClientIp),
            ..spec("shop", 0.0)
        };
        let rig = Rig::open(directory.path(), vec![spec]).await;
        let _worker = prompt_worker(&rig.links.publisher);
        rig.begin().await;
        let mut first = 0;
        while !rig.release("shop-1").await.phase.is_over() {
            // Drawn at the step at which it is bad, however late the next one is on disk.
            let points = rig.points();
            rig.visits(
                points,
                first,
                50,
                Duration::from_millis(500),
                bad && points > 2_000,
            )
            .await;
            // Half of the users come again.
            first += 25;
            tokio::task::yield_now().await;
        }
        let release = rig.release("shop-1").await;
        let bundle = rig.links.handle.evidence("shop-1").await.unwrap();
        let path = rig.links.handle.recording("shop-1").await.unwrap();
        drop(rig);
        let text = || std::fs::read_to_string(&path).unwrap_or_default();
        until(|| text().contains("\"end\"")).await;
        let text = text();
        let answer = replay::answers(text.lines()).next().unwrap().unwrap();
        let verdict = serde_json::to_value(answer.verdict).unwrap();
        assert_eq!(verdict, json!(release.outcome.unwrap().verdict), "{text}");
        assert_eq!(answer.canary_requests, release.canary_requests);
        assert_eq!(answer.canary_failures > 0, bad);
        assert!(!bundle.timeline.is_empty());
    }
}

#[tokio::test]
async fn a_replay_follows_the_commands_of_operators() {
    let directory = tempfile::tempdir().unwrap();
    let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
    let _worker = prompt_worker(&rig.links.publisher);
    rig.begin().await;
    // It has the evidence for a promotion twice over, but holds its step until it is resumed.
    rig.verb("shop-1", ReleaseVerb::Pause).await.unwrap();
    while rig.release("shop-1").await.phase != Phase::Waiting {
        rig.traffic(200, Duration::from_secs(2), false).await;
    }
    for _ in 0..5 {
        rig.traffic(200, Duration::from_secs(2), false).await;
    }
    rig.verb("shop-1", ReleaseVerb::Resume).await.unwrap();
    while rig.release("shop-1").await.step == 1 {
        rig.traffic_at(2_000, 20, Duration::from_millis(200), false)
            .await;
    }
    rig.verb("shop-1", ReleaseVerb::Pause).await.unwrap();
    for _ in 0..5 {
        rig.traffic(200, Duration::from_secs(2), false).await;
    }
    while !rig.release("shop-1").await.phase.is_over() {
        rig.traffic(50, Duration::from_millis(500), true).await;
        tokio::task::yield_now().await;
    }
    let release = rig.release("shop-1").await;
    assert_eq!((release.phase, release.step), (Phase::RolledBack, 2));
    let path = rig.links.handle.recording("shop-1").await.unwrap();
    drop(rig);
    let text = || std::fs::read_to_string(&path).unwrap_or_default();
    until(|| text().contains("\"end\"")).await;
    let answer = replay::answers(text().lines()).next().unwrap().unwrap();
    let verdict = serde_json::to_value(answer.verdict).unwrap();
    let outcome = release.outcome.unwrap();
    assert_eq!((verdict, answer.step), (json!(outcome.verdict), 2));
    assert_eq!(answer.objective.map(str::to_owned), outcome.objective);
    assert_eq!(answer.canary_requests, release.canary_requests);
}

#[tokio::test]
async fn a_rollback_never_returns_to_a_rolled_back_version() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    rig.begin().await;
    let promoted = rig.verb("shop-1", ReleaseVerb::Promote).await.unwrap();
    assert_eq!(promoted.weights["green"], 100.0);
    rig.verb("shop-1", ReleaseVerb::Promote).await.unwrap();
    rig.phase("shop-1", Phase::Promoted).await;
    // Back to blue by a release of its own, which is bad.
    let back = api::ReleaseStart {
        canary: "blue".to_owned(),
        ..start(quick())
    };
    rig.links
        .handle
        .start_release("shop", back, intent(None))
        .await
        .unwrap();
    rig.phase("shop-2", Phase::Progressing).await;
    rig.verb("shop-2", ReleaseVerb::RollBack).await.unwrap();
    assert_eq!(rig.green(), 100.0);
    rig.roll_back().await.unwrap().unwrap();
    assert_eq!(rig.green(), 100.0, "blue has been taken out");
}

#[tokio::test]
async fn a_promotion_does_not_restore_a_tripped_canary() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _worker = prompt_worker(&rig.links.publisher);
    rig.begin().await;
    rig.verb("shop-1", ReleaseVerb::Promote).await.unwrap();
    let watch = rig.watch().unwrap();
    assert!(trip(&watch));
    rig.links
        .publisher
        .update(|table| table.drained(watch.spec.canary));
    let promote = rig.verb("shop-1", ReleaseVerb::Promote).await;
    assert!(promote.is_err(), "{promote:?}");
    rig.phase("shop-1", Phase::RolledBack).await;
    assert_eq!(rig.green(), 0.0);
}
