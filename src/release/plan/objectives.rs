//! Validates the objectives of a plan field by field. [`replay::RunPlan`] defines their meaning.
//!
//! [`replay::RunPlan`]: crate::release::replay::RunPlan

use serde_json::{Value, json};

use super::fields::{FieldKind, PlanProblems, join};
use super::read::check_alone;

const OBJECTIVES_MAX: usize = 16;

const ERROR_RATE: [(&str, FieldKind); 2] =
    [("ratio", FieldKind::Number), ("worse_by", FieldKind::Share)];
const LATENCY: [(&str, FieldKind); 2] = [
    ("worse_by", FieldKind::Share),
    ("at_least", FieldKind::Time),
];
const SLO_ERROR_RATE: [(&str, FieldKind); 1] = [("below", FieldKind::Share)];
const SLO_LATENCY: [(&str, FieldKind); 2] =
    [("quantile", FieldKind::Share), ("below", FieldKind::Time)];

pub(super) fn objectives(value: &Value, problems: &mut PlanProblems) {
    let items = problems.list("/objectives", value, "a list of objectives", OBJECTIVES_MAX);
    for (i, item) in items.iter().enumerate() {
        let at = format!("/objectives/{i}");
        if objective(&at, item, problems).is_some() {
            check_alone(&at, json!({ "objectives": [item] }), problems);
        }
    }
    let names = |wanted: &str| {
        items
            .iter()
            .filter(|item| item.get(wanted).is_some())
            .count()
    };
    for name in ["error_rate", "latency"]
        .into_iter()
        .filter(|name| names(name) > 1)
    {
        problems.at(
            "/objectives",
            format!("{name} can be an objective only once"),
        );
    }
}

/// `Some` when every field is present and of its type.
fn objective(at: &str, item: &Value, problems: &mut PlanProblems) -> Option<()> {
    let (name, inner) = only_field(at, item, &["error_rate", "latency", "slo"], problems)?;
    let at = join(at, name);
    match name {
        "error_rate" => fields(&at, inner, &ERROR_RATE, &[], problems),
        "latency" => fields(&at, inner, &LATENCY, &[], problems),
        _ => {
            let (name, inner) = only_field(&at, inner, &["error_rate", "latency"], problems)?;
            let at = join(&at, name);
            match name {
                "error_rate" => fields(&at, inner, &SLO_ERROR_RATE, &["below"], problems),
                _ => fields(&at, inner, &SLO_LATENCY, &["quantile", "below"], problems),
            }
        }
    }
}

fn only_field<'a>(
    at: &str,
    value: &'a Value,
    known: &[&'static str],
    problems: &mut PlanProblems,
) -> Option<(&'static str, &'a Value)> {
    let what = "a mapping with one field";
    let object = problems.object(at, value, what)?;
    problems.unknown(at, object, known);
    let mut given = known
        .iter()
        .filter_map(|name| Some((*name, object.get(*name)?)));
    let (first, second) = (given.next(), given.next());
    if second.is_some() || object.is_empty() {
        problems.at(at, format!("expected {what}, found {}", object.len()));
        return None;
    }
    first.filter(|_| object.len() == 1)
}

fn fields(
    at: &str,
    value: &Value,
    known: &[(&str, FieldKind)],
    required: &[&str],
    problems: &mut PlanProblems,
) -> Option<()> {
    let object = problems.object(at, value, "a mapping")?;
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    problems.unknown(at, object, &names);
    let mut valid = object.keys().all(|key| names.contains(&key.as_str()));
    for (name, kind) in known {
        match object.get(*name) {
            Some(value) => valid &= problems.check(&join(at, name), *kind, value),
            None if required.contains(name) => {
                problems.at(join(at, name), format!("`{name}` is missing"));
                valid = false;
            }
            None => {}
        }
    }
    valid.then_some(())
}
