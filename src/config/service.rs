//! `services`: routes, upstreams, weights and how they are used.

use std::time::Duration;

use super::read::{Fields, ProblemList, entries, list};
use super::release::{Callers, release};
use super::route::{header_name, refuse_duplicates, routes};
use super::scalar::{Wrong, choice, count, duration, duration_above_zero, parsed, socket_address};
use super::sticky::{cookie_name, sticky};
use super::tree::{MapEntry, Node, NodeKind};
use crate::model::{
    EndpointSpec, Health, Name, Protocol, Route, ServiceSpec, Tester, Timeouts, UpstreamSpec,
    Weight, Weights, one_of, similar,
};

const SERVICES_MAX: usize = 10_000;
const UPSTREAMS_MAX: usize = 64;
const ENDPOINTS_MAX: usize = 1_000;

/// What a name may be.
pub(super) const NAME: &str =
    "a name of 1 to 63 of `a-z A-Z 0-9 . _ -` that begins with a letter or a digit";

/// Whether `text` is a name as [`Name`] wants it.
pub(super) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// All services, in the order of the file; there has to be one.
pub(super) fn services(
    node: &Node,
    problems: &ProblemList,
    callers: Callers<'_>,
) -> Option<Vec<ServiceSpec>> {
    let entries = entries(node, problems)?;
    if entries.is_empty() {
        problems.at(node, "expected at least one service");
    }
    if entries.len() > SERVICES_MAX {
        problems.at(
            node,
            format!(
                "{} services are too many; at most {SERVICES_MAX} are taken",
                entries.len()
            ),
        );
        return None;
    }
    let mut services = Vec::with_capacity(entries.len());
    let mut nodes = Vec::new();
    for entry in entries {
        let read = service(entry, problems, callers);
        nodes.extend(
            read.routes
                .into_iter()
                .map(|(route, node)| (Name::clone(&read.name), route, node)),
        );
        services.extend(read.spec);
    }
    refuse_duplicates(
        nodes.iter().map(|(name, route, node)| (name, route, *node)),
        problems,
    );
    Some(services)
}

/// A service as far as it could be read; its routes count even when another part of it is wrong.
struct Read<'a> {
    name: Name,
    routes: Vec<(Route, &'a Node)>,
    spec: Option<ServiceSpec>,
}

fn service<'a>(entry: &'a MapEntry, problems: &'a ProblemList, callers: Callers<'_>) -> Read<'a> {
    let mut read = Read {
        name: Name::from(&*entry.key),
        routes: Vec::new(),
        spec: None,
    };
    check_name(entry, problems);
    let Some(mut fields) = Fields::of(&entry.value, problems) else {
        return read;
    };
    let routes = fields.required(
        "routes",
        "a list; `routes: [{}]` takes every request",
        routes,
    );
    let upstreams = fields.required(
        "upstreams",
        "a mapping of names to `{ endpoints: [\"IP:port\"] }`",
        upstreams,
    );
    let names = upstreams.as_deref().unwrap_or_default();
    let baseline = fields.read("baseline", |node, problems| {
        upstream_name(node, problems, names)
    });
    let weights = match (fields.get("weights"), fields.get("baseline"), names) {
        (_, _, []) => None,
        (Some(node), _, names) => weights(node, problems, names),
        // A baseline that is wrong has been told, and would do once it is right.
        (None, Some(_), names) if baseline.is_none() && names.len() > 1 => None,
        (None, _, names) => default_weights(entry, problems, names, baseline.as_ref()),
    };
    let timeouts = fields.read("timeouts", timeouts).unwrap_or_default();
    let sticky = fields.read("sticky", sticky);
    let tester = fields.read("tester", tester);
    let health = fields.read("health", health);
    let release = fields.read("release", |node, problems| release(node, problems, callers));
    for later in ["shadow", "retries", "websocket"] {
        fields.unavailable(later);
    }
    fields.finish();
    read.routes = routes.unwrap_or_default();
    read.spec = upstreams
        .zip(weights)
        .map(|(upstreams, weights)| ServiceSpec {
            name: Name::clone(&read.name),
            routes: read.routes.iter().map(|(route, _)| route.clone()).collect(),
            upstreams,
            weights,
            baseline,
            timeouts,
            sticky,
            tester,
            health,
            release,
        });
    read
}

