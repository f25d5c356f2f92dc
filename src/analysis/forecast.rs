//! How many canary requests a step is likely to need: what a plan prints before the first user is risked.

use super::advance::{KAPPA, Table};
use super::error::Margin;

/// What the mixture over bet sizes costs at detection, against a test that knows the effect (STATISTICS.md 2.2).
const MIXTURE: f64 = 1.7;

/// About how many canary requests it takes to see that failures come at `canary_rate` where the objective allows
/// `ratio * baseline_rate + worse_by`; `None` if that is no harm.
pub fn requests_to_detect(canary_rate: f64, baseline_rate: f64, ratio: f64, worse_by: f64, alpha: f64) -> Option<u64> {
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
    whole(MIXTURE * -alpha.ln() / divergence)
}

/// About how many canary requests the advance test of a step at `weight` takes when both arms fail at `rate`: harm
/// means `worse_by` more than that. `None` if it would take for ever.
pub fn requests_to_advance(weight: f64, rate: f64, worse_by: f64, beta: f64) -> Option<u64> {
    if !(weight > 0.0 && weight < 1.0) {
        return None;
    }
    let harm = Margin { ratio: 1.0, worse_by };
    let growth = Table::new(weight, harm).growth(weight, rate, rate);
    // The best bet holds one part in ten at first.
    let needed = -beta.ln() + (KAPPA.len() as f64).ln();
    (growth > 0.0).then(|| whole(needed / growth)).flatten()
}

fn whole(requests: f64) -> Option<u64> {
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
    fn forecasts_lie_near_what_was_simulated() {
        // STATISTICS.md 2.2: 0.1 to 1 % at w = 1 %: 631 canary requests; 0.1 to 5 %: 59.
        let near = |forecast: Option<u64>, simulated: f64| {
            let ratio = forecast.unwrap() as f64 / simulated;
            assert!((0.6..1.7).contains(&ratio), "{forecast:?} against {simulated}");
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
}
