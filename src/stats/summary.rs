//! A mergeable count of outcomes, with the distribution of their latencies.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::{Class, Outcome};
use crate::model::api;

/// The maximum latency of a histogram: an hour. A longer one counts as this.
pub const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Two significant digits: a latency is known to within one percent, in 27 KiB for each
/// distribution.
const SIGNIFICANT_DIGITS: u8 = 2;

/// The outcomes of one upstream. Two summaries of disjoint requests merge into that of all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    counts: [u64; Class::COUNT],
    first_byte: Histogram<u64>,
    total: Histogram<u64>,
}

impl Summary {
    /// An empty summary; its only allocation.
    pub fn new() -> Summary {
        Summary {
            counts: [0; Class::COUNT],
            first_byte: empty_histogram(),
            total: empty_histogram(),
        }
    }

    /// Counts one request.
    pub fn record(&mut self, outcome: &Outcome) {
        self.add_count(outcome.class, 1);
        if outcome.class == Class::ClientAbort {
            return;
        }
        self.total.saturating_record(outcome.total_us.max(1));
        if let Some(first_byte_us) = outcome.first_byte_us {
            self.first_byte.saturating_record(first_byte_us.max(1));
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Summary) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        // All summaries have the same bounds, and only different bounds could make an addition
        // fail.
        let first_byte = self.first_byte.add(&other.first_byte);
        let total = self.total.add(&other.total);
        debug_assert!(first_byte.is_ok() && total.is_ok());
    }

    /// Resets the counts and keeps the memory.
    pub fn clear(&mut self) {
        self.counts = [0; Class::COUNT];
        self.first_byte.reset();
        self.total.reset();
    }

    /// The number of requests that ended in this class.
    pub fn count(&self, class: Class) -> u64 {
        self.counts.get(class.index()).copied().unwrap_or_default()
    }

    /// The number of requests.
    pub fn requests(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The number of requests that count against the upstream.
    pub fn failures(&self) -> u64 {
        Class::ALL
            .iter()
            .filter(|class| class.is_failure())
            .map(|class| self.count(*class))
            .sum()
    }

    /// Failures per request, 0 to 1; 0 without requests.
    pub fn error_rate(&self) -> f64 {
        match self.requests() {
            0 => 0.0,
            #[expect(
                clippy::cast_precision_loss,
                reason = "a ratio; counts are far below 2^53"
            )]
            requests => self.failures() as f64 / requests as f64,
        }
    }

    /// Whether there was no request.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// Microseconds from arrival to the first byte of the response.
    pub fn first_byte(&self) -> &Histogram<u64> {
        &self.first_byte
    }

    /// Microseconds from arrival to the end of the response.
    pub fn total(&self) -> &Histogram<u64> {
        &self.total
    }

    /// The summary as the admin API shows it.
    pub fn window(&self) -> api::Window {
        let classes = Class::ALL
            .into_iter()
            .filter(|class| self.count(*class) > 0)
            .map(|class| (class.as_str().to_owned(), self.count(class)))
            .collect::<BTreeMap<_, _>>();
        api::Window {
            requests: self.requests(),
            failures: self.failures(),
            error_rate: self.error_rate(),
            classes,
            latency_us: latency(&self.total),
            first_byte_us: latency(&self.first_byte),
        }
    }

    pub(super) fn counts(&self) -> &[u64; Class::COUNT] {
        &self.counts
    }

    pub(super) fn histograms(&self) -> [&Histogram<u64>; 2] {
        [&self.first_byte, &self.total]
    }

    pub(super) fn histograms_mut(&mut self) -> [&mut Histogram<u64>; 2] {
        [&mut self.first_byte, &mut self.total]
    }

    pub(super) fn add_count(&mut self, class: Class, requests: u64) {
        if let Some(count) = self.counts.get_mut(class.index()) {
            *count += requests;
        }
    }
}

impl Default for Summary {
    fn default() -> Self {
        Summary::new()
    }
}

#[expect(
    clippy::expect_used,
    reason = "the bounds are constants that hdrhistogram takes; each test makes one"
)]
fn empty_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS).expect("valid bounds")
}

fn latency(histogram: &Histogram<u64>) -> api::Latency {
    let at = |quantile| histogram.value_at_quantile(quantile);
    api::Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(class: Class, total_us: u64) -> Outcome {
        Outcome {
            class,
            first_byte_us: (class == Class::Success).then_some(total_us / 2),
            total_us,
        }
    }

    #[test]
    fn window_has_counts_rates_and_percentiles() {
        let mut summary = Summary::new();
        for total_us in 1..=1000 {
            summary.record(&outcome(Class::Success, total_us * 100));
        }
        summary.record(&outcome(Class::ConnectError, 50));
        summary.record(&outcome(Class::ClientAbort, 77_000_000));
        let window = summary.window();
        assert_eq!((window.requests, window.failures), (1002, 1));
        assert!((window.error_rate - 1.0 / 1002.0).abs() < 1e-12);
        assert_eq!(window.classes["2xx"], 1000);
        assert_eq!(window.classes.len(), 3);
        let within_a_percent =
            |got: u64, want: u64| assert!(got.abs_diff(want) <= want / 100, "{got} is not {want}");
        within_a_percent(window.latency_us.p50, 50_000);
        within_a_percent(window.latency_us.p99, 99_000);
        within_a_percent(window.latency_us.p999, 99_900);
        within_a_percent(window.first_byte_us.p90, 45_000);
    }

    #[test]
    fn latencies_are_clamped_to_the_bounds() {
        let mut summary = Summary::new();
        summary.record(&outcome(Class::Success, 0));
        summary.record(&outcome(Class::Timeout, u64::MAX));
        assert_eq!(summary.total().len(), 2);
        assert_eq!(summary.total().min(), 1);
        assert!(summary.total().max() >= LATENCY_US_MAX);
    }

    #[test]
    fn merge_equals_summary_of_both() {
        let (mut left, mut right, mut both) = (Summary::new(), Summary::new(), Summary::new());
        for i in 0..500 {
            let one = outcome(Class::ALL[i % Class::COUNT], (i * i) as u64);
            both.record(&one);
            if i % 3 == 0 {
                left.record(&one)
            } else {
                right.record(&one)
            }
        }
        left.merge(&right);
        assert_eq!(left, both);
        left.clear();
        assert!(left.is_empty());
        assert_eq!(left.window(), api::Window::default());
    }
}
