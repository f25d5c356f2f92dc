//! Formats releases as lines of text.

use crate::cli::table::{count, percent};
use crate::cli::terminal::plain;
use crate::model::api::{Phase, Release, SideCounts, TooFewRequests, WaitingFor};

/// The state of a release in one line.
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
            "{} canary requests, {} failures seen by users",
            count(release.canary_requests),
            count(release.user_visible_failures)
        ));
    }
    plain(&parts.join(", "))
}

/// Formats `progressing, step 2 of 4 (paused)`.
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

/// What the release waits for, with the end if there is one.
pub(super) fn waits(waiting: &WaitingFor) -> String {
    // The detail of a freeze or a schedule names the time already.
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

/// The requests that a step lacks after its hold.
pub(super) fn too_few(lacks: TooFewRequests) -> String {
    let (canary, least) = (count(lacks.canary), count(lacks.least));
    format!("{canary} of {least} canary requests at this step")
}

/// The outcome of a release in one line.
pub(super) fn end(release: &Release) -> String {
    let outcome = match release.phase {
        Phase::Promoted => format!("{} is the new baseline", release.canary),
        Phase::RolledBack => format!("{} was rolled back", release.canary),
        _ => format!("all traffic is on {}", release.baseline),
    };
    let failures = match release.user_visible_failures {
        0 => "users saw no failure of the canary".to_owned(),
        1 => "users saw 1 failure of the canary".to_owned(),
        more => format!("users saw {} failures of the canary", count(more)),
    };
    format!("{}: {outcome}; {failures}", release.id)
}

/// An inconclusive step, and the commands that continue or end the release.
pub(super) fn inconclusive(release: &Release) -> String {
    let Release { id, canary, .. } = release;
    let waits = release.waiting_for.as_ref().map(waits).unwrap_or_default();
    let text = format!(
        "{id} {waits}. It is still running, {canary} at {}: `weighbridge release resume {id}` \
         continues without a result, `weighbridge release promote {id}` moves all traffic to \
         {canary}, `weighbridge release rollback {id}` rolls it back",
        percent(release.weight)
    );
    plain(&text)
}

/// Formats `ln e` and its limit.
pub(super) fn of_limit(log_e: f64, limit: f64) -> String {
    format!("{log_e:.2} of {limit:.2}")
}

/// Formats a failure rate and the count it is of.
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
    fn the_end_of_a_wait_is_not_repeated_if_the_detail_has_it() {
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
