//! Shows releases as text or as received from the API.

use super::format;
use crate::cli::args::Format;
use crate::cli::exit::{Exit, Failure};
use crate::cli::status::in_words;
use crate::cli::table::{Table, count, percent, rate};
use crate::cli::terminal::{Terminal, paint};
use crate::client::ApiResponse;
use crate::model::api;

/// Shows one release.
pub(super) fn status(
    answer: &ApiResponse<api::Release>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    match terminal.format() {
        Format::Json => terminal.print_json(&answer.json)?,
        Format::Text => terminal.print(&detail(&answer.value, terminal.colored()))?,
    }
    Ok(Exit::Done)
}

/// Shows a release after a command.
pub(super) fn change(
    answer: &ApiResponse<api::ReleaseChange>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let (release, weights) = (&answer.value.release, &answer.value.weights);
    match terminal.format() {
        Format::Json => terminal.print_json(&answer.json)?,
        Format::Text => terminal.print(&format!("{}\n", format::line(release)))?,
    }
    let (service, revision) = (&release.service, answer.value.revision);
    terminal.say(&format!(
        "{service} is at revision {revision}: {}",
        in_words(weights)
    ));
    if !release.durable {
        terminal.warn("the change is in effect but not stored: a restart would not start with it");
    }
    Ok(Exit::Done)
}

/// Lists the releases of a service.
pub(super) fn history(
    answer: &ApiResponse<api::ReleaseList>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    match terminal.format() {
        Format::Json => terminal.print_json(&answer.json)?,
        Format::Text => {
            let mut table = Table::new(&[
                "RELEASE",
                "CANARY",
                "VERSION",
                "PHASE",
                "STARTED",
                "BY",
                ">FAILURES",
                "OUTCOME",
            ]);
            for release in &answer.value.releases {
                let outcome = release.outcome.as_ref();
                table.row([
                    release.id.clone(),
                    release.canary.clone(),
                    release.version.clone().unwrap_or_else(|| "-".to_owned()),
                    format::phase(release),
                    release.started_at.clone(),
                    release.actor.clone(),
                    count(release.user_visible_failures),
                    outcome
                        .map(|outcome| outcome.reason.clone())
                        .unwrap_or_default(),
                ]);
            }
            terminal.print(&table.text())?;
            terminal.say("(FAILURES counts failures of the canary that users saw)");
        }
    }
    Ok(Exit::Done)
}

/// The rescued budget and the aborts of clients, if the server reports them.
fn all_failures(release: &api::Release) -> Vec<String> {
    let mut lines = Vec::new();
    let all = &release.rescued_budget;
    if all.limit > 0 || all.spent > 0 {
        lines.push(format!(
            "          {} of {} of all failures, rescued or not; {} more roll it back",
            all.spent, all.limit, all.allowance
        ));
    }
    let aborts = &release.aborts;
    if aborts.baseline > 0 || aborts.canary > 0 {
        lines.push(format!(
            "Aborts    clients aborted {} requests of the canary ({}), {} of the baseline ({})",
            count(aborts.canary),
            rate(aborts.canary_share, 1),
            count(aborts.baseline),
            rate(aborts.baseline_share, 1)
        ));
    }
    lines
}

/// Identity, phase, outcome and approvals of a release.
fn phase_lines(release: &api::Release, colored: bool) -> Vec<String> {
    let mut lines = vec![
        format!("Release   {}", paint(&release.id, "1", colored)),
        format!(
            "Service   {}: {} to {}",
            release.service, release.baseline, release.canary
        ),
        format!(
            "Phase     {}, since {}",
            format::phase(release),
            release.phase_since
        ),
    ];
    if let Some(outcome) = &release.outcome {
        let by = outcome
            .objective
            .as_deref()
            .map(|objective| format!("{objective}: "));
        lines.push(format!(
            "Outcome   {}{}",
            by.unwrap_or_default(),
            outcome.reason
        ));
    }
    if let Some(waiting) = &release.waiting_for {
        lines.push(paint(
            &format!("Waiting   {}", format::waits(waiting)),
            "33",
            colored,
        ));
    }
    for approval in &release.approvals {
        lines.push(format!(
            "Approved  {} by {} at {}",
            approval.gate, approval.by, approval.at
        ));
    }
    lines
}

fn detail(release: &api::Release, colored: bool) -> String {
    let mut lines = phase_lines(release, colored);
    let steps: Vec<String> = release.steps.iter().map(f64::to_string).collect();
    let budget = &release.budget;
    lines.push(format!(
        "Weight    {} (steps {} %)",
        percent(release.weight),
        steps.join(", ")
    ));
    lines.push(format!(
        "Requests  canary {}, baseline {}",
        count(release.canary_requests),
        count(release.baseline_requests)
    ));
    lines.push(format!(
        "Failures  users saw {} of the canary; the baseline rescued {}",
        count(release.user_visible_failures),
        count(release.rescued)
    ));
    lines.push(format!(
        "Budget    {} of {} spent; {} more roll it back",
        budget.spent, budget.limit, budget.allowance
    ));
    lines.extend(all_failures(release));
    lines.push(format!(
        "Evidence  {} (ln e against the canary)",
        format::of_limit(release.log_e, release.log_limit)
    ));
    lines.push(format!(
        "Started   {} by {}",
        release.started_at, release.actor
    ));
    let ended = release.ended_at.as_ref();
    let given = [
        ("Ended", ended),
        ("Build", release.version.as_ref()),
        ("Change", release.change.as_ref()),
        ("Reason", release.reason.as_ref()),
    ];
    for (name, value) in given {
        lines.extend(value.map(|value| format!("{name:<9} {value}")));
    }
    if !release.durable {
        lines.push(paint(
            "          not stored: a restart would not continue from here",
            "33",
            colored,
        ));
    }
    lines.join("\n") + "\n"
}
