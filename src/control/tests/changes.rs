//! Weights and rollbacks.

use super::*;

#[tokio::test(flavor = "current_thread")]
async fn the_reply_waits_until_all_workers_use_the_new_table() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let _prompt = prompt_worker(&rig.links.publisher);
    let slow = rig.links.publisher.register(Box::new(|| {}));
    let put = rig.put(12.5);
    until(|| rig.green() == 12.5).await;
    assert_eq!(rig.shop().await.weights.effective, to(12.5));
    assert!(!put.is_finished());
    slow.acknowledge(rig.links.publisher.current().revision);
    let applied = put.await.unwrap().unwrap();
    assert!(!applied.durable, "there is no disk");
    assert_eq!(applied.service, rig.shop().await);
    assert_eq!(applied.service.revision, 2);
    assert_eq!(
        (
            applied.service.baseline.as_str(),
            applied.service.weights.durable
        ),
        ("blue", false)
    );

    let back = rig.roll_back();
    until(|| rig.green() == 0.0).await;
    assert!(!back.is_finished());
    drop(slow);
    assert_eq!(back.await.unwrap().unwrap().service.revision, 3);
    assert_eq!(rig.actions().await, ["rollback", "weights", "start"]);
    let page = rig.links.handle.metrics().render();
    assert!(
        page.contains(r#"weighbridge_rollbacks_total{service="shop",reason="manual"} 1"#),
        "{page}"
    );
    assert!(
        page.contains(r#"weighbridge_upstream_weight_ratio{service="shop",upstream="blue"} 1"#),
        "{page}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn an_invalid_request_changes_nothing() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let handle = &rig.links.handle;
    let refused = handle
        .set_weights("shop", to(5.0), intent(Some(7)))
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            Refusal::Stale {
                expected: 7,
                current: 1
            }
        ),
        "{refused}"
    );
    let red = api::Percentages::from([("red".to_owned(), 100.0)]);
    let refused = handle
        .set_weights("shop", red, intent(None))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, Refusal::Invalid(problems) if problems[0].pointer == "/weights/red"),
        "{refused}"
    );
    let refused = handle.rollback("bank", intent(None)).await.unwrap_err();
    assert!(matches!(refused, Refusal::UnknownService(_)), "{refused}");
    let refused = handle.rollback("shop", intent(Some(7))).await.unwrap_err();
    assert!(matches!(refused, Refusal::Stale { .. }), "{refused}");
    assert_eq!((rig.green(), rig.shop().await.revision), (0.0, 1));
    // Equal weights are accepted as a change.
    assert_eq!(
        handle
            .set_weights("shop", to(0.0), intent(Some(1)))
            .await
            .unwrap()
            .service
            .revision,
        2
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_away_from_the_baseline_is_refused_if_its_commit_fails() {
    let (rig, gate) = gated(TIMING).await;
    let put = rig.put(5.0);
    until(|| gate.begun() == 2).await;
    let shop = rig.shop().await;
    assert_eq!(
        (&shop.weights.intended, &shop.weights.effective),
        (&to(5.0), &to(0.0))
    );
    gate.pass(false);
    let refused = put.await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, Refusal::Store(reason) if reason.contains("full")),
        "{refused}"
    );
    let shop = rig.shop().await;
    assert_eq!(
        (&shop.weights.intended, shop.revision, rig.green()),
        (&to(0.0), 1, 0.0)
    );
    gate.pass(true);
    assert!(rig.put(5.0).await.unwrap().unwrap().durable);
    assert_eq!((rig.green(), rig.shop().await.revision), (5.0, 2));
}

#[tokio::test(flavor = "current_thread")]
async fn a_rollback_supersedes_a_change_that_is_stalled_in_the_store() {
    let (rig, gate) = gated(TIMING).await;
    gate.pass(true);
    rig.put(5.0).await.unwrap().unwrap();
    let away = rig.put(50.0);
    until(|| gate.begun() == 3).await;
    let waits = rig.put(60.0);
    // The store hangs, and the rollback is in effect all the same.
    let back = rig.roll_back();
    until(|| rig.green() == 0.0).await;
    for overtaken in [away, waits] {
        assert!(matches!(overtaken.await.unwrap(), Err(Refusal::Overtaken)));
    }
    assert!(!back.is_finished());
    let shop = rig.shop().await;
    assert_eq!((shop.revision, shop.weights.durable), (4, false));
    assert_eq!(shop.weights.intended, to(0.0));
    gate.pass(true);
    gate.pass(true);
    assert!(back.await.unwrap().unwrap().durable);
    // The commit in progress is written, and then the state in effect.
    let written = gate.written();
    assert_eq!(
        written[2..],
        [("weights".to_owned(), 50.0), ("rollback".to_owned(), 0.0)]
    );
    assert!(rig.shop().await.weights.durable);
}

#[tokio::test(flavor = "current_thread")]
async fn a_rollback_is_reported_as_not_durable_and_written_later() {
    let impatient = Timing {
        durable_within: Duration::from_millis(1),
        ..TIMING
    };
    let (rig, gate) = gated(impatient).await;
    gate.pass(true);
    rig.put(5.0).await.unwrap().unwrap();
    let applied = rig.roll_back().await.unwrap().unwrap();
    assert!(!applied.durable && !applied.service.weights.durable);
    assert_eq!(rig.green(), 0.0);
    // A failed attempt is retried.
    gate.pass(false);
    until(|| gate.begun() == 4).await;
    assert!(!rig.shop().await.weights.durable);
    // A change away from the baseline behind it is refused too.
    let refused = rig.put(5.0);
    tokio::task::yield_now().await;
    rig.shop().await;
    gate.pass(false);
    assert!(matches!(refused.await.unwrap(), Err(Refusal::Store(_))));
    gate.pass(true);
    until(|| gate.written().len() == 3).await;
    while !rig.shop().await.weights.durable {}
    assert_eq!(gate.written()[2], ("rollback".to_owned(), 0.0));
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_whose_commit_times_out_is_refused_and_undone() {
    let timing = Timing {
        commit_within: Duration::from_secs(5),
        ..TIMING
    };
    let (rig, gate) = gated(timing).await;
    let away = rig.put(50.0);
    until(|| gate.begun() == 2).await;
    rig.clock.advance(Duration::from_secs(5));
    assert!(matches!(away.await.unwrap(), Err(Refusal::Store(_))));
    assert_eq!(rig.green(), 0.0);
    gate.pass(true);
    gate.pass(true);
    until(|| gate.written().len() == 3).await;
    assert_eq!(
        gate.written()[1..],
        [("weights".to_owned(), 50.0), ("undo".to_owned(), 0.0)]
    );
    while !rig.shop().await.weights.durable {}
}

#[tokio::test(flavor = "current_thread")]
async fn changes_are_ordered_per_service() {
    let (gate, store) = Gate::new();
    gate.pass(true);
    let rig = Rig::new(store, vec![spec("shop", 0.0), spec("bank", 0.0)]);
    until(|| gate.written().len() == 1).await;
    let puts = [10.0, 20.0, 30.0].map(|green| rig.put(green));
    until(|| gate.begun() == 2).await;
    rig.shop().await;
    assert_eq!(rig.shop().await.weights.intended, to(10.0));
    let bank = rig.links.handle.rollback("bank", intent(None));
    [true; 4].into_iter().for_each(|works| gate.pass(works));
    assert!(bank.await.unwrap().durable);
    let mut revisions = Vec::new();
    for put in puts {
        revisions.push(put.await.unwrap().unwrap().service.revision);
    }
    assert_eq!((revisions.last(), rig.green()), (Some(&4), 30.0));
}
