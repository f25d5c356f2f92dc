//! The traffic split: maps a key or a random number to one of a service's upstreams.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::model::{Weight, Weights};

/// The number of buckets for keys: one for each hundredth of a percent.
const BUCKETS: u16 = Weight::FULL.basis_points();

/// Divides buckets among the upstreams of a service: exactly by weight, and so that as few keys
/// move as possible.
///
/// The buckets form a row. The baseline holds the middle, and the others, in the order of
/// declaration, take theirs alternately from the left end and the right end; the third begins where
/// the first ends, and so on. So with up to two upstreams besides the baseline, changing one's
/// weight against the baseline moves keys only between these two.
///
/// With three or more, that holds for each upstream inside of which (towards the middle) no other
/// has weight; changing one further out shifts those inside of it. No layout that depends on the
/// weights alone does better: an upstream's buckets would have to depend on its own weight only, so
/// any two upstreams would need to fill up in opposite orders, and three orders cannot be opposite
/// in pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    salt: u64,
    /// Ascending; the last one ends at `BUCKETS`.
    intervals: Box<[Interval]>,
}

/// A run of buckets of one upstream, from the end of the previous interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    end: u16,
    upstream: usize,
}

impl Split {
    /// The split of `weights`, with keys hashed by `salt`. If `baseline` is not one of the
    /// upstreams, the one with the largest weight is used.
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

    /// The upstream (its index in the service) for a `draw` that is uniform over all 64-bit
    /// numbers.
    pub fn pick(&self, draw: u64) -> usize {
        let bucket = bucket(draw);
        let found = self.intervals.iter().find(|interval| bucket < interval.end);
        found.map_or(0, |interval| interval.upstream)
    }

    /// The upstream (its index in the service) for a user, stable while the weights are unchanged.
    pub fn pick_key(&self, key: &[u8]) -> usize {
        self.pick(xxh3_64_with_seed(key, self.salt))
    }

    /// The salt of the key hash.
    pub fn salt(&self) -> u64 {
        self.salt
    }
}

/// The bucket by the number's position among all numbers, not by a remainder: the buckets are equal
/// to within 2^-50.
fn bucket(draw: u64) -> u16 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below BUCKETS, since draw is below 2^64"
    )]
    let bucket = ((u128::from(draw) * u128::from(BUCKETS)) >> 64) as u16;
    bucket
}

