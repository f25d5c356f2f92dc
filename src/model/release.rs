//! Release resources of the admin API.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::api::Percentages;

/// The phase of a release.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not started: it waits for its schedule, an approval or the end of a freeze window.
    Pending,
    /// Preflight checks of the canary are running, before it gets user traffic.
    Preflight,
    /// A step is in progress.
    Progressing,
    /// A step was passed or is inconclusive, and the release waits (see `waiting_for`).
    Waiting,
    /// The canary has all traffic, and its final bake is in progress.
    Baking,
    /// The canary is the new baseline.
    Promoted,
    /// The canary was rolled back; the release has ended.
    RolledBack,
    /// Cancelled without a verdict; all weight is on the baseline.
    Cancelled,
}

impl Phase {
    /// All phases, in the order in which a release can pass them.
    pub const ALL: [Phase; 8] = [
        Phase::Pending,
        Phase::Preflight,
        Phase::Progressing,
        Phase::Waiting,
        Phase::Baking,
        Phase::Promoted,
        Phase::RolledBack,
        Phase::Cancelled,
    ];

    /// Its name in the API, in metrics and in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "pending",
            Phase::Preflight => "preflight",
            Phase::Progressing => "progressing",
            Phase::Waiting => "waiting",
            Phase::Baking => "baking",
            Phase::Promoted => "promoted",
            Phase::RolledBack => "rolled_back",
            Phase::Cancelled => "cancelled",
        }
    }

    /// Whether the release has ended.
    pub const fn is_over(self) -> bool {
        matches!(self, Phase::Promoted | Phase::RolledBack | Phase::Cancelled)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The current state of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Its ID: the service's name and a number that grows by one with each of its releases,
    /// such as `shop-12`.
    pub id: String,
    /// The service.
    pub service: String,
    /// The upstream that has the traffic at the start.
    pub baseline: String,
    /// The upstream that is being released.
    pub canary: String,
    /// Its phase.
    pub phase: Phase,
    /// Whether it is paused. It can still be rolled back automatically.
    pub paused: bool,
    /// Whether an admin has overridden freeze windows; absent if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub override_freeze: bool,
    /// The current step, counted from 1; 0 before the first.
    pub step: usize,
    /// The weights of all steps, in percent.
    pub steps: Vec<f64>,
    /// The current weight of the canary, in percent.
    pub weight: f64,
    /// When it was started (RFC 3339).
    pub started_at: String,
    /// When the current step or phase started (RFC 3339).
    pub phase_since: String,
    /// When it ended; `null` while it is running.
    #[serde(default)]
    pub ended_at: Option<String>,
    /// The reason given at the start, or `null`.
    #[serde(default)]
    pub reason: Option<String>,
    /// The reference to the change given at the start, or `null`.
    #[serde(default)]
    pub change: Option<String>,
    /// The build of the canary, as given at the start; `null` if none was. A second try at the
    /// same build has less chance of error.
    #[serde(default)]
    pub version: Option<String>,
    /// The actor that started it.
    pub actor: String,
    /// What the release waits for, or `null`.
    #[serde(default)]
    pub waiting_for: Option<WaitingFor>,
    /// What the step still lacks of its least number of requests, once its least time is over;
    /// `null` when nothing is.
    #[serde(default)]
    pub too_few_requests: Option<TooFewRequests>,
    /// Approvals so far, of the gate that is next or was last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// The outcome; `null` while it is running.
    #[serde(default)]
    pub outcome: Option<ReleaseOutcome>,
    /// The budget of failures that users see.
    pub budget: BudgetStatus,
    /// The budget of all failures of the canary, rescued ones included.
    #[serde(default)]
    pub rescued_budget: BudgetStatus,
    /// Failures of the canary that users saw.
    pub user_visible_failures: u64,
    /// Failures of the canary that were rescued by the baseline.
    pub rescued: u64,
    /// Requests that clients aborted, by arm.
    #[serde(default)]
    pub aborts: Aborts,
    /// Requests assigned to the canary.
    pub canary_requests: u64,
    /// Requests assigned to the baseline in the same time.
    pub baseline_requests: u64,
    /// `ln` of the combined evidence against the canary.
    pub log_e: f64,
    /// The limit of `log_e`, at which the release is rolled back: `ln(1/alpha)`.
    pub log_limit: f64,
    /// Each objective with its evidence.
    #[schema(value_type = Vec<Object>)]
    pub objectives: Vec<Value>,
    /// Whether its state is stored, so that a restart continues from here.
    pub durable: bool,
}

/// Requests that clients aborted, by arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Aborts {
    /// The baseline's.
    pub baseline: u64,
    /// The canary's.
    pub canary: u64,
    /// The baseline's, as a share of its requests, 0 to 1.
    pub baseline_share: f64,
    /// The canary's, as a share of its requests, 0 to 1.
    pub canary_share: f64,
}