fn check_name(entry: &MapEntry, problems: &ProblemList) {
    if !is_name(&entry.key) {
        problems.at_key(
            entry,
            format!("expected {NAME}, found {:?}", entry.key),
            None,
        );
    }
}

/// All upstreams; wrong ones are told, and stay, so that `weights` can still be checked against all
/// names.
fn upstreams(node: &Node, problems: &ProblemList) -> Option<Vec<UpstreamSpec>> {
    let entries = entries(node, problems)?;
    if entries.is_empty() {
        problems.at(node, "expected at least one upstream");
        return None;
    }
    if entries.len() > UPSTREAMS_MAX {
        problems.at(
            node,
            format!(
                "{} upstreams are too many; at most {UPSTREAMS_MAX} are taken",
                entries.len()
            ),
        );
        return None;
    }
    Some(
        entries
            .iter()
            .map(|entry| upstream(entry, problems))
            .collect(),
    )
}

fn upstream(entry: &MapEntry, problems: &ProblemList) -> UpstreamSpec {
    check_name(entry, problems);
    let mut spec = UpstreamSpec {
        name: Name::from(&*entry.key),
        endpoints: Vec::new(),
        protocol: Protocol::default(),
    };
    if let Some(mut fields) = Fields::of(&entry.value, problems) {
        let endpoints = fields.required(
            "endpoints",
            "a list such as `[\"10.0.0.1:3000\"]`",
            endpoints,
        );
        spec.endpoints = endpoints.unwrap_or_default();
        fields.set("protocol", &mut spec.protocol, protocol);
        fields.unavailable("tls");
        fields.finish();
    }
    spec
}

fn endpoints(node: &Node, problems: &ProblemList) -> Option<Vec<EndpointSpec>> {
    let read = list(node, problems, ENDPOINTS_MAX, |node, problems| {
        Some((node, parsed(node, problems, endpoint)?))
    })?;
    if matches!(&node.kind, NodeKind::List(items) if items.is_empty()) {
        problems.at(node, "expected at least one endpoint");
    }
    for (index, (node, endpoint)) in read.iter().enumerate() {
        if read
            .iter()
            .take(index)
            .any(|(_, earlier)| earlier == endpoint)
        {
            problems.at(node, format!("the endpoint {} is given twice", endpoint.0));
        }
    }
    Some(read.into_iter().map(|(_, endpoint)| endpoint).collect())
}

fn endpoint(text: &str) -> Result<EndpointSpec, Wrong> {
    let expected = "`IP:port`, such as `10.0.0.1:3000` or `[fd00::1]:3000`";
    if let Some((_, rest)) = text.split_once("://") {
        return Err(Wrong::with_help(
            "`IP:port` without a scheme",
            format!("did you mean `{rest}`?"),
        ));
    }
    let Some(address) = socket_address(text) else {
        let named = text.rsplit_once(':').is_some_and(|(host, port)| {
            host.contains(|c: char| c.is_ascii_alphabetic())
                && !host.contains(':')
                && port.parse::<u16>().is_ok()
        });
        let help = "host names other than `localhost` are not looked up in this version";
        return Err(if named {
            Wrong::with_help(expected, help)
        } else {
            expected.into()
        });
    };
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err("the address and port of one machine".into());
    }
    Ok(EndpointSpec(address))
}

fn protocol(node: &Node, problems: &ProblemList) -> Option<Protocol> {
    if let NodeKind::Text(text) = &node.kind
        && matches!(&**text, "h2" | "h2c")
    {
        let message = format!("the protocol `{text}` is not supported in this version");
        problems.help(node, message, "write `http1`, or leave it out");
        return None;
    }
    choice(node, problems, &[("http1", Protocol::Http1)])
}

