//! Persistence of a release: its state with every transition, and a checkpoint of its statistics
//! once a second.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::history::History;
use super::running::{RunningRelease, Spent, micros};
use super::transition::ITSELF;
use crate::analysis::Units;
use crate::control::metrics::ABANDONED;
use crate::model::api;
use crate::release::engine::{Engine, EngineEvent};
use crate::release::replay::Writer;
use crate::release::{ReleaseState, Timeline, TimelineMark, Trial};
use crate::routing::ReleaseHandleSpec;
use crate::store::{Recording, ReleasePart, ReleaseRecord};
use crate::time::Timestamp;

/// The state column of a release.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) release: ReleaseState,
    /// Its API form, for the time after its end.
    pub(super) view: api::Release,
    /// Failures visible to users that are recorded on disk as spent.
    pub(super) leased: u32,
    /// The same for all failures.
    #[serde(default)]
    pub(super) leased_all: u32,
}

impl Stored {
    fn spent(&self) -> Spent {
        Spent {
            visible: self.leased,
            all: self.leased_all.max(self.leased),
        }
    }
}

/// The statistics of a release.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    trial: Trial,
    trial_step: Option<usize>,
    units: Units,
    #[serde(rename = "chronicle")]
    history: History,
    mark: TimelineMark,
    leased: Spent,
    /// Failures that users have seen, as far as is known.
    visible: u64,
    /// All failures of the canary, as far as is known.
    failed: u64,
    rescued: u64,
    /// The age at which unfinished requests are scored, in microseconds.
    landmark_us: u64,
    /// The baseline's p99 in microseconds; the maximum while it is not known.
    baseline_p99_us: u64,
    /// Nothing can have been spent since: the process shut down in order.
    settled: bool,
}

/// Part kind: keys of users, written when they change.
const KEYS: u8 = 1;
/// Part kind: points of the history's path.
const PATH: u8 = 2;

fn of_kind(parts: &[ReleasePart], kind: u8) -> impl Iterator<Item = (u32, &[u8])> {
    let of_kind = parts.iter().filter(move |part| part.kind == kind);
    of_kind.filter_map(|part| Some((part.number, part.state.as_deref()?)))
}

fn path(parts: &[ReleasePart]) -> impl Iterator<Item = (u32, api::PathPoint)> {
    of_kind(parts, PATH)
        .filter_map(|(number, state)| Some((number, serde_json::from_slice(state).ok()?)))
}

/// A release that a restart ended, with its last known state.
pub(super) struct Abandoned {
    pub(super) stored: Stored,
    pub(super) bundle: api::EvidenceBundle,
    /// The event that reports it.
    pub(super) action: &'static str,
}

impl Abandoned {
    /// Makes a release that cannot continue a rolled back one; `None` if its row cannot be read.
    /// Keeps what its last checkpoint has.
    pub(super) fn new(
        record: &ReleaseRecord,
        checkpoint: Option<&Value>,
        parts: &[ReleasePart],
        error: &str,
        now: Timestamp,
    ) -> Option<Self> {
        let stored: Stored = serde_json::from_value(record.state.clone()).ok()?;
        let known = checkpoint.and_then(|value| Checkpoint::deserialize(value).ok());
        let transition = stored.release.roll_back(ABANDONED, error.to_owned(), now);
        let (after, action) = (transition.after, transition.action);
        let view = api::Release {
            phase: after.phase,
            weight: 0.0,
            paused: false,
            waiting_for: None,
            too_few_requests: None,
            ended_at: Some(now.rfc3339()),
            phase_since: now.rfc3339(),
            outcome: after.outcome.clone(),
            ..match &known {
                Some(known) => updated_view(stored.view, known),
                None => stored.view,
            }
        };
        let judge = known.as_ref().map(|known| json!(known.trial.evidence()));
        let mut history = known.map_or_else(|| History::new(now), |known| known.history);
        history.restore_path(path(parts));
        history.note(
            "the process was restarted and the release could not continue; data after its last \
             checkpoint is missing",
        );
        history.turn(now, action, ITSELF, error.to_owned(), 0.0);
        let plan = Value::Object(after.plan.to_json());
        Some(Abandoned {
            action,
            bundle: history.bundle(view.clone(), judge.unwrap_or_default(), plan),
            stored: Stored {
                release: after,
                view,
                leased: stored.leased,
                leased_all: stored.leased_all,
            },
        })
    }
}

/// The last stored view of a release, updated from its checkpoint.
fn updated_view(view: api::Release, known: &Checkpoint) -> api::Release {
    let evidence = known.trial.evidence();
    api::Release {
        user_visible_failures: known.visible,
        budget: api::BudgetStatus {
            spent: known.leased.visible.into(),
            allowance: known.trial.allowance(),
            ..view.budget
        },
        rescued_budget: api::BudgetStatus {
            spent: known.leased.all.into(),
            allowance: known.trial.rescued_allowance(),
            ..view.rescued_budget
        },
        rescued: known.rescued,
        canary_requests: evidence.canary.requests,
        baseline_requests: evidence.baseline.requests,
        log_e: evidence.log_e,
        log_limit: evidence.log_limit,
        objectives: known.trial.objectives(),
        ..view
    }
}

