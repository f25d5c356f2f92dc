//! `services.<name>.routes`.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use http::header::{self, HeaderName, HeaderValue};

use serde_json::json;

use crate::document::{
    Fields, MapEntry, Node, NodePath, ProblemList, Shape, TextSpan, Type, Wrong, entries, parsed,
};
use crate::model::{HeaderMatch, HostPattern, Name, PathPrefix, Route};

const ROUTES_MAX: usize = 1_000;
const METHODS_MAX: usize = 32;
const HEADERS_MAX: usize = 32;

/// A route with its place in the file.
pub(super) struct PlacedRoute {
    pub(super) route: Route,
    span: TextSpan,
    path: NodePath,
}

/// All routes of a service; there has to be one.
pub(super) fn routes() -> Type<'static, Vec<PlacedRoute>> {
    let shape = || Type::object(route).named("Route").shape();
    let item = Type::new(shape, |node, problems| {
        Some(PlacedRoute {
            route: Type::object(route).read(node, problems)?,
            span: node.span.clone(),
            path: node.path.clone(),
        })
    });
    item.list_checked(1, ROUTES_MAX, |_, node, problems| {
        if node.items().is_empty() {
            let help = "`routes: [{}]` takes every request";
            problems.help(node, "expected at least one route", help);
        }
    })
}

/// Tells every route that is the same as an earlier one, of any service: it would never be reached.
pub(super) fn refuse_duplicates<'a>(
    all: impl Iterator<Item = (&'a Name, &'a PlacedRoute)>,
    problems: &ProblemList,
) {
    let mut seen: HashMap<String, (&Name, u64)> = HashMap::new();
    for (service, placed) in all {
        let identity = identity(&placed.route);
        if let Some((owner, line)) = seen.get(&identity) {
            let message = format!("this is the route of service {owner:?} in line {line}");
            problems.push(Some(&placed.span), &placed.path, message, None);
        } else {
            seen.insert(identity, (service, placed.span.line));
        }
    }
}

/// A text that is the same for two routes that match the same requests.
fn identity(route: &Route) -> String {
    let mut methods: Vec<&str> = route.methods.iter().map(http::Method::as_str).collect();
    methods.sort_unstable();
    let mut headers: Vec<(&str, &[u8])> = route
        .headers
        .iter()
        .map(|header| (header.name.as_str(), header.value.as_bytes()))
        .collect();
    headers.sort_unstable();
    format!(
        "{:?} {:?} {methods:?} {headers:?}",
        route.host, route.path_prefix
    )
}

fn route(fields: &mut Fields<'_>) -> Option<Route> {
    let mut route = Route {
        host: HostPattern::Any,
        path_prefix: PathPrefix("".into()),
        methods: Vec::new(),
        headers: Vec::new(),
    };
    fields.set(
        "host",
        &mut route.host,
        Type::parsed(host).live_example("shop.example.com"),
        "or \"*.example.com\" for everything below it; by default any",
    );
    fields.set(
        "path_prefix",
        &mut route.path_prefix,
        Type::parsed(path_prefix).shown(|prefix| Some(format!("{}/", prefix.0).into())),
        "whole segments: /shop matches /shop/cart, not /shopping",
    );
    fields.set(
        "methods",
        &mut route.methods,
        Type::parsed(method)
            .shown(|method| Some(method.as_str().into()))
            .list(METHODS_MAX),
        "any; or [GET, HEAD]",
    );
    let header_map = || Shape::Map {
        keys: json!({ "type": "string" }),
        shown: "X-Api-Version",
        more: None,
        values: Box::new(Shape::Scalar(json!({ "type": "string" }))),
        least: 0,
        most: HEADERS_MAX,
    };
    fields.set(
        "headers",
        &mut route.headers,
        Type::new(header_map, headers).shown(|_| Some(json!({}))),
        "any; or { X-Api-Version: \"2\" }, with exactly these values",
    );
    Some(route)
}

fn host(text: &str) -> Result<HostPattern, Wrong> {
    let expected = "a host such as `shop.example.com` or `*.example.com`";
    let lower = text.to_ascii_lowercase();
    if let Some(suffix) = lower.strip_prefix("*.") {
        return match is_domain(suffix) {
            true => Ok(HostPattern::Wildcard(suffix.into())),
            false => Err(expected.into()),
        };
    }
    let address = lower
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) || is_domain(&lower) {
        return Ok(HostPattern::Exact(lower.into()));
    }
    Err(match lower.rsplit_once(':') {
        Some((name, port)) if is_domain(name) && port.parse::<u16>().is_ok() => Wrong::with_help(
            "a host without a port",
            format!("write `{name}`, which matches on any port"),
        ),
        _ if lower == "*" => Wrong::with_help(expected, "leave `host` out to match any host"),
        _ => expected.into(),
    })
}

pub(super) fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn path_prefix(text: &str) -> Result<PathPrefix, Wrong> {
    if !text.starts_with('/') {
        return Err(Wrong::with_help(
            "a path that begins with `/`",
            format!("did you mean `/{text}`?"),
        ));
    }
    if text.contains(['?', '#']) {
        return Err("a path without a query or a fragment".into());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a path as it is sent, percent-encoded".into());
    }
    Ok(PathPrefix(text.strip_suffix('/').unwrap_or(text).into()))
}

fn method(text: &str) -> Result<http::Method, Wrong> {
    let upper = text.to_ascii_uppercase();
    if upper != text {
        return Err(Wrong::with_help(
            "a method in capitals",
            format!("did you mean `{upper}`?"),
        ));
    }
    match http::Method::from_bytes(text.as_bytes()) {
        Ok(http::Method::CONNECT) => {
            Err("a method other than CONNECT, which is never forwarded".into())
        }
        Ok(method) => Ok(method),
        Err(_) => Err("a method such as `GET`".into()),
    }
}

fn headers(node: &Node, problems: &ProblemList) -> Option<Vec<HeaderMatch>> {
    let entries = entries(node, problems)?;
    if entries.len() > HEADERS_MAX {
        problems.at(
            node,
            format!(
                "{} headers are too many; at most {HEADERS_MAX} are taken",
                entries.len()
            ),
        );
        return None;
    }
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for entry in entries {
        let Some(header) = header_match(entry, problems) else {
            continue;
        };
        if headers.iter().any(|earlier| earlier.name == header.name) {
            problems.at_key(
                entry,
                format!("the header `{}` is given twice", header.name),
                None,
            );
        }
        headers.push(header);
    }
    Some(headers)
}

fn header_match(entry: &MapEntry, problems: &ProblemList) -> Option<HeaderMatch> {
    let name = HeaderName::from_bytes(entry.key.as_bytes());
    if name.is_err() {
        problems.at_key(
            entry,
            format!("expected the name of a header, found `{}`", entry.key),
            None,
        );
    }
    let value = parsed(&entry.value, problems, |text| {
        HeaderValue::from_str(text).map_err(|_| "the value of a header".into())
    });
    let name = name.ok()?;
    if name == header::HOST {
        problems.at_key(
            entry,
            "a route matches hosts by its `host`, not by a header",
            None,
        );
        return None;
    }
    Some(HeaderMatch {
        name,
        value: value?,
    })
}

/// The name of a header.
pub(super) fn header_name(text: &str) -> Result<HeaderName, Wrong> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| "the name of a header".into())
}
