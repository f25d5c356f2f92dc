//! Serializes a plan with all defaults.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{Plan, Rescue};
use crate::document::quantity::write_duration;
use crate::release::gate::Gate;

pub(super) fn write(plan: &Plan) -> Map<String, Value> {
    let mut whole = match serde_json::to_value(&plan.decided_by) {
        Ok(Value::Object(whole)) => whole,
        // Numbers, strings and lists of a validated plan always have a JSON form.
        _ => Map::new(),
    };
    if let Some(Value::Array(steps)) = whole.get_mut("steps") {
        for (written, step) in steps.iter_mut().zip(&plan.steps) {
            if let (Value::Object(written), Some(gate)) = (written, &step.gate) {
                written.insert("gate".to_owned(), gate_json(gate));
            }
        }
    }
    let mut add =
        |key: &str, value: Option<Value>| whole.extend(value.map(|value| (key.to_owned(), value)));
    add("gate", plan.start_gate.as_ref().map(gate_json));
    add("rescue", Some(rescue(&plan.rescue)));
    add(
        "canary_in_flight_max",
        Some(json!(plan.canary_in_flight_max)),
    );
    add(
        "preflight",
        plan.preflight.as_ref().map(super::Preflight::write),
    );
    let windows: Vec<String> = plan.freeze.iter().map(ToString::to_string).collect();
    add("freeze", Some(json!(windows)));
    add("fast_follow", plan.fast_follow.map(fast_follow));
    let whole = Value::Object(whole);
    match without_nulls(whole) {
        Value::Object(whole) => whole,
        _ => Map::new(),
    }
}

/// `null` stands for an omitted field.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let given = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                given
                    .map(|(key, value)| (key, without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn gate_json(gate: &Gate) -> Value {
    let mut whole = json!({ "name": gate.name, "approvals": gate.approvals, "by": gate.by });
    if let (Some(fields), Some(expires)) = (whole.as_object_mut(), gate.expires) {
        fields.insert("expires".to_owned(), json!(write_duration(expires)));
    }
    whole
}

fn fast_follow(follow: super::FastFollow) -> Value {
    json!({ "within": write_duration(follow.within), "from_step": follow.from_step })
}

fn rescue(rescue: &Rescue) -> Value {
    match rescue {
        Rescue::Off => json!("off"),
        Rescue::Safe => json!("safe"),
        Rescue::Header(name) => json!({ "header": name }),
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Plan, D::Error> {
        let whole = Map::deserialize(deserializer)?;
        Plan::read(Some(&whole), None).map_err(|problems| {
            let problems_text = problems
                .iter()
                .map(|problem| format!("{}: {}", problem.pointer, problem.detail));
            D::Error::custom(problems_text.collect::<Vec<_>>().join("; "))
        })
    }
}
