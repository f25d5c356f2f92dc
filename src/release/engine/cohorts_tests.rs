//! Cohorts: when requests are scored, and with which outcome.

use proptest::prelude::*;

use super::*;
use crate::analysis::{Repeats, Unit};
use crate::stats::ReleaseKey;

const LANDMARK_US: u64 = 250_000;

fn note(at_us: u64, side: Arm, user: u32, happened: RequestEventKind) -> RequestEvent {
    RequestEvent {
        assignment: Assignment {
            watch: ReleaseKey(0),
            at_us,
            canary_points: 500,
            baseline_points: 9_500,
            side,
        },
        user,
        happened,
    }
}

/// Units where each request is drawn by itself.
fn drawn() -> Units {
    Units::new(false, 0)
}

fn known(now_us: u64) -> KnownEvents {
    KnownEvents {
        now_us,
        floor_us: u64::MAX,
        landmark_us: LANDMARK_US,
    }
}

fn cohorts(notes: &[RequestEvent]) -> CohortBuilder {
    let mut cohorts = CohortBuilder::new(0);
    notes.iter().for_each(|note| cohorts.add(note));
    cohorts
}

const GOOD: RequestEventKind = RequestEventKind::Good { latency_us: 900 };
const BAD: RequestEventKind = RequestEventKind::Bad { visible: true };

/// Requests and failures of both arms: baseline, canary.
fn counts(scored: &[Scored]) -> Vec<[u64; 4]> {
    let counts = |one: &Scored| {
        let (b, c) = (&one.baseline, &one.canary);
        [b.requests, b.failures, c.requests, c.failures]
    };
    scored.iter().map(counts).collect()
}

#[test]
fn a_canary_failure_waits_for_earlier_baseline_requests() {
    let mut cohorts = cohorts(&[
        note(1_000, Arm::Baseline, 1, RequestEventKind::ASSIGNED),
        note(1_010, Arm::Canary, 2, RequestEventKind::ASSIGNED),
        note(1_010, Arm::Canary, 2, BAD),
    ]);
    let mut units = drawn();
    assert!(cohorts.has_failure());
    assert_eq!(
        counts(&cohorts.close(&known(50_000), &mut units)),
        Vec::<[u64; 4]>::new()
    );
    let pending = PendingCohort {
        canary: 1,
        baseline: 1,
        baseline_bad_or_open: 1,
        alone: 0,
    };
    assert_eq!(cohorts.pending(), pending);
    cohorts.add(&note(1_000, Arm::Baseline, 1, GOOD));
    assert_eq!(
        counts(&cohorts.close(&known(60_000), &mut units)),
        [[1, 0, 1, 1]]
    );
    assert!(!cohorts.has_failure());
}

#[test]
fn unfinished_requests_are_bad_at_the_landmark_unless_a_response_has_begun() {
    let mut cohorts = cohorts(&[
        note(1_000, Arm::Baseline, 1, RequestEventKind::ASSIGNED),
        note(1_001, Arm::Canary, 2, RequestEventKind::ASSIGNED),
        note(1_001, Arm::Canary, 2, RequestEventKind::Headed),
    ]);
    let mut units = drawn();
    assert!(cohorts.close(&known(200_000), &mut units).is_empty());
    let scored = cohorts.close(&known(1_001 + LANDMARK_US), &mut units);
    assert_eq!(counts(&scored), [[1, 1, 1, 0]]);
    assert_eq!(scored[0].canary.latency_us, [(LANDMARK_US, 1)]);
    // Its end is ignored.
    cohorts.add(&note(1_000, Arm::Baseline, 1, GOOD));
    assert!(cohorts.close(&known(900_000), &mut units).is_empty());
}

#[test]
fn requests_at_time_zero_wait_for_the_full_landmark() {
    let mut cohorts = cohorts(&[note(0, Arm::Baseline, 1, RequestEventKind::ASSIGNED)]);
    let mut units = drawn();
    assert!(
        cohorts
            .close(&known(LANDMARK_US - 1), &mut units)
            .is_empty()
    );
    assert_eq!(
        counts(&cohorts.close(&known(LANDMARK_US), &mut units)),
        [[1, 1, 0, 0]]
    );
}

#[test]
fn scoring_waits_for_the_watermark() {
    let mut cohorts = cohorts(&[
        note(5_000, Arm::Canary, 2, RequestEventKind::ASSIGNED),
        note(5_000, Arm::Canary, 2, GOOD),
    ]);
    let mut units = drawn();
    let held = KnownEvents {
        floor_us: 4_000,
        ..known(90_000)
    };
    assert!(cohorts.close(&held, &mut units).is_empty());
    cohorts.add(&note(4_000, Arm::Baseline, 1, RequestEventKind::ASSIGNED));
    cohorts.add(&note(4_000, Arm::Baseline, 1, GOOD));
    assert_eq!(
        counts(&cohorts.close(&known(91_000), &mut units)),
        [[1, 0, 1, 0]]
    );
}

