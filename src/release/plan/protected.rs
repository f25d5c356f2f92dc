//! The protections of one plan (gates, freeze windows, preflight) that another plan removes.
//!
//! The rule is strict, so that it is easy to state and to check. Each gate must be at the same
//! place (the start, or the step of the same weight), with the same name and at least as strict;
//! each freeze window must be present with the same text; each preflight request must be present
//! unchanged and in the same order. Anything may be added.

use super::{Plan, Preflight, Smoke};
use crate::document::quantity::write_duration;
use crate::model::Weight;
use crate::release::freeze::frozen;
use crate::release::gate::Gate;

impl Plan {
    /// The protections of this plan that `other` lacks or weakens, one line each for the user.
    /// Empty if `other` protects at least as well.
    pub fn weakened_by(&self, other: &Plan) -> Vec<String> {
        let mut lost = Vec::new();
        if let Some(gate) = &self.start_gate {
            lost.extend(gate_lost(gate, "at the start", other.start_gate.as_ref()));
        }
        for step in &self.steps {
            if let Some(gate) = &step.gate {
                let place = format!("at {}%", step.weight);
                lost.extend(gate_lost(gate, &place, other.gate_at(step.weight)));
            }
        }
        let missing = self
            .freeze
            .iter()
            .filter(|window| !other.freeze.contains(window));
        lost.extend(missing.map(|window| format!("the freeze window `{window}` would be removed")));
        if let Some(preflight) = &self.preflight {
            lost.extend(preflight_lost(preflight, other.preflight.as_ref()));
        }
        lost
    }

    /// The barriers before more traffic goes to a canary: the gates, and a freeze window in force
    /// at `now_us`.
    pub(crate) fn barriers(&self, now_us: i64) -> Vec<String> {
        let gates = self.gates().map(|gate| format!("the gate `{}`", gate.name));
        let frozen = frozen(&self.freeze, now_us)
            .map(|frozen| format!("the freeze window `{}`", frozen.window));
        gates.chain(frozen).collect()
    }

    fn gate_at(&self, weight: Weight) -> Option<&Gate> {
        self.steps
            .iter()
            .find(|step| step.weight == weight)?
            .gate
            .as_ref()
    }
}

fn gate_lost(gate: &Gate, place: &str, other: Option<&Gate>) -> Vec<String> {
    let name = &gate.name;
    let Some(other) = other.filter(|other| other.name == *name) else {
        return vec![format!("the gate `{name}` {place} would be removed")];
    };
    let mut lost = Vec::new();
    if other.approvals < gate.approvals {
        lost.push(format!(
            "the gate `{name}` {place} would need {} instead of {} approvals",
            other.approvals, gate.approvals
        ));
    }
    if !gate.by.is_empty() {
        let others: Vec<&str> = other
            .by
            .iter()
            .filter(|by| !gate.by.contains(by))
            .map(String::as_str)
            .collect();
        let others = if other.by.is_empty() {
            "anyone with the role approve".to_owned()
        } else {
            others.join(", ")
        };
        if !others.is_empty() {
            lost.push(format!(
                "the gate `{name}` {place} could also be approved by {others}"
            ));
        }
    }
    if let Some(expires) = gate.expires
        && other.expires.is_none_or(|other| other > expires)
    {
        let other = other.expires.map_or("for ever".to_owned(), |other| {
            format!("for {}", write_duration(other))
        });
        lost.push(format!(
            "approvals of the gate `{name}` {place} would count {other} instead of for {}",
            write_duration(expires)
        ));
    }
    lost
}

fn preflight_lost(preflight: &Preflight, other: Option<&Preflight>) -> Vec<String> {
    let mut lost = Vec::new();
    let mut left = other.map_or(&[][..], |other| &other.requests).iter();
    for smoke in &preflight.requests {
        // A subsequence: the next request must come after the last match.
        let mut rest = left.clone();
        if rest.any(|other| other == smoke) {
            left = rest;
        } else {
            lost.push(format!(
                "the preflight request `{}` would be removed or changed",
                line(smoke)
            ));
        }
    }
    if let Some(other) = other
        && other.timeout > preflight.timeout
    {
        lost.push(format!(
            "the preflight could take {} instead of {}",
            write_duration(other.timeout),
            write_duration(preflight.timeout)
        ));
    }
    lost
}

/// A preflight request as text, without what could be secret.
fn line(smoke: &Smoke) -> String {
    let path = smoke.path.split(['?', '#']).next().unwrap_or_default();
    format!("{} {path}", smoke.method)
}
