//! Notes of all workers, put together into cohorts: whole, in the order in which their requests were assigned.
//!
//! What has been scored is always a prefix of all assignments. A request that has not ended holds up those after it
//! until it has, or until it is as old as the landmark; then it counts as bad, in both arms alike. So a canary that
//! fails at once is never held against a baseline whose failures are yet to come (STATISTICS.md 1.e).

use std::collections::BTreeMap;

use super::scored::{Scored, place};
use crate::analysis::{Pending, Units};
use crate::stats::{Assignment, Happened, Note, Side};

/// Displaced requests spoil this much time around them, for both arms.
const SPOILED_US: u64 = 10_000;
/// Assignments that may wait to be scored. When there are more, all are given up: evidence with holes is none.
const WAITING_MAX: usize = 1 << 20;

/// What waits to be scored.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    slots: BTreeMap<Key, Slot>,
    /// Everything that was assigned before this has been scored, or left out.
    closed_us: u64,
    /// Times that do not count, as multiples of [`SPOILED_US`].
    spoiled: BTreeMap<u64, ()>,
    /// Failures of the canary that have not been scored.
    failures: usize,
}

/// Assignments that cannot be told apart, in the order of their time.
type Key = (u64, u16, u16, Side);

fn key(assignment: &Assignment) -> Key {
    (
        assignment.at_us,
        assignment.canary_points,
        assignment.baseline_points,
        assignment.side,
    )
}

#[derive(Debug, Default)]
struct Slot {
    open: Vec<Open>,
    ended: Vec<Ended>,
}

/// A request that has not ended.
#[derive(Clone, Copy, Debug)]
struct Open {
    user: u32,
    /// The head of a good answer is here.
    headed: bool,
}

/// How a request ended, as far as it counts.
#[derive(Clone, Copy, Debug)]
struct Ended {
    user: u32,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Good {
        latency_us: u32,
    },
    Bad {
        visible: bool,
    },
    Aborted,
    /// Answered by the baseline, since the canary was full: of neither side.
    Displaced,
}

impl Slot {
    fn failures(&self) -> usize {
        let bad = |ended: &&Ended| matches!(ended.end, End::Bad { .. });
        self.ended.iter().filter(bad).count()
    }
}

/// What of the notes is known, and up to when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Now, on the monotonic clock.
    pub(super) now_us: u64,
    /// Every assignment before this has been noted ([`crate::stats::Horizon::floor`]).
    pub(super) floor_us: u64,
    /// The age at which an outcome is waited for no longer.
    pub(super) landmark_us: u64,
}

impl Assembly {
    /// Scores nothing that was assigned before `from_us`.
    pub(super) fn new(from_us: u64) -> Assembly {
        Assembly {
            closed_us: from_us,
            ..Assembly::default()
        }
    }

    /// Takes a note in.
    pub(super) fn add(&mut self, note: &Note) {
        let at_us = note.assignment.at_us;
        if at_us < self.closed_us {
            return;
        }
        match note.happened {
            Happened::Assigned => self.assign(note),
            Happened::Headed => self.head(note),
            Happened::Displaced => {
                self.spoiled.insert(at_us / SPOILED_US, ());
                self.end(note, End::Displaced);
            }
            Happened::Good { latency_us } => self.end(note, End::Good { latency_us }),
            Happened::Bad { visible } => self.end(note, End::Bad { visible }),
            Happened::Aborted => self.end(note, End::Aborted),
        }
    }

    /// Notes were lost: everything that waits is left out.
    pub(super) fn give_up(&mut self, now_us: u64) {
        self.slots.clear();
        self.failures = 0;
        self.closed_us = self.closed_us.max(now_us);
    }

    /// Whether a failure of the canary waits to be scored.
    pub(super) fn has_failure(&self) -> bool {
        self.failures > 0
    }

    /// Requests that wait to be scored: the canary's, the baseline's, and those of the baseline that failed or have not
    /// ended.
    pub(super) fn pending(&self) -> Pending {
        let mut pending = Pending::default();
        for (key, slot) in &self.slots {
            let assigned = (slot.open.len() + slot.ended.len()) as u64;
            if key.3 == Side::Canary {
                pending.canary += assigned;
            } else {
                pending.baseline += assigned;
                pending.baseline_bad_or_open += (slot.open.len() + slot.failures()) as u64;
            }
        }
        pending
    }

