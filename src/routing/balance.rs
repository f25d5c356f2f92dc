//! The endpoints of an upstream, and load balancing among them.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::model::{Name, Protocol, Weight};
use crate::stats::UpstreamKey;

/// The key of an endpoint: stable for one address of one upstream while it is in the table, and
/// never reused. The lower half is a dense slot, which is reused; the upper half is its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey(pub u64);

impl EndpointKey {
    /// The index in a dense table, whose entries must be compared by key.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
    pub const fn index(self) -> usize {
        self.0 as u32 as usize
    }
}

/// A change of an endpoint's health, as reported by a checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEvent {
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// The new state.
    pub healthy: bool,
    /// The result of the last check.
    pub detail: String,
}

/// One address of an upstream, shared by all tables that contain it, so that its in-flight count
/// survives reloads. Its health belongs to the table, see [`RoutedUpstream`].
///
/// Aligned, so that workers counting on one endpoint do not slow down those counting on its
/// neighbour.
#[derive(Debug)]
#[repr(align(64))]
pub struct RoutedEndpoint {
    /// The key.
    pub key: EndpointKey,
    /// The address.
    pub address: SocketAddr,
    /// The service it belongs to.
    pub service: Name,
    /// The upstream it belongs to.
    pub upstream: Name,
    in_flight: AtomicU32,
}

impl RoutedEndpoint {
    /// An endpoint without requests in flight.
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

    /// The current number of requests in flight, of all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
}

/// A request in flight on an endpoint.
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

/// An upstream (a deployed version of a service) in one table.
#[derive(Clone, Debug)]
pub struct RoutedUpstream {
    /// The key.
    pub key: UpstreamKey,
    /// The name, unique within the service.
    pub name: Name,
    /// The share of the service's requests.
    pub weight: Weight,
    /// The protocol.
    pub protocol: Protocol,
    /// All endpoints, in the order of declaration.
    pub endpoints: Box<[Arc<RoutedEndpoint>]>,
    /// The endpoints that pass their health checks.
    pub healthy: Box<[Arc<RoutedEndpoint>]>,
    /// Panic mode: requests are sent to all endpoints, because so many fail their checks that the
    /// checks are not trusted.
    pub panics: bool,
}

impl RoutedUpstream {
    /// The endpoint for a request: `draw` (uniform over all 64-bit numbers) selects two of the
    /// healthy endpoints, and the one with fewer requests in flight is used. `None` if none is
    /// healthy.
    ///
    /// Two choices, since with the least loaded endpoint all workers would choose the same one.
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

    /// As [`RoutedUpstream::endpoint`], among the endpoints that are not in `tried`.
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

    /// The endpoints to which requests are sent.
    pub fn usable(&self) -> &[Arc<RoutedEndpoint>] {
        if self.panics {
            &self.endpoints
        } else {
            &self.healthy
        }
    }

    /// Whether more than the share `limit` of the endpoints fails its checks; a limit of zero
    /// disables this.
    pub(super) fn exceeds(&self, limit: Weight) -> bool {
        let (all, well) = (self.endpoints.len(), self.healthy.len());
        !limit.is_zero() && (all - well) * 10_000 > usize::from(limit.basis_points()) * all
    }

    /// Whether this endpoint passes its checks.
    pub fn is_healthy(&self, endpoint: EndpointKey) -> bool {
        self.healthy.iter().any(|healthy| healthy.key == endpoint)
    }

    /// This upstream with an endpoint's health changed; `None` if it has no such endpoint or the
    /// state is the same.
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

/// Two different indices below `count` (at least 2), each pair equally likely, from the two halves
/// of `draw`.
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
    fn endpoint_with_fewer_requests_in_flight_is_chosen() {
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
    fn only_healthy_endpoints_are_chosen() {
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
    fn idle_endpoints_are_chosen_equally_often() {
        let upstream = upstream(5);
        let mut taken = [0_u32; 5];
        // A low-discrepancy sequence over all draws.
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
        fn two_choices_are_distinct_and_in_range(count in 2..1_000_usize, draw: u64) {
            let (first, second) = two_of(count, draw);
            prop_assert!(first != second && first < count && second < count);
        }

        #[test]
        fn retry_avoids_tried_endpoints(
            endpoints in 1..6_u16, tried in prop::collection::vec(0..6_u64, 0..6), draw: u64,
        ) {
            let upstream = upstream(endpoints);
            let tried: Vec<_> = tried.into_iter().map(EndpointKey).collect();
            let left = upstream.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.key));
            let got = upstream.endpoint_excluding(draw, &tried);
            prop_assert_eq!(got.is_some(), left);
            prop_assert!(got.is_none_or(|endpoint| !tried.contains(&endpoint.key)));
        }
    }
}
