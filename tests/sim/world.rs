//! Conditions common to both arms: spikes, drift, ramps, and latency distributions.

use std::sync::OnceLock;

use crate::rng::{Rng, normal};

/// Times at which a factor applies.
pub(crate) struct Spikes {
    factor: f64,
    spans: Vec<(f64, f64)>,
}

impl Spikes {
    /// Starts `every` seconds apart on average, lengths uniform from `low` to `high`.
    pub(crate) fn new(
        rng: &mut Rng,
        until: f64,
        every: f64,
        factor: f64,
        low: f64,
        high: f64,
    ) -> Spikes {
        let mut spans = Vec::new();
        let mut at = rng.exponential(every);
        while at < until {
            spans.push((at, at + rng.between(low, high)));
            at += rng.exponential(every);
        }
        Spikes { factor, spans }
    }

    pub(crate) fn at(&self, t: f64) -> f64 {
        let upto = self.spans.partition_point(|(start, _)| *start <= t);
        let near = &self.spans[upto.saturating_sub(4)..upto];
        if near.iter().any(|(_, end)| t < *end) {
            self.factor
        } else {
            1.0
        }
    }
}

/// 1, 5, 25 and 50 percent, each for a quarter of the time.
pub(crate) fn ramp(t: f64, whole: f64) -> f64 {
    [0.01, 0.05, 0.25, 0.5][((4.0 * t / whole) as usize).min(3)]
}

pub(crate) fn sine(t: f64, period: f64, phase: f64) -> f64 {
    (std::f64::consts::TAU * (t / period + phase)).sin()
}

/// A distribution of latency in microseconds.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Law {
    /// Median 20 ms, sigma 0.6.
    Lognormal,
    /// Nine tenths about 10 ms, one tenth about 200 ms, each with sigma 0.3.
    Bimodal,
    /// From 10 ms, exponent 2.5.
    Pareto,
    /// Median 20 ms, sigma 0.25, in whole milliseconds.
    WholeMs,
}

/// The slowdown of the canary.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Slower {
    No,
    All(f64),
    Tail(f64),
}

const Z90: f64 = 1.281_551_6;
const Z99: f64 = 2.326_347_9;

pub(crate) fn latency(rng: &mut Rng, law: Law, slower: Slower, scale: f64) -> u64 {
    let (z, base) = match law {
        Law::Lognormal if !matches!(slower, Slower::Tail(_)) => (0.0, lognormal(rng)),
        Law::Lognormal => {
            let z = rng.normal();
            (z, 20_000.0 * (0.6 * z).exp())
        }
        Law::Bimodal => {
            let middle = if rng.chance(0.9) { 10_000.0 } else { 200_000.0 };
            let z = rng.normal();
            (z, middle * (0.3 * z).exp())
        }
        Law::Pareto => (0.0, 10_000.0 * rng.uniform().powf(-1.0 / 2.5)),
        Law::WholeMs => {
            let z = rng.normal();
            (z, (20.0 * (0.25 * z).exp()).ceil() * 1_000.0)
        }
    };
    let factor = match slower {
        Slower::No => 1.0,
        Slower::All(x) => 1.0 + x,
        Slower::Tail(x) => 1.0 + x * ((z - Z90) / (Z99 - Z90)).clamp(0.0, 1.0),
    };
    (base * factor * scale + 0.5) as u64
}

/// The size of the table of quantiles.
const CELLS: usize = 1 << 14;

/// The log-normal distribution by linear interpolation between quantiles: the simulations draw more
/// than 10^9 of these.
fn lognormal(rng: &mut Rng) -> f64 {
    static QUANTILES: OnceLock<Vec<f64>> = OnceLock::new();
    let quantiles = QUANTILES.get_or_init(|| {
        let outermost = 0.25 / CELLS as f64;
        let u = |cell: usize| (cell as f64 / CELLS as f64).clamp(outermost, 1.0 - outermost);
        (0..=CELLS)
            .map(|cell| 20_000.0 * (0.6 * normal(u(cell))).exp())
            .collect()
    });
    let at = rng.uniform() * CELLS as f64;
    let cell = at as usize;
    quantiles[cell] + (at - cell as f64) * (quantiles[cell + 1] - quantiles[cell])
}

/// `n` responses of a baseline before the release.
pub(crate) fn past(rng: &mut Rng, law: Law, scale: f64, n: usize) -> Vec<(u64, u64)> {
    (0..n)
        .map(|_| (latency(rng, law, Slower::No, scale), 1))
        .collect()
}
