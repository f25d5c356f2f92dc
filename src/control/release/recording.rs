//! What a release was judged by, in the form that a replay reads (STATISTICS.md 7): the plan first, then each cohort as
//! it was scored.

use serde_json::{Value, json};

use crate::analysis::{Arm, Cohort};
use crate::release::Release;
use crate::store::Recording;

/// The first lines: the plan, and as a cohort without a canary what the baseline did before, which warms a replay's judge as
/// it did the live one.
pub(super) fn begin(recording: &Recording, release: &Release, latency_us: &[(u64, u64)], failures: u64) {
    let run = json!({
        "run": release.id,
        "plan": release.plan.to_json(),
        "attempt": release.attempt,
    });
    recording.add(run.to_string());
    let answered: u64 = latency_us.iter().map(|(_, count)| count).sum();
    let past = Arm {
        latency_us: Some(latency_us),
        ..Arm::of(answered, failures)
    };
    let cohort = Cohort {
        baseline: past,
        ..Cohort::default()
    };
    record(recording, &cohort);
}

/// A cohort, as it was scored.
pub(super) fn record(recording: &Recording, cohort: &Cohort<'_>) {
    let line = json!({
        "at_ms": cohort.at_ms,
        "weight": cohort.weight * 100.0,
        "baseline": arm(&cohort.baseline),
        "canary": arm(&cohort.canary),
    });
    recording.add(line.to_string());
}

fn arm(arm: &Arm<'_>) -> Value {
    let mut told = json!({ "requests": arm.requests, "failures": arm.failures });
    if let (Some(told), Some(latency_us)) = (told.as_object_mut(), arm.latency_us) {
        told.insert("latency_us".to_owned(), json!(latency_us));
    }
    told
}