fn intervals(left: &[(usize, u16)], middle: usize, right: &[(usize, u16)]) -> Box<[Interval]> {
    let taken: u16 = left.iter().chain(right).map(|(_, width)| width).sum();
    let baseline = (middle, BUCKETS.saturating_sub(taken));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::testing::weights;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn split(points: &[u16], baseline: usize, salt: u64) -> Split {
        let given: Vec<_> = NAMES.into_iter().zip(points.iter().copied()).collect();
        Split::new(&weights(&given), NAMES[baseline], salt)
    }

    #[test]
    fn shares_match_weights_within_sampling_error() {
        for points in [
            &[9_500, 500][..],
            &[9_999, 1],
            &[3_333, 3_333, 3_334],
            &[10, 9_980, 10],
        ] {
            let split = split(points, 0, 42);
            let mut keys = [0_u32; 3];
            let total = 1_000_000;
            for user in 0..total {
                keys[split.pick_key(format!("user-{user}").as_bytes())] += 1;
            }
            for (got, want) in keys.into_iter().zip(points) {
                let share = f64::from(*want) / 10_000.0;
                let sigma = (f64::from(total) * share * (1.0 - share)).sqrt();
                let off = (f64::from(got) - f64::from(total) * share).abs();
                assert!(
                    off <= 5.0 * sigma,
                    "{got} of {total} for {want} points, {off} off, sigma {sigma}"
                );
            }
        }
    }

    #[test]
    fn draws_fill_buckets_evenly() {
        let split = split(&[9_999, 1], 0, 0);
        let step = u64::MAX / 1_000_000;
        let canary = (0..1_000_000).filter(|i| split.pick(i * step) == 1).count();
        assert!((99..=101).contains(&canary), "{canary}");
        assert_eq!((split.pick(0), split.pick(u64::MAX)), (1, 0));
    }

    #[test]
    fn zero_and_full_weight_are_exact() {
        for baseline in 0..2 {
            for full in 0..2 {
                let mut points = [0, 0];
                points[full] = 10_000;
                let split = split(&points, baseline, 7);
                let draws = (0..=u64::MAX).step_by(1 << 46).chain([u64::MAX]);
                assert!(draws.into_iter().all(|draw| split.pick(draw) == full));
            }
        }
    }

    #[test]
    fn assignment_is_stable_across_builds() {
        let split = split(&[5_000, 5_000], 0, 0x5eed);
        let picks: Vec<_> = (0..16)
            .map(|user| split.pick_key(format!("user-{user}").as_bytes()))
            .collect();
        assert_eq!(picks, [1, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn another_salt_reassigns_users() {
        let (one, two) = (split(&[5_000, 5_000], 0, 1), split(&[5_000, 5_000], 0, 2));
        let same = (0..10_000_u32)
            .filter(|user| one.pick_key(&user.to_le_bytes()) == two.pick_key(&user.to_le_bytes()));
        assert!((4_700..5_300).contains(&same.count()));
    }

    #[test]
    fn unknown_baseline_means_largest_weight() {
        let given = weights(&[("a", 1_000), ("b", 9_000)]);
        assert_eq!(Split::new(&given, "gone", 3), Split::new(&given, "b", 3));
    }

    proptest! {
        /// A sequence of changes, each of one upstream against the baseline.
        #[test]
        fn users_move_only_between_baseline_and_changed_upstream(
            upstreams in 2..=3_usize,
            baseline in 0..3_usize,
            salt: u64,
            changes in prop::collection::vec((0..2_usize, 0..=10_000_u16), 1..12),
            keys in prop::collection::vec(any::<u64>(), 200),
        ) {
            let baseline = baseline % upstreams;
            let others: Vec<_> = (0..upstreams).filter(|at| *at != baseline).collect();
            let mut points = vec![0; upstreams];
            points[baseline] = 10_000;
            let picks = |points: &[u16]| {
                let split = split(points, baseline, salt);
                keys.iter().map(|key| split.pick_key(&key.to_le_bytes())).collect::<Vec<_>>()
            };
            for (which, wanted) in changes {
                let changed = others[which % others.len()];
                let before = (points.clone(), picks(&points));
                let free = points[baseline] + points[changed];
                points[changed] = wanted.min(free);
                points[baseline] = free - points[changed];
                let after = picks(&points);
                let (from, to) = if points[changed] >= before.0[changed] {(
                    baseline, changed,
                )} else { (changed, baseline) };
                for (old, new) in before.1.iter().zip(&after) {
                    prop_assert!(
                        old == new || (*old, *new) == (from, to), "{:?} to {:?}: {} to {}",
                        before.0, points, old, new,
                    );
                }
                prop_assert_eq!(after, picks(&points));
            }
        }

        /// For any number of upstreams, each has exactly its buckets.
        #[test]
        fn every_upstream_has_exactly_its_buckets(
            cuts in prop::collection::vec(0..=10_000_u16, 0..6), baseline: prop::sample::Index,
        ) {
            let mut cuts = [&[0, 10_000], &*cuts].concat();
            cuts.sort_unstable();
            let points: Vec<_> = cuts.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let names: Vec<_> = (0..points.len()).map(|at| at.to_string()).collect();
            let given: Vec<_> = names.iter().map(|name| name.as_str()).zip(
                points.iter().copied()
            ).collect();
            let split = Split::new(&weights(&given), &names[baseline.index(names.len())], 0);
            let mut buckets = vec![0; points.len()];
            for bucket in 0..10_000_u128 {
                let first = u64::try_from((bucket << 64) / 10_000 + 1).unwrap();
                buckets[split.pick(first)] += 1;
            }
            prop_assert_eq!(buckets, points);
        }
    }
}
