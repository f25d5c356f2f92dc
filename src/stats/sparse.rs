//! A summary as kept for history: only the cells that are not empty.
//!
//! A dense summary takes 54 KiB whatever it contains, so seventy of them for each upstream would be
//! megabytes. The latencies of a second fall into some hundred cells, and a cell takes eight bytes
//! here.

use hdrhistogram::Histogram;

use super::{Class, Summary};

/// Cells of a histogram in ascending order: a value of the cell, and its number of observations.
type Cells = Vec<(u32, u32)>;

/// A summary that is no longer updated.
#[derive(Clone, Debug)]
pub(super) struct Sparse {
    counts: [u64; Class::COUNT],
    /// First byte and total, in the order of [`Summary::histograms`].
    cells: [Cells; 2],
}

impl Sparse {
    pub(super) fn of(summary: &Summary) -> Sparse {
        Sparse {
            counts: *summary.counts(),
            cells: summary.histograms().map(cells),
        }
    }

    pub(super) fn empty() -> Sparse {
        Sparse {
            counts: [0; Class::COUNT],
            cells: [Vec::new(), Vec::new()],
        }
    }

    pub(super) fn merge(&mut self, other: &Sparse) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        for (mine, theirs) in self.cells.iter_mut().zip(&other.cells) {
            merge_cells(mine, theirs);
        }
    }

    pub(super) fn add_to(&self, summary: &mut Summary) {
        for (class, count) in Class::ALL.into_iter().zip(self.counts) {
            summary.add_count(class, count);
        }
        for (histogram, cells) in summary.histograms_mut().into_iter().zip(&self.cells) {
            for (value, count) in cells {
                histogram.saturating_record_n(u64::from(*value), u64::from(*count));
            }
        }
    }
}

fn cells(histogram: &Histogram<u64>) -> Cells {
    let cell = |value, count| {
        // The longest latency is below 2^32 us; 2^32 requests of one cell in five seconds are
        // beyond any machine.
        let narrow = |wide| u32::try_from(wide).unwrap_or(u32::MAX);
        (narrow(value), narrow(count))
    };
    histogram
        .iter_recorded()
        .map(|at| cell(at.value_iterated_to(), at.count_at_value()))
        .collect()
}

fn merge_cells(mine: &mut Cells, theirs: &Cells) {
    mine.extend_from_slice(theirs);
    // Two ascending runs: the stable sort merges them in one pass.
    mine.sort_by_key(|(value, _)| *value);
    mine.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = earlier.1.saturating_add(later.1);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{LATENCY_US_MAX, Outcome};

    #[test]
    fn sparse_summary_round_trips() {
        let (mut both, mut sum) = (Summary::new(), Sparse::empty());
        for part in 0..2_u64 {
            let mut summary = Summary::new();
            for i in 0..2000 {
                let total_us = (i * i * (part + 1)).min(LATENCY_US_MAX * 2);
                let class = Class::ALL[(i % 10) as usize];
                let first_byte_us = (i % 2 == 0).then_some(total_us / 3);
                summary.record(&Outcome {
                    class,
                    first_byte_us,
                    total_us,
                });
            }
            both.merge(&summary);
            sum.merge(&Sparse::of(&summary));
        }
        let mut back = Summary::new();
        sum.add_to(&mut back);
        assert_eq!(back, both);
        assert_eq!(back.window(), both.window());
    }
}
