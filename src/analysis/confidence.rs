//! The confidence sequence for `p_canary - ratio * p_baseline`, computed on demand from the totals
//! by weight: the differences that neither the abort test nor the advance test rejects.
//!
//! It is valid at all times simultaneously if the difference is constant. Under drift it is a
//! summary; only the tests decide.

use serde::{Deserialize, Serialize};

use super::advance::{self, KAPPA};
use super::error::{self, BETS, Margin, Pair};
use super::sample_ratio::SampleRatioTotals;
use super::wealth::{AdvanceWealth, Wealth};

/// Bisection steps on the interval from -ratio to 1: an error of 1e-8.
const HALVINGS: u32 = 28;

/// An interval for a difference of rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub lower: f64,
    /// The upper end.
    pub upper: f64,
    /// The probability that it is valid at all times.
    pub level: f64,
}

impl Interval {
    /// The intersection with an earlier interval of the same sequence.
    #[must_use]
    pub(crate) fn and(self, earlier: Option<Interval>) -> Interval {
        let Some(earlier) = earlier else { return self };
        Interval {
            lower: self.lower.max(earlier.lower),
            upper: self.upper.min(earlier.upper),
            level: self.level,
        }
    }
}

/// The interval at `level` (such as 0.95).
pub(crate) fn interval(totals: &[SampleRatioTotals], ratio: f64, level: f64) -> Interval {
    let limit = (2.0 / (1.0 - level)).ln();
    let at = |worse_by: f64| Margin { ratio, worse_by };
    let (mut lower, mut upper) = (-ratio, 1.0);
    if worse(totals, at(lower)) >= limit {
        lower = bisect(lower, upper, |d| worse(totals, at(d)) >= limit);
    }
    if no_worse(totals, at(upper)) >= limit {
        upper = bisect(upper, -ratio, |d| no_worse(totals, at(d)) >= limit);
    }
    Interval {
        lower,
        upper,
        level,
    }
}

/// The last value between `holds` and `fails` for which `test` holds.
fn bisect(mut holds: f64, mut fails: f64, test: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..HALVINGS {
        let middle = 0.5 * (holds + fails);
        if test(middle) {
            holds = middle;
        } else {
            fails = middle;
        }
    }
    holds
}

/// `ln` of the evidence that the difference is more than the margin (without fixed share, which
/// belongs to the decision).
fn worse(totals: &[SampleRatioTotals], margin: Margin) -> f64 {
    let mut wealth = Wealth::<BETS>::new();
    for at in totals {
        let pair = Pair::of(at.canary.requests, at.canary.failures);
        error::ErrorGains::new(at.weight, margin).score(
            wealth.bets_mut(),
            pair,
            at.baseline.failures as f64,
        );
    }
    wealth.log_e()
}

/// `ln` of the evidence that the difference is less than the margin.
fn no_worse(totals: &[SampleRatioTotals], margin: Margin) -> f64 {
    let mut stakes = AdvanceWealth::<{ KAPPA.len() }>::new();
    for at in totals {
        let pair = Pair::of(at.canary.requests, at.canary.failures);
        advance::AdvanceGains::new(at.weight, margin).score(
            stakes.bets_mut(),
            pair,
            at.baseline.failures as f64,
        );
    }
    stakes.log_e()
}
