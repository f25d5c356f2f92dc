//! The bins of the latency test: cut at the baseline's past quantiles, with the likelihood ratio of
//! each bin under each of twenty alternatives. They are built only from cohorts scored before, so
//! no cohort influences the bins by which it is judged.

use serde::{Deserialize, Serialize};

use super::decaying_histogram::{HistogramView, edge_at_or_above};

/// The number of bins.
pub(crate) const BINS: usize = 8;
/// The number of alternatives, each a kind of slowdown.
pub(crate) const WAYS: usize = 20;
/// The quantiles at which the bins are cut.
const QUANTILES: [f64; BINS - 1] = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999];
/// The quantiles at which the advance test compares.
const MARKS: [f64; 3] = [0.5, 0.9, 0.99];
/// Alternatives: all latencies grow by this share.
const SCALES: [f64; 8] = [0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 3.0, 12.0];
/// Alternatives: the tail grows by this share from p99 on, by nothing up to p90, and by a ramp in
/// the logarithm between.
const STRETCHES: [f64; 6] = [0.1, 0.2, 0.4, 0.8, 2.0, 8.0];
/// Alternatives: this share of all requests moves beyond p99.
const CONTAMINATIONS: [f64; 6] = [0.002, 0.006, 0.02, 0.06, 0.2, 0.9];
/// The minimum of a ratio.
const FLOOR: f64 = 1e-6;
/// Observations added to each bin, for both hypotheses. Without them a bin that happens to be empty
/// in the past could give any ratio.
const SMOOTHING: f64 = 0.5;

/// The tolerated slowdown of the canary: a share of the baseline's latency or an absolute amount,
/// whichever is larger.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slack {
    pub(crate) worse_by: f64,
    pub(crate) at_least_us: f64,
}

impl Slack {
    /// The canary's latency that corresponds to the baseline's `edge`.
    pub(crate) fn inflate(self, edge: u64) -> u64 {
        if self.worse_by <= 0.0 && self.at_least_us <= 0.0 {
            return edge;
        }
        let edge = edge as f64;
        edge_at_or_above((edge * (1.0 + self.worse_by)).max(edge + self.at_least_us))
    }
}

/// Bins and likelihood ratios, fixed until the bins are rebuilt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bins {
    /// Upper edges of the baseline's bins, inclusive; the last bin has none.
    pub(crate) baseline_edges: [u64; BINS - 1],
    /// The canary's edges, with its slack.
    pub(crate) canary_edges: [u64; BINS - 1],
    /// The likelihood ratio of each bin under each alternative. It never decreases from bin to bin:
    /// otherwise the test would detect *different*, and roll back a faster canary.
    pub(crate) ratios: [[f64; BINS]; WAYS],
    /// The thresholds of the advance test before slack: p50, p90 and p99.
    marks: [QuantileMark; 3],
}

/// A latency that the baseline exceeds with a known probability.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct QuantileMark {
    us: u64,
    beyond: f64,
}

impl Bins {
    pub(crate) fn cut(past: &HistogramView<'_>, slack: Slack) -> Bins {
        let edges = QUANTILES.map(|quantile| past.quantile(quantile));
        let plain = edges.map(|edge| past.above(edge as f64));
        let [_, _, _, p90, _, p99, _] = edges;
        let mut ratios = [[1.0; BINS]; WAYS];
        let mut rows = ratios.iter_mut();
        for (scale, row) in SCALES.iter().zip(&mut rows) {
            let slower = edges.map(|edge| past.above(edge as f64 / (1.0 + scale)));
            *row = ratio(&plain, &slower, past.grain());
        }
        for (stretch, row) in STRETCHES.iter().zip(&mut rows) {
            let ramp = Ramp::new(p90, p99, *stretch);
            let slower = edges.map(|edge| past.above(ramp.inverse(edge as f64)));
            *row = ratio(&plain, &slower, past.grain());
        }
        let beyond = past.above(p99 as f64);
        for (part, row) in CONTAMINATIONS.iter().zip(&mut rows) {
            let slower =
                plain.map(|above| (1.0 - part) * above + part * contaminated(above, beyond));
            *row = ratio(&plain, &slower, past.grain());
        }
        Bins {
            baseline_edges: edges,
            canary_edges: edges.map(|edge| slack.inflate(edge)),
            ratios,
            marks: MARKS.map(|quantile| mark(past, quantile)),
        }
    }

