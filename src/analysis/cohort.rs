//! What the judge is fed: the requests that began in one tick, once the outcome of every one of
//! them is known.

use super::units::{Repeats, Unit};

/// All requests of the two arms that began in one tick, under one weight, and what had become of
/// them at the landmark age. It is scored as a whole, never in part, and in the order of the start
/// ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cohort<'a> {
    /// The time of the cohort on the caller's own scale; never decreases.
    pub at_ms: u64,
    /// The chance that a request of these two arms was given to the canary, 0 to 1, as it was
    /// fixed before the draw. With several canaries it is this one's weight by its own and the
    /// baseline's together.
    pub weight: f64,
    /// The requests that the baseline was given.
    pub baseline: ArmCounts<'a>,
    /// The requests that the canary was given, whoever answered them in the end.
    pub canary: ArmCounts<'a>,
}

/// The requests of one arm in a cohort.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ArmCounts<'a> {
    /// Requests assigned.
    pub requests: u64,
    /// Those of them that had failed, or had not been answered, at the landmark.
    pub failures: u64,
    /// Answers that were no failures, as pairs of a value in microseconds and a count; in sticky
    /// releases of the first request of each unit. `None` when latency was not measured, and
    /// then the failures do not count as slow either.
    pub latency_us: Option<&'a [(u64, u64)]>,
    /// Keys seen for the first time, in recordings without units: what the split is checked on.
    /// `None` means that each request was drawn by itself.
    pub new_keys: Option<u64>,
    /// Clients that failed for the first time in this release. `None` takes each failure for
    /// another client's.
    pub failing_clients: Option<u64>,
    /// Failures that reached a user: those that were not rescued. `None` takes all.
    pub visible_failures: Option<u64>,
    /// Requests that the client gave up, whether or not they count as failures. `None` when that
    /// was not counted.
    pub aborts: Option<u64>,
    /// Sticky releases: the units that began and those that failed, by their chance, of the arm
    /// that their draw chose: the key may fail on the other. With them errors are judged by
    /// units and not by requests, and latencies are those of the first requests of units.
    /// `None` where each request was drawn by itself.
    pub units: Option<&'a [Unit]>,
    /// Sticky releases: units whose first request failed, which counts as slow. `None` takes all
    /// that failed, as far as there are failures.
    pub failed_first: Option<u64>,
    /// Sticky releases: how often the failures come from the same keys. `None` takes each for
    /// another key's.
    pub repeats: Option<Repeats>,
}

impl ArmCounts<'_> {
    /// An arm of which only errors are known.
    pub const fn of(requests: u64, failures: u64) -> ArmCounts<'static> {
        ArmCounts {
            requests,
            failures,
            latency_us: None,
            new_keys: None,
            failing_clients: None,
            visible_failures: None,
            aborts: None,
            units: None,
            failed_first: None,
            repeats: None,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            requests: self.requests,
            failures: self.failures,
        }
    }

    /// Failures that count as slow answers: in sticky releases those of first requests.
    pub(crate) fn slow_failures(&self) -> u64 {
        match self.units {
            Some(units) => self
                .failed_first
                .unwrap_or_else(|| failed(units).min(self.failures)),
            None => self.failures,
        }
    }

    /// Failures, but of each unit only the first: many of one key say nothing more of a version.
    pub(crate) fn distinct_failures(&self) -> u64 {
        self.units.map_or(self.failures, failed)
    }

    /// Failures that users saw.
    pub fn visible_failures(&self) -> u64 {
        self.visible_failures.unwrap_or(self.failures)
    }
}

fn failed(units: &[Unit]) -> u64 {
    units.iter().map(|unit| unit.failed).sum()
}

/// Requests and failures, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Requests assigned.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, arm: &ArmCounts<'_>) {
        self.requests += arm.requests;
        self.failures += arm.failures;
    }

    pub(crate) fn plus(&mut self, more: Counts) {
        self.requests += more.requests;
        self.failures += more.failures;
    }

    /// Failures by request; `None` without requests.
    pub fn rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.failures as f64 / self.requests as f64)
    }
}
