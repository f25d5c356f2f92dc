//! Summaries over time: one upstream's requests in the last ten seconds, minute, five minutes, and
//! since its service's weights changed.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Summary;
use super::sparse::Sparse;
use crate::time::Timestamp;

const SECOND_NS: u64 = 1_000_000_000;
/// Seconds that are kept individually.
const SECONDS: u64 = 10;
/// Seconds per block.
const BLOCK: u64 = 5;
/// Blocks that are kept: five minutes.
const BLOCKS: u64 = 60;

/// A span of time that ends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowSpan {
    /// The last ten seconds, to one second.
    TenSeconds,
    /// The last minute, to five seconds.
    OneMinute,
    /// The last five minutes, to five seconds.
    FiveMinutes,
    /// Since the last change of weights, exactly.
    SinceChange,
}

impl WindowSpan {
    /// All spans, shortest first.
    pub const ALL: [WindowSpan; 4] = [
        WindowSpan::TenSeconds,
        WindowSpan::OneMinute,
        WindowSpan::FiveMinutes,
        WindowSpan::SinceChange,
    ];

    /// The span's name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            WindowSpan::TenSeconds => "10s",
            WindowSpan::OneMinute => "1m",
            WindowSpan::FiveMinutes => "5m",
            WindowSpan::SinceChange => "since_change",
        }
    }
}

/// The sliding windows of one upstream.
///
/// Time is divided at whole seconds and whole blocks of five. A window contains the current piece
/// and as many whole ones as its length has, so it never reaches further back than its name says,
/// and is shorter by at most one piece. Memory is bounded: two dense summaries, 10 sparse seconds
/// and 60 sparse blocks; nothing before the first request. Copies share the closed pieces.
#[derive(Clone, Debug)]
pub struct Windows {
    /// The second that `open` counts.
    second: u64,
    open: Option<Box<Summary>>,
    /// Closed seconds, oldest first.
    seconds: VecDeque<(u64, Arc<Sparse>)>,
    /// Blocks with at least one closed second, oldest first.
    blocks: VecDeque<(u64, Arc<Sparse>)>,
    /// Closed seconds since the change.
    since_change: Option<Box<Summary>>,
}

impl Windows {
    /// Windows of an upstream without requests; the last change of weights counts as now.
    pub fn new(now: Timestamp) -> Windows {
        Windows {
            second: second(now),
            open: None,
            seconds: VecDeque::new(),
            blocks: VecDeque::new(),
            since_change: None,
        }
    }

    /// Whether no window contains a request.
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.since_change.is_none() && self.blocks.is_empty()
    }

    /// Adds requests that have just finished.
    pub fn push(&mut self, now: Timestamp, summary: &Summary) {
        self.roll(now);
        self.open.get_or_insert_default().merge(summary);
    }

    /// Restarts the window since the last change.
    pub fn mark_change(&mut self, now: Timestamp) {
        self.roll(now);
        self.close();
        self.since_change = None;
    }

    /// All windows as of `now`, with their names, in the order of [`WindowSpan::ALL`].
    pub fn read(&self, now: Timestamp) -> [(&'static str, Summary); 4] {
        WindowSpan::ALL.map(|span| {
            let mut sum = Summary::new();
            self.add_to(now, span, &mut sum);
            (span.as_str(), sum)
        })
    }

    /// Adds the requests within `span` before `now` to `sum`, which a caller may reuse.
    pub fn add_to(&self, now: Timestamp, span: WindowSpan, sum: &mut Summary) {
        let now = second(now);
        match span {
            WindowSpan::TenSeconds => add_recent(&self.seconds, now, SECONDS, sum),
            WindowSpan::OneMinute => add_recent(&self.blocks, now / BLOCK, BLOCKS / 5, sum),
            WindowSpan::FiveMinutes => add_recent(&self.blocks, now / BLOCK, BLOCKS, sum),
            WindowSpan::SinceChange => self
                .since_change
                .iter()
                .for_each(|closed| sum.merge(closed)),
        }
        let open_is_recent = match span {
            WindowSpan::TenSeconds => self.second + SECONDS > now,
            WindowSpan::OneMinute => self.second / BLOCK + BLOCKS / 5 > now / BLOCK,
            WindowSpan::FiveMinutes => self.second / BLOCK + BLOCKS > now / BLOCK,
            WindowSpan::SinceChange => true,
        };
        if open_is_recent {
            self.open.iter().for_each(|open| sum.merge(open));
        }
    }

    /// Closes the open second when it is over, and drops pieces that no window reaches.
    fn roll(&mut self, now: Timestamp) {
        let now = second(now);
        if now <= self.second {
            return;
        }
        self.close();
        self.second = now;
        forget(&mut self.seconds, now, SECONDS);
        forget(&mut self.blocks, now / BLOCK, BLOCKS);
    }

    /// Moves the open second into history; more may follow in the same second.
    fn close(&mut self) {
        let Some(open) = self.open.as_mut().filter(|open| !open.is_empty()) else {
            return;
        };
        let closed = Sparse::of(open);
        open.clear();
        closed.add_to(self.since_change.get_or_insert_default());
        append(&mut self.blocks, self.second / BLOCK, &closed);
        append(&mut self.seconds, self.second, &closed);
    }
}

