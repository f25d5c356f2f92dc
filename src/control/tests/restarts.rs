//! What a release leaves behind over a store that is reopened: where it continues, and what is
//! reported.

use super::traffic::{quick, start};
use super::*;
use crate::control::ReleaseVerb;
use crate::model::api::Phase;
use serde_json::json;

#[tokio::test]
async fn a_restart_resumes_at_the_same_step_with_no_less_spent() {
    let directory = tempfile::tempdir().unwrap();
    let spent = {
        let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let _worker = prompt_worker(&rig.links.publisher);
        rig.begin().await;
        // A request drawn before the step is no evidence for it, however late the step is on disk.
        while rig.release("shop-1").await.step == 1 {
            rig.traffic_at(2_000, 50, Duration::from_millis(500), false)
                .await;
        }
        let watch = rig.watch().unwrap();
        let half = crate::model::Weight::from_percent(50.0).unwrap();
        let limit = watch.tripwire().limit(BudgetKind::Visible);
        for _ in 0..limit * 2 / 3 {
            assert!(!watch.tripwire().spend(BudgetKind::Visible, half, half));
        }
        rig.traffic(10, Duration::from_millis(100), false).await;
        // The larger lease is on disk before the tripwire is armed with it.
        until(|| watch.tripwire().limit(BudgetKind::Visible) > limit).await;
        watch.tripwire().limit(BudgetKind::Visible)
    };
    let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
    let release = rig.release("shop-1").await;
    assert_eq!(
        (release.phase, release.step, release.weight),
        (Phase::Progressing, 2, 50.0)
    );
    assert_eq!(rig.green(), 50.0);
    assert!(
        release.budget.spent >= u64::from(spent),
        "{:?} {spent}",
        release.budget
    );
    assert!(release.canary_requests > 0, "earlier evidence still counts");
    let watch = rig.watch().unwrap();
    assert!(
        watch.tripwire().limit(BudgetKind::Visible) > watch.tripwire().spent(BudgetKind::Visible),
        "armed before the first request"
    );
    rig.roll_back().await.unwrap().unwrap();
    assert_eq!(rig.green(), 0.0);
}

#[tokio::test]
async fn an_ended_release_is_shown_after_a_restart_and_moves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    {
        let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let _worker = prompt_worker(&rig.links.publisher);
        rig.begin().await;
        rig.traffic(200, Duration::from_millis(400), true).await;
        rig.phase("shop-1", Phase::RolledBack).await;
        until(|| {
            rig.links
                .publisher
                .current()
                .table
                .service("shop")
                .unwrap()
                .watch
                .is_none()
        })
        .await;
        // Durable: the reply of a change that is queued behind it.
        rig.put(0.0).await.unwrap().unwrap();
    }
    let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
    assert_eq!(rig.green(), 0.0);
    let release = rig.release("shop-1").await;
    assert_eq!(release.phase, Phase::RolledBack);
    let all = rig.links.handle.releases("shop", 10).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(rig.shop().await.release, None);
}

#[tokio::test]
async fn results_learned_after_the_end_of_a_release_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let shown = {
        let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let _worker = prompt_worker(&rig.links.publisher);
        rig.begin().await;
        let watch = rig.watch().unwrap();
        rig.traffic(50, Duration::from_millis(500), false).await;
        let rolled_back = rig
            .verb("shop-1", ReleaseVerb::RollBack)
            .await
            .unwrap()
            .release;
        assert_eq!(
            (rolled_back.rescued, rolled_back.user_visible_failures),
            (0, 0)
        );
        // Requests that were on the canary when it ended: one failed over, one visible to its user.
        watch.add_rescued();
        let half = crate::model::Weight::from_percent(50.0).unwrap();
        watch.tripwire().spend(BudgetKind::Visible, half, half);
        rig.clock.advance(Duration::from_secs(60));
        // After the next one only the store knows it, once its last requests have ended.
        let rescued = || {
            rig.links
                .handle
                .metrics()
                .render()
                .contains("rescues_total{service=\"shop\"} 1")
        };
        until(rescued).await;
        rig.begin().await;
        rig.verb("shop-2", ReleaseVerb::Cancel).await.unwrap();
        rig.clock.advance(Duration::from_secs(60));
        rig.begin().await;
        rig.release("shop-1").await
    };
    assert_eq!((shown.rescued, shown.user_visible_failures), (1, 1));
    assert_eq!(shown.outcome.as_ref().unwrap().verdict, "rolled_back");
    let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
    assert_eq!(rig.release("shop-1").await, shown);
    assert_eq!(
        rig.links.handle.evidence("shop-1").await.unwrap().release,
        shown
    );
}

