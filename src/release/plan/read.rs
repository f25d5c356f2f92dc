//! Reads a plan: first every field is validated, so that all problems are reported at once with
//! their place; then [`replay::RunPlan`] parses the fields that decide.

use http::header::HeaderName;
use serde_json::{Map, Value, json};

use super::fields::{COUNT_MAX, FieldKind, PlanProblems, join};
use super::objectives::objectives;
use super::steps::{gate, step_gates};
use super::{FastFollow, Plan, Preflight, Rescue, Step};
use crate::model::Weight;
use crate::model::api::FieldProblem;
use crate::release::freeze::FreezeWindow;
use crate::release::gate::Gate;
use crate::release::replay::{self, RunStep};

const FREEZE_MAX: usize = 100;
const IN_FLIGHT_MAX: u64 = 1_000_000;

pub(super) const INCONCLUSIVE: FieldKind = FieldKind::OneOf(&[
    "hold",
    "advance",
    "advance_if_no_harm",
    "roll_back",
    "abort",
]);

/// The fields that decide by numbers; [`replay::RunPlan`] defines their meaning.
const DECIDING: [(&str, FieldKind); 12] = [
    ("alpha", FieldKind::Number),
    ("beta", FieldKind::Number),
    ("harm_budget", FieldKind::Share),
    ("min_canary_failures", FieldKind::Count),
    ("min_distinct_clients", FieldKind::Count),
    ("bake", FieldKind::Time),
    ("min_requests", FieldKind::Count),
    ("max_duration", FieldKind::Time),
    ("inconclusive", INCONCLUSIVE),
    ("final_bake", FieldKind::Time),
    ("budget", FieldKind::Count),
    ("rescued_budget", FieldKind::Count),
];

const OTHER: [&str; 8] = [
    "steps",
    "objectives",
    "gate",
    "rescue",
    "canary_in_flight_max",
    "preflight",
    "freeze",
    "fast_follow",
];

pub(super) fn read(whole: &Map<String, Value>) -> Result<Plan, Vec<FieldProblem>> {
    let mut problems = PlanProblems::default();
    let known: Vec<&str> = DECIDING.iter().map(|(key, _)| *key).chain(OTHER).collect();
    problems.unknown("", whole, &known);
    deciding(whole, &mut problems);
    if let Some(value) = whole.get("objectives") {
        objectives(value, &mut problems);
    }
    let mut gates = match whole.get("steps") {
        Some(value) => step_gates(value, &mut problems),
        None => Vec::new(),
    };
    let mut plan = Plan {
        start_gate: whole
            .get("gate")
            .and_then(|value| gate("/gate", value, &mut problems)),
        ..other_fields(whole, &mut problems)
    };
    if problems.is_empty() {
        match serde_json::from_value::<replay::RunPlan>(Value::Object(whole.clone())) {
            Ok(parsed) => plan.decided_by = completed(parsed, whole.contains_key("final_bake")),
            Err(error) => problems.at("", error.to_string()),
        }
        plan.steps = steps(&plan.decided_by, &mut gates);
        check_whole(&plan, &mut problems);
    }
    if problems.is_empty() {
        Ok(plan)
    } else {
        Err(problems.into_inner())
    }
}

/// Gates and freezes alone; the steps are those of a default plan.
pub(super) fn recorded(whole: &Map<String, Value>) -> Plan {
    let ignored = &mut PlanProblems::default();
    let gates = whole
        .get("steps")
        .map_or_else(Vec::new, |value| step_gates(value, ignored));
    let judged = replay::RunPlan::default().fit(1.0);
    let step = |gate| Step {
        weight: Weight::FULL,
        gate,
        judged,
    };
    Plan {
        start_gate: whole
            .get("gate")
            .and_then(|value| gate("/gate", value, ignored)),
        freeze: whole
            .get("freeze")
            .map_or_else(Vec::new, |value| freeze(value, ignored)),
        steps: gates.into_iter().map(step).collect(),
        ..Plan::default()
    }
}

/// Adds the implicit defaults: 100 percent at the end, a final bake, the budgets, and the default
/// objectives.
pub(super) fn completed(mut plan: replay::RunPlan, with_final_bake: bool) -> replay::RunPlan {
    if plan.steps.last().is_none_or(|last| last.weight < 100.0) {
        plan.steps.push(RunStep::at(100.0));
    }
    if !with_final_bake {
        plan.final_bake = plan.bake;
    }
    plan.budget.get_or_insert(replay::BUDGET);
    plan.rescued_budget.get_or_insert(replay::RESCUED_BUDGET);
    plan.options.objectives = plan.options.judged();
    plan
}

/// The steps with their gates; an appended step has none.
pub(super) fn steps(plan: &replay::RunPlan, gates: &mut Vec<Option<Gate>>) -> Vec<Step> {
    gates.resize_with(plan.steps.len(), || None);
    let both = plan.steps.iter().zip(plan.walk()).zip(gates.drain(..));
    both.map(|((step, judged), gate)| Step {
        // Checked before; an invalid weight cannot occur here.
        weight: Weight::from_percent(step.weight).unwrap_or(Weight::FULL),
        gate,
        judged,
    })
    .collect()
}

