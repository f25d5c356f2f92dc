//! The evidence bundle: everything that a release was decided by, in one document that can be kept.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::redact;
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
    /// `ln` of the evidence, at this step, that the canary is good enough; absent without such a
    /// test.
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
    /// The method and the first two segments of the path, if they are known; `*` stands for
    /// segments that could be an id or a secret.
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

/// One exchange, without bodies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// When it ended (RFC 3339).
    pub at: String,
    /// The method.
    pub method: String,
    /// The path, without its query; `*` stands for segments that could be an id or a secret.
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
    /// Headers of the answer: those that are known to hold no secrets, and of `Location` neither
    /// userinfo nor query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Vec<String>>)]
    pub headers: Vec<(String, String)>,
}

impl EvidenceBundle {
    /// The same without what is not kept any more: a bundle that an older version wrote may hold
    /// it.
    #[must_use]
    pub fn redacted(mut self) -> EvidenceBundle {
        for sample in self
            .samples
            .canary
            .iter_mut()
            .chain(&mut self.samples.baseline)
        {
            sample.method = redact::method(&sample.method).to_owned();
            sample.path = redact::path(&sample.path);
            let shown = std::mem::take(&mut sample.headers).into_iter();
            let shown =
                shown.filter_map(|(name, value)| Some((redact::field(&name, &value)?, name)));
            sample.headers = shown.map(|(value, name)| (name, value)).collect();
        }
        for route in self
            .routes
            .iter_mut()
            .filter_map(|failing| failing.route.as_mut())
        {
            if let Some((method, path)) = route.split_once(' ') {
                *route = format!("{} {}", redact::method(method), redact::group(path));
            }
        }
        if let Some(Value::Array(requests)) = self.plan.pointer_mut("/preflight/requests") {
            requests.iter_mut().for_each(hide_request);
        }
        self
    }
}

/// Values of the fields and the query of a preflight's request.
fn hide_request(request: &mut Value) {
    if let Some(Value::Object(headers)) = request.get_mut("headers") {
        headers
            .values_mut()
            .for_each(|value| *value = Value::from("*"));
    }
    if let Some(Value::String(path)) = request.get_mut("path")
        && let Some((before, _)) = path.split_once('?')
    {
        *path = format!("{before}?*");
    }
}
