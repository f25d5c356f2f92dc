//! Merges the workers' counters into sliding windows and metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::Metrics;
use super::published_views::{Recent, Recents};
use crate::model::{Name, api};
use crate::routing::{self, RoutingTable};
use crate::stats::{Batch, Summary, UpstreamKey, WindowSpan, Windows};
use crate::time::Timestamp;

/// Windows of every upstream in the current table.
#[derive(Debug)]
pub(super) struct Collector {
    metrics: Arc<Metrics>,
    /// Names of the listeners, by the index that workers use.
    listeners: Vec<String>,
    upstreams: HashMap<UpstreamKey, Measurement>,
    endpoints: BTreeSet<(Name, Name, String)>,
    /// Published statistics, for readers on other threads.
    shown: Arc<Recents>,
    /// When counting began.
    since: Option<Timestamp>,
}

/// The longest time after which published statistics of an upstream with traffic are renewed.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Measurement {
    service: Name,
    upstream: Name,
    windows: Windows,
    /// The published copy, for readers on other threads.
    shown: Arc<Recent>,
    shown_at: Timestamp,
    /// Whether requests have arrived since the last statistics event.
    busy: bool,
}

impl Measurement {
    fn show(&mut self, now: Timestamp) {
        self.shown.store(Arc::new(self.windows.clone()));
        self.shown_at = now;
    }
}

impl Collector {
    pub(super) fn new(metrics: Arc<Metrics>, listeners: Vec<String>) -> Collector {
        Collector {
            metrics,
            listeners,
            upstreams: HashMap::new(),
            endpoints: BTreeSet::new(),
            shown: Arc::default(),
            since: None,
        }
    }

    /// The published statistics, for readers on other threads.
    pub(super) fn shown(&self) -> Arc<Recents> {
        Arc::clone(&self.shown)
    }

    /// Follows a new table: keeps windows for its upstreams and drops all others.
    pub(super) fn follow(&mut self, table: &RoutingTable, now: Timestamp) {
        self.since.get_or_insert(now);
        let keys: BTreeSet<_> = table
            .services()
            .flat_map(|s| &s.upstreams)
            .map(|u| u.key)
            .collect();
        let metrics = &self.metrics;
        self.upstreams.retain(|key, gone| {
            let stays = keys.contains(key);
            if !stays {
                metrics.forget_upstream(&gone.service, &gone.upstream);
            }
            stays
        });
        for service in table.services() {
            for upstream in &service.upstreams {
                self.upstreams
                    .entry(upstream.key)
                    .or_insert_with(|| Measurement {
                        service: Name::clone(&service.name),
                        upstream: Name::clone(&upstream.name),
                        windows: Windows::new(now),
                        shown: Arc::new(Recent::from_pointee(Windows::new(now))),
                        shown_at: now,
                        busy: false,
                    });
            }
            self.metrics.expect_rollbacks(&service.name);
            self.show_weights(service);
        }
        let shown = self.upstreams.iter();
        let shown = shown.map(|(key, measured)| (*key, Arc::clone(&measured.shown)));
        self.shown.store(Arc::new(shown.collect()));
        self.follow_endpoints(table);
    }

    fn follow_endpoints(&mut self, table: &RoutingTable) {
        let mut endpoints = BTreeSet::new();
        for upstream in table.services().flat_map(|service| &service.upstreams) {
            for endpoint in &upstream.endpoints {
                let address = endpoint.address.to_string();
                let healthy = upstream.is_healthy(endpoint.key);
                self.metrics
                    .set_healthy(&endpoint.service, &endpoint.upstream, &address, healthy);
                endpoints.insert((
                    Name::clone(&endpoint.service),
                    Name::clone(&endpoint.upstream),
                    address,
                ));
            }
        }
        for (service, upstream, address) in self.endpoints.difference(&endpoints) {
            self.metrics.forget_endpoint(service, upstream, address);
        }
        self.endpoints = endpoints;
    }

    /// Restarts the window "since the last change" after a service's weights have changed.
    pub(super) fn mark_change(&mut self, service: &routing::RoutedService, now: Timestamp) {
        for upstream in &service.upstreams {
            if let Some(measured) = self.upstreams.get_mut(&upstream.key) {
                measured.windows.mark_change(now);
                measured.show(now);
            }
        }
        self.show_weights(service);
    }

    /// Updates the weight metrics from the weights by which requests are now split.
    pub(super) fn show_weights(&self, service: &routing::RoutedService) {
        for (upstream, weight) in service.effective_weights().iter() {
            self.metrics
                .set_weight(&service.name, upstream, weight.fraction());
        }
    }

