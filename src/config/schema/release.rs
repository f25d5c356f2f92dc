//! The shapes of a service's `release` block and of `webhooks`.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::{Count, Duration, EVENTS, Event, Rate, Share, StepWeight, Text};

/// The release plan. The `plan` of a start replaces single fields.
#[derive(Default, JsonSchema)]
#[schemars(rename = "Release", default, deny_unknown_fields)]
pub(super) struct ReleaseBlock {
    /// Increasing weights of the canary; 100 is appended if missing.
    #[schemars(length(max = 100), extend("default" = [1, 5, 25, 50, 100]))]
    steps: Vec<Step>,
    /// Objectives, at most 16; a violation rolls the canary back.
    #[schemars(
        length(max = 16),
        extend("default" = [
            { "error_rate": { "ratio": 1.1, "worse_by": "0.05pp" } },
            { "latency": { "worse_by": "5%", "at_least": "1ms" } },
        ])
    )]
    objectives: Vec<Objective>,
    /// Failures that users may see in the whole release, beyond the baseline's own rate.
    #[schemars(extend("default" = 20))]
    budget: Count<0, 1_000_000_000>,
    /// Failures of the canary beyond the baseline's rate in the whole release, whether or not
    /// users see them; those that the baseline answered instead count too. 0 allows none.
    #[schemars(extend("default" = 100))]
    rescued_budget: Count<0, 1_000_000_000>,
    /// The tolerated harm, as a share of all requests; the margins for going on come from it.
    #[schemars(extend("default" = "0.1pp"))]
    harm_budget: Share,
    /// The chance that a release with equal versions is rolled back.
    #[schemars(extend("default" = 0.001))]
    alpha: Rate,
    /// The chance that a step is passed by a canary that does the tolerated harm.
    #[schemars(extend("default" = 0.05))]
    beta: Rate,
    /// The least time at each step.
    #[schemars(extend("default" = "10s"))]
    bake: Duration,
    /// The least time at 100 percent, before the canary is the baseline; by default as `bake`.
    #[schemars(extend("default" = "10s"))]
    final_bake: Duration,
    /// The least requests on the canary at each step.
    #[schemars(extend("default" = 100))]
    min_requests: Count<0, 1_000_000_000>,
    /// The longest time at a step without an answer; `0s`: as long as it takes.
    #[schemars(extend("default" = "0s"))]
    max_duration: Duration,
    /// What is done after that.
    #[schemars(extend("default" = "hold"))]
    inconclusive: Inconclusive,
    /// Rolls back on errors only from so many failures of the canary on.
    #[schemars(extend("default" = 5))]
    min_canary_failures: Count<0, 1_000_000_000>,
    /// The same in distinct clients; 0 asks for none.
    #[schemars(extend("default" = 0))]
    min_distinct_clients: Count<0, 1_000_000_000>,
    /// Requests on the canary at one time; further ones go to the baseline.
    #[schemars(extend("default" = 256))]
    canary_in_flight_max: Count<1, 1_000_000>,
    /// Which requests that fail on the canary the baseline answers instead.
    #[schemars(extend("default" = "safe"))]
    rescue: Rescue,
    /// What the canary is asked before the first user; by default a TCP connection to each of its
    /// endpoints.
    preflight: Preflight,
    /// An approval that is asked for before the first step.
    gate: Gate,
    /// Times in which a release neither starts nor goes on: `Fri 17:00 - Mon 08:00 Europe/Berlin`,
    /// `22:00 - 06:00`, or `2026-12-24 00:00 - 2027-01-02 08:00 Europe/Berlin`. They never
    /// delay a rollback.
    #[schemars(length(max = 100), extend("default" = []))]
    freeze: Vec<String>,
    /// Where a release begins that follows a promotion soon; by default at the first step.
    fast_follow: FastFollow,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Step {
    /// The canary's weight in percent; everything else as the plan has it.
    Short(StepWeight),
    /// A step with conditions of its own.
    Long(LongStep),
}

/// A step with conditions of its own.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct LongStep {
    /// The canary's weight in percent.
    weight: StepWeight,
    /// The least time, if more than `bake`.
    #[schemars(default)]
    hold: Duration,
    /// An approval that is asked for before the release leaves this step.
    #[schemars(default)]
    gate: Gate,
    /// The least requests on the canary.
    #[schemars(default)]
    min_requests: Count<0, 1_000_000_000>,
    /// The longest time without an answer.
    #[schemars(default)]
    max_duration: Duration,
    /// What is done after that.
    #[schemars(default)]
    inconclusive: Inconclusive,
}

#[derive(Default, JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Inconclusive {
    /// A person is waited for.
    #[default]
    Hold,
    /// The release goes on.
    Advance,
    /// The release goes on if nothing speaks for harm.
    AdvanceIfNoHarm,
    /// The canary is rolled back.
    RollBack,
    /// The same as `roll_back`.
    Abort,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Objective {
    /// Fails no more often than the baseline at the same time, with a margin.
    ErrorRate(ErrorRate),
    /// Is no slower than the baseline at the same time, over the whole distribution, with a margin.
    Latency(Latency),
    /// Stays within a fixed limit.
    Slo(Slo),
}

