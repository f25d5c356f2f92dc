//! The evidence bundle: everything that a release was decided by, in one document that can be kept.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::release::Release;

/// What a release did, saw and was decided by: of one under way, as far as it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvidenceBundle {
    /// The release.
    pub release: Release,
    /// What happened, oldest first.
    pub timeline: Vec<TimelineEntry>,
    /// The canary's weight over time: milliseconds since the start, and percent from then on.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub weights: Vec<(u64, f64)>,
    /// The statistics over time, thinned out evenly to some hundred points.
    pub path: Vec<PathPoint>,
    /// Routes and statuses of failures, on both sides.
    #[serde(default)]
    pub routes: Vec<FailingRoute>,
    /// Single exchanges of both sides, redacted.
    #[serde(default)]
    pub samples: Samples,
    /// The judge's own evidence, from which the e-values can be computed again.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub judge: Value,
    /// The plan as it was carried out.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub plan: Value,
    /// What a reader has to know, such as that something is missing.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One thing that happened to a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimelineEntry {
    /// When (RFC 3339).
    pub at: String,
    /// Milliseconds since the start.
    pub elapsed_ms: u64,
    /// What, as the journal calls it: `release_started`, `release_advanced` and so on.
    pub action: String,
    /// Who.
    pub actor: String,
    /// In words.
    pub detail: String,
    /// The canary's weight after it, in percent.
    pub weight: f64,
}

/// The statistics at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PathPoint {
    /// Milliseconds since the start.
    pub elapsed_ms: u64,
    /// The step, counted from 1.
    pub step: usize,
    /// The canary's weight in percent.
    pub weight: f64,
    /// `ln` of the combined evidence against the canary.
    pub log_e: f64,
    /// From here on the release is rolled back.
    pub log_limit: f64,
    /// Each objective.
    pub objectives: Vec<PathObjective>,
}

/// One objective at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PathObjective {
    /// Its name, as an outcome's `objective` says it.
    pub name: String,
    /// `ln` of the evidence against the canary.
    pub log_e: f64,
    /// `ln` of the evidence, at this step, that the canary is good enough; absent without such a test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advance_log_e: Option<f64>,
    /// The limit for that.
    pub advance_limit: f64,
    /// What the canary did.
    pub canary: SideCounts,
    /// What the baseline did meanwhile.
    pub baseline: SideCounts,
}

/// Requests of one side, and those that failed the objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SideCounts {
    /// Requests.
    pub requests: u64,
    /// Those that failed it.
    pub failures: u64,
}

/// Failures with one status on one route of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailingRoute {
    /// `canary` or `baseline`.
    pub side: String,
    /// The route, as text for people, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The status, or what came in its place, such as `connect_error`.
    pub status: String,
    /// How many.
    pub count: u64,
}

/// Single exchanges of both sides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Samples {
    /// Of the canary.
    #[serde(default)]
    pub canary: Vec<Sample>,
    /// Of the baseline.
    #[serde(default)]
    pub baseline: Vec<Sample>,
}

/// One exchange, without bodies and without values of headers that could be secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// When it ended (RFC 3339).
    pub at: String,
    /// The method.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The status; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it counts as failed, if it does: `5xx`, `connect_error`, `timeout` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From its arrival to the end of its answer.
    pub latency_us: u64,
    /// Its identity, as in the access log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Headers of the answer, with what could be secret replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Vec<String>>)]
    pub headers: Vec<(String, String)>,
}
