//! Weights, baselines and rollbacks of one service.

use super::super::testing::{spec, weights};
use super::*;

fn state(green: f64) -> ServiceState {
    ServiceState::declared(&spec("shop", green), "t0")
}

fn to(state: &ServiceState, given: &[(&str, f64)]) -> ServiceState {
    state.with_weights(weights(given), state.revision + 1, "t", None)
}

fn back(state: &ServiceState) -> ServiceState {
    state.rolled_back(state.revision + 1, "t", None)
}

fn summary(state: &ServiceState) -> (f64, &str, Option<&str>, u64) {
    let green = state.weights.get("green").unwrap().percent();
    (
        green,
        &state.baseline,
        state.previous_baseline.as_deref(),
        state.generation,
    )
}

const BLUE: &[(&str, f64)] = &[("blue", 100.0), ("green", 0.0)];
const SPLIT: &[(&str, f64)] = &[("blue", 50.0), ("green", 50.0)];
const GREEN: &[(&str, f64)] = &[("blue", 0.0), ("green", 100.0)];

#[test]
fn a_rollback_returns_to_the_baseline_and_repeating_it_changes_nothing() {
    let canary = to(&state(0.0), SPLIT);
    assert_eq!(summary(&canary), (50.0, "blue", None, 1));
    let once = back(&canary);
    assert_eq!(summary(&once), (0.0, "blue", None, 1));
    assert_eq!(summary(&back(&once)), (0.0, "blue", None, 1));
    assert_eq!(back(&once).revision, 4);
    // Unchanged weights keep the time at which they were set, even when they are requested
    // again.
    let again = once.with_weights(
        once.weights.clone(),
        9,
        "later",
        Some("once more".to_owned()),
    );
    assert_eq!(
        (again.since, again.reason.as_deref()),
        (once.since, Some("once more"))
    );
}

#[test]
fn a_rollback_after_a_promotion_returns_to_the_previous_baseline_once() {
    let promoted = to(&to(&state(0.0), SPLIT), GREEN);
    assert_eq!(summary(&promoted), (100.0, "green", Some("blue"), 1));
    let once = back(&promoted);
    assert_eq!(summary(&once), (0.0, "blue", None, 1));
    assert_eq!(summary(&back(&once)), (0.0, "blue", None, 1));
}

#[test]
fn a_previous_baseline_that_gets_weight_again_is_a_canary() {
    let promoted = to(&state(0.0), GREEN);
    let next = to(&promoted, SPLIT);
    assert_eq!(summary(&next), (50.0, "green", None, 1));
    assert_eq!(summary(&back(&next)), (100.0, "green", None, 1));
    assert_eq!(summary(&back(&back(&next))), (100.0, "green", None, 1));
    assert_eq!(summary(&to(&next, BLUE)), (0.0, "blue", Some("green"), 1));
}

#[test]
fn a_safe_change_shrinks_others_and_grows_the_baseline() {
    let canary = to(&state(0.0), SPLIT);
    let towards = |green: f64| {
        canary.is_towards_baseline(&weights(&[("blue", 100.0 - green), ("green", green)]))
    };
    assert_eq!(
        [0.0, 49.99, 50.0, 50.01, 100.0].map(towards),
        [true, true, true, false, false]
    );
}

#[test]
fn stored_state_is_adapted_to_a_new_declaration() {
    let canary = to(&state(0.0), SPLIT);
    let record = canary.record("shop");
    assert_eq!(
        ServiceState::resumed(&spec("shop", 0.0), &record, "t1"),
        (canary.clone(), None)
    );

    let mut renamed = spec("shop", 0.0);
    renamed.upstreams[1].name = Name::from("red");
    renamed.weights = Weights::all_on(renamed.upstreams.iter().map(|u| &u.name), "red").unwrap();
    let (inherited, warning) = ServiceState::resumed(&renamed, &record, "t1");
    assert_eq!(
        (
            inherited.weights.sole_upstream(),
            &*inherited.baseline,
            inherited.revision
        ),
        (Some(&Name::from("blue")), "blue", canary.revision + 1)
    );
    assert_eq!(
        warning.unwrap(),
        "green, which had 50 % of the traffic, was removed: its traffic goes to the baseline, blue"
    );
    let mut other = renamed.clone();
    other.upstreams[0].name = Name::from("gold");
    other.weights = Weights::all_on(other.upstreams.iter().map(|u| &u.name), "red").unwrap();
    let (declared, warning) = ServiceState::resumed(&other, &record, "t1");
    assert_eq!(
        (&*declared.baseline, declared.revision),
        ("red", canary.revision + 1)
    );
    assert!(
        warning
            .unwrap()
            .ends_with("and so was the baseline, blue: the weights in the configuration apply")
    );
    assert!(
        canary
            .conformed(&renamed)
            .unwrap_err()
            .to_string()
            .contains("green")
    );
    let kept = back(&canary).conformed(&renamed).unwrap();
    assert_eq!(
        kept.weights
            .iter()
            .map(|(name, _)| &**name)
            .collect::<Vec<_>>(),
        ["blue", "red"]
    );
    assert_eq!(
        (kept.weights.sole_upstream(), kept.revision),
        (Some(&Name::from("blue")), canary.revision + 1)
    );
}

#[test]
fn every_invalid_weight_is_reported() {
    let check = |given: &[(&str, f64)]| {
        let given = given
            .iter()
            .map(|(name, percent)| ((*name).to_owned(), *percent))
            .collect();
        let problems = parse(&spec("shop", 0.0), &given).unwrap_err();
        problems
            .into_iter()
            .map(|problem| problem.pointer)
            .collect::<Vec<_>>()
    };
    assert_eq!(check(&[("blue", 99.0)]), ["/weights"]);
    assert_eq!(
        check(&[("blue", f64::NAN), ("green", 0.001)]),
        ["/weights/blue", "/weights/green"]
    );
    assert_eq!(
        check(&[("a/b~", 0.0), ("blue", -1.0)]),
        ["/weights/a~1b~0", "/weights/blue"]
    );
}
