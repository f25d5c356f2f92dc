//! The error-rate test: does the canary fail more often than `ratio` times the baseline, plus
//! `worse_by`?
//!
//! Given the past, each request is assigned to an arm with a known probability, whatever the common
//! error rate does. Bets that gain when failures fall on the canary more often than that
//! probability explains lose on average while the canary is no worse. The bet sizes form a grid
//! over "relative excess at small weight", which has the same meaning at every weight.

use std::array;

use serde::{Deserialize, Serialize};

use super::wealth::Wealth;

/// The number of bets in the mixture.
pub(crate) const BETS: usize = 16;

/// The tolerated failure rate: `p_canary <= ratio * p_baseline + worse_by`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Margin {
    pub(crate) ratio: f64,
    pub(crate) worse_by: f64,
}

impl Margin {
    /// A fixed limit of the canary's rate, independent of the baseline.
    pub(crate) fn fixed(limit: f64) -> Margin {
        Margin {
            ratio: 0.0,
            worse_by: limit,
        }
    }
}

/// The log gain of each bet for each kind of request, at one weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ErrorGains {
    canary_bad: [f64; BETS],
    canary_good: [f64; BETS],
    baseline_bad: [f64; BETS],
}

impl ErrorGains {
    /// The gains at `weight`, strictly between 0 and 1. A margin with `ratio` 0 ignores the
    /// baseline, so any weight below 1 is valid.
    pub(crate) fn new(weight: f64, margin: Margin) -> ErrorGains {
        let rho = margin.ratio * weight / (1.0 - weight);
        // 1/16, 1/8 … 2048: a power of two is exact.
        let bet = |j: usize| Bet::new((j as f64 - 4.0).exp2(), rho, margin.worse_by);
        let bets: [Bet; BETS] = array::from_fn(bet);
        ErrorGains {
            canary_bad: bets.map(|bet| bet.canary_bad),
            canary_good: bets.map(|bet| bet.canary_good),
            baseline_bad: bets.map(|bet| bet.baseline_bad),
        }
    }

    /// Adds the gains of a cohort to the bets and returns the largest gain, at least that of cash.
    /// The order of the requests does not matter, since the bets are the same for all of them.
    pub(crate) fn score(&self, bets: &mut [f64; BETS], canary: Pair, baseline_bad: f64) -> f64 {
        let rows = self
            .canary_bad
            .iter()
            .zip(&self.canary_good)
            .zip(&self.baseline_bad);
        let mut most = 0.0_f64;
        for (bet, ((bad, good), stable)) in bets.iter_mut().zip(rows) {
            let gain = canary.bad * bad + canary.good * good + baseline_bad * stable;
            *bet += gain;
            most = most.max(gain);
        }
        most
    }

    #[cfg(test)]
    pub(crate) fn gains(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        (0..BETS).map(|j| {
            (
                self.canary_bad[j],
                self.canary_good[j],
                self.baseline_bad[j],
            )
        })
    }
}

/// Good and bad requests of the canary in one cohort.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) bad: f64,
    pub(crate) good: f64,
}

impl Pair {
    pub(crate) fn of(requests: u64, failures: u64) -> Pair {
        Pair {
            bad: failures as f64,
            // More units may fail in a segment than begin in it.
            good: requests as f64 - failures as f64,
        }
    }
}

/// The gains of one bet.
#[derive(Clone, Copy)]
struct Bet {
    canary_bad: f64,
    canary_good: f64,
    baseline_bad: f64,
}

impl Bet {
    /// The bet on a relative excess of `excess`.
    ///
    /// `worse_by` is negative only for the confidence sequence; the bet size then ignores it, which
    /// keeps every gain above zero.
    fn new(excess: f64, rho: f64, worse_by: f64) -> Bet {
        let inverse = 1.0 / excess;
        let lambda = 1.0 / (inverse + worse_by.max(0.0) + rho);
        Bet {
            canary_bad: (lambda * (1.0 - worse_by)).ln_1p(),
            canary_good: (-lambda * worse_by).ln_1p(),
            baseline_bad: log_remainder(lambda, rho, inverse + worse_by.max(0.0)),
        }
    }
}

/// `ln(1 - lambda * rho)`, where `lambda = 1/(rest + rho)`, exact for small and for large `rho`.
fn log_remainder(lambda: f64, rho: f64, rest: f64) -> f64 {
    if rho < rest {
        (-lambda * rho).ln_1p()
    } else {
        (lambda * rest).ln()
    }
}

/// The running test. It keeps the table of the last weight, since weights change seldom.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ErrorTest {
    margin: Margin,
    wealth: Wealth<BETS>,
    #[serde(skip)]
    table: Option<(f64, Margin, ErrorGains)>,
}

impl ErrorTest {
    pub(crate) fn new(margin: Margin) -> ErrorTest {
        ErrorTest {
            margin,
            wealth: Wealth::new(),
            table: None,
        }
    }

    /// The test with a recorded wealth.
    pub(crate) fn resume(margin: Margin, wealth: Wealth<BETS>) -> ErrorTest {
        ErrorTest {
            margin,
            wealth,
            table: None,
        }
    }

    /// Scores a cohort assigned at `weight`, strictly between 0 and 1 (below 1 with `ratio` 0).
    /// Returns an upper bound of the growth of the wealth (in log space).
    pub(crate) fn score(&mut self, weight: f64, canary: Pair, baseline_bad: u64) -> f64 {
        self.bet(weight, self.margin, canary, baseline_bad)
    }

    /// Scores a cohort at full weight, where the canary is compared with a fixed limit only.
    pub(crate) fn score_alone(&mut self, limit: f64, canary: Pair) -> f64 {
        self.bet(0.0, Margin::fixed(limit), canary, 0)
    }

    fn bet(&mut self, weight: f64, margin: Margin, canary: Pair, baseline_bad: u64) -> f64 {
        let fits = |(known, at, _): &(f64, Margin, ErrorGains)| *known == weight && *at == margin;
        if !self.table.as_ref().is_some_and(fits) {
            self.table = Some((weight, margin, ErrorGains::new(weight, margin)));
        }
        self.table.as_ref().map_or(0.0, |(_, _, table)| {
            table.score(self.wealth.bets_mut(), canary, baseline_bad as f64)
        })
    }

    pub(crate) fn share(&mut self, k: u32) {
        self.wealth.share(k);
    }

    pub(crate) fn log_e(&self) -> f64 {
        self.wealth.log_e()
    }

    pub(crate) fn margin(&self) -> Margin {
        self.margin
    }

    pub(crate) fn wealth(&self) -> &Wealth<BETS> {
        &self.wealth
    }
}
