//! The table of keys, and the queue of units that have not reached the age `bake`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Unit;
use super::keys::{KeyState, KeyTable, OldKey, Row, StoredKeys, WEIGHTS_MAX, truncated};
use crate::stats::{Arm, RequestEvent};

/// The resolution of ages, as a part of `bake`, at least 10 ms.
const AGE_PARTS: u64 = 16;
const AGE_LEAST_US: u64 = 10_000;

/// The units of one release.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Units {
    sticky: bool,
    width_us: u64,
    bake_us: u64,
    /// The offset added to the caller's clock, which a restart resets.
    shift_us: u64,
    last_us: u64,
    /// The weights at which keys were assigned; keys refer to them by number.
    #[serde(default)]
    weights: Vec<f64>,
    /// The probabilities that rows of an earlier version refer to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chances: Vec<f64>,
    waiting: VecDeque<Waiting>,
    /// Units that did not begin because the table was full.
    left_out: u64,
    #[serde(skip)]
    keys: KeyTable,
}

/// The effect of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entered {
    /// The probability of the unit that begins with it, if one does.
    pub begins: Option<f64>,
    /// For the first failure of its key: the assignments of the key, each with its arm and its
    /// probability.
    pub failed: Vec<(Arm, f64)>,
    /// A client failed for the first time in the release.
    pub is_new_failing_client: bool,
    /// The number of this failure of its key, from 1; 0 if it is none.
    pub failure: u32,
}

impl Entered {
    /// Whether it is the first failure of its key.
    pub fn fails(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Adds the effect of a request assigned to `side` to the units of either arm.
    pub fn units(&self, side: Arm) -> impl Iterator<Item = (Arm, Unit)> {
        let unit = |weight| Unit {
            weight,
            ..Unit::default()
        };
        let begun = self.begins.into_iter().map(move |weight| {
            let begun = Unit {
                begun: 1,
                ..unit(weight)
            };
            (side, begun)
        });
        let failed = self.failed.iter().map(move |(side, weight)| {
            let failed = Unit {
                failed: 1,
                ..unit(*weight)
            };
            (*side, failed)
        });
        begun.chain(failed)
    }
}

/// Units that reached the age `bake`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matured {
    /// The probability of assignment to the canary when they began.
    pub weight: f64,
    /// The canary's units, with those that had failed by that age.
    pub canary: Vec<Unit>,
    /// The baseline's units.
    pub baseline: Vec<Unit>,
}

/// Units that began at about the same time with the same probability.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Waiting {
    /// Their start time, in widths.
    at: u64,
    /// The canary's probability of a request at that time.
    drawn_at: f64,
    /// Begun and failed: the canary's, the baseline's.
    canary: Unit,
    baseline: Unit,
}

impl Units {
    /// An empty table. `sticky`: requests are assigned by a key. `bake_us` is the age at which a
    /// unit counts for a step.
    pub fn new(sticky: bool, bake_us: u64) -> Units {
        Units {
            sticky,
            bake_us,
            width_us: (bake_us / AGE_PARTS).max(AGE_LEAST_US),
            shift_us: 0,
            last_us: 0,
            weights: Vec::new(),
            chances: Vec::new(),
            waiting: VecDeque::new(),
            left_out: 0,
            keys: KeyTable::default(),
        }
    }

    /// Resumes after a restart with the saved keys; `now_us` is the current time of the caller's
    /// clock. The time between does not count as age.
    #[must_use]
    pub fn resumed<'a>(
        mut self,
        rows: impl IntoIterator<Item = (u32, &'a [u8])>,
        now_us: u64,
    ) -> Units {
        self.shift_us = self.last_us.wrapping_sub(now_us);
        for (number, state) in rows {
            match StoredKeys::row(state) {
                Some(StoredKeys::Key(key)) => self.keys.restore(number, key),
                Some(StoredKeys::Old(old)) => {
                    let key = self.of_old(old);
                    self.keys.restore(number, key);
                }
                None => {}
            }
        }
        self
    }

    /// Whether requests are assigned by a key.
    pub fn are_sticky(&self) -> bool {
        self.sticky
    }