/// The number in an id such as `shop-12`; it increases with each release of a service.
pub(super) fn number(id: &str) -> u64 {
    id.rsplit_once('-')
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

impl RunningRelease {
    /// The row of the release after a transition to `after`.
    pub(super) fn record(&self, after: &ReleaseState, now: Timestamp) -> ReleaseRecord {
        self.row(after, self.view(after, now, true))
    }

    /// The row of the ended release, consistent with its evidence.
    pub(super) fn last_record(&self, shown: &api::Release) -> ReleaseRecord {
        self.row(self.release(), shown.clone())
    }

    fn row(&self, after: &ReleaseState, view: api::Release) -> ReleaseRecord {
        let leased = self.on_disk();
        let stored = Stored {
            release: after.clone(),
            view,
            leased: leased.visible,
            leased_all: leased.all,
        };
        ReleaseRecord {
            id: after.id.clone(),
            service: after.service.clone(),
            number: number(&after.id),
            ended: after.phase.is_over(),
            state: json!(stored),
        }
    }

    /// Changes of keys and path since they were last written.
    pub(super) fn changed_parts(&mut self) -> Vec<ReleasePart> {
        let keys = self.units.changes().into_iter().map(|row| ReleasePart {
            kind: KEYS,
            number: row.number,
            state: Some(row.state),
        });
        let text = |point: api::PathPoint| serde_json::to_vec(&point).ok();
        let path = self
            .history
            .changes()
            .into_iter()
            .map(|(number, point)| ReleasePart {
                kind: PATH,
                number,
                state: point.and_then(text),
            });
        keys.chain(path).collect()
    }

    /// Marks everything to be written with the next checkpoint, after a failed write.
    pub(super) fn forget_written(&mut self) {
        self.units.forget_written();
        self.history.forget_written();
    }

    /// The state from which a restart continues.
    pub(super) fn checkpoint(&self, now: Timestamp) -> Value {
        self.to_checkpoint(now, self.on_disk(), false)
    }

    /// The last checkpoint of an orderly shutdown, after the last request: unspent leases are
    /// returned.
    pub(super) fn last_checkpoint(&self, now: Timestamp) -> Value {
        self.to_checkpoint(now, self.spent(), true)
    }

    fn to_checkpoint(&self, now: Timestamp, leased: Spent, settled: bool) -> Value {
        let mark = self.timeline.mark(now);
        if let Some(recording) = &self.recording {
            recording.add(Writer::checkpoint(mark.at_ms));
        }
        json!(Checkpoint {
            trial: self.trial().clone(),
            trial_step: self.engine.trial_step(),
            units: self.units.clone(),
            history: self.history.clone(),
            mark,
            leased,
            visible: self.visible(),
            failed: self.failed(),
            rescued: self.rescued(),
            landmark_us: self.landmark_us,
            baseline_p99_us: self.watch.baseline_p99_us(),
            settled,
        })
    }

    /// Restores the release that was in progress when the process ended. What was leased counts as
    /// spent.
    pub(super) fn resume(
        record: &ReleaseRecord,
        checkpoint: Option<&Value>,
        parts: &[ReleasePart],
        watch: impl FnOnce(&ReleaseState) -> Option<ReleaseHandleSpec>,
        durable: bool,
        now: Timestamp,
    ) -> Result<RunningRelease, String> {
        let stored: Stored =
            serde_json::from_value(record.state.clone()).map_err(|error| error.to_string())?;
        let checkpoint = checkpoint.map(Checkpoint::deserialize).transpose();
        let checkpoint = checkpoint.map_err(|error| {
            format!("its checkpoint was written by another version of weighbridge ({error})")
        })?;
        let on_row = stored.spent();
        let release = stored.release;
        let spec = watch(&release).ok_or("the configuration no longer has its upstreams")?;
        let leased = match &checkpoint {
            Some(known) if known.settled => known.leased,
            // It had no traffic yet, so no user has seen a failure.
            _ if release.step().is_none() => Spent::default(),
            known => {
                let kept = known
                    .as_ref()
                    .map_or_else(Spent::default, |known| known.leased);
                Spent {
                    visible: on_row.visible.max(kept.visible),
                    all: on_row.all.max(kept.all),
                }
            }
        };
        let sticky = spec.sticky;
        if checkpoint
            .as_ref()
            .is_some_and(|known| known.units.are_sticky() != sticky)
        {
            return Err("the service's sticky setting has changed".to_owned());
        }
        let mut active = RunningRelease::new(release, spec, leased, durable, now);
        let whole = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let visible = checkpoint.as_ref().map_or(0, |known| whole(known.visible));
        let failed = checkpoint.as_ref().map_or(0, |known| whole(known.failed));
        if let Some(known) = checkpoint {
            let release = active.release().clone();
            active.engine = Engine::new(release, known.trial, known.trial_step);
            active.units = known.units.resumed(of_kind(parts, KEYS), micros(now));
            active.history = known.history;
            active.history.restore_path(path(parts));
            active.timeline = Timeline::resume(known.mark, now);
            active.landmark_us = known.landmark_us;
            active.watch.set_baseline_p99_us(known.baseline_p99_us);
            active.rescued_before = known.rescued;
        }
        active.visible.forgone = leased.visible.saturating_sub(visible);
        active.all.forgone = leased.all.saturating_sub(failed);
        Ok(active)
    }

    /// Continues the recording, and the judge at the release's step.
    pub(super) fn continue_with(&mut self, recording: Option<Recording>, now: Timestamp) {
        self.recording = recording;
        let written_off = [self.visible.forgone, self.all.forgone].map(u64::from);
        self.feed(&EngineEvent::Resumed { written_off }, self.at(now));
    }
}
