use std::time::Duration;

use super::*;
use crate::routing::testing::{service, weights};
use crate::routing::{ReleaseHandleSpec, RescuePolicy};
use crate::stats::ReleaseKey;

fn build(
    specs: &[ServiceSpec],
    keys: &mut KeyRegistry,
    previous: Option<&RoutingTable>,
) -> RoutingTable {
    let live = |name: &str| previous?.service(name).map(|service| service.live());
    RoutingTable::build(specs, live, keys, previous)
}

fn points(table: &RoutingTable, service: &str) -> Vec<u16> {
    let service = table.service(service).unwrap();
    let points: Vec<_> = service
        .upstreams
        .iter()
        .map(|upstream| upstream.weight.basis_points())
        .collect();
    assert_eq!(
        points,
        service
            .weights
            .iter()
            .map(|(_, weight)| weight.basis_points())
            .collect::<Vec<_>>()
    );
    points
}

/// A release of one upstream of a service against another.
fn watch(service: &RoutedService, baseline: &str, canary: &str) -> Arc<ReleaseHandle> {
    let key = |name: &str| service.upstream(name).unwrap().key;
    let spec = ReleaseHandleSpec {
        key: ReleaseKey(0),
        release: "shop-1".into(),
        baseline: key(baseline),
        baseline_name: baseline.into(),
        canary: key(canary),
        canary_name: canary.into(),
        sticky: false,
        rescue: RescuePolicy::Safe,
        in_flight_max: 1,
    };
    Arc::new(ReleaseHandle::new(spec, 0, 0))
}

