//! The routing table: services with their splits and upstreams, and how one table becomes the next.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use http::{HeaderMap, Method};
use xxhash_rust::xxh3::xxh3_64;

use super::matcher::Matcher;
use super::{Endpoint, EndpointKey, Keys, Split, Upstream, Watch};
use crate::model::{Health, Name, Route, ServiceSpec, Sticky, Tester, Timeouts, UpstreamSpec, Weight, Weights};
use crate::stats::UpstreamKey;

/// All routes and services, compiled. A table never changes; each change makes a new one that shares what it leaves
/// as it is.
#[derive(Clone, Debug)]
pub struct RoutingTable {
    services: Vec<Arc<Service>>,
    matcher: Arc<Matcher>,
}

/// A service, with everything that a request to it needs.
#[derive(Clone, Debug)]
pub struct Service {
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
    pub upstreams: Box<[Upstream]>,
    /// The release under way, if one is.
    pub watch: Option<Arc<Watch>>,
}

/// What of a service changes while it runs, and is not the configuration's to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// How requests are split.
    pub weights: Weights,
    /// The upstream that a rollback returns to.
    pub baseline: Name,
    /// What sticky keys are spread by; a new one deals all users anew.
    pub salt: u64,
    /// The release under way, if one is. When its tripwire has tripped, its canary gets nothing, whatever `weights` say.
    pub watch: Option<Arc<Watch>>,
}

impl Live {
    /// What a service starts with when nothing is known of it: its declared weights; the declared baseline, else the
    /// largest weight; a salt of its own.
    pub fn initial(spec: &ServiceSpec) -> Live {
        let declared = spec.baseline.as_ref().or_else(|| spec.weights.largest());
        let baseline = declared.or_else(|| spec.upstreams.first().map(|upstream| &upstream.name));
        Live {
            weights: spec.weights.clone(),
            baseline: baseline.map_or_else(|| Name::from(""), Name::clone),
            salt: xxh3_64(spec.name.as_bytes()),
            watch: None,
        }
    }

    /// The weights that count: the canary's goes to the baseline once the tripwire has tripped. Every table is made by
    /// this, so no reload, health event or late commit can bring a tripped canary back.
    fn effective(&self) -> Weights {
        let tripped = self.watch.as_ref().filter(|watch| watch.tripwire().is_tripped());
        let canary = tripped.map(|watch| &watch.spec.canary_name);
        canary
            .and_then(|canary| self.weights.moved(canary, &self.baseline))
            .unwrap_or_else(|| self.weights.clone())
    }

    /// This state for a service whose upstreams may have been declared anew: a new upstream gets no weight, that of a
    /// removed one goes to the baseline. When the baseline itself is gone, the service starts as declared, with this
    /// salt.
    #[must_use]
    pub fn fitted(self, spec: &ServiceSpec) -> Live {
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
            Some(weights) => Live { weights, ..self },
            None => Live {
                salt: self.salt,
                ..Live::initial(spec)
            },
        }
    }
}

impl Service {
    /// The upstream for a request without a sticky key; `draw` is uniform over all 64-bit numbers.
    pub fn pick(&self, draw: u64) -> Option<&Upstream> {
        self.upstreams.get(self.split.pick(draw))
    }

