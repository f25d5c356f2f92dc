//! Page of an evidence bundle: first the outcome and its reason, then the figures, then their
//! sources.

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
    weight_and_evidence(&mut html, bundle);
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
    html.text(format_args!("{}: {}", release.id, phase_text(release)));
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

fn phase_text(release: &Release) -> String {
    release.phase.as_str().replace('_', " ")
}

fn verdict(html: &mut Html, release: &Release) {
    // The phase is one of a closed set; its name is a class of the style sheet.
    html.mark("<p class=\"verdict ")
        .mark(release.phase.as_str())
        .mark("\"><strong>");
    html.text(phase_text(release)).mark("</strong>");
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
            "User-visible failures",
            Some(release.user_visible_failures.to_string()),
        ),
        ("Rescued by the baseline", Some(release.rescued.to_string())),
        ("Failure budget", Some(budget)),
        ("Failure budget including rescued requests", Some(all)),
        ("Client aborts", Some(aborts)),
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

fn weight_and_evidence(html: &mut Html, bundle: &EvidenceBundle) {
    html.mark("<h2>Weight and evidence over time</h2>\n");
    chart::draw(html, bundle);
    html.mark(
        "<p class=\"soft\">The evidence is the wealth of a bet that the canary is worse; its \
         expectation does not grow while the canary is not worse. ",
    );
    html.mark(
        "At the limit the release is rolled back. The limit bounds the probability that a good \
         canary is ever ",
    );
    html.text(format_args!(
        "rolled back at {:.3} %, however often it is checked.",
        (-bundle.release.log_limit).exp() * 100.0
    ));
    html.mark("</p>\n");
}

fn objectives(html: &mut Html, bundle: &EvidenceBundle) {
    html.mark("<h2>Objectives</h2>\n");
    let points = last_of_each_step(&bundle.path);
    if points.is_empty() {
        html.mark("<p>No measurements.</p>\n");
        return;
    }
    html.mark(
        "<p class=\"soft\">At the end of each step. ln e is the evidence, shown with its \
         limit.</p>\n<div class=\"wide\">",
    );
    html.table([
        "Step",
        "Objective",
        "Canary",
        "Baseline",
        "ln e against the canary",
        "evidence for advancing",
    ]);
    for point in points {
        for objective in &point.objectives {
            let advance = objective.advance_log_e.map_or_else(
                || "not tested".to_owned(),
                |log_e| format!("{log_e:.2} of {:.2}", objective.advance_limit),
            );
            html.row([
                &format_args!("{} ({} %)", point.step, point.weight),
                &objective.name,
                &share(objective.canary.failures, objective.canary.requests),
                &share(objective.baseline.failures, objective.baseline.requests),
                &format_args!("{:.2} of {:.2}", objective.log_e, point.log_limit),
                &advance,
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

/// Estimates of the judge, if any. Evidence of another version cannot be parsed and is shown only
/// as JSON below.
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
                "Error rate of the canary beyond the objective: {:.3} percentage points, \
                 anytime-valid confidence interval {:.3} to {:.3}.",
                estimate * 100.0,
                interval.lower * 100.0,
                interval.upper * 100.0
            ));
            html.mark("</p>\n");
        }
    }
    html.element(
        "p",
        format_args!("Anytime-valid p-value: {:.2e}.", evidence.p_value),
    );
}

fn timeline(html: &mut Html, bundle: &EvidenceBundle) {
    html.mark("<h2>Timeline</h2>\n<div class=\"wide\">");
    html.table(["Time", "Elapsed", "Action", "Actor", "Weight", "Detail"]);
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
        html.mark("<p>No failures.</p>\n");
        return;
    }
    html.mark("<div class=\"wide\">");
    html.table(["Arm", "Route", "Status", "Failures"]);
    for route in &bundle.routes {
        let name = route.route.as_deref().unwrap_or("(unknown)");
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
        html.mark("<p>No samples.</p>\n");
        return;
    }
    html.mark("<div class=\"wide\">");
    html.table([
        "Arm",
        "Time",
        "Request",
        "Response",
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
        ("Plan", &bundle.plan),
        ("Evidence of the judge", &bundle.judge),
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
    html.mark("<p class=\"soft\">As JSON: ");
    html.text(format_args!(
        "GET /api/v1/releases/{}/evidence?format=json",
        bundle.release.id
    ));
    html.mark("</p>\n");
}
