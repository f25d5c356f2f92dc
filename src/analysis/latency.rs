//! The latency test: is the canary's latency larger, over the whole distribution, than the
//! baseline's with its slack?
//!
//! Requests fall into ordered bins. Each bet multiplies by a factor that grows with the bin for a
//! canary request, and by the balancing factor for a baseline request, so that it gains nothing on
//! average while the canary is no slower, however slow both arms are. Failures fall into the
//! slowest bin: a canary that rejects requests quickly is not fast.

use serde::{Deserialize, Serialize};

use super::bins::{BINS, Bins, Slack, WAYS, bin};
use super::cohort::ArmCounts;
use super::decaying_histogram::DecayingHistogram;
use super::wealth::Wealth;

/// Baseline observations required before bets are made.
const ENOUGH: f64 = 2_000.0;
/// The number that suffices after [`PATIENCE_MS`].
const FEW: f64 = 200.0;
const PATIENCE_MS: u64 = 30_000;
/// The minimum interval between rebuilds of the bins. Any interval is valid (the bins come from
/// cohorts scored before). While latency drifts, the bets lose with every second of the bins' age:
/// a tail that is a fifth slower is detected in 263 seconds, with bins of five seconds in 352
/// (P14d.5 of `make sim`).
const RECUT_MS: u64 = 1_000;
/// The weight of the past kept at each rebuild, in observations. Less follows a drift faster, more
/// is less noisy.
const REMEMBERED: f64 = 4_000.0;

/// Observations of one arm by bin.
pub(crate) type BinCounts = [f64; BINS];

/// The log gain of each bet for an observation in each bin, at one weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LatencyGains<const M: usize> {
    canary: [[f64; BINS]; M],
    baseline: [[f64; BINS]; M],
}

impl<const M: usize> LatencyGains<M> {
    pub(crate) fn new(weight: f64, ratios: &[[f64; BINS]; M]) -> LatencyGains<M> {
        let norm = |ratio: f64| (weight * ratio + 1.0 - weight).ln();
        LatencyGains {
            canary: ratios.map(|row| row.map(|ratio| ratio.ln() - norm(ratio))),
            baseline: ratios.map(|row| row.map(|ratio| -norm(ratio))),
        }
    }

    /// Adds the gains of the observations to the bets and returns the largest gain, at least that
    /// of cash.
    pub(crate) fn score(
        &self,
        bets: &mut [f64; M],
        canary: &BinCounts,
        baseline: &BinCounts,
    ) -> f64 {
        let mut most = 0.0_f64;
        for (bet, (a, c)) in bets.iter_mut().zip(self.canary.iter().zip(&self.baseline)) {
            let gain = dot(a, canary) + dot(c, baseline);
            *bet += gain;
            most = most.max(gain);
        }
        most
    }

    #[cfg(test)]
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&BinCounts, &BinCounts)> {
        self.canary.iter().zip(&self.baseline)
    }
}

fn dot(left: &BinCounts, right: &BinCounts) -> f64 {
    left.iter().zip(right).map(|(l, r)| l * r).sum()
}

/// The running test, with the baseline's past.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LatencyTest {
    slack: Slack,
    wealth: Wealth<WAYS>,
    /// The wealth without bets on the canary's failures. It counts while they are too few to cause
    /// a rollback.
    without_failures: Wealth<WAYS>,
    /// The wealth if the canary's failures had been as fast as the baseline's requests: the
    /// evidence from slowness alone. Omitting the failures would not do, since then only the
    /// baseline has the fast responses, which looks slow too. It names the cause and decides
    /// nothing.
    by_slowness: Wealth<WAYS>,
    past: DecayingHistogram,
    first_ms: Option<u64>,
    next_cut_ms: u64,
    epoch: Option<Bins>,
    stretch: LatencySegment,
    /// The table of the last weight and these bins. Kept when stale, so that a new one does not
    /// allocate.
    #[serde(skip)]
    table: Option<Box<LatencyGains<WAYS>>>,
    #[serde(skip)]
    table_of: Option<f64>,
}

/// A segment of cohorts with the same weight and bins, from whose counts the wealth can be
/// recomputed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LatencySegment {
    pub(crate) opening: Wealth<WAYS>,
    pub(crate) weight: f64,
    pub(crate) canary: BinCounts,
    pub(crate) baseline: BinCounts,
}

impl LatencyTest {
    pub(crate) fn new(slack: Slack) -> LatencyTest {
        LatencyTest {
            slack,
            wealth: Wealth::new(),
            without_failures: Wealth::new(),
            by_slowness: Wealth::new(),
            past: DecayingHistogram::new(),
            first_ms: None,
            next_cut_ms: 0,
            epoch: None,
            stretch: LatencySegment {
                opening: Wealth::new(),
                weight: 0.0,
                canary: BinCounts::default(),
                baseline: BinCounts::default(),
            },
            table: None,
            table_of: None,
        }
    }

    /// Adds the baseline's history before the release.
    pub(crate) fn warm(&mut self, latency_us: &[(u64, u64)], failures: u64) {
        self.past.record(latency_us, failures);
    }

