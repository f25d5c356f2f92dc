//! The table of keys, and the queue of units that are not yet as old as `bake`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Unit;
use super::keys::{Key, Keys, Row};
use crate::stats::{Note, Side};

/// Chances that are told apart. A release has as many as its steps have pairs.
const CHANCES_MAX: usize = 1 << 12;
/// Ages are known to this part of `bake`, and to at least 10 ms.
const AGE_PARTS: u64 = 16;
const AGE_LEAST_US: u64 = 10_000;

/// The units of one release.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Units {
    sticky: bool,
    width_us: u64,
    bake_us: u64,
    /// What has to be added to the caller's clock, which a restart sets back.
    shift_us: u64,
    last_us: u64,
    /// The chances that keys refer to.
    chances: Vec<f64>,
    waiting: VecDeque<Waiting>,
    /// Units that did not begin since the table was full.
    left_out: u64,
    #[serde(skip)]
    keys: Keys,
}

/// What a request means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entered {
    /// The chance of the request's unit; none if it belongs to none.
    pub weight: Option<f64>,
    /// The unit begins with it.
    pub begins: bool,
    /// It is the first failure of the unit.
    pub fails: bool,
    /// A client has failed for the first time in the release.
    pub is_new_failing_client: bool,
    /// It is so-manieth failure of its key, from 1; 0 if it is none.
    pub failure: u32,
}

impl Entered {
    /// What the request adds to the units of its arm, if it adds something.
    pub fn unit(&self) -> Option<Unit> {
        let weight = self.weight.filter(|_| self.begins || self.fails)?;
        Some(Unit {
            weight,
            begun: u64::from(self.begins),
            failed: u64::from(self.fails),
        })
    }
}

/// Units that have become as old as `bake`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matured {
    /// The canary's chance of a request when they began.
    pub weight: f64,
    /// The canary's, with those that have failed by that age.
    pub canary: Vec<Unit>,
    /// The baseline's.
    pub baseline: Vec<Unit>,
}

/// Units that began at about the same time with the same chance.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Waiting {
    /// The time of their beginning, in widths.
    at: u64,
    /// The canary's chance of a request then.
    drawn_at: f64,
    /// Begun and failed: the canary's, the baseline's.
    canary: Unit,
    baseline: Unit,
}

impl Units {
    /// Nobody yet. `sticky`: requests are assigned by a key. `bake_us` is the age at which a unit counts for a step.
    pub fn new(sticky: bool, bake_us: u64) -> Units {
        Units {
            sticky,
            bake_us,
            width_us: (bake_us / AGE_PARTS).max(AGE_LEAST_US),
            shift_us: 0,
            last_us: 0,
            chances: Vec::new(),
            waiting: VecDeque::new(),
            left_out: 0,
            keys: Keys::default(),
        }
    }

