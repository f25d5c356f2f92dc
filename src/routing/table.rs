//! The routing table: services with their splits and upstreams, and how one table becomes the next.

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

/// All routes and services, compiled. A table never changes; each change makes a new one that
/// shares what it leaves as it is.
#[derive(Clone, Debug)]
pub struct RoutingTable {
    services: Vec<Arc<RoutedService>>,
    matcher: Arc<Matcher>,
}

/// A service, with everything that a request to it needs.
#[derive(Clone, Debug)]
pub struct RoutedService {
    /// Its name.
    pub name: Name,
    /// What leads to it, as declared.
    pub routes: Arc<[Route]>,
    /// How long each part of an exchange may take.
    pub timeouts: Timeouts,
    /// What makes a user return to the same upstream.
    pub sticky: Option<Sticky>,
    /// How testers reach a named upstream.
    pub tester: Option<Tester>,
    /// How its endpoints are checked.
    pub health: Option<Health>,
    /// The upstream that gets what the others leave.
    pub baseline: Name,
    /// Its weights, in the order of its upstreams.
    pub weights: Weights,
    /// The chooser compiled from them.
    pub split: Split,
    /// Its upstreams, in the order of declaration.
    pub upstreams: Box<[RoutedUpstream]>,
    /// The release under way, if one is.
    pub watch: Option<Arc<ReleaseHandle>>,
}

/// What of a service changes while it runs, and is not the configuration's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveState {
    /// How requests are split.
    pub weights: Weights,
    /// The upstream that a rollback returns to.
    pub baseline: Name,
    /// What sticky keys are spread by; a new one deals all users anew.
    pub salt: u64,
    /// The release under way, if one is. When its tripwire has tripped, its canary gets nothing,
    /// whatever `weights` say.
    pub watch: Option<Arc<ReleaseHandle>>,
}

impl LiveState {
    /// What a service starts with when nothing is known of it: its declared weights; the declared
    /// baseline, else the largest weight; a salt of its own.
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

    /// The weights that count: the canary's goes to the baseline once the tripwire has tripped.
    /// Every table is made by this, so no reload, health event or late commit can bring a
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

    /// This state for a service whose upstreams may have been declared anew: a new upstream gets no
    /// weight, that of a removed one goes to the baseline. When the baseline itself is gone,
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

    /// The live state that this table was built with.
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

    /// Whether an upstream is the canary of the release under way.
    fn is_canary(&self, upstream: UpstreamKey) -> bool {
        self.watch
            .as_ref()
            .is_some_and(|watch| watch.spec.canary == upstream)
    }

    /// Says of each upstream whether all its endpoints are used, because too many of them fail
    /// their checks.
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

    /// Where the requests of `upstream` go that has no endpoint to send them to: to the baseline,
    /// if that has one and users of its own; during a release of which the baseline is down, to
    /// the canary. Not those of a canary, whose failure is evidence and ends its release.
    pub fn stand_in(&self, upstream: &RoutedUpstream) -> Option<&RoutedUpstream> {
        if !upstream.usable().is_empty() || self.is_canary(upstream.key) {
            return None;
        }
        let baseline = self.upstream(&self.baseline)?;
        if baseline.weight.is_zero() {
            return None;
        }
        if baseline.usable().is_empty() {
            return self.standing_in_canary();
        }
        Some(baseline)
    }

    /// The canary, while it answers in place of a baseline that has users and no endpoint: it has
    /// users of its own, and nothing has taken it out.
    pub fn standing_in_canary(&self) -> Option<&RoutedUpstream> {
        let watch = self
            .watch
            .as_ref()
            .filter(|watch| !watch.tripwire().is_tripped())?;
        let of = |key| self.upstreams.iter().find(|upstream| upstream.key == key);
        let canary = of(watch.spec.canary).filter(|canary| !canary.weight.is_zero())?;
        let stands_in = self.is_baseline_down() && !canary.usable().is_empty();
        stands_in.then_some(canary)
    }

    /// Whether the baseline has users and no endpoint to send them to.
    pub fn is_baseline_down(&self) -> bool {
        let baseline = self.upstream(&self.baseline);
        baseline.is_some_and(|baseline| !baseline.weight.is_zero() && baseline.usable().is_empty())
    }

    /// The weights by which requests are answered: as [`Service::weights`], with the share of an
    /// upstream without endpoints where [`Service::stand_in`] sends it.
    pub fn weights_answered(&self) -> Weights {
        let mut weights = self.weights.clone();
        for upstream in &self.upstreams {
            let stand_in = self
                .stand_in(upstream)
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
    /// The table of these services with their live state (as [`Live::fitted`]; where `live` knows
    /// none, [`Live::initial`]). Endpoints that `previous` has too go on with their counts, and
    /// with their health if they are still checked.
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

    /// The service that a request is for. `host` is as the client sent it; `path` is without a
    /// query.
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

    /// This table with other live state of a service; `None` when there is no such service or the
    /// weights are not those of its upstreams.
    pub fn with_weights(&self, service: &str, live: &LiveState) -> Option<RoutingTable> {
        self.replacing(|candidate| {
            let names = candidate.upstreams.iter().map(|upstream| &upstream.name);
            let fits =
                &*candidate.name == service && names.eq(live.weights.iter().map(|(name, _)| name));
            fits.then(|| candidate.with_live(live))
        })
    }

    /// This table with an upstream's weight given to its service's baseline; `None` when it has no
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

    /// This table with an endpoint's health changed; `None` when it has no such endpoint or it is
    /// so already.
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

    /// This table with the first service that `change` makes another of.
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

/// The endpoints of the table before, and whether they were healthy.
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
        // Without checks nothing could ever make it healthy again.
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
