//! A service in its API form.

use std::collections::BTreeMap;

use super::published_views::ServiceDetails;
use super::state::percentages;
use crate::model::{HostPattern, Route, api};
use crate::routing;
use crate::stats::UpstreamKey;

/// A service of the current table, with the controller's part of it.
pub(super) fn service(
    service: &routing::RoutedService,
    shown: &ServiceDetails,
    mut windows: impl FnMut(UpstreamKey) -> BTreeMap<String, api::Window>,
) -> api::Service {
    let upstreams = service.upstreams.iter();
    api::Service {
        name: service.name.to_string(),
        revision: shown.revision,
        baseline: shown.baseline.to_string(),
        previous_baseline: shown.previous_baseline.as_deref().map(str::to_owned),
        weights: api::WeightsStatus {
            intended: shown.intended.clone(),
            effective: percentages(&service.effective_weights()),
            since: shown.since.clone(),
            reason: shown.reason.clone(),
            durable: shown.durable,
        },
        release: shown.release.clone(),
        routes: service.routes.iter().map(describe).collect(),
        upstreams: upstreams
            .map(|upstream| {
                (
                    upstream.name.to_string(),
                    self::upstream(upstream, windows(upstream.key)),
                )
            })
            .collect(),
    }
}

fn upstream(
    upstream: &routing::RoutedUpstream,
    windows: BTreeMap<String, api::Window>,
) -> api::Upstream {
    let endpoint = |endpoint: &std::sync::Arc<routing::RoutedEndpoint>| api::Endpoint {
        address: endpoint.address.to_string(),
        healthy: upstream.is_healthy(endpoint.key),
        in_flight: u64::from(endpoint.in_flight()),
    };
    api::Upstream {
        endpoints: upstream.endpoints.iter().map(endpoint).collect(),
        windows,
    }
}

/// A route as text: host and path, then methods and headers if it has conditions on them.
fn describe(route: &Route) -> String {
    let host = match &route.host {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Exact(host) => host.to_string(),
        HostPattern::Wildcard(suffix) => format!("*.{suffix}"),
    };
    let path = if route.path_prefix.0.is_empty() {
        "/"
    } else {
        &*route.path_prefix.0
    };
    let mut words = format!("{host}{path}");
    if !route.methods.is_empty() {
        let methods: Vec<&str> = route.methods.iter().map(http::Method::as_str).collect();
        words += &format!(" {}", methods.join(","));
    }
    for header in &route.headers {
        words += &format!(
            " {}: {}",
            header.name,
            String::from_utf8_lossy(header.value.as_bytes())
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Method};

    use super::*;
    use crate::model::{HeaderMatch, PathPrefix};

    #[test]
    fn routes_are_described_as_text() {
        let mut route = Route {
            host: HostPattern::Any,
            path_prefix: PathPrefix("".into()),
            methods: Vec::new(),
            headers: Vec::new(),
        };
        assert_eq!(describe(&route), "*/");
        route.host = HostPattern::Wildcard("example.com".into());
        route.path_prefix = PathPrefix("/shop".into());
        route.methods = vec![Method::GET, Method::HEAD];
        let (name, value) = (
            HeaderName::from_static("x-env"),
            HeaderValue::from_static("test"),
        );
        route.headers = vec![HeaderMatch { name, value }];
        assert_eq!(describe(&route), "*.example.com/shop GET,HEAD x-env: test");
    }
}
