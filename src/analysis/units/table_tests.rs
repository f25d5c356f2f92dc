//! The table of keys and its rows.

use super::super::keys::KEYS_MAX;
use super::*;

const SECOND: u64 = 1_000_000;
use Arm::{Baseline, Canary};

fn units() -> Units {
    Units::new(true, 10 * SECOND)
}

#[test]
fn key_is_one_unit_for_all_its_requests() {
    let mut units = units();
    let first = units.enter(7, Canary, 0.1, 0, false);
    assert_eq!((first.begins, first.fails()), (Some(0.1), false));
    let second = units.enter(7, Canary, 0.1, SECOND, true);
    assert_eq!((second.begins, second.failure), (None, 1));
    assert_eq!(second.failed, [(Canary, 0.1)]);
    let third = units.enter(7, Canary, 0.1, 2 * SECOND, true);
    assert_eq!((third.fails(), third.failure), (false, 2));
}

#[test]
fn baseline_key_is_reassigned_after_a_rise() {
    let mut units = units();
    assert_eq!(units.enter(7, Baseline, 0.05, 0, false).begins, Some(0.05));
    assert_eq!(
        units.enter(7, Baseline, 0.25, 1, false).begins,
        Some(0.2 / 0.95)
    );
    assert_eq!(
        units.enter(7, Canary, 0.5, 2, false).begins,
        Some(0.25 / 0.75)
    );
    assert_eq!(
        units.enter(7, Canary, 1.0, 3, false).begins,
        None,
        "it is there already"
    );
    assert_eq!(units.enter(8, Baseline, 0.05, 4, false).begins, Some(0.05));
    assert_eq!(units.enter(8, Canary, 1.0, 5, false).begins, Some(1.0));
}

#[test]
fn first_failure_fails_all_assignments_of_a_key() {
    let mut units = units();
    units.enter(7, Baseline, 0.05, 0, false);
    units.enter(7, Baseline, 0.25, 1, false);
    units.enter(7, Canary, 0.5, 2, false);
    let failed = units.enter(7, Canary, 1.0, 3, true).failed;
    let draws = [
        (Baseline, 0.05),
        (Baseline, 0.2 / 0.95),
        (Canary, 0.25 / 0.75),
    ];
    assert_eq!(failed, draws);
    assert!(!units.enter(7, Canary, 1.0, 4, true).fails());
    // One that stayed, and one that fails with the request by which it is assigned.
    units.enter(8, Baseline, 0.05, 5, false);
    let stayed = units.enter(8, Baseline, 0.25, 6, true);
    assert_eq!(stayed.failed, [(Baseline, 0.05), (Baseline, 0.2 / 0.95)]);
    let found: Vec<_> = stayed
        .units(Baseline)
        .map(|(_, unit)| (unit.begun, unit.failed))
        .collect();
    assert_eq!(found, [(1, 0), (0, 1), (0, 1)]);
}

#[test]
fn assignment_keeps_its_arm_when_weights_fall() {
    let mut units = units();
    units.enter(7, Canary, 0.5, 0, false);
    assert_eq!(units.enter(7, Baseline, 0.05, 1, false).begins, None);
    assert_eq!(
        units.enter(7, Baseline, 0.05, 2, true).failed,
        [(Canary, 0.5)]
    );
    units.enter(8, Baseline, 0.25, 3, false);
    assert_eq!(units.enter(8, Baseline, 0.05, 4, false).begins, None);
    assert_eq!(
        units.enter(8, Baseline, 0.25, 5, false).begins,
        None,
        "no weight has risen for it"
    );
    assert_eq!(
        units.enter(8, Canary, 0.5, 6, false).begins,
        Some(0.25 / 0.75)
    );
}

#[test]
fn failed_key_begins_no_further_unit() {
    let mut units = units();
    units.enter(7, Baseline, 0.05, 0, true);
    let again = units.enter(7, Canary, 0.25, 1, true);
    assert_eq!(
        (again.begins, again.fails(), again.failure),
        (None, false, 2)
    );
}

