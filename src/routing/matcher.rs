//! Which service a request is for, by host, path, method and headers.
//!
//! The most specific route that matches wins: an exact host before the longest wildcard before any host; within a host
//! the longest path prefix; within a prefix the most conditions (each header is one, a list of methods is one); what is
//! equal in all of that goes by declaration. A route whose conditions fail gives way to the next, also to one of a less
//! specific host.
//!
//! Refused: decoding percent escapes or resolving dot segments before matching. What is matched is what is forwarded;
//! a path that means one thing here and another upstream is how access rules are evaded.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use http::{HeaderMap, Method};

use crate::model::{HeaderMatch, HostPattern, Route};

/// Longer hosts are no domain names, and match as if there were none.
const HOST_BYTES_MAX: usize = 255;

/// Hash tables in place of a tree: a lookup costs a probe for each label of the host and each segment of the path that
/// some route is as long as, and a table whose host has one route for `/` costs two.
type Map<V> = HashMap<Arc<str>, V, FixedState>;

/// The routes of all services, compiled.
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
    /// Bytes of the longest prefix: a longer piece of a path need not be looked up.
    longest: usize,
}

/// A route whose host and path match.
#[derive(Debug)]
struct Candidate {
    methods: Box<[Method]>,
    headers: Box<[HeaderMatch]>,
    /// The service's position.
    service: usize,
}

impl Matcher {
    /// Compiles routes in the order of their declaration, each with the position of its service.
    pub(super) fn new<'a>(routes: impl IntoIterator<Item = (usize, &'a Route)>) -> Matcher {
        let mut matcher = Matcher::default();
        for (service, route) in routes {
            let host = match &route.host {
                HostPattern::Any => &mut matcher.any,
                HostPattern::Exact(host) => matcher.exact.entry(Arc::clone(host)).or_default(),
                HostPattern::Wildcard(suffix) => matcher.wildcard.entry(Arc::clone(suffix)).or_default(),
            };
            host.add(service, route);
        }
        matcher
    }

    /// The position of the service that a request is for.
    pub(super) fn find(&self, host: Option<&str>, path: &str, method: &Method, headers: &HeaderMap) -> Option<usize> {
        let mut buffer = [0; HOST_BYTES_MAX];
        host.and_then(|host| normalised(host, &mut buffer))
            .and_then(|host| self.find_by_host(host, path, method, headers))
            .or_else(|| self.any.find(path, method, headers))
    }

    fn find_by_host(&self, host: &str, path: &str, method: &Method, headers: &HeaderMap) -> Option<usize> {
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
        // Stable, so that equals stay in the order of declaration.
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
        let given = |wanted: &HeaderMatch| headers.get_all(&wanted.name).iter().any(|value| value == wanted.value);
        (self.methods.is_empty() || self.methods.contains(method)) && self.headers.iter().all(given)
    }
}

/// Where a path may be cut so that what is left is whole segments, longest first, at most `longest`; always also 0,
/// for the prefix `/`, which is held as nothing.
fn boundaries(path: &str, longest: usize) -> impl Iterator<Item = usize> {
    let bytes = path.as_bytes();
    let ends_segment = move |end: usize| end == bytes.len() || bytes.get(end) == Some(&b'/');
    (1..=longest.min(bytes.len()))
        .rev()
        .filter(move |end| ends_segment(*end))
        .chain([0])
}

/// A host in lower case, without its port and the dot of a fully qualified name. Copied to `buffer` only when letters
/// must be changed. An IPv6 address keeps its brackets.
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
