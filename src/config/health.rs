//! `services.<name>.health`.

use std::time::Duration;

use serde_json::json;

use crate::document::{Fields, Type, VARIABLE, Wrong};
use crate::model::{Health, Name, Weight};

pub(super) fn health(fields: &mut Fields<'_>) -> Option<Health> {
    let mut health = Health {
        path: Name::from("/"),
        host: None,
        panic: Weight::default(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        unhealthy_after: 3,
        healthy_after: 2,
    };
    fields.set(
        "path",
        &mut health.path,
        Type::parsed(target).shown(|path| Some((**path).into())),
        "of the request",
    );
    health.host = fields.read(
        "host",
        Type::parsed(probe_host).example("shop.example.com"),
        "The Host of health checks and preflight requests; by default that of the service's first \
         route without a wildcard, else the endpoint's address.",
    );
    fields.set(
        "panic",
        &mut health.panic,
        Type::parsed(share)
            .keywords(json!({ "pattern": format!(r"^\d+(\.\d+)?%$|{VARIABLE}") }))
            .shown(|weight| Some(format!("{weight}%").into())),
        "When more than this share of an upstream's endpoints is unhealthy, all of them are used: \
         with 50%, if two of three fail. Off by default, since a failing application may do harm; \
         never for the canary of a release.",
    );
    fields.set(
        "interval",
        &mut health.interval,
        Type::duration().above_zero(),
        "between two checks of an endpoint",
    );
    fields.set(
        "timeout",
        &mut health.timeout,
        Type::duration().above_zero(),
        "of a check",
    );
    fields.set(
        "unhealthy_after",
        &mut health.unhealthy_after,
        Type::count(1..=1_000),
        "failures in a row: one lost packet is no outage",
    );
    fields.set(
        "healthy_after",
        &mut health.healthy_after,
        Type::count(1..=1_000),
        "successes in a row",
    );
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
