//! Start, reloads, reports of workers and health checkers, and shutdown.

use super::*;

#[tokio::test(flavor = "current_thread")]
async fn weights_survive_a_killed_process() {
    let directory = tempfile::tempdir().unwrap();
    let rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
    for green in [5.0, 25.0, 100.0, 30.25] {
        assert!(rig.put(green).await.unwrap().unwrap().durable);
    }
    let before = rig.shop().await;
    assert_eq!(before.baseline, "green");
    drop(rig);

    // The configuration has other weights, which no longer apply.
    let rig = Rig::open(directory.path(), vec![spec("shop", 50.0)]).await;
    assert_eq!(rig.shop().await, before);
    assert_eq!(rig.green(), 30.25);
    assert!(rig.roll_back().await.unwrap().unwrap().durable);
    assert_eq!(rig.green(), 100.0);
    assert_eq!(
        rig.actions().await,
        [
            "rollback", "weights", "weights", "weights", "weights", "start"
        ]
    );
    drop(rig);

    // The canary was removed: the baseline gets its traffic, whatever the configuration says, and
    // an event reports it.
    let rig = Rig::open(directory.path(), vec![spec("shop", 50.0)]).await;
    rig.put(95.0).await.unwrap().unwrap();
    drop(rig);
    let mut other = spec("shop", 0.0);
    other.upstreams[0].name = Name::from("red");
    other.weights =
        crate::model::Weights::all_on(other.upstreams.iter().map(|u| &u.name), "red").unwrap();
    let rig = Rig::open(directory.path(), vec![other]).await;
    let shop = rig.shop().await;
    assert_eq!((shop.baseline.as_str(), rig.green()), ("green", 100.0));
    let newest = rig.newest_entry().await;
    let reason = newest.reason.unwrap();
    assert!(
        reason.contains("blue, which had 5 % of the traffic, was removed"),
        "{reason}"
    );
    let before = shop;
    drop(rig);

    // So was the baseline: the configuration's weights apply.
    let mut other = spec("shop", 0.0);
    other.upstreams[1].name = Name::from("red");
    other.weights =
        crate::model::Weights::all_on(other.upstreams.iter().map(|u| &u.name), "red").unwrap();
    let rig = Rig::open(directory.path(), vec![other]).await;
    let shop = rig.shop().await;
    assert_eq!(
        (shop.baseline.as_str(), shop.revision),
        ("red", before.revision + 1)
    );
    let newest = rig.newest_entry().await;
    assert!(
        newest.action == "start" && newest.reason.as_ref().unwrap().contains("green"),
        "{newest:?}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_reload_changes_the_configuration_and_moves_no_traffic() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0), spec("bank", 0.0)]);
    let handle = &rig.links.handle;
    rig.put(25.0).await.unwrap().unwrap();
    let (_, mut events) = handle.events(None);

    let mut three = spec("shop", 0.0);
    let mut red = three.upstreams[0].clone();
    red.name = Name::from("red");
    three.upstreams.push(red);
    three.weights =
        crate::model::Weights::all_on(three.upstreams.iter().map(|u| &u.name), "red").unwrap();
    let said = handle
        .reload(vec![three.clone(), spec("cafe", 10.0)], "signal")
        .await
        .unwrap();
    assert_eq!(said, "added: cafe; changed: shop; removed: bank");
    let shop = rig.shop().await;
    assert_eq!(shop.weights.intended["red"], 0.0);
    assert_eq!((rig.green(), shop.revision), (25.0, 2));
    assert!(matches!(
        handle.service("bank"),
        Err(Refusal::UnknownService(_))
    ));
    assert_eq!(handle.service("cafe").unwrap().weights.effective, to(10.0));
    assert!(!handle.metrics().render().contains("bank"));
    let event = events.recv().await.unwrap().kind;
    assert_eq!(
        event,
        api::EventKind::Reload {
            ok: true,
            detail: said
        }
    );

    // An upstream with traffic stays.
    three.upstreams.remove(1);
    let refused = handle
        .reload(vec![three.clone()], "file")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("service shop: upstream green gets 25 % of the traffic"),
        "{refused}"
    );
    assert_eq!(rig.green(), 25.0);
    assert!(
        handle
            .metrics()
            .render()
            .contains("weighbridge_config_last_reload_successful 0")
    );

    // A service that returns has its old weights.
    rig.roll_back().await.unwrap().unwrap();
    handle
        .reload(vec![three, spec("bank", 99.0)], "file")
        .await
        .unwrap();
    assert_eq!(handle.service("bank").unwrap().weights.effective, to(0.0));
    assert_eq!(
        rig.shop()
            .await
            .weights
            .effective
            .keys()
            .collect::<Vec<_>>(),
        ["blue", "red"]
    );
    assert_eq!(
        rig.actions().await,
        ["reload", "rollback", "reload", "weights", "start"]
    );
}

