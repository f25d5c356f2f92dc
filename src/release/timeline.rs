//! The timeline of a release: it continues over restarts and never goes back.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Maps moments of this process to milliseconds of a release: the scale of its cohorts and its
/// judge.
///
/// Within a process the monotonic clock decides. The time between two processes does not count,
/// since no traffic was served and none observed. Otherwise a final bake could end without
/// requests, and a step with a maximum duration could become inconclusive because the proxy was
/// down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    origin: Timestamp,
    origin_ms: u64,
}

/// The position of a timeline, stored with the state that was judged by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineMark {
    /// Milliseconds of the release.
    pub at_ms: u64,
}

impl Timeline {
    /// The timeline of a release that begins now, at 0.
    pub fn new(now: Timestamp) -> Timeline {
        Timeline {
            origin: now,
            origin_ms: 0,
        }
    }

    /// The timeline of a release that another process brought to `mark`; it continues from there.
    pub fn resume(mark: TimelineMark, now: Timestamp) -> Timeline {
        Timeline {
            origin: now,
            origin_ms: mark.at_ms,
        }
    }

    /// Milliseconds of the release at a moment of this process; moments before the origin count as
    /// the origin.
    pub fn ms(&self, at: Timestamp) -> u64 {
        let passed = u64::try_from(at.since(self.origin).as_millis()).unwrap_or(u64::MAX);
        self.origin_ms.saturating_add(passed)
    }

    /// The mark from which [`Timeline::resume`] continues.
    pub fn mark(&self, now: Timestamp) -> TimelineMark {
        TimelineMark {
            at_ms: self.ms(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timeline_continues_after_a_restart() {
        let start = Timestamp::new(5_000_000_000, 1_000_000_000_000);
        let line = Timeline::new(start);
        let later = start.plus(Duration::from_secs(2));
        assert_eq!((line.ms(start), line.ms(later)), (0, 2_000));
        assert_eq!(line.ms(Timestamp::new(0, 0)), 0);

        let mark = line.mark(later);
        // The new process counts from 0 on its monotonic clock, and its wall clock is arbitrary.
        for unix_us in [later.unix_us() + 3_600_000_000, 0] {
            let restarted = Timestamp::new(7, unix_us);
            let line = Timeline::resume(mark, restarted);
            assert_eq!(
                line.ms(restarted),
                2_000,
                "the hour without a proxy does not count"
            );
            assert_eq!(line.ms(restarted.plus(Duration::from_secs(1))), 3_000);
        }
    }
}
