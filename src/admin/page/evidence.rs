//! The page of an evidence bundle: first how it ended and why, then the numbers, then what they
//! were made from.

use serde_json::Value;

use super::format::{latency, share, span};
use super::html::Html;
use super::{STYLE, chart};
use crate::analysis::{Behind, Evidence};
use crate::model::api::{BudgetStatus, EvidenceBundle, PathPoint, Release, Sample};

/// The whole page.
pub(super) fn page(bundle: &EvidenceBundle) -> String {
    let mut html = Html::default();
    head(&mut html, &bundle.release);
    verdict(&mut html, &bundle.release);
    facts(&mut html, bundle);
    notes(&mut html, &bundle.notes);
    way(&mut html, bundle);
    objectives(&mut html, bundle);
    timeline(&mut html, bundle);
    routes(&mut html, bundle);
    samples(&mut html, bundle);
    sources(&mut html, bundle);
    html.mark("</body>\n</html>\n");
    html.finish()
}

fn head(html: &mut Html, release: &Release) {
    html.mark("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.mark("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
    html.text(format_args!("{}: {}", release.id, in_words(release)));
    html.mark("</title>\n<style>")
        .mark(STYLE)
        .mark("</style>\n</head>\n<body>\n");
    html.element("h1", format_args!("Release {}", release.id));
    html.mark("<p class=\"soft\">");
    html.text(format_args!(
        "{} of {}: {} to {}",
        release.canary, release.service, release.baseline, release.canary
    ));
    html.mark("</p>\n");
}

fn in_words(release: &Release) -> String {
    release.phase.as_str().replace('_', " ")
}

fn verdict(html: &mut Html, release: &Release) {
    // The phase is one of a closed set; its name is a class of the style sheet.
    html.mark("<p class=\"verdict ")
        .mark(release.phase.as_str())
        .mark("\"><strong>");
    html.text(in_words(release)).mark("</strong>");
    if let Some(outcome) = &release.outcome {
        if let Some(objective) = &outcome.objective {
            html.text(format_args!(" by {}", objective.replace('_', " ")));
        }
        html.text(format_args!(": {}", outcome.reason));
    } else if let Some(waiting) = &release.waiting_for {
        html.text(format_args!(
            ", waiting for {}: {}",
            waiting.kind, waiting.detail
        ));
    }
    html.mark("</p>\n");
}

fn facts(html: &mut Html, bundle: &EvidenceBundle) {
    let release = &bundle.release;
    html.mark("<dl>\n");
    let spent = |budget: &BudgetStatus| format!("{} of {} spent", budget.spent, budget.limit);
    let (budget, all) = (spent(&release.budget), spent(&release.rescued_budget));
    let aborts = format!(
        "{} of the canary, {} of the baseline",
        release.aborts.canary, release.aborts.baseline
    );
    for (name, value) in [
        ("Build", release.version.clone()),
        ("Change", release.change.clone()),
        ("Reason", release.reason.clone()),
        ("Started by", Some(release.actor.clone())),
        ("Started", Some(release.started_at.clone())),
        ("Ended", release.ended_at.clone()),
        ("Steps", Some(steps(&release.steps))),
        (
            "Failures that users saw",
            Some(release.user_visible_failures.to_string()),
        ),
        (
            "Answered by the baseline instead",
            Some(release.rescued.to_string()),
        ),
        ("Budget of failures", Some(budget)),
        (
            "Budget of all failures, answered by the baseline or not",
            Some(all),
        ),
        ("Requests that clients gave up", Some(aborts)),
        (
            "Requests to the canary",
            Some(release.canary_requests.to_string()),
        ),
        (
            "Requests to the baseline",
            Some(release.baseline_requests.to_string()),
        ),
    ] {
        if let Some(value) = value {
            html.element("dt", name).element("dd", value).mark("\n");
        }
    }
    html.mark("</dl>\n");
}

fn steps(weights: &[f64]) -> String {
    let texts: Vec<String> = weights.iter().map(f64::to_string).collect();
    format!("{} %", texts.join(", "))
}

fn notes(html: &mut Html, notes: &[String]) {
    for note in notes {
        html.mark("<p><strong>Note:</strong> ")
            .text(note)
            .mark("</p>\n");
    }
}

fn way(html: &mut Html, bundle: &EvidenceBundle) {
    html.mark("<h2>The way</h2>\n");
    chart::draw(html, bundle);
    html.mark(
        "<p class=\"soft\">The evidence is a bet that the canary is worse; it cannot grow on \
         average while it is not. ",
    );
    html.mark(
        "Where it reaches the limit, the canary is taken out. The limit keeps the chance of a \
         good canary ever being ",
    );
    html.text(format_args!(
        "taken out at {:.3} % or less, however often it is looked at.",
        (-bundle.release.log_limit).exp() * 100.0
    ));
    html.mark("</p>\n");
}

fn objectives(html: &mut Html, bundle: &EvidenceBundle) {
    html.mark("<h2>Objectives</h2>\n");
    let points = last_of_each_step(&bundle.path);
    if points.is_empty() {
        html.mark("<p>Nothing was measured.</p>\n");
        return;
    }
    html.mark(
        "<p class=\"soft\">As each step ended. ln e is the evidence; beside it its \
         limit.</p>\n<div class=\"wide\">",
    );
    html.table([
        "Step",
        "Objective",
        "Canary",
        "Baseline",
        "ln e against it",
        "ln e for going on",
    ]);
    for point in points {
        for objective in &point.objectives {
            let on = objective.advance_log_e.map_or_else(
                || "not tested".to_owned(),
                |log_e| format!("{log_e:.2} of {:.2}", objective.advance_limit),
            );
            html.row([
                &format_args!("{} ({} %)", point.step, point.weight),
                &objective.name,
                &share(objective.canary.failures, objective.canary.requests),
                &share(objective.baseline.failures, objective.baseline.requests),
                &format_args!("{:.2} of {:.2}", objective.log_e, point.log_limit),
                &on,
            ]);
        }
    }
    html.mark("</table></div>\n");
    estimates(html, &bundle.judge);
}

fn last_of_each_step(path: &[PathPoint]) -> Vec<&PathPoint> {
    let mut points: Vec<&PathPoint> = Vec::new();
    for point in path {
        match points.last_mut() {
            Some(last) if last.step == point.step => *last = point,
            _ => points.push(point),
        }
    }
    points
}

/// What the judge estimates, where it does; its evidence may be of another version, and then stands
/// below as it is.
fn estimates(html: &mut Html, judge: &Value) {
    let Ok(evidence) = serde_json::from_value::<Evidence>(judge.clone()) else {
        return;
    };
    for objective in &evidence.objectives {
        if let Behind::ErrorRate {
            estimate: Some(estimate),
            confidence: Some(interval),
            ..
        } = &objective.counts
        {
            html.mark("<p>");
            html.text(format_args!(
                "Errors of the canary beyond those that the objective allows: {:.3} percentage \
                 points, and at all times within {:.3} to {:.3}.",
                estimate * 100.0,
                interval.lower * 100.0,
                interval.upper * 100.0
            ));
            html.mark("</p>\n");
        }
    }
    html.element(
        "p",
        format_args!(
            "The p-value, valid at any time, is {:.2e}.",
            evidence.p_value
        ),
    );
}

fn timeline(html: &mut Html, bundle: &EvidenceBundle) {
    html.mark("<h2>Timeline</h2>\n<div class=\"wide\">");
    html.table(["Time", "After", "What", "Who", "Weight", "In words"]);
    for entry in &bundle.timeline {
        html.row([
            &entry.at,
            &span(entry.elapsed_ms),
            &entry.action.replace('_', " "),
            &entry.actor,
            &format_args!("{} %", entry.weight),
            &entry.detail,
        ]);
    }
    html.mark("</table></div>\n");
}

fn routes(html: &mut Html, bundle: &EvidenceBundle) {
    html.mark("<h2>Failures by route and status</h2>\n");
    if bundle.routes.is_empty() {
        html.mark("<p>There were none.</p>\n");
        return;
    }
    html.mark("<div class=\"wide\">");
    html.table(["Side", "Route", "Status", "Failures"]);
    for route in &bundle.routes {
        let name = route.route.as_deref().unwrap_or("(not known)");
        html.row([&route.side, &name, &route.status, &route.count]);
    }
    html.mark("</table></div>\n");
}

fn samples(html: &mut Html, bundle: &EvidenceBundle) {
    html.mark("<h2>Sample exchanges</h2>\n");
    let sides = [
        ("Canary", &bundle.samples.canary),
        ("Baseline", &bundle.samples.baseline),
    ];
    if sides.iter().all(|(_, samples)| samples.is_empty()) {
        html.mark("<p>There are none.</p>\n");
        return;
    }
    html.mark("<div class=\"wide\">");
    html.table([
        "Side",
        "Time",
        "Request",
        "Answer",
        "Latency",
        "Request id",
        "Headers",
    ]);
    for (side, samples) in sides {
        for sample in samples {
            html.row([
                &side,
                &sample.at,
                &format_args!("{} {}", sample.method, sample.path),
                &answer(sample),
                &latency(sample.latency_us),
                &sample.request_id.as_deref().unwrap_or("-"),
                &headers(sample),
            ]);
        }
    }
    html.mark("</table></div>\n");
}

fn answer(sample: &Sample) -> String {
    match (sample.status, &sample.reason) {
        (Some(status), Some(reason)) => format!("{status} ({reason})"),
        (Some(status), None) => status.to_string(),
        (None, Some(reason)) => reason.clone(),
        (None, None) => "none".to_owned(),
    }
}

fn headers(sample: &Sample) -> String {
    let lines: Vec<String> = sample
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    lines.join("\n")
}

fn sources(html: &mut Html, bundle: &EvidenceBundle) {
    for (name, value) in [
        ("The plan", &bundle.plan),
        ("The judge's evidence", &bundle.judge),
    ] {
        if value.is_null() {
            continue;
        }
        html.mark("<details>\n<summary>")
            .text(name)
            .mark("</summary>\n<pre>");
        html.text(format_args!("{value:#}"))
            .mark("</pre>\n</details>\n");
    }
    html.mark("<p class=\"soft\">The same as JSON: ");
    html.text(format_args!(
        "GET /api/v1/releases/{}/evidence?format=json",
        bundle.release.id
    ));
    html.mark("</p>\n");
}
