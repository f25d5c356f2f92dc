//! Recording of a release in the form that a replay reads (STATISTICS.md 7): the plan first, then
//! each cohort as it was scored.

use serde_json::{Value, json};

use crate::analysis::{ArmCounts, Cohort, Matured};
use crate::release::ReleaseState;
use crate::release::replay::HoldStatus;
use crate::store::Recording;

/// Writes the first lines: the plan, and the baseline's past as a cohort without a canary, which
/// warms up a replay's judge like the live one.
pub(super) fn begin(
    recording: &Recording,
    release: &ReleaseState,
    latency_us: &[(u64, u64)],
    failures: u64,
    sticky: bool,
) {
    let mut plan = release.plan.to_shown();
    // The plan as this attempt at the build is judged, from its first step.
    plan.insert(
        "alpha".to_owned(),
        json!(2.0 * release.plan.analysis(release.attempt).alpha),
    );
    if let Some(steps) = plan.get_mut("steps").and_then(Value::as_array_mut) {
        steps.drain(..release.first_step().min(steps.len()));
    }
    let mut run = json!({ "run": release.id, "plan": plan });
    if sticky && let Some(run) = run.as_object_mut() {
        run.insert("recorded_ages".to_owned(), json!(true));
    }
    recording.add(run.to_string());
    let answered: u64 = latency_us.iter().map(|(_, count)| count).sum();
    let past = ArmCounts {
        latency_us: Some(latency_us),
        ..ArmCounts::of(answered, failures)
    };
    let cohort = Cohort {
        baseline: past,
        ..Cohort::default()
    };
    record(recording, &cohort, HoldStatus::default());
}

/// Writes the last line.
pub(super) fn end(recording: &Recording, release: &ReleaseState) {
    recording.add(json!({ "end": release.id }).to_string());
}

/// Writes a cohort as it was scored, and the hold status if something besides the judge holds the
/// release.
pub(super) fn record(recording: &Recording, cohort: &Cohort<'_>, hold_status: HoldStatus) {
    let mut line = json!({
        "at_ms": cohort.at_ms,
        "weight": cohort.weight * 100.0,
        "baseline": arm(&cohort.baseline),
        "canary": arm(&cohort.canary),
    });
    add_hold_status(&mut line, hold_status);
    recording.add(line.to_string());
}

/// Writes units that have reached the age `bake`, at the weight at which they began.
pub(super) fn record_matured(
    recording: &Recording,
    at_ms: u64,
    matured: &Matured,
    hold_status: HoldStatus,
) {
    let mut line = json!({
        "at_ms": at_ms,
        "weight": matured.weight * 100.0,
        "matured": { "canary": matured.canary, "baseline": matured.baseline },
    });
    add_hold_status(&mut line, hold_status);
    recording.add(line.to_string());
}

fn add_hold_status(line: &mut Value, hold_status: HoldStatus) {
    if let Some(line) = line.as_object_mut() {
        let step = hold_status.step.map(|step| ("step", json!(step)));
        let held = hold_status.kept.then(|| ("held", json!(true)));
        line.extend(
            step.into_iter()
                .chain(held)
                .map(|(key, value)| (key.to_owned(), value)),
        );
    }
}

fn arm(arm: &ArmCounts<'_>) -> Value {
    let mut fields = serde_json::Map::new();
    let mut add = |key: &str, value: Option<Value>| {
        value
            .into_iter()
            .for_each(|value| drop(fields.insert(key.to_owned(), value)));
    };
    add("requests", Some(json!(arm.requests)));
    add("failures", Some(json!(arm.failures)));
    // The first line of a run tells whether units are counted at all.
    add(
        "aborts",
        arm.aborts
            .filter(|aborts| *aborts > 0)
            .map(|aborts| json!(aborts)),
    );
    add(
        "latency_us",
        arm.latency_us.map(|latency_us| json!(latency_us)),
    );
    add("units", arm.units.map(|units| json!(units)));
    // Without failures these fields are omitted.
    let failed = |count: Option<u64>| count.filter(|_| arm.failures > 0).map(|count| json!(count));
    add("failing_clients", failed(arm.failing_clients));
    add("visible_failures", failed(arm.visible_failures));
    add("failed_first", failed(arm.failed_first));
    let repeats = arm.repeats.filter(|repeats| repeats.largest > 1);
    add("repeats", repeats.map(|repeats| json!(repeats)));
    Value::Object(fields)
}