    /// Canary and baseline thresholds at p50, p90 and p99 for the advance test, with a step's
    /// slack.
    pub(crate) fn thresholds(&self, slack: Slack) -> [Threshold; 3] {
        self.marks.map(|mark| Threshold {
            baseline_us: mark.us,
            canary_us: slack.inflate(mark.us),
            nominal: mark.beyond,
        })
    }
}

/// Just below the values of the quantile's bucket, so that the baseline exceeds it at least as
/// often as the quantile says. With the upper end the baseline might never exceed it when many
/// requests take the same time, and no canary could pass.
fn mark(past: &HistogramView<'_>, quantile: f64) -> QuantileMark {
    let us = past.below_quantile(quantile);
    QuantileMark {
        us,
        beyond: past.above(us as f64),
    }
}

/// A pair of thresholds at which the two arms are compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Threshold {
    pub(crate) baseline_us: u64,
    pub(crate) canary_us: u64,
    /// The share of the baseline's past above its threshold.
    pub(crate) nominal: f64,
}

/// The bin of a value: the number of edges below it.
pub(crate) fn bin(edges: &[u64; BINS - 1], value: u64) -> usize {
    edges.iter().map(|edge| usize::from(*edge < value)).sum()
}

/// The probability that a request moved beyond p99 is above an edge (the past has the share
/// `beyond` above p99).
fn contaminated(above: f64, beyond: f64) -> f64 {
    if beyond > 0.0 {
        (above / beyond).min(1.0)
    } else {
        1.0
    }
}

/// Likelihood ratios of the bins of two distributions, each given by its tail probabilities at the
/// edges, as a running maximum. A bin of zero width (two equal edges) takes the ratio of the
/// previous bin.
fn ratio(plain: &[f64; BINS - 1], slower: &[f64; BINS - 1], grain: f64) -> [f64; BINS] {
    let smooth = SMOOTHING * grain;
    let mut row = [1.0; BINS];
    let (mut plain_left, mut slower_left, mut highest) = (1.0, 1.0, FLOOR);
    let ends = plain
        .iter()
        .zip(slower)
        .map(|(p, s)| (*p, *s))
        .chain([(0.0, 0.0)]);
    for (slot, (plain_end, slower_end)) in row.iter_mut().zip(ends) {
        let (p, s): (f64, f64) = (plain_left - plain_end, slower_left - slower_end);
        if p > 0.0 || s > 0.0 {
            highest = ((s.max(0.0) + smooth) / (p.max(0.0) + smooth)).max(highest);
        }
        (plain_left, slower_left) = (plain_end, slower_end);
        *slot = highest;
    }
    row
}

/// `t -> t * (1 + stretch * ramp(t))`, where the ramp goes from 0 at p90 to 1 at p99 in the
/// logarithm of `t`.
struct Ramp {
    low: f64,
    high: f64,
    stretch: f64,
}

impl Ramp {
    fn new(p90: u64, p99: u64, stretch: f64) -> Ramp {
        Ramp {
            low: (p90 as f64).max(1.0),
            high: (p99 as f64).max(1.0),
            stretch,
        }
    }

    /// The value that is mapped to `target`.
    fn inverse(&self, target: f64) -> f64 {
        if target <= self.low {
            return target;
        }
        let whole = 1.0 + self.stretch;
        if target >= self.high * whole || self.high <= self.low {
            return (target / whole).max(self.low);
        }
        let (mut low, mut high) = (self.low, self.high.min(target));
        let width = (self.high / self.low).ln();
        for _ in 0..24 {
            let middle = 0.5 * (low + high);
            let stretched = middle * (1.0 + self.stretch * (middle / self.low).ln() / width);
            if stretched < target {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }
}
