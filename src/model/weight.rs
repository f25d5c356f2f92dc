//! Weights: an upstream's share of its service in percent, exact to 0.01.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Name;

/// A share in percent, held as hundredths of a percent (basis points), 0 to 10,000, so that sums
/// are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

impl Weight {
    /// No traffic at all.
    pub const ZERO: Weight = Weight(0);
    /// All of a service's traffic.
    pub const FULL: Weight = Weight(10_000);

    /// A weight of so many hundredths of a percent; `None` above 10,000.
    pub const fn from_basis_points(points: u16) -> Option<Weight> {
        if points <= Self::FULL.0 {
            Some(Weight(points))
        } else {
            None
        }
    }

    /// The weight of `percent`, 0 to 100 with at most two decimals.
    ///
    /// # Errors
    ///
    /// [`WeightError`] when the number is not finite, outside 0 to 100, or finer than 0.01.
    pub fn from_percent(percent: f64) -> Result<Weight, WeightError> {
        if !percent.is_finite() {
            return Err(WeightError::NotFinite);
        }
        if !(0.0..=100.0).contains(&percent) {
            return Err(WeightError::OutOfRange(percent));
        }
        let points = (percent * 100.0).round();
        // 0.01 has no exact binary form: the nearest double of any two-decimal percentage is within
        // this distance.
        if (percent * 100.0 - points).abs() > 1e-6 {
            return Err(WeightError::TooFine(percent));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 10,000, checked above"
        )]
        Ok(Weight(points as u16))
    }

    /// Hundredths of a percent, 0 to 10,000.
    pub const fn basis_points(self) -> u16 {
        self.0
    }

    /// The share in percent, 0 to 100.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// The share as a fraction, 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Self::FULL.0)
    }

    /// Whether no traffic is meant.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.percent())
    }
}

/// Why a number is not a weight.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum WeightError {
    /// NaN or infinite.
    #[error("a weight is a number from 0 to 100, in percent")]
    NotFinite,
    /// Below 0 or above 100.
    #[error("{0} is not a percentage from 0 to 100")]
    OutOfRange(f64),
    /// More than two decimals.
    #[error("{0} has more than two decimals; weights are exact to 0.01 percent")]
    TooFine(f64),
}

/// The weights of all upstreams of one service, in the order in which they were declared; they sum
/// to 100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights(Vec<(Name, Weight)>);

impl Weights {
    /// One weight for each of `upstreams`, in their order; an upstream that `given` leaves out has
    /// weight 0.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] when a name is unknown or given twice, or the sum is not 100.
    pub fn new<'a>(
        upstreams: impl IntoIterator<Item = &'a Name>,
        given: &[(Name, Weight)],
    ) -> Result<Weights, WeightsError> {
        let mut all: Vec<(Name, Weight)> = upstreams
            .into_iter()
            .map(|name| (Name::clone(name), Weight::ZERO))
            .collect();
        for (at, (name, weight)) in given.iter().enumerate() {
            if given.iter().take(at).any(|(earlier, _)| earlier == name) {
                return Err(WeightsError::Twice(Name::clone(name)));
            }
            let Some(slot) = all.iter_mut().find(|(known, _)| known == name) else {
                let known = all
                    .iter()
                    .map(|(known, _)| &**known)
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(WeightsError::Unknown {
                    name: Name::clone(name),
                    known,
                });
            };
            slot.1 = *weight;
        }
        let sum: u32 = all.iter().map(|(_, weight)| u32::from(weight.0)).sum();
        if sum != u32::from(Weight::FULL.0) {
            return Err(WeightsError::Sum(f64::from(sum) / 100.0));
        }
        Ok(Weights(all))
    }

    /// All weight on `only`, none on the others; `None` when `only` is not among `upstreams`.
    pub fn all_on<'a>(
        upstreams: impl IntoIterator<Item = &'a Name>,
        only: &str,
    ) -> Option<Weights> {
        let all: Vec<(Name, Weight)> = upstreams
            .into_iter()
            .map(|name| {
                (
                    Name::clone(name),
                    if &**name == only {
                        Weight::FULL
                    } else {
                        Weight::ZERO
                    },
                )
            })
            .collect();
        all.iter()
            .any(|(name, _)| &**name == only)
            .then_some(Weights(all))
    }

    /// The weights of those in `given` that are among `upstreams`, and on `heir` all that the
    /// others had; `None` when `heir` is not among `upstreams` itself, or the sum is more than
    /// 100.
    pub fn inherited<'a>(
        upstreams: impl IntoIterator<Item = &'a Name>,
        given: &[(Name, Weight)],
        heir: &str,
    ) -> Option<Weights> {
        let of = |name: &Name| {
            given
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, weight)| *weight)
        };
        let mut all: Vec<(Name, Weight)> = upstreams
            .into_iter()
            .map(|name| (Name::clone(name), of(name).unwrap_or(Weight::ZERO)))
            .collect();
        let sum: u32 = all.iter().map(|(_, weight)| u32::from(weight.0)).sum();
        let rest = u16::try_from(u32::from(Weight::FULL.0).checked_sub(sum)?).ok()?;
        let (_, weight) = all.iter_mut().find(|(name, _)| &**name == heir)?;
        weight.0 = weight.0.saturating_add(rest);
        Some(Weights(all))
    }

    /// These weights with all that `from` has given to `to`; `None` when one of them is not among
    /// the upstreams, or they are the same.
    pub fn moved(&self, from: &str, to: &str) -> Option<Weights> {
        let weight = self.get(from)?;
        self.get(to).filter(|_| *from != *to)?;
        let moved = self.0.iter().map(|(name, own)| match &**name {
            name if *name == *from => Weight::ZERO,
            name if *name == *to => Weight(own.0.saturating_add(weight.0)),
            _ => *own,
        });
        let names = self.0.iter().map(|(name, _)| Name::clone(name));
        Some(Weights(names.zip(moved).collect()))
    }

    /// Name and weight of each upstream, in the order of declaration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Name, Weight)> {
        self.0.iter().map(|(name, weight)| (name, *weight))
    }

    /// The weight of `upstream`; `None` when the service has no such upstream.
    pub fn get(&self, upstream: &str) -> Option<Weight> {
        self.0
            .iter()
            .find(|(name, _)| &**name == upstream)
            .map(|(_, weight)| *weight)
    }

    /// The upstream that holds all of the traffic, if one does.
    pub fn sole_upstream(&self) -> Option<&Name> {
        self.0
            .iter()
            .find(|(_, weight)| *weight == Weight::FULL)
            .map(|(name, _)| name)
    }

    /// The upstream with the largest weight, ties by order of declaration; `None` only without
    /// upstreams.
    pub fn largest(&self) -> Option<&Name> {
        let most = self.0.iter().map(|(_, weight)| *weight).max()?;
        self.0
            .iter()
            .find(|(_, weight)| *weight == most)
            .map(|(name, _)| name)
    }
}

