//! What people read about releases, in lines.

use crate::cli::table::{count, percent};
use crate::cli::terminal::plain;
use crate::model::api::{Phase, Release, SideCounts, TooFewRequests, WaitingFor};

/// Where a release is, in one line.
pub(in crate::cli) fn line(release: &Release) -> String {
    let mut parts = vec![format!("{} {}", release.id, phase(release))];
    if !release.phase.is_over() {
        parts.push(format!("{} at {}", release.canary, percent(release.weight)));
        if let Some(waiting) = &release.waiting_for {
            parts.push(waits(waiting));
        }
    }
    if release.waiting_for.is_none() {
        parts.extend(release.too_few_requests.map(too_few));
    }
    if let Some(outcome) = &release.outcome {
        let by = outcome
            .objective
            .as_deref()
            .map(|objective| format!("{objective}: "));
        parts.push(format!("{}{}", by.unwrap_or_default(), outcome.reason));
    } else if release.canary_requests > 0 {
        parts.push(format!(
            "{} canary requests, users saw {} of its failures",
            count(release.canary_requests),
            count(release.user_visible_failures)
        ));
    }
    plain(&parts.join(", "))
}

/// `progressing, step 2 of 4 (paused)`.
pub(super) fn phase(release: &Release) -> String {
    let name = release.phase.as_str().replace('_', " ");
    let step = match release.phase {
        Phase::Progressing | Phase::Waiting => {
            format!(", step {} of {}", release.step, release.steps.len())
        }
        _ => String::new(),
    };
    let paused = if release.paused && !release.phase.is_over() {
        " (paused)"
    } else {
        ""
    };
    format!("{name}{step}{paused}")
}

/// What is waited for, with its end if it has one.
pub(super) fn waits(waiting: &WaitingFor) -> String {
    // Of a freeze and of a time to begin it is said there already.
    let until = waiting
        .until
        .as_deref()
        .filter(|until| !waiting.detail.contains(until));
    let until = until.map(|until| format!(" until {until}"));
    format!(
        "waits ({}): {}{}",
        waiting.kind,
        waiting.detail,
        until.unwrap_or_default()
    )
}

/// What a step lacks that has had its time.
pub(super) fn too_few(lacks: TooFewRequests) -> String {
    let (canary, least) = (count(lacks.canary), count(lacks.least));
    format!("{canary} of {least} requests of the canary at this step")
}

/// How a release ended, in one line.
pub(super) fn end(release: &Release) -> String {
    let how = match release.phase {
        Phase::Promoted => format!("{} is the new baseline", release.canary),
        Phase::RolledBack => format!("{} was taken out", release.canary),
        _ => format!("all traffic is on {}", release.baseline),
    };
    let saw = match release.user_visible_failures {
        0 => "users saw no failure of the canary".to_owned(),
        1 => "users saw 1 failure of the canary".to_owned(),
        more => format!("users saw {} failures of the canary", count(more)),
    };
    format!("{}: {how}; {saw}", release.id)
}

/// That a step gave no answer, and what can be done about it.
pub(super) fn no_answer(release: &Release) -> String {
    let Release { id, canary, .. } = release;
    let waits = release.waiting_for.as_ref().map(waits).unwrap_or_default();
    let text = format!(
        "{id} {waits}. It is still under way, {canary} at {}: `weighbridge release resume {id}` \
         goes on without an answer, `weighbridge release promote {id}` gives {canary} all \
         traffic, `weighbridge release rollback {id}` takes it out",
        percent(release.weight)
    );
    plain(&text)
}

/// `ln` of an e-value beside its limit.
pub(super) fn of_limit(log_e: f64, limit: f64) -> String {
    format!("{log_e:.2} of {limit:.2}")
}

/// A share of what is counted, with as many digits as a small one needs.
pub(super) fn share(counts: SideCounts, what: &str) -> String {
    let SideCounts { requests, failures } = counts;
    let rate = if requests == 0 {
        0.0
    } else {
        failures as f64 / requests as f64
    };
    let text = crate::cli::table::rate(rate, requests);
    format!("{text} of {} {what}", count(requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once() {
        let waiting = |detail: &str| WaitingFor {
            kind: "freeze".to_owned(),
            detail: detail.to_owned(),
            until: Some("2026-11-30T07:00:00Z".to_owned()),
        };
        let expected = "waits (freeze): frozen until 2026-11-30T07:00:00Z";
        assert_eq!(
            waits(&waiting("frozen until 2026-11-30T07:00:00Z")),
            expected
        );
        assert_eq!(waits(&waiting("frozen")), expected);
    }
}
