//! The endpoints of an upstream, and the choice among them.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::model::{Name, Protocol, Weight};
use crate::stats::UpstreamKey;

/// An endpoint's number: the same for one address of one upstream as long as the table has it, and
/// never another's. Its lower half is a dense slot, which is used again; its upper half says whose
/// turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey(pub u64);

impl EndpointKey {
    /// The position in a dense table, whose entry has to say which key it is for.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    pub const fn index(self) -> usize {
        self.0 as u32 as usize
    }
}

/// A change of an endpoint's health, as a checker saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEvent {
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// Its new state.
    pub healthy: bool,
    /// What the last check saw.
    pub detail: String,
}

/// One address of an upstream, shared by all tables that know it, so that its count of requests in
/// flight goes on across reloads. Whether it is healthy is a matter of the table, see [`Upstream`].
///
/// Aligned, so that workers that count on one endpoint do not slow down those that count on its
/// neighbour.
#[derive(Debug)]
#[repr(align(64))]
pub struct RoutedEndpoint {
    /// Its number.
    pub key: EndpointKey,
    /// Where it listens.
    pub address: SocketAddr,
    /// The service it belongs to.
    pub service: Name,
    /// The upstream it belongs to.
    pub upstream: Name,
    in_flight: AtomicU32,
}

impl RoutedEndpoint {
    /// An endpoint with nothing in flight.
    pub fn new(
        key: EndpointKey,
        address: SocketAddr,
        service: Name,
        upstream: Name,
    ) -> RoutedEndpoint {
        RoutedEndpoint {
            key,
            address,
            service,
            upstream,
            in_flight: AtomicU32::new(0),
        }
    }

    /// Requests on it at this moment, from all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request on it until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// A request on an endpoint.
#[derive(Debug)]
pub struct InFlight(Arc<RoutedEndpoint>);

impl Deref for InFlight {
    type Target = Arc<RoutedEndpoint>;

    fn deref(&self) -> &Arc<RoutedEndpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A deployed version of a service, as one table knows it.
#[derive(Clone, Debug)]
pub struct RoutedUpstream {
    /// Its number.
    pub key: UpstreamKey,
    /// Its name, unique within the service.
    pub name: Name,
    /// Its share of the service's requests.
    pub weight: Weight,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// All its endpoints, in the order of declaration.
    pub endpoints: Box<[Arc<RoutedEndpoint>]>,
    /// Those of them that pass their checks.
    pub healthy: Box<[Arc<RoutedEndpoint>]>,
    /// Whether requests are sent to all of them, since too many fail their checks for these to be
    /// believed.
    pub panics: bool,
}

impl RoutedUpstream {
    /// The endpoint for a request: of two that `draw` (uniform over all 64-bit numbers) chooses
    /// among the healthy ones, that with fewer requests in flight. `None` when none is healthy.
    ///
    /// Two choices, since the least loaded of all would draw every worker to the same endpoint at
    /// once.
    pub fn endpoint(&self, draw: u64) -> Option<&Arc<RoutedEndpoint>> {
        match self.usable() {
            [] => None,
            [only] => Some(only),
            healthy => {
                let (first, second) = two_of(healthy.len(), draw);
                less_loaded(healthy.get(first)?, healthy.get(second)?)
            }
        }
    }

    /// As [`Upstream::endpoint`], among the endpoints that are not in `tried`.
    pub fn endpoint_excluding(
        &self,
        draw: u64,
        tried: &[EndpointKey],
    ) -> Option<&Arc<RoutedEndpoint>> {
        let mut left = self
            .usable()
            .iter()
            .filter(|endpoint| !tried.contains(&endpoint.key));
        match left.clone().count() {
            0 => None,
            1 => left.next(),
            count => {
                let (first, second) = two_of(count, draw);
                less_loaded(left.clone().nth(first)?, left.nth(second)?)
            }
        }
    }

    /// The endpoints that requests are sent to.
    pub fn usable(&self) -> &[Arc<RoutedEndpoint>] {
        if self.panics {
            &self.endpoints
        } else {
            &self.healthy
        }
    }

    /// Whether a larger share of the endpoints than `limit` fails its checks; a limit of zero is
    /// none.
    pub(super) fn exceeds(&self, limit: Weight) -> bool {
        let (all, well) = (self.endpoints.len(), self.healthy.len());
        !limit.is_zero() && (all - well) * 10_000 > usize::from(limit.basis_points()) * all
    }

    /// Whether this endpoint passes its checks.
    pub fn is_healthy(&self, endpoint: EndpointKey) -> bool {
        self.healthy.iter().any(|healthy| healthy.key == endpoint)
    }