fn upstream_name(node: &Node, problems: &ProblemList, upstreams: &[UpstreamSpec]) -> Option<Name> {
    if upstreams.is_empty() {
        return None;
    }
    let choices: Vec<(&str, &Name)> = upstreams
        .iter()
        .map(|spec| (&*spec.name, &spec.name))
        .collect();
    choice(node, problems, &choices).map(Name::clone)
}

fn weights(node: &Node, problems: &ProblemList, upstreams: &[UpstreamSpec]) -> Option<Weights> {
    let entries = entries(node, problems)?;
    let known: Vec<&str> = upstreams.iter().map(|spec| &*spec.name).collect();
    let mut given = Vec::with_capacity(entries.len());
    for entry in entries {
        if !known.contains(&&*entry.key) {
            let message = format!(
                "there is no upstream `{}`; expected {}",
                entry.key,
                one_of(&known)
            );
            let help = similar(&entry.key, &known).map(|name| format!("did you mean `{name}`?"));
            problems.at_key(entry, message, help);
        } else if let Some(weight) = weight(&entry.value, problems) {
            given.push((Name::from(&*entry.key), weight));
        }
    }
    // With one of them wrong, their sum says nothing.
    if given.len() < entries.len() {
        return None;
    }
    Weights::new(upstreams.iter().map(|spec| &spec.name), &given)
        .map_err(|error| problems.at(node, error.to_string()))
        .ok()
}

fn weight(node: &Node, problems: &ProblemList) -> Option<Weight> {
    let percent = match &node.kind {
        NodeKind::Missing => return None,
        NodeKind::Number(percent) => *percent,
        NodeKind::Integer(percent) => i32::try_from(*percent).map_or(f64::INFINITY, f64::from),
        NodeKind::Text(percent) if node.substituted => percent.parse().unwrap_or(f64::NAN),
        NodeKind::Text(_) => {
            let message = format!("expected a number from 0 to 100, found {}", node.found());
            problems.help(
                node,
                message,
                "a weight is in percent, without quotes and without `%`",
            );
            return None;
        }
        _ => {
            problems.expected(node, "a number from 0 to 100");
            return None;
        }
    };
    Weight::from_percent(percent)
        .map_err(|_| problems.expected(node, "a number from 0 to 100 with at most two decimals"))
        .ok()
}

/// All weight on the baseline, or on the only upstream.
fn default_weights(
    entry: &MapEntry,
    problems: &ProblemList,
    upstreams: &[UpstreamSpec],
    baseline: Option<&Name>,
) -> Option<Weights> {
    let names = || upstreams.iter().map(|spec| &spec.name);
    let holder = match upstreams {
        [only] => Some(&only.name),
        _ => baseline,
    };
    if let Some(holder) = holder {
        return Weights::all_on(names(), holder);
    }
    let message = "`weights` is missing, and with several upstreams and no `baseline` there is no \
                   telling who gets the traffic";
    let first = names().next().map_or_else(String::new, |name| {
        format!("`weights: {{ {name}: 100 }}` does it")
    });
    problems.at_key(entry, message, Some(first));
    None
}

fn timeouts(node: &Node, problems: &ProblemList) -> Option<Timeouts> {
    let mut fields = Fields::of(node, problems)?;
    let mut timeouts = Timeouts::default();
    fields.set("connect", &mut timeouts.connect, duration);
    fields.set("first_byte", &mut timeouts.first_byte, duration);
    fields.set("idle", &mut timeouts.idle, duration);
    fields.set("total", &mut timeouts.total, duration);
    fields.finish();
    Some(timeouts)
}

fn tester(node: &Node, problems: &ProblemList) -> Option<Tester> {
    let mut fields = Fields::of(node, problems)?;
    let given = [fields.get("header"), fields.get("cookie")];
    fields.finish();
    match given {
        [Some(node), None] => parsed(node, problems, header_name).map(Tester::Header),
        [None, Some(node)] => parsed(node, problems, cookie_name).map(Tester::Cookie),
        _ => {
            problems.at(node, "expected exactly one of `header` and `cookie`");
            None
        }
    }
}

