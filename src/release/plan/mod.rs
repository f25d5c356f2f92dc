//! What a release will do: the `release` block of the configuration and `plan` in the API, as one
//! value.
//!
//! Steps, objectives and error probabilities belong to [`replay::RunPlan`] and share its text, so
//! that a recording can be judged again by its plan. This module adds what no statistic decides:
//! gates, freeze windows, preflight, rescue.

mod objectives;
mod preflight;
mod protected;
mod read;
mod steps;
mod write;

use std::time::Duration;

use serde_json::{Map, Value};

use super::freeze::FreezeWindow;
use super::gate::Gate;
use crate::analysis;
use crate::document::{Node, ProblemList, Type};
use crate::model::Weight;
use crate::model::api::FieldProblem;
use crate::release::replay;

pub use preflight::{Preflight, Smoke};

/// The plan of a release, fixed when it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The part that a replay needs. Its steps end with 100 percent.
    pub(crate) decided_by: replay::RunPlan,
    pub(crate) steps: Vec<Step>,
    /// The gate before the first step.
    pub start_gate: Option<Gate>,
    /// The requests that fail on the canary and are retried on the baseline.
    pub rescue: Rescue,
    /// The maximum of concurrent requests on the canary; 1 to 1,000,000.
    pub canary_in_flight_max: u32,
    /// The checks before the first user; without them a TCP connection to each endpoint is made.
    pub preflight: Option<Preflight>,
    /// The times in which the release neither starts nor advances.
    pub freeze: Vec<FreezeWindow>,
    /// The first step of a release that soon follows a promotion.
    pub fast_follow: Option<FastFollow>,
}

/// One step: a weight, and the conditions for leaving it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The canary's weight.
    pub weight: Weight,
    /// The gate that must be open before the release leaves this step.
    pub gate: Option<Gate>,
    /// The conditions by which it is judged: hold, minimum requests, maximum duration and what
    /// follows an inconclusive result.
    pub judged: analysis::StepConditions,
}

/// The requests that fail on the canary and are retried on the baseline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rescue {
    /// None.
    Off,
    /// Requests with a safe method.
    #[default]
    Safe,
    /// Also requests with this header (in lower case), by which the client says that they may be
    /// repeated.
    Header(String),
}

/// A release that starts soon after a promotion may begin at a later step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastFollow {
    /// The maximum time since the promotion.
    pub within: Duration,
    /// The first step, counted from 1.
    pub from_step: usize,
}

impl Plan {
    /// Reads a plan from a service's `release` block; each top-level key of a start request
    /// replaces the block's key. Without both it is the default plan.
    ///
    /// # Errors
    ///
    /// All problems, with pointers relative to the plan.
    pub fn read(
        base: Option<&Map<String, Value>>,
        overlay: Option<&Map<String, Value>>,
    ) -> Result<Plan, Vec<FieldProblem>> {
        let both = base.into_iter().chain(overlay).flatten();
        // Later keys replace earlier ones.
        let whole: Map<String, Value> = both
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let problems = ProblemList::default();
        let node = Node::from_json(&Value::Object(whole));
        match Plan::kind().read(&node, &problems) {
            Some(plan) if problems.is_empty() => Ok(plan),
            _ => Err(problems.into_fields()),
        }
    }

    /// A plan as a type of documents.
    pub(crate) fn kind() -> Type<'static, Plan> {
        Type::object(read::plan).named("Release")
    }

    /// The gates and freezes of a recorded plan; none if they are invalid. Of its steps only the
    /// gates count.
    pub(super) fn read_recorded(plan: &Map<String, Value>) -> Plan {
        let kept = |key: &str| ["steps", "gate", "freeze"].contains(&key);
        let kept = plan.iter().filter(|(key, _)| kept(key));
        let kept = kept
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Plan::read(Some(&kept), None).unwrap_or_default()
    }

    /// The whole plan with its defaults; [`Plan::read`] gives the same plan.
    pub fn to_json(&self) -> Map<String, Value> {
        write::write(self)
    }

    /// The plan for display: values of the preflight's headers and queries are redacted, since they
    /// may be secret.
    pub fn to_shown(&self) -> Map<String, Value> {
        let preflight = self.preflight.as_ref().map(Preflight::redacted);
        let shown = Plan {
            preflight,
            ..self.clone()
        };
        shown.to_json()
    }

    /// The steps in order; the last is at 100 percent.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps as the judge needs them.
    pub fn judged_steps(&self) -> Vec<analysis::StepConditions> {
        self.steps.iter().map(|step| step.judged).collect()
    }

    /// The part that a replay needs.
    pub fn decided_by(&self) -> &replay::RunPlan {
        &self.decided_by
    }

    /// The analysis options for attempt `attempt` (from 1) at the same build. The tests have half
    /// of the error probability, each budget a quarter.
    pub fn analysis(&self, attempt: u32) -> analysis::Options {
        let whole = self.decided_by.options.for_attempt(attempt, 1);
        analysis::Options {
            alpha: 0.5 * whole.alpha,
            ..whole
        }
    }

    /// The budget of failures that users may see, beyond the baseline's rate and chance.
    pub fn budget(&self) -> u64 {
        self.decided_by.budget.unwrap_or(replay::BUDGET)
    }

    /// The budget of all failures of the canary, visible to users or not, beyond the baseline's
    /// rate and chance.
    pub fn rescued_budget(&self) -> u64 {
        self.decided_by
            .rescued_budget
            .unwrap_or(replay::RESCUED_BUDGET)
    }

    /// The stopping rule of a budget of `limit` failures for attempt `attempt`.
    pub fn budget_rule(&self, limit: u64, attempt: u32) -> analysis::Budget {
        let alpha = 0.5 * self.analysis(attempt).alpha;
        analysis::Budget::new(limit, alpha, self.decided_by.worse_by())
    }

    /// Whether the plan has gates. Gates need named callers, and callers without tokens have no
    /// name.
    pub fn needs_approval(&self) -> bool {
        self.gates().next().is_some()
    }

    /// A gate that can never open when `starter` starts the release, because too few other people
    /// may approve it.
    pub fn gate_beyond(&self, starter: &str) -> Option<&Gate> {
        self.gates().find(|gate| {
            let able = gate
                .by
                .iter()
                .filter(|by| gate.admits(by, starter).is_ok())
                .count();
            !gate.by.is_empty() && able < gate.approvals
        })
    }

    /// The first step, counted from 0, when the service's last release was promoted
    /// `since_promotion` ago.
    pub fn first_step(&self, since_promotion: Option<Duration>) -> usize {
        match (self.fast_follow, since_promotion) {
            (Some(follow), Some(since)) if since <= follow.within => {
                let last = self.steps.len().saturating_sub(1);
                follow.from_step.saturating_sub(1).min(last)
            }
            _ => 0,
        }
    }

    /// The age in microseconds at which a unit of a sticky release matures.
    pub fn bake_us(&self) -> u64 {
        u64::try_from(self.decided_by.bake.as_micros()).unwrap_or(u64::MAX)
    }

    /// All gates in the order of the steps.
    pub(crate) fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.start_gate
            .iter()
            .chain(self.steps.iter().filter_map(|step| step.gate.as_ref()))
    }
}
