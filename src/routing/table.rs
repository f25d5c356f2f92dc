//! The routing table: services with their splits and upstreams, and the changes from one table to
//! the next.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use http::{HeaderMap, Method};
use xxhash_rust::xxh3::xxh3_64;

use super::matcher::Matcher;
use super::{EndpointKey, KeyRegistry, ReleaseHandle, RoutedEndpoint, RoutedUpstream, Split};
use crate::model::{
    Health, Name, Route, ServiceSpec, Sticky, Tester, Timeouts, UpstreamSpec, Weight, Weights,
};
use crate::stats::UpstreamKey;

/// The compiled routes and services. A table is immutable; each change makes a new one that shares
/// the unchanged parts.
#[derive(Clone, Debug)]
pub struct RoutingTable {
    services: Vec<Arc<RoutedService>>,
    matcher: Arc<Matcher>,
}

/// A service with all data that its requests need.
#[derive(Clone, Debug)]
pub struct RoutedService {
    /// The name.
    pub name: Name,
    /// The routes, as declared.
    pub routes: Arc<[Route]>,
    /// The timeouts of an exchange.
    pub timeouts: Timeouts,
    /// The sticky key, if configured.
    pub sticky: Option<Sticky>,
    /// How testers select a named upstream.
    pub tester: Option<Tester>,
    /// The health checks of its endpoints.
    pub health: Option<Health>,
    /// The upstream that gets the remaining weight.
    pub baseline: Name,
    /// The weights, in the order of the upstreams.
    pub weights: Weights,
    /// The split compiled from the weights.
    pub split: Split,
    /// The upstreams, in the order of declaration.
    pub upstreams: Box<[RoutedUpstream]>,
    /// The active release, if any.
    pub watch: Option<Arc<ReleaseHandle>>,
}

/// The state of a service that changes at run time and is not part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveState {
    /// The weights.
    pub weights: Weights,
    /// The upstream that a rollback returns to.
    pub baseline: Name,
    /// The salt of the sticky keys; a new one reassigns all users.
    pub salt: u64,
    /// The active release, if any. When its tripwire has tripped, its canary gets no requests,
    /// whatever `weights` say.
    pub watch: Option<Arc<ReleaseHandle>>,
}

impl LiveState {
    /// The initial state: the declared weights; the declared baseline, otherwise the upstream with
    /// the largest weight; a salt from the name.
    pub fn initial(spec: &ServiceSpec) -> LiveState {
        let declared = spec.baseline.as_ref().or_else(|| spec.weights.largest());
        let baseline = declared.or_else(|| spec.upstreams.first().map(|upstream| &upstream.name));
        LiveState {
            weights: spec.weights.clone(),
            baseline: baseline.map_or_else(|| Name::from(""), Name::clone),
            salt: xxh3_64(spec.name.as_bytes()),
            watch: None,
        }
    }

    /// The effective weights: the canary's weight goes to the baseline once the tripwire has
    /// tripped. Every table uses them, so no reload, health event or late commit can bring a
    /// tripped canary back.
    fn effective(&self) -> Weights {
        let tripped = self
            .watch
            .as_ref()
            .filter(|watch| watch.tripwire().is_tripped());
        let canary = tripped.map(|watch| &watch.spec.canary_name);
        canary
            .and_then(|canary| self.weights.moved(canary, &self.baseline))
            .unwrap_or_else(|| self.weights.clone())
    }

    /// This state for a service whose upstreams may have changed: a new upstream gets no weight,
    /// and the weight of a removed one goes to the baseline. If the baseline itself was removed,
    /// the service starts as declared, with this salt.
    #[must_use]
    pub fn fitted(self, spec: &ServiceSpec) -> LiveState {
        let names = || spec.upstreams.iter().map(|upstream| &upstream.name);
        if names().eq(self.weights.iter().map(|(name, _)| name)) {
            return self;
        }
        let given: Vec<(Name, Weight)> = self
            .weights
            .iter()
            .map(|(name, weight)| (Name::clone(name), weight))
            .collect();
        match Weights::inherited(names(), &given, &self.baseline) {
            Some(weights) => LiveState { weights, ..self },
            None => LiveState {
                salt: self.salt,
                ..LiveState::initial(spec)
            },
        }
    }
}

impl RoutedService {
    /// The upstream for a request without a sticky key; `draw` is uniform over all 64-bit numbers.
    pub fn pick(&self, draw: u64) -> Option<&RoutedUpstream> {
        self.upstreams.get(self.split.pick(draw))
    }

    /// The upstream for a user.
    pub fn pick_key(&self, key: &[u8]) -> Option<&RoutedUpstream> {
        self.upstreams.get(self.split.pick_key(key))
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &str) -> Option<&RoutedUpstream> {
        self.upstreams
            .iter()
            .find(|upstream| &*upstream.name == name)
    }

    /// The live state with which this table was built.
    pub fn live(&self) -> LiveState {
        LiveState {
            weights: self.weights.clone(),
            baseline: Name::clone(&self.baseline),
            salt: self.split.salt(),
            watch: self.watch.clone(),
        }
    }

