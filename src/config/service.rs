//! `services`: routes, upstreams, weights and how they are used.

use std::sync::Arc;

use serde_json::json;

use super::health::health;
use super::release::{Callers, release};
use super::route::{PlacedRoute, header_name, refuse_duplicates, routes};
use super::sticky::{cookie_name, sticky};
use crate::document::{
    Fields, KEY, MapEntry, Node, NodeKind, ProblemList, Shape, Type, VARIABLE, Wrong, choice,
    entries, socket_address,
};
use crate::model::{
    EndpointSpec, Health, Name, Protocol, ServiceSpec, Sticky, Tester, Timeouts, UpstreamSpec,
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

/// The name of a listener or a caller.
pub(super) fn name() -> Type<'static, String> {
    Type::parsed(|name| match is_name(name) {
        true => Ok(name.to_owned()),
        false => Err(NAME.into()),
    })
    .keywords(json!({ "pattern": format!("{KEY}|{VARIABLE}") }))
}

/// A mapping of names to `values`, of which there has to be one.
fn named(values: Shape, shown: &'static str, most: usize) -> Shape {
    Shape::Map {
        keys: json!({ "type": "string", "pattern": KEY }),
        shown,
        more: (shown == "blue").then_some("green: { endpoints: [\"10.0.1.1:3000\"] }"),
        values: Box::new(values),
        least: 1,
        most,
    }
}