fn second(at: Timestamp) -> u64 {
    at.monotonic_ns() / SECOND_NS
}

fn append(pieces: &mut VecDeque<(u64, Arc<Sparse>)>, index: u64, piece: &Sparse) {
    if pieces.back().is_none_or(|(last, _)| *last != index) {
        pieces.push_back((index, Arc::new(Sparse::empty())));
    }
    if let Some((_, last)) = pieces.back_mut() {
        Arc::make_mut(last).merge(piece);
    }
}

fn add_recent(pieces: &VecDeque<(u64, Arc<Sparse>)>, now: u64, length: u64, sum: &mut Summary) {
    pieces
        .iter()
        .filter(|(index, _)| index + length > now)
        .for_each(|(_, piece)| piece.add_to(sum));
}

fn forget(pieces: &mut VecDeque<(u64, Arc<Sparse>)>, now: u64, length: u64) {
    while pieces
        .front()
        .is_some_and(|(index, _)| index + length <= now)
    {
        pieces.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::stats::{Class, Outcome};

    fn at_ms(ms: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_millis(ms))
    }

    fn requests(count: u64) -> Summary {
        let mut summary = Summary::new();
        for i in 0..count {
            summary.record(&Outcome {
                class: Class::Success,
                first_byte_us: None,
                total_us: 100 + i,
            });
        }
        summary
    }

    fn counts(windows: &Windows, ms: u64) -> [u64; 4] {
        windows
            .read(at_ms(ms))
            .map(|(_, summary)| summary.requests())
    }

    #[test]
    fn requests_expire_from_each_window() {
        let mut windows = Windows::new(at_ms(0));
        assert_eq!(counts(&windows, 0), [0; 4]);
        windows.push(at_ms(500), &requests(3));
        windows.push(at_ms(1500), &requests(2));
        assert_eq!(counts(&windows, 1500), [5, 5, 5, 5]);
        assert_eq!(counts(&windows, 9_999), [5, 5, 5, 5]);
        assert_eq!(counts(&windows, 10_000), [2, 5, 5, 5]);
        assert_eq!(counts(&windows, 11_000), [0, 5, 5, 5]);
        assert_eq!(counts(&windows, 60_000), [0, 0, 5, 5]);
        assert_eq!(counts(&windows, 300_000), [0, 0, 0, 5]);
        assert_eq!(
            windows.read(at_ms(0)).map(|(name, _)| name),
            ["10s", "1m", "5m", "since_change"]
        );
    }

    #[test]
    fn mark_change_restarts_only_its_window() {
        let mut windows = Windows::new(at_ms(0));
        windows.push(at_ms(100), &requests(3));
        windows.mark_change(at_ms(200));
        windows.push(at_ms(300), &requests(4));
        assert_eq!(counts(&windows, 400), [7, 7, 7, 4]);
        windows.push(at_ms(7_300), &requests(1));
        assert_eq!(counts(&windows, 7_300), [8, 8, 8, 5]);
        windows.mark_change(at_ms(9_000));
        assert_eq!(counts(&windows, 9_000), [8, 8, 8, 0]);
    }

    #[test]
    fn history_is_bounded() {
        let mut windows = Windows::new(at_ms(0));
        for second in 0..2_000 {
            windows.push(at_ms(second * 1000), &requests(1));
            windows.mark_change(at_ms(second * 1000 + 1));
        }
        assert!(windows.seconds.len() <= 10 && windows.blocks.len() <= 60);
        assert_eq!(counts(&windows, 1_999_500), [10, 60, 300, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against the list of all pushes: nothing older than the span, everything younger than the
        /// span less one piece.
        #[test]
        fn windows_are_exact_to_one_piece(
            gaps in prop::collection::vec((0_u64..20_000, 1_u64..5), 1..40), idle in 0_u64..400_000,
        ) {
            let mut windows = Windows::new(at_ms(0));
            let (mut ms, mut all) = (0, Vec::new());
            for (gap, count) in gaps {
                ms += gap;
                windows.push(at_ms(ms), &requests(count));
                all.push((ms, count));
            }
            ms += idle;
            let within = |span_ms: u64| -> u64 {
                all.iter().filter(|(at, _)| at + span_ms > ms).map(|(_, count)| count).sum()
            };
            let got = counts(&windows, ms);
            let spans = [(10_000, 1000), (60_000, 5000), (300_000, 5000)];
            for (got, (span_ms, piece_ms)) in got.into_iter().zip(spans) {
                prop_assert!(within(span_ms - piece_ms) <= got && got <= within(span_ms));
            }
            prop_assert_eq!(got[3], all.iter().map(|(_, count)| count).sum::<u64>());
        }
    }
}
