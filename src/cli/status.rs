//! Formats services of the admin API as text.

use crate::model::api;

use super::table::{Table, count, latency, percent, rate};
use super::terminal::paint;

/// The statistics windows, shortest first; others, from a newer proxy, follow.
const SPANS: [&str; 4] = ["10s", "1m", "5m", "since_change"];

/// All services, one line for each upstream.
pub(super) fn overview(services: &[api::Service]) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "UPSTREAM",
        ">WEIGHT",
        "HEALTHY",
        ">REQUESTS",
        ">ERRORS",
        ">P50",
        ">P99",
    ]);
    for service in services {
        for (at, (name, upstream)) in service.upstreams.iter().enumerate() {
            let window = upstream.windows.get("10s").cloned().unwrap_or_default();
            table.row([
                if at == 0 {
                    service.name.clone()
                } else {
                    String::new()
                },
                marked(service, name),
                weight_cell(&service.weights, name),
                healthy(upstream),
                count(window.requests),
                rate(window.error_rate, window.requests),
                latency(window.latency_us.p50),
                latency(window.latency_us.p99),
            ]);
        }
    }
    table.text()
}

/// One service in detail, with a summary of its running release.
pub(super) fn detail(service: &api::Service, release: Option<&str>, colored: bool) -> String {
    let sections = [
        head(service, release, colored),
        endpoints(service, colored),
        windows(service),
    ];
    sections.join("\n")
}

/// The weights of a service, one line for each upstream.
pub(super) fn weights(intended: &api::Percentages, effective: &api::Percentages) -> String {
    let mut table = Table::new(&["UPSTREAM", ">WEIGHT", ">EFFECTIVE"]);
    for (name, weight) in intended {
        let effective = effective.get(name).copied().unwrap_or_default();
        table.row([name.clone(), percent(*weight), percent(effective)]);
    }
    table.text()
}

/// `blue 95 %, green 5 %`.
pub(super) fn in_words(weights: &api::Percentages) -> String {
    let parts: Vec<String> = weights
        .iter()
        .map(|(name, weight)| format!("{name} {}", percent(*weight)))
        .collect();
    parts.join(", ")
}

fn head(service: &api::Service, release: Option<&str>, colored: bool) -> String {
    let weights = &service.weights;
    let mut lines = vec![
        format!("Service   {}", paint(&service.name, "1", colored)),
        format!("Routes    {}", service.routes.join(", ")),
        format!("Weights   {}", in_words(&weights.effective)),
    ];
    if weights.intended != weights.effective {
        let wanted = format!(
            "intended  {}, not in effect yet",
            in_words(&weights.intended)
        );
        lines.push(paint(&wanted, "33", colored));
    }
    let reason = weights
        .reason
        .as_deref()
        .map(|reason| format!(": {reason}"));
    lines.push(format!(
        "Since     {}{}",
        weights.since,
        reason.unwrap_or_default()
    ));
    if !weights.durable {
        lines.push(paint(
            "          not stored: a restart would not start with these weights",
            "33",
            colored,
        ));
    }
    let before = service
        .previous_baseline
        .as_deref()
        .map(|name| format!(" (before: {name})"));
    lines.push(format!(
        "Baseline  {}{}",
        service.baseline,
        before.unwrap_or_default()
    ));
    lines.extend(release.map(|release| format!("Release   {release}")));
    lines.push(format!("Revision  {}\n", service.revision));
    lines.join("\n")
}

fn endpoints(service: &api::Service, colored: bool) -> String {
    let mut table = Table::new(&["UPSTREAM", "ENDPOINT", ">IN FLIGHT", "HEALTH"]);
    for (name, upstream) in &service.upstreams {
        for endpoint in &upstream.endpoints {
            let health = if endpoint.healthy {
                "healthy".to_owned()
            } else {
                paint("unhealthy", "31", colored)
            };
            table.row([
                name.clone(),
                endpoint.address.clone(),
                count(endpoint.in_flight),
                health,
            ]);
        }
    }
    table.text()
}

fn windows(service: &api::Service) -> String {
    let mut table = Table::new(&[
        "UPSTREAM",
        "WINDOW",
        ">REQUESTS",
        ">FAILURES",
        ">ERRORS",
        ">P50",
        ">P90",
        ">P99",
        ">P99.9",
    ]);
    for (name, upstream) in &service.upstreams {
        let newer = upstream
            .windows
            .keys()
            .map(String::as_str)
            .filter(|span| !SPANS.contains(span));
        for span in SPANS.into_iter().chain(newer) {
            let Some(window) = upstream.windows.get(span) else {
                continue;
            };
            table.row([
                name.clone(),
                span.replace('_', " "),
                count(window.requests),
                count(window.failures),
                rate(window.error_rate, window.requests),
                latency(window.latency_us.p50),
                latency(window.latency_us.p90),
                latency(window.latency_us.p99),
                latency(window.latency_us.p999),
            ]);
        }
    }
    table.text()
}

/// The upstream's name, with an asterisk if it is the baseline.
pub(super) fn marked(service: &api::Service, name: &str) -> String {
    if service.baseline == name {
        format!("{name} *")
    } else {
        name.to_owned()
    }
}

/// The effective weight, and the intended one if it differs.
pub(super) fn weight_cell(weights: &api::WeightsStatus, name: &str) -> String {
    let effective = weights.effective.get(name).copied().unwrap_or_default();
    match weights.intended.get(name) {
        Some(intended) if *intended != effective => {
            format!("{effective} -> {}", percent(*intended))
        }
        _ => percent(effective),
    }
}

pub(super) fn healthy(upstream: &api::Upstream) -> String {
    let healthy = upstream
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.healthy)
        .count();
    format!("{healthy}/{}", upstream.endpoints.len())
}
