//! The resources of the admin API, shared by server and clients.
//!
//! Names of fields are a contract. Weights are percent, rates are fractions from 0 to 1, latencies
//! are microseconds, times are RFC 3339 in UTC.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use super::evidence::{
    EvidenceBundle, FailingRoute, PathObjective, PathPoint, Sample, Samples, SideCounts,
    TimelineEntry,
};
pub use super::release::{
    Aborts, Approval, BudgetStatus, Detection, Forecast, Phase, PlanRequest, Release,
    ReleaseChange, ReleaseCommand, ReleaseList, ReleaseOutcome, ReleaseStart, StepForecast,
    TooFewRequests, WaitingFor, WorstCase,
};

/// Upstream to weight in percent.
pub type Percentages = BTreeMap<String, f64>;

/// The current state of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The revision of its weights; grows by one with each accepted change, and is the ETag.
    pub revision: u64,
    /// The upstream that last held 100 percent, to which a rollback returns.
    pub baseline: String,
    /// The baseline before this one, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_baseline: Option<String>,
    /// How traffic is split.
    pub weights: WeightsStatus,
    /// The ID of the running release, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Its routes as text: host, path prefix, methods and headers.
    pub routes: Vec<String>,
    /// Its upstreams by name.
    pub upstreams: BTreeMap<String, Upstream>,
}

/// The weights of a service: intended and effective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WeightsStatus {
    /// The weights set last.
    pub intended: Percentages,
    /// The weights of the current routing table.
    pub effective: Percentages,
    /// Since when the effective weights apply (RFC 3339).
    pub since: String,
    /// The reason given with the change that led here, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether these weights are stored, so that a restart starts with them.
    pub durable: bool,
}

/// One upstream of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Upstream {
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Statistics over `10s`, `1m`, `5m` and `since_change` (of the service's weights).
    pub windows: BTreeMap<String, Window>,
}

/// One endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Its address.
    pub address: String,
    /// Whether requests are sent to it.
    pub healthy: bool,
    /// Requests in flight.
    pub in_flight: u64,
}

/// Statistics of the requests that finished within a span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Window {
    /// Requests that finished.
    pub requests: u64,
    /// Those that count as failures: 5xx, connect errors, timeouts, resets, protocol errors.
    pub failures: u64,
    /// Failures by request, 0 to 1; 0 without requests.
    pub error_rate: f64,
    /// Requests by outcome class: `2xx`, `connect_error`, `client_abort` and so on; absent
    /// means none.
    pub classes: BTreeMap<String, u64>,
    /// Time from the request's arrival to the end of its response; without client aborts.
    pub latency_us: Latency,
    /// Time from the request's arrival to the first byte of its response.
    pub first_byte_us: Latency,
}

/// Percentiles of a latency in microseconds; 0 when nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
}

/// The list of all services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceList {
    /// In the order of their names.
    pub services: Vec<Service>,
}

/// The weights of a service, with the ETag for a PUT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WeightsResource {
    /// The service's revision.
    pub revision: u64,
    /// The weights set last.
    pub weights: Percentages,
    /// The weights of the current routing table.
    pub effective: Percentages,
    /// Since when the effective weights apply (RFC 3339).
    pub since: String,
}

/// A change of weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightsUpdate {
    /// New weights in percent, at most two decimals; an upstream that is left out gets 0; they
    /// must sum to 100.
    #[serde(deserialize_with = "unique_percentages")]
    pub weights: Percentages,
    /// The reason, for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
}

/// A manual rollback. The body is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The reason, for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
}

/// The response to a change: the service after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WeightsChange {
    /// Whether the change survives a restart. Only a change towards the baseline is ever made
    /// without.
    pub durable: bool,
    /// The service after the change.
    #[serde(flatten)]
    pub service: Service,
}

/// The longest reason that is accepted, in characters.
pub const REASON_LENGTH_MAX: usize = 1000;

/// One accepted change, in the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Grows by one with each entry.
    pub sequence: u64,
    /// When (RFC 3339).
    pub at: String,
    /// The actor: the name of the token, or `anonymous` where the API is open.
    pub actor: String,
    /// The action: `weights`, `rollback`, `reload`, `release_started`, `release_advanced` and so
    /// on.
    pub action: String,
    /// The service, if the entry concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The reason, as given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The state before; `null` when there was none.
    #[schema(value_type = Option<Object>)]
    pub before: serde_json::Value,
    /// The state after; `null` when there is none.
    #[schema(value_type = Option<Object>)]
    pub after: serde_json::Value,
    /// SHA-256 over the previous entry's hash and this entry, in hexadecimal.
    pub hash: String,
}

/// The result of verifying the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditVerdict {
    /// Whether the journal is intact.
    pub whole: bool,
    /// The number of entries.
    pub entries: u64,
    /// The hash of the last one; absent without entries. Kept elsewhere, it shows later whether
    /// the journal up to here was rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    /// The first invalid entry; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<AuditFinding>,
}

