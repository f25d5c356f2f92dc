//! The objectives of a release as the API shows them. [`Trial::objectives`] documents the fields.
//!
//! [`Trial::objectives`]: super::Trial::objectives

use serde_json::{Map, Value, json};

use crate::analysis::{Behind, Evidence, LatencyBins, Objective, ObjectiveEvidence};

/// A JSON number cannot be infinite.
const E_VALUE_MAX: f64 = 1e300;

pub(super) fn shown(evidence: &Evidence) -> Vec<Value> {
    let each = evidence.objectives.iter();
    each.map(|objective| Value::Object(one(objective, evidence)))
        .collect()
}

fn one(objective: &ObjectiveEvidence, whole: &Evidence) -> Map<String, Value> {
    // The limit applies to the weighted sum of all objectives, so one alone needs more.
    let log_limit = whole.log_limit - objective.share.ln();
    let mut shown = Map::new();
    let mut add = |key: &str, value: Value| {
        shown.insert(key.to_owned(), value);
    };
    add("objective", json!(objective.objective.name()));
    add("margins", margins(&objective.objective));
    add("share", json!(objective.share));
    add("log_e", json!(objective.log_e));
    add("e_value", json!(objective.log_e.exp().min(E_VALUE_MAX)));
    add("log_limit", json!(log_limit));
    add("limit", json!(log_limit.exp().min(E_VALUE_MAX)));
    if let Some(log_e) = objective.advance_log_e {
        add("advance_log_e", json!(log_e));
        add("advance_limit", json!(objective.advance_limit));
    }
    let units = whole
        .units
        .filter(|_| objective.objective.descriptor().counts_users);
    match units {
        Some(units) => {
            add("unit", json!("user"));
            add("canary", json!(units.canary));
            add("baseline", json!(units.baseline));
        }
        None => {
            add("canary", json!(whole.canary));
            add("baseline", json!(whole.baseline));
        }
    }
    add_counts(&objective.counts, &mut add);
    if let (Behind::ErrorRate { .. }, Some(full_weight)) = (&objective.counts, &whole.full_weight) {
        add("full_weight", json!(full_weight));
    }
    shown
}

fn add_counts(counts: &Behind, add: &mut impl FnMut(&str, Value)) {
    match counts {
        Behind::ErrorRate {
            estimate,
            confidence,
            requests_to_advance,
            ..
        } => {
            let mut known = |key: &str, value: Option<Value>| {
                value.into_iter().for_each(|value| add(key, value))
            };
            known("estimate", estimate.map(|estimate| json!(estimate)));
            known("confidence", confidence.map(|interval| json!(interval)));
            known(
                "requests_to_advance",
                requests_to_advance.map(|requests| json!(requests)),
            );
        }
        Behind::Latency { bins: None, .. } => add("insufficient", json!(true)),
        Behind::Latency {
            bins: Some(bins),
            slower_lately,
        } => {
            if *slower_lately {
                add("slower_lately", json!(true));
            }
            add("bins", bin_list(bins));
            if let Some(worst) = bins.worst_bin {
                add("worst_bin", json!(worst));
            }
        }
        Behind::Slo {
            canary,
            baseline,
            baseline_log_e,
        } => {
            add("canary", json!(canary));
            add("baseline", json!(baseline));
            add("baseline_log_e", json!(baseline_log_e));
        }
    }
}

/// The fields of the objective as in a plan.
fn margins(objective: &Objective) -> Value {
    match serde_json::to_value(objective) {
        Ok(Value::Object(mut named)) => named.remove(objective.name()).unwrap_or_default(),
        _ => Value::Null,
    }
}

fn bin_list(bins: &LatencyBins) -> Value {
    let edges = |edges: &[u64]| {
        edges
            .iter()
            .map(|edge| json!(edge))
            .chain([Value::Null])
            .collect::<Vec<_>>()
    };
    let edges = edges(&bins.baseline_edges_us)
        .into_iter()
        .zip(edges(&bins.canary_edges_us));
    let counts = bins.baseline.iter().zip(&bins.canary);
    let list = edges
        .zip(counts)
        .map(|((baseline_below, canary_below), (baseline, canary))| {
            json!({
                "baseline_below_us": baseline_below,
                "canary_below_us": canary_below,
                "baseline": baseline,
                "canary": canary,
            })
        });
    Value::Array(list.collect())
}
