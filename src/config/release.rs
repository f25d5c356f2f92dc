//! `release` of a service: how releases of it go. What the block means is for [`Plan`] to say,
//! which reads the plans of the admin API too; here its words get their place in the text.

use std::sync::Arc;

use serde_json::{Map, Number, Value};

use super::read::{ProblemList, entries};
use super::tree::{MapEntry, Node, NodeKind, join, join_index};
use crate::admin::{Role, Token};
use crate::model::api::FieldProblem;
use crate::model::{one_of, similar};
use crate::release::{Gate, Plan};

/// The callers of the admin API, as far as they are known: those who could approve something.
#[derive(Clone, Copy)]
pub(super) enum Callers<'a> {
    /// There are no tokens, so nobody has a name.
    Nameless,
    /// There are tokens, of which some are wrong.
    Unclear,
    /// These.
    Named(&'a [Token]),
}

/// The block as JSON, if it is a plan.
pub(super) fn release(
    node: &Node,
    problems: &ProblemList,
    callers: Callers<'_>,
) -> Option<Arc<Map<String, Value>>> {
    entries(node, problems)?;
    let Value::Object(mut block) = json(node) else {
        return None;
    };
    let mut read = Plan::read(Some(&block), None);
    // Only now is it known where a number belongs: what came by a variable is a text until then.
    if let Err(found) = &read
        && found
            .iter()
            .filter(|problem| make_number(node, &mut block, problem))
            .count()
            > 0
    {
        read = Plan::read(Some(&block), None);
    }
    match read {
        Ok(plan) => {
            check_gates(node, problems, &plan, callers);
            Some(Arc::new(block))
        }
        Err(found) => {
            found
                .iter()
                .for_each(|problem| report(node, problems, problem));
            None
        }
    }
}

/// A value as JSON. Numbers that JSON does not have become texts, which are no numbers.
fn json(node: &Node) -> Value {
    match &node.kind {
        NodeKind::Null | NodeKind::Missing => Value::Null,
        NodeKind::Bool(value) => Value::Bool(*value),
        NodeKind::Integer(value) => {
            Number::from_i128(*value).map_or_else(|| written(node), Value::Number)
        }
        NodeKind::Number(value) => {
            Number::from_f64(*value).map_or_else(|| written(node), Value::Number)
        }
        NodeKind::Text(text) => Value::String(text.clone()),
        NodeKind::List(items) => items.iter().map(json).collect(),
        NodeKind::Map(entries) => entries
            .iter()
            .map(|entry| (entry.key.clone(), json(&entry.value)))
            .collect(),
    }
}

fn written(node: &Node) -> Value {
    Value::String(node.written.trim().to_owned())
}

/// Where there is a problem with a text that came by a variable and reads as a number, puts the
/// number.
fn make_number(node: &Node, block: &mut Map<String, Value>, problem: &FieldProblem) -> bool {
    let place = Place::of(node, &problem.pointer);
    let number = match &place.node.kind {
        NodeKind::Text(text) if place.is_exact && place.node.substituted => {
            serde_json::from_str::<Number>(text.trim())
        }
        _ => return false,
    };
    let mut steps = pointer_steps(&problem.pointer);
    let slot = steps.next().and_then(|first| block.get_mut(&first));
    let slot = steps.fold(slot, |slot, step| match slot? {
        Value::Object(fields) => fields.get_mut(&step),
        Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?),
        _ => None,
    });
    match (slot, number) {
        (Some(slot), Ok(number)) => {
            *slot = Value::Number(number);
            true
        }
        _ => false,
    }
}

fn report(block: &Node, problems: &ProblemList, problem: &FieldProblem) {
    const MEANT: &str = "; did you mean ";
    let place = Place::of(block, &problem.pointer);
    if matches!(place.node.kind, NodeKind::Missing) {
        return;
    }
    let (message, help) = match problem.detail.rsplit_once(MEANT) {
        Some((message, meant)) => (message, Some(format!("did you mean {meant}"))),
        None => (&*problem.detail, None),
    };
    let (message, help) = match &place.node.kind {
        NodeKind::Text(value) if place.is_exact && place.node.substituted => {
            (redact_value(place.node, message, value), None)
        }
        _ => (message.to_owned(), help),
    };
    let is_unknown = problem.detail.starts_with("unknown field");
    let span = match place.entry {
        Some(entry) if place.is_exact && is_unknown => &entry.span,
        _ => &place.node.span,
    };
    problems.push(span, &place.path, message, help);
}