    /// Units that did not begin because the table was full.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether the table is full.
    pub fn is_full(&self) -> bool {
        self.left_out > 0
    }

    /// Adds a request: its key ([`RequestEvent::NO_KEY`] without one), its arm, the probability of
    /// the canary, the time of assignment, and whether it failed. Requests arrive in the order of
    /// their assignment.
    pub fn enter(
        &mut self,
        user: u32,
        side: Arm,
        weight: f64,
        at_us: u64,
        failed: bool,
    ) -> Entered {
        let at = self.time(at_us) / self.width_us;
        if !self.sticky {
            return self.enter_drawn(user, failed);
        }
        if user == RequestEvent::NO_KEY {
            return self.enter_keyless(side, weight, at, failed);
        }
        let (number, mut entered) = match (self.keys.find(user), self.number(weight)) {
            (Some(known), Some(drawn_at)) => (known, self.see_again(known, side, drawn_at, at)),
            (Some(known), None) => (known, self.leave_out(false)),
            (None, Some(drawn_at)) => match self.keys.insert(user) {
                Some(new) => (new, self.begin(new, side, drawn_at, weight, at)),
                None => return self.leave_out(failed),
            },
            (None, None) => return self.leave_out(failed),
        };
        if failed {
            self.fail(number, &mut entered);
        }
        entered
    }

