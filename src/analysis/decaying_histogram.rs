//! A decaying histogram of the baseline's recent latency, from which the bins are built.
//!
//! The buckets are those of an HDR histogram with two significant digits that begins at 1 µs: exact
//! below 256, then 128 per doubling. Values rounded by such a recorder fall into the same buckets,
//! and a bin's edge splits no bucket of either arm.

use serde::{Deserialize, Serialize};

/// Below this, a bucket holds one value.
const EXACT: u64 = 256;
/// Buckets per doubling above it.
const HALF: u64 = EXACT / 2;
/// Values from here on (more than an hour) share the last bucket.
const MAX: u64 = 3_600_000_000;
/// Smaller weights are dropped.
const DUST: f64 = 1e-3;

/// Recent responses of the baseline by latency, and its failures, which count as slower than any
/// response.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "StoredHistogram", from = "StoredHistogram")]
pub(crate) struct DecayingHistogram {
    counts: Box<[f64]>,
    /// Responses in the buckets before each one; kept between calls so that rebuilding bins does
    /// not allocate.
    before: Box<[f64]>,
    answers: f64,
    failures: f64,
}

/// The serialized form: only buckets that are not empty.
#[derive(Clone, Serialize, Deserialize)]
struct StoredHistogram {
    buckets: Vec<(usize, f64)>,
    failures: f64,
}

impl DecayingHistogram {
    pub(crate) fn new() -> DecayingHistogram {
        let buckets = bucket(MAX) + 1;
        DecayingHistogram {
            counts: vec![0.0; buckets].into(),
            before: vec![0.0; buckets].into(),
            answers: 0.0,
            failures: 0.0,
        }
    }

    /// Adds responses by latency, and failures.
    pub(crate) fn record(&mut self, latency_us: &[(u64, u64)], failures: u64) {
        for (value, count) in latency_us {
            if let Some(slot) = self.counts.get_mut(bucket(*value)) {
                *slot += *count as f64;
                self.answers += *count as f64;
            }
        }
        self.failures += failures as f64;
    }

    /// The total weight, in observations.
    pub(crate) fn total(&self) -> f64 {
        self.answers + self.failures
    }

    /// Scales the weights down to a total of at most `keep` observations, so that new observations
    /// count for more than old ones.
    pub(crate) fn forget_down_to(&mut self, keep: f64) {
        let factor = keep / self.total();
        if factor >= 1.0 || self.answers == 0.0 {
            return;
        }
        let mut answers = 0.0;
        for slot in &mut self.counts {
            *slot = if *slot * factor < DUST {
                0.0
            } else {
                *slot * factor
            };
            answers += *slot;
        }
        self.answers = answers;
        self.failures *= factor;
    }

    /// A view for quantiles and tails; `None` while there are no responses.
    pub(crate) fn view(&mut self) -> Option<HistogramView<'_>> {
        let mut sum = 0.0;
        for (before, count) in self.before.iter_mut().zip(&self.counts) {
            *before = sum;
            sum += count;
        }
        (sum > 0.0).then_some(HistogramView { past: self })
    }
}

impl From<DecayingHistogram> for StoredHistogram {
    fn from(past: DecayingHistogram) -> StoredHistogram {
        let held = past
            .counts
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, count)| *count > 0.0);
        StoredHistogram {
            buckets: held.collect(),
            failures: past.failures,
        }
    }
}

impl From<StoredHistogram> for DecayingHistogram {
    fn from(sparse: StoredHistogram) -> DecayingHistogram {
        let mut past = DecayingHistogram::new();
        for (bucket, count) in sparse.buckets {
            if let Some(slot) = past.counts.get_mut(bucket) {
                *slot = count;
                past.answers += count;
            }
        }
        past.failures = sparse.failures;
        past
    }
}

/// The histogram at one moment.
pub(crate) struct HistogramView<'a> {
    past: &'a DecayingHistogram,
}

