//! Lines of events other than cohorts: `{"at_ms": …, "event": …}`.

use serde::Deserialize;

use crate::analysis::PendingCohort;
use crate::release::engine::{EngineEvent, Facts, TrippedBudget};
use crate::release::{Command, ReleaseAction};

/// An event of a recording.
#[derive(Debug)]
pub(super) enum RecordedEvent<'a> {
    Engine(EngineEvent<'a>),
    Command(Command<'a>),
    /// The last decision is being committed.
    Committing,
    /// It is in effect.
    Committed,
    /// It was not carried out.
    Refused,
    /// The judged state was stored.
    Checkpoint,
    /// Another process continued the release from its last checkpoint.
    Restart {
        written_off: [u64; 2],
        step: Option<usize>,
    },
}

/// The fields of all events.
#[derive(Debug, Deserialize)]
pub(super) struct EventLine {
    event: String,
    pub(super) at_ms: f64,
    pub(super) unix_us: Option<i64>,
    baseline: Option<PastLine>,
    #[serde(default)]
    baseline_down: bool,
    #[serde(default)]
    canary_full: bool,
    #[serde(default)]
    retrying: bool,
    #[serde(default)]
    open: u32,
    #[serde(default)]
    pending: [u64; 4],
    #[serde(default)]
    spent: serde_json::Value,
    #[serde(default)]
    written_off: serde_json::Value,
    objective: Option<String>,
    limit: Option<u64>,
    outran: Option<u64>,
    passed: Option<bool>,
    #[serde(default)]
    by: String,
    gate: Option<String>,
    #[serde(default)]
    override_freeze: bool,
    step: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct PastLine {
    #[serde(default)]
    failures: u64,
    #[serde(default)]
    latency_us: Vec<(u64, u64)>,
}

impl EventLine {
    /// The event; a warning if no version that is known writes it.
    pub(super) fn event(&self) -> Result<RecordedEvent<'_>, String> {
        Ok(match self.event.as_str() {
            "past" => {
                let past = self.baseline.as_ref();
                RecordedEvent::Engine(EngineEvent::Past {
                    latency_us: past.map_or(&[], |past| &past.latency_us),
                    failures: past.map_or(0, |past| past.failures),
                })
            }
            "facts" => RecordedEvent::Engine(EngineEvent::Facts(self.facts())),
            "tick" => RecordedEvent::Engine(EngineEvent::Tick),
            "preflight" => {
                let failed = Err("the preflight of the recorded release failed");
                let passed = self.passed.unwrap_or_default();
                RecordedEvent::Engine(EngineEvent::Preflight(if passed { Ok(()) } else { failed }))
            }
            "unhealthy" => RecordedEvent::Engine(EngineEvent::Unhealthy(
                "no endpoint of the canary was healthy",
            )),
            "trip" => RecordedEvent::Engine(EngineEvent::Tripped(self.trip())),
            "committing" => RecordedEvent::Committing,
            "committed" => RecordedEvent::Committed,
            "refused" => RecordedEvent::Refused,
            "checkpoint" => RecordedEvent::Checkpoint,
            "restart" => RecordedEvent::Restart {
                written_off: pair(&self.written_off),
                step: self.step,
            },
            other => match action(other) {
                Some(verb) => RecordedEvent::Command(self.command(verb)),
                None => return Err(format!("unknown event `{other}`; it is ignored")),
            },
        })
    }

    fn facts(&self) -> Facts {
        let [canary, baseline, baseline_bad_or_open, alone] = self.pending;
        Facts {
            baseline_down: self.baseline_down,
            canary_full: self.canary_full,
            retrying: self.retrying,
            open: self.open,
            pending: PendingCohort {
                canary,
                baseline,
                baseline_bad_or_open,
                alone,
            },
            spent: pair(&self.spent),
        }
    }

    fn trip(&self) -> TrippedBudget {
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
        TrippedBudget {
            objective: match self.objective.as_deref() {
                Some("rescued_budget") => "rescued_budget",
                _ => "budget",
            },
            spent: number(&self.spent),
            written_off: number(&self.written_off),
            limit: self.limit.unwrap_or(u64::MAX),
            outran: self.outran,
        }
    }

    /// The live release has checked who may do what.
    fn command(&self, verb: ReleaseAction) -> Command<'_> {
        Command {
            verb,
            by: &self.by,
            reason: self.override_freeze.then_some("as recorded"),
            gate: self.gate.as_deref(),
            override_freeze: self.override_freeze,
            may_override: true,
        }
    }
}

fn pair(value: &serde_json::Value) -> [u64; 2] {
    let at = |at| value.get(at).and_then(serde_json::Value::as_u64);
    [0, 1].map(|index: usize| at(index).unwrap_or_default())
}

fn action(name: &str) -> Option<ReleaseAction> {
    [
        ReleaseAction::Pause,
        ReleaseAction::Resume,
        ReleaseAction::Approve,
        ReleaseAction::Promote,
        ReleaseAction::RollBack,
        ReleaseAction::Cancel,
    ]
    .into_iter()
    .find(|action| action.as_str() == name)
}
