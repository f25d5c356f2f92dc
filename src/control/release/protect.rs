//! Gates, freeze windows and preflight of the configuration hold, unless an admin overrides them
//! with a reason: in the plan of a start, and where weights are set by hand.

use serde_json::{Map, Value, json};

use super::start::unfit;
use crate::control::controller::ServiceEntry;
use crate::control::{Intent, Refusal};
use crate::release::Plan;
use crate::time::Timestamp;

/// What the journal says of the plan of a release.
pub(super) struct PlanRecord {
    /// The whole plan.
    plan: Map<String, Value>,
    /// The configuration's values of the fields that the caller gave.
    replaced: Option<Map<String, Value>>,
    /// What the caller's plan takes away of the configuration's protections, for people.
    overridden: Vec<String>,
}

impl PlanRecord {
    /// Of `plan`, which is the configuration's with what the caller gave in place of the same
    /// fields.
    pub(super) fn of(
        managed: &ServiceEntry,
        given: Option<&Map<String, Value>>,
        plan: &Plan,
    ) -> Result<PlanRecord, Refusal> {
        let told = plan.to_shown();
        let Some(given) = given.filter(|given| !given.is_empty()) else {
            return Ok(PlanRecord {
                plan: told,
                replaced: None,
                overridden: Vec::new(),
            });
        };
        let configured = super::start::plan(managed, None, true)?;
        let mut shown = configured.to_shown();
        let replaced = given.keys().map(|key| {
            let before = shown.remove(key).unwrap_or(Value::Null);
            (key.clone(), before)
        });
        Ok(PlanRecord {
            plan: told,
            replaced: Some(replaced.collect()),
            overridden: configured.weakened_by(plan),
        })
    }

    /// Whether the caller may start a release with this plan.
    pub(super) fn may_start(&self, intent: &Intent) -> Result<(), Refusal> {
        if self.overridden.is_empty() {
            return Ok(());
        }
        let lost = self.overridden.join("; ");
        let detail = format!(
            "the plan weakens what the configuration asks for: {lost}. Only the role \"admin\" \
             may do that, with a reason; leave these fields out of the plan, or keep what the \
             configuration has there"
        );
        may_override(intent, detail, |intent_lacks| {
            format!("the plan weakens what the configuration asks for, {intent_lacks}: {lost}")
        })
    }

    /// The same for whoever only looks at the plan.
    pub(super) fn warning(&self) -> Option<String> {
        let lost = self.overridden.join("; ");
        (!lost.is_empty()).then(|| {
            format!(
                "only the role \"admin\" may start this, with a reason, since it weakens what the \
                 configuration asks for: {lost}"
            )
        })
    }

    pub(super) fn in_words(&self) -> String {
        if self.overridden.is_empty() {
            return String::new();
        }
        format!(
            "; the configuration is overridden: {}",
            self.overridden.join("; ")
        )
    }

    /// The fields of the release in the journal.
    pub(super) fn fields(&self) -> Vec<(String, Value)> {
        let mut fields = vec![("plan".to_owned(), Value::Object(self.plan.clone()))];
        if let Some(replaced) = &self.replaced {
            fields.push(("replaced".to_owned(), Value::Object(replaced.clone())));
        }
        if !self.overridden.is_empty() {
            fields.push(("overridden".to_owned(), json!(self.overridden)));
        }
        fields
    }
}

fn may_override(
    intent: &Intent,
    forbidden: String,
    unfit_detail: impl Fn(&str) -> String,
) -> Result<(), Refusal> {
    if !intent.may_override {
        return Err(Refusal::Forbidden(forbidden));
    }
    let reason = intent.reason.as_deref();
    if reason.is_none_or(|reason| reason.trim().is_empty()) {
        return Err(unfit("/reason", unfit_detail("which needs a reason")));
    }
    Ok(())
}

impl ServiceEntry {
    /// What the configuration asks for before a release moves traffic, and weights by hand would
    /// pass: gates, and a freeze window that is in force. A preflight is a release's own, and
    /// does not count.
    pub(in crate::control) fn passed_by_hand(&self, now: Timestamp) -> Vec<String> {
        // A configuration that is in use has been read before.
        super::start::plan(self, None, true)
            .map_or_else(|_| Vec::new(), |plan| plan.barriers(now.unix_us()))
    }

    /// Whether the caller may move weight away from the baseline by hand.
    pub(in crate::control) fn may_move_by_hand(
        &self,
        passed: &[String],
        intent: &Intent,
    ) -> Result<(), Refusal> {
        if passed.is_empty() {
            return Ok(());
        }
        let passed = passed.join("; ");
        let detail = format!(
            "weights by hand would pass what the configuration of {} asks for: {passed}. Only the \
             role \"admin\" may do that, with a reason; start a release instead",
            self.spec.name
        );
        may_override(intent, detail, |intent_lacks| {
            format!(
                "weights by hand pass what the configuration asks for, {intent_lacks}: {passed}"
            )
        })
    }
}
