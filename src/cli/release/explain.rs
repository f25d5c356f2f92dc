//! Explains the state of a release in sentences, from its API resource.

use serde::Deserialize;
use serde_json::Value;

use super::forecast::time;
use super::format;
use crate::cli::table::{count, percent};
use crate::model::api::{Phase, Release, Service, SideCounts};

/// The statistics window for the canary's request rate, and its length in seconds.
const RATE_WINDOW: (&str, f64) = ("10s", 10.0);

const PAUSED: &str =
    "`weighbridge release resume` continues it; it can still be rolled back automatically.";

/// An objective with its evidence; absent fields are not known yet.
#[derive(Debug, Deserialize)]
struct Objective {
    objective: String,
    #[serde(default)]
    margins: Value,
    log_e: f64,
    #[serde(default)]
    log_limit: Option<f64>,
    #[serde(default)]
    advance_log_e: Option<f64>,
    #[serde(default)]
    advance_limit: Option<f64>,
    #[serde(default)]
    canary: SideCounts,
    #[serde(default)]
    baseline: SideCounts,
    #[serde(default)]
    estimate: Option<f64>,
    #[serde(default)]
    confidence: Option<Interval>,
    #[serde(default)]
    requests_to_advance: Option<u64>,
    /// `user` where errors are judged by users.
    #[serde(default)]
    unit: Option<String>,
    #[serde(default)]
    insufficient: bool,
    #[serde(default)]
    slower_lately: bool,
}

#[derive(Debug, Deserialize)]
struct Interval {
    lower: f64,
    upper: f64,
}

impl Objective {
    /// The unit that is counted.
    fn counted(&self) -> &'static str {
        if self.unit.is_some() {
            "users"
        } else {
            "requests"
        }
    }

    /// Whether it allows the canary to advance from this step; `None` if it does not decide that.
    fn has_shown_enough(&self) -> Option<bool> {
        match (self.advance_log_e, self.advance_limit) {
            (Some(log_e), Some(limit)) => Some(log_e >= limit && !self.slower_lately),
            _ => self.insufficient.then_some(false),
        }
    }
}

/// The whole explanation.
pub(super) fn text(release: &Release, service: &Service) -> String {
    let mut paragraphs = vec![state(release)];
    paragraphs.extend(cause(release));
    let objectives = objectives(release);
    paragraphs.extend(deciders(release, &objectives));
    let lacks = release.too_few_requests.map(format::too_few);
    paragraphs
        .extend(lacks.map(|lacks| {
            format!("The hold of the step is over, but traffic is too low: {lacks}.")
        }));
    let rate = canary_rate(release, service);
    paragraphs.extend(
        objectives
            .iter()
            .map(|objective| about(objective, release, rate)),
    );
    paragraphs.push(budget(release));
    paragraphs.join("\n\n") + "\n"
}

fn state(release: &Release) -> String {
    let weight = match release.phase {
        Phase::Promoted => format!(
            "{} has all traffic and is the new baseline.",
            release.canary
        ),
        Phase::RolledBack | Phase::Cancelled => format!("{} has all traffic.", release.baseline),
        _ => format!(
            "{} has {} % of the traffic, {} the rest.",
            release.canary, release.weight, release.baseline
        ),
    };
    format!(
        "{} of {} is {}, since {}. {weight}",
        release.id,
        release.service,
        format::phase(release),
        release.phase_since
    )
}

/// The outcome, or what the release waits for.
fn cause(release: &Release) -> Option<String> {
    if let Some(outcome) = &release.outcome {
        let by = outcome
            .objective
            .as_deref()
            .map(|by| format!(" by {}", by.replace('_', " ")));
        return Some(format!(
            "Decided{}: {}.",
            by.unwrap_or_default(),
            outcome.reason
        ));
    }
    if let Some(waiting) = &release.waiting_for {
        let then = match waiting.kind.as_str() {
            "schedule" | "freeze" => "It continues automatically after that.",
            "gate" => "`weighbridge release approve` approves it.",
            "resume" => PAUSED,
            _ => {
                "It continues automatically once there is enough evidence; `weighbridge release \
                 resume` continues without it."
            }
        };
        return Some(format!("It {}. {then}", format::waits(waiting)));
    }
    release.paused.then(|| format!("It was paused. {PAUSED}"))
}

/// The objectives; unknown ones, from a newer proxy, are left out.
fn objectives(release: &Release) -> Vec<Objective> {
    let each = release.objectives.iter();
    each.filter_map(|objective| serde_json::from_value(objective.clone()).ok())
        .collect()
}

/// Whether the canary has all traffic: there is no concurrent baseline and no further step.
fn is_at_full_weight(release: &Release) -> bool {
    release.weight >= 100.0
}

/// The objectives that hold the release at its step.
fn deciders(release: &Release, objectives: &[Objective]) -> Option<String> {
    if !matches!(
        release.phase,
        Phase::Progressing | Phase::Waiting | Phase::Baking
    ) {
        return None;
    }
    if is_at_full_weight(release) {
        return Some(
            "At 100 % there is no concurrent baseline: only the hold of the step, its minimum \
             number of requests, failures compared with the baseline's past, a gate and the fixed \
             limits count now."
                .to_owned(),
        );
    }
    let tested: Vec<&Objective> = objectives
        .iter()
        .filter(|objective| objective.has_shown_enough().is_some())
        .collect();
    let missing: Vec<String> = tested
        .iter()
        .filter(|objective| objective.has_shown_enough() == Some(false))
        .map(|objective| in_words(objective))
        .collect();
    match missing.split_last() {
        _ if tested.is_empty() => None,
        None => Some(
            "Every objective has enough evidence to advance from this step; what remains is the \
             hold of the step, its minimum number of requests, a gate or a freeze window."
                .to_owned(),
        ),
        Some((last, [])) => Some(still_needs(last)),
        Some((last, others)) => Some(still_needs(&format!("{} and {last}", others.join(", ")))),
    }
}

