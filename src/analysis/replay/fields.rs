//! The plan of a run line: which fields it may have, and what it means where it leaves one out.

use serde::de::{Deserialize, Deserializer, Error};
use serde_json::{Map, Value};

use super::plan::Plan;

/// What decides.
const DECIDING: [&str; 13] = [
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
];

/// What belongs to the live release alone and is left aside, unread: the release itself says what is wrong with it when it
/// starts. Besides the fields of the configuration's `release` block these are what people write down with them.
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

const OF_STEP: [&str; 6] = ["weight", "hold", "min_requests", "max_duration", "inconclusive", "gate"];

/// A plan as a run line has it. A field that nobody knows is refused: a limit with a slip in its name would decide nothing,
/// and nobody would see that.
pub(super) struct PlanText(Plan);

impl PlanText {
    pub(super) fn into_plan(self) -> Plan {
        self.0
    }
}

impl Default for PlanText {
    fn default() -> Self {
        PlanText(with_final_bake(Plan::default()))
    }
}

impl<'de> Deserialize<'de> for PlanText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PlanText, D::Error> {
        let fields = Map::deserialize(deserializer)?;
        check(&fields).map_err(D::Error::custom)?;
        let is_told = fields.contains_key("final_bake");
        let plan = serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)?;
        Ok(PlanText(if is_told { plan } else { with_final_bake(plan) }))
    }
}

/// What a live release does too whose plan does not say how long it stays at 100 percent.
fn with_final_bake(plan: Plan) -> Plan {
    Plan {
        final_bake: plan.bake,
        ..plan
    }
}

fn check(fields: &Map<String, Value>) -> Result<(), String> {
    let known: Vec<&str> = DECIDING.into_iter().chain(LIVE).collect();
    unknown(fields, "the plan", &known)?;
    let steps = fields.get("steps").and_then(Value::as_array).into_iter().flatten();
    steps
        .filter_map(Value::as_object)
        .try_for_each(|step| unknown(step, "a step of the plan", &OF_STEP))
}

fn unknown(fields: &Map<String, Value>, place: &str, known: &[&str]) -> Result<(), String> {
    let Some(field) = fields.keys().find(|field| !known.contains(&field.as_str())) else {
        return Ok(());
    };
    let meant = similar(field, known).map_or_else(
        || format!("expected one of `{}`", known.join("`, `")),
        |name| format!("did you mean `{name}`?"),
    );
    Err(format!("unknown field `{field}` in {place}; {meant}"))
}

/// The name that somebody may have meant: within a third of its length in slips.
fn similar<'a>(given: &str, names: &[&'a str]) -> Option<&'a str> {
    let near = names.iter().map(|name| (strsim::osa_distance(given, name), *name));
    let (slips, name) = near.min()?;
    (slips <= name.len().div_ceil(3)).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_run_without_a_plan_is_one_with_an_empty_plan() {
        let empty: PlanText = serde_json::from_str("{}").unwrap();
        let (empty, none) = (empty.into_plan(), PlanText::default().into_plan());
        assert_eq!(empty, none);
        assert_eq!((none.bake, none.final_bake), ([Duration::from_secs(10); 2]).into());
    }
}
