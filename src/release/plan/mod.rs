//! What a release will do: the `release` block of the configuration, and `plan` in the API, as one
//! value.
//!
//! Steps, objectives and chances of error are [`replay::Plan`]'s, whose text they share, so that a
//! plan can be judged again from a recording; what decides nothing by numbers (gates, freeze
//! windows, preflight, rescue) is added here.

mod fields;
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
use crate::analysis::{self, replay};
use crate::model::Weight;
use crate::model::api::FieldProblem;

pub use preflight::{Preflight, Smoke};

/// Everything that a release will do. Frozen when it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What a replay needs of it. Its steps end with 100 percent.
    pub(crate) decided_by: replay::RunPlan,
    pub(crate) steps: Vec<Step>,
    /// What is asked for before the first step.
    pub start_gate: Option<Gate>,
    /// Which requests that fail on the canary the baseline answers instead.
    pub rescue: Rescue,
    /// Requests that may be on the canary at once; 1 to 1,000,000.
    pub canary_in_flight_max: u32,
    /// What the canary is asked before the first user; without it a TCP connection to each
    /// endpoint is made.
    pub preflight: Option<Preflight>,
    /// When the release neither starts nor advances.
    pub freeze: Vec<FreezeWindow>,
    /// Where a release begins that follows another soon.
    pub fast_follow: Option<FastFollow>,
}

/// One step: a weight, and what is asked for before the release goes on from there.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The canary's weight.
    pub weight: Weight,
    /// The approval that is asked for before the release leaves this step.
    pub gate: Option<Gate>,
    /// The conditions by which it is judged: hold, least requests, longest time and what follows
    /// that.
    pub judged: analysis::StepConditions,
}

/// Which requests that fail on the canary the baseline answers instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rescue {
    /// None.
    Off,
    /// Those whose method is safe.
    #[default]
    Safe,
    /// Those too that carry this header (in lower case): their sender says that they may be
    /// repeated.
    Header(String),
}

/// A release that begins soon after another was promoted may begin at a later step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastFollow {
    /// How soon is soon.
    pub within: Duration,
    /// The step that it begins at, counted from 1.
    pub from_step: usize,
}

impl Plan {
    /// A plan from a service's `release` block, in which each top-level key that a start names
    /// replaces the block's. Without both it is the default.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, with pointers relative to the plan.
    pub fn read(
        base: Option<&Map<String, Value>>,
        overlay: Option<&Map<String, Value>>,
    ) -> Result<Plan, Vec<FieldProblem>> {
        let both = base.into_iter().chain(overlay).flatten();
        // Later keys replace earlier ones.
        let whole: Map<String, Value> = both
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        read::read(&whole)
    }

    /// The whole plan with its defaults; [`Plan::read`] makes the same plan of it.
    pub fn to_json(&self) -> Map<String, Value> {
        write::write(self)
    }

    /// The same for people: values of the preflight's header fields and queries are left out, since
    /// they may be secret.
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

    /// The same as the judge takes them.
    pub fn judged_steps(&self) -> Vec<analysis::StepConditions> {
        self.steps.iter().map(|step| step.judged).collect()
    }

    /// The part that a replay needs.
    pub fn decided_by(&self) -> &replay::RunPlan {
        &self.decided_by
    }

    /// How attempt `attempt` (from 1) at the same build is judged. The tests have half of its
    /// chance of error, each budget a quarter.
    pub fn analysis(&self, attempt: u32) -> analysis::Options {
        let whole = self.decided_by.options.for_attempt(attempt, 1);
        analysis::Options {
            alpha: 0.5 * whole.alpha,
            ..whole
        }
    }

    /// Failures that users may see, beyond what the baseline's rate and chance explain.
    pub fn budget(&self) -> u64 {
        self.decided_by.budget.unwrap_or(replay::BUDGET)
    }

    /// Failures of the canary, whether or not users see them, beyond what the baseline's rate and
    /// chance explain.
    pub fn rescued_budget(&self) -> u64 {
        self.decided_by
            .rescued_budget
            .unwrap_or(replay::RESCUED_BUDGET)
    }

    /// The running rule of a budget of `limit` failures, for attempt `attempt`.
    pub fn budget_rule(&self, limit: u64, attempt: u32) -> analysis::Budget {
        let alpha = 0.5 * self.analysis(attempt).alpha;
        analysis::Budget::new(limit, alpha, self.decided_by.worse_by())
    }

    /// Whether somebody must approve something, for which there must be names: callers without
    /// tokens have none.
    pub fn needs_approval(&self) -> bool {
        self.gates().next().is_some()
    }

    /// A gate that can never open when `starter` starts the release, since too few others may
    /// approve it.
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

    /// The step that a release begins at, counted from 0, when the service's last release was
    /// promoted so long ago.
    pub fn first_step(&self, since_promotion: Option<Duration>) -> usize {
        match (self.fast_follow, since_promotion) {
            (Some(follow), Some(since)) if since <= follow.within => {
                let last = self.steps.len().saturating_sub(1);
                follow.from_step.saturating_sub(1).min(last)
            }
            _ => 0,
        }
    }

    /// The age in microseconds at which a unit of a sticky release counts for its step.
    pub fn bake_us(&self) -> u64 {
        u64::try_from(self.decided_by.bake.as_micros()).unwrap_or(u64::MAX)
    }

    /// All gates in the order in which they are met.
    pub(crate) fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.start_gate
            .iter()
            .chain(self.steps.iter().filter_map(|step| step.gate.as_ref()))
    }
}

impl Default for Plan {
    fn default() -> Self {
        let decided_by = read::completed(replay::RunPlan::default(), false);
        Plan {
            steps: read::steps(&decided_by, &mut Vec::new()),
            decided_by,
            start_gate: None,
            rescue: Rescue::default(),
            canary_in_flight_max: 256,
            preflight: None,
            freeze: Vec::new(),
            fast_follow: None,
        }
    }
}