    /// Adds a worker's counters. Counters of upstreams that are no longer in the table are dropped.
    pub(super) fn collect(&mut self, batch: &Batch, now: Timestamp) {
        for (key, summary) in &batch.summaries {
            if let Some(measured) = self.upstreams.get_mut(key) {
                measured.windows.push(now, summary);
                measured.busy = true;
                if now.since(measured.shown_at) >= SHOWN_EVERY {
                    measured.show(now);
                }
                self.metrics
                    .add_summary(&measured.service, &measured.upstream, summary);
            }
        }
        for (labels, n) in &batch.requests {
            if let Some(upstream) = self.names(labels.upstream) {
                self.metrics
                    .add_requests(self.listener(labels.listener), upstream, *labels, *n);
            }
        }
        for ((listener, upstream, reason), n) in &batch.reasons {
            if let Some(upstream) = self.names(*upstream) {
                let listener = listener.map(|listener| self.listener(listener));
                self.metrics.add_reason(listener, upstream, *reason, *n);
            }
        }
    }

    /// Service and upstream names; `None` if the upstream has been removed.
    fn names(&self, upstream: Option<UpstreamKey>) -> Option<Option<(&str, &str)>> {
        let Some(key) = upstream else {
            return Some(None);
        };
        let measured = self.upstreams.get(&key)?;
        Some(Some((&measured.service, &measured.upstream)))
    }

    fn listener(&self, position: u16) -> &str {
        self.listeners
            .get(usize::from(position))
            .map_or("", String::as_str)
    }

    /// The 99th percentile of an upstream's latency over the last five minutes, in microseconds;
    /// `None` without requests.
    pub(super) fn p99_us(&self, upstream: UpstreamKey, now: Timestamp) -> Option<u64> {
        let summary = self.recent(upstream, WindowSpan::FiveMinutes, now)?;
        (!summary.total().is_empty()).then(|| summary.total().value_at_quantile(0.99))
    }

    /// An upstream's requests and failures within a span.
    pub(super) fn counts(
        &self,
        upstream: UpstreamKey,
        span: WindowSpan,
        now: Timestamp,
    ) -> (u64, u64) {
        let summary = self.recent(upstream, span, now);
        summary.map_or((0, 0), |summary| (summary.requests(), summary.failures()))
    }

    /// An upstream's last five minutes: latencies of successful requests in microseconds, and the
    /// number of failures.
    pub(super) fn past(&self, upstream: UpstreamKey, now: Timestamp) -> (Vec<(u64, u64)>, u64) {
        let Some(summary) = self.recent(upstream, WindowSpan::FiveMinutes, now) else {
            return (Vec::new(), 0);
        };
        let recorded = summary.total().iter_recorded();
        let latencies = recorded.map(|step| (step.value_iterated_to(), step.count_at_value()));
        (latencies.collect(), summary.failures())
    }

    /// How long counting has lasted.
    pub(super) fn age(&self, now: Timestamp) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.since(since))
    }

    fn recent(&self, upstream: UpstreamKey, span: WindowSpan, now: Timestamp) -> Option<Summary> {
        let mut summary = Summary::new();
        self.upstreams
            .get(&upstream)?
            .windows
            .add_to(now, span, &mut summary);
        Some(summary)
    }

    /// The last ten seconds of each service that has had requests since the last call.
    pub(super) fn statistics(&mut self, now: Timestamp) -> Vec<api::EventKind> {
        let busy: BTreeSet<Name> = self
            .upstreams
            .values()
            .filter(|m| m.busy)
            .map(|m| Name::clone(&m.service))
            .collect();
        let mut services: BTreeMap<Name, BTreeMap<String, api::Window>> = BTreeMap::new();
        for measured in self
            .upstreams
            .values_mut()
            .filter(|m| busy.contains(&m.service))
        {
            measured.busy = false;
            measured.show(now);
            let mut recent = Summary::new();
            measured
                .windows
                .add_to(now, WindowSpan::TenSeconds, &mut recent);
            let upstreams = services.entry(Name::clone(&measured.service)).or_default();
            upstreams.insert(measured.upstream.to_string(), recent.window());
        }
        let event = |(service, upstreams): (Name, _)| api::EventKind::Statistics {
            service: service.to_string(),
            upstreams,
        };
        services.into_iter().map(event).collect()
    }
}