#[test]
fn too_many_weights_stop_new_assignments() {
    let mut units = units();
    units.enter(7, Baseline, 0.1, 0, false);
    for at in 1..WEIGHTS_MAX {
        units.enter(8, Baseline, 0.1 + at as f64 * 1e-3, 1, false);
    }
    assert!(!units.is_full());
    assert_eq!(
        units.enter(7, Canary, 0.9, 2, true).failed,
        [(Baseline, 0.1)]
    );
    assert_eq!(
        units.enter(9, Canary, 0.9, 3, true),
        Entered {
            failure: 1,
            ..Entered::default()
        }
    );
    assert!(units.is_full());
    let all = units.enter(8, Baseline, 0.1, 4, true).failed;
    assert_eq!(all.len(), WEIGHTS_MAX - 1, "it came at the second");
}

#[test]
fn request_without_key_is_its_own_unit() {
    let mut units = units();
    for at_us in 0..3 {
        let entered = units.enter(RequestEvent::NO_KEY, Canary, 0.1, at_us, true);
        assert_eq!(entered.begins, Some(0.1));
        assert_eq!((entered.failed, entered.failure), (vec![(Canary, 0.1)], 1));
    }
    assert!(units.changes().is_empty(), "nothing of it is kept");
}

#[test]
fn unit_counts_once_at_the_bake_age() {
    let mut units = units();
    units.enter(1, Canary, 0.1, 0, false);
    units.enter(2, Canary, 0.1, 1, false);
    units.enter(3, Baseline, 0.1, 2, false);
    units.enter(2, Canary, 0.1, 9 * SECOND, true);
    assert_eq!(units.matured(10 * SECOND), []);
    let matured = units.matured(11 * SECOND);
    let unit = |begun, failed| Unit {
        weight: 0.1,
        begun,
        failed,
    };
    assert_eq!(
        matured,
        [Matured {
            weight: 0.1,
            canary: vec![unit(2, 1)],
            baseline: vec![unit(1, 0)],
        }]
    );
    units.enter(1, Canary, 0.1, 12 * SECOND, true);
    assert_eq!(
        units.matured(60 * SECOND),
        [],
        "what fails later counts for no step"
    );
}

#[test]
fn full_table_begins_no_units_and_reports_it() {
    let mut units = units();
    for user in 0..u32::try_from(KEYS_MAX).unwrap() {
        let entered = units.enter(user, Baseline, 0.1, u64::from(user), false);
        assert!(entered.begins.is_some());
    }
    assert!(!units.is_full());
    let late = units.enter(u32::MAX - 1, Canary, 0.1, SECOND, true);
    assert_eq!((late.begins, late.fails(), late.failure), (None, false, 1));
    assert!(units.is_full() && units.left_out() == 1);
    let known = units.enter(5, Baseline, 0.1, SECOND, true);
    assert!(known.fails(), "those that are known go on");
}

#[test]
fn saved_keys_resume_after_a_restart() {
    let mut before = units();
    before.enter(1, Canary, 0.1, 100 * SECOND, false);
    before.enter(2, Baseline, 0.1, 100 * SECOND, true);
    let mut rows = before.changes();
    assert_eq!(rows.len(), 2);
    before.enter(1, Canary, 0.1, 101 * SECOND, false);
    assert!(
        before.changes().is_empty(),
        "a request that changes nothing is not written"
    );
    before.enter(1, Canary, 0.1, 102 * SECOND, true);
    rows.extend(before.changes());
    let head = serde_json::to_string(&before).unwrap();
    let head: Units = serde_json::from_str(&head).unwrap();
    // The clock of the new process has just begun.
    let mut after = head.resumed(rows.iter().map(|row| (row.number, &row.state[..])), SECOND);
    for user in [1, 2] {
        let side = if user == 1 { Canary } else { Baseline };
        let entered = after.enter(user, side, 0.1, 2 * SECOND, true);
        assert_eq!(
            (entered.begins, entered.fails(), entered.failure),
            (None, false, 2),
            "{user}"
        );
    }
    assert!(
        after
            .enter(3, Canary, 0.1, 2 * SECOND, false)
            .begins
            .is_some()
    );
    let matured = after.matured(30 * SECOND);
    assert_eq!(
        matured[0].canary[0].begun, 2,
        "the unit from before the restart and the one since: {matured:?}"
    );
    assert_eq!(matured[0].canary[0].failed, 1);
}