    /// This upstream with an endpoint's health changed; `None` when it has no such endpoint or it
    /// is so already.
    pub(super) fn with_health(
        &self,
        endpoint: EndpointKey,
        healthy: bool,
    ) -> Option<RoutedUpstream> {
        let known = self.endpoints.iter().any(|known| known.key == endpoint);
        if !known || self.is_healthy(endpoint) == healthy {
            return None;
        }
        let keeps = |key| {
            if key == endpoint {
                healthy
            } else {
                self.is_healthy(key)
            }
        };
        let healthy = self.endpoints.iter().filter(|endpoint| keeps(endpoint.key));
        Some(RoutedUpstream {
            healthy: healthy.cloned().collect(),
            ..self.clone()
        })
    }
}

/// Two different positions below `count` (at least 2), each pair equally likely, from the two
/// halves of `draw`.
fn two_of(count: usize, draw: u64) -> (usize, usize) {
    let below = |bound: usize, half: u64| {
        let scaled = (half * bound as u64) >> 32;
        usize::try_from(scaled).unwrap_or(0)
    };
    let first = below(count, draw >> 32);
    let second = below(count - 1, draw & u64::from(u32::MAX));
    (first, if second < first { second } else { second + 1 })
}

fn less_loaded<'a>(
    first: &'a Arc<RoutedEndpoint>,
    second: &'a Arc<RoutedEndpoint>,
) -> Option<&'a Arc<RoutedEndpoint>> {
    let second_is_freer = second.in_flight() < first.in_flight();
    Some(if second_is_freer { second } else { first })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::testing::service;
    use crate::routing::{KeyRegistry, RoutingTable};

    fn upstream(endpoints: u16) -> RoutedUpstream {
        let specs = [service("shop", &[("blue", 10_000, endpoints)])];
        let table = RoutingTable::build(&specs, |_| None, &mut KeyRegistry::new(), None);
        table.services().next().unwrap().upstreams[0].clone()
    }

    #[test]
    fn of_two_endpoints_the_freer_one_is_taken() {
        let upstream = upstream(2);
        let [first, second] = &*upstream.endpoints else {
            unreachable!()
        };
        let busy = first.enter();
        for draw in [0, 1 << 40, u64::MAX] {
            assert_eq!(upstream.endpoint(draw).unwrap().key, second.key);
        }
        assert_eq!(busy.in_flight(), 1);
        drop(busy);
        assert_eq!(first.in_flight(), 0);
    }

    #[test]
    fn only_healthy_endpoints_are_taken_and_none_when_none_is() {
        let all = upstream(2);
        let [first, second] = &*all.endpoints else {
            unreachable!()
        };
        let one = all.with_health(first.key, false).unwrap();
        assert_eq!(one.endpoint(3).unwrap().key, second.key);
        assert!(one.with_health(first.key, false).is_none());
        let none = one.with_health(second.key, false).unwrap();
        assert!(none.endpoint(3).is_none());
        assert!(none.endpoint_excluding(3, &[]).is_none());
        let back = none.with_health(first.key, true).unwrap();
        assert_eq!(back.endpoint(3).unwrap().key, first.key);
        assert!(all.with_health(EndpointKey(99), false).is_none());
    }

    #[test]
    fn idle_endpoints_are_taken_equally_often() {
        let upstream = upstream(5);
        let mut taken = [0_u32; 5];
        // A low-discrepancy walk over all draws.
        let mut draw = 0_u64;
        for _ in 0..100_000 {
            draw = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
            taken[upstream.endpoint(draw).unwrap().key.index()] += 1;
        }
        assert!(
            taken.iter().all(|count| count.abs_diff(20_000) < 200),
            "{taken:?}"
        );
    }

    proptest! {
        #[test]
        fn two_choices_are_two_and_within_bounds(count in 2..1_000_usize, draw: u64) {
            let (first, second) = two_of(count, draw);
            prop_assert!(first != second && first < count && second < count);
        }

        #[test]
        fn a_retry_goes_elsewhere(endpoints in 1..6_u16, tried in prop::collection::vec(0..6_u64, 0..6), draw: u64) {
            let upstream = upstream(endpoints);
            let tried: Vec<_> = tried.into_iter().map(EndpointKey).collect();
            let left = upstream.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.key));
            let got = upstream.endpoint_excluding(draw, &tried);
            prop_assert_eq!(got.is_some(), left);
            prop_assert!(got.is_none_or(|endpoint| !tried.contains(&endpoint.key)));
        }
    }
}