/// What a release waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingFor {
    /// `schedule`, `freeze`, `gate`, `resume`, or why the judge wants a person to look:
    /// `inconclusive`, `too_little_traffic`, `split`, `slo`, `aborts`, `canary_full`,
    /// `baseline_down`; `unfinished` while requests of the canary without an answer keep a
    /// step from its end.
    pub kind: String,
    /// Description, with the name of the gate, the window or the time.
    pub detail: String,
    /// When the wait ends automatically, if it does (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// A step that has had its time, and of whose requests there are too few to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TooFewRequests {
    /// Requests of the canary at this step, about.
    pub canary: u64,
    /// Those that the plan wants at least.
    pub least: u64,
}

/// One approval of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    /// The gate.
    pub gate: String,
    /// The actor: the name of the token.
    pub by: String,
    /// When (RFC 3339).
    pub at: String,
    /// The reason, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The outcome of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseOutcome {
    /// `promoted`, `rolled_back` or `cancelled`.
    pub verdict: String,
    /// What decided: `error_rate`, `latency`, `slo`, `budget`, `health`, `preflight`,
    /// `inconclusive`, `operator`; absent for a promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// Description with the numbers.
    pub reason: String,
}

/// The budget of a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetStatus {
    /// The most failures that users may see beyond what the baseline's rate and chance explain.
    pub limit: u64,
    /// Failures spent so far.
    pub spent: u64,
    /// Further failures until the release is rolled back.
    pub allowance: u64,
}

/// A page of releases, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseList {
    /// The releases.
    pub releases: Vec<Release>,
}

/// The start of a release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseStart {
    /// The upstream to release.
    pub canary: String,
    /// The reason, for the journal. Required to override the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
    /// Reference to the change: a ticket, a commit or a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub change: Option<String>,
    /// Version or build of the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub version: Option<String>,
    /// The plan: what it names replaces the same fields of the service's `release` block. Gates,
    /// freeze windows and the preflight of that block may be added to; to weaken them needs a
    /// reason, and the role `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub plan: Option<Map<String, Value>>,
    /// Start time (RFC 3339); by default now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<String>,
    /// Ignore freeze windows. Needs a reason and the role `admin`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub override_freeze: bool,
}

/// Parameters of a release command. The body is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseCommand {
    /// The reason, for the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
    /// `approve`: the gate; by default the one that the release waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// `resume`, `promote`: ignore freeze windows. Needs a reason and the role `admin`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub override_freeze: bool,
}

/// The response to a release command: the release after it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseChange {
    /// The weights of the service after the change.
    pub weights: Percentages,
    /// The revision of the service after the change.
    pub revision: u64,
    /// The release after the change. Its `durable` says whether the change survives a restart.
    #[serde(flatten)]
    pub release: Release,
}

/// The forecast of a plan: duration, detection times and worst case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Forecast {
    /// The service.
    pub service: String,
    /// Requests per second of the service now, over the last minute.
    pub requests_per_second: f64,
    /// The baseline's share of failures, 0 to 1, over the last five minutes.
    pub baseline_error_rate: f64,
    /// `user` where errors of the service are judged by users and not by requests, since it is
    /// sticky: what is counted below then are users, and times are absent, since how many new
    /// ones come is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Each step of the plan.
    pub steps: Vec<StepForecast>,
    /// Failures that users can see at most: the budget, what chance explains, and what can be in
    /// flight.
    pub worst_case: WorstCase,
    /// The effective plan.
    #[schema(value_type = Object)]
    pub plan: Value,
    /// Warnings: too little traffic for a step, an active freeze window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One step of a forecast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepForecast {
    /// The canary's weight in percent.
    pub weight: f64,
    /// Requests per second that the canary would get.
    pub canary_requests_per_second: f64,
    /// Canary requests until the step can be passed by a good canary; absent if that can never be
    /// shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_to_advance: Option<u64>,
    /// Seconds for them, and at least the step's own time; absent without traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_to_advance: Option<f64>,
    /// Detection times for several failure rates.
    pub detections: Vec<Detection>,
}

/// The time until a failure rate is detected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Detection {
    /// The canary's share of failures, 0 to 1.
    pub error_rate: f64,
    /// Canary requests until detection; absent if the objectives allow this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Seconds for them; absent without traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// The most failures that users can see in one release, beyond what the baseline's rate explains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorstCase {
    /// The budget.
    pub budget: u64,
    /// The budget of all failures of the canary, those that the baseline answered instead
    /// included.
    #[serde(default)]
    pub rescued_budget: u64,
    /// What chance explains on top of it at the start (`u` in the budget rule). A request that is
    /// open on the baseline counts among what the baseline's rate explains until it has ended.
    pub chance: u64,
    /// Requests that can be on the canary at the moment of the rollback.
    pub in_flight: u64,
    /// The smaller budget, chance and what is in flight together.
    pub total: u64,
    /// The most failures of the canary, whether or not users see them: `rescued_budget`, chance
    /// and what is in flight.
    #[serde(default)]
    pub failures: u64,
}

/// A plan to be looked at before anything is started. The body may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The plan: what it names replaces the same fields of the service's `release` block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub plan: Option<Map<String, Value>>,
}
