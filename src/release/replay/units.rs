//! Units in a recording: `[[w_u, begun, failed, {kinds}], …]` for an arm, where `w_u` is a
//! probability from 0 to 1, unlike the line's `weight`, which is in percent.
//!
//! A unit counts for a step when it reaches the age `bake`. The program records these moments in
//! separate lines (`matured`). A recording without them does not say which units failed by that
//! age, so the units of a cohort then count together after that age, with the failures beside them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use crate::analysis::{Cohort, Matured, Unit};

/// The resolution of ages, as a part of `bake`.
const AGE_PARTS: u64 = 16;

/// The units of one arm in a line.
#[derive(Debug, Default, Deserialize)]
pub(super) struct UnitList(Vec<UnitText>);

#[derive(Debug)]
struct UnitText(Unit);

/// Units that reached the age `bake`.
#[derive(Debug, Deserialize)]
pub(super) struct MaturedLine {
    canary: UnitList,
    baseline: UnitList,
}

impl UnitList {
    pub(super) fn units(&self) -> Vec<Unit> {
        self.0.iter().map(|unit| unit.0).collect()
    }

    /// A problem of the list in an arm of `requests` requests, where both arms have `failures`
    /// failures: a failure of a key counts for each of its assignments, in either arm.
    pub(super) fn problem(&self, requests: u64, failures: u64) -> Option<String> {
        let sum = |begun: u64, unit: &UnitText| begun.saturating_add(unit.0.begun);
        let begun = self.0.iter().fold(0, sum);
        if begun > requests {
            return Some(format!(
                "an arm has {begun} units that began but {requests} requests"
            ));
        }
        let most = self.0.iter().find(|unit| unit.0.failed > failures)?;
        Some(format!(
            "an arm has {} failed units with the probability {}, but both arms have {failures} \
             failures",
            most.0.failed, most.0.weight
        ))
    }
}

impl MaturedLine {
    pub(super) fn matured(&self, weight: f64) -> Matured {
        Matured {
            weight,
            canary: self.canary.units(),
            baseline: self.baseline.units(),
        }
    }
}

impl<'de> Deserialize<'de> for UnitText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UnitText, D::Error> {
        deserializer.deserialize_seq(UnitVisitor)
    }
}

struct UnitVisitor;

impl<'de> Visitor<'de> for UnitVisitor {
    type Value = UnitText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("units as `[w_u, begun, failed]` or `[w_u, begun, failed, {kinds}]`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<UnitText, A::Error> {
        let missing = |at| de::Error::invalid_length(at, &self);
        let weight: f64 = seq.next_element()?.ok_or_else(|| missing(0))?;
        let begun = seq.next_element()?.ok_or_else(|| missing(1))?;
        let failed = seq.next_element()?.ok_or_else(|| missing(2))?;
        // Kinds are not judged; a newer version may have written them.
        let _: Option<BTreeMap<String, u64>> = seq.next_element()?;
        if seq.next_element::<de::IgnoredAny>()?.is_some() {
            return Err(missing(5));
        }
        if !(weight > 0.0 && weight <= 1.0) {
            return Err(de::Error::custom(format!(
                "the probability of a unit is {weight}; expected more than 0 and at most 1, \
                 such as 0.05 for 5 percent"
            )));
        }
        Ok(UnitText(Unit {
            weight,
            begun,
            failed,
        }))
    }
}

/// Units that have not reached the age, if the recording does not contain the ages.
#[derive(Clone, Debug)]
pub(super) struct Ages {
    bake_ms: u64,
    recorded: bool,
    waiting: VecDeque<(u64, Matured)>,
}

impl Ages {
    pub(super) fn new(bake_ms: u64) -> Ages {
        Ages {
            bake_ms,
            recorded: false,
            waiting: VecDeque::new(),
        }
    }

    /// The recording has separate lines for them.
    pub(super) fn set_recorded(&mut self) {
        self.recorded = true;
    }

    /// Adds the units of a cohort.
    pub(super) fn add(&mut self, cohort: &Cohort<'_>) {
        let (canary, baseline) = (cohort.canary.units, cohort.baseline.units);
        if self.recorded || (canary.is_none() && baseline.is_none()) {
            return;
        }
        let width = (self.bake_ms / AGE_PARTS).max(1);
        let due_ms = (cohort.at_ms / width + 1) * width + self.bake_ms;
        let last = self.waiting.back();
        if last.is_none_or(|(due, matured)| *due != due_ms || matured.weight != cohort.weight) {
            let matured = Matured {
                weight: cohort.weight,
                ..Matured::default()
            };
            self.waiting.push_back((due_ms, matured));
        }
        if let Some((_, matured)) = self.waiting.back_mut() {
            for unit in canary.unwrap_or_default() {
                unit.add_to(&mut matured.canary);
            }
            for unit in baseline.unwrap_or_default() {
                unit.add_to(&mut matured.baseline);
            }
        }
    }

    /// The next units that have reached the age at this time.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<Matured> {
        let is_due = self
            .waiting
            .front()
            .is_some_and(|(due_ms, _)| *due_ms <= now_ms);
        is_due
            .then(|| self.waiting.pop_front())
            .flatten()
            .map(|(_, matured)| matured)
    }
}