fn checked(mut spec: ServiceSpec) -> ServiceSpec {
    spec.health = Some(Health {
        path: "/health".into(),
        host: None,
        panic: Weight::default(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        unhealthy_after: 1,
        healthy_after: 1,
    });
    spec
}

#[test]
fn reload_keeps_weights_counts_health_and_keys() {
    let mut keys = KeyRegistry::new();
    let old = [checked(service(
        "shop",
        &[("blue", 10_000, 2), ("green", 0, 1)],
    ))];
    let table = build(&old, &mut keys, None);
    let live = LiveState {
        weights: weights(&[("blue", 9_000), ("green", 1_000)]),
        ..table.service("shop").unwrap().live()
    };
    let table = table.with_weights("shop", &live).unwrap();
    let endpoint = Arc::clone(table.endpoints().next().unwrap());
    let table = table.with_health(endpoint.key, false).unwrap();
    let in_flight = endpoint.enter();

    let new = [
        service("other", &[("only", 10_000, 1)]),
        checked(service(
            "shop",
            &[("red", 0, 1), ("green", 10_000, 1), ("blue", 0, 3)],
        )),
    ];
    let next = build(&new, &mut keys, Some(&table));
    assert_eq!(points(&next, "shop"), [0, 1_000, 9_000]);
    let blue = next.service("shop").unwrap().upstream("blue").unwrap();
    assert_eq!(
        blue.key,
        table.service("shop").unwrap().upstream("blue").unwrap().key
    );
    assert_eq!(blue.endpoints[0].in_flight(), 1);
    drop(in_flight);
    assert_eq!(blue.endpoints[0].in_flight(), 0);
    assert_eq!((blue.endpoints.len(), blue.healthy.len()), (3, 2));
    assert!(!blue.is_healthy(endpoint.key));
    let (service_name, name) = keys.names(blue.key).unwrap();
    assert_eq!((&**service_name, &**name), ("shop", "blue"));

    let unchecked = [service("shop", &[("blue", 10_000, 2)])];
    let last = build(&unchecked, &mut keys, Some(&next));
    assert!(last.service("shop").unwrap().upstreams[0].is_healthy(endpoint.key));
}

#[test]
fn panic_mode_uses_all_endpoints_except_for_a_canary() {
    let mut spec = checked(service("shop", &[("blue", 9_000, 3), ("green", 1_000, 1)]));
    if let Some(health) = &mut spec.health {
        health.panic = Weight::from_percent(50.0).unwrap();
    }
    let mut table = build(&[spec], &mut KeyRegistry::new(), None);
    let usable = |table: &RoutingTable, name: &str| {
        table
            .service("shop")
            .unwrap()
            .upstream(name)
            .unwrap()
            .usable()
            .len()
    };
    let blue = table
        .service("shop")
        .unwrap()
        .upstream("blue")
        .unwrap()
        .endpoints
        .clone();
    for (endpoint, expected) in blue.iter().zip([2, 3, 3]) {
        table = table.with_health(endpoint.key, false).unwrap();
        assert_eq!(usable(&table, "blue"), expected);
    }
    let back = table
        .with_health(blue[0].key, true)
        .unwrap()
        .with_health(blue[1].key, true)
        .unwrap();
    assert_eq!(usable(&back, "blue"), 2);

    let green = table
        .service("shop")
        .unwrap()
        .upstream("green")
        .unwrap()
        .endpoints[0]
        .key;
    let table = table.with_health(green, false).unwrap();
    assert_eq!(usable(&table, "green"), 1);
    let live = LiveState {
        watch: Some(watch(table.service("shop").unwrap(), "blue", "green")),
        ..table.service("shop").unwrap().live()
    };
    let released = table.with_weights("shop", &live).unwrap();
    assert_eq!(
        (usable(&released, "green"), usable(&released, "blue")),
        (0, 3)
    );
}

#[test]
fn upstream_without_endpoints_fails_over_to_baseline() {
    let spec = checked(service(
        "shop",
        &[("blue", 8_000, 1), ("green", 1_000, 1), ("red", 1_000, 1)],
    ));
    let table = build(&[spec], &mut KeyRegistry::new(), None);
    let endpoint = |name: &str| {
        table
            .service("shop")
            .unwrap()
            .upstream(name)
            .unwrap()
            .endpoints[0]
            .key
    };
    let stands_in = |table: &RoutingTable, name: &str| {
        let service = table.service("shop").unwrap();
        service
            .failover_target(service.upstream(name).unwrap())
            .map(|upstream| upstream.name.to_string())
    };
    assert_eq!(stands_in(&table, "green"), None);
    let ill = table
        .with_health(endpoint("green"), false)
        .unwrap()
        .with_health(endpoint("red"), false)
        .unwrap();
    assert_eq!(
        (stands_in(&ill, "green"), stands_in(&ill, "blue")),
        (Some("blue".into()), None)
    );
    let live = LiveState {
        watch: Some(watch(ill.service("shop").unwrap(), "blue", "green")),
        ..ill.service("shop").unwrap().live()
    };
    let released = ill.with_weights("shop", &live).unwrap();
    assert_eq!(
        (stands_in(&released, "green"), stands_in(&released, "red")),
        (None, Some("blue".into()))
    );
    let none = ill.with_health(endpoint("blue"), false).unwrap();
    assert_eq!(stands_in(&none, "green"), None);
}

#[test]
fn baseline_without_endpoints_fails_over_to_canary() {
    let spec = checked(service(
        "shop",
        &[("blue", 8_000, 1), ("green", 1_000, 1), ("red", 1_000, 1)],
    ));
    let table = build(&[spec], &mut KeyRegistry::new(), None);
    let shop = Arc::clone(table.service("shop").unwrap());
    let endpoint = |name: &str| shop.upstream(name).unwrap().endpoints[0].key;
    let watch = watch(&shop, "blue", "green");
    let live = LiveState {
        watch: Some(Arc::clone(&watch)),
        ..shop.live()
    };
    let released = table.with_weights("shop", &live).unwrap();
    let answered = |table: &RoutingTable| -> Vec<u16> {
        let weights = table.service("shop").unwrap().effective_weights();
        weights
            .iter()
            .map(|(_, weight)| weight.basis_points())
            .collect()
    };
    let down = |table: &RoutingTable, name: &str| table.with_health(endpoint(name), false).unwrap();
    assert_eq!(answered(&released), [8_000, 1_000, 1_000]);
    assert_eq!(answered(&down(&released, "blue")), [0, 9_000, 1_000]);
    assert_eq!(
        answered(&down(&down(&released, "blue"), "red")),
        [0, 10_000, 0]
    );
    assert_eq!(
        answered(&down(&down(&released, "red"), "blue")),
        [0, 10_000, 0]
    );
    assert_eq!(answered(&down(&released, "red")), [9_000, 1_000, 0]);
    // No failover if both are down.
    let both = down(&down(&released, "blue"), "green");
    assert_eq!(answered(&both), [8_000, 1_000, 1_000]);
    assert!(both.service("shop").unwrap().is_baseline_down());
    // A canary without users of its own has no evidence, and a tripped one is removed.
    assert_eq!(answered(&down(&table, "blue")), [8_000, 1_000, 1_000]);
    let pending = LiveState {
        weights: weights(&[("blue", 9_000), ("green", 0), ("red", 1_000)]),
        ..live
    };
    let pending = released.with_weights("shop", &pending).unwrap();
    assert_eq!(answered(&down(&pending, "blue")), [9_000, 0, 1_000]);
    let both_up = down(&released, "blue");
    assert!(watch.tripwire().seal());
    assert_eq!(answered(&both_up), [8_000, 1_000, 1_000]);
}

#[test]
fn live_state_is_fitted_to_the_specification() {
    let live = LiveState {
        weights: weights(&[("blue", 7_000), ("green", 2_000), ("red", 1_000)]),
        baseline: "blue".into(),
        salt: 5,
        watch: None,
    };
    let fitted = |upstreams: &[(&str, u16, u16)]| {
        let live = live.clone().fitted(&service("shop", upstreams));
        let points: Vec<_> = live
            .weights
            .iter()
            .map(|(_, weight)| weight.basis_points())
            .collect();
        assert_eq!(live.salt, 5);
        (points, live.baseline.to_string())
    };
    assert_eq!(
        fitted(&[("blue", 10_000, 1), ("green", 0, 1), ("red", 0, 1)]),
        (vec![7_000, 2_000, 1_000], "blue".into())
    );
    assert_eq!(
        fitted(&[("green", 10_000, 1), ("blue", 0, 1)]),
        (vec![2_000, 8_000], "blue".into())
    );
    assert_eq!(
        fitted(&[("blue", 0, 1), ("new", 10_000, 1)]),
        (vec![10_000, 0], "blue".into())
    );
    assert_eq!(
        fitted(&[("green", 4_000, 1), ("new", 6_000, 1)]),
        (vec![4_000, 6_000], "new".into())
    );
}

#[test]
fn drained_upstream_moves_its_weight_to_the_baseline() {
    let specs = [service(
        "shop",
        &[("a", 1_000, 1), ("b", 7_000, 1), ("c", 2_000, 1)],
    )];
    let table = build(&specs, &mut KeyRegistry::new(), None);
    let key = |name| table.service("shop").unwrap().upstream(name).unwrap().key;
    let without = table.drained(key("c")).unwrap();
    assert_eq!(points(&without, "shop"), [1_000, 9_000, 0]);
    assert_eq!(points(&table, "shop"), [1_000, 7_000, 2_000]);
    assert!(without.drained(key("c")).is_none());
    assert!(table.drained(key("b")).is_none());
    assert!(table.drained(UpstreamKey(77)).is_none());
    let shop = without.service("shop").unwrap();
    assert!(
        (0..=u64::MAX)
            .step_by(1 << 48)
            .all(|draw| &*shop.pick(draw).unwrap().name != "c")
    );
}

#[test]
fn weights_must_match_the_upstreams_of_the_service() {
    let specs = [
        service("shop", &[("a", 10_000, 1), ("b", 0, 1)]),
        service("other", &[("a", 10_000, 1)]),
    ];
    let table = build(&specs, &mut KeyRegistry::new(), None);
    let live = |given: &[_]| LiveState {
        weights: weights(given),
        baseline: "a".into(),
        salt: 1,
        watch: None,
    };
    assert!(
        table
            .with_weights("shop", &live(&[("b", 0), ("a", 10_000)]))
            .is_none()
    );
    assert!(
        table
            .with_weights("none", &live(&[("a", 10_000)]))
            .is_none()
    );
    let next = table
        .with_weights("shop", &live(&[("a", 0), ("b", 10_000)]))
        .unwrap();
    assert_eq!(points(&next, "shop"), [0, 10_000]);
    assert!(Arc::ptr_eq(
        next.service("other").unwrap(),
        table.service("other").unwrap()
    ));
    let shop = next
        .route(None, "/", &Method::GET, &HeaderMap::new())
        .unwrap();
    assert_eq!(&*shop.pick(0).unwrap().name, "b");
    assert_eq!(&*shop.pick_key(b"user").unwrap().name, "b");
}