/// The first invalid entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditFinding {
    /// Its number.
    pub sequence: u64,
    /// The problem.
    pub kind: AuditFindingKind,
    /// Description, with the check that failed.
    pub detail: String,
}

/// The problem of a journal entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditFindingKind {
    /// It does not match the previous entry: it was altered or is out of order.
    Altered,
    /// It is missing.
    Missing,
    /// It follows from the entry before it, but its hash is not the one that was recorded: it was
    /// rewritten with entries before it.
    Rewritten,
    /// It follows the recorded last entry, or no last entry is recorded.
    Unrecorded,
}

/// A page of the journal, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Pass this as `before` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// One event of the live stream. Its `id` is the stream's `id:` line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows by one with each event since the proxy started.
    pub id: u64,
    /// When (RFC 3339).
    pub at: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The content of an event; the field `type` names it, and so does the stream's `event:` line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// The weights of a service changed.
    Weights {
        /// The service.
        service: String,
        /// Its new revision.
        revision: u64,
        /// The weights in effect.
        weights: Percentages,
        /// The actor.
        actor: String,
        /// The reason, as given.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// `weights` or `rollback`.
        action: String,
    },
    /// An endpoint became healthy or unhealthy.
    Health {
        /// The service.
        service: String,
        /// The upstream.
        upstream: String,
        /// The endpoint's address.
        endpoint: String,
        /// Its new state.
        healthy: bool,
        /// The result of the last check.
        detail: String,
    },
    /// The configuration was reloaded or rejected.
    Reload {
        /// Whether the new configuration is in effect.
        ok: bool,
        /// The changes, or the problems.
        detail: String,
    },
    /// A release started, advanced, stopped or ended.
    Release {
        /// The release after it.
        release: Box<Release>,
        /// The action, as in the journal: `release_started`, `release_advanced`,
        /// `release_rolled_back` and so on.
        action: String,
        /// The actor.
        actor: String,
    },
    /// The verdict on a release, at most once a second while it changes.
    Verdict {
        /// The service.
        service: String,
        /// The ID of the release.
        release_id: String,
        /// `continue`, `advance`, `hold` or `roll_back`.
        verdict: String,
        /// `ln` of the combined evidence against the canary.
        log_e: f64,
        /// The limit of `log_e`, at which the release is rolled back.
        log_limit: f64,
    },
    /// Statistics of a service, once a second while it has traffic.
    Statistics {
        /// The service.
        service: String,
        /// Upstream to its last ten seconds.
        upstreams: BTreeMap<String, Window>,
    },
}

impl EventKind {
    /// The value of the field `type`.
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::Weights { .. } => "weights",
            EventKind::Health { .. } => "health",
            EventKind::Reload { .. } => "reload",
            EventKind::Release { .. } => "release",
            EventKind::Verdict { .. } => "verdict",
            EventKind::Statistics { .. } => "statistics",
        }
    }

    /// The service, if the event concerns one.
    pub fn service(&self) -> Option<&str> {
        match self {
            EventKind::Weights { service, .. }
            | EventKind::Health { service, .. }
            | EventKind::Verdict { service, .. }
            | EventKind::Statistics { service, .. } => Some(service),
            EventKind::Release { release, .. } => Some(&release.service),
            EventKind::Reload { .. } => None,
        }
    }
}

/// An error of the admin API (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URI that names the kind of problem: `/problems/` and a word.
    #[serde(rename = "type")]
    pub kind: String,
    /// The title of this kind of problem.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This occurrence, and what to do.
    pub detail: String,
    /// The request ID, as in the log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Invalid fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
}

/// An invalid field of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FieldProblem {
    /// JSON pointer to the field, for example `/weights/green`.
    pub pointer: String,
    /// The problem.
    pub detail: String,
}

/// Reads percentages and rejects duplicate names, which JSON parsers handle differently.
fn unique_percentages<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Percentages, D::Error> {
    deserializer.deserialize_map(UniquePercentages)
}

struct UniquePercentages;

impl<'de> Visitor<'de> for UniquePercentages {
    type Value = Percentages;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of upstreams and their percentages")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Percentages, A::Error> {
        let mut all = Percentages::new();
        while let Some(name) = map.next_key::<String>()? {
            // Refused while its value is read, so that the error's path ends with the name.
            let is_new = !all.contains_key(&name);
            let percentage = map.next_value_seed(Percentage { is_new })?;
            all.insert(name, percentage);
        }
        Ok(all)
    }
}

struct Percentage {
    is_new: bool,
}

impl<'de> DeserializeSeed<'de> for Percentage {
    type Value = f64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<f64, D::Error> {
        if !self.is_new {
            return Err(D::Error::custom("the upstream is given twice"));
        }
        deserializer.deserialize_f64(self)
    }
}

impl Visitor<'_> for Percentage {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a percentage as a number, such as 5 or 2.5")
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<f64, E> {
        let small = u32::try_from(value)
            .map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))?;
        Ok(f64::from(small))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<f64, E> {
        let small =
            i32::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))?;
        Ok(f64::from(small))
    }
}