impl HistogramView<'_> {
    /// The highest value of the bucket that contains the quantile. Failures rank above all
    /// responses, so a quantile among them gives the slowest response.
    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        self.bucket_of(quantile).map_or(0, highest)
    }

    /// The value just below that bucket.
    pub(crate) fn below_quantile(&self, quantile: f64) -> u64 {
        self.bucket_of(quantile).map_or(0, lowest).saturating_sub(1)
    }

    fn bucket_of(&self, quantile: f64) -> Option<usize> {
        let rank = quantile * self.past.total();
        let upto = self.past.before.partition_point(|before| *before < rank);
        let held = self.past.counts.get(..upto).unwrap_or_default();
        held.iter().rposition(|count| *count > 0.0)
    }

    /// The probability of a latency above `value`, failures included; within a bucket the responses
    /// count as evenly distributed.
    pub(crate) fn above(&self, value: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturates, and so does the last bucket"
        )]
        let index = bucket(value as u64);
        let (Some(before), Some(count)) =
            (self.past.before.get(index), self.past.counts.get(index))
        else {
            return 0.0;
        };
        let (low, high) = (lowest(index) as f64, highest(index) as f64);
        let part = ((value + 1.0 - low) / (high + 1.0 - low)).clamp(0.0, 1.0);
        let below = before + part * count;
        ((self.past.total() - below) / self.past.total()).max(0.0)
    }

    /// The weight of one observation.
    pub(crate) fn grain(&self) -> f64 {
        1.0 / self.past.total()
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    let value = value.min(MAX);
    let doublings = u64::from((value | (EXACT - 1)).ilog2()) - u64::from((EXACT - 1).ilog2());
    #[expect(clippy::cast_possible_truncation, reason = "a few thousand buckets")]
    let index = (doublings * HALF + (value >> doublings)) as usize;
    index
}

/// The lowest value of a bucket.
fn lowest(bucket: usize) -> u64 {
    let index = bucket as u64;
    let doublings = (index / HALF).saturating_sub(1);
    (index - doublings * HALF) << doublings
}

/// The highest value of a bucket.
fn highest(bucket: usize) -> u64 {
    lowest(bucket + 1) - 1
}

/// The edge at or above `value` that splits no bucket.
pub(crate) fn edge_at_or_above(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and so does the last bucket"
    )]
    let whole = value.ceil() as u64;
    highest(bucket(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_match_hdr_histogram() {
        let hdr = hdrhistogram::Histogram::<u64>::new_with_bounds(1, MAX, 2).unwrap();
        for value in
            (0..5_000).chain((1..31).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]))
        {
            let index = bucket(value);
            assert!(lowest(index) <= value && value <= highest(index), "{value}");
            assert_eq!(highest(index), hdr.highest_equivalent(value), "{value}");
            assert_eq!(lowest(index), hdr.lowest_equivalent(value), "{value}");
        }
    }

    #[test]
    fn quantiles_and_tail_probabilities() {
        let mut past = DecayingHistogram::new();
        assert!(past.view().is_none());
        let uniform: Vec<(u64, u64)> = (1..=200).map(|v| (v, 10)).collect();
        past.record(&uniform, 0);
        let view = past.view().unwrap();
        assert_eq!(view.quantile(0.5), 100);
        assert_eq!(view.quantile(0.999), 200);
        assert_eq!(view.below_quantile(0.999), 199);
        assert!((view.above(100.0) - 0.5).abs() < 1e-12);
        assert!((view.above(200.0)).abs() < 1e-12);
        assert!((view.above(0.0) - 1.0).abs() < 1e-12);
        assert!((view.above(1e18)).abs() < 1e-12);
        past.record(&[], 2_000);
        let view = past.view().unwrap();
        assert_eq!(
            view.quantile(0.9),
            200,
            "the slowest response, since failures have no latency"
        );
        assert!((view.above(200.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn histogram_decays_in_proportion_and_round_trips() {
        let mut past = DecayingHistogram::new();
        past.record(&[(100, 6_000), (900, 2_000)], 2_000);
        past.forget_down_to(1_000.0);
        assert!((past.total() - 1_000.0).abs() < 1e-9);
        assert!((past.view().unwrap().above(100.0) - 0.4).abs() < 1e-12);
        let json = serde_json::to_string(&past).unwrap();
        let mut back: DecayingHistogram = serde_json::from_str(&json).unwrap();
        assert!((back.view().unwrap().above(100.0) - 0.4).abs() < 1e-12);
        assert!(json.len() < 100, "{json}");
    }
}
