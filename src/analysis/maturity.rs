//! The maturity age: how long after its start a request's outcome is awaited. A request that is
//! open by then counts as bad, in both arms alike, so that a canary that fails fast is not blamed
//! for a baseline that times out.

use std::time::Duration;

const LEAST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(5);
const TIMES_P99: u32 = 4;

/// The maturity age for a baseline with this 99th percentile. Each cohort keeps the value from its
/// start.
pub fn landmark(baseline_p99: Duration) -> Duration {
    baseline_p99.saturating_mul(TIMES_P99).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maturity_age_is_four_times_p99_within_bounds() {
        assert_eq!(landmark(Duration::ZERO), LEAST);
        assert_eq!(
            landmark(Duration::from_millis(100)),
            Duration::from_millis(400)
        );
        assert_eq!(landmark(Duration::MAX), MOST);
    }
}
