//! Scored requests in the form that the judge takes.

use super::cohorts::End;
use crate::analysis::{ArmCounts, Cohort, Entered, Matured, Repeats, Unit};
use crate::stats::Arm;

/// Requests of one prefix that were assigned under the same weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scored {
    /// Time of the last assignment, in microseconds of the monotonic clock.
    pub(crate) at_us: u64,
    /// The chance that a request of the two arms was assigned to the canary.
    pub(crate) weight: f64,
    /// The same chance for the units that begin in it, in sticky releases.
    pub(crate) unit_weight: Option<f64>,
    /// Units that have become old enough to count for a step; then without requests.
    pub(crate) matured: Option<Matured>,
    /// Requests were displaced in this time, so the arms cannot be compared.
    pub(crate) is_tainted: bool,
    pub(crate) baseline: ScoredArm,
    pub(crate) canary: ScoredArm,
}

/// One arm of a cohort.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ScoredArm {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) visible: u64,
    pub(crate) latency_us: Vec<(u64, u64)>,
    pub(crate) failing_clients: u64,
    pub(crate) aborts: u64,
    /// Present where users are sticky.
    sticky: Option<ScoredUnits>,
}

/// The counts of one arm by unit.
#[derive(Clone, Debug, Default, PartialEq)]
struct ScoredUnits {
    units: Vec<Unit>,
    failed_first: u64,
    repeats: Repeats,
}

impl Scored {
    /// The cohort at `at_ms` of the judge's time.
    pub(crate) fn cohort(&self, at_ms: u64) -> Cohort<'_> {
        Cohort {
            at_ms,
            weight: self.weight,
            baseline: self.baseline.arm(),
            canary: self.canary.arm(),
        }
    }
}

impl ScoredArm {
    fn arm(&self) -> ArmCounts<'_> {
        ArmCounts {
            requests: self.requests,
            failures: self.failures,
            latency_us: Some(&self.latency_us),
            new_keys: None,
            failing_clients: Some(self.failing_clients),
            visible_failures: Some(self.visible),
            aborts: Some(self.aborts),
            units: self.sticky.as_ref().map(|sticky| &*sticky.units),
            failed_first: self.sticky.as_ref().map(|sticky| sticky.failed_first),
            repeats: self.sticky.as_ref().map(|sticky| sticky.repeats),
        }
    }
}

/// Finds or adds the cohort of a request: the last one, or one with the same weights and the same
/// chance of its units, so that the latencies of a cohort are of units with one chance.
pub(crate) fn place(
    scored: &mut Vec<Scored>,
    weight: f64,
    is_tainted: bool,
    begins: Option<f64>,
) -> &mut Scored {
    let same =
        |one: &Scored| one.weight.to_bits() == weight.to_bits() && one.is_tainted == is_tainted;
    let fits =
        |one: &Scored| begins.is_none() || one.unit_weight.is_none() || one.unit_weight == begins;
    let first = scored
        .iter()
        .rposition(|one| !same(one))
        .map_or(0, |at| at + 1);
    let known = (first..scored.len()).find(|at| scored.get(*at).is_some_and(fits));
    let at = known.unwrap_or(scored.len());
    if known.is_none() {
        scored.push(Scored {
            weight,
            is_tainted,
            ..Scored::default()
        });
    }
    #[expect(
        clippy::indexing_slicing,
        reason = "it was found, or has just been added"
    )]
    let into = &mut scored[at];
    into.unit_weight = into.unit_weight.or(begins);
    into
}

impl Scored {
    pub(crate) fn count(&mut self, side: Arm, end: End, entered: &Entered, sticky: bool) {
        if sticky {
            self.baseline.sticky.get_or_insert_default();
            self.canary.sticky.get_or_insert_default();
            for (side, unit) in entered.units(side) {
                if let Some(sticky) = &mut self.arm(side).sticky {
                    unit.add_to(&mut sticky.units);
                }
            }
        }
        self.arm(side).count(end, entered);
    }

    fn arm(&mut self, side: Arm) -> &mut ScoredArm {
        match side {
            Arm::Baseline => &mut self.baseline,
            Arm::Canary => &mut self.canary,
        }
    }
}

impl ScoredArm {
    fn count(&mut self, end: End, entered: &Entered) {
        self.requests += 1;
        let is_timed = self.sticky.is_none() || entered.begins.is_some();
        match end {
            End::Good { latency_us } if is_timed => {
                self.latency_us.push((u64::from(latency_us), 1))
            }
            End::Good { .. } | End::Uploading | End::Displaced => {}
            End::Aborted { .. } => self.aborts += 1,
            End::Bad { visible } => self.visible += u64::from(visible),
        }
        if end.is_bad() {
            self.failures += 1;
            self.failing_clients += u64::from(entered.is_new_failing_client);
        }
        let Some(sticky) = &mut self.sticky else {
            return;
        };
        if end.is_bad() {
            sticky.repeats.add(entered.failure.max(1));
        }
        sticky.failed_first += u64::from(entered.begins.is_some() && entered.fails());
    }
}