    /// The units that have matured, when everything assigned before `closed_us` has been added.
    pub fn matured(&mut self, closed_us: u64) -> Vec<Matured> {
        let now_us = self.time(closed_us);
        let mut matured: Vec<Matured> = Vec::new();
        while let Some(first) = self.waiting.front() {
            let whole_us = (first.at + 1).saturating_mul(self.width_us);
            if whole_us.saturating_add(self.bake_us) > now_us {
                break;
            }
            let Some(first) = self.waiting.pop_front() else {
                break;
            };
            if matured
                .last()
                .is_none_or(|last| last.weight != first.drawn_at)
            {
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

    /// The keys that have changed since the last call, to be saved.
    pub fn changes(&mut self) -> Vec<Row> {
        self.keys.take_changes()
    }

    /// Marks all keys as changed, if the saved ones may be lost.
    pub fn forget_written(&mut self) {
        self.keys.mark_all();
    }

    fn time(&mut self, at_us: u64) -> u64 {
        self.last_us = self.last_us.max(at_us.wrapping_add(self.shift_us));
        self.last_us
    }

    /// Where each request is assigned separately, only first failures of clients are counted.
    fn enter_drawn(&mut self, user: u32, failed: bool) -> Entered {
        let is_new = failed && self.keys.find(user).is_none() && self.keys.insert(user).is_some();
        Entered {
            is_new_failing_client: is_new,
            failure: u32::from(failed),
            ..Entered::default()
        }
    }

    fn enter_keyless(&mut self, side: Arm, weight: f64, at: u64, failed: bool) -> Entered {
        self.wait(at, weight, weight, side, u64::from(failed));
        Entered {
            begins: Some(weight),
            failed: failed.then_some((side, weight)).into_iter().collect(),
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

    /// Assigns a key at the weight with the number `drawn_at`; `chance` is its probability of the
    /// canary at that weight.
    fn begin(&mut self, number: u32, side: Arm, drawn_at: u8, chance: f64, at: u64) -> Entered {
        self.keys
            .change(number, |key| key.draw(drawn_at, side == Arm::Canary, at));
        self.wait(at, self.weight(drawn_at), chance, side, 0);
        Entered {
            begins: Some(chance),
            ..Entered::default()
        }
    }

    /// A known key is assigned again if it was on the baseline and a larger weight may have moved
    /// it. A key that has failed begins no further unit.
    fn see_again(&mut self, number: u32, side: Arm, drawn_at: u8, at: u64) -> Entered {
        let key = self.keys.get(number);
        let (before, now) = (self.weight(key.last()), self.weight(drawn_at));
        if !key.on_canary() && key.failures == 0 && now > before {
            return self.begin(number, side, drawn_at, moved(before, now), at);
        }
        Entered::default()
    }

    /// The first failure of a key fails all its assignments, each in the arm that it chose,
    /// whichever arm the key is on now.
    fn fail(&mut self, number: u32, entered: &mut Entered) {
        let key = self.keys.get(number);
        self.keys
            .change(number, |key| key.failures = key.failures.saturating_add(1));
        entered.failure = u32::from(key.failures.saturating_add(1));
        if key.failures > 0 {
            return;
        }
        entered.is_new_failing_client = true;
        entered.failed = self.draws(&key);
        if let Some((_, chance)) = entered.failed.last() {
            self.fail_waiting(&key, *chance);
        }
    }

    /// The assignments of a key in order, each with its arm and its probability of the canary: all
    /// but the last left it on the baseline.
    fn draws(&self, key: &KeyState) -> Vec<(Arm, f64)> {
        let mut weights: Vec<f64> = key.draws().map(|weight| self.weight(weight)).collect();
        weights.sort_by(f64::total_cmp);
        let mut before = 0.0;
        let chances = weights
            .into_iter()
            .map(|now| moved(std::mem::replace(&mut before, now), now));
        let mut draws: Vec<_> = chances.map(|chance| (Arm::Baseline, chance)).collect();
        if let Some((side, _)) = draws.last_mut().filter(|_| key.on_canary()) {
            *side = Arm::Canary;
        }
        draws
    }

    /// Fails the last assignment of a key, if it has not matured. Earlier ones no longer count for
    /// a step.
    fn fail_waiting(&mut self, key: &KeyState, chance: f64) {
        let drawn_at = self.weight(key.last());
        let same = |one: &&mut Waiting| {
            truncated(one.at) == key.begun
                && one.canary.weight == chance
                && one.drawn_at == drawn_at
        };
        if let Some(waiting) = self.waiting.iter_mut().rev().find(same) {
            let unit = if key.on_canary() {
                &mut waiting.canary
            } else {
                &mut waiting.baseline
            };
            unit.failed += 1;
        }
    }

    fn wait(&mut self, at: u64, drawn_at: f64, weight: f64, side: Arm, failed: u64) {
        let same = |one: &&mut Waiting| one.canary.weight == weight && one.drawn_at == drawn_at;
        let mut latest = self.waiting.iter_mut().rev().take_while(|one| one.at == at);
        let known = latest.find(same);
        let units = |waiting: &mut Waiting| {
            let unit = match side {
                Arm::Canary => &mut waiting.canary,
                Arm::Baseline => &mut waiting.baseline,
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

    /// The number of a weight; `None` if there are too many distinct weights.
    fn number(&mut self, weight: f64) -> Option<u8> {
        let known = self.weights.iter().position(|known| *known == weight);
        let at = known.or_else(|| {
            (self.weights.len() < WEIGHTS_MAX).then(|| {
                self.weights.push(weight);
                self.weights.len() - 1
            })
        })?;
        u8::try_from(at).ok()
    }

    fn weight(&self, number: u8) -> f64 {
        self.weights
            .get(usize::from(number))
            .copied()
            .unwrap_or_default()
    }

    /// Converts a key saved by an earlier version. Of its assignments before the last it is only
    /// known that there was one, and the weight of the last of them.
    fn of_old(&mut self, old: OldKey) -> KeyState {
        let of = |number: u16| {
            self.chances
                .get(usize::from(number))
                .copied()
                .unwrap_or_default()
        };
        let (now, chance) = (of(old.seen), of(old.chance));
        let mut key = old.key;
        let at = u64::from(key.begun);
        if chance != now && chance < 1.0 {
            let before = (now - chance) / (1.0 - chance);
            let near = |known: &&f64| (**known - before).abs() < 1e-9;
            let before = self.chances.iter().find(near).copied().unwrap_or(before);
            if let Some(before) = self.number(before) {
                key.draw(before, false, at);
            }
        }
        if let Some(now) = self.number(now) {
            key.draw(now, old.on_canary, at);
        }
        key
    }
}

/// The probability that a key on the baseline at the weight `before` is on the canary at `now`.
fn moved(before: f64, now: f64) -> f64 {
    (now - before) / (1.0 - before)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
