//! The live state of one service: its weights, and the baseline that follows from their history.
//!
//! A pure module: it publishes nothing, commits nothing and reads no clock.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::model::api::Phase;
use crate::model::{Name, ServiceSpec, Weight, WeightError, Weights, WeightsError, api};
use crate::release::ReleaseState;
use crate::routing;
use crate::store::ServiceRecord;

/// Builds whose attempts are remembered.
const ATTEMPTS_MAX: usize = 64;

/// Weights, baseline and history. Each accepted change makes a new state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServiceState {
    pub(super) revision: u64,
    pub(super) weights: Weights,
    /// The upstream that last held 100 percent; a rollback returns to it.
    pub(super) baseline: Name,
    /// The previous baseline, while a rollback may return to it; see
    /// [`ServiceState::with_weights`].
    pub(super) previous_baseline: Option<Name>,
    /// Increases by one whenever the weights leave a state in which one upstream held all.
    generation: u64,
    /// Number of releases so far; the next release gets the next number.
    pub(super) releases: u64,
    /// Attempts by build that was rolled back: each further attempt has a smaller error
    /// probability.
    attempts: BTreeMap<String, u32>,
    pub(super) since: String,
    pub(super) reason: Option<String>,
}

impl ServiceState {
    /// The initial state of a service, from its declaration.
    pub(super) fn declared(spec: &ServiceSpec, at: &str) -> ServiceState {
        let weights = spec.weights.clone();
        let baseline = weights
            .sole_upstream()
            .or(spec.baseline.as_ref())
            .or(weights.largest());
        ServiceState {
            revision: 1,
            baseline: baseline.cloned().unwrap_or_else(|| Name::from("")),
            weights,
            previous_baseline: None,
            generation: 0,
            releases: 0,
            attempts: BTreeMap::new(),
            since: at.to_owned(),
            reason: None,
        }
    }

    /// The stored state, adapted to the current declaration of the service, and a note if it had to
    /// change.
    ///
    /// The weight of a removed upstream goes to the baseline. If that is removed too, the declared
    /// state applies. Both have the next revision.
    pub(super) fn resumed(
        spec: &ServiceSpec,
        record: &ServiceRecord,
        at: &str,
    ) -> (ServiceState, Option<String>) {
        let known = |name: &str| {
            spec.upstreams
                .iter()
                .map(|u| &u.name)
                .find(|known| &***known == name)
        };
        let declared = ServiceState::declared(spec, at);
        let stored = ServiceState {
            revision: record.revision,
            previous_baseline: record.previous_baseline.as_deref().and_then(known).cloned(),
            generation: record.generation,
            releases: record.releases,
            attempts: record.attempts.clone(),
            since: record.since.clone(),
            reason: record.reason.clone(),
            ..declared.clone()
        };
        let given: Vec<(Name, Weight)> = record
            .weights
            .iter()
            .filter(|(_, weight)| !weight.is_zero())
            .map(|(name, weight)| (Name::from(name.as_str()), *weight))
            .collect();
        let names = || spec.upstreams.iter().map(|upstream| &upstream.name);
        let baseline = known(&record.baseline);
        if let Ok(weights) = Weights::new(names(), &given) {
            let state = ServiceState {
                // Not the upstream with all weight: in the final bake of a release that is still
                // the canary.
                baseline: baseline
                    .or(weights.sole_upstream())
                    .cloned()
                    .unwrap_or(declared.baseline),
                weights,
                ..stored
            };
            return (state, None);
        }
        let gone: Vec<String> = given
            .iter()
            .filter(|(name, _)| known(name).is_none())
            .map(|(name, weight)| {
                format!("{name}, which had {weight} % of the traffic, was removed")
            })
            .collect();
        let gone = gone.join("; ");
        if let Some(baseline) = baseline
            && let Some(weights) = Weights::inherited(names(), &given, baseline)
        {
            let note = format!("{gone}: its traffic goes to the baseline, {baseline}");
            let state = ServiceState {
                revision: record.revision + 1,
                baseline: Name::clone(baseline),
                weights,
                since: at.to_owned(),
                reason: Some(note.clone()),
                ..stored
            };
            return (state, Some(note));
        }
        let state = ServiceState {
            revision: record.revision + 1,
            generation: record.generation + 1,
            releases: record.releases,
            attempts: record.attempts.clone(),
            ..declared
        };
        let note = format!(
            "{gone}, and so was the baseline, {}: the weights in the configuration apply",
            record.baseline
        );
        (state, Some(note))
    }

