//! The compiled chooser: a key or a draw to one of a service's upstreams.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::model::{Weight, Weights};

/// The number of slots that the keys are spread over: one for each hundredth of a percent.
const SLOTS: u16 = Weight::FULL.basis_points();

/// Divides slots among the upstreams of a service: exactly by weight, and so that as few keys move as possible.
///
/// The slots form a row. The baseline holds the middle, and the others, in the order of declaration, take theirs
/// alternately from the left end and the right end; the third begins where the first ends, and so on. So with up to
/// two upstreams besides the baseline, changing one's weight against the baseline moves keys only between these two.
///
/// With three or more, that holds for each upstream inside of which (towards the middle) no other has weight; changing
/// one that is further out shifts those inside of it. No layout that is a function of the weights alone does better: an
/// upstream's slots would have to depend on its own weight only, so any two upstreams would need to fill up in opposite
/// orders, and three orders cannot be opposite in pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    salt: u64,
    /// Ascending; the last one ends at `SLOTS`.
    intervals: Box<[Interval]>,
}

/// A run of slots of one upstream, from where the interval before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    end: u16,
    upstream: usize,
}

impl Split {
    /// The split of `weights`, with keys spread by `salt`. A `baseline` that is none of the upstreams counts as the
    /// one with the largest weight.
    pub fn new(weights: &Weights, baseline: &str, salt: u64) -> Split {
        let baseline = match weights.get(baseline) {
            Some(_) => baseline,
            None => weights.largest().map_or(baseline, |name| name),
        };
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let mut middle = 0;
        for (upstream, (name, weight)) in weights.iter().enumerate() {
            let part = (upstream, weight.basis_points());
            if **name == *baseline {
                middle = upstream;
            } else if (left.len() + right.len()).is_multiple_of(2) {
                left.push(part);
            } else {
                right.push(part);
            }
        }
        Split {
            salt,
            intervals: intervals(&left, middle, &right),
        }
    }

    /// The upstream (its position in the service) for a `draw` that is uniform over all 64-bit numbers.
    pub fn pick(&self, draw: u64) -> usize {
        let slot = slot(draw);
        let found = self.intervals.iter().find(|interval| slot < interval.end);
        found.map_or(0, |interval| interval.upstream)
    }

    /// The upstream (its position in the service) for a user, always the same while the weights are.
    pub fn pick_key(&self, key: &[u8]) -> usize {
        self.pick(xxh3_64_with_seed(key, self.salt))
    }

    /// What keys are spread by.
    pub fn salt(&self) -> u64 {
        self.salt
    }
}

/// A number's slot by its position among all numbers, never by a remainder: the slots are equal to within 2^-50.
fn slot(draw: u64) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "below SLOTS, since draw is below 2^64")]
    let slot = ((u128::from(draw) * u128::from(SLOTS)) >> 64) as u16;
    slot
}

fn intervals(left: &[(usize, u16)], middle: usize, right: &[(usize, u16)]) -> Box<[Interval]> {
    let taken: u16 = left.iter().chain(right).map(|(_, width)| width).sum();
    let baseline = (middle, SLOTS.saturating_sub(taken));
    let mut end = 0;
    let row = left.iter().chain([&baseline]).chain(right.iter().rev());
    row.filter(|(_, width)| *width > 0)
        .map(|(upstream, width)| {
            end += width;
            Interval {
                end,
                upstream: *upstream,
            }
        })
        .collect()
}
