//! `listeners`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::read::{Fields, ProblemList, list};
use super::scalar::{address, count, duration, memory, parsed, size};
use super::service::{NAME, is_name};
use super::tree::{Node, NodeKind};
use crate::net::{ListenerLimits, ListenerOptions, ListenerTimeouts};

const LISTENERS_MAX: usize = 64;
const TRUSTED_MAX: usize = 1_024;

/// The minimum buffer of the HTTP library, and 16 MiB, above which a head is an attack.
const HEADER_BYTES: std::ops::RangeInclusive<usize> = 8 * 1024..=16 * 1024 * 1024;

/// Reads the listeners; at least one.
pub(super) fn listeners(node: &Node, problems: &ProblemList) -> Option<Vec<ListenerOptions>> {
    let read = list(node, problems, LISTENERS_MAX, |node, problems| {
        Some((node, listener(node, problems)?))
    })?;
    if matches!(&node.kind, NodeKind::List(items) if items.is_empty()) {
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
    Some(read.into_iter().map(|(_, listener)| listener).collect())
}

fn listener(node: &Node, problems: &ProblemList) -> Option<ListenerOptions> {
    let mut fields = Fields::of(node, problems)?;
    let address = fields.required("address", "`IP:port`, such as `0.0.0.0:8080`", address);
    let mut listener = address.map_or_else(ListenerOptions::default, ListenerOptions::on);
    fields.set("name", &mut listener.name, |node, problems| {
        parsed(node, problems, |name| match is_name(name) {
            true => Ok(name.to_owned()),
            false => Err(NAME.into()),
        })
    });
    fields.set("timeouts", &mut listener.timeouts, timeouts);
    fields.set("limits", &mut listener.limits, limits);
    fields.set(
        "trusted_proxies",
        &mut listener.trusted_proxies,
        |node, problems| list(node, problems, TRUSTED_MAX, network),
    );
    fields.unavailable("tls");
    fields.unavailable("proxy_protocol");
    fields.finish();
    address.map(|_| listener)
}

fn timeouts(node: &Node, problems: &ProblemList) -> Option<ListenerTimeouts> {
    let mut fields = Fields::of(node, problems)?;
    let mut timeouts = ListenerTimeouts::default();
    fields.set("header", &mut timeouts.header, duration);
    fields.set("body_idle", &mut timeouts.body_idle, duration);
    fields.set("keep_alive", &mut timeouts.keep_alive, duration);
    fields.finish();
    Some(timeouts)
}

fn limits(node: &Node, problems: &ProblemList) -> Option<ListenerLimits> {
    let mut fields = Fields::of(node, problems)?;
    let mut limits = ListenerLimits::default();
    fields.set(
        "header_bytes",
        &mut limits.header_bytes,
        |node, problems| memory(node, problems, HEADER_BYTES),
    );
    fields.set("headers", &mut limits.headers, |node, problems| {
        count(node, problems, 1..=10_000)
    });
    fields.set("uri_bytes", &mut limits.uri_bytes, |node, problems| {
        memory(node, problems, 1..=ListenerLimits::URI_BYTES_MAX)
    });
    fields.set("body_bytes", &mut limits.body_bytes, |node, problems| {
        size(node, problems, 0..=u64::MAX)
    });
    fields.set("connections", &mut limits.connections, |node, problems| {
        count(node, problems, 0..=10_000_000)
    });
    fields.finish();
    Some(limits)
}

fn network(node: &Node, problems: &ProblemList) -> Option<IpNet> {
    parsed(node, problems, |text| {
        let alone = || text.parse::<IpAddr>().map(IpNet::from);
        text.parse()
            .or_else(|_| alone())
            .map_err(|_| "an address or a network, such as `10.0.0.0/8`".into())
    })
}