/// Why a set of weights cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WeightsError {
    /// A name that is none of the service's upstreams.
    #[error("there is no upstream {name:?}; the upstreams are: {known}")]
    Unknown {
        /// The name that was given.
        name: Name,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// A name that was given more than once.
    #[error("upstream {0:?} is given twice")]
    Twice(Name),
    /// Weights that do not sum to 100 percent.
    #[error("the weights sum to {0}, not to 100")]
    Sum(f64),
}

impl Serialize for Weight {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.percent())
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Weight::from_percent(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<Name> {
        all.iter().map(|name| Name::from(*name)).collect()
    }

    #[test]
    fn percentages_are_exact_to_two_decimals() {
        for points in 0..=10_000_u16 {
            let weight = Weight::from_basis_points(points).unwrap();
            assert_eq!(Weight::from_percent(weight.percent()), Ok(weight));
        }
        assert_eq!(
            Weight::from_percent(33.333),
            Err(WeightError::TooFine(33.333))
        );
        assert_eq!(
            Weight::from_percent(100.01),
            Err(WeightError::OutOfRange(100.01))
        );
        assert_eq!(
            Weight::from_percent(-0.01),
            Err(WeightError::OutOfRange(-0.01))
        );
        assert_eq!(Weight::from_percent(f64::NAN), Err(WeightError::NotFinite));
    }

    #[test]
    fn invalid_weights_name_the_problem() {
        let upstreams = names(&["blue", "green"]);
        let percent = |p| Weight::from_percent(p).unwrap();
        let check = |given: &[(&str, f64)]| {
            let given: Vec<_> = given
                .iter()
                .map(|(name, p)| (Name::from(*name), percent(*p)))
                .collect();
            Weights::new(&upstreams, &given).map_err(|error| error.to_string())
        };
        assert_eq!(
            check(&[("blue", 99.99), ("green", 0.01)])
                .unwrap()
                .get("green"),
            Some(percent(0.01))
        );
        assert_eq!(
            check(&[("green", 100.0)]).unwrap().sole_upstream(),
            Some(&Name::from("green"))
        );
        assert_eq!(
            check(&[("blue", 50.0), ("green", 49.99)]),
            Err("the weights sum to 99.99, not to 100".into())
        );
        assert_eq!(
            check(&[("red", 100.0)]),
            Err(r#"there is no upstream "red"; the upstreams are: blue, green"#.into())
        );
        assert_eq!(
            check(&[("blue", 50.0), ("blue", 50.0)]),
            Err(r#"upstream "blue" is given twice"#.into())
        );
    }

    #[test]
    fn the_largest_weight_wins_and_ties_go_by_order() {
        let upstreams = names(&["a", "b", "c"]);
        let half = Weight::from_percent(50.0).unwrap();
        let weights = Weights::new(
            &upstreams,
            &[(Name::from("c"), half), (Name::from("b"), half)],
        )
        .unwrap();
        assert_eq!(weights.largest(), Some(&Name::from("b")));
        assert_eq!(weights.sole_upstream(), None);
    }
}