    fn with_live(&self, live: &LiveState) -> RoutedService {
        let mut service = self.clone();
        let weights = live.effective();
        service.baseline = Name::clone(&live.baseline);
        service.split = Split::new(&weights, &live.baseline, live.salt);
        for upstream in &mut service.upstreams {
            upstream.weight = weights.get(&upstream.name).unwrap_or_default();
        }
        service.weights = weights;
        service.watch.clone_from(&live.watch);
        service.settle_panic();
        service
    }

    /// Whether an upstream is the canary of the active release.
    fn is_canary(&self, upstream: UpstreamKey) -> bool {
        self.watch
            .as_ref()
            .is_some_and(|watch| watch.spec.canary == upstream)
    }

    /// Sets panic mode for each upstream: all endpoints are used if too many fail their checks.
    fn settle_panic(&mut self) {
        let limit = self
            .health
            .as_ref()
            .map_or(Weight::default(), |health| health.panic);
        let canary = self.watch.as_ref().map(|watch| watch.spec.canary);
        for upstream in &mut self.upstreams {
            upstream.panics = canary != Some(upstream.key) && upstream.exceeds(limit);
        }
    }

    /// The upstream that serves the requests of `upstream` if that has no usable endpoint: the
    /// baseline, if it has an endpoint and users of its own; during a release whose baseline is
    /// down, the canary. Requests of a canary do not fail over, since their failure is evidence and
    /// ends the release.
    pub fn failover_target(&self, upstream: &RoutedUpstream) -> Option<&RoutedUpstream> {
        if !upstream.usable().is_empty() || self.is_canary(upstream.key) {
            return None;
        }
        let baseline = self.upstream(&self.baseline)?;
        if baseline.weight.is_zero() {
            return None;
        }
        if baseline.usable().is_empty() {
            return self.failover_canary();
        }
        Some(baseline)
    }

    /// The canary, while it serves the requests of a baseline that has users and no endpoint: it
    /// has users of its own, and has not been removed.
    pub fn failover_canary(&self) -> Option<&RoutedUpstream> {
        let watch = self
            .watch
            .as_ref()
            .filter(|watch| !watch.tripwire().is_tripped())?;
        let of = |key| self.upstreams.iter().find(|upstream| upstream.key == key);
        let canary = of(watch.spec.canary).filter(|canary| !canary.weight.is_zero())?;
        let stands_in = self.is_baseline_down() && !canary.usable().is_empty();
        stands_in.then_some(canary)
    }

    /// Whether the baseline has users and no usable endpoint.
    pub fn is_baseline_down(&self) -> bool {
        let baseline = self.upstream(&self.baseline);
        baseline.is_some_and(|baseline| !baseline.weight.is_zero() && baseline.usable().is_empty())
    }

    /// The weights after failover: as [`RoutedService::weights`], with the share of an upstream
    /// without endpoints moved to the upstream of [`RoutedService::failover_target`].
    pub fn effective_weights(&self) -> Weights {
        let mut weights = self.weights.clone();
        for upstream in &self.upstreams {
            let stand_in = self
                .failover_target(upstream)
                .filter(|_| !upstream.weight.is_zero());
            if let Some(stand_in) = stand_in
                && let Some(moved) = weights.moved(&upstream.name, &stand_in.name)
            {
                weights = moved;
            }
        }
        weights
    }
}

impl RoutingTable {
    /// Builds the table of these services with their live state (as [`LiveState::fitted`]; where
    /// `live` returns none, [`LiveState::initial`]). Endpoints that are also in `previous` keep
    /// their counts, and their health if they are still checked.
    pub fn build(
        specs: &[ServiceSpec],
        live: impl Fn(&str) -> Option<LiveState>,
        keys: &mut KeyRegistry,
        previous: Option<&RoutingTable>,
    ) -> RoutingTable {
        let known = previous
            .map(RoutingTable::endpoints_by_key)
            .unwrap_or_default();
        let routes = specs.iter().enumerate();
        let routes = routes.flat_map(|(at, spec)| spec.routes.iter().map(move |route| (at, route)));
        let matcher = Arc::new(Matcher::new(routes));
        let services = specs.iter().map(|spec| {
            let live =
                live(&spec.name).map_or_else(|| LiveState::initial(spec), |live| live.fitted(spec));
            Arc::new(service(spec, &live, keys, &known))
        });
        RoutingTable {
            services: services.collect(),
            matcher,
        }
    }

    /// The service for a request. `host` is as the client sent it; `path` is without a query.
    pub fn route(
        &self,
        host: Option<&str>,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
    ) -> Option<&Arc<RoutedService>> {
        self.services
            .get(self.matcher.find(host, path, method, headers)?)
    }

