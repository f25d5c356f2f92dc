//! The state of a release.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::freeze::{Frozen, frozen};
use super::gate::{Gate, GateApproval};
use super::plan::{Plan, Step};
use crate::analysis::{ObjectiveDescriptor, WaitReason};
use crate::model::Weight;
use crate::model::api::{Approval, Phase, ReleaseOutcome, WaitingFor};
use crate::time::Timestamp;

/// A release: its request and its progress. It is a value: [`ReleaseState::next`] makes the next
/// one.
///
/// Times are wall-clock times, since they must outlive the process. A clock that is set back makes
/// nothing older and ends nothing early; phase times then stand still instead of going back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReleaseState {
    /// The identifier.
    pub id: String,
    /// The service.
    pub service: String,
    /// The upstream that holds the users.
    pub baseline: String,
    /// The upstream under test.
    pub canary: String,
    /// The build of the canary, if given.
    pub version: Option<String>,
    /// The change reference, if given.
    pub change: Option<String>,
    /// The reason for the start.
    pub reason: Option<String>,
    /// The person who started it.
    pub actor: String,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The attempt at this build, from 1.
    pub attempt: u32,
    /// The current phase.
    pub phase: Phase,
    /// The outcome, once it has ended.
    pub outcome: Option<ReleaseOutcome>,
    /// Ignores freeze windows. Whoever starts it so must check the permission
    /// ([`Command::overriding`](super::Command::overriding)).
    pub override_freeze: bool,
    /// The start time: microseconds since 1970, as all times here.
    pub started_us: i64,
    /// The start of the current phase or step.
    pub since_us: i64,
    /// The end time.
    pub ended_us: Option<i64>,
    /// The scheduled start; `None` means immediately.
    pub start_at_us: Option<i64>,
    /// The first step, counted from 0: [`Plan::first_step`].
    pub(crate) first_step: usize,
    /// The current step, counted from 0; `None` before the first.
    pub(crate) step: Option<usize>,
    pub(crate) paused: Option<Statement>,
    pub(crate) wait: Option<Wait>,
    pub(crate) voices: Vec<GateApproval>,
    /// The command that promoted early, with its reason, if any.
    pub(crate) hastened: Option<String>,
}

/// A command's caller and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Statement {
    pub(crate) by: String,
    pub(crate) reason: Option<String>,
}

/// Why the phase is `waiting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wait {
    /// The step passed; a pause, a gate or a freeze blocks the release.
    Passed,
    /// The judge asks for a person.
    Judge(WaitReason),
}