/// The message without what a variable stands for, which may be a secret.
fn redact_value(node: &Node, message: &str, value: &str) -> String {
    let quoted: String = value.chars().take(80).collect();
    let message = message.replace(&format!("`{quoted}`"), &node.quoted());
    let shows = value.split_whitespace().any(|word| message.contains(word));
    if shows {
        return format!("{} is not what belongs here", node.quoted());
    }
    message
}

/// Where a pointer leads: the node there, or the last one on the way.
struct Place<'a> {
    node: &'a Node,
    /// The entry that the node is the value of.
    entry: Option<&'a MapEntry>,
    /// The path of what the pointer means, also if it is not there.
    path: String,
    is_exact: bool,
}

impl<'a> Place<'a> {
    fn of(block: &'a Node, pointer: &str) -> Place<'a> {
        let mut place = Place {
            node: block,
            entry: None,
            path: block.path.clone(),
            is_exact: true,
        };
        pointer_steps(pointer).for_each(|step| place.go(&step));
        place
    }

    fn go(&mut self, step: &str) {
        let index = step.parse::<usize>().ok();
        let (next, entry) = match (&self.node.kind, index) {
            _ if !self.is_exact => (None, None),
            (NodeKind::List(items), Some(index)) => (items.get(index), None),
            (NodeKind::Map(entries), _) => {
                let entry = entries.iter().find(|entry| entry.key == step);
                (entry.map(|entry| &entry.value), entry)
            }
            _ => (None, None),
        };
        match next {
            Some(node) => {
                (self.node, self.entry, self.path) = (node, entry, node.path.clone());
            }
            None => {
                self.path = match index {
                    Some(index) => join_index(&self.path, index),
                    None => join(&self.path, step),
                };
                self.is_exact = false;
            }
        }
    }
}

/// The steps of a JSON pointer (RFC 6901).
fn pointer_steps(pointer: &str) -> impl Iterator<Item = String> {
    let steps = pointer.split('/').skip(1);
    steps.map(|step| step.replace("~1", "/").replace("~0", "~"))
}

/// Gates that nobody could ever pass.
fn check_gates(block: &Node, problems: &ProblemList, plan: &Plan, callers: Callers<'_>) {
    let places = std::iter::once(String::from("/gate"))
        .chain(steps_of(block).map(|at| format!("/steps/{at}/gate")));
    let places: Vec<Place<'_>> = places.map(|pointer| Place::of(block, &pointer)).collect();
    let gates = places.iter().filter(|place| place.is_exact);
    for (place, gate) in gates.zip(plan.gates()) {
        match callers {
            Callers::Nameless => {
                let message = format!(
                    "the gate `{}` waits for an approval, and the admin API has no tokens by \
                     which to know who approves",
                    gate.name
                );
                problems.help(
                    place.node,
                    message,
                    "give `admin` its `tokens` or a `tokens_file`, or take the gate out",
                );
            }
            Callers::Unclear => {}
            Callers::Named(tokens) => check_gate(place.node, problems, gate, tokens),
        }
    }
}

fn steps_of(block: &Node) -> std::ops::Range<usize> {
    match Place::of(block, "/steps").node.kind {
        NodeKind::List(ref steps) => 0..steps.len(),
        _ => 0..0,
    }
}

/// A gate asks for callers that exist and may approve, and for no more than there are.
fn check_gate(node: &Node, problems: &ProblemList, gate: &Gate, tokens: &[Token]) {
    let names: Vec<&str> = tokens.iter().map(|token| &*token.name).collect();
    let mut right = true;
    for (at, name) in gate.by.iter().enumerate() {
        let place = Place::of(node, &format!("/by/{at}"));
        let wrong = match tokens.iter().find(|token| token.name == *name) {
            None => format!("there is no token `{name}`; expected {}", one_of(&names)),
            Some(token) if token.role < Role::Approve => {
                format!(
                    "the token `{name}` has the role `{}`, which does not approve",
                    token.role.as_str()
                )
            }
            Some(_) => continue,
        };
        right = false;
        let help = similar(name, &names).filter(|similar| similar != name);
        problems.push(
            &place.node.span,
            &place.path,
            wrong,
            help.map(|name| format!("did you mean `{name}`?")),
        );
    }
    let may = |token: &&Token| {
        token.role >= Role::Approve && (gate.by.is_empty() || gate.by.contains(&token.name))
    };
    let able = tokens.iter().filter(may).count();
    if right && able < gate.approvals {
        let message = format!(
            "the gate `{}` asks for {} approvals, and {able} of the tokens may give one",
            gate.name, gate.approvals
        );
        problems.help(node, message, "the roles `approve` and `admin` may");
    }
}
