//! The input of the judge: the requests that began in one tick, once every outcome is known.

use super::units::{Repeats, Unit};

/// All requests of the two arms that began in one tick under one weight, with their outcome at the
/// maturity age. A cohort is scored as a whole and in the order of the start ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cohort<'a> {
    /// The time of the cohort on the caller's scale; never decreases.
    pub at_ms: u64,
    /// The probability, 0 to 1, that a request of these two arms was assigned to the canary, fixed
    /// before the assignment. With several canaries it is this canary's weight divided by the sum
    /// of its own and the baseline's.
    pub weight: f64,
    /// The requests assigned to the baseline.
    pub baseline: ArmCounts<'a>,
    /// The requests assigned to the canary, whichever upstream finally responded.
    pub canary: ArmCounts<'a>,
}

/// The requests of one arm in a cohort.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ArmCounts<'a> {
    /// Requests assigned.
    pub requests: u64,
    /// Requests that had failed, or were still open, at the maturity age.
    pub failures: u64,
    /// Responses that were not failures, as pairs of a value in microseconds and a count; in sticky
    /// releases only the first request of each unit. `None` if latency was not measured; then
    /// failures do not count as slow either.
    pub latency_us: Option<&'a [(u64, u64)]>,
    /// Keys seen for the first time, in recordings without units: the basis of the sample-ratio
    /// test. `None` means that each request was assigned separately.
    pub new_keys: Option<u64>,
    /// Clients with their first failure in this release. `None` counts each failure as a different
    /// client.
    pub failing_clients: Option<u64>,
    /// Failures that reached a user, that is, were not rescued. `None` means all.
    pub visible_failures: Option<u64>,
    /// Requests that the client aborted, whether or not they count as failures. `None` if not
    /// counted.
    pub aborts: Option<u64>,
    /// Sticky releases: units that began and units that failed, by their probability, in the arm of
    /// their assignment (the key may fail on the other arm). With them errors are judged by unit
    /// instead of by request, and latencies are those of first requests. `None` where each request
    /// was assigned separately.
    pub units: Option<&'a [Unit]>,
    /// Sticky releases: units whose first request failed, which counts as slow. `None` means all
    /// failed units, up to the number of failures.
    pub failed_first: Option<u64>,
    /// Sticky releases: repeated failures of the same keys. `None` counts each failure as a
    /// different key's.
    pub repeats: Option<Repeats>,
}

impl ArmCounts<'_> {
    /// An arm with known errors only.
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

    /// Failures that count as slow responses: in sticky releases those of first requests.
    pub(crate) fn slow_failures(&self) -> u64 {
        match self.units {
            Some(units) => self
                .failed_first
                .unwrap_or_else(|| failed(units).min(self.failures)),
            None => self.failures,
        }
    }

    /// Failures, counting only the first of each unit: repeated failures of one key add no
    /// evidence.
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

/// Sums of requests and failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Requests assigned.
    pub requests: u64,
    /// Failed requests.
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

    /// Failures per request; `None` without requests.
    pub fn rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.failures as f64 / self.requests as f64)
    }
}
