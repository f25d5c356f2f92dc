//! Estimates of the canary requests that a step needs, for the forecast of a plan.

use super::advance::{AdvanceGains, KAPPA};
use super::error::Margin;
use super::latency_advance::{required_evidence, tolerated};
use super::step::StepWeights;

/// The cost of the mixture over bet sizes at detection, against a test that knows the effect
/// (STATISTICS.md 2.2).
const MIXTURE: f64 = 1.7;

/// The bets near the best gain nearly as much, so this many of them share the wealth; the rest is
/// the cost of the mixture: 1.4 times `ln(1/beta)` in all at the usual beta (STATISTICS.md 1.a).
const NEAR_THE_BEST: f64 = 3.0;
/// The tail beyond p99 as a power law: `P(T > x*p99) = 0.01 * x^-TAIL`. It is that of a log-normal
/// latency whose p99 is four times its median: the hazard of the normal distribution at its 99 %
/// quantile, 2.665, divided by the deviation 0.6.
const BEYOND_P99: f64 = 0.01;
const TAIL: f64 = 4.44;

/// The estimated canary requests until failures at `canary_rate` are detected where the objective
/// allows `ratio * baseline_rate + worse_by`; `None` if that is no harm.
pub fn requests_to_detect(
    canary_rate: f64,
    baseline_rate: f64,
    ratio: f64,
    worse_by: f64,
    alpha: f64,
) -> Option<u64> {
    let allowed = ratio * baseline_rate + worse_by;
    if canary_rate <= allowed || canary_rate > 1.0 || allowed >= 1.0 {
        return None;
    }
    let floor = allowed.max(1e-9);
    let good = 1.0 - canary_rate;
    let good_part = if good > 0.0 {
        good * (good / (1.0 - floor)).ln()
    } else {
        0.0
    };
    let divergence = canary_rate * (canary_rate / floor).ln() + good_part;
    round_up(MIXTURE * -alpha.ln() / divergence)
}

/// The estimated canary requests of the advance test of a step at `weight` when both arms fail at
/// `rate`; harm means `worse_by` more than that. `None` if it would never pass.
pub fn requests_to_advance(weight: f64, rate: f64, worse_by: f64, beta: f64) -> Option<u64> {
    if !(weight > 0.0 && weight < 1.0) {
        return None;
    }
    let harm = Margin {
        ratio: 1.0,
        worse_by,
    };
    needed(
        AdvanceGains::new(weight, harm).growth(weight, rate, rate),
        -beta.ln(),
    )
}

/// The estimate for the latency advance test of a step when both arms are equally fast and fail at
/// `rate`; `worse_by` is the relative slowdown that the objective allows. `None` if it would never
/// pass.
///
/// Of the three thresholds p99 is proved last, since the canary exceeds it seldom. How much more
/// seldom it exceeds the tolerated multiple depends on the latency distribution: this assumes a
/// typical one (`TAIL`). A wider one takes longer; a narrower one, or one where the slack in
/// milliseconds exceeds that in per cent, is proved sooner.
pub fn latency_requests_to_advance(
    weights: StepWeights,
    rate: f64,
    worse_by: f64,
    beta: f64,
) -> Option<u64> {
    let weight = weights.now;
    if !(weight > 0.0 && weight < 1.0) {
        return None;
    }
    let slack = tolerated(weight - 1e-9).max(worse_by);
    // Failures are slower than any threshold.
    let beyond = |share: f64| rate + (1.0 - rate) * share;
    let canary = beyond(BEYOND_P99 * (1.0 + slack).powf(-TAIL));
    let harm = Margin {
        ratio: 1.0,
        worse_by: 0.0,
    };
    needed(
        AdvanceGains::new(weight, harm).growth(weight, canary, beyond(BEYOND_P99)),
        required_evidence(weights.next) * -beta.ln(),
    )
}

/// The number of times that the `ln` of evidence must grow by `growth` to reach `limit`.
fn needed(growth: f64, limit: f64) -> Option<u64> {
    let evidence = limit + (KAPPA.len() as f64 / NEAR_THE_BEST).ln();
    (growth > 0.0)
        .then(|| round_up(evidence / growth))
        .flatten()
}

fn round_up(requests: f64) -> Option<u64> {
    if !requests.is_finite() {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let requests = requests.ceil() as u64;
    Some(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_forecasts_match_simulations() {
        // STATISTICS.md 2.2: 0.1 to 1 % at w = 1 %: 631 canary requests; 0.1 to 5 %: 59.
        let near = |forecast: Option<u64>, simulated: f64| {
            let ratio = forecast.unwrap() as f64 / simulated;
            assert!(
                (0.6..1.7).contains(&ratio),
                "{forecast:?} against {simulated}"
            );
        };
        near(requests_to_detect(0.01, 0.001, 1.0, 0.0, 1e-3), 631.0);
        near(requests_to_detect(0.05, 0.001, 1.0, 0.0, 1e-3), 59.0);
        near(requests_to_detect(0.002, 0.001, 1.0, 0.0, 1e-3), 28_200.0);
        assert_eq!(requests_to_detect(0.001, 0.001, 1.1, 0.0005, 1e-3), None);
        assert!(requests_to_detect(1.0, 0.0, 1.0, 0.0, 1e-3).is_some_and(|n| n <= 2));
        // 1.a: with zero errors 210, 1,042 and 4,163, the sequential rule of three.
        near(requests_to_advance(0.01, 0.0, 0.02, 0.05), 210.0);
        near(requests_to_advance(0.1, 0.0, 0.004, 0.05), 1_042.0);
        near(requests_to_advance(0.5, 0.0, 0.001, 0.05), 4_163.0);
        assert_eq!(requests_to_advance(1.0, 0.0, 0.001, 0.05), None);
    }
    #[test]
    fn step_durations_match_simulations() {
        // STATISTICS.md 2.4: seconds per step at 1,000 requests per second, a log-normal latency
        // and p = 0.1 %.
        let steps = [
            (0.01, 0.05, 41.0),
            (0.05, 0.25, 29.0),
            (0.25, 0.5, 21.0),
            (0.5, 1.0, 41.0),
        ];
        for (now, next, simulated) in steps {
            let errors = requests_to_advance(now, 0.001, 0.001 / next, 0.05).unwrap();
            let latency =
                latency_requests_to_advance(StepWeights { now, next }, 0.001, 0.05, 0.05).unwrap();
            let seconds = errors.max(latency) as f64 / (1_000.0 * now);
            let ratio = seconds / simulated;
            assert!(
                (0.5..2.0).contains(&ratio),
                "{now}: {seconds} s against {simulated}"
            );
        }
    }

    #[test]
    fn latency_forecast_depends_on_tolerance() {
        let at = |now, next| StepWeights { now, next };
        let requests =
            |worse_by| latency_requests_to_advance(at(0.5, 1.0), 0.0, worse_by, 0.05).unwrap();
        assert_eq!(
            requests(0.05),
            requests(0.15),
            "the step tolerates as much anyway"
        );
        assert!(requests(0.5) < requests(0.15));
        assert_eq!(
            latency_requests_to_advance(at(1.0, 1.0), 0.0, 0.05, 0.05),
            None
        );
        assert_eq!(
            latency_requests_to_advance(at(0.5, 1.0), 1.0, 0.05, 0.05),
            None
        );
    }
}
