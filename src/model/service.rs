//! Services, their routes, upstreams and endpoints, as declared.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use super::{Sticky, Weight, Weights};

/// The name of a service or an upstream: 1 to 63 of `a-z A-Z 0-9 . _ -`, beginning with a letter or
/// digit.
pub type Name = Arc<str>;

/// A named application behind the proxy, as it was declared.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// Unique among all services.
    pub name: Name,
    /// Its routes; at least one.
    pub routes: Vec<Route>,
    /// The deployed versions; at least one, each name once.
    pub upstreams: Vec<UpstreamSpec>,
    /// The weights that a service starts with when the store holds none.
    pub weights: Weights,
    /// The declared baseline, which counts until an upstream has held 100 percent.
    pub baseline: Option<Name>,
    /// Timeouts of an exchange with an upstream.
    pub timeouts: Timeouts,
    /// What identifies a user for the split; without it each request is assigned at random.
    pub sticky: Option<Sticky>,
    /// How testers select an upstream by name, at any weight.
    pub tester: Option<Tester>,
    /// Active health checks; without them every endpoint counts as healthy.
    pub health: Option<Health>,
    /// The `release` block as JSON text of a plan, already checked; without it releases have the
    /// defaults.
    pub release: Option<Arc<serde_json::Map<String, serde_json::Value>>>,
}

/// A route to a service. All given conditions must match.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which hosts match.
    pub host: HostPattern,
    /// Which paths match.
    pub path_prefix: PathPrefix,
    /// Which methods match; empty means any.
    pub methods: Vec<http::Method>,
    /// Headers that must be present with exactly these values; a route with more of them is more
    /// specific.
    pub headers: Vec<HeaderMatch>,
}

/// A pattern for the host of a request, in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Any host, also none.
    Any,
    /// This host.
    Exact(Arc<str>),
    /// `*.example.com`: any host below the suffix (held here without `*.`), at any depth, not the
    /// suffix itself.
    Wildcard(Arc<str>),
}

/// A path prefix that matches on segment boundaries: `/shop` matches `/shop` and `/shop/cart`, not
/// `/shopping`. Held without a trailing slash, so that `/` is the empty string.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(pub Arc<str>);

/// A header that must be present with this value.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// The header's name.
    pub name: HeaderName,
    /// The whole value, compared byte by byte.
    pub value: HeaderValue,
}

/// One deployed version of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSpec {
    /// Unique within the service.
    pub name: Name,
    /// Its endpoints; at least one.
    pub endpoints: Vec<EndpointSpec>,
    /// Its protocol.
    pub protocol: Protocol,
}

/// One address of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSpec(pub SocketAddr);

/// The protocol of an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 in clear text.
    #[default]
    Http1,
}

/// Timeouts of an exchange with an upstream. Zero means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to be established, with each endpoint that is tried.
    pub connect: Duration,
    /// From the request being sent to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of a body, in either direction.
    pub idle: Duration,
    /// For the whole exchange.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            total: Duration::ZERO,
        }
    }
}

/// How a tester selects an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tester {
    /// By this header, whose value is the upstream's name.
    Header(HeaderName),
    /// By a cookie of this name, whose value is the upstream's name.
    Cookie(Arc<str>),
}

/// Active health checks of every endpoint of a service: a GET whose response must be 200 to 399.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The path, with a query if there is one.
    pub path: Arc<str>,
    /// The `Host` header; see [`probe_host`] for what it is without.
    pub host: Option<Arc<str>>,
    /// When a larger share of an upstream's endpoints than this is unhealthy, all of them are
    /// used: then it is more likely that the checks are wrong than that all of them are. Zero
    /// means never. Not for a canary: its failures are evidence.
    pub panic: Weight,
    /// Between two checks of an endpoint.
    pub interval: Duration,
    /// Timeout of a check.
    pub timeout: Duration,
    /// Consecutive failures until a healthy endpoint counts as unhealthy; at least 1.
    pub unhealthy_after: u32,
    /// Consecutive successes until an unhealthy endpoint counts as healthy; at least 1.
    pub healthy_after: u32,
}

/// The `Host` of the program's own requests to endpoints: that of the health checks, else the first
/// route's that names a host without a wildcard. `None` means the endpoint's address. Applications
/// with a list of allowed hosts answer no other.
pub fn probe_host<'a>(health: Option<&'a Health>, routes: &'a [Route]) -> Option<&'a Arc<str>> {
    health.and_then(|health| health.host.as_ref()).or_else(|| {
        routes.iter().find_map(|route| match &route.host {
            HostPattern::Exact(host) => Some(host),
            HostPattern::Any | HostPattern::Wildcard(_) => None,
        })
    })
}
