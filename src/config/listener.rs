//! `listeners`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::service::name;
use crate::document::{Fields, Node, ProblemList, Type};
use crate::net::{ListenerLimits, ListenerOptions, ListenerTimeouts};

const LISTENERS_MAX: usize = 64;
const TRUSTED_MAX: usize = 1_024;

/// The minimum buffer of the HTTP library, and 16 MiB, above which a head is an attack.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 8 * 1024..=16 * 1024 * 1024;

/// The listeners; at least one.
pub(super) fn listeners() -> Type<'static, Vec<ListenerOptions>> {
    Type::object(listener)
        .named("Listener")
        .list_checked(1, LISTENERS_MAX, check)
        .live()
}

fn check(read: &[(&Node, ListenerOptions)], node: &Node, problems: &ProblemList) {
    if node.items().is_empty() {
        problems.help(
            node,
            "expected at least one listener",
            "remove the key to listen on 0.0.0.0:8080",
        );
    }
    for (index, (node, listener)) in read.iter().enumerate() {
        for (_, earlier) in read.iter().take(index) {
            // Port 0 selects a free port each time.
            if earlier.address == listener.address && listener.address.port() != 0 {
                problems.at(
                    node,
                    format!("two listeners use the address {}", listener.address),
                );
            } else if earlier.name == listener.name && listener.address.port() != 0 {
                problems.at(node, format!("two listeners are named {:?}", listener.name));
            }
        }
    }
}

fn listener(fields: &mut Fields<'_>) -> Option<ListenerOptions> {
    let address = fields.required(
        "address",
        "`IP:port`, such as `0.0.0.0:8080`",
        Type::address().example("0.0.0.0:8080"),
        "`IP:port` to listen on",
    );
    let mut listener = address.map_or_else(ListenerOptions::default, ListenerOptions::on);
    fields.set(
        "name",
        &mut listener.name,
        name().without_default().example("web"),
        "the label in metrics and logs; by default the address",
    );
    fields.set(
        "timeouts",
        &mut listener.timeouts,
        Type::object(timeouts).named("ListenerTimeouts").live(),
        "Timeouts for clients. 0s: no limit.",
    );
    fields.set(
        "limits",
        &mut listener.limits,
        Type::object(limits).named("Limits").live(),
        "Limits for client requests.",
    );
    fields.set(
        "trusted_proxies",
        &mut listener.trusted_proxies,
        Type::parsed(network)
            .shown(|network| Some(network.to_string().into()))
            .list(TRUSTED_MAX),
        "Peers whose X-Forwarded-* and X-Request-Id are trusted, as in [\"10.0.0.0/8\", \
         \"2001:db8::/32\"]. From others these are replaced, also if spelled with `_`, and \
         Forwarded and other X-Forwarded-* (such as -Prefix) are removed. Addresses in \
         X-Forwarded-For may have ports, brackets and quotes; an unparsable value is logged once. \
         X-Forwarded-Port is the port that the user connected to: as a trusted proxy says, else \
         that of Host, else that of the scheme. Weighbridge-Hops carries a random ID of each \
         process; a request that has passed it eight times gets 508. Via is not sent, since nginx \
         and others do not compress for clients that send it.",
    );
    fields.unavailable("tls");
    fields.unavailable("proxy_protocol");
    address.map(|_| listener)
}

fn timeouts(fields: &mut Fields<'_>) -> Option<ListenerTimeouts> {
    let mut timeouts = ListenerTimeouts::default();
    fields.set(
        "header",
        &mut timeouts.header,
        Type::duration(),
        "for the whole request head, so that a slow client cannot hold it open",
    );
    fields.set(
        "body_idle",
        &mut timeouts.body_idle,
        Type::duration(),
        "between two parts of a request body",
    );
    fields.set(
        "keep_alive",
        &mut timeouts.keep_alive,
        Type::duration(),
        "between two requests on one connection",
    );
    Some(timeouts)
}

fn limits(fields: &mut Fields<'_>) -> Option<ListenerLimits> {
    let mut limits = ListenerLimits::default();
    fields.set(
        "header_bytes",
        &mut limits.header_bytes,
        Type::size(HEADER_BYTES),
        "Request line and header fields; more gets 431. Over HTTP/2 at most 32 KiB, where each \
         field counts 32 bytes more, and 384 KiB for the heads of all waiting requests of a \
         connection. The head of a response has 64 KiB at most; more gets 502.",
    );
    fields.set(
        "headers",
        &mut limits.headers,
        Type::count(1..=10_000),
        "header fields; more get 431",
    );
    let uri_bytes_max = u64::try_from(ListenerLimits::URI_BYTES_MAX).unwrap_or(u64::MAX);
    fields.set(
        "uri_bytes",
        &mut limits.uri_bytes,
        Type::size(1..=uri_bytes_max),
        "request target, at most 65534 bytes; a longer one gets 414",
    );
    fields.set(
        "body_bytes",
        &mut limits.body_bytes,
        Type::size(0..=u64::MAX),
        "no limit, since bodies are streamed; above a limit: 413",
    );
    fields.set(
        "connections",
        &mut limits.connections,
        Type::count(0..=10_000_000),
        "over all workers; further ones wait in the kernel's queue; 0: no limit",
    );
    Some(limits)
}

fn network(text: &str) -> Result<IpNet, crate::document::Wrong> {
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| alone())
        .map_err(|_| "an address or a network, such as `10.0.0.0/8`".into())
}