fn health(node: &Node, problems: &ProblemList) -> Option<Health> {
    let mut fields = Fields::of(node, problems)?;
    let mut health = Health {
        path: Name::from("/"),
        host: None,
        panic: Weight::default(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        unhealthy_after: 3,
        healthy_after: 2,
    };
    fields.set("path", &mut health.path, |node, problems| {
        parsed(node, problems, target)
    });
    health.host = fields.read("host", |node, problems| parsed(node, problems, probe_host));
    fields.set("panic", &mut health.panic, |node, problems| {
        parsed(node, problems, share)
    });
    fields.set("interval", &mut health.interval, duration_above_zero);
    fields.set("timeout", &mut health.timeout, duration_above_zero);
    fields.set("unhealthy_after", &mut health.unhealthy_after, times);
    fields.set("healthy_after", &mut health.healthy_after, times);
    fields.finish();
    Some(health)
}

/// The host of a check, with a port if it has one.
fn probe_host(text: &str) -> Result<Name, Wrong> {
    match text.parse::<http::uri::Authority>() {
        Ok(host) if is_host(host.host()) && !text.contains('@') && has_port(&host) => {
            Ok(Name::from(text))
        }
        _ => Err("a host such as `shop.example.com`, without a scheme or a wildcard".into()),
    }
}

/// Whether it can be the name or the address of a host (RFC 1035 section 2.3.4 for its length).
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[') {
        let address = address
            .strip_suffix(']')
            .map(str::parse::<std::net::Ipv6Addr>);
        return matches!(address, Some(Ok(_)));
    }
    let labels = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| (1..=63).contains(&label.len());
    labels.len() <= 253 && labels.split('.').all(is_label) && !host.contains('*')
}

/// Whether a port can be connected to, if there is one.
fn has_port(authority: &http::uri::Authority) -> bool {
    let plain = authority.as_str().len() == authority.host().len();
    plain || authority.port_u16().is_some_and(|port| port > 0)
}

/// A share of a whole, such as `50%`.
fn share(text: &str) -> Result<Weight, Wrong> {
    let percent = text
        .strip_suffix('%')
        .and_then(|number| number.trim().parse().ok());
    percent
        .and_then(|percent| Weight::from_percent(percent).ok())
        .ok_or_else(|| "a share from `0%` to `100%`, to 0.01, such as `50%`".into())
}

fn times(node: &Node, problems: &ProblemList) -> Option<u32> {
    u32::try_from(count(node, problems, 1..=1_000)?).ok()
}

/// The target of a request: a path, and a query if there is one.
fn target(text: &str) -> Result<Name, Wrong> {
    let plain = text.starts_with('/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    match text.parse::<http::uri::PathAndQuery>() {
        Ok(_) if plain => Ok(Name::from(text)),
        _ => Err("a path such as `/healthz`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_host_accepts_only_valid_hosts_and_ports() {
        let longest = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61),
        ]
        .join(".");
        for host in [
            "web.internal",
            "web.internal.",
            "web_1:8080",
            "10.0.0.1:80",
            "[2001:db8::1]",
            "[2001:db8::1]:65535",
            &longest,
        ] {
            assert!(probe_host(host).is_ok(), "{host}");
        }
        for host in [
            "",
            ".",
            "a..b",
            ".web",
            "web.internal:",
            "web.internal:0",
            "web.internal:65536",
            "web.internal:http",
            "[2001:db8::1]:0",
            "[2001:db8::1",
            "[web]",
            "2001:db8::1",
            "*.example.com",
            "user@web",
            "http://web",
            &format!("a{longest}"),
            &"a".repeat(64),
        ] {
            assert!(probe_host(host).is_err(), "{host}");
        }
    }
}
