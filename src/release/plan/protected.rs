//! What a plan takes away of the protections of another: gates, freeze windows and the preflight.
//!
//! The rule is strict, so that it is easy to state and to check. Each gate must be at the same
//! place (the start, or the step of the same weight), with the same name, and at least as hard to
//! pass; each freeze window must be there as it is written; each request of the preflight must be
//! there unchanged and in the same order. Anything may be added.

use std::time::Duration;

use super::{Plan, Preflight, Smoke};
use crate::model::Weight;
use crate::release::freeze::frozen;
use crate::release::gate::Gate;

impl Plan {
    /// What this plan asks for before the canary gets traffic, or more of it, and `other` does not:
    /// one line for each, for people. Empty if `other` protects as well or better.
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

    /// What it asks for before more traffic goes to a canary: its gates, and a freeze window that
    /// is in force at `now_us`.
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

fn gate_lost(gate: &Gate, place: &str, kept: Option<&Gate>) -> Vec<String> {
    let name = &gate.name;
    let Some(kept) = kept.filter(|kept| kept.name == *name) else {
        return vec![format!("the gate `{name}` {place} would be removed")];
    };
    let mut lost = Vec::new();
    if kept.approvals < gate.approvals {
        lost.push(format!(
            "the gate `{name}` {place} would need {} instead of {} approvals",
            kept.approvals, gate.approvals
        ));
    }
    if !gate.by.is_empty() {
        let others: Vec<&str> = kept
            .by
            .iter()
            .filter(|by| !gate.by.contains(by))
            .map(String::as_str)
            .collect();
        let others = if kept.by.is_empty() {
            "anybody with the role approve".to_owned()
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
        && kept.expires.is_none_or(|kept| kept > expires)
    {
        let kept = kept
            .expires
            .map_or("for ever".to_owned(), |kept| format!("for {}", time(kept)));
        lost.push(format!(
            "approvals of the gate `{name}` {place} would count {kept} instead of for {}",
            time(expires)
        ));
    }
    lost
}

fn preflight_lost(preflight: &Preflight, kept: Option<&Preflight>) -> Vec<String> {
    let mut lost = Vec::new();
    let mut left = kept.map_or(&[][..], |kept| &kept.requests).iter();
    for smoke in &preflight.requests {
        // A subsequence: a request that was found stays found, and the next has to come after it.
        let mut ahead = left.clone();
        if ahead.any(|kept| kept == smoke) {
            left = ahead;
        } else {
            lost.push(format!(
                "the preflight request `{}` would be removed or changed",
                line(smoke)
            ));
        }
    }
    if let Some(kept) = kept
        && kept.timeout > preflight.timeout
    {
        lost.push(format!(
            "the preflight could take {} instead of {}",
            time(kept.timeout),
            time(preflight.timeout)
        ));
    }
    lost
}

/// A request of the preflight in words, without what could be secret.
fn line(smoke: &Smoke) -> String {
    let path = smoke.path.split(['?', '#']).next().unwrap_or_default();
    format!("{} {path}", smoke.method)
}

fn time(duration: Duration) -> String {
    super::write::time(duration)
}
