//! A latency epoch: bins cut at the baseline's past quantiles, and how much likelier each bin
//! becomes under each of twenty ways of being slower. Everything in it comes from cohorts that were
//! scored before, so nothing that is judged with it has helped to shape it.

use serde::{Deserialize, Serialize};

use super::decaying_histogram::{HistogramView, edge_at_or_above};

/// Bins.
pub(crate) const BINS: usize = 8;
/// Ways of being slower.
pub(crate) const WAYS: usize = 20;
/// The quantiles at which the bins are cut.
const QUANTILES: [f64; BINS - 1] = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999];
/// The quantiles at which the advance test compares.
const MARKS: [f64; 3] = [0.5, 0.9, 0.99];
/// Everything takes so much longer.
const SCALES: [f64; 8] = [0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 3.0, 12.0];
/// The tail is drawn out: nothing up to p90, so much from p99 on, a ramp in the logarithm between.
const STRETCHES: [f64; 6] = [0.1, 0.2, 0.4, 0.8, 2.0, 8.0];
/// So many of all requests are thrown beyond p99.
const CONTAMINATIONS: [f64; 6] = [0.002, 0.006, 0.02, 0.06, 0.2, 0.9];
/// No ratio is smaller than this.
const FLOOR: f64 = 1e-6;
/// Observations, of both hypotheses alike, added to each bin. Without them a bin that the past
/// happened to leave empty would make any ratio.
const SMOOTHING: f64 = 0.5;

/// How much slower the canary may be: up to a share of the baseline's latency or an absolute
/// amount, whichever is more.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slack {
    pub(crate) worse_by: f64,
    pub(crate) at_least_us: f64,
}

impl Slack {
    /// The latency of the canary that still counts as the baseline's `edge`.
    pub(crate) fn inflate(self, edge: u64) -> u64 {
        if self.worse_by <= 0.0 && self.at_least_us <= 0.0 {
            return edge;
        }
        let edge = edge as f64;
        edge_at_or_above((edge * (1.0 + self.worse_by)).max(edge + self.at_least_us))
    }
}

/// Bins and ratios, frozen until the next cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bins {
    /// Upper edges of the baseline's bins, inclusive; the last bin has none.
    pub(crate) baseline_edges: [u64; BINS - 1],
    /// The same for the canary, with its slack.
    pub(crate) canary_edges: [u64; BINS - 1],
    /// For each way of being slower, how many times likelier each bin is. Never decreases from bin
    /// to bin: otherwise the test would ask for *different*, and roll back a canary that is
    /// faster.
    pub(crate) ratios: [[f64; BINS]; WAYS],
    /// Where the advance test compares, before its slack: p50, p90 and p99.
    marks: [QuantileMark; 3],
}

/// A latency that the baseline is beyond with a known chance.
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

    /// Canary and baseline thresholds at p50, p90 and p99, for the advance test, with the slack of
    /// a step.
    pub(crate) fn thresholds(&self, slack: Slack) -> [Threshold; 3] {
        self.marks.map(|mark| Threshold {
            baseline_us: mark.us,
            canary_us: slack.inflate(mark.us),
            nominal: mark.beyond,
        })
    }
}

/// Just below the values of the quantile's bucket, so that the baseline is beyond it as often as
/// the quantile says or more. At their upper end it might never be, when many requests take the
/// same time, and then no canary could ever be proved as good.
fn mark(past: &HistogramView<'_>, quantile: f64) -> QuantileMark {
    let us = past.below_quantile(quantile);
    QuantileMark {
        us,
        beyond: past.above(us as f64),
    }
}

/// A pair of thresholds that the two arms are compared at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Threshold {
    pub(crate) baseline_us: u64,
    pub(crate) canary_us: u64,
    /// The part of the baseline's past above its threshold.
    pub(crate) nominal: f64,
}

/// The bin of a value: the number of edges below it.
pub(crate) fn bin(edges: &[u64; BINS - 1], value: u64) -> usize {
    edges.iter().map(|edge| usize::from(*edge < value)).sum()
}

/// The chance to be above an edge for a request that was thrown beyond p99 (of which the past holds
/// `beyond`).
fn contaminated(above: f64, beyond: f64) -> f64 {
    if beyond > 0.0 {
        (above / beyond).min(1.0)
    } else {
        1.0
    }
}

/// Ratios of the bins of two laws, each given by its chances to be above the edges, as a running
/// maximum. A bin that has no width, because two edges are equal, takes the ratio of the bin
/// before.
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

    /// The value that is stretched to `target`.
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
