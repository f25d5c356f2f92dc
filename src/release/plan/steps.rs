//! The steps of a plan and their gates.

use serde_json::json;

use super::read::{COUNT_MAX, INCONCLUSIVE};
use crate::document::{Fields, Node, ProblemList, Type};
use crate::model::Weight;
use crate::release::gate::Gate;
use crate::release::replay::RunStep;

const STEPS_MAX: usize = 100;
const PEOPLE_MAX: usize = 100;

/// A step and its gate.
pub(super) type GatedStep = (RunStep, Option<Gate>);

/// The steps, whose weights increase; at least one.
pub(super) fn steps() -> Type<'static, Vec<GatedStep>> {
    let short = weight().map(|weight| (RunStep::at(weight.percent()), None));
    let step = Type::short_or_long(short, Type::object(long_step).named("LongStep"));
    // A whole number without a decimal point.
    step.shown(|(step, _)| serde_json::from_str(&step.weight.to_string()).ok())
        .list_checked(0, STEPS_MAX, check_steps)
        .expecting("a list of steps such as `[1, 5, 25, 50, 100]`")
}

fn check_steps(steps: &[(&Node, GatedStep)], node: &Node, problems: &ProblemList) {
    if node.items().is_empty() {
        let message = "there must be at least one step; leave `steps` out for the default `[1, 5, \
                       25, 50, 100]`";
        problems.at(node, message);
    }
    for ((_, (before, _)), (node, (step, _))) in steps.iter().zip(steps.iter().skip(1)) {
        if step.weight <= before.weight {
            let message = format!(
                "step weights must increase, but {} follows {}",
                step.weight, before.weight
            );
            problems.at(node, message);
        }
    }
}

fn weight() -> Type<'static, Weight> {
    Type::percent(
        "a percentage above 0 and up to 100, as a number",
        "write it without quotes and without `%`",
        json!({ "exclusiveMinimum": 0 }),
    )
    .checked(|weight, node, problems| {
        if weight.is_zero() {
            problems.at(node, "a step must have a weight above 0");
        }
    })
}

fn long_step(fields: &mut Fields<'_>) -> Option<GatedStep> {
    let weight = fields.required(
        "weight",
        "a percentage above 0 and up to 100",
        weight().example("5"),
        "of the canary, in percent",
    );
    let mut step = RunStep::at(weight.map_or(0.0, Weight::percent));
    let time = || Type::time().without_default();
    fields.set(
        "hold",
        &mut step.hold,
        time().example("10m"),
        "the minimum time, if more than `bake`",
    );
    let gate = fields.read(
        "gate",
        gate().example("sign-off"),
        "an approval before the release leaves this step",
    );
    step.min_requests = fields.read(
        "min_requests",
        Type::count(0..=COUNT_MAX).example("1000"),
        "the minimum of requests on the canary",
    );
    fields.set(
        "max_duration",
        &mut step.max_duration,
        time().example("1h"),
        "the maximum time without a result",
    );
    step.inconclusive = fields.read(
        "inconclusive",
        Type::choice(&INCONCLUSIVE).example("roll_back"),
        "what follows then",
    );
    weight.map(|_| (step, gate))
}

/// A name alone, or a mapping.
pub(super) fn gate() -> Type<'static, Gate> {
    let what = "the name of a gate, or a mapping with `name`";
    let short = Type::word(what).map(|name| Gate {
        name,
        approvals: 1,
        by: Vec::new(),
        expires: None,
    });
    Type::short_or_long(short, Type::object(long_gate).named("FullGate"))
}

fn long_gate(fields: &mut Fields<'_>) -> Option<Gate> {
    let name = fields.required(
        "name",
        "the name of the gate",
        Type::word("the name of the gate").example("change-board"),
        "no other gate of the plan has it",
    );
    // In the order of the text, although `by` bounds the approvals.
    let most = match fields.get("by").map_or(0, |by| by.items().len()) {
        0 => PEOPLE_MAX,
        people => people.min(PEOPLE_MAX),
    };
    let mut approvals = 1;
    fields.set(
        "approvals",
        &mut approvals,
        Type::count(1..=most.try_into().unwrap_or(u64::MAX)),
        "from 2 on, who started the release is not one of them",
    );
    let mut by = Vec::new();
    let people = Type::word("the name of a token").list_checked(0, PEOPLE_MAX, check_people);
    fields.set(
        "by",
        &mut by,
        people.without_default().example("[alice, bob, carol]"),
        "names of tokens; by default all with the role approve or admin",
    );
    let expires = fields.read(
        "expires",
        Type::time().above_zero().example("24h"),
        "an approval no longer counts after that; by default it does",
    );
    Some(Gate {
        name: name?,
        approvals,
        by,
        expires,
    })
}

fn check_people(people: &[(&Node, String)], _: &Node, problems: &ProblemList) {
    for (at, (node, name)) in people.iter().enumerate() {
        if people.iter().take(at).any(|(_, earlier)| earlier == name) {
            problems.at(node, format!("{} is named twice", node.quoted()));
        }
    }
}