/// What blocks a release from advancing.
pub(crate) enum Barrier<'a> {
    Paused(&'a Statement),
    Schedule(i64),
    Gate(&'a Gate),
    Freeze(Frozen),
}

impl ReleaseState {
    /// A pending release with empty identity: the caller fills in the rest.
    pub(crate) fn pending(plan: Plan, now: Timestamp) -> ReleaseState {
        ReleaseState {
            id: String::new(),
            service: String::new(),
            baseline: String::new(),
            canary: String::new(),
            version: None,
            change: None,
            reason: None,
            actor: String::new(),
            plan: Arc::new(plan),
            attempt: 1,
            phase: Phase::Pending,
            outcome: None,
            override_freeze: false,
            started_us: now.unix_us(),
            since_us: now.unix_us(),
            ended_us: None,
            start_at_us: None,
            first_step: 0,
            step: None,
            paused: None,
            wait: None,
            voices: Vec::new(),
            hastened: None,
        }
    }

    /// The outcome for display: after an early promotion by a person, that command comes before the
    /// last evidence.
    pub fn displayed_outcome(&self) -> Option<ReleaseOutcome> {
        let mut outcome = self.outcome.clone()?;
        if let Some(command) = self
            .hastened
            .as_ref()
            .filter(|_| self.phase == Phase::Promoted)
            && !outcome.reason.starts_with(command)
        {
            outcome.reason = format!("{command}; {}", outcome.reason);
        }
        Some(outcome)
    }

    /// The canary's weight.
    pub fn weight(&self) -> Weight {
        match self.phase {
            Phase::Pending | Phase::Preflight | Phase::RolledBack | Phase::Cancelled => {
                Weight::ZERO
            }
            Phase::Promoted => Weight::FULL,
            Phase::Progressing | Phase::Waiting | Phase::Baking => {
                self.present_step().map_or(Weight::ZERO, |step| step.weight)
            }
        }
    }

    /// The first step, counted from 0.
    pub fn first_step(&self) -> usize {
        self.first_step
    }

    /// The current step, counted from 0, as [`Trial::begin_step`](super::Trial::begin_step) expects
    /// it; `None` before the first.
    pub fn step(&self) -> Option<usize> {
        self.step
    }

    /// The current step counted from 1, for display; 0 before the first.
    pub fn step_number(&self) -> usize {
        self.step.map_or(0, |step| step + 1)
    }

    /// Whether a person, a gate, a freeze or a suspended comparison blocks it, whatever the judge
    /// finds.
    pub fn is_held(&self) -> bool {
        let kept = matches!(
            self.wait,
            Some(Wait::Passed | Wait::Judge(WaitReason::CanaryFull | WaitReason::BaselineDown))
        );
        self.paused.is_some() || kept
    }

    /// What a person should look at, if the judge asks for one.
    pub(crate) fn asks_for_person(&self) -> Option<WaitReason> {
        match self.wait {
            Some(Wait::Judge(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Whether evidence or a budget ended it. That may be a false alarm, so a further attempt at
    /// the same build gets a smaller error probability.
    pub fn was_judged_bad(&self) -> bool {
        let objective = self
            .outcome
            .as_ref()
            .and_then(|outcome| outcome.objective.as_deref());
        let objectives = ObjectiveDescriptor::ALL.map(|objective| objective.name);
        let is_judged = |by| objectives.contains(&by) || matches!(by, "budget" | "rescued_budget");
        self.phase == Phase::RolledBack && objective.is_some_and(is_judged)
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Whether the canary has traffic to judge.
    pub fn is_judged(&self) -> bool {
        matches!(
            self.phase,
            Phase::Progressing | Phase::Waiting | Phase::Baking
        )
    }

    /// What the release is waiting for, if anything.
    pub fn waiting_for(&self, now: Timestamp) -> Option<WaitingFor> {
        if self.phase.is_over() {
            return None;
        }
        let may_block = match (self.phase, self.wait) {
            (Phase::Pending, _) | (Phase::Waiting, Some(Wait::Passed)) => true,
            (_, Some(Wait::Judge(reason))) if self.paused.is_none() => {
                return Some(by_judge(reason));
            }
            _ => self.paused.is_some(),
        };
        let barrier = if may_block {
            self.barrier(now.unix_us())
        } else {
            None
        };
        barrier.map(|barrier| barrier.waiting_for(self, now.unix_us()))
    }

    /// All approvals so far.
    pub fn approvals(&self) -> Vec<Approval> {
        let shown = |approval: &GateApproval| Approval {
            gate: approval.gate.clone(),
            by: approval.by.clone(),
            at: Timestamp::new(0, approval.unix_us).rfc3339(),
            reason: approval.reason.clone(),
        };
        self.voices.iter().map(shown).collect()
    }

    pub(crate) fn present_step(&self) -> Option<&Step> {
        self.plan.steps().get(self.step?)
    }

    /// The gate of the current step; before the first step, the start gate.
    pub(crate) fn present_gate(&self) -> Option<&Gate> {
        match self.step {
            None => self.plan.start_gate.as_ref(),
            Some(_) => self.present_step()?.gate.as_ref(),
        }
    }

    /// The gates from here to the end.
    pub(crate) fn gates_ahead(&self) -> impl Iterator<Item = &Gate> {
        let at_start = self.step.is_none();
        let from = self.step.unwrap_or(self.first_step);
        let of_steps = self
            .plan
            .steps()
            .iter()
            .skip(from)
            .filter_map(|step| step.gate.as_ref());
        self.plan
            .start_gate
            .iter()
            .filter(move |_| at_start)
            .chain(of_steps)
    }

    /// What blocks the release apart from the judge; `None` when it may advance.
    pub(crate) fn barrier(&self, now_us: i64) -> Option<Barrier<'_>> {
        if let Some(statement) = &self.paused {
            return Some(Barrier::Paused(statement));
        }
        if let Some(at) = self
            .start_at_us
            .filter(|at| self.step.is_none() && now_us < *at)
        {
            return Some(Barrier::Schedule(at));
        }
        if let Some(gate) = self
            .present_gate()
            .filter(|gate| !gate.is_open(&self.voices, now_us))
        {
            return Some(Barrier::Gate(gate));
        }
        self.frozen(now_us).map(Barrier::Freeze)
    }

    /// The freeze in force. At 100 percent no traffic is left to move.
    pub(crate) fn frozen(&self, now_us: i64) -> Option<Frozen> {
        if self.override_freeze || self.weight() == Weight::FULL {
            return None;
        }
        frozen(&self.plan.freeze, now_us)
    }
}

impl Barrier<'_> {
    pub(crate) fn waiting_for(&self, release: &ReleaseState, now_us: i64) -> WaitingFor {
        let (kind, until_us) = match self {
            Barrier::Paused(_) => ("resume", None),
            Barrier::Schedule(at) => ("schedule", Some(*at)),
            Barrier::Gate(_) => ("gate", None),
            Barrier::Freeze(frozen) => ("freeze", Some(frozen.until_us)),
        };
        WaitingFor {
            kind: kind.to_owned(),
            detail: self.detail(release, now_us),
            until: until_us.map(rfc3339),
        }
    }

    pub(crate) fn detail(&self, release: &ReleaseState, now_us: i64) -> String {
        match self {
            Barrier::Paused(statement) => {
                format!(
                    "paused by {}{}",
                    statement.by,
                    because(statement.reason.as_deref())
                )
            }
            Barrier::Schedule(at) => format!("it starts at {}", rfc3339(*at)),
            Barrier::Gate(gate) => gate.missing(&release.voices, now_us),
            Barrier::Freeze(frozen) => {
                format!(
                    "frozen by `{}` until {}",
                    frozen.window,
                    rfc3339(frozen.until_us)
                )
            }
        }
    }
}

fn by_judge(reason: WaitReason) -> WaitingFor {
    WaitingFor {
        kind: reason.as_str().to_owned(),
        detail: wait_detail(reason).to_owned(),
        until: None,
    }
}

pub(crate) fn wait_detail(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Split => {
            "traffic is not split according to the weights, so the comparison is not valid"
        }
        WaitReason::Slo => {
            "both versions exceed a fixed limit, so the canary alone is not the \
             cause"
        }
        WaitReason::Slow => {
            "at full weight more than 2 % of the canary's responses are slower than twice the \
             baseline's earlier p99"
        }
        WaitReason::Aborts => {
            "clients abort requests on the canary more often than on the baseline"
        }
        WaitReason::CanaryFull => {
            "the canary has reached canary_in_flight_max, or failed faster than the disk records \
             it: further requests go to the baseline, and the comparison is suspended"
        }
        WaitReason::BaselineDown => {
            "no endpoint of the baseline passes its health checks: its share goes to the canary, \
             and the comparison is suspended"
        }
        WaitReason::Inconclusive => {
            "the step is inconclusive: it reached max_duration without enough evidence"
        }
        WaitReason::TooLittleTraffic => {
            "the step reached max_duration, but the canary had fewer requests than min_requests: \
             too few to decide, even where `inconclusive` is `advance`"
        }
    }
}

pub(crate) fn because(reason: Option<&str>) -> String {
    reason.map_or(String::new(), |reason| format!(": {reason}"))
}

pub(crate) fn rfc3339(unix_us: i64) -> String {
    Timestamp::new(0, unix_us).rfc3339()
}