    /// The same state under a new declaration of the service; new upstreams have no weight.
    ///
    /// # Errors
    ///
    /// An upstream that has weight was removed.
    pub(super) fn conformed(&self, spec: &ServiceSpec) -> Result<ServiceState, WeightsError> {
        let given = self
            .weights
            .iter()
            .map(|(name, weight)| (Name::clone(name), weight));
        let weights = weights_of(spec, given)?;
        let known = |name: &Name| spec.upstreams.iter().any(|upstream| upstream.name == *name);
        let baseline = Some(&self.baseline).filter(|name| known(name));
        let baseline = baseline
            .or(spec.baseline.as_ref())
            .or(weights.largest())
            .cloned();
        Ok(ServiceState {
            baseline: baseline.unwrap_or_else(|| Name::clone(&self.baseline)),
            previous_baseline: self.previous_baseline.clone().filter(known),
            weights,
            ..self.clone()
        })
    }

    /// Whether rollbacks lead to the same upstreams under both states.
    pub(super) fn leads_back_as(&self, other: &ServiceState) -> bool {
        self.baseline == other.baseline && self.previous_baseline == other.previous_baseline
    }

    /// The state after a change to `weights`, as revision `revision`.
    ///
    /// The upstream that gets everything becomes the baseline, and the one before becomes the
    /// target of a rollback. That target is dropped as soon as it gets weight again: then it is the
    /// next canary, no longer the last good version.
    pub(super) fn with_weights(
        &self,
        weights: Weights,
        revision: u64,
        at: &str,
        reason: Option<String>,
    ) -> ServiceState {
        let promoted = weights
            .sole_upstream()
            .filter(|holder| **holder != self.baseline)
            .cloned();
        let previous_baseline = match &promoted {
            Some(_) => Some(Name::clone(&self.baseline)),
            None => self
                .previous_baseline
                .clone()
                .filter(|name| weights.get(name) == Some(Weight::ZERO)),
        };
        let leaves = self.weights.sole_upstream().is_some() && weights.sole_upstream().is_none();
        // Unchanged weights keep the time at which they were set; the reason is that of the last
        // request.
        let since = if weights == self.weights {
            &self.since
        } else {
            at
        };
        ServiceState {
            revision,
            baseline: promoted.unwrap_or_else(|| Name::clone(&self.baseline)),
            previous_baseline,
            generation: self.generation + u64::from(leaves),
            since: since.to_owned(),
            weights,
            reason,
            ..self.clone()
        }
    }

    /// The state in which a release begins: its weights are unchanged.
    pub(super) fn with_new_release(
        &self,
        revision: u64,
        at: &str,
        reason: Option<String>,
    ) -> ServiceState {
        ServiceState {
            revision,
            releases: self.releases + 1,
            // The first users of one release are not the first users of the next.
            generation: self.generation + 1,
            since: at.to_owned(),
            reason,
            ..self.clone()
        }
    }

    /// The state after a transition of the release. The canary becomes the baseline with the
    /// promotion, not with the last step: until then a rollback leads to the old baseline.
    pub(super) fn with_release(
        &self,
        release: &ReleaseState,
        revision: u64,
        at: &str,
        reason: Option<String>,
    ) -> ServiceState {
        let weight = release.weight();
        let rest = Weight::from_basis_points(Weight::FULL.basis_points() - weight.basis_points())
            .unwrap_or_default();
        let promoted = release.phase == Phase::Promoted;
        let (baseline, canary) = (Name::from(&*release.baseline), Name::from(&*release.canary));
        let given = [
            (Name::clone(&baseline), rest),
            (Name::clone(&canary), weight),
        ];
        let upstreams = self.weights.iter().map(|(name, _)| name);
        let weights = Weights::new(upstreams, &given).unwrap_or_else(|_| self.weights.clone());
        let is_same = weights == self.weights;
        let mut attempts = self.attempts.clone();
        if let (true, Some(version)) = (release.was_judged_bad(), &release.version) {
            *attempts.entry(version.clone()).or_default() = release.attempt;
            while attempts.len() > ATTEMPTS_MAX {
                let other = attempts.keys().find(|known| *known != version).cloned();
                if let Some(other) = other {
                    attempts.remove(&other);
                }
            }
        }
        ServiceState {
            revision,
            previous_baseline: self.previous_after(release),
            baseline: if promoted {
                canary
            } else {
                Name::clone(&self.baseline)
            },
            weights,
            attempts,
            since: if is_same {
                self.since.clone()
            } else {
                at.to_owned()
            },
            reason: if is_same { self.reason.clone() } else { reason },
            ..self.clone()
        }
    }

    /// The rollback target after a transition of this release: after a promotion the version before
    /// it, and never an upstream that the release tests or has taken out.
    fn previous_after(&self, release: &ReleaseState) -> Option<Name> {
        match release.phase {
            Phase::Promoted => Some(Name::from(&*release.baseline)),
            Phase::RolledBack => None,
            _ => self
                .previous_baseline
                .clone()
                .filter(|name| **name != *release.canary),
        }
    }

    /// The state of a service whose release cannot continue: all weight on the baseline.
    pub(super) fn without_release(&self, revision: u64, at: &str, reason: String) -> ServiceState {
        let upstreams = self.weights.iter().map(|(name, _)| name);
        ServiceState {
            revision,
            weights: Weights::all_on(upstreams, &self.baseline)
                .unwrap_or_else(|| self.weights.clone()),
            previous_baseline: None,
            since: at.to_owned(),
            reason: Some(reason),
            ..self.clone()
        }
    }

