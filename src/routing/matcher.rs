//! Matches requests to services by host, path, method and headers.
//!
//! The most specific matching route wins: an exact host before the longest wildcard before any
//! host; within a host the longest path prefix; within a prefix the most conditions (each header is
//! one, a list of methods is one); ties are broken by the order of declaration. A route whose
//! conditions fail is skipped for the next, including one of a less specific host.
//!
//! Percent escapes are not decoded and dot segments not resolved before matching. The path is
//! matched as it is forwarded; a path that the proxy and an upstream interpret differently can
//! evade access rules.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use http::{HeaderMap, Method};

use crate::model::{HeaderMatch, HostPattern, Route};

/// A longer host is not a domain name, and is treated as absent.
const HOST_BYTES_MAX: usize = 255;

/// Hash tables instead of a tree: a lookup costs one probe for each label of the host and each path
/// segment up to the longest prefix; a table whose host has one route for `/` costs two.
type Map<V> = HashMap<Arc<str>, V, FixedState>;

/// The compiled routes of all services.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    exact: Map<HostRoutes>,
    /// By suffix, without `*.`.
    wildcard: Map<HostRoutes>,
    any: HostRoutes,
}

/// The routes of one host pattern.
#[derive(Debug, Default)]
struct HostRoutes {
    by_prefix: Map<Vec<Candidate>>,
    /// The length of the longest prefix in bytes: a longer part of a path need not be looked up.
    longest: usize,
}

/// A route whose host and path match.
#[derive(Debug)]
struct Candidate {
    methods: Box<[Method]>,
    headers: Box<[HeaderMatch]>,
    /// The index of the service.
    service: usize,
}

impl Matcher {
    /// Compiles routes in the order of declaration, each with the index of its service.
    pub(super) fn new<'a>(routes: impl IntoIterator<Item = (usize, &'a Route)>) -> Matcher {
        let mut matcher = Matcher::default();
        for (service, route) in routes {
            let host = match &route.host {
                HostPattern::Any => &mut matcher.any,
                HostPattern::Exact(host) => matcher.exact.entry(Arc::clone(host)).or_default(),
                HostPattern::Wildcard(suffix) => {
                    matcher.wildcard.entry(Arc::clone(suffix)).or_default()
                }
            };
            host.add(service, route);
        }
        matcher
    }

    /// The index of the service for a request.
    pub(super) fn find(
        &self,
        host: Option<&str>,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
    ) -> Option<usize> {
        host.filter(|_| !(self.exact.is_empty() && self.wildcard.is_empty()))
            .and_then(|host| self.find_by_host(host, path, method, headers))
            .or_else(|| self.any.find(path, method, headers))
    }

    fn find_by_host(
        &self,
        host: &str,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
    ) -> Option<usize> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let host = normalised(host, &mut buffer)?;
        let exact = self
            .exact
            .get(host)
            .and_then(|routes| routes.find(path, method, headers));
        if exact.is_some() || self.wildcard.is_empty() {
            return exact;
        }
        // From the left, so that the longest suffix comes first.
        host.match_indices('.')
            .filter(|(dot, _)| *dot > 0)
            .filter_map(|(dot, _)| self.wildcard.get(host.get(dot + 1..)?))
            .find_map(|routes| routes.find(path, method, headers))
    }
}

impl HostRoutes {
    fn add(&mut self, service: usize, route: &Route) {
        let prefix = &route.path_prefix.0;
        self.longest = self.longest.max(prefix.len());
        let candidates = self.by_prefix.entry(Arc::clone(prefix)).or_default();
        candidates.push(Candidate {
            methods: route.methods.clone().into(),
            headers: route.headers.clone().into(),
            service,
        });
        // Stable, so that equal routes stay in the order of declaration.
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.conditions()));
    }

    fn find(&self, path: &str, method: &Method, headers: &HeaderMap) -> Option<usize> {
        if self.by_prefix.is_empty() {
            return None;
        }
        boundaries(path, self.longest)
            .filter_map(|end| self.by_prefix.get(path.get(..end)?))
            .flatten()
            .find(|candidate| candidate.holds(method, headers))
            .map(|candidate| candidate.service)
    }
}

impl Candidate {
    fn conditions(&self) -> usize {
        self.headers.len() + usize::from(!self.methods.is_empty())
    }

    fn holds(&self, method: &Method, headers: &HeaderMap) -> bool {
        let given = |wanted: &HeaderMatch| {
            headers
                .get_all(&wanted.name)
                .iter()
                .any(|value| value == wanted.value)
        };
        (self.methods.is_empty() || self.methods.contains(method)) && self.headers.iter().all(given)
    }
}

