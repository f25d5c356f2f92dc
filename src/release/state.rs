//! Where a release is.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::freeze::{Frozen, frozen};
use super::gate::{Gate, GateApproval};
use super::plan::{Plan, Step};
use crate::analysis::WaitReason;
use crate::model::Weight;
use crate::model::api::{Approval, Phase, ReleaseOutcome, WaitingFor};
use crate::time::Timestamp;

/// A release: what was asked for, and how far it has come. It is a value: [`Release::next`] makes
/// the one that follows.
///
/// Times are the wall clock's, since they must outlive the process. A clock that is set back makes
/// nothing older and ends nothing early; times of phases then stand still instead of going back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReleaseState {
    /// Its identity.
    pub id: String,
    /// The service.
    pub service: String,
    /// The upstream that holds the users.
    pub baseline: String,
    /// The upstream that is being proved.
    pub canary: String,
    /// The build of the canary, if it was told.
    pub version: Option<String>,
    /// The reference of the change that it brings.
    pub change: Option<String>,
    /// Why it was started.
    pub reason: Option<String>,
    /// Who started it.
    pub actor: String,
    /// What it will do.
    pub plan: Arc<Plan>,
    /// Which try at this build it is, from 1.
    pub attempt: u32,
    /// Where it is.
    pub phase: Phase,
    /// How it ended.
    pub outcome: Option<ReleaseOutcome>,
    /// It goes on through freeze windows; who starts it so has to have checked that this may be
    /// asked ([`Command::overriding`](super::Command::overriding)).
    pub override_freeze: bool,
    /// When it was started: microseconds since 1970, as all times here.
    pub started_us: i64,
    /// When the present phase or step began.
    pub since_us: i64,
    /// When it ended.
    pub ended_us: Option<i64>,
    /// When it may begin; `None` at once.
    pub start_at_us: Option<i64>,
    /// The step that it begins at, counted from 0: [`Plan::first_step`].
    pub(crate) first_step: usize,
    /// The step that it is at, counted from 0; `None` before the first.
    pub(crate) step: Option<usize>,
    pub(crate) paused: Option<Statement>,
    pub(crate) wait: Option<Wait>,
    pub(crate) voices: Vec<GateApproval>,
    /// Who took it past the steps that were left, and why, if somebody did.
    pub(crate) hastened: Option<String>,
}

/// Who said something, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Statement {
    pub(crate) by: String,
    pub(crate) reason: Option<String>,
}

/// Why the phase is `waiting`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wait {
    /// The step has been passed; a person, a gate or a freeze keeps the release there.
    Passed,
    /// The judge wants a person to look.
    Judge(WaitReason),
}

