//! Why a release is where it is, in words, from what the API says of it.

use serde::Deserialize;
use serde_json::Value;

use super::forecast::time;
use super::format;
use crate::cli::table::{count, percent};
use crate::model::api::{Phase, Release, Service, SideCounts};

/// The windows of statistics are asked for the rate at which the canary gets requests.
const RATE_WINDOW: (&str, f64) = ("10s", 10.0);

const PAUSED: &str =
    "It goes on after `weighbridge release resume`; it is still rolled back if it has to be.";

/// An objective with its evidence, as far as it is told here. What is absent is not known yet.
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
    /// What is counted of it.
    fn counted(&self) -> &'static str {
        if self.unit.is_some() {
            "users"
        } else {
            "requests"
        }
    }

    /// Whether it lets the canary go on at this step; `None` if it has no say in that.
    fn has_shown_enough(&self) -> Option<bool> {
        match (self.advance_log_e, self.advance_limit) {
            (Some(log_e), Some(limit)) => Some(log_e >= limit && !self.slower_lately),
            _ => self.insufficient.then_some(false),
        }
    }
}

/// The whole explanation.
pub(super) fn text(release: &Release, service: &Service) -> String {
    let mut paragraphs = vec![place(release)];
    paragraphs.extend(cause(release));
    let objectives = objectives(release);
    paragraphs.extend(deciders(release, &objectives));
    let lacks = release.too_few_requests.map(format::too_few);
    paragraphs.extend(
        lacks.map(|lacks| format!("The step has had its time and lacks traffic: {lacks}.")),
    );
    let rate = canary_rate(release, service);
    paragraphs.extend(
        objectives
            .iter()
            .map(|objective| about(objective, release, rate)),
    );
    paragraphs.push(budget(release));
    paragraphs.join("\n\n") + "\n"
}

fn place(release: &Release) -> String {
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

/// How it ended, or what it waits for.
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
            "schedule" | "freeze" => "It goes on by itself when that has passed.",
            "gate" => "`weighbridge release approve` gives it a voice.",
            "resume" => PAUSED,
            _ => {
                "It goes on by itself if the evidence comes; `weighbridge release resume` goes on \
                 without it."
            }
        };
        return Some(format!("It {}. {then}", format::waits(waiting)));
    }
    release.paused.then(|| format!("It was paused. {PAUSED}"))
}

/// What is not understood is left out: a newer proxy may say more.
fn objectives(release: &Release) -> Vec<Objective> {
    let each = release.objectives.iter();
    each.filter_map(|objective| serde_json::from_value(objective.clone()).ok())
        .collect()
}

/// Whether the canary has all traffic, so that there is nobody to compare it with and nothing more
/// to go on to.
fn is_at_full_weight(release: &Release) -> bool {
    release.weight >= 100.0
}

/// Which objectives hold the release where it is.
fn deciders(release: &Release, objectives: &[Objective]) -> Option<String> {
    if !matches!(
        release.phase,
        Phase::Progressing | Phase::Waiting | Phase::Baking
    ) {
        return None;
    }
    if is_at_full_weight(release) {
        return Some(
            "With all traffic on the canary there is nothing left to compare it with: only the \
             step's own time, its least number of requests, a gate and the fixed limits count now."
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
            "Every objective has shown at this step that the canary is good enough; what is left \
             is the step's own time, its least number of requests, a gate or a freeze window."
                .to_owned(),
        ),
        Some((last, [])) => Some(still_needs(last)),
        Some((last, others)) => Some(still_needs(&format!("{} and {last}", others.join(", ")))),
    }
}

fn still_needs(what: &str) -> String {
    format!("What it still needs is evidence that the canary is good enough in {what}.")
}

fn about(objective: &Objective, release: &Release, rate: Option<f64>) -> String {
    let mut lines = vec![in_words(objective) + &margins(objective)];
    if objective.insufficient {
        lines.push("  The baseline has not been seen often enough to say anything yet.".to_owned());
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
            "  Beyond the allowed ratio: {:+.3} percentage points, surely within {:+.3} and \
             {:+.3}.",
            estimate * 100.0,
            interval.lower * 100.0,
            interval.upper * 100.0
        ));
    }
    let limit = objective.log_limit.unwrap_or(release.log_limit);
    lines.push(format!(
        "  Against the canary: ln e = {}; at the limit it is taken out.",
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
            "which is enough, but the canary was slower than is allowed in the last seconds, and \
             before it is given everything that has to pass"
                .to_owned()
        }
        _ if log_e >= limit => "which is enough".to_owned(),
        None => format!("more {} are needed", objective.counted()),
        Some(requests) => {
            // How many new users come is not known.
            let rate = rate.filter(|_| objective.unit.is_none());
            let lasts = rate.map(|rate| {
                format!(
                    ", which takes {} at the present rate",
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
        "  For going on: ln e = {}; {further}.",
        format::of_limit(log_e, limit)
    ))
}

/// What is counted of an objective: failures, and of a limit on latency the answers that come
/// later.
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

/// `99 % of answers within 300ms`, or `less than 2 % failures`.
fn fixed_limit(limit: &Value) -> Option<String> {
    if let Some(below) = limit.pointer("/error_rate/below") {
        return Some(format!("less than {} failures", share(below)?));
    }
    let (quantile, below) = (
        limit.pointer("/latency/quantile")?,
        limit.pointer("/latency/below")?,
    );
    Some(format!(
        "{} of answers within {}",
        share(quantile)?,
        below.as_str()?
    ))
}

/// A fraction from 0 to 1 in percent, without the digits that binary fractions add.
fn share(fraction: &Value) -> Option<String> {
    Some(percent((fraction.as_f64()? * 1e8).round() / 1e6))
}

/// ` (ratio 1.1, worse_by 0.0005)`. A fixed limit has them in its name.
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

/// Requests per second that the canary gets; `None` when it gets none.
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
            "; {} more, beyond what the baseline's rate and chance explain, would take the canary \
             out at once",
            count(budget.allowance)
        )
    };
    format!(
        "Users saw {} failures of the canary, the baseline answered {} instead. The budget is \
         {}{left}.",
        count(release.user_visible_failures),
        count(release.rescued),
        count(budget.limit)
    ) + &of_all(release)
}

/// What is known of all failures, if the server tells of them.
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
