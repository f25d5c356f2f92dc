//! Specifications for the tests of this module.

use std::sync::Arc;

use crate::model::{
    EndpointSpec, HostPattern, Name, PathPrefix, Protocol, Route, ServiceSpec, Timeouts,
    UpstreamSpec, Weight, Weights,
};

/// Weights in hundredths of a percent, in order.
pub(super) fn weights(given: &[(&str, u16)]) -> Weights {
    let given: Vec<_> = given
        .iter()
        .map(|(name, points)| {
            (
                Name::from(*name),
                Weight::from_basis_points(*points).unwrap(),
            )
        })
        .collect();
    Weights::new(given.iter().map(|(name, _)| name), &given).unwrap()
}

/// A route without conditions; `*.` begins a wildcard, the empty host means any host.
pub(super) fn route(host: &str, path_prefix: &str) -> Route {
    let host = match host.strip_prefix("*.") {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None if host.is_empty() => HostPattern::Any,
        None => HostPattern::Exact(host.into()),
    };
    Route {
        host,
        path_prefix: PathPrefix(Arc::from(path_prefix)),
        methods: Vec::new(),
        headers: Vec::new(),
    }
}

/// A service for any host, with the given weights and numbers of endpoints of its upstreams.
pub(super) fn service(name: &str, upstreams: &[(&str, u16, u16)]) -> ServiceSpec {
    let split: Vec<_> = upstreams
        .iter()
        .map(|(name, points, _)| (*name, *points))
        .collect();
    let upstreams = upstreams.iter().map(|(name, _, endpoints)| UpstreamSpec {
        name: (*name).into(),
        endpoints: (1..=*endpoints)
            .map(|port| EndpointSpec(format!("10.0.0.1:{port}").parse().unwrap()))
            .collect(),
        protocol: Protocol::Http1,
    });
    ServiceSpec {
        name: name.into(),
        routes: vec![route("", "")],
        upstreams: upstreams.collect(),
        weights: weights(&split),
        baseline: None,
        timeouts: Timeouts::default(),
        sticky: None,
        tester: None,
        health: None,
        release: None,
    }
}