#[test]
fn displaced_requests_taint_their_interval_for_both_arms() {
    let mut cohorts = cohorts(&[
        note(20_000, Arm::Baseline, 1, RequestEventKind::ASSIGNED),
        note(20_000, Arm::Baseline, 1, BAD),
        note(21_000, Arm::Canary, 2, RequestEventKind::ASSIGNED),
        note(21_000, Arm::Canary, 2, RequestEventKind::Displaced),
        note(35_000, Arm::Baseline, 3, RequestEventKind::ASSIGNED),
        note(35_000, Arm::Baseline, 3, GOOD),
    ]);
    let mut units = drawn();
    let scored = cohorts.close(&known(90_000), &mut units);
    let tainted: Vec<bool> = scored.iter().map(|one| one.is_tainted).collect();
    assert_eq!(tainted, [true, false]);
    assert_eq!(
        scored[0].canary.requests, 0,
        "a displaced request counts in neither arm"
    );
    assert_eq!(
        scored[0].baseline.failures, 1,
        "a displaced request still explains failures"
    );
    assert_eq!(counts(&scored[1..]), [[1, 0, 0, 0]]);
}

#[test]
fn each_weight_has_its_own_cohort() {
    let mut changed = note(2_000, Arm::Canary, 1, RequestEventKind::ASSIGNED);
    changed.assignment.canary_points = 2_500;
    changed.assignment.baseline_points = 7_500;
    let end = RequestEvent {
        happened: GOOD,
        ..changed
    };
    let mut cohorts = cohorts(&[
        note(1_000, Arm::Canary, 1, RequestEventKind::ASSIGNED),
        note(1_000, Arm::Canary, 1, GOOD),
        changed,
        end,
    ]);
    let scored = cohorts.close(&known(90_000), &mut drawn());
    let weights: Vec<f64> = scored.iter().map(|one| one.weight).collect();
    assert_eq!(weights, [0.05, 0.25]);
}

#[test]
fn a_sticky_user_is_one_unit_and_each_request_without_a_key_is_one() {
    let mut cohorts = cohorts(&[
        note(1_000, Arm::Canary, 7, RequestEventKind::ASSIGNED),
        note(1_000, Arm::Canary, 7, GOOD),
        note(1_100, Arm::Canary, 7, RequestEventKind::ASSIGNED),
        note(1_100, Arm::Canary, 7, BAD),
        note(1_200, Arm::Canary, 7, RequestEventKind::ASSIGNED),
        note(1_200, Arm::Canary, 7, BAD),
        note(
            1_300,
            Arm::Canary,
            RequestEvent::NO_KEY,
            RequestEventKind::ASSIGNED,
        ),
        note(1_300, Arm::Canary, RequestEvent::NO_KEY, BAD),
        note(1_400, Arm::Baseline, 8, RequestEventKind::ASSIGNED),
    ]);
    let mut units = Units::new(true, 1_000_000);
    let scored = cohorts.close(&known(900_000), &mut units);
    assert_eq!(
        counts(&scored),
        [[1, 1, 4, 3]],
        "the budgets count every request"
    );
    let cohort = scored[0].cohort(0);
    let unit = |begun, failed| Unit {
        weight: 0.05,
        begun,
        failed,
    };
    assert_eq!(cohort.canary.units, Some(&[unit(2, 2)][..]));
    assert_eq!(cohort.baseline.units, Some(&[unit(1, 1)][..]));
    assert_eq!(
        (cohort.canary.failed_first, cohort.canary.failing_clients),
        (Some(1), Some(2))
    );
    assert_eq!(
        cohort.canary.repeats,
        Some(Repeats {
            weight: 5,
            largest: 2
        })
    );
    assert_eq!(
        cohort.canary.latency_us,
        Some(&[(900, 1)][..]),
        "latencies of the first request of each unit"
    );
    let later = cohorts.close(&known(3_000_000), &mut units);
    let matured = later[0].matured.as_ref().unwrap();
    assert_eq!(
        (matured.weight, &matured.canary[..], &matured.baseline[..]),
        (0.05, &[unit(2, 2)][..], &[unit(1, 1)][..])
    );
}

#[test]
fn units_with_different_chances_have_separate_cohorts() {
    let mut units = Units::new(true, 1_000_000);
    let mut all = cohorts(&[
        note(1_000, Arm::Baseline, 1, RequestEventKind::ASSIGNED),
        note(1_000, Arm::Baseline, 1, GOOD),
    ]);
    assert_eq!(all.close(&known(2_000), &mut units).len(), 1);
    for (user, at_us) in [(1, 3_000), (2, 3_001), (1, 3_002)] {
        let mut changed = note(at_us, Arm::Canary, user, RequestEventKind::ASSIGNED);
        changed.assignment.canary_points = 2_500;
        changed.assignment.baseline_points = 7_500;
        all.add(&changed);
        all.add(&RequestEvent {
            happened: GOOD,
            ..changed
        });
    }
    let scored = all.close(&known(10_000), &mut units);
    let begun: Vec<_> = scored
        .iter()
        .map(|one| one.cohort(0).canary.units.unwrap()[0].weight)
        .collect();
    assert_eq!(begun, [0.2 / 0.95, 0.25]);
    assert_eq!(counts(&scored), [[0, 0, 2, 0], [0, 0, 1, 0]]);
}

