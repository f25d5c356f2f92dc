//! Upper confidence limit of the baseline's failure rate. It replaces the baseline at full weight,
//! where there is no concurrent baseline (STATISTICS.md 1.k.2).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cohort::{ArmCounts, Counts};
use super::math::beta_regularized;
use super::maturity::landmark;

/// The number of requests that the limit is based on if the release itself has fewer.
const REACH: f64 = 1_000.0;
/// The maximum of a limit based on fewer requests than that.
const FEW_MAX: f64 = 0.05;
/// Bisection steps on the interval from 0 to 1.
const HALVINGS: u32 = 60;

/// The baseline's requests before the first step and during the release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaselineRate {
    past: Counts,
    release: Counts,
}

impl BaselineRate {
    /// Adds requests from before the first step: responses by latency in microseconds with their
    /// counts, and failures.
    pub(crate) fn warm(&mut self, latency_us: &[(u64, u64)], failures: u64) {
        let answers: u64 = latency_us.iter().map(|(_, count)| count).sum();
        self.past.requests += answers + failures;
        self.past.failures += failures + unfinished(latency_us);
    }

    /// Adds the baseline's requests of a cohort. Those of a cohort at weight 0 came before the
    /// first step.
    pub(crate) fn add(&mut self, weight: f64, baseline: &ArmCounts<'_>) {
        if weight > 0.0 {
            self.release.add(baseline);
        } else {
            self.past.add(baseline);
            self.past.failures += baseline.latency_us.map_or(0, unfinished);
        }
    }

    /// The Clopper–Pearson upper limit of the baseline's failure rate at confidence `1 - alpha`:
    /// over the release, extended into the past up to 1,000 requests. With fewer it is at most 5 %.
    pub(crate) fn upper(&self, alpha: f64) -> f64 {
        let (requests, failures) = self.totals();
        let upper = clopper_pearson(failures, requests, alpha);
        if requests < REACH {
            upper.min(FEW_MAX)
        } else {
            upper
        }
    }

    /// The requests and failures that the limit is computed from.
    pub(crate) fn totals(&self) -> (f64, f64) {
        let (release, past) = (self.release, self.past);
        let (requests, failures) = (release.requests as f64, release.failures as f64);
        let missing = REACH - requests;
        if missing <= 0.0 || past.requests == 0 {
            return (requests, failures);
        }
        // Only part of a longer past counts, at its mean rate.
        let part = (missing / past.requests as f64).min(1.0);
        (
            requests + part * past.requests as f64,
            failures + part * past.failures as f64,
        )
    }
}

/// Responses later than the maturity age. The past is recorded by completion, but it is compared
/// with counts taken at the maturity age.
fn unfinished(latency_us: &[(u64, u64)]) -> u64 {
    let answers: u64 = latency_us.iter().map(|(_, count)| count).sum();
    let mut sorted = latency_us.to_vec();
    sorted.sort_unstable();
    let mut seen = 0;
    let p99 = sorted.iter().find(|(_, count)| {
        seen += count;
        seen * 100 >= answers * 99
    });
    let Some((p99_us, _)) = p99 else { return 0 };
    let age_us = landmark(Duration::from_micros(*p99_us)).as_micros();
    let late = sorted
        .iter()
        .filter(|(value, _)| u128::from(*value) >= age_us);
    late.map(|(_, count)| count).sum()
}

/// The largest rate at which at most this many failures have a probability of at least `alpha`.
fn clopper_pearson(failures: f64, requests: f64, alpha: f64) -> f64 {
    if failures >= requests {
        return 1.0;
    }
    let (mut low, mut high) = (failures / requests, 1.0);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        // P(X <= failures) at the rate `middle` is 1 - I(failures + 1, requests - failures).
        if 1.0 - beta_regularized(failures + 1.0, requests - failures, middle) > alpha {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, failures: u64) -> Counts {
        Counts { requests, failures }
    }

    fn rate(past: (u64, u64), release: (u64, u64)) -> BaselineRate {
        BaselineRate {
            past: counts(past.0, past.1),
            release: counts(release.0, release.1),
        }
    }

    #[test]
    fn limit_matches_clopper_pearson() {
        // Without failures the limit has a closed form: 1 - alpha^(1/n).
        for (n, alpha) in [(1_000, 2.5e-4_f64), (5_000, 0.01), (1_000_000, 0.05)] {
            let exact = -(alpha.ln() / f64::from(n)).exp_m1();
            let upper = clopper_pearson(0.0, f64::from(n), alpha);
            assert!((upper / exact - 1.0).abs() < 1e-6, "{n}: {upper} {exact}");
        }
        // R: qbeta(0.975, 11, 990), qbeta(0.995, 6, 5).
        assert!((clopper_pearson(10.0, 1_000.0, 0.025) - 0.018_314).abs() < 1e-5);
        assert!((clopper_pearson(5.0, 10.0, 0.005) - 0.871_755).abs() < 1e-4);
    }

    #[test]
    fn past_counts_up_to_a_thousand_requests() {
        let alpha = 0.01;
        let whole = rate((0, 0), (1_000, 10)).upper(alpha);
        assert_eq!(rate((1_000_000, 0), (1_000, 10)).upper(alpha), whole);
        assert!((rate((50_000, 500), (500, 5)).upper(alpha) - whole).abs() < 1e-9);
        assert!(rate((500, 0), (500, 10)).upper(alpha) <= whole);
    }

    #[test]
    fn past_responses_later_than_the_maturity_age_count_as_failures() {
        let mut rate = BaselineRate::default();
        rate.warm(&[(6_000_000, 50), (10_000, 940)], 10);
        assert_eq!(
            rate.past,
            counts(1_000, 60),
            "at most five seconds are waited for"
        );
        let mut quick = BaselineRate::default();
        quick.warm(&[(1_000, 995), (400_000, 5)], 0);
        assert_eq!(
            quick.past,
            counts(1_000, 5),
            "and no less than a quarter of one"
        );
    }

    #[test]
    fn few_requests_limit_the_rate_to_five_percent() {
        assert_eq!(rate((0, 0), (0, 0)).upper(0.01), FEW_MAX);
        assert_eq!(rate((10, 9), (0, 0)).upper(0.01), FEW_MAX);
        assert!(rate((999, 0), (0, 0)).upper(0.01) < FEW_MAX);
        assert!(
            rate((2_000, 1_900), (0, 0)).upper(0.01) > 0.9,
            "a known high rate is no limit of few"
        );
    }
}