    /// Everything that can be scored now, in order, joined as long as the weights are the same.
    pub(super) fn close(&mut self, known: &Known, units: &mut Units) -> Vec<Scored> {
        let end_us = self.boundary(known);
        let mut scored: Vec<Scored> = Vec::new();
        while let Some(first) = self.slots.first_entry() {
            let (at_us, canary, baseline, side) = *first.key();
            if at_us >= end_us {
                break;
            }
            let slot = first.remove();
            if side == Side::Canary {
                self.failures = self.failures.saturating_sub(slot.failures());
            }
            let is_spoiled = self.spoiled.contains_key(&(at_us / SPOILED_US));
            let weight = chance(canary, baseline);
            for ended in slot.take(known.landmark_us) {
                let failed = matches!(ended.end, End::Bad { .. });
                let counts = ended.end != End::Displaced;
                let entered = counts.then(|| units.enter(ended.user, side, weight, at_us, failed));
                let begins = entered.and_then(|entered| entered.weight.filter(|_| entered.begins));
                let into = place(&mut scored, weight, is_spoiled, begins);
                into.at_us = at_us;
                if let Some(entered) = entered {
                    into.count(side, ended.end, &entered, units.are_sticky());
                }
            }
        }
        let closed_us = end_us.min(known.now_us);
        let ripe = units.ripe(closed_us).into_iter();
        scored.extend(ripe.map(|ripe| Scored {
            at_us: closed_us,
            weight: ripe.weight,
            ripe: Some(ripe),
            ..Scored::default()
        }));
        self.closed_us = self.closed_us.max(closed_us);
        self.spoiled = self.spoiled.split_off(&(self.closed_us / SPOILED_US));
        scored
    }

    /// Up to where all is known: by the workers' word, by the clock, and by the first request that may still end.
    fn boundary(&self, known: &Known) -> u64 {
        let limit = known.floor_us.min(known.now_us);
        let is_young = |at_us: u64| known.now_us.saturating_sub(at_us) < known.landmark_us;
        let waits = |(key, slot): (&Key, &Slot)| (!slot.open.is_empty() && is_young(key.0)).then_some(key.0);
        let first = self.slots.range(..(limit, 0, 0, Side::Baseline)).find_map(waits);
        first.unwrap_or(limit)
    }

    fn assign(&mut self, note: &Note) {
        if self.slots.len() >= WAITING_MAX {
            self.give_up(note.assignment.at_us);
        }
        let slot = self.slots.entry(key(&note.assignment)).or_default();
        slot.open.push(Open {
            user: note.user,
            headed: false,
        });
    }

    fn head(&mut self, note: &Note) {
        let slot = self.slots.get_mut(&key(&note.assignment));
        let open = slot.and_then(|slot| slot.open.iter_mut().find(|open| open.user == note.user && !open.headed));
        if let Some(open) = open {
            open.headed = true;
        }
    }

    fn end(&mut self, note: &Note, end: End) {
        // A request whose assignment was given up is not known.
        let Some(slot) = self.slots.get_mut(&key(&note.assignment)) else {
            return;
        };
        if let Some(at) = slot.open.iter().position(|open| open.user == note.user) {
            slot.open.swap_remove(at);
            slot.ended.push(Ended { user: note.user, end });
            let failed = note.assignment.side == Side::Canary && matches!(end, End::Bad { .. });
            self.failures += usize::from(failed);
        }
    }
}

/// The canary's chance of a request of the two arms.
fn chance(canary: u16, baseline: u16) -> f64 {
    let both = u32::from(canary) + u32::from(baseline);
    if both == 0 {
        return 0.0;
    }
    f64::from(canary) / f64::from(both)
}