fn deciding(whole: &Map<String, Value>, problems: &mut PlanProblems) {
    for (key, kind) in DECIDING {
        let Some(value) = whole.get(key) else {
            continue;
        };
        let at = join("", key);
        if problems.check(&at, kind, value) {
            check_alone(&at, json!({ key: value }), problems);
        }
    }
}

/// Whether a field alone, with defaults for the rest, can be parsed and is valid.
pub(super) fn check_alone(at: &str, plan: Value, problems: &mut PlanProblems) {
    let detail = match serde_json::from_value::<replay::RunPlan>(plan) {
        Ok(plan) => plan.problems().join("; "),
        Err(error) => error.to_string(),
    };
    if !detail.is_empty() {
        problems.at(at, detail);
    }
}

/// The fields that decide nothing by numbers.
fn other_fields(whole: &Map<String, Value>, problems: &mut PlanProblems) -> Plan {
    let mut plan = Plan::default();
    if let Some(value) = whole.get("rescue") {
        plan.rescue = rescue(value, problems).unwrap_or_default();
    }
    if let Some(value) = whole.get("canary_in_flight_max")
        && let Some(count) = problems.count("/canary_in_flight_max", value, 1, IN_FLIGHT_MAX)
    {
        plan.canary_in_flight_max = u32::try_from(count).unwrap_or(u32::MAX);
    }
    if let Some(value) = whole.get("preflight") {
        plan.preflight = Preflight::read("/preflight", value, problems);
    }
    if let Some(value) = whole.get("freeze") {
        plan.freeze = freeze(value, problems);
    }
    if let Some(value) = whole.get("fast_follow") {
        plan.fast_follow = fast_follow(value, problems);
    }
    plan
}

fn rescue(value: &Value, problems: &mut PlanProblems) -> Option<Rescue> {
    let what = "`off`, `safe` or a mapping with `header`";
    match value {
        // YAML 1.1 reads a bare `off` as false.
        Value::Bool(false) => Some(Rescue::Off),
        Value::String(text) if text == "off" => Some(Rescue::Off),
        Value::String(text) if text == "safe" => Some(Rescue::Safe),
        Value::Object(object) => {
            problems.unknown("/rescue", object, &["header"]);
            let name = object.get("header").and_then(Value::as_str);
            let name = name.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
            if name.is_none() {
                problems.at(
                    "/rescue/header",
                    "expected the name of a header such as `X-Retry-Safe`",
                );
            }
            name.map(|name| Rescue::Header(name.as_str().to_owned()))
        }
        _ => {
            problems.expected("/rescue", what, value);
            None
        }
    }
}

fn freeze(value: &Value, problems: &mut PlanProblems) -> Vec<FreezeWindow> {
    let what = "a list of windows such as `Fri 17:00 - Mon 08:00 Europe/Berlin`";
    let items = problems.list("/freeze", value, what, FREEZE_MAX);
    let mut windows = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let at = format!("/freeze/{i}");
        let Some(text) = problems.text(
            &at,
            item,
            "a window such as `Fri 17:00 - Mon 08:00 Europe/Berlin`",
        ) else {
            continue;
        };
        match FreezeWindow::parse(text) {
            Ok(window) => windows.push(window),
            Err(why) => problems.at(at, format!("`{text}` is not a freeze window: {why}")),
        }
    }
    windows
}

fn fast_follow(value: &Value, problems: &mut PlanProblems) -> Option<FastFollow> {
    let at = "/fast_follow";
    let object = problems.object(at, value, "a mapping with `within` and `from_step`")?;
    problems.unknown(at, object, &["within", "from_step"]);
    let mut required = |key: &str| {
        let value = object.get(key);
        if value.is_none() {
            problems.at(join(at, key), format!("`{key}` is missing"));
        }
        value
    };
    let (within, from_step) = (required("within"), required("from_step"));
    let within =
        within.and_then(|value| problems.duration_above_zero("/fast_follow/within", value));
    let from_step =
        from_step.and_then(|value| problems.count("/fast_follow/from_step", value, 1, COUNT_MAX));
    Some(FastFollow {
        within: within?,
        from_step: usize::try_from(from_step?).unwrap_or(usize::MAX),
    })
}

/// Problems that only the whole plan can show.
fn check_whole(plan: &Plan, problems: &mut PlanProblems) {
    for problem in plan.decided_by.problems() {
        problems.at("", problem);
    }
    let mut names: Vec<&str> = Vec::new();
    for gate in plan.gates() {
        if names.contains(&gate.name.as_str()) {
            let detail = format!(
                "two gates are named `{}`; gate names must be unique",
                gate.name
            );
            problems.at("/steps", detail);
        }
        names.push(&gate.name);
    }
    let Some(follow) = plan.fast_follow else {
        return;
    };
    let at = "/fast_follow/from_step";
    if follow.from_step > plan.steps.len() {
        problems.at(at, format!("there are {} steps", plan.steps.len()));
        return;
    }
    let skipped = plan.steps.iter().take(follow.from_step - 1);
    if let Some(gate) = skipped.filter_map(|step| step.gate.as_ref()).next() {
        problems.at(
            at,
            format!(
                "gate `{}` would be skipped; gates cannot be skipped",
                gate.name
            ),
        );
    }
}