/// All services, in the order of the file; there has to be one.
pub(super) fn services(callers: Callers<'_>) -> Type<'_, Vec<ServiceSpec>> {
    let reader = move |fields: &mut Fields<'_>| Some(service(fields, &Name::from(""), callers));
    Type::new(
        move || {
            named(
                Type::object(reader).named("Service").shape(),
                "shop",
                SERVICES_MAX,
            )
        },
        move |node, problems| read_services(node, problems, callers),
    )
    .live()
}

fn read_services(
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
    let mut placed = Vec::new();
    for entry in entries {
        check_name(entry, problems);
        let name = Name::from(&*entry.key);
        let reader = |fields: &mut Fields<'_>| Some(service(fields, &name, callers));
        if let Some((routes, spec)) = Type::object(reader).read(&entry.value, problems) {
            placed.extend(routes.into_iter().map(|route| (Name::clone(&name), route)));
            services.extend(spec);
        }
    }
    refuse_duplicates(placed.iter().map(|(name, route)| (name, route)), problems);
    Some(services)
}

/// A service as far as it could be read; its routes count even when another part of it is wrong.
fn service(
    fields: &mut Fields<'_>,
    name: &Name,
    callers: Callers<'_>,
) -> (Vec<PlacedRoute>, Option<ServiceSpec>) {
    let routes = fields.required(
        "routes",
        "a list; `routes: [{}]` takes every request",
        routes(),
        "The most specific match wins: host, then the longer prefix, then methods and headers; \
         `[{}]` matches every request.",
    );
    let upstreams = fields.required(
        "upstreams",
        "a mapping of names to `{ endpoints: [\"IP:port\"] }`",
        upstreams(),
        "The deployed versions, by name.",
    );
    let names = upstreams.as_deref().unwrap_or_default();
    let given = fields.read(
        "weights",
        weights(names).live_example("{ blue: 100, green: 0 }"),
        "Initial weights in percent, to 0.01; they sum to 100. By default all on the baseline, or \
         on the only upstream. Then the admin API controls them, and reloads keep them.",
    );
    let baseline = fields.read(
        "baseline",
        baseline(names).live_example("blue"),
        "Target of rollbacks until an upstream reaches 100; by default the one with the largest \
         weight.",
    );
    let weights = match (fields.get("weights"), fields.get("baseline"), names) {
        (_, _, []) => None,
        (Some(_), _, _) => given,
        // A baseline that is wrong has been told, and would do once it is right.
        (None, Some(_), names) if baseline.is_none() && names.len() > 1 => None,
        (None, _, names) => default_weights(fields, names, baseline.as_ref()),
    };
    let behaviour = behaviour(fields, callers);
    let routes = routes.unwrap_or_default();
    let spec = upstreams
        .zip(weights)
        .map(|(upstreams, weights)| ServiceSpec {
            name: Name::clone(name),
            routes: routes.iter().map(|placed| placed.route.clone()).collect(),
            upstreams,
            weights,
            baseline,
            timeouts: behaviour.timeouts,
            sticky: behaviour.sticky,
            tester: behaviour.tester,
            health: behaviour.health,
            release: behaviour.release,
        });
    (routes, spec)
}

/// The fields beside routes, upstreams and weights.
#[derive(Default)]
struct Behaviour {
    timeouts: Timeouts,
    sticky: Option<Sticky>,
    tester: Option<Tester>,
    health: Option<Health>,
    release: Option<Arc<serde_json::Map<String, serde_json::Value>>>,
}

fn behaviour(fields: &mut Fields<'_>, callers: Callers<'_>) -> Behaviour {
    let mut spec = Behaviour::default();
    fields.set(
        "timeouts",
        &mut spec.timeouts,
        Type::object(timeouts).named("Timeouts").live(),
        "Timeouts of an exchange with an upstream. 0s: no limit.",
    );
    spec.sticky = fields.read(
        "sticky",
        Type::object(sticky).named("Sticky"),
        "What identifies a user, who then stays on one upstream; by default nothing, and each \
         request is assigned at random. Exactly one of these:",
    );
    spec.tester = fields.read(
        "tester",
        Type::object(tester).named("Tester"),
        "Lets testers select an upstream by name at any weight; by default off. An unknown name \
         gets 400 with the valid names, an empty one counts as absent. One of these:",
    );
    spec.health = fields.read(
        "health",
        Type::object(health).named("Health").live(),
        "GET to every endpoint; 200 to 399 is healthy. By default off: every endpoint is healthy.",
    );
    spec.release = fields.read(
        "release",
        release(callers).live(),
        "The release plan. Fields of the `plan` of a start replace those of this block; a running \
         release keeps its plan. `gate`, the gates of `steps`, `freeze` and `preflight` still \
         apply: a start by the role `operate` is rejected unless its plan has each of these gates \
         at the same weight and at least as strict, each window and each preflight request. The \
         role `admin` may override them with a reason, and the journal records what was replaced. \
         Likewise, with gates or in a freeze window, only `admin` may move weight away from the \
         baseline by hand, with a reason.",
    );
    for later in ["shadow", "retries", "websocket"] {
        fields.unavailable(later);
    }
    spec
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
fn upstreams() -> Type<'static, Vec<UpstreamSpec>> {
    let reader = |fields: &mut Fields<'_>| Some(upstream(fields, ""));
    Type::new(
        move || {
            named(
                Type::object(reader).named("Upstream").shape(),
                "blue",
                UPSTREAMS_MAX,
            )
        },
        read_upstreams,
    )
}

fn read_upstreams(node: &Node, problems: &ProblemList) -> Option<Vec<UpstreamSpec>> {
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
    let each = entries.iter().map(|entry| {
        check_name(entry, problems);
        let reader = |fields: &mut Fields<'_>| Some(upstream(fields, &entry.key));
        let read = Type::object(reader).read(&entry.value, problems);
        read.unwrap_or_else(|| no_endpoints(&entry.key))
    });
    Some(each.collect())
}

fn no_endpoints(name: &str) -> UpstreamSpec {
    UpstreamSpec {
        name: Name::from(name),
        endpoints: Vec::new(),
        protocol: Protocol::default(),
    }
}

fn upstream(fields: &mut Fields<'_>, name: &str) -> UpstreamSpec {
    let mut spec = no_endpoints(name);
    let endpoints = fields.required(
        "endpoints",
        "a list such as `[\"10.0.0.1:3000\"]`",
        endpoints().example("[\"10.0.0.1:3000\"]"),
        "`IP:port` of each; localhost is 127.0.0.1. The less loaded of two random ones is used.",
    );
    spec.endpoints = endpoints.unwrap_or_default();
    fields.set("protocol", &mut spec.protocol, protocol(), "HTTP/1.1");
    fields.unavailable("tls");
    spec
}

fn endpoints() -> Type<'static, Vec<EndpointSpec>> {
    Type::parsed(endpoint).list_checked(1, ENDPOINTS_MAX, |read, node, problems| {
        if node.items().is_empty() {
            problems.at(node, "expected at least one endpoint");
        }
        for (at, (node, endpoint)) in read.iter().enumerate() {
            if read.iter().take(at).any(|(_, earlier)| earlier == endpoint) {
                problems.at(node, format!("the endpoint {} is given twice", endpoint.0));
            }
        }
    })
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

fn protocol() -> Type<'static, Protocol> {
    const KNOWN: [(&str, Protocol); 1] = [("http1", Protocol::Http1)];
    Type::new(
        || Type::choice(&KNOWN).shape(),
        |node, problems| {
            if let NodeKind::Text(text) = &node.kind
                && matches!(&**text, "h2" | "h2c")
            {
                let message = format!("the protocol `{text}` is not supported in this version");
                problems.help(node, message, "write `http1`, or leave it out");
                return None;
            }
            Type::choice(&KNOWN).read(node, problems)
        },
    )
    .shown(|_| Some("http1".into()))
}

