//! Protections of the configuration (gates, freeze windows, preflight). Only an admin may override
//! them, with a reason, in the plan of a release or with manual weights.

use serde_json::{Map, Value, json};

use super::start::unfit;
use crate::control::controller::ServiceEntry;
use crate::control::{Intent, Refusal};
use crate::release::Plan;
use crate::time::Timestamp;

/// The journal's record of the plan of a release.
pub(super) struct PlanRecord {
    /// The whole plan.
    plan: Map<String, Value>,
    /// The configuration's values of the fields that the caller replaced.
    replaced: Option<Map<String, Value>>,
    /// Protections of the configuration that the caller's plan removes, for people.
    overridden: Vec<String>,
}

impl PlanRecord {
    /// The record of `plan`, the configuration's plan with the caller's fields merged in.
    pub(super) fn of(
        managed: &ServiceEntry,
        given: Option<&Map<String, Value>>,
        plan: &Plan,
    ) -> Result<PlanRecord, Refusal> {
        let shown = plan.to_shown();
        let Some(given) = given.filter(|given| !given.is_empty()) else {
            return Ok(PlanRecord {
                plan: shown,
                replaced: None,
                overridden: Vec::new(),
            });
        };
        let configured = super::start::plan(managed, None, true)?;
        let mut before = configured.to_shown();
        let replaced = given.keys().map(|key| {
            let value = before.remove(key).unwrap_or(Value::Null);
            (key.clone(), value)
        });
        Ok(PlanRecord {
            plan: shown,
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
            "the plan removes protections of the configuration: {lost}. Only the role \"admin\" \
             may override them, with a reason; omit these fields from the plan, or keep the \
             configuration's values"
        );
        may_override(intent, detail, |intent_lacks| {
            format!("the plan removes protections of the configuration, {intent_lacks}: {lost}")
        })
    }

    /// The same as a warning in a forecast.
    pub(super) fn warning(&self) -> Option<String> {
        let lost = self.overridden.join("; ");
        (!lost.is_empty()).then(|| {
            format!(
                "only the role \"admin\" may start this, with a reason, since it overrides \
                 protections of the configuration: {lost}"
            )
        })
    }

    pub(super) fn description(&self) -> String {
        if self.overridden.is_empty() {
            return String::new();
        }
        format!(
            "; overrides of the configuration: {}",
            self.overridden.join("; ")
        )
    }

    /// The journal fields of the release.
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
        return Err(unfit("/reason", unfit_detail("which requires a reason")));
    }
    Ok(())
}

impl ServiceEntry {
    /// Protections that manual weights would bypass: gates, and a freeze window in force. Preflight
    /// applies to releases only and does not count.
    pub(in crate::control) fn bypassed_protections(&self, now: Timestamp) -> Vec<String> {
        // The configuration in use has been validated.
        super::start::plan(self, None, true)
            .map_or_else(|_| Vec::new(), |plan| plan.barriers(now.unix_us()))
    }

    /// Whether the caller may move weight away from the baseline manually.
    pub(in crate::control) fn may_set_weights(
        &self,
        passed: &[String],
        intent: &Intent,
    ) -> Result<(), Refusal> {
        if passed.is_empty() {
            return Ok(());
        }
        let passed = passed.join("; ");
        let detail = format!(
            "manual weights would bypass protections in the configuration of {}: {passed}. Only \
             the role \"admin\" may do that, with a reason; start a release instead",
            self.spec.name
        );
        may_override(intent, detail, |intent_lacks| {
            format!(
                "manual weights bypass protections of the configuration, {intent_lacks}: {passed}"
            )
        })
    }
}
