//! Timestamps and the clocks that read them.
//!
//! Everything that depends on time takes a [`Timestamp`] as an argument; only the shells (`proxy`,
//! `control`, `app`) hold a [`Clock`]. So tests, simulations and replays control the time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A point in time: the monotonic time since the process started, for measuring, and the wall
/// clock, for people.
///
/// Both are read together but are independent: the wall clock may be set back; the monotonic part
/// never goes back and alone defines order and distance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    monotonic_ns: u64,
    unix_us: i64,
}

impl Timestamp {
    /// A timestamp `monotonic_ns` after the process start, at `unix_us` microseconds since 1970 in
    /// UTC.
    pub const fn new(monotonic_ns: u64, unix_us: i64) -> Timestamp {
        Timestamp {
            monotonic_ns,
            unix_us,
        }
    }

    /// Nanoseconds since the process started (on a manual clock: since its start).
    pub const fn monotonic_ns(self) -> u64 {
        self.monotonic_ns
    }

    /// Microseconds since 1970 in UTC by the wall clock; this is stored and shown.
    pub const fn unix_us(self) -> i64 {
        self.unix_us
    }

    /// The time from `earlier` to this timestamp by the monotonic clock; zero if it is not later.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.monotonic_ns.saturating_sub(earlier.monotonic_ns))
    }

    /// This timestamp plus `duration`, on both clocks.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Timestamp {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let us = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Timestamp {
            monotonic_ns: self.monotonic_ns.saturating_add(ns),
            unix_us: self.unix_us.saturating_add(us),
        }
    }

    /// The wall clock's reading as RFC 3339 text in UTC, for example `2026-11-23T09:37:05.120042Z`.
    pub fn rfc3339(self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Out of jiff's range (the years -9999 to 9999) only with a broken store or clock: then the
        // epoch, visibly.
        let at =
            jiff::Timestamp::from_microsecond(self.unix_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        at.fmt(f)
    }
}

/// A source of timestamps.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp {
            monotonic_ns: SystemClock::monotonic_ns(Instant::now()),
            unix_us: jiff::Timestamp::now().as_microsecond(),
        }
    }
}

impl SystemClock {
    /// An [`Instant`] on the scale of [`Timestamp::monotonic_ns`], without reading the clock,
    /// except to set the scale's start. Earlier instants become zero.
    pub fn monotonic_ns(at: Instant) -> u64 {
        // One start for all instances, so that their timestamps are comparable.
        static START: OnceLock<Instant> = OnceLock::new();
        let elapsed = at.saturating_duration_since(*START.get_or_init(Instant::now));
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A clock that moves only by [`ManualClock::advance`]. Clones share the time.
#[derive(Clone, Debug)]
pub struct ManualClock {
    start: Timestamp,
    elapsed_ns: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> ManualClock {
        ManualClock {
            start,
            elapsed_ns: Arc::default(),
        }
    }

    /// Advances the time.
    pub fn advance(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_ns.fetch_add(ns, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    /// Starts at zero on both clocks.
    fn default() -> Self {
        ManualClock::new(Timestamp::default())
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.start
            .plus(Duration::from_nanos(self.elapsed_ns.load(Ordering::SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_formatted_as_rfc_3339_in_utc() {
        let at = Timestamp::new(0, 1_700_000_000_120_042);
        assert_eq!(at.rfc3339(), "2023-11-14T22:13:20.120042Z");
        assert_eq!(Timestamp::default().to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(
            Timestamp::new(0, i64::MAX).to_string(),
            "1970-01-01T00:00:00Z"
        );
    }

    #[test]
    fn a_manual_clock_moves_only_by_advance_and_clones_agree() {
        let clock = ManualClock::new(Timestamp::new(5, 7));
        let twin = clock.clone();
        assert_eq!(clock.now(), Timestamp::new(5, 7));
        clock.advance(Duration::from_secs(2));
        assert_eq!(twin.now(), Timestamp::new(2_000_000_005, 2_000_007));
        assert_eq!(
            twin.now().since(Timestamp::new(5, 7)),
            Duration::from_secs(2)
        );
        assert_eq!(Timestamp::new(5, 7).since(twin.now()), Duration::ZERO);
    }

    #[test]
    fn the_system_clock_does_not_go_back() {
        let earlier = SystemClock.now();
        let later = SystemClock.now();
        assert!(later.monotonic_ns() >= earlier.monotonic_ns());
        assert!(earlier.unix_us() > 1_600_000_000_000_000);
    }
}