fn still_needs(what: &str) -> String {
    format!("It still needs evidence that the canary is good enough in {what}.")
}

fn about(objective: &Objective, release: &Release, rate: Option<f64>) -> String {
    let mut lines = vec![in_words(objective) + &margins(objective)];
    if objective.insufficient {
        lines.push("  The baseline has too few requests for a statement yet.".to_owned());
        return lines.join("\n");
    }
    if objective.objective != "latency" {
        lines.push(format!(
            "  {}: {} on the canary, {} on the baseline.",
            bad(objective),
            format::share(objective.canary, objective.counted()),
            format::share(objective.baseline, objective.counted())
        ));
    }
    if let (Some(estimate), Some(interval)) = (objective.estimate, &objective.confidence) {
        lines.push(format!(
            "  Above the allowed ratio: {:+.3} percentage points, confidence interval {:+.3} to \
             {:+.3}.",
            estimate * 100.0,
            interval.lower * 100.0,
            interval.upper * 100.0
        ));
    }
    let limit = objective.log_limit.unwrap_or(release.log_limit);
    lines.push(format!(
        "  Evidence against the canary: ln e = {}; at the limit it is rolled back.",
        format::of_limit(objective.log_e, limit)
    ));
    if !release.phase.is_over() && !is_at_full_weight(release) {
        lines.extend(going_on(objective, rate));
    }
    lines.join("\n")
}

fn going_on(objective: &Objective, rate: Option<f64>) -> Option<String> {
    let (log_e, limit) = (objective.advance_log_e?, objective.advance_limit?);
    let further = match objective.requests_to_advance {
        _ if log_e >= limit && objective.slower_lately => {
            "which is enough, but in the last seconds the canary was slower than allowed, which \
             has to end before it gets all traffic"
                .to_owned()
        }
        _ if log_e >= limit => "which is enough".to_owned(),
        None => format!("more {} are needed", objective.counted()),
        Some(requests) => {
            // The rate of new users is unknown.
            let rate = rate.filter(|_| objective.unit.is_none());
            let lasts = rate.map(|rate| {
                format!(
                    ", which takes {} at the current rate",
                    time(requests as f64 / rate)
                )
            });
            format!(
                "about {} more canary {} are needed{}",
                count(requests),
                objective.counted(),
                lasts.unwrap_or_default()
            )
        }
    };
    Some(format!(
        "  Evidence for advancing: ln e = {}; {further}.",
        format::of_limit(log_e, limit)
    ))
}

/// The label of the bad events: failures, or slow responses for a latency limit.
fn bad(objective: &Objective) -> &'static str {
    match objective.margins.get("latency") {
        Some(_) => "Slow",
        None => "Failures",
    }
}

fn in_words(objective: &Objective) -> String {
    match objective.objective.as_str() {
        "slo" => fixed_limit(&objective.margins).unwrap_or_else(|| "the fixed limit".to_owned()),
        other => other.replace('_', " "),
    }
}

/// `99 % of responses within 300ms`, or `less than 2 % failures`.
fn fixed_limit(limit: &Value) -> Option<String> {
    if let Some(below) = limit.pointer("/error_rate/below") {
        return Some(format!("less than {} failures", share(below)?));
    }
    let (quantile, below) = (
        limit.pointer("/latency/quantile")?,
        limit.pointer("/latency/below")?,
    );
    Some(format!(
        "{} of responses within {}",
        share(quantile)?,
        below.as_str()?
    ))
}

/// Formats a fraction from 0 to 1 in percent, rounded to hide binary fractions.
fn share(fraction: &Value) -> Option<String> {
    Some(percent((fraction.as_f64()? * 1e8).round() / 1e6))
}

/// ` (ratio 1.1, worse_by 0.0005)`; empty for a fixed limit, whose name has them.
fn margins(objective: &Objective) -> String {
    let fields = objective
        .margins
        .as_object()
        .filter(|fields| !fields.is_empty());
    let Some(fields) = fields.filter(|_| objective.objective != "slo") else {
        return String::new();
    };
    let texts: Vec<String> = fields
        .iter()
        .map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name} {text}"),
            None => format!("{name} {value}"),
        })
        .collect();
    format!(" ({})", texts.join(", "))
}

/// Requests per second of the canary; `None` without any.
fn canary_rate(release: &Release, service: &Service) -> Option<f64> {
    let window = service
        .upstreams
        .get(&release.canary)?
        .windows
        .get(RATE_WINDOW.0)?;
    (window.requests > 0).then(|| window.requests as f64 / RATE_WINDOW.1)
}

fn budget(release: &Release) -> String {
    let budget = &release.budget;
    let left = if release.phase.is_over() {
        String::new()
    } else {
        format!(
            "; {} more than the baseline's rate and chance explain roll the canary back at once",
            count(budget.allowance)
        )
    };
    format!(
        "Users saw {} failures of the canary; the baseline rescued {}. The budget is {}{left}.",
        count(release.user_visible_failures),
        count(release.rescued),
        count(budget.limit)
    ) + &of_all(release)
}

/// The rescued budget, if the server reports it.
fn of_all(release: &Release) -> String {
    let all = &release.rescued_budget;
    if all.limit == 0 && all.spent == 0 {
        return String::new();
    }
    format!(
        " Rescued or not, {} requests of the canary failed; the rescued_budget is {}.",
        count(all.spent),
        count(all.limit)
    )
}
