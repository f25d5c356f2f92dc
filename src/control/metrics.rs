//! Metrics in the Prometheus text format, in their own registry.
//!
//! Labels are bounded: services, upstreams and endpoints of the configuration, listeners, standard
//! methods, status codes and closed sets of reasons. The series of an upstream are removed when it
//! leaves the configuration.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricType;
use prometheus::{Histogram, HistogramOpts, Registry, TextEncoder};

use super::family::{Description, Family, LatencyFamily, ReadAtScrape};
use crate::model::api::Phase;
use crate::stats::{Class, Reason, RequestLabels, Summary};
use crate::time::Timestamp;

/// The reason of a rollback that a person or script requested, of a release or of a service without
/// one.
pub(super) const MANUAL: &str = "manual";
/// The reason of a rollback because a release could not continue after a restart.
pub(super) const ABANDONED: &str = "restart";
/// The reasons of rollbacks: manual, or the objective in the release's outcome.
const ROLLBACK_REASONS: [&str; 9] = [
    MANUAL,
    "error_rate",
    "latency",
    "slo",
    "inconclusive",
    "budget",
    "health",
    "preflight",
    ABANDONED,
];

/// In seconds; a rollback takes microseconds unless the machine is overloaded.
const ROLLBACK_BUCKETS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.1,
    1.0,
];

/// The result of delivering an event to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookResult {
    /// The receiver accepted it.
    Delivered,
    /// The receiver rejected it, or every attempt failed.
    Failed,
    /// It was not sent: the queue was full, or the program exited.
    Dropped,
}

impl WebhookResult {
    const ALL: [WebhookResult; 3] = [
        WebhookResult::Delivered,
        WebhookResult::Failed,
        WebhookResult::Dropped,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            WebhookResult::Delivered => "delivered",
            WebhookResult::Failed => "failed",
            WebhookResult::Dropped => "dropped",
        }
    }
}

/// All metrics of the program.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family,
    latencies: LatencyFamily,
    failures: Family,
    errors: Family,
    weight: Family,
    healthy: Family,
    rollbacks: Family,
    rollback_duration: Histogram,
    rescues: Family,
    phase: Family,
    reload_successful: Family,
    reload_timestamp: Family,
    store_pending: Family,
    webhooks: Family,
}

impl Metrics {
    /// The content type of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4";