#[tokio::test]
async fn an_orderly_shutdown_returns_unspent_leases() {
    let directory = tempfile::tempdir().unwrap();
    for in_order in [false, true] {
        let mut rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let before = match rig.shop().await.release {
            Some(id) => rig.release(&id).await.budget.spent,
            None => {
                let _worker = prompt_worker(&rig.links.publisher);
                rig.begin().await.budget.spent
            }
        };
        if in_order {
            rig.stop().await;
        }
        drop(rig);
        let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let after = rig.release("shop-1").await.budget.spent;
        if in_order {
            assert_eq!(after, before);
        } else {
            assert!(
                after > before,
                "leases count as spent after a kill: {before} {after}"
            );
        }
    }
}

#[tokio::test]
async fn a_release_that_cannot_resume_is_rolled_back_with_its_last_known_state() {
    let directory = tempfile::tempdir().unwrap();
    let before = {
        let mut rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let _worker = prompt_worker(&rig.links.publisher);
        rig.begin().await;
        rig.traffic(50, Duration::from_millis(500), false).await;
        rig.watch().unwrap().add_rescued();
        let before = rig.release("shop-1").await;
        rig.stop().await;
        before
    };
    assert_eq!((before.phase, before.rescued), (Phase::Progressing, 1));
    // Statistics by key and without keys cannot be mixed.
    let mut sticky = spec("shop", 0.0);
    sticky.sticky = Some(crate::model::Sticky::ClientIp);
    for _ in 0..2 {
        let rig = Rig::open(directory.path(), vec![sticky.clone()]).await;
        let after = rig.release("shop-1").await;
        assert_eq!(
            (after.phase, after.weight, rig.green()),
            (Phase::RolledBack, 0.0, 0.0)
        );
        let outcome = after.outcome.unwrap();
        assert!(outcome.reason.contains("sticky"));
        assert_eq!(
            outcome.objective.as_deref(),
            Some("restart"),
            "no objective decided it"
        );
        assert!(
            after.budget.spent >= after.user_visible_failures,
            "{:?}",
            after.budget
        );
        assert!(after.ended_at.is_some());
        assert_eq!(
            (after.rescued, after.canary_requests),
            (1, before.canary_requests)
        );
        let bundle = rig.links.handle.evidence("shop-1").await.unwrap();
        let last = bundle.timeline.last().unwrap();
        assert_eq!((&*last.action, last.weight), ("release_rolled_back", 0.0));
        assert!(
            last.detail.contains("sticky") && bundle.timeline.len() > 1,
            "{:?}",
            bundle.timeline
        );
        assert!(
            bundle.judge["canary"]["requests"].as_u64() > Some(0),
            "{}",
            bundle.judge
        );
        // Durable: the reply of a change that is queued behind it.
        rig.put(0.0).await.unwrap().unwrap();
        let actions = rig.actions().await;
        let abandoned = actions
            .iter()
            .filter(|action| *action == "release_abandoned");
        assert_eq!(abandoned.count(), 1, "{actions:?}");
    }
}

#[tokio::test]
async fn leased_failures_of_a_killed_process_count_as_seen_and_are_reported_as_such() {
    let directory = tempfile::tempdir().unwrap();
    {
        let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let _worker = prompt_worker(&rig.links.publisher);
        rig.begin().await;
    }
    let mut spent = 0;
    for _ in 0..20 {
        let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let _worker = prompt_worker(&rig.links.publisher);
        let mut release = rig.release("shop-1").await;
        if release.budget.spent == 23 {
            release = rig.phase("shop-1", Phase::RolledBack).await;
        }
        assert_eq!(release.user_visible_failures, 0);
        if let Some(outcome) = release.outcome {
            assert_eq!(outcome.objective.as_deref(), Some("budget"));
            let shown = "users have seen 0 failures of the canary, and 23 more are counted \
                        because a killed process lost its last counts";
            assert!(outcome.reason.starts_with(shown), "{}", outcome.reason);
            return;
        }
        assert!(release.budget.spent >= spent);
        spent = release.budget.spent;
    }
    panic!("it never ended");
}

#[tokio::test]
async fn a_release_that_has_not_begun_has_spent_nothing_after_any_exit() {
    let directory = tempfile::tempdir().unwrap();
    {
        let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let later = api::ReleaseStart {
            start_at: Some("2999-01-01T00:00:00Z".to_owned()),
            ..start(quick())
        };
        let started = rig
            .links
            .handle
            .start_release("shop", later, intent(None))
            .await;
        assert_eq!(started.unwrap().release.phase, Phase::Pending);
    }
    for _ in 0..3 {
        let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let release = rig.release("shop-1").await;
        assert_eq!((release.phase, release.budget.spent), (Phase::Pending, 0));
    }
}