#[test]
fn assignments_of_a_key_resume_after_a_restart() {
    for rises in [1_usize, 8, 9, 40, 100] {
        let mut before = units();
        let weight = |at: usize| (at + 1) as f64 / 200.0;
        for at in 0..rises {
            before.enter(7, Baseline, weight(at), 0, false);
        }
        before.enter(7, Canary, 0.75, 1, false);
        let rows = before.changes();
        let head = serde_json::to_string(&before).unwrap();
        let head: Units = serde_json::from_str(&head).unwrap();
        let mut after = head.resumed(rows.iter().map(|row| (row.number, &row.state[..])), SECOND);
        let failed = after.enter(7, Canary, 0.75, 2 * SECOND, true).failed;
        assert_eq!(failed, before.enter(7, Canary, 0.75, 2, true).failed);
        assert_eq!(failed.len(), rises + 1);
    }
}

#[test]
fn rows_of_an_earlier_version_are_read() {
    // Keys with their last assignment: the numbers of its weight and of its probability in a list.
    let head = r#"{"sticky": true, "width_us": 625000, "bake_us": 10000000, "shift_us": 0,
        "last_us": 5000000,
        "chances": [0.05, 0.25, 0.21052631578947367], "waiting": [], "left_out": 0}"#;
    let row = |user: u8, failures: u8, seen: u8, chance: u8, flags: u8| {
        let numbers = [failures, 0, seen, 0, chance, 0, flags, 0];
        let mut row = vec![user, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        row.extend(numbers);
        row
    };
    let rows = [
        row(1, 0, 0, 0, 1),
        row(2, 0, 1, 2, 0),
        row(3, 0, 1, 2, 1),
        row(4, 2, 0, 0, 2),
    ];
    let head: Units = serde_json::from_str(head).unwrap();
    let mut units = head.resumed((0..).zip(rows.iter().map(|row| &row[..])), SECOND);
    let mut failed = |user, side| units.enter(user, side, 0.25, 2 * SECOND, true).failed;
    assert_eq!(failed(1, Canary), [(Canary, 0.05)]);
    let moved = 0.2 / 0.95;
    assert_eq!(failed(2, Baseline), [(Baseline, 0.05), (Baseline, moved)]);
    assert_eq!(failed(3, Canary), [(Baseline, 0.05), (Canary, moved)]);
    assert_eq!(failed(4, Baseline), [], "it had failed");
    // Rows written by this version are read again with the rest of the list.
    units.enter(5, Canary, 0.25, 2 * SECOND, false);
    assert_eq!(units.changes().len(), 5);
}

#[test]
fn saved_changes_do_not_grow_with_the_users() {
    let mut units = units();
    for user in 0..20_000 {
        units.enter(user, Canary, 0.1, u64::from(user) * 50_000, true);
    }
    assert_eq!(units.changes().len(), 20_000);
    units.matured(2_000 * SECOND);
    units.enter(5, Canary, 0.1, 2_000 * SECOND, true);
    assert_eq!(
        units.changes().len(),
        1,
        "who has failed before is not written again"
    );
    assert!(serde_json::to_string(&units).unwrap().len() < 1_000);
    units.forget_written();
    assert_eq!(units.changes().len(), 20_000, "unless it may be lost");
}

#[test]
fn clients_without_sticky_keys_fail_once() {
    let mut units = Units::new(false, SECOND);
    assert!(!units.enter(7, Canary, 0.1, 0, false).is_new_failing_client);
    assert!(units.enter(7, Canary, 0.1, 1, true).is_new_failing_client);
    let again = units.enter(7, Canary, 0.1, 2, true);
    assert!(!again.is_new_failing_client && again.failure == 1 && !again.fails());
    assert_eq!(units.matured(60 * SECOND), []);
}
