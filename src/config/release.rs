//! `release` of a service. [`Plan`] reads the block, as it reads the plans of the admin API; here
//! its gates are held against the tokens.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::admin::{Role, Token};
use crate::document::{Node, ProblemList, Type};
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

/// The block as the JSON of a plan: the keys that it gives.
pub(super) fn release(callers: Callers<'_>) -> Type<'_, Arc<Map<String, Value>>> {
    let shape = || Plan::kind().shape();
    Type::new(shape, move |node, problems| {
        let known = problems.count();
        let plan = Plan::kind().read(node, problems)?;
        if problems.count() > known {
            return None;
        }
        check_gates(node, problems, &plan, callers);
        let mut block = plan.to_json();
        block.retain(|key, _| node.get(key).is_some());
        Some(Arc::new(block))
    })
}

/// Gates that nobody could ever pass.
fn check_gates(block: &Node, problems: &ProblemList, plan: &Plan, callers: Callers<'_>) {
    let steps = block.get("steps").map_or(&[][..], Node::items);
    let nodes = std::iter::once(block).chain(steps);
    let nodes = nodes.filter_map(|node| node.get("gate"));
    for (node, gate) in nodes.zip(plan.gates()) {
        match callers {
            Callers::Nameless => {
                let message = format!(
                    "the gate `{}` waits for an approval, and the admin API has no tokens by \
                     which to know who approves",
                    gate.name
                );
                problems.help(
                    node,
                    message,
                    "give `admin` its `tokens` or a `tokens_file`, or take the gate out",
                );
            }
            Callers::Unclear => {}
            Callers::Named(tokens) => check_gate(node, problems, gate, tokens),
        }
    }
}

/// A gate asks for callers that exist and may approve, and for no more than there are.
fn check_gate(node: &Node, problems: &ProblemList, gate: &Gate, tokens: &[Token]) {
    let names: Vec<&str> = tokens.iter().map(|token| &*token.name).collect();
    let by = node.get("by").map_or(&[][..], Node::items);
    let known = problems.count();
    for (node, name) in by.iter().zip(&gate.by) {
        let wrong = match tokens.iter().find(|token| token.name == *name) {
            None => format!(
                "there is no token {}; expected {}",
                node.quoted(),
                one_of(&names)
            ),
            Some(token) if token.role < Role::Approve => {
                format!(
                    "the token {} has the role `{}`, which does not approve",
                    node.quoted(),
                    token.role.as_str()
                )
            }
            Some(_) => continue,
        };
        let help = similar(name, &names).filter(|similar| similar != name);
        match help.filter(|_| !node.substituted) {
            Some(name) => problems.help(node, wrong, format!("did you mean `{name}`?")),
            None => problems.at(node, wrong),
        }
    }
    let may = |token: &&Token| {
        token.role >= Role::Approve && (gate.by.is_empty() || gate.by.contains(&token.name))
    };
    let able = tokens.iter().filter(may).count();
    if problems.count() == known && able < gate.approvals {
        let message = format!(
            "the gate `{}` asks for {} approvals, and {able} of the tokens may give one",
            gate.name, gate.approvals
        );
        problems.help(node, message, "the roles `approve` and `admin` may");
    }
}