#[tokio::test(flavor = "current_thread")]
async fn the_table_has_the_services_in_declaration_order() {
    let rig = Rig::new(memory(), vec![spec("zoo", 0.0), spec("bank", 0.0)]);
    let order = || {
        let current = rig.links.publisher.current();
        current
            .table
            .services()
            .map(|service| service.name.to_string())
            .collect::<Vec<_>>()
    };
    rig.links.handle.service("zoo").unwrap();
    assert_eq!(order(), ["zoo", "bank"]);
    let reload = |specs| rig.links.handle.reload(specs, "file");
    let same = reload(vec![spec("zoo", 0.0), spec("bank", 0.0)])
        .await
        .unwrap();
    assert_eq!(same, "nothing changed");
    let turned = reload(vec![spec("bank", 0.0), spec("zoo", 0.0)])
        .await
        .unwrap();
    assert_eq!(turned, "in this order: bank, zoo");
    assert_eq!(order(), ["bank", "zoo"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_reload_that_removes_the_baseline_creates_a_revision() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(directory.path(), vec![spec("shop", 0.0)]).await;
    let _worker = prompt_worker(&rig.links.publisher);
    // Blue is the rollback target and has no traffic now.
    rig.put(100.0).await.unwrap().unwrap();
    let before = rig.shop().await;
    assert_eq!((&*before.baseline, before.revision), ("green", 2));
    let mut green = spec("shop", 0.0);
    green.upstreams.remove(0);
    green.weights =
        crate::model::Weights::all_on(green.upstreams.iter().map(|u| &u.name), "green").unwrap();
    green.baseline = None;
    rig.links
        .handle
        .reload(vec![green.clone()], "file")
        .await
        .unwrap();
    assert_eq!(rig.shop().await.revision, 3);
    rig.links
        .handle
        .reload(vec![green.clone()], "file")
        .await
        .unwrap();
    assert_eq!(rig.shop().await.revision, 3, "nothing changed");
    rig.stop().await;
    let rig = Rig::open(directory.path(), vec![green]).await;
    assert_eq!(rig.shop().await.revision, 3);
}

#[tokio::test(flavor = "current_thread")]
async fn a_reload_applies_to_pending_changes() {
    let (rig, gate) = gated(TIMING).await;
    let away = rig.put(50.0);
    until(|| gate.begun() == 2).await;
    let mut blue = spec("shop", 0.0);
    blue.upstreams.truncate(1);
    blue.weights =
        crate::model::Weights::all_on(blue.upstreams.iter().map(|u| &u.name), "blue").unwrap();
    let refused = rig
        .links
        .handle
        .reload(vec![blue], "file")
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("green gets 50 %"), "{refused}");
    let mut three = spec("shop", 0.0);
    let mut red = three.upstreams[0].clone();
    red.name = Name::from("red");
    three.upstreams.insert(0, red);
    three.weights =
        crate::model::Weights::all_on(three.upstreams.iter().map(|u| &u.name), "red").unwrap();
    rig.links.handle.reload(vec![three], "file").await.unwrap();
    gate.pass(true);
    gate.pass(true);
    assert_eq!(
        away.await.unwrap().unwrap().service.weights.effective["green"],
        50.0
    );
    assert_eq!(rig.green(), 50.0);
}

#[tokio::test(flavor = "current_thread")]
async fn worker_counters_reach_windows_metrics_and_events() {
    let rig = Rig::new(memory(), vec![spec("shop", 0.0)]);
    let (_, mut events) = rig.links.handle.events(None);
    let key = rig
        .links
        .publisher
        .current()
        .table
        .service("shop")
        .unwrap()
        .upstreams[1]
        .key;
    let send = async |count: u64| {
        let mut recorder = Recorder::new(0);
        for _ in 0..count {
            recorder.record(
                key,
                &Outcome {
                    class: Class::ServerError,
                    first_byte_us: Some(1),
                    total_us: 2000,
                },
            );
            let labels = RequestLabels {
                listener: 0,
                upstream: Some(key),
                method: MethodLabel::Get,
                status: 500,
            };
            recorder.count(labels);
        }
        recorder.reject(Some(0), None, Reason::NoRoute);
        rig.links.batches.send(recorder.take(None)).await.unwrap();
    };
    send(3).await;
    let event = events.recv().await.unwrap().kind;
    let api::EventKind::Statistics { service, upstreams } = event else {
        panic!("{event:?}");
    };
    assert_eq!(
        (
            service.as_str(),
            upstreams["green"].failures,
            upstreams["blue"].requests
        ),
        ("shop", 3, 0)
    );
    let green = |shop: api::Service, window: &str| shop.upstreams["green"].windows[window].requests;
    assert_eq!(green(rig.shop().await, "since_change"), 3);
    rig.put(5.0).await.unwrap().unwrap();
    assert_eq!(green(rig.shop().await, "since_change"), 0);
    assert_eq!(green(rig.shop().await, "5m"), 3);
    let page = rig.links.handle.metrics().render();
    for line in [
        concat!(
            r#"weighbridge_http_requests_total{listener="web",service="shop","#,
            r#"upstream="green",method="GET",code="500"} 3"#
        ),
        r#"weighbridge_upstream_failures_total{service="shop",upstream="green",reason="5xx"} 3"#,
        r#"weighbridge_http_errors_total{listener="web",reason="no_route"} 1"#,
        r#"weighbridge_http_request_duration_seconds_count{service="shop",upstream="green"} 3"#,
    ] {
        assert!(
            page.lines().any(|have| have == line),
            "no {line} in\n{page}"
        );
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_health_change_is_published_and_reported_once() {
    let rig = Rig::new(memory(), vec![checked()]);
    let (_, mut events) = rig.links.handle.events(None);
    let endpoint = rig
        .links
        .publisher
        .current()
        .table
        .endpoints()
        .next()
        .unwrap()
        .key;
    for healthy in [false, false, true] {
        let detail = "connection refused".to_owned();
        rig.links
            .health
            .send(HealthEvent {
                endpoint,
                healthy,
                detail,
            })
            .await
            .unwrap();
    }
    for expected in [false, true] {
        let event = events.recv().await.unwrap().kind;
        let api::EventKind::Health {
            service,
            upstream,
            endpoint,
            healthy,
            ..
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(
            (&*service, &*upstream, &*endpoint, healthy),
            ("shop", "blue", "127.0.0.1:1", expected)
        );
    }
    assert!(rig.shop().await.upstreams["blue"].endpoints[0].healthy);
    let line =
        r#"weighbridge_endpoint_healthy{service="shop",upstream="blue",endpoint="127.0.0.1:1"} 1"#;
    assert!(rig.links.handle.metrics().render().contains(line));
}

#[tokio::test(flavor = "current_thread")]
async fn shutdown_waits_for_the_disk_and_then_refuses_commands() {
    let (gate, store) = Gate::new();
    let (controller, links) = Controller::new(Setup {
        preflighter: Arc::new(|_, _, _| Box::pin(async { Ok(()) })),
        approvals: true,
        services: vec![spec("shop", 0.0)],
        listeners: Vec::new(),
        workers: 1,
        store,
        loaded: LoadedState::default(),
        clock: Arc::new(ManualClock::default()),
    });
    assert_eq!(links.handle.readiness(), Readiness::Ready);
    let run = tokio::spawn(controller.run(std::future::ready(())));
    until(|| gate.begun() == 1).await;
    assert!(!run.is_finished());
    gate.pass(true);
    run.await.unwrap();
    assert_eq!(gate.written().len(), 1);
    assert!(matches!(links.handle.services(), Err(Refusal::Stopped)));
    links.handle.set_draining();
    links.handle.set_ready();
    assert_eq!(links.handle.readiness(), Readiness::Draining);
}
