//! The units of a sticky release: the comparison counts assignments of keys, not requests
//! (STATISTICS.md 1.j).
//!
//! A user with hundreds of requests is one observation of a version, not hundreds. So the unit is
//! the assignment of a key: a key is assigned when it is first seen, and again when a key on the
//! baseline is seen after a rise of the canary's weight, which may have moved it. A request without
//! a key is a unit of its own.
//!
//! Each assignment of a key stays a unit for the whole release, in the arm that it chose, whichever
//! version the key is on later. So the first failure of a key fails all its assignments: each that
//! left it on the baseline adds `ln c`, and the one that put it on the canary adds `ln a - ln b`.
//! The age at which the key of an assignment fails then has the same distribution in both arms. If
//! an assignment ended when the next began, its unit on the baseline would count as good while a
//! unit of the canary could still fail, and a shared outage after a rise would be evidence against
//! equal versions.
//!
//! The table identifies the units of one release. It receives requests in the order of their
//! assignment and reads no clock; the program and the simulations use the same table.

mod keys;
mod table;

pub use keys::Row;
pub use table::{Entered, Matured, Units};

use serde::{Deserialize, Serialize};

use super::cohort::{ArmCounts, Counts};

/// Units of one arm that were assigned with the same probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "(f64, u64, u64)", into = "(f64, u64, u64)")]
pub struct Unit {
    /// The probability of assignment to the canary, 0 to 1.
    pub weight: f64,
    /// Units that began in the cohort.
    pub begun: u64,
    /// Units whose key failed for the first time in it, whenever they began. A key fails once, and
    /// with it each of its assignments, in the arm that it chose.
    pub failed: u64,
}

impl From<(f64, u64, u64)> for Unit {
    fn from((weight, begun, failed): (f64, u64, u64)) -> Unit {
        Unit {
            weight,
            begun,
            failed,
        }
    }
}

impl From<Unit> for (f64, u64, u64) {
    fn from(unit: Unit) -> (f64, u64, u64) {
        (unit.weight, unit.begun, unit.failed)
    }
}

impl Unit {
    /// Adds the unit's counts to the entry with the same probability.
    pub fn add_to(self, list: &mut Vec<Unit>) {
        match list.iter_mut().find(|known| known.weight == self.weight) {
            Some(known) => {
                known.begun += self.begun;
                known.failed += self.failed;
            }
            None => list.push(self),
        }
    }

    /// Requests and failures as in an ordinary arm. In one cohort more may fail than begin.
    pub(crate) fn counts(self) -> Counts {
        Counts {
            requests: self.begun,
            failures: self.failed,
        }
    }

    fn compares(&self) -> bool {
        self.weight > 0.0 && self.weight < 1.0
    }
}

/// Units and failed units, by arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitCounts {
    /// The canary's: `requests` are units.
    pub canary: Counts,
    /// The baseline's units.
    pub baseline: Counts,
}

impl UnitCounts {
    pub(crate) fn add(&mut self, canary: &[Unit], baseline: &[Unit]) {
        for (sum, units) in [(&mut self.canary, canary), (&mut self.baseline, baseline)] {
            for unit in units {
                sum.requests += unit.begun;
                sum.failures += unit.failed;
            }
        }
    }
}

/// The counts of both arms for each probability at which they can be compared: canary, baseline.
pub(crate) fn paired<'a>(
    canary: &'a [Unit],
    baseline: &'a [Unit],
) -> impl Iterator<Item = (f64, Counts, Counts)> + use<'a> {
    let of = |list: &[Unit], weight: f64| {
        let found = list.iter().find(|unit| unit.weight == weight);
        found.map(|unit| unit.counts()).unwrap_or_default()
    };
    let both = canary
        .iter()
        .map(move |unit| (unit.weight, unit.counts(), of(baseline, unit.weight)));
    let rest = baseline
        .iter()
        .filter(move |unit| !canary.iter().any(|other| other.weight == unit.weight))
        .map(|unit| (unit.weight, Counts::default(), unit.counts()));
    both.chain(rest).filter(|(weight, ..)| {
        let unit = Unit {
            weight: *weight,
            ..Unit::default()
        };
        unit.compares()
    })
}

/// The probability of the units that began in a cohort, to which its latencies belong; `None` if
/// there are several.
pub(crate) fn begun_at(canary: &ArmCounts<'_>, baseline: &ArmCounts<'_>) -> Option<f64> {
    let all = canary.units.into_iter().chain(baseline.units).flatten();
    let mut begun = all.filter(|unit| unit.begun > 0).map(|unit| unit.weight);
    let first = begun.next()?;
    begun.all(|weight| weight == first).then_some(first)
}

/// Repeated failures of an arm's keys: the k-th failure of a key counts `2k - 1` in the variance of
/// the failures that a baseline explains (STATISTICS.md 1.k.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u32)", into = "(u64, u32)")]
pub struct Repeats {
    /// The sum of `2k - 1` over the failures.
    pub weight: u64,
    /// The largest `k`.
    pub largest: u32,
}

impl From<(u64, u32)> for Repeats {
    fn from((weight, largest): (u64, u32)) -> Repeats {
        Repeats { weight, largest }
    }
}

impl From<Repeats> for (u64, u32) {
    fn from(repeats: Repeats) -> (u64, u32) {
        (repeats.weight, repeats.largest)
    }
}

impl Repeats {
    /// Adds the `k`-th failure of a key.
    pub fn add(&mut self, k: u32) {
        self.weight += u64::from(k).saturating_mul(2).saturating_sub(1);
        self.largest = self.largest.max(k);
    }
}
