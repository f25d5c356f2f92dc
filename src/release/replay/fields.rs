//! The fields allowed in the plan of a run line.

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::{Map, Value};

use super::plan::RunPlan;
use crate::release::Plan;

/// The fields that decide.
const DECIDING: [&str; 14] = [
    "alpha",
    "beta",
    "harm_budget",
    "objectives",
    "min_canary_failures",
    "min_distinct_clients",
    "steps",
    "bake",
    "min_requests",
    "max_duration",
    "inconclusive",
    "final_bake",
    "budget",
    "rescued_budget",
];

/// Fields of the live release only, which are not read: the release itself validates them when it
/// starts. They are the fields of the configuration's `release` block and others commonly written
/// with them.
const LIVE: [&str; 9] = [
    "gate",
    "gates",
    "rescue",
    "canary_in_flight_max",
    "preflight",
    "freeze",
    "fast_follow",
    "schedule",
    "start_at",
];

const OF_STEP: [&str; 6] = [
    "weight",
    "hold",
    "min_requests",
    "max_duration",
    "inconclusive",
    "gate",
];

/// The plan of a run line, with warnings. A misspelt field name is an error: the misspelt limit
/// would decide nothing, and nobody would notice. Other unknown fields are ignored, since a newer
/// version may have written them.
#[derive(Default)]
pub(super) struct PlanText {
    pub(super) plan: RunPlan,
    pub(super) warnings: Vec<String>,
    /// The gates and freezes, where they are valid.
    pub(super) live: Plan,
}

impl<'de> Deserialize<'de> for PlanText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PlanText, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        let warnings = check(&fields).map_err(D::Error::custom)?;
        let live = Plan::read_recorded(&fields);
        let plan = serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)?;
        Ok(PlanText {
            plan,
            warnings,
            live,
        })
    }
}

fn check(fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    let known: Vec<&str> = DECIDING.into_iter().chain(LIVE).collect();
    let mut warnings = unknown(fields, "the plan", &known)?;
    let steps = fields
        .get("steps")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    for step in steps.filter_map(Value::as_object) {
        warnings.extend(unknown(step, "a step of the plan", &OF_STEP)?);
    }
    Ok(warnings)
}

fn unknown(
    fields: &Map<String, Value>,
    place: &str,
    known: &[&str],
) -> Result<Vec<String>, String> {
    let unknown = fields
        .keys()
        .filter(|field| !known.contains(&field.as_str()));
    unknown
        .map(|field| match similar(field, known) {
            Some(name) => Err(format!(
                "unknown field `{field}` in {place}; did you mean `{name}`?"
            )),
            None => Ok(format!("unknown field `{field}` in {place}; it is ignored")),
        })
        .collect()
}

/// The name that was probably meant: with typos in at most a third of its length.
fn similar<'a>(given: &str, names: &[&'a str]) -> Option<&'a str> {
    let near = names
        .iter()
        .map(|name| (strsim::osa_distance(given, name), *name));
    let (slips, name) = near.min()?;
    (slips <= name.len().div_ceil(3)).then_some(name)
}