    /// All metrics, at zero.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        register(&registry, Box::new(ProcessCollector::for_self()));
        let of = |kind, name, help, labels| register_family(&registry, kind, name, help, labels);
        let counter = |name, help, labels| of(MetricType::COUNTER, name, help, labels);
        let gauge = |name, help, labels| of(MetricType::GAUGE, name, help, labels);
        gauge(
            "build_info",
            "Version of the running program, as a label; the value is always 1.",
            &["version"],
        )
        .set(&[env!("CARGO_PKG_VERSION")], 1.0);
        let webhooks = counter("webhook_deliveries_total", help::WEBHOOKS, &["result"]);
        // Start at 0, so that the first failure shows as an increase.
        for result in WebhookResult::ALL {
            webhooks.add(&[result.as_str()], 0);
        }
        Metrics {
            webhooks,
            requests: counter("http_requests_total", help::REQUESTS, help::REQUEST_LABELS),
            failures: counter(
                "upstream_failures_total",
                help::FAILURES,
                &["service", "upstream", "reason"],
            ),
            errors: counter("http_errors_total", help::ERRORS, &["listener", "reason"]),
            weight: gauge(
                "upstream_weight_ratio",
                help::WEIGHT,
                &["service", "upstream"],
            ),
            healthy: gauge(
                "endpoint_healthy",
                help::HEALTHY,
                &["service", "upstream", "endpoint"],
            ),
            rollbacks: counter("rollbacks_total", help::ROLLBACKS, &["service", "reason"]),
            rescues: counter("rescues_total", help::RESCUES, &["service"]),
            phase: gauge("release_phase", help::PHASE, &["service", "phase"]),
            reload_successful: gauge("config_last_reload_successful", help::RELOAD, &[]),
            reload_timestamp: gauge(
                "config_last_reload_success_timestamp_seconds",
                help::RELOADED,
                &[],
            ),
            store_pending: gauge("store_pending_changes", help::PENDING, &[]),
            latencies: register_latencies(&registry),
            rollback_duration: register_rollback_duration(&registry),
            registry,
        }
    }

    /// The response to a scrape.
    pub fn render(&self) -> String {
        let rendered = TextEncoder::new().encode_to_string(&self.registry.gather());
        rendered.unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics cannot be rendered");
            String::new()
        })
    }

    /// Adds a gauge that is read at each scrape, for values owned by other modules. `name` has no
    /// prefix.
    pub fn gauge_from(
        &self,
        name: &str,
        help: &str,
        read: impl Fn() -> usize + Send + Sync + 'static,
    ) {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        self.read_from(MetricType::GAUGE, name, help, move || read() as f64);
    }

    /// Adds a counter that is read at each scrape, for counts owned by other modules. `name` has no
    /// prefix and ends in `_total`.
    pub fn counter_from(
        &self,
        name: &str,
        help: &str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
        self.read_from(MetricType::COUNTER, name, help, move || read() as f64);
    }

    fn read_from(
        &self,
        kind: MetricType,
        name: &str,
        help: &str,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        match Description::new(name, help, kind, &[]) {
            Ok(described) => register(&self.registry, Box::new(ReadAtScrape::new(described, read))),
            Err(error) => tracing::error!(%error, name, "the name of this metric is not valid"),
        }
    }

    /// Counts responses by upstream (with its service), or without one.
    pub(super) fn add_requests(
        &self,
        listener: &str,
        upstream: Option<(&str, &str)>,
        labels: RequestLabels,
        n: u64,
    ) {
        let (service, upstream) = upstream.unwrap_or_default();
        let code = labels.status.to_string();
        self.requests.add(
            &[listener, service, upstream, labels.method.as_str(), &code],
            n,
        );
    }

    pub(super) fn add_summary(&self, service: &str, upstream: &str, summary: &Summary) {
        self.latencies.add(&[service, upstream], summary.total());
        let answered_badly = summary.count(Class::ServerError);
        if answered_badly > 0 {
            self.failures.add(
                &[service, upstream, Class::ServerError.as_str()],
                answered_badly,
            );
        }
    }

    /// Counts a response that the proxy generated itself, unless it belongs to no listener, and a
    /// failure of the intended upstream if that is at fault.
    pub(super) fn add_reason(
        &self,
        listener: Option<&str>,
        upstream: Option<(&str, &str)>,
        reason: Reason,
        n: u64,
    ) {
        if let Some(listener) = listener {
            self.errors.add(&[listener, reason.as_str()], n);
        }
        if let Some((service, upstream)) = upstream.filter(|_| is_fault_of_upstream(reason)) {
            self.failures.add(&[service, upstream, reason.as_str()], n);
        }
    }

    pub(super) fn set_weight(&self, service: &str, upstream: &str, fraction: f64) {
        self.weight.set(&[service, upstream], fraction);
    }

    pub(super) fn set_healthy(&self, service: &str, upstream: &str, endpoint: &str, healthy: bool) {
        self.healthy
            .set(&[service, upstream, endpoint], f64::from(u8::from(healthy)));
    }

    /// Creates a service's rollback series at 0 for every reason, so that its first rollback shows
    /// as an increase.
    pub(super) fn expect_rollbacks(&self, service: &str) {
        for reason in ROLLBACK_REASONS {
            self.rollbacks.add(&[service, reason], 0);
        }
        self.rescues.add(&[service], 0);
    }

    /// Counts a rollback: its reason, and the time from the decision until the table without the
    /// canary was published.
    pub(super) fn add_rollback(&self, service: &str, reason: &str, took: Duration) {
        self.rollbacks.add(&[service, reason], 1);
        self.rollback_duration.observe(took.as_secs_f64());
    }

    pub(super) fn add_rescues(&self, service: &str, rescues: u64) {
        if rescues > 0 {
            self.rescues.add(&[service], rescues);
        }
    }

    /// Sets the phase of the service's newest release.
    pub(super) fn set_phase(&self, service: &str, phase: Phase) {
        for known in Phase::ALL {
            let value = f64::from(u8::from(known == phase));
            self.phase.set(&[service, known.as_str()], value);
        }
    }

    pub(super) fn set_reload(&self, at: Timestamp, successful: bool) {
        self.reload_successful
            .set(&[], f64::from(u8::from(successful)));
        if successful {
            #[expect(
                clippy::cast_precision_loss,
                reason = "microseconds since 1970 are below 2^53 until 2255"
            )]
            self.reload_timestamp.set(&[], at.unix_us() as f64 / 1e6);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a short queue")]
    pub(super) fn set_store_pending(&self, changes: usize) {
        self.store_pending.set(&[], changes as f64);
    }

    /// Counts webhook events by their delivery result.
    pub fn add_webhooks(&self, result: WebhookResult, n: u64) {
        self.webhooks.add(&[result.as_str()], n);
    }

    /// Removes the series of an upstream that has left the configuration.
    pub(super) fn forget_upstream(&self, service: &str, upstream: &str) {
        let gone = [("service", service), ("upstream", upstream)];
        for family in [&self.requests, &self.failures, &self.weight, &self.healthy] {
            family.forget(&gone);
        }
        self.latencies.forget(&gone);
    }

    /// Removes the series of an endpoint that has left the configuration.
    pub(super) fn forget_endpoint(&self, service: &str, upstream: &str, endpoint: &str) {
        self.healthy.forget(&[
            ("service", service),
            ("upstream", upstream),
            ("endpoint", endpoint),
        ]);
    }

    /// Removes the series of a service that has left the configuration, but not those of its
    /// upstreams.
    pub(super) fn forget_service(&self, service: &str) {
        for family in [&self.rollbacks, &self.rescues, &self.phase] {
            family.forget(&[("service", service)]);
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

mod help {
    pub(super) const REQUEST_LABELS: &[&str] =
        &["listener", "service", "upstream", "method", "code"];
    pub(super) const REQUESTS: &str = "Requests that got a response; without service and upstream \
        labels those that matched no route.";
    pub(super) const FAILURES: &str = "Requests that failed on an upstream: 5xx responses, or the \
        reason why there was no response.";
    pub(super) const ERRORS: &str =
        "Requests that the proxy responded to itself, or whose response it aborted.";
    pub(super) const WEIGHT: &str =
        "Share of the service's requests that the upstream gets, 0 to 1.";
    pub(super) const HEALTHY: &str = "Whether the endpoint is healthy and gets requests.";
    pub(super) const ROLLBACKS: &str =
        "Rollbacks by reason: manual, or the objective in the release's outcome.";
    pub(super) const RESCUES: &str =
        "Requests that failed on a canary and were failed over to the baseline.";
    pub(super) const PHASE: &str = "Whether the service's newest release is in this phase.";
    pub(super) const ROLLBACK: &str = "Time from the decision to roll back until the routing table \
        without the canary is published.";
    pub(super) const RELOAD: &str = "Whether the last configuration reload succeeded.";
    pub(super) const RELOADED: &str = "Time at which the configuration in use was loaded.";
    pub(super) const PENDING: &str = "Changes that are not yet on disk.";
    pub(super) const WEBHOOKS: &str = "Webhook events by delivery result.";
    pub(super) const LATENCY: &str = "Time from the arrival of a request to the end of its \
        response; aborts by the client are left out.";
}

/// Together with 5xx responses, which are counted by class, these are the failures in the windows.
const fn is_fault_of_upstream(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NoHealthyEndpoint
            | Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::ConnectError
            | Reason::FirstByteTimeout
            | Reason::IdleTimeout
            | Reason::TotalTimeout
            | Reason::Reset
            | Reason::UpstreamProtocolError
    )
}

fn register(registry: &Registry, collector: Box<dyn Collector>) {
    if let Err(error) = registry.register(collector) {
        tracing::error!(%error, "a metric cannot be registered");
    }
}

#[expect(
    clippy::expect_used,
    reason = "all names are constants, and each test makes all metrics"
)]
fn register_family(
    registry: &Registry,
    kind: MetricType,
    name: &str,
    help: &str,
    labels: &'static [&'static str],
) -> Family {
    let family = Family::new(Description::new(name, help, kind, labels).expect("a valid name"));
    register(registry, Box::new(family.clone()));
    family
}

#[expect(
    clippy::expect_used,
    reason = "all names are constants, and each test makes all metrics"
)]
fn register_latencies(registry: &Registry) -> LatencyFamily {
    let (name, labels) = ("http_request_duration_seconds", &["service", "upstream"]);
    let described =
        Description::new(name, help::LATENCY, MetricType::HISTOGRAM, labels).expect("a valid name");
    let latencies = LatencyFamily::new(described);
    register(registry, Box::new(latencies.clone()));
    latencies
}

#[expect(
    clippy::expect_used,
    reason = "all names are constants, and each test makes all metrics"
)]
fn register_rollback_duration(registry: &Registry) -> Histogram {
    let options = HistogramOpts::new("weighbridge_rollback_duration_seconds", help::ROLLBACK);
    let histogram = Histogram::with_opts(options.buckets(ROLLBACK_BUCKETS.to_vec()))
        .expect("ascending buckets");
    register(registry, Box::new(histogram.clone()));
    histogram
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
