//! Validates the steps of a plan and their gates field by field.

use serde_json::{Map, Value};

use super::fields::{FieldKind, PlanProblems, join};
use super::read::INCONCLUSIVE;
use crate::model::Weight;
use crate::release::gate::Gate;

const STEPS_MAX: usize = 100;
const PEOPLE_MAX: usize = 100;

/// The fields of a step in addition to weight and gate.
const OF_STEP: [(&str, FieldKind); 4] = [
    ("hold", FieldKind::Time),
    ("min_requests", FieldKind::Count),
    ("max_duration", FieldKind::Time),
    ("inconclusive", INCONCLUSIVE),
];

/// Validates the steps and returns the gate of each.
pub(super) fn step_gates(value: &Value, problems: &mut PlanProblems) -> Vec<Option<Gate>> {
    let items = problems.list(
        "/steps",
        value,
        "a list of steps such as `[1, 5, 25, 50, 100]`",
        STEPS_MAX,
    );
    if value.as_array().is_some_and(Vec::is_empty) {
        let detail = "there must be at least one step; leave `steps` out for the default `[1, 5, \
                      25, 50, 100]`";
        problems.at("/steps", detail);
    }
    let mut before: Option<Weight> = None;
    let mut gates = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let at = format!("/steps/{i}");
        let (weight, gate) = match item {
            Value::Object(object) => long_step(&at, object, problems),
            _ => (weight(&at, item, problems), None),
        };
        if let (Some(weight), Some(before)) = (weight, before)
            && weight <= before
        {
            problems.at(
                at,
                format!("step weights must increase, but {weight} follows {before}"),
            );
        }
        before = weight.or(before);
        gates.push(gate);
    }
    gates
}

fn long_step(
    at: &str,
    object: &Map<String, Value>,
    problems: &mut PlanProblems,
) -> (Option<Weight>, Option<Gate>) {
    let known: Vec<&str> = ["weight", "gate"]
        .into_iter()
        .chain(OF_STEP.map(|(key, _)| key))
        .collect();
    problems.unknown(at, object, &known);
    for (key, kind) in OF_STEP {
        if let Some(value) = object.get(key) {
            problems.check(&join(at, key), kind, value);
        }
    }
    let weight = match object.get("weight") {
        Some(value) => weight(&join(at, "weight"), value, problems),
        None => {
            problems.at(
                join(at, "weight"),
                "`weight` is missing; expected a percentage above 0 and up to 100",
            );
            None
        }
    };
    let gate = object
        .get("gate")
        .and_then(|value| gate(&join(at, "gate"), value, problems));
    (weight, gate)
}

fn weight(at: &str, value: &Value, problems: &mut PlanProblems) -> Option<Weight> {
    let Some(percent) = value.as_f64() else {
        problems.expected(at, "a percentage above 0 and up to 100, as a number", value);
        return None;
    };
    match Weight::from_percent(percent) {
        Ok(weight) if weight.is_zero() => {
            problems.at(at, "a step must have a weight above 0");
            None
        }
        Ok(weight) => Some(weight),
        Err(error) => {
            problems.at(at, error.to_string());
            None
        }
    }
}

/// A name alone, or a mapping.
pub(super) fn gate(at: &str, value: &Value, problems: &mut PlanProblems) -> Option<Gate> {
    let what = "the name of a gate, or a mapping with `name`";
    if value.is_string() {
        return Some(Gate {
            name: problems.text(at, value, what)?.trim().to_owned(),
            approvals: 1,
            by: Vec::new(),
            expires: None,
        });
    }
    let object = problems.object(at, value, what)?;
    problems.unknown(at, object, &["name", "approvals", "by", "expires"]);
    let name = match object.get("name") {
        Some(name) => problems.text(&join(at, "name"), name, "the name of the gate"),
        None => {
            problems.at(
                join(at, "name"),
                "`name` is missing; expected the name of the gate",
            );
            None
        }
    };
    let by = object
        .get("by")
        .map_or(Vec::new(), |by| people(&join(at, "by"), by, problems));
    let most = if by.is_empty() { PEOPLE_MAX } else { by.len() };
    let approvals = object.get("approvals").map_or(Some(1), |value| {
        problems.count(
            &join(at, "approvals"),
            value,
            1,
            u64::try_from(most).unwrap_or(u64::MAX),
        )
    });
    let expires = object
        .get("expires")
        .and_then(|value| problems.duration_above_zero(&join(at, "expires"), value));
    Some(Gate {
        name: name?.trim().to_owned(),
        approvals: usize::try_from(approvals?).unwrap_or(usize::MAX),
        by,
        expires,
    })
}

fn people(at: &str, value: &Value, problems: &mut PlanProblems) -> Vec<String> {
    let items = problems.list(at, value, "a list of names of tokens", PEOPLE_MAX);
    let mut people: Vec<String> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let at = format!("{at}/{i}");
        match problems.text(&at, item, "the name of a token") {
            Some(name) if people.iter().any(|known| known == name) => {
                problems.at(at, format!("`{name}` is named twice"));
            }
            Some(name) => people.push(name.to_owned()),
            None => {}
        }
    }
    people
}