/// What keeps a release from going on.
pub(crate) enum Barrier<'a> {
    Paused(&'a Statement),
    Schedule(i64),
    Gate(&'a Gate),
    Freeze(Frozen),
}

impl ReleaseState {
    /// A release that waits to begin, of nobody and nothing yet: who starts it fills in the rest.
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

    /// How it ended, as people are told: of a promotion that a person hastened, that comes before
    /// what the last look saw.
    pub fn told_outcome(&self) -> Option<ReleaseOutcome> {
        let mut outcome = self.outcome.clone()?;
        if let Some(told) = self
            .hastened
            .as_ref()
            .filter(|_| self.phase == Phase::Promoted)
            && !outcome.reason.starts_with(told)
        {
            outcome.reason = format!("{told}; {}", outcome.reason);
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

    /// The step that it begins at, counted from 0.
    pub fn first_step(&self) -> usize {
        self.first_step
    }

    /// The step that it is at, counted from 0, as [`Trial::begin_step`](super::Trial::begin_step)
    /// takes it; `None` before the first.
    pub fn step(&self) -> Option<usize> {
        self.step
    }

    /// The same counted from 1; 0 before the first. What people are shown.
    pub fn step_number(&self) -> usize {
        self.step.map_or(0, |step| step + 1)
    }

    /// Whether people, a gate or a freeze keep it where it is, whatever the judge finds.
    pub fn is_kept(&self) -> bool {
        let kept = matches!(
            self.wait,
            Some(Wait::Passed | Wait::Judge(WaitReason::CanaryFull | WaitReason::BaselineDown))
        );
        self.paused.is_some() || kept
    }

    /// Whether evidence or the budget has ended it: what may be an error, of which a further try at
    /// the same build has a smaller chance.
    pub fn was_judged_bad(&self) -> bool {
        let objective = self
            .outcome
            .as_ref()
            .and_then(|outcome| outcome.objective.as_deref());
        let judged = ["error_rate", "latency", "slo", "budget", "rescued_budget"];
        self.phase == Phase::RolledBack && objective.is_some_and(|by| judged.contains(&by))
    }

    /// Whether it was told not to go on.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Whether the canary has traffic by which it can be judged.
    pub fn is_judged(&self) -> bool {
        matches!(
            self.phase,
            Phase::Progressing | Phase::Waiting | Phase::Baking
        )
    }

    /// What is waited for, while something is.
    pub fn waiting_for(&self, now: Timestamp) -> Option<WaitingFor> {
        if self.phase.is_over() {
            return None;
        }
        let asked = match (self.phase, self.wait) {
            (Phase::Pending, _) | (Phase::Waiting, Some(Wait::Passed)) => true,
            (_, Some(Wait::Judge(reason))) if self.paused.is_none() => {
                return Some(by_judge(reason));
            }
            _ => self.paused.is_some(),
        };
        let barrier = if asked {
            self.barrier(now.unix_us())
        } else {
            None
        };
        barrier.map(|barrier| barrier.waiting_for(self, now.unix_us()))
    }

    /// Every word for a gate so far.
    pub fn approvals(&self) -> Vec<Approval> {
        let shown = |voice: &GateApproval| Approval {
            gate: voice.gate.clone(),
            by: voice.by.clone(),
            at: Timestamp::new(0, voice.unix_us).rfc3339(),
            reason: voice.reason.clone(),
        };
        self.voices.iter().map(shown).collect()
    }

    pub(crate) fn present_step(&self) -> Option<&Step> {
        self.plan.steps().get(self.step?)
    }

    /// The gate that belongs to where it is: the plan's own before the first step.
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

    /// What keeps it where it is, apart from the judge; `None` when it may go on.
    pub(crate) fn barrier(&self, now_us: i64) -> Option<Barrier<'_>> {
        if let Some(word) = &self.paused {
            return Some(Barrier::Paused(word));
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

    /// The freeze that is in force for it. At 100 percent there is nothing left that it could move.
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
            Barrier::Paused(word) => {
                format!("paused by {}{}", word.by, because(word.reason.as_deref()))
            }
            Barrier::Schedule(at) => format!("it begins at {}", rfc3339(*at)),
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
        detail: in_words(reason).to_owned(),
        until: None,
    }
}

pub(crate) fn in_words(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::Split => {
            "the traffic is not split as the weights say, so that the comparison cannot be trusted"
        }
        WaitReason::Slo => {
            "both versions are beyond a fixed limit, so that the canary is not to blame for it \
             alone"
        }
        WaitReason::Slow => {
            "at full weight more than 2 % of the canary's answers take longer than twice the \
             baseline's p99 before"
        }
        WaitReason::Aborts => "clients give up on the canary more often than on the baseline",
        WaitReason::CanaryFull => {
            "the canary has as many requests at once as canary_in_flight_max allows, so that \
             further ones go to the baseline and nothing is compared meanwhile"
        }
        WaitReason::BaselineDown => {
            "no endpoint of the baseline answers its health checks, so that its share goes to the \
             canary and nothing is compared meanwhile"
        }
        WaitReason::Inconclusive => "the step had its time and gave no answer",
        WaitReason::TooLittleTraffic => {
            "the step had its time, and the canary fewer requests than min_requests: too few to \
             say anything, also where `inconclusive` is `advance`"
        }
    }
}

pub(crate) fn because(reason: Option<&str>) -> String {
    reason.map_or(String::new(), |reason| format!(": {reason}"))
}

pub(crate) fn rfc3339(unix_us: i64) -> String {
    Timestamp::new(0, unix_us).rfc3339()
}