    /// The number of the attempt, from 1, that a new release of this build is.
    pub(super) fn attempt(&self, version: Option<&str>) -> u32 {
        let known = version.filter(|version| !version.is_empty());
        known
            .and_then(|version| self.attempts.get(version))
            .map_or(1, |before| before + 1)
    }

    /// The state after a rollback: everything on the baseline; or, if it already has everything, on
    /// the baseline before it. Either way no further target remains, so that a repeated request
    /// never moves traffic twice.
    pub(super) fn rolled_back(
        &self,
        revision: u64,
        at: &str,
        reason: Option<String>,
    ) -> ServiceState {
        let held = self.weights.sole_upstream() == Some(&self.baseline);
        let target = self
            .previous_baseline
            .as_ref()
            .filter(|_| held)
            .unwrap_or(&self.baseline);
        let upstreams = self.weights.iter().map(|(name, _)| name);
        let weights = Weights::all_on(upstreams, target).unwrap_or_else(|| self.weights.clone());
        ServiceState {
            previous_baseline: None,
            ..self.with_weights(weights, revision, at, reason)
        }
    }

    /// Whether `weights` are a safe change: the baseline's share does not shrink, and no other
    /// grows.
    pub(super) fn is_towards_baseline(&self, weights: &Weights) -> bool {
        self.weights.iter().all(|(name, before)| {
            let after = weights.get(name).unwrap_or(Weight::ZERO);
            if *name == self.baseline {
                after >= before
            } else {
                after <= before
            }
        })
    }

    /// The input of the routing table. The salt differs by service and by generation, so that the
    /// first users of one release are not the first users of the next.
    pub(super) fn live(&self, service: &str) -> routing::LiveState {
        routing::LiveState {
            weights: self.weights.clone(),
            baseline: Name::clone(&self.baseline),
            salt: xxh3_64_with_seed(service.as_bytes(), self.generation),
            watch: None,
        }
    }

    /// The record for the store.
    pub(super) fn record(&self, service: &str) -> ServiceRecord {
        ServiceRecord {
            name: service.to_owned(),
            revision: self.revision,
            weights: self
                .weights
                .iter()
                .map(|(name, weight)| (name.to_string(), weight))
                .collect(),
            baseline: self.baseline.to_string(),
            previous_baseline: self.previous_baseline.as_deref().map(str::to_owned),
            generation: self.generation,
            releases: self.releases,
            attempts: self.attempts.clone(),
            since: self.since.clone(),
            reason: self.reason.clone(),
        }
    }

    /// The journal's view of the state.
    pub(super) fn json(&self) -> Value {
        json!({
            "revision": self.revision,
            "baseline": &*self.baseline,
            "weights": percentages(&self.weights),
        })
    }
}

/// Weights in their API form.
pub(super) fn percentages(weights: &Weights) -> api::Percentages {
    weights
        .iter()
        .map(|(name, weight)| (name.to_string(), weight.percent()))
        .collect()
}

/// Parses weights from their API form.
///
/// # Errors
///
/// All invalid fields.
pub(super) fn parse(
    spec: &ServiceSpec,
    given: &api::Percentages,
) -> Result<Weights, Vec<api::FieldProblem>> {
    let mut problems = Vec::new();
    let mut weights = BTreeMap::new();
    for (name, percent) in given {
        match parse_one(spec, name, *percent) {
            Ok(weight) => drop(weights.insert(Name::from(name.as_str()), weight)),
            Err(detail) => problems.push(api::FieldProblem {
                pointer: format!("/weights/{}", name.replace('~', "~0").replace('/', "~1")),
                detail,
            }),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    weights_of(spec, weights).map_err(|error| {
        vec![api::FieldProblem {
            pointer: "/weights".to_owned(),
            detail: error.to_string(),
        }]
    })
}

fn parse_one(spec: &ServiceSpec, name: &str, percent: f64) -> Result<Weight, String> {
    if !spec
        .upstreams
        .iter()
        .any(|upstream| *upstream.name == *name)
    {
        let known: Vec<&str> = spec
            .upstreams
            .iter()
            .map(|upstream| &*upstream.name)
            .collect();
        let known = known.join(", ");
        return Err(format!(
            "there is no upstream {name:?}; the upstreams are: {known}"
        ));
    }
    Weight::from_percent(percent).map_err(|error: WeightError| error.to_string())
}

/// Checks weights against the service's upstreams; an unknown name is allowed with weight 0.
fn weights_of(
    spec: &ServiceSpec,
    given: impl IntoIterator<Item = (Name, Weight)>,
) -> Result<Weights, WeightsError> {
    let given: Vec<_> = given
        .into_iter()
        .filter(|(_, weight)| !weight.is_zero())
        .collect();
    Weights::new(spec.upstreams.iter().map(|upstream| &upstream.name), &given)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