    /// The upstream for a user.
    pub fn pick_key(&self, key: &[u8]) -> Option<&Upstream> {
        self.upstreams.get(self.split.pick_key(key))
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &str) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| &*upstream.name == name)
    }

    /// The live state that this table was built with.
    pub fn live(&self) -> Live {
        Live {
            weights: self.weights.clone(),
            baseline: Name::clone(&self.baseline),
            salt: self.split.salt(),
            watch: self.watch.clone(),
        }
    }

    fn with_live(&self, live: &Live) -> Service {
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
        self.watch.as_ref().is_some_and(|watch| watch.spec.canary == upstream)
    }

    /// Says of each upstream whether all its endpoints are used, because too many of them fail their checks.
    fn settle_panic(&mut self) {
        let limit = self.health.as_ref().map_or(Weight::default(), |health| health.panic);
        let canary = self.watch.as_ref().map(|watch| watch.spec.canary);
        for upstream in &mut self.upstreams {
            upstream.panics = canary != Some(upstream.key) && upstream.exceeds(limit);
        }
    }

    /// Where the requests of `upstream` go that has no endpoint to send them to: to the baseline, if that has one and users
    /// of its own. Not those of a canary, whose failure is evidence and ends its release.
    pub fn stand_in(&self, upstream: &Upstream) -> Option<&Upstream> {
        if !upstream.usable().is_empty() || self.is_canary(upstream.key) || upstream.name == self.baseline {
            return None;
        }
        let baseline = self.upstream(&self.baseline)?;
        (!baseline.weight.is_zero() && !baseline.usable().is_empty()).then_some(baseline)
    }
}

impl RoutingTable {
    /// The table of these services with their live state (as [`Live::fitted`]; where `live` knows none,
    /// [`Live::initial`]). Endpoints that `previous` has too go on with their counts, and with their health if they
    /// are still checked.
    pub fn build(
        specs: &[ServiceSpec],
        live: impl Fn(&str) -> Option<Live>,
        keys: &mut Keys,
        previous: Option<&RoutingTable>,
    ) -> RoutingTable {
        let known = previous.map(RoutingTable::endpoints_by_key).unwrap_or_default();
        let routes = specs.iter().enumerate();
        let routes = routes.flat_map(|(at, spec)| spec.routes.iter().map(move |route| (at, route)));
        let matcher = Arc::new(Matcher::new(routes));
        let services = specs.iter().map(|spec| {
            let live = live(&spec.name).map_or_else(|| Live::initial(spec), |live| live.fitted(spec));
            Arc::new(service(spec, &live, keys, &known))
        });
        RoutingTable {
            services: services.collect(),
            matcher,
        }
    }

    /// The service that a request is for. `host` is as the client sent it; `path` is without a query.
    pub fn route(&self, host: Option<&str>, path: &str, method: &Method, headers: &HeaderMap) -> Option<&Arc<Service>> {
        self.services.get(self.matcher.find(host, path, method, headers)?)
    }