/// A process that is killed between commit and response.
#[tokio::test]
async fn the_response_to_a_change_is_committed_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let by = |key: &str| Intent {
        idempotency: Some(crate::model::IdempotencyKey {
            caller: "alice".to_owned(),
            key: key.to_owned(),
            request: "00".to_owned(),
        }),
        ..intent(None)
    };
    let revisions = {
        let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
        let _worker = prompt_worker(&rig.links.publisher);
        let handle = &rig.links.handle;
        let set = handle
            .set_weights("shop", to(10.0), by("set"))
            .await
            .unwrap();
        let back = handle.rollback("shop", by("back")).await.unwrap();
        let begun = handle
            .start_release("shop", start(quick()), by("begin"))
            .await
            .unwrap();
        [set.service.revision, back.service.revision, begun.revision]
    };
    let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
    let answers = rig.links.handle.take_answers();
    let kept: Vec<u64> = answers.iter().map(|answer| answer.revision).collect();
    assert_eq!((kept.len(), &kept[..2]), (3, &revisions[..2]));
    assert!(
        kept[2] <= revisions[2],
        "the release may have advanced since: {kept:?}"
    );
    let bodies: Vec<serde_json::Value> = answers
        .iter()
        .map(|answer| serde_json::from_str(&answer.body).unwrap())
        .collect();
    assert_eq!(bodies[0]["weights"]["effective"]["green"], 10.0);
    assert_eq!(bodies[1]["weights"]["effective"]["green"], 0.0);
    assert_eq!(bodies[2]["id"], "shop-1");
    assert!(
        bodies.iter().all(|body| body["durable"] == true),
        "{bodies:?}"
    );
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 201]);
    assert_eq!(
        answers[2].location.as_deref(),
        Some("/api/v1/releases/shop-1")
    );
}

#[tokio::test]
async fn a_restart_restores_sticky_users_and_their_failures() {
    let directory = tempfile::tempdir().unwrap();
    let mut sticky = spec("shop", 0.0);
    sticky.sticky = Some(crate::model::Sticky::ClientIp);
    let of_users = |release: &api::Release| {
        let errors = &release.objectives[0];
        assert_eq!(errors["unit"], "user", "{errors}");
        (errors["canary"].clone(), errors["baseline"].clone())
    };
    let mut before = None;
    for _ in 0..2 {
        let mut rig = Rig::open(directory.path(), vec![sticky.clone()]).await;
        let _worker = prompt_worker(&rig.links.publisher);
        if before.is_none() {
            rig.begin().await;
        }
        // Two of ten users are on the canary, and one of them fails: the same users each time.
        rig.traffic_at(2_000, 4, Duration::from_millis(40), true)
            .await;
        rig.traffic_at(2_000, 10, Duration::from_millis(100), false)
            .await;
        let seen = of_users(&rig.release("shop-1").await);
        if let Some(before) = before.replace(seen.clone()) {
            assert_eq!(seen, before);
        }
        assert_eq!(
            (&seen.0["requests"], &seen.0["failures"]),
            (&json!(2), &json!(1))
        );
        rig.stop().await;
    }
}

#[tokio::test]
async fn failures_faster_than_the_disk_stop_the_canary_for_a_while_and_do_not_roll_it_back() {
    let disk = disk::Disk::default();
    let (store, loaded) = disk.load();
    let rig = Rig::with(store, loaded, vec![spec("shop", 0.0)], TIMING);
    let _worker = prompt_worker(&rig.links.publisher);
    rig.begin().await;
    rig.traffic(50, Duration::from_millis(500), false).await;
    let watch = rig.watch().unwrap();
    let wire = watch.tripwire();
    let half = crate::model::Weight::from_percent(50.0).unwrap();
    let of_all = BudgetKind::All;
    let budget = rig.release("shop-1").await.rescued_budget;
    let justified = u32::try_from(budget.spent + budget.allowance).unwrap();

    disk.set_slow(true);
    let leased = wire.limit(of_all);
    assert!(leased < justified, "{leased} {justified}");
    (wire.spent(of_all)..leased + 2).for_each(|_| assert!(!wire.spend(of_all, half, half)));
    assert!(
        watch.enter().is_none(),
        "no request while the disk is behind"
    );
    rig.traffic(10, Duration::from_millis(100), false).await;
    assert!(watch.enter().is_none() && !wire.is_tripped());

    disk.set_slow(false);
    until(|| watch.enter().is_some()).await;
    // A process killed now restarts with all of it spent.
    let recorded = wire.limit(of_all);
    assert!(recorded > leased + 2);
    let release = rig.release("shop-1").await;
    assert_ne!(release.phase, Phase::RolledBack, "{release:?}");
    drop(rig);
    let (store, loaded) = disk.load();
    let again = Rig::with(store, loaded, vec![spec("shop", 0.0)], TIMING);
    let spent = again.release("shop-1").await.rescued_budget.spent;
    assert!(spent >= u64::from(leased) + 2, "{spent} of {leased}");
    // The justified allowance still removes it.
    let watch = again.watch().unwrap();
    let mut failures = 0;
    while !watch.tripwire().spend(of_all, half, half) {
        failures += 1;
        assert!(failures < 2 * justified);
    }
}
