//! The pause before the next attempt.

use std::time::Duration;

/// Pauses that double from one attempt to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    /// The pause after the first attempt.
    pub(super) first: Duration,
    /// The longest pause, whatever the receiver asks for: the events behind it wait too.
    pub(super) longest: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The pause after `attempts` attempts, at least 1: up to a quarter longer by `chance` (0 to
    /// 1), so that simultaneous failures do not retry simultaneously; and at least as long as the
    /// receiver asked for.
    pub(super) fn pause(
        self,
        attempts: u32,
        retry_after: Option<Duration>,
        chance: f64,
    ) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        let pause = self.first.saturating_mul(doubled).min(self.longest);
        let pause = pause.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 4.0);
        pause.max(retry_after.unwrap_or_default()).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_whatever_retry_after_says() {
        let pace = Backoff::default();
        let seconds =
            |attempts, retry_after, chance| pace.pause(attempts, retry_after, chance).as_secs_f64();
        let pauses: Vec<f64> = (1..=8)
            .map(|attempts| seconds(attempts, None, 0.0))
            .collect();
        assert_eq!(pauses, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
        assert_eq!(
            (seconds(1, None, 1.0), seconds(20, None, 1.0)),
            (1.25, 60.0)
        );
        let retry_after = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(
            (
                seconds(1, retry_after(30), 0.0),
                seconds(4, retry_after(1), 0.0)
            ),
            (30.0, 8.0)
        );
        assert_eq!(seconds(1, retry_after(3600), 0.0), 60.0);
    }
}
