//! The wealth of a mixture of bets, in log space. Under the null hypothesis its expectation never
//! grows, however often it is checked, so the probability that it ever reaches `1/alpha` is at most
//! `alpha` (Ville).

use serde::{Deserialize, Serialize};

use super::math::{log_add_exp, log_sum_exp, relative};

/// The share of the opening wealth that never bets. It bounds the loss, and funds the bets on a
/// late change.
pub(crate) const CASH: f64 = 0.2;

/// `N` bets of equal opening share, and cash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "[f64; N]: Serialize",
    deserialize = "[f64; N]: Deserialize<'de>"
))]
pub(crate) struct Wealth<const N: usize> {
    bets: [f64; N],
    cash: f64,
}

impl<const N: usize> Wealth<N> {
    pub(crate) fn new() -> Self {
        Wealth {
            bets: [Self::prior(); N],
            cash: CASH.ln(),
        }
    }

    fn prior() -> f64 {
        ((1.0 - CASH) / N as f64).ln()
    }

    /// The bets; gains are added in log space.
    pub(crate) fn bets_mut(&mut self) -> &mut [f64; N] {
        &mut self.bets
    }

    /// Adds to each bet, in log space, its gain.
    pub(crate) fn win(&mut self, gains: &[f64; N]) {
        for (bet, gain) in self.bets.iter_mut().zip(gains) {
            *bet += gain;
        }
    }

    /// All logarithms, the bets' and then the cash's, for the evidence.
    pub(crate) fn logs(&self) -> Vec<f64> {
        self.bets.iter().copied().chain([self.cash]).collect()
    }

    /// The wealth recorded by [`Wealth::logs`]; `None` if the record has another length.
    pub(crate) fn from_logs(logs: &[f64]) -> Option<Self> {
        let (cash, bets) = logs.split_last()?;
        Some(Wealth {
            bets: bets.try_into().ok()?,
            cash: *cash,
        })
    }

    /// `ln` of the total wealth.
    pub(crate) fn log_e(&self) -> f64 {
        let high = self.bets.iter().fold(self.cash, |high, bet| high.max(*bet));
        let sum: f64 = self.bets.iter().map(|bet| relative(*bet, high)).sum();
        high + (sum + relative(self.cash, high)).ln()
    }

    /// Redistributes a part `1/(k+1)` of the total wealth to all bets in their opening shares, so
    /// that a change after a long good period is still bet on with enough wealth (fixed share;
    /// Herbster and Warmuth). The total does not change.
    pub(crate) fn share(&mut self, k: u32) {
        let part = 1.0 / (f64::from(k) + 1.0);
        let kept = (-part).ln_1p();
        let given = self.log_e() + part.ln();
        let bet = given + Self::prior();
        for wealth in &mut self.bets {
            *wealth = log_add_exp(*wealth + kept, bet);
        }
        self.cash = log_add_exp(self.cash + kept, given + CASH.ln());
    }
}

/// `N` bets of equal opening share without cash, for the advance tests, which restart at each step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "[f64; N]: Serialize",
    deserialize = "[f64; N]: Deserialize<'de>"
))]
pub(crate) struct AdvanceWealth<const N: usize>([f64; N]);

impl<const N: usize> AdvanceWealth<N> {
    pub(crate) fn new() -> Self {
        AdvanceWealth([-(N as f64).ln(); N])
    }

    pub(crate) fn bets_mut(&mut self) -> &mut [f64; N] {
        &mut self.0
    }

    pub(crate) fn log_e(&self) -> f64 {
        log_sum_exp(&self.0)
    }

    /// Discards `excess` of the wealth (in log space). Always valid: it only reduces the evidence.
    pub(crate) fn forgo(&mut self, excess: f64) {
        for bet in &mut self.0 {
            *bet -= excess;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_share_keeps_the_total() {
        let mut wealth = Wealth::<16>::new();
        assert!(wealth.log_e().abs() < 1e-12);
        for k in 1..200 {
            for (i, bet) in wealth.bets_mut().iter_mut().enumerate() {
                *bet += (i as f64 - 7.0) * f64::from(k % 7);
            }
            let before = wealth.log_e();
            wealth.share(k);
            assert!(
                (wealth.log_e() - before).abs() <= 1e-12 * before.abs().max(1.0),
                "{k}"
            );
        }
    }
}
