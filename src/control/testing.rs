//! Shared helpers of this module's tests.

use crate::model::{
    EndpointSpec, HostPattern, Name, PathPrefix, Protocol, Route, ServiceSpec, Timeouts,
    UpstreamSpec, Weight, Weights,
};

/// A service with the upstreams `blue` and `green`; `green` starts with `green` percent.
pub(super) fn spec(name: &str, green: f64) -> ServiceSpec {
    let upstream = |name: &str, port: u16| UpstreamSpec {
        name: Name::from(name),
        endpoints: vec![EndpointSpec(([127, 0, 0, 1], port).into())],
        protocol: Protocol::Http1,
    };
    ServiceSpec {
        name: Name::from(name),
        routes: vec![Route {
            host: HostPattern::Exact(format!("{name}.example").into()),
            path_prefix: PathPrefix("".into()),
            methods: Vec::new(),
            headers: Vec::new(),
        }],
        upstreams: vec![upstream("blue", 1), upstream("green", 2)],
        weights: weights(&[("blue", 100.0 - green), ("green", green)]),
        baseline: None,
        timeouts: Timeouts::default(),
        sticky: None,
        tester: None,
        health: None,
        release: None,
    }
}

/// Weights of the named upstreams.
pub(super) fn weights(given: &[(&str, f64)]) -> Weights {
    let given: Vec<_> = given
        .iter()
        .map(|(name, percent)| (Name::from(*name), Weight::from_percent(*percent).unwrap()))
        .collect();
    Weights::new(given.iter().map(|(name, _)| name), &given).unwrap()
}