    /// All services, in the order of declaration.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<RoutedService>> {
        self.services.iter()
    }

    /// The service of this name.
    pub fn service(&self, name: &str) -> Option<&Arc<RoutedService>> {
        self.services.iter().find(|service| &*service.name == name)
    }

    /// This table with other live state of a service; `None` if there is no such service or the
    /// weights do not match its upstreams.
    pub fn with_weights(&self, service: &str, live: &LiveState) -> Option<RoutingTable> {
        self.replacing(|candidate| {
            let names = candidate.upstreams.iter().map(|upstream| &upstream.name);
            let fits =
                &*candidate.name == service && names.eq(live.weights.iter().map(|(name, _)| name));
            fits.then(|| candidate.with_live(live))
        })
    }

    /// This table with an upstream's weight moved to its service's baseline; `None` if it has no
    /// weight, or is the baseline itself.
    pub fn drained(&self, upstream: UpstreamKey) -> Option<RoutingTable> {
        self.replacing(|service| {
            let gone = service
                .upstreams
                .iter()
                .find(|candidate| candidate.key == upstream)?;
            if gone.weight.is_zero() || gone.name == service.baseline {
                return None;
            }
            let weights = service.weights.moved(&gone.name, &service.baseline)?;
            Some(service.with_live(&LiveState {
                weights,
                ..service.live()
            }))
        })
    }

    /// This table with an endpoint's health changed; `None` if there is no such endpoint or the
    /// state is the same.
    pub fn with_health(&self, endpoint: EndpointKey, healthy: bool) -> Option<RoutingTable> {
        self.replacing(|service| {
            let changed = |upstream: &RoutedUpstream| upstream.with_health(endpoint, healthy);
            let (at, upstream) = service
                .upstreams
                .iter()
                .map(changed)
                .enumerate()
                .find(|(_, new)| new.is_some())?;
            let mut service = service.clone();
            *service.upstreams.get_mut(at)? = upstream?;
            service.settle_panic();
            Some(service)
        })
    }

    /// All endpoints of all services.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<RoutedEndpoint>> {
        let upstreams = self.services.iter().flat_map(|service| &service.upstreams);
        upstreams.flat_map(|upstream| &upstream.endpoints)
    }

    /// This table with the first service replaced for which `change` returns another.
    fn replacing(
        &self,
        change: impl Fn(&RoutedService) -> Option<RoutedService>,
    ) -> Option<RoutingTable> {
        let changed = self.services.iter().map(|service| change(service));
        let (at, service) = changed.enumerate().find(|(_, new)| new.is_some())?;
        let mut table = self.clone();
        *table.services.get_mut(at)? = Arc::new(service?);
        Some(table)
    }

    fn endpoints_by_key(&self) -> Known {
        let upstreams = self.services.iter().flat_map(|service| &service.upstreams);
        upstreams
            .flat_map(|upstream| {
                upstream
                    .endpoints
                    .iter()
                    .map(move |endpoint| (upstream, endpoint))
            })
            .map(|(upstream, endpoint)| {
                (
                    endpoint.key,
                    (Arc::clone(endpoint), upstream.is_healthy(endpoint.key)),
                )
            })
            .collect()
    }
}

/// The endpoints of the previous table, and whether they were healthy.
type Known = HashMap<EndpointKey, (Arc<RoutedEndpoint>, bool), FixedState>;

fn service(
    spec: &ServiceSpec,
    live: &LiveState,
    keys: &mut KeyRegistry,
    known: &Known,
) -> RoutedService {
    let weights = live.effective();
    let upstreams = spec.upstreams.iter().map(|declared| {
        let weight = weights.get(&declared.name).unwrap_or_default();
        upstream(spec, declared, weight, keys, known)
    });
    let mut service = RoutedService {
        name: Name::clone(&spec.name),
        routes: spec.routes.as_slice().into(),
        timeouts: spec.timeouts,
        sticky: spec.sticky.clone(),
        tester: spec.tester.clone(),
        health: spec.health.clone(),
        baseline: Name::clone(&live.baseline),
        split: Split::new(&weights, &live.baseline, live.salt),
        upstreams: upstreams.collect(),
        weights,
        watch: live.watch.clone(),
    };
    service.settle_panic();
    service
}

fn upstream(
    spec: &ServiceSpec,
    declared: &UpstreamSpec,
    weight: Weight,
    keys: &mut KeyRegistry,
    known: &Known,
) -> RoutedUpstream {
    let key = keys.upstream(&spec.name, &declared.name);
    let (mut endpoints, mut healthy) = (Vec::new(), Vec::new());
    for address in &declared.endpoints {
        let number = keys.endpoint(key, address.0);
        let (endpoint, was_healthy) = known.get(&number).cloned().unwrap_or_else(|| {
            let (service, upstream) = (Name::clone(&spec.name), Name::clone(&declared.name));
            (
                Arc::new(RoutedEndpoint::new(number, address.0, service, upstream)),
                true,
            )
        });
        // Without checks it could never become healthy again.
        if was_healthy || spec.health.is_none() {
            healthy.push(Arc::clone(&endpoint));
        }
        endpoints.push(endpoint);
    }
    RoutedUpstream {
        key,
        name: Name::clone(&declared.name),
        weight,
        protocol: declared.protocol,
        endpoints: endpoints.into(),
        healthy: healthy.into(),
        panics: false,
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