impl Slot {
    /// Its requests with what they came to, or with what is known of them at the landmark.
    fn take(self, landmark_us: u64) -> impl Iterator<Item = Ended> {
        let open = self.open.into_iter().map(move |open| {
            let end = if open.headed {
                // A good answer whose body goes on: no failure, and as slow as can be told.
                let latency_us = u32::try_from(landmark_us).unwrap_or(u32::MAX);
                End::Good { latency_us }
            } else {
                // Whether a user saw it is known when it ends.
                End::Bad { visible: false }
            };
            Ended { user: open.user, end }
        });
        self.ended.into_iter().chain(open)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::{Repeats, Unit};
    use crate::stats::WatchKey;

    const LANDMARK_US: u64 = 250_000;

    fn note(at_us: u64, side: Side, user: u32, happened: Happened) -> Note {
        Note {
            assignment: Assignment {
                watch: WatchKey(0),
                at_us,
                canary_points: 500,
                baseline_points: 9_500,
                side,
            },
            user,
            happened,
        }
    }

    /// Requests that are drawn one by one.
    fn drawn() -> Units {
        Units::new(false, 0)
    }

    fn known(now_us: u64) -> Known {
        Known {
            now_us,
            floor_us: u64::MAX,
            landmark_us: LANDMARK_US,
        }
    }

    fn assembly(notes: &[Note]) -> Assembly {
        let mut assembly = Assembly::new(0);
        notes.iter().for_each(|note| assembly.add(note));
        assembly
    }

    const GOOD: Happened = Happened::Good { latency_us: 900 };
    const BAD: Happened = Happened::Bad { visible: true };

    /// Requests and failures of both arms: baseline, canary.
    fn counts(scored: &[Scored]) -> Vec<[u64; 4]> {
        let counts = |one: &Scored| {
            let (b, c) = (&one.baseline, &one.canary);
            [b.requests, b.failures, c.requests, c.failures]
        };
        scored.iter().map(counts).collect()
    }

    #[test]
    fn a_canary_that_fails_at_once_waits_for_the_baseline_before_it() {
        let mut assembly = assembly(&[
            note(1_000, Side::Baseline, 1, Happened::Assigned),
            note(1_010, Side::Canary, 2, Happened::Assigned),
            note(1_010, Side::Canary, 2, BAD),
        ]);
        let mut units = drawn();
        assert!(assembly.has_failure());
        assert_eq!(
            counts(&assembly.close(&known(50_000), &mut units)),
            Vec::<[u64; 4]>::new()
        );
        let pending = Pending {
            canary: 1,
            baseline: 1,
            baseline_bad_or_open: 1,
        };
        assert_eq!(assembly.pending(), pending);
        assembly.add(&note(1_000, Side::Baseline, 1, GOOD));
        assert_eq!(counts(&assembly.close(&known(60_000), &mut units)), [[1, 0, 1, 1]]);
        assert!(!assembly.has_failure());
    }

    #[test]
    fn at_the_landmark_what_has_not_ended_is_bad_unless_its_answer_is_on_its_way() {
        let mut assembly = assembly(&[
            note(1_000, Side::Baseline, 1, Happened::Assigned),
            note(1_001, Side::Canary, 2, Happened::Assigned),
            note(1_001, Side::Canary, 2, Happened::Headed),
        ]);
        let mut units = drawn();
        assert!(assembly.close(&known(200_000), &mut units).is_empty());
        let scored = assembly.close(&known(1_001 + LANDMARK_US), &mut units);
        assert_eq!(counts(&scored), [[1, 1, 1, 0]]);
        assert_eq!(scored[0].canary.latency_us, [(LANDMARK_US, 1)]);
        // Its end is no longer of interest.
        assembly.add(&note(1_000, Side::Baseline, 1, GOOD));
        assert!(assembly.close(&known(900_000), &mut units).is_empty());
    }

    #[test]
    fn a_request_of_the_first_moment_is_waited_for_as_long_as_any() {
        let mut assembly = assembly(&[note(0, Side::Baseline, 1, Happened::Assigned)]);
        let mut units = drawn();
        assert!(assembly.close(&known(LANDMARK_US - 1), &mut units).is_empty());
        assert_eq!(counts(&assembly.close(&known(LANDMARK_US), &mut units)), [[1, 1, 0, 0]]);
    }

    #[test]
    fn what_a_worker_may_still_hold_is_waited_for() {
        let mut assembly = assembly(&[
            note(5_000, Side::Canary, 2, Happened::Assigned),
            note(5_000, Side::Canary, 2, GOOD),
        ]);
        let mut units = drawn();
        let held = Known {
            floor_us: 4_000,
            ..known(90_000)
        };
        assert!(assembly.close(&held, &mut units).is_empty());
        assembly.add(&note(4_000, Side::Baseline, 1, Happened::Assigned));
        assembly.add(&note(4_000, Side::Baseline, 1, GOOD));
        assert_eq!(counts(&assembly.close(&known(91_000), &mut units)), [[1, 0, 1, 0]]);
    }

    #[test]
    fn displaced_requests_spoil_their_time_for_both_arms() {
        let mut assembly = assembly(&[
            note(20_000, Side::Baseline, 1, Happened::Assigned),
            note(20_000, Side::Baseline, 1, BAD),
            note(21_000, Side::Canary, 2, Happened::Assigned),
            note(21_000, Side::Canary, 2, Happened::Displaced),
            note(35_000, Side::Baseline, 3, Happened::Assigned),
            note(35_000, Side::Baseline, 3, GOOD),
        ]);
        let mut units = drawn();
        let scored = assembly.close(&known(90_000), &mut units);
        let spoiled: Vec<bool> = scored.iter().map(|one| one.is_spoiled).collect();
        assert_eq!(spoiled, [true, false]);
        assert_eq!(scored[0].canary.requests, 0, "a displaced request is of neither side");
        assert_eq!(scored[0].baseline.failures, 1, "and yet explains");
        assert_eq!(counts(&scored[1..]), [[1, 0, 0, 0]]);
    }

    #[test]
    fn each_weight_has_its_own_cohort() {
        let mut changed = note(2_000, Side::Canary, 1, Happened::Assigned);
        changed.assignment.canary_points = 2_500;
        changed.assignment.baseline_points = 7_500;
        let end = Note {
            happened: GOOD,
            ..changed
        };
        let mut assembly = assembly(&[
            note(1_000, Side::Canary, 1, Happened::Assigned),
            note(1_000, Side::Canary, 1, GOOD),
            changed,
            end,
        ]);
        let scored = assembly.close(&known(90_000), &mut drawn());
        let weights: Vec<f64> = scored.iter().map(|one| one.weight).collect();
        assert_eq!(weights, [0.05, 0.25]);
    }

    #[test]
    fn a_sticky_user_is_one_unit_and_whoever_has_no_key_one_with_each_request() {
        let mut assembly = assembly(&[
            note(1_000, Side::Canary, 7, Happened::Assigned),
            note(1_000, Side::Canary, 7, GOOD),
            note(1_100, Side::Canary, 7, Happened::Assigned),
            note(1_100, Side::Canary, 7, BAD),
            note(1_200, Side::Canary, 7, Happened::Assigned),
            note(1_200, Side::Canary, 7, BAD),
            note(1_300, Side::Canary, Note::KEYLESS, Happened::Assigned),
            note(1_300, Side::Canary, Note::KEYLESS, BAD),
            note(1_400, Side::Baseline, 8, Happened::Assigned),
        ]);
        let mut units = Units::new(true, 1_000_000);
        let scored = assembly.close(&known(900_000), &mut units);
        assert_eq!(counts(&scored), [[1, 1, 4, 3]], "the budgets count every request");
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
        assert_eq!(cohort.canary.repeats, Some(Repeats { weight: 5, largest: 2 }));
        assert_eq!(
            cohort.canary.latency_us,
            Some(&[(900, 1)][..]),
            "of the first request of a unit"
        );
        let later = assembly.close(&known(3_000_000), &mut units);
        let ripe = later[0].ripe.as_ref().unwrap();
        assert_eq!(
            (ripe.weight, &ripe.canary[..], &ripe.baseline[..]),
            (0.05, &[unit(2, 2)][..], &[unit(1, 1)][..])
        );
    }

    #[test]
    fn units_with_different_chances_have_cohorts_of_their_own() {
        let mut units = Units::new(true, 1_000_000);
        let mut all = assembly(&[
            note(1_000, Side::Baseline, 1, Happened::Assigned),
            note(1_000, Side::Baseline, 1, GOOD),
        ]);
        assert_eq!(all.close(&known(2_000), &mut units).len(), 1);
        for (user, at_us) in [(1, 3_000), (2, 3_001), (1, 3_002)] {
            let mut changed = note(at_us, Side::Canary, user, Happened::Assigned);
            changed.assignment.canary_points = 2_500;
            changed.assignment.baseline_points = 7_500;
            all.add(&changed);
            all.add(&Note {
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
        /// However the notes are cut into batches and looks, each request is scored once, in order, with its own outcome.
        #[test]
        fn nothing_is_lost_or_counted_twice(
            requests in prop::collection::vec((0u64..200_000, any::<bool>(), 1u64..100_000, 0u8..3), 1..200),
            looks in prop::collection::vec(0u64..400_000, 0..20),
        ) {
            let mut events: Vec<(u64, Note)> = Vec::new();
            let mut wanted = [0u64; 4];
            for (user, (at_us, canary, took_us, kind)) in (0u32..).zip(&requests) {
                let side = if *canary { Side::Canary } else { Side::Baseline };
                let happened = [GOOD, BAD, Happened::Aborted][usize::from(*kind)];
                events.push((*at_us, note(*at_us, side, user, Happened::Assigned)));
                events.push((at_us + took_us, note(*at_us, side, user, happened)));
                wanted[usize::from(*canary) * 2] += 1;
                wanted[usize::from(*canary) * 2 + 1] += u64::from(happened == BAD);
            }
            events.sort_by_key(|(when, note)| (*when, note.happened.is_last()));
            let mut looks = looks;
            looks.sort_unstable();
            looks.push(10_000_000);
            let (mut assembly, mut units) = (Assembly::new(0), drawn());
            let (mut got, mut last) = ([0u64; 4], 0);
            let mut events = events.into_iter().peekable();
            for now_us in looks {
                while let Some((_, note)) = events.next_if(|(when, _)| *when <= now_us) {
                    assembly.add(&note);
                }
                for scored in assembly.close(&known(now_us), &mut units) {
                    prop_assert!(scored.at_us >= last);
                    last = scored.at_us;
                    got.iter_mut().zip(counts(&[scored])[0]).for_each(|(sum, more)| *sum += more);
                }
            }
            prop_assert_eq!(got, wanted);
            prop_assert!(!assembly.has_failure() && assembly.slots.is_empty());
        }
    }
}