/// `canary <= ratio * baseline + worse_by`.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct ErrorRate {
    /// Times the baseline's rate.
    #[schemars(extend("default" = 1.1))]
    ratio: Rate,
    /// And so much more, in percentage points.
    #[schemars(extend("default" = "0.05pp"))]
    worse_by: Share,
}

/// Slower by more than both of these is harm.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Latency {
    /// A share of the baseline's latency.
    #[schemars(extend("default" = "5%"))]
    worse_by: Share,
    /// An absolute amount.
    #[schemars(extend("default" = "1ms"))]
    at_least: Duration,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Slo {
    /// At most this share of requests fails.
    ErrorRate(SloErrorRate),
    /// This quantile of latency is below this time.
    Latency(SloLatency),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct SloErrorRate {
    /// The limit.
    below: Share,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct SloLatency {
    /// The quantile, such as 0.99.
    quantile: Share,
    /// The limit.
    below: Duration,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Rescue {
    /// None, or those whose method is safe.
    Word(RescueWord),
    /// Those too that carry this header.
    Header(RescueHeader),
}

impl Default for Rescue {
    fn default() -> Self {
        Rescue::Word(RescueWord::Safe)
    }
}

#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum RescueWord {
    Off,
    Safe,
}

/// Those too that carry a header by which their sender says that they may be repeated.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct RescueHeader {
    /// The header's name.
    header: Text,
}

/// Requests to each endpoint of the canary. One that fails ends the release before it has begun.
#[derive(Default, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
struct Preflight {
    /// What is asked, in this order.
    #[schemars(length(max = 32), extend("default" = []))]
    requests: Vec<Smoke>,
    /// The longest time for all of it.
    #[schemars(extend("default" = "30s"))]
    timeout: Duration,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Smoke {
    /// A path.
    Path(String),
    /// A request.
    Request(SmokeRequest),
}

/// A request of the preflight.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct SmokeRequest {
    /// Its path, with a query if there is one.
    path: Text,
    /// Its method.
    #[schemars(default, extend("default" = "GET"))]
    method: Text,
    /// Its headers besides those that are always there.
    #[schemars(default, extend("default" = {}))]
    headers: BTreeMap<String, String>,
    /// The status, or statuses, that are good answers.
    #[schemars(default, extend("default" = "200-399"))]
    expect: Statuses,
    /// The longest time to the end of its answer.
    #[schemars(default, extend("default" = "5s"))]
    timeout: Duration,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Statuses {
    /// One status.
    One(Count<100, 599>),
    /// `200-399`.
    Range(String),
}

impl Default for Statuses {
    fn default() -> Self {
        Statuses::Range(String::new())
    }
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Gate {
    /// Its name; one approval by anybody who may approve.
    Name(String),
    /// A named approval.
    Full(FullGate),
}

impl Default for Gate {
    fn default() -> Self {
        Gate::Name(String::new())
    }
}

/// A named approval. The admin API needs tokens, or nobody could give it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct FullGate {
    /// What it is approved by; no other gate of the plan has it.
    name: Text,
    /// How many must approve; from 2 on, who started the release is not one of them.
    #[schemars(default, extend("default" = 1))]
    approvals: Count<1, 100>,
    /// Who may: names of tokens with the role `approve` or `admin`. By default all of these.
    #[schemars(default, extend("default" = []))]
    by: Vec<String>,
    /// After this time an approval no longer counts; by default it is kept.
    #[schemars(default)]
    expires: Duration,
}

/// Where a release begins that follows a promotion soon.
#[derive(Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct FastFollow {
    /// The longest time since the last promotion.
    within: Duration,
    /// The first step, counted from 1.
    from_step: Count<1, 100>,
}

/// A receiver of release events.
#[derive(JsonSchema)]
#[schemars(rename = "Webhook", deny_unknown_fields)]
pub(super) struct WebhookBlock {
    /// Where events are posted to.
    url: Text,
    /// What is posted: the event as JSON, or a message for a channel.
    #[schemars(default, extend("default" = "json"))]
    format: WebhookFormat,
    /// Which events; by default all of these.
    #[schemars(default, length(min = 1, max = 12), extend("default" = EVENTS))]
    events: Vec<Event>,
    /// The key by which a receiver can tell that an event comes from here (HMAC-SHA-256).
    #[schemars(default)]
    secret: Text,
    /// A file with the key, in place of `secret`.
    #[schemars(default)]
    secret_file: Text,
    /// For one attempt; at most a minute.
    #[schemars(default, extend("default" = "5s"))]
    timeout: Duration,
    /// Attempts for one event, the first included.
    #[schemars(default, extend("default" = 5))]
    attempts: Count<1, 20>,
}

#[derive(Default, JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum WebhookFormat {
    #[default]
    Json,
    Slack,
}
