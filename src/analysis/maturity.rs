//! The landmark age: how long after its start a request's outcome is waited for. Unfinished by then
//! counts as bad, in both arms alike, which is what keeps a canary that fails fast from being
//! blamed for a baseline that times out.

use std::time::Duration;

const LEAST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(5);
const TIMES_P99: u32 = 4;

/// The landmark age for a baseline with this 99th percentile. Whatever it is when a cohort starts
/// is this cohort's.
pub fn landmark(baseline_p99: Duration) -> Duration {
    baseline_p99.saturating_mul(TIMES_P99).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_times_p99_within_bounds() {
        assert_eq!(landmark(Duration::ZERO), LEAST);
        assert_eq!(
            landmark(Duration::from_millis(100)),
            Duration::from_millis(400)
        );
        assert_eq!(landmark(Duration::MAX), MOST);
    }
}
