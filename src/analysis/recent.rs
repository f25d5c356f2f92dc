//! Whether the canary was slower in the last seconds than its objective allows: no proof, but
//! reason enough not to give it the rest of the traffic at this moment.
//!
//! The evidence against a canary covers the whole release and can be too low: while the baseline is
//! fast, the absolute slack (1 ms by default) may exceed the canary's slowdown, and the bets lose
//! wealth that takes half a minute to regain once the traffic is slower. The last seconds show the
//! slowdown immediately.

use serde::{Deserialize, Serialize};

use super::bins::{Bins, Slack, Threshold};
use super::latency_advance::AnswerCounts;

/// The factor on a count per second; the last ten seconds make about two thirds of it.
const KEPT: f64 = 0.9;
/// The canary counts as slower when it exceeds a threshold more often by this many standard errors.
/// An equal canary with the default slack almost never does; one at the limit of its slack does
/// sometimes, and waits for some seconds.
const ERRORS: f64 = 0.5;

/// The recent latency of both arms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RecentLatency {
    slack: Slack,
    thresholds: Option<[Threshold; 3]>,
    canary: RecentCounts,
    baseline: RecentCounts,
}

/// Observations of one arm, and those above each threshold.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct RecentCounts {
    all: f64,
    beyond: [f64; 3],
}

impl RecentCounts {
    fn add(&mut self, seen: AnswerCounts<'_>, thresholds: impl Iterator<Item = u64>) {
        self.all += seen.observations() as f64;
        for (beyond, threshold) in self.beyond.iter_mut().zip(thresholds) {
            *beyond += seen.beyond(threshold) as f64;
        }
    }

    fn fade(&mut self, kept: f64) {
        self.all *= kept;
        self.beyond = self.beyond.map(|beyond| beyond * kept);
    }
}

impl RecentLatency {
    /// An empty state; `slack` is the objective's.
    pub(crate) fn new(slack: Slack) -> RecentLatency {
        RecentLatency {
            slack,
            thresholds: None,
            canary: RecentCounts::default(),
            baseline: RecentCounts::default(),
        }
    }

    /// Uses the thresholds of new bins.
    pub(crate) fn recut(&mut self, epoch: &Bins) {
        self.thresholds = Some(epoch.thresholds(self.slack));
    }

    #[cfg(test)]
    pub(crate) fn set_thresholds(&mut self, thresholds: [Threshold; 3]) {
        self.thresholds = Some(thresholds);
    }

    /// Counts a cohort.
    pub(crate) fn add(&mut self, canary: AnswerCounts<'_>, baseline: AnswerCounts<'_>) {
        if let Some(thresholds) = &self.thresholds {
            self.canary.add(
                canary,
                thresholds.iter().map(|threshold| threshold.canary_us),
            );
            let edges = thresholds.iter().map(|threshold| threshold.baseline_us);
            self.baseline.add(baseline, edges);
        }
    }

    /// Decays the counts by `seconds`.
    pub(crate) fn fade(&mut self, seconds: u64) {
        let kept = KEPT.powf(seconds as f64);
        self.canary.fade(kept);
        self.baseline.fade(kept);
    }

    /// Whether the canary exceeds one of the thresholds, slack included, more often than the
    /// baseline does without slack.
    pub(crate) fn slower(&self) -> bool {
        let (canary, baseline) = (&self.canary, &self.baseline);
        if canary.all < 1.0 || baseline.all < 1.0 {
            return false;
        }
        canary
            .beyond
            .iter()
            .zip(&baseline.beyond)
            .any(|(slow, usual)| {
                let rate = (slow + usual) / (canary.all + baseline.all);
                let error =
                    (rate * (1.0 - rate) * (canary.all.recip() + baseline.all.recip())).sqrt();
                slow / canary.all - usual / baseline.all > ERRORS * error
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_100_ms() -> RecentLatency {
        let threshold = Threshold {
            baseline_us: 100_000,
            canary_us: 105_000,
            nominal: 0.1,
        };
        let mut lately = RecentLatency::new(Slack {
            worse_by: 0.05,
            at_least_us: 1_000.0,
        });
        lately.set_thresholds([threshold; 3]);
        lately
    }

    /// A second with 1,000 requests of each arm, with the given numbers of slow ones.
    fn second(lately: &mut RecentLatency, canary: u64, baseline: u64) {
        let (canary, baseline) = (
            [(90_000, 1_000 - canary), (110_000, canary)],
            [(90_000, 1_000 - baseline), (101_000, baseline)],
        );
        let seen = |latency_us| AnswerCounts {
            latency_us,
            failures: 0,
        };
        lately.fade(1);
        lately.add(seen(&canary), seen(&baseline));
    }

    #[test]
    fn more_slow_responses_than_the_baseline_are_detected() {
        for (canary, baseline, slower) in [
            (100, 100, false),
            (40, 100, false),
            (130, 100, true),
            (1, 0, true),
        ] {
            let mut lately = at_100_ms();
            (0..10).for_each(|_| second(&mut lately, canary, baseline));
            assert_eq!(lately.slower(), slower, "{canary} against {baseline}");
        }
    }

    #[test]
    fn old_counts_decay() {
        let mut lately = at_100_ms();
        (0..600).for_each(|_| second(&mut lately, 50, 100));
        (0..10).for_each(|_| second(&mut lately, 200, 100));
        assert!(
            lately.slower(),
            "ten minutes of good do not hide ten seconds of bad"
        );
        (0..30).for_each(|_| second(&mut lately, 50, 100));
        assert!(!lately.slower());
    }

    #[test]
    fn failures_count_as_slow() {
        let mut lately = at_100_ms();
        assert!(!lately.slower());
        let failing = |failures| AnswerCounts {
            latency_us: &[(90_000, 100)],
            failures,
        };
        lately.add(failing(20), failing(0));
        assert!(lately.slower());
        lately.fade(u64::MAX);
        assert!(!lately.slower());
    }
}