fn baseline(upstreams: &[UpstreamSpec]) -> Type<'_, Name> {
    let string =
        || Shape::Scalar(json!({ "type": "string", "pattern": format!("{KEY}|{VARIABLE}") }));
    Type::new(string, |node, problems| {
        if upstreams.is_empty() {
            return None;
        }
        let known = upstreams.iter().map(|spec| (&*spec.name, &spec.name));
        let known: Vec<(&str, &Name)> = known.collect();
        choice(node, problems, &known).map(Name::clone)
    })
}

fn weights(upstreams: &[UpstreamSpec]) -> Type<'_, Weights> {
    let shape = || Shape::Map {
        keys: json!({ "type": "string", "pattern": KEY }),
        shown: "blue",
        more: None,
        values: Box::new(weight().shape()),
        least: 0,
        most: UPSTREAMS_MAX,
    };
    Type::new(shape, |node, problems| {
        read_weights(node, problems, upstreams)
    })
}

fn read_weights(
    node: &Node,
    problems: &ProblemList,
    upstreams: &[UpstreamSpec],
) -> Option<Weights> {
    if upstreams.is_empty() {
        return None;
    }
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
        } else if let Some(weight) = weight().read(&entry.value, problems) {
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

fn weight() -> Type<'static, Weight> {
    Type::percent(
        "a number from 0 to 100",
        "a weight is in percent, without quotes and without `%`",
        json!({ "minimum": 0 }),
    )
}

/// All weight on the baseline, or on the only upstream.
fn default_weights(
    fields: &Fields<'_>,
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
    fields.problems().help(fields.node(), message, first);
    None
}

fn timeouts(fields: &mut Fields<'_>) -> Option<Timeouts> {
    let mut timeouts = Timeouts::default();
    fields.set(
        "connect",
        &mut timeouts.connect,
        Type::duration(),
        "to each endpoint tried; one on the same network takes milliseconds",
    );
    fields.set(
        "first_byte",
        &mut timeouts.first_byte,
        Type::duration(),
        "from the request being sent to the first byte of the response",
    );
    fields.set(
        "idle",
        &mut timeouts.idle,
        Type::duration(),
        "between two parts of a body, in either direction",
    );
    fields.set(
        "total",
        &mut timeouts.total,
        Type::duration(),
        "no limit, since downloads and streams may take long",
    );
    Some(timeouts)
}

fn tester(fields: &mut Fields<'_>) -> Option<Tester> {
    let header = fields.read(
        "header",
        Type::parsed(header_name).example("X-Weighbridge-Upstream"),
        "by this header",
    );
    let cookie = fields.read(
        "cookie",
        Type::parsed(cookie_name).example("wb-upstream"),
        "or by a cookie of this name",
    );
    fields.exactly_one()?;
    header.map(Tester::Header).or(cookie.map(Tester::Cookie))
}