proptest! {
    /// However events are batched, each request is scored once, in order, with its own outcome.
    #[test]
    fn each_request_is_scored_exactly_once(
        requests in prop::collection::vec(
            (0u64..200_000, any::<bool>(), 1u64..100_000, 0u8..3),
            1..200,
        ),
        looks in prop::collection::vec(0u64..400_000, 0..20),
    ) {
        let mut events: Vec<(u64, RequestEvent)> = Vec::new();
        let mut wanted = [0u64; 4];
        for (user, (at_us, canary, took_us, kind)) in (0u32..).zip(&requests) {
            let side = if *canary { Arm::Canary } else { Arm::Baseline };
            let aborted = RequestEventKind::Aborted { late: false };
            let happened = [GOOD, BAD, aborted][usize::from(*kind)];
            events.push((*at_us, note(*at_us, side, user, RequestEventKind::ASSIGNED)));
            events.push((at_us + took_us, note(*at_us, side, user, happened)));
            wanted[usize::from(*canary) * 2] += 1;
            wanted[usize::from(*canary) * 2 + 1] += u64::from(happened == BAD);
        }
        events.sort_by_key(|(when, note)| (*when, note.happened.is_last()));
        let mut looks = looks;
        looks.sort_unstable();
        looks.push(10_000_000);
        let (mut cohorts, mut units) = (CohortBuilder::new(0), drawn());
        let (mut got, mut last) = ([0u64; 4], 0);
        let mut events = events.into_iter().peekable();
        for now_us in looks {
            while let Some((_, note)) = events.next_if(|(when, _)| *when <= now_us) {
                cohorts.add(&note);
            }
            for scored in cohorts.close(&known(now_us), &mut units) {
                prop_assert!(scored.at_us >= last);
                last = scored.at_us;
                got.iter_mut().zip(counts(&[scored])[0]).for_each(|(sum, more)| *sum += more);
            }
        }
        prop_assert_eq!(got, wanted);
        prop_assert!(!cohorts.has_failure() && cohorts.slots.is_empty());
    }
}

#[test]
fn requests_during_a_full_canary_explain_but_are_not_compared() {
    let full = RequestEventKind::Assigned {
        uploading: false,
        canary_full: true,
    };
    let mut cohorts = cohorts(&[
        note(1_000, Arm::Baseline, 1, full),
        note(1_000, Arm::Baseline, 1, BAD),
        note(1_100, Arm::Canary, 2, full),
        note(1_100, Arm::Canary, 2, RequestEventKind::Displaced),
        note(1_200, Arm::Baseline, 3, RequestEventKind::ASSIGNED),
        note(1_200, Arm::Baseline, 3, GOOD),
    ]);
    assert_eq!(cohorts.full_at_us(), Some(1_100));
    let scored = cohorts.close(&known(90_000), &mut drawn());
    let (left_out, compared): (Vec<_>, Vec<_>) = scored.iter().partition(|one| one.is_tainted);
    assert_eq!(
        counts(&left_out.into_iter().cloned().collect::<Vec<_>>())[0],
        [1, 1, 0, 0]
    );
    assert_eq!(
        counts(&compared.into_iter().cloned().collect::<Vec<_>>()),
        [[1, 0, 0, 0]]
    );
}

#[test]
fn an_upload_in_progress_at_the_landmark_is_not_a_failure() {
    let uploading = RequestEventKind::Assigned {
        uploading: true,
        canary_full: false,
    };
    let mut cohorts = cohorts(&[
        note(1_000, Arm::Canary, 1, uploading),
        note(1_001, Arm::Canary, 2, uploading),
        note(1_001, Arm::Canary, 2, RequestEventKind::Sent),
        note(1_002, Arm::Canary, 3, RequestEventKind::ASSIGNED),
        note(
            1_002,
            Arm::Canary,
            3,
            RequestEventKind::Aborted { late: true },
        ),
        note(1_003, Arm::Canary, 4, RequestEventKind::ASSIGNED),
        note(
            1_003,
            Arm::Canary,
            4,
            RequestEventKind::Aborted { late: false },
        ),
    ]);
    let scored = cohorts.close(&known(900_000), &mut drawn());
    assert_eq!(
        counts(&scored),
        [[0, 0, 3, 2]],
        "a request that waits for its client counts in neither arm"
    );
    assert_eq!(scored[0].canary.aborts, 2);
    assert_eq!((cohorts.open_past_landmark(), cohorts.unfinished()), (1, 1));
}