    /// All services, in the order of declaration.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.iter()
    }

    /// The service of this name.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.iter().find(|service| &*service.name == name)
    }

    /// This table with other live state of a service; `None` when there is no such service or the weights are not
    /// those of its upstreams.
    pub fn with_weights(&self, service: &str, live: &Live) -> Option<RoutingTable> {
        self.replacing(|candidate| {
            let names = candidate.upstreams.iter().map(|upstream| &upstream.name);
            let fits = &*candidate.name == service && names.eq(live.weights.iter().map(|(name, _)| name));
            fits.then(|| candidate.with_live(live))
        })
    }

    /// This table with an upstream's weight given to its service's baseline; `None` when it has no weight, or is the
    /// baseline itself.
    pub fn without(&self, upstream: UpstreamKey) -> Option<RoutingTable> {
        self.replacing(|service| {
            let gone = service.upstreams.iter().find(|candidate| candidate.key == upstream)?;
            if gone.weight.is_zero() || gone.name == service.baseline {
                return None;
            }
            let weights = service.weights.moved(&gone.name, &service.baseline)?;
            Some(service.with_live(&Live {
                weights,
                ..service.live()
            }))
        })
    }

    /// This table with an endpoint's health changed; `None` when it has no such endpoint or it is so already.
    pub fn with_health(&self, endpoint: EndpointKey, healthy: bool) -> Option<RoutingTable> {
        self.replacing(|service| {
            let changed = |upstream: &Upstream| upstream.with_health(endpoint, healthy);
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
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let upstreams = self.services.iter().flat_map(|service| &service.upstreams);
        upstreams.flat_map(|upstream| &upstream.endpoints)
    }

    /// This table with the first service that `change` makes another of.
    fn replacing(&self, change: impl Fn(&Service) -> Option<Service>) -> Option<RoutingTable> {
        let changed = self.services.iter().map(|service| change(service));
        let (at, service) = changed.enumerate().find(|(_, new)| new.is_some())?;
        let mut table = self.clone();
        *table.services.get_mut(at)? = Arc::new(service?);
        Some(table)
    }

    fn endpoints_by_key(&self) -> Known {
        let upstreams = self.services.iter().flat_map(|service| &service.upstreams);
        upstreams
            .flat_map(|upstream| upstream.endpoints.iter().map(move |endpoint| (upstream, endpoint)))
            .map(|(upstream, endpoint)| (endpoint.key, (Arc::clone(endpoint), upstream.is_healthy(endpoint.key))))
            .collect()
    }
}

/// The endpoints of the table before, and whether they were healthy.
type Known = HashMap<EndpointKey, (Arc<Endpoint>, bool), FixedState>;

fn service(spec: &ServiceSpec, live: &Live, keys: &mut Keys, known: &Known) -> Service {
    let weights = live.effective();
    let upstreams = spec.upstreams.iter().map(|declared| {
        let weight = weights.get(&declared.name).unwrap_or_default();
        upstream(spec, declared, weight, keys, known)
    });
    let mut service = Service {
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

fn upstream(spec: &ServiceSpec, declared: &UpstreamSpec, weight: Weight, keys: &mut Keys, known: &Known) -> Upstream {
    let key = keys.upstream(&spec.name, &declared.name);
    let (mut endpoints, mut healthy) = (Vec::new(), Vec::new());
    for address in &declared.endpoints {
        let number = keys.endpoint(key, address.0);
        let (endpoint, was_healthy) = known.get(&number).cloned().unwrap_or_else(|| {
            let (service, upstream) = (Name::clone(&spec.name), Name::clone(&declared.name));
            (Arc::new(Endpoint::new(number, address.0, service, upstream)), true)
        });
        // Without checks nothing could ever make it healthy again.
        if was_healthy || spec.health.is_none() {
            healthy.push(Arc::clone(&endpoint));
        }
        endpoints.push(endpoint);
    }
    Upstream {
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::routing::testing::{service, weights};
    use crate::routing::{Rescue, WatchSpec};
    use crate::stats::WatchKey;

    fn build(specs: &[ServiceSpec], keys: &mut Keys, previous: Option<&RoutingTable>) -> RoutingTable {
        let live = |name: &str| previous?.service(name).map(|service| service.live());
        RoutingTable::build(specs, live, keys, previous)
    }

    fn points(table: &RoutingTable, service: &str) -> Vec<u16> {
        let service = table.service(service).unwrap();
        let points: Vec<_> = service
            .upstreams
            .iter()
            .map(|upstream| upstream.weight.basis_points())
            .collect();
        assert_eq!(
            points,
            service
                .weights
                .iter()
                .map(|(_, weight)| weight.basis_points())
                .collect::<Vec<_>>()
        );
        points
    }

    /// A release of one upstream of a service against another.
    fn watch(service: &Service, baseline: &str, canary: &str) -> Arc<Watch> {
        let key = |name: &str| service.upstream(name).unwrap().key;
        let spec = WatchSpec {
            key: WatchKey(0),
            release: "shop-1".into(),
            baseline: key(baseline),
            baseline_name: baseline.into(),
            canary: key(canary),
            canary_name: canary.into(),
            sticky: false,
            rescue: Rescue::Safe,
            in_flight_max: 1,
        };
        Arc::new(Watch::new(spec, 0, 0))
    }

    fn checked(mut spec: ServiceSpec) -> ServiceSpec {
        spec.health = Some(Health {
            path: "/health".into(),
            host: None,
            panic: Weight::default(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy_after: 1,
            healthy_after: 1,
        });
        spec
    }

    #[test]
    fn a_reload_keeps_weights_counts_health_and_keys() {
        let mut keys = Keys::new();
        let old = [checked(service("shop", &[("blue", 10_000, 2), ("green", 0, 1)]))];
        let table = build(&old, &mut keys, None);
        let live = Live {
            weights: weights(&[("blue", 9_000), ("green", 1_000)]),
            ..table.service("shop").unwrap().live()
        };
        let table = table.with_weights("shop", &live).unwrap();
        let endpoint = Arc::clone(table.endpoints().next().unwrap());
        let table = table.with_health(endpoint.key, false).unwrap();
        let in_flight = endpoint.enter();

        let new = [
            service("other", &[("only", 10_000, 1)]),
            checked(service("shop", &[("red", 0, 1), ("green", 10_000, 1), ("blue", 0, 3)])),
        ];
        let next = build(&new, &mut keys, Some(&table));
        assert_eq!(points(&next, "shop"), [0, 1_000, 9_000]);
        let blue = next.service("shop").unwrap().upstream("blue").unwrap();
        assert_eq!(blue.key, table.service("shop").unwrap().upstream("blue").unwrap().key);
        assert_eq!(blue.endpoints[0].in_flight(), 1);
        drop(in_flight);
        assert_eq!(blue.endpoints[0].in_flight(), 0);
        assert_eq!((blue.endpoints.len(), blue.healthy.len()), (3, 2));
        assert!(!blue.is_healthy(endpoint.key));
        let (service_name, name) = keys.names(blue.key).unwrap();
        assert_eq!((&**service_name, &**name), ("shop", "blue"));

        let unchecked = [service("shop", &[("blue", 10_000, 2)])];
        let last = build(&unchecked, &mut keys, Some(&next));
        assert!(last.service("shop").unwrap().upstreams[0].is_healthy(endpoint.key));
    }

    #[test]
    fn when_too_many_endpoints_are_ill_all_are_used_but_not_those_of_a_canary() {
        let mut spec = checked(service("shop", &[("blue", 9_000, 3), ("green", 1_000, 1)]));
        if let Some(health) = &mut spec.health {
            health.panic = Weight::from_percent(50.0).unwrap();
        }
        let mut table = build(&[spec], &mut Keys::new(), None);
        let usable =
            |table: &RoutingTable, name: &str| table.service("shop").unwrap().upstream(name).unwrap().usable().len();
        let blue = table
            .service("shop")
            .unwrap()
            .upstream("blue")
            .unwrap()
            .endpoints
            .clone();
        for (endpoint, expected) in blue.iter().zip([2, 3, 3]) {
            table = table.with_health(endpoint.key, false).unwrap();
            assert_eq!(usable(&table, "blue"), expected);
        }
        let back = table
            .with_health(blue[0].key, true)
            .unwrap()
            .with_health(blue[1].key, true)
            .unwrap();
        assert_eq!(usable(&back, "blue"), 2);

        let green = table.service("shop").unwrap().upstream("green").unwrap().endpoints[0].key;
        let table = table.with_health(green, false).unwrap();
        assert_eq!(usable(&table, "green"), 1);
        let live = Live {
            watch: Some(watch(table.service("shop").unwrap(), "blue", "green")),
            ..table.service("shop").unwrap().live()
        };
        let released = table.with_weights("shop", &live).unwrap();
        assert_eq!((usable(&released, "green"), usable(&released, "blue")), (0, 3));
    }

    #[test]
    fn the_baseline_stands_in_for_an_upstream_without_endpoints_but_not_for_a_canary() {
        let spec = checked(service(
            "shop",
            &[("blue", 8_000, 1), ("green", 1_000, 1), ("red", 1_000, 1)],
        ));
        let table = build(&[spec], &mut Keys::new(), None);
        let endpoint = |name: &str| table.service("shop").unwrap().upstream(name).unwrap().endpoints[0].key;
        let stands_in = |table: &RoutingTable, name: &str| {
            let service = table.service("shop").unwrap();
            service
                .stand_in(service.upstream(name).unwrap())
                .map(|upstream| upstream.name.to_string())
        };
        assert_eq!(stands_in(&table, "green"), None);
        let ill = table
            .with_health(endpoint("green"), false)
            .unwrap()
            .with_health(endpoint("red"), false)
            .unwrap();
        assert_eq!(
            (stands_in(&ill, "green"), stands_in(&ill, "blue")),
            (Some("blue".into()), None)
        );
        let live = Live {
            watch: Some(watch(ill.service("shop").unwrap(), "blue", "green")),
            ..ill.service("shop").unwrap().live()
        };
        let released = ill.with_weights("shop", &live).unwrap();
        assert_eq!(
            (stands_in(&released, "green"), stands_in(&released, "red")),
            (None, Some("blue".into()))
        );
        let none = ill.with_health(endpoint("blue"), false).unwrap();
        assert_eq!(stands_in(&none, "green"), None);
    }

    #[test]
    fn live_state_is_fitted_to_what_is_declared() {
        let live = Live {
            weights: weights(&[("blue", 7_000), ("green", 2_000), ("red", 1_000)]),
            baseline: "blue".into(),
            salt: 5,
            watch: None,
        };
        let fitted = |upstreams: &[(&str, u16, u16)]| {
            let live = live.clone().fitted(&service("shop", upstreams));
            let points: Vec<_> = live.weights.iter().map(|(_, weight)| weight.basis_points()).collect();
            assert_eq!(live.salt, 5);
            (points, live.baseline.to_string())
        };
        assert_eq!(
            fitted(&[("blue", 10_000, 1), ("green", 0, 1), ("red", 0, 1)]),
            (vec![7_000, 2_000, 1_000], "blue".into())
        );
        assert_eq!(
            fitted(&[("green", 10_000, 1), ("blue", 0, 1)]),
            (vec![2_000, 8_000], "blue".into())
        );
        assert_eq!(
            fitted(&[("blue", 0, 1), ("new", 10_000, 1)]),
            (vec![10_000, 0], "blue".into())
        );
        assert_eq!(
            fitted(&[("green", 4_000, 1), ("new", 6_000, 1)]),
            (vec![4_000, 6_000], "new".into())
        );
    }

    #[test]
    fn an_upstream_taken_out_leaves_its_share_to_the_baseline() {
        let specs = [service("shop", &[("a", 1_000, 1), ("b", 7_000, 1), ("c", 2_000, 1)])];
        let table = build(&specs, &mut Keys::new(), None);
        let key = |name| table.service("shop").unwrap().upstream(name).unwrap().key;
        let without = table.without(key("c")).unwrap();
        assert_eq!(points(&without, "shop"), [1_000, 9_000, 0]);
        assert_eq!(points(&table, "shop"), [1_000, 7_000, 2_000]);
        assert!(without.without(key("c")).is_none());
        assert!(table.without(key("b")).is_none());
        assert!(table.without(UpstreamKey(77)).is_none());
        let shop = without.service("shop").unwrap();
        assert!(
            (0..=u64::MAX)
                .step_by(1 << 48)
                .all(|draw| &*shop.pick(draw).unwrap().name != "c")
        );
    }

    #[test]
    fn weights_must_be_those_of_the_service() {
        let specs = [
            service("shop", &[("a", 10_000, 1), ("b", 0, 1)]),
            service("other", &[("a", 10_000, 1)]),
        ];
        let table = build(&specs, &mut Keys::new(), None);
        let live = |given: &[_]| Live {
            weights: weights(given),
            baseline: "a".into(),
            salt: 1,
            watch: None,
        };
        assert!(table.with_weights("shop", &live(&[("b", 0), ("a", 10_000)])).is_none());
        assert!(table.with_weights("none", &live(&[("a", 10_000)])).is_none());
        let next = table.with_weights("shop", &live(&[("a", 0), ("b", 10_000)])).unwrap();
        assert_eq!(points(&next, "shop"), [0, 10_000]);
        assert!(Arc::ptr_eq(
            next.service("other").unwrap(),
            table.service("other").unwrap()
        ));
        let shop = next.route(None, "/", &Method::GET, &HeaderMap::new()).unwrap();
        assert_eq!(&*shop.pick(0).unwrap().name, "b");
        assert_eq!(&*shop.pick_key(b"user").unwrap().name, "b");
    }
}