/// Positions at which a path can be cut into whole segments, longest first, at most `longest`;
/// always includes 0, for the prefix `/`, which is stored as the empty prefix.
fn boundaries(path: &str, longest: usize) -> impl Iterator<Item = usize> {
    let bytes = path.as_bytes();
    let ends_segment = move |end: usize| end == bytes.len() || bytes.get(end) == Some(&b'/');
    (1..=longest.min(bytes.len()))
        .rev()
        .filter(move |end| ends_segment(*end))
        .chain([0])
}

/// A host in lower case, without its port and the trailing dot of a fully qualified name. Copied to
/// `buffer` only if letters must be changed. An IPv6 address keeps its brackets.
fn normalised<'a>(host: &'a str, buffer: &'a mut [u8; HOST_BYTES_MAX]) -> Option<&'a str> {
    let end = match host.strip_prefix('[') {
        Some(address) => address.find(']').map_or(host.len(), |at| at + 2),
        None => host.find(':').unwrap_or(host.len()),
    };
    let host = host.get(..end)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return None;
    }
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(host);
    }
    let copy = buffer.get_mut(..host.len())?;
    copy.copy_from_slice(host.as_bytes());
    copy.make_ascii_lowercase();
    std::str::from_utf8(copy).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::routing::testing::route;

    fn check(routes: &[Route], cases: &[(&str, &str, Option<usize>)]) {
        let matcher = Matcher::new(routes.iter().enumerate());
        for (host, path, want) in cases {
            let got = matcher.find(Some(host), path, &Method::GET, &HeaderMap::new());
            assert_eq!(got, *want, "http://{host}{path}");
        }
    }

    fn header(name: &'static str, value: &'static str) -> HeaderMatch {
        HeaderMatch {
            name: HeaderName::from_static(name),
            value: HeaderValue::from_static(value),
        }
    }

    #[test]
    fn exact_host_precedes_wildcard_precedes_any() {
        let routes = [
            route("", ""),
            route("*.example.com", ""),
            route("*.eu.example.com", ""),
            route("shop.eu.example.com", ""),
        ];
        check(
            &routes,
            &[
                ("shop.eu.example.com", "/", Some(3)),
                ("SHOP.eu.Example.com.:8443", "/", Some(3)),
                ("a.b.eu.example.com", "/", Some(2)),
                ("eu.example.com", "/", Some(1)),
                ("example.com", "/", Some(0)),
                (".example.com", "/", Some(0)),
                ("notexample.com", "/", Some(0)),
                ("", "/", Some(0)),
            ],
        );
        let none = Matcher::new(routes.iter().enumerate()).find(
            None,
            "/",
            &Method::GET,
            &HeaderMap::new(),
        );
        assert_eq!(none, Some(0));
    }

    #[test]
    fn ipv6_hosts_keep_brackets_and_lose_the_port() {
        let routes = [route("[2001:db8::1]", "")];
        check(
            &routes,
            &[
                ("[2001:DB8::1]:80", "/", Some(0)),
                ("[2001:db8::1]", "/", Some(0)),
                ("[2001:db8::2]:80", "/", None),
                ("2001:db8::1", "/", None),
                ("[", "/", None),
            ],
        );
    }

    #[test]
    fn too_long_host_is_treated_as_absent() {
        let label = "A".repeat(300);
        check(
            &[route("", ""), route("*.example.com", "")],
            &[(&format!("{label}.example.com"), "/", Some(0))],
        );
    }

    #[test]
    fn longest_prefix_on_a_segment_boundary_wins() {
        check(
            &[
                route("", "/shop"),
                route("", "/shop/cart"),
                route("", "/shop/cart/pay"),
            ],
            &[
                ("a", "/shop", Some(0)),
                ("a", "/shop/", Some(0)),
                ("a", "/shop/cart2", Some(0)),
                ("a", "/shop/cart", Some(1)),
                ("a", "/shop/cart//pay", Some(1)),
                ("a", "/shop/cart/pay/x", Some(2)),
                ("a", "/shop/cart/pay", Some(2)),
                ("a", "/shopping", None),
                ("a", "/", None),
                ("a", "*", None),
            ],
        );
        check(
            &[route("", "")],
            &[
                ("a", "*", Some(0)),
                ("a", "", Some(0)),
                ("a", "//", Some(0)),
            ],
        );
    }

    #[test]
    fn path_is_matched_without_normalization() {
        check(
            &[route("", ""), route("", "/admin")],
            &[
                ("a", "/%61dmin", Some(0)),
                ("a", "/x/../admin", Some(0)),
                ("a", "/admin/../x", Some(1)),
                ("a", "/admin%2Fx", Some(0)),
                ("a", "/ADMIN", Some(0)),
            ],
        );
    }

    #[test]
    fn failed_conditions_fall_back_to_a_less_specific_route() {
        let mut posts = route("shop", "/cart");
        posts.methods = vec![Method::POST, Method::PUT];
        let mut beta = route("shop", "/cart");
        beta.headers = vec![header("x-beta", "1"), header("x-team", "a")];
        let matcher = Matcher::new([&posts, &beta, &route("", "")].into_iter().enumerate());
        let find = |method, headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            });
            matcher.find(Some("shop"), "/cart/1", &method, &headers.collect())
        };
        assert_eq!(find(Method::GET, &[]), Some(2));
        assert_eq!(find(Method::PUT, &[("x-beta", "1")]), Some(0));
        assert_eq!(
            find(Method::PUT, &[("x-beta", "1"), ("x-team", "a")]),
            Some(1)
        );
        assert_eq!(
            find(Method::GET, &[("x-beta", "10"), ("x-team", "a")]),
            Some(2)
        );
    }

    #[test]
    fn one_matching_header_value_suffices() {
        let mut beta = route("", "");
        beta.headers = vec![header("x-beta", "1")];
        let matcher = Matcher::new([(0, &beta)]);
        let mut headers = HeaderMap::new();
        headers.append("x-beta", HeaderValue::from_static("0"));
        assert_eq!(matcher.find(None, "/", &Method::GET, &headers), None);
        headers.append("x-beta", HeaderValue::from_static("1"));
        assert_eq!(matcher.find(None, "/", &Method::GET, &headers), Some(0));
    }

    /// The rules in their simplest form: all matching routes, the most specific first.
    fn oracle(
        routes: &[Route],
        host: &str,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
    ) -> Option<usize> {
        let rank = |route: &Route| {
            let host_rank = match &route.host {
                HostPattern::Exact(exact) if **exact == *host => usize::MAX,
                HostPattern::Wildcard(suffix) => {
                    let below = host.strip_suffix(&**suffix)?.strip_suffix('.')?;
                    (!below.is_empty()).then_some(suffix.len())?
                }
                HostPattern::Any => 0,
                HostPattern::Exact(_) => return None,
            };
            let rest = path.strip_prefix(&*route.path_prefix.0)?;
            let path_holds =
                rest.is_empty() || rest.starts_with('/') || route.path_prefix.0.is_empty();
            let method_holds = route.methods.is_empty() || route.methods.contains(method);
            let headers_hold = route
                .headers
                .iter()
                .all(|wanted| headers.get(&wanted.name) == Some(&wanted.value));
            let conditions = route.headers.len() + usize::from(!route.methods.is_empty());
            (path_holds && method_holds && headers_hold).then_some((
                host_rank,
                route.path_prefix.0.len(),
                conditions,
            ))
        };
        let ranked = routes
            .iter()
            .enumerate()
            .filter_map(|(at, route)| Some((rank(route)?, at)));
        ranked
            .max_by_key(|(rank, at)| (*rank, std::cmp::Reverse(*at)))
            .map(|(_, at)| at)
    }

    fn any_route() -> impl Strategy<Value = Route> {
        let host = prop::sample::select(vec!["", "a.b", "b", "c.a.b", "*.b", "*.a.b", "*.c.a.b"]);
        let segments =
            prop::collection::vec(prop::sample::select(vec!["/x", "/xy", "/x%2F", "/"]), 0..4);
        let methods = prop::sample::subsequence(vec![Method::GET, Method::POST], 0..=2);
        let headers = prop::sample::subsequence(
            vec![header("x-a", "1"), header("x-b", "1"), header("x-b", "2")],
            0..=2,
        );
        (host, segments, methods, headers).prop_map(|(host, segments, methods, headers)| {
            let path = segments.concat();
            Route {
                methods,
                headers,
                ..route(host, path.trim_end_matches('/'))
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn matcher_agrees_with_the_rules(
            routes in prop::collection::vec(any_route(), 0..24),
            requests in prop::collection::vec((
                prop::sample::select(vec!["b", "a.b", "c.a.b", "d.c.a.b", "x.b", "xb", ".b", "z"]),
                prop::collection::vec(
                    prop::sample::select(vec!["/x", "/xy", "/x%2F", "/", "y"]), 0..5,
                ),
                prop::sample::select(vec![Method::GET, Method::POST, Method::HEAD]),
                prop::sample::subsequence(vec![("x-a", "1"), ("x-b", "2")], 0..=2),
            ), 16),
        ) {
            let matcher = Matcher::new(routes.iter().enumerate());
            for (host, segments, method, headers) in requests {
                let path = segments.concat();
                let headers = headers.into_iter().map(|(name, value)| {
                    (HeaderName::from_static(name), HeaderValue::from_static(value))
                }).collect();
                let got = matcher.find(
                    Some(&format!("{}:80", host.to_uppercase())), &path, &method, &headers,
                );
                prop_assert_eq!(
                    got, oracle(&routes, host, &path, &method, &headers), "{} {}{}", method, host,
                    path,
                );
            }
        }
    }
}