    /// Goes on after a restart, with the keys as they were written down; `now_us` is the present time of the caller's
    /// clock. The time between does not count as age.
    #[must_use]
    pub fn resumed<'a>(mut self, rows: impl IntoIterator<Item = (u32, &'a [u8])>, now_us: u64) -> Units {
        self.shift_us = self.last_us.wrapping_sub(now_us);
        for (number, state) in rows {
            if let Some(key) = Key::read(state) {
                self.keys.restore(number, key);
            }
        }
        self
    }

    /// Whether requests are assigned by a key.
    pub fn are_sticky(&self) -> bool {
        self.sticky
    }

    /// Units that did not begin since the table was full.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether the table is full.
    pub fn is_full(&self) -> bool {
        self.left_out > 0
    }

    /// Takes a request in: whose it is ([`Note::KEYLESS`] for nobody's), its side, the canary's chance of it, when it was
    /// assigned, and whether it failed. Requests come in the order of their assignment.
    pub fn enter(&mut self, user: u32, side: Side, weight: f64, at_us: u64, failed: bool) -> Entered {
        let at = self.time(at_us) / self.width_us;
        if !self.sticky {
            return self.enter_drawn(user, failed);
        }
        if user == Note::KEYLESS {
            return self.enter_keyless(side, weight, at, failed);
        }
        let Some(chance) = self.chance(weight) else {
            return self.leave_out(failed);
        };
        let mut entered = match self.keys.find(user) {
            Some(number) => self.see_again(number, side, chance, at),
            None => match self.keys.insert(user) {
                Some(number) => self.begin(number, side, chance, chance, at),
                None => return self.leave_out(failed),
            },
        };
        if failed {
            self.fail(user, side, at, &mut entered);
        }
        entered
    }

    /// The units that have become old enough, when everything assigned before `closed_us` has been taken in.
    pub fn matured(&mut self, closed_us: u64) -> Vec<Matured> {
        let now_us = self.time(closed_us);
        let mut matured: Vec<Matured> = Vec::new();
        while let Some(first) = self.waiting.front() {
            let whole_us = (first.at + 1).saturating_mul(self.width_us);
            if whole_us.saturating_add(self.bake_us) > now_us {
                break;
            }
            let Some(first) = self.waiting.pop_front() else { break };
            if matured.last().is_none_or(|last| last.weight != first.drawn_at) {
                matured.push(Matured {
                    weight: first.drawn_at,
                    ..Matured::default()
                });
            }
            if let Some(last) = matured.last_mut() {
                first.canary.add_to(&mut last.canary);
                first.baseline.add_to(&mut last.baseline);
            }
        }
        matured
    }

    /// The keys that have changed since this was asked last: what has to be written down.
    pub fn changes(&mut self) -> Vec<Row> {
        self.keys.take_changes()
    }

    /// What was written down may be lost: all keys count as changed.
    pub fn forget_written(&mut self) {
        self.keys.mark_all();
    }

    fn time(&mut self, at_us: u64) -> u64 {
        self.last_us = self.last_us.max(at_us.wrapping_add(self.shift_us));
        self.last_us
    }

    /// Where each request is drawn by itself, only who failed is told apart.
    fn enter_drawn(&mut self, user: u32, failed: bool) -> Entered {
        let is_new = failed && self.keys.find(user).is_none() && self.keys.insert(user).is_some();
        Entered {
            is_new_failing_client: is_new,
            failure: u32::from(failed),
            ..Entered::default()
        }
    }

    fn enter_keyless(&mut self, side: Side, weight: f64, at: u64, failed: bool) -> Entered {
        self.wait(at, weight, weight, side, u64::from(failed));
        Entered {
            weight: Some(weight),
            begins: true,
            fails: failed,
            is_new_failing_client: failed,
            failure: u32::from(failed),
        }
    }

    fn leave_out(&mut self, failed: bool) -> Entered {
        self.left_out += 1;
        Entered {
            failure: u32::from(failed),
            ..Entered::default()
        }
    }

    fn begin(&mut self, number: u32, side: Side, drawn_at: u16, chance: u16, at: u64) -> Entered {
        let weight = self.weight(chance);
        self.keys.change(number, |key| {
            key.seen = drawn_at;
            key.chance = chance;
            key.on_canary = side == Side::Canary;
            key.begun = at;
        });
        self.wait(at, self.weight(drawn_at), weight, side, 0);
        Entered {
            weight: Some(weight),
            begins: true,
            ..Entered::default()
        }
    }

    fn see_again(&mut self, number: u32, side: Side, drawn_at: u16, at: u64) -> Entered {
        let key = self.keys.get(number);
        let (before, now) = (self.weight(key.seen), self.weight(drawn_at));
        if !key.on_canary && !key.failed && now > before {
            let moved = (now - before) / (1.0 - before);
            if let Some(chance) = self.chance(moved) {
                return self.begin(number, side, drawn_at, chance, at);
            }
            self.left_out += 1;
        }
        Entered {
            weight: Some(self.weight(key.chance)),
            ..Entered::default()
        }
    }

    fn fail(&mut self, user: u32, side: Side, at: u64, entered: &mut Entered) {
        let Some(number) = self.keys.find(user) else { return };
        let key = self.keys.get(number);
        // On the other side than its unit's, it says nothing of the unit: weights were set back, or two keys are alike.
        let is_first = !key.failed && key.on_canary == (side == Side::Canary);
        self.keys.change(number, |key| {
            key.failures = key.failures.saturating_add(1);
            key.failed |= is_first;
        });
        entered.failure = u32::from(self.keys.get(number).failures);
        entered.fails = is_first;
        entered.is_new_failing_client = is_first;
        if is_first {
            self.fail_waiting(&key, at);
        }
    }

    /// A unit that waits fails before it is old enough.
    fn fail_waiting(&mut self, key: &Key, at: u64) {
        let weight = self.weight(key.chance);
        let (begun, side) = (key.begun.min(at), key.on_canary);
        let drawn_at = self.weight(key.seen);
        let same = |one: &&mut Waiting| one.at == begun && one.canary.weight == weight && one.drawn_at == drawn_at;
        if let Some(waiting) = self.waiting.iter_mut().rev().find(same) {
            let unit = if side {
                &mut waiting.canary
            } else {
                &mut waiting.baseline
            };
            unit.failed += 1;
        }
    }

    fn wait(&mut self, at: u64, drawn_at: f64, weight: f64, side: Side, failed: u64) {
        let same = |one: &&mut Waiting| one.canary.weight == weight && one.drawn_at == drawn_at;
        let mut latest = self.waiting.iter_mut().rev().take_while(|one| one.at == at);
        let known = latest.find(same);
        let units = |waiting: &mut Waiting| {
            let unit = match side {
                Side::Canary => &mut waiting.canary,
                Side::Baseline => &mut waiting.baseline,
            };
            unit.begun += 1;
            unit.failed += failed;
        };
        match known {
            Some(waiting) => units(waiting),
            None => {
                let none = Unit {
                    weight,
                    ..Unit::default()
                };
                let mut waiting = Waiting {
                    at,
                    drawn_at,
                    canary: none,
                    baseline: none,
                };
                units(&mut waiting);
                self.waiting.push_back(waiting);
            }
        }
    }

    fn chance(&mut self, weight: f64) -> Option<u16> {
        let known = self.chances.iter().position(|known| *known == weight);
        let at = known.or_else(|| {
            (self.chances.len() < CHANCES_MAX).then(|| {
                self.chances.push(weight);
                self.chances.len() - 1
            })
        })?;
        u16::try_from(at).ok()
    }

    fn weight(&self, chance: u16) -> f64 {
        self.chances.get(usize::from(chance)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS_MAX;
    use super::*;

    const SECOND: u64 = 1_000_000;
    use Side::{Baseline, Canary};

    fn units() -> Units {
        Units::new(true, 10 * SECOND)
    }

    #[test]
    fn a_key_is_one_unit_however_many_requests_it_has() {
        let mut units = units();
        let first = units.enter(7, Canary, 0.1, 0, false);
        assert_eq!((first.begins, first.weight), (true, Some(0.1)));
        let second = units.enter(7, Canary, 0.1, SECOND, true);
        assert_eq!((second.begins, second.fails, second.failure), (false, true, 1));
        let third = units.enter(7, Canary, 0.1, 2 * SECOND, true);
        assert_eq!((third.fails, third.failure), (false, 2));
    }

    #[test]
    fn a_key_of_the_baseline_begins_again_with_its_chance_to_have_moved() {
        let mut units = units();
        assert_eq!(units.enter(7, Baseline, 0.05, 0, false).weight, Some(0.05));
        let stayed = units.enter(7, Baseline, 0.25, 1, false);
        assert_eq!((stayed.begins, stayed.weight), (true, Some(0.2 / 0.95)));
        let moved = units.enter(7, Canary, 0.5, 2, false);
        assert_eq!((moved.begins, moved.weight), (true, Some(0.25 / 0.75)));
        let later = units.enter(7, Canary, 1.0, 3, true);
        assert_eq!(
            (later.begins, later.fails),
            (false, true),
            "it stays the unit that it is"
        );
        assert_eq!(later.weight, Some(0.25 / 0.75));
        let skipped = units.enter(8, Baseline, 0.05, 4, false);
        assert!(skipped.begins);
        assert_eq!(units.enter(8, Canary, 1.0, 5, false).weight, Some(0.95 / 0.95));
    }

    #[test]
    fn a_key_that_has_failed_begins_no_further_unit() {
        let mut units = units();
        units.enter(7, Baseline, 0.05, 0, true);
        let again = units.enter(7, Canary, 0.25, 1, true);
        assert_eq!((again.begins, again.fails, again.failure), (false, false, 2));
    }

    #[test]
    fn whoever_has_no_key_is_a_unit_with_each_request() {
        let mut units = units();
        for at_us in 0..3 {
            let entered = units.enter(Note::KEYLESS, Canary, 0.1, at_us, true);
            assert!(entered.begins && entered.fails && entered.failure == 1);
        }
        assert!(units.changes().is_empty(), "nothing of it is kept");
    }

    #[test]
    fn a_unit_counts_once_when_it_is_as_old_as_bake_and_as_bad_as_it_was_then() {
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
        assert_eq!(units.matured(60 * SECOND), [], "what fails later counts for no step");
    }

    #[test]
    fn a_full_table_begins_no_more_units_and_says_so() {
        let mut units = units();
        for user in 0..u32::try_from(KEYS_MAX).unwrap() {
            assert!(units.enter(user, Baseline, 0.1, u64::from(user), false).begins);
        }
        assert!(!units.is_full());
        let late = units.enter(u32::MAX - 1, Canary, 0.1, SECOND, true);
        assert_eq!((late.begins, late.fails, late.failure), (false, false, 1));
        assert!(units.is_full() && units.left_out() == 1);
        let known = units.enter(5, Baseline, 0.1, SECOND, true);
        assert!(known.fails, "those that are known go on");
    }

    #[test]
    fn what_was_written_down_goes_on_after_a_restart() {
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
                (entered.begins, entered.fails, entered.failure),
                (false, false, 2),
                "{user}"
            );
        }
        assert!(after.enter(3, Canary, 0.1, 2 * SECOND, false).begins);
        let matured = after.matured(30 * SECOND);
        assert_eq!(
            matured[0].canary[0].begun, 2,
            "the unit from before the restart and the one since: {matured:?}"
        );
        assert_eq!(matured[0].canary[0].failed, 1);
    }

    #[test]
    fn what_is_written_each_time_does_not_grow_with_the_users() {
        let mut units = units();
        for user in 0..20_000 {
            units.enter(user, Canary, 0.1, u64::from(user) * 50_000, true);
        }
        assert_eq!(units.changes().len(), 20_000);
        units.matured(2_000 * SECOND);
        units.enter(5, Canary, 0.1, 2_000 * SECOND, true);
        assert_eq!(units.changes().len(), 1, "who has failed before is not written again");
        assert!(serde_json::to_string(&units).unwrap().len() < 1_000);
        units.forget_written();
        assert_eq!(units.changes().len(), 20_000, "unless it may be lost");
    }

    #[test]
    fn clients_of_a_release_without_keys_fail_once_too() {
        let mut units = Units::new(false, SECOND);
        assert!(!units.enter(7, Canary, 0.1, 0, false).is_new_failing_client);
        assert!(units.enter(7, Canary, 0.1, 1, true).is_new_failing_client);
        let again = units.enter(7, Canary, 0.1, 2, true);
        assert!(!again.is_new_failing_client && again.failure == 1 && again.weight.is_none());
        assert_eq!(units.matured(60 * SECOND), []);
    }
}