    /// Rebuilds the bins when due; true when they are new. Called before a cohort is scored, never
    /// after.
    pub(crate) fn recut(&mut self, now_ms: u64) -> bool {
        let enough = self.past.total() >= ENOUGH;
        let first = *self.first_ms.get_or_insert(now_ms);
        let patient = now_ms.saturating_sub(first) >= PATIENCE_MS && self.past.total() >= FEW;
        if now_ms < self.next_cut_ms || !(enough || patient) {
            return false;
        }
        let Some(view) = self.past.view() else {
            return false;
        };
        self.epoch = Some(Bins::cut(&view, self.slack));
        self.past.forget_down_to(REMEMBERED);
        self.next_cut_ms = now_ms + RECUT_MS;
        self.close();
        true
    }

    /// Ends the segment: later cohorts use other tables or another wealth.
    fn close(&mut self) {
        self.stretch.open(&self.wealth, 0.0);
        self.table_of = None;
    }

    /// Bets on a cohort assigned at `weight`, strictly between 0 and 1, if there are bins yet.
    /// Returns an upper bound of the growth of the wealth (in log space).
    pub(crate) fn score(
        &mut self,
        weight: f64,
        canary: &BinCounts,
        baseline: &BinCounts,
        canary_failures: u64,
    ) -> f64 {
        let Some(epoch) = &self.epoch else { return 0.0 };
        if self.table_of != Some(weight) {
            let table = LatencyGains::new(weight, &epoch.ratios);
            match &mut self.table {
                Some(kept) => **kept = table,
                none => *none = Some(Box::new(table)),
            }
            self.table_of = Some(weight);
            self.stretch.open(&self.wealth, weight);
        }
        let Some(table) = &self.table else { return 0.0 };
        self.stretch.add(canary, baseline);
        let mut gains = [0.0; WAYS];
        let most = table.score(&mut gains, canary, baseline);
        self.wealth.win(&gains);
        if canary_failures == 0 {
            self.without_failures.win(&gains);
            self.by_slowness.win(&gains);
            return most;
        }
        let mut answers = *canary;
        let [.., slowest] = &mut answers;
        *slowest -= canary_failures as f64;
        table.score(self.without_failures.bets_mut(), &answers, baseline);
        let imputed = as_fast_as(&self.stretch.baseline, canary_failures as f64, answers);
        table.score(self.by_slowness.bets_mut(), &imputed, baseline);
        most
    }

    /// Adds a cohort's baseline to the past, after the cohort was scored.
    pub(crate) fn remember(&mut self, baseline: &ArmCounts<'_>) {
        if let Some(latency_us) = baseline.latency_us {
            self.past.record(latency_us, baseline.slow_failures());
        }
    }

    /// The 99th percentile of the baseline's past, in microseconds; `None` while there are too few
    /// observations.
    pub(crate) fn past_p99(&mut self) -> Option<u64> {
        let known = self.past.total() >= FEW;
        let view = known.then(|| self.past.view()).flatten()?;
        Some(view.quantile(0.99))
    }

    pub(crate) fn share(&mut self, k: u32) {
        self.wealth.share(k);
        self.without_failures.share(k);
        self.by_slowness.share(k);
        self.close();
    }

    pub(crate) fn slack(&self) -> Slack {
        self.slack
    }

    pub(crate) fn epoch(&self) -> Option<&Bins> {
        self.epoch.as_ref()
    }

    pub(crate) fn stretch(&self) -> &LatencySegment {
        &self.stretch
    }

    /// `ln` of the wealth, with or without the bets on the canary's failures. Without them it is
    /// never more evidence than with them, so omitting them is valid.
    pub(crate) fn log_e(&self, with_failures: bool) -> f64 {
        if with_failures {
            self.wealth.log_e()
        } else {
            self.without_failures.log_e()
        }
    }

    /// `ln` of the wealth from the canary's slowness alone, whatever its failures: used to name the
    /// cause.
    pub(crate) fn log_e_by_slowness(&self) -> f64 {
        self.by_slowness.log_e()
    }
}

impl LatencySegment {
    fn open(&mut self, wealth: &Wealth<WAYS>, weight: f64) {
        *self = LatencySegment {
            opening: wealth.clone(),
            weight,
            canary: BinCounts::default(),
            baseline: BinCounts::default(),
        };
    }

    fn add(&mut self, canary: &BinCounts, baseline: &BinCounts) {
        for (sum, more) in self.canary.iter_mut().zip(canary) {
            *sum += more;
        }
        for (sum, more) in self.baseline.iter_mut().zip(baseline) {
            *sum += more;
        }
    }
}

/// The observations plus `more`, distributed over the bins as the baseline's are.
fn as_fast_as(baseline: &BinCounts, more: f64, mut observations: BinCounts) -> BinCounts {
    let seen: f64 = baseline.iter().sum();
    if seen > 0.0 {
        for (sum, of_baseline) in observations.iter_mut().zip(baseline) {
            *sum += more * of_baseline / seen;
        }
    }
    observations
}

/// An arm's observations by bin: its responses by latency, and its failures in the slowest.
pub(crate) fn sort(
    arm: &ArmCounts<'_>,
    latency_us: &[(u64, u64)],
    edges: &[u64; BINS - 1],
) -> BinCounts {
    let mut bins = BinCounts::default();
    for (value, count) in latency_us {
        if let Some(slot) = bins.get_mut(bin(edges, *value)) {
            *slot += *count as f64;
        }
    }
    let [.., slowest] = &mut bins;
    *slowest += arm.slow_failures() as f64;
    bins
}
