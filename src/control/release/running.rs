//! A release in progress: its state machine, its judge, and what connects them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::history::History;
use super::lease::LeasedBudget;
use crate::analysis::{Units, landmark};
use crate::control::Refusal;
use crate::release::engine::cohorts::{CohortBuilder, KnownEvents};
use crate::release::engine::scored::Scored;
use crate::release::engine::{Decision, Engine, EngineEvent, Facts, Moment, TrippedBudget};
use crate::release::replay::Writer;
use crate::release::{Command, Finding, ReleaseState, Timeline, Trial};
use crate::routing::{BudgetKind, ReleaseHandle, ReleaseHandleSpec};
use crate::stats::{Arm, EventBatch, ReleaseKey, RequestEvent, SampledExchange};
use crate::store::Recording;
use crate::time::Timestamp;

/// The interval of checkpoints.
pub(super) const CHECKPOINT: Duration = Duration::from_secs(1);
/// The pause before a transition that the store refused, or a preflight that failed to start, is
/// retried.
const RETRY: Duration = Duration::from_secs(1);

/// How long the release holds after the canary was full, so that the hold does not flap with each
/// request.
const FULL_US: u64 = 5_000_000;

/// A release in progress.
pub(in crate::control) struct RunningRelease {
    pub(super) engine: Engine,
    pub(super) watch: Arc<ReleaseHandle>,
    pub(super) units: Units,
    /// The budget of failures visible to users.
    pub(super) visible: LeasedBudget,
    /// The budget of all failures.
    pub(super) all: LeasedBudget,
    pub(super) history: History,
    pub(super) recording: Option<Recording>,
    writer: Writer,
    pub(super) timeline: Timeline,
    pub(super) landmark_us: u64,
    /// Failovers before the last restart.
    pub(super) rescued_before: u64,
    pub(super) preflight: PreflightState,
    pub(super) retry_at: Timestamp,
    /// When the disk may be asked for another lease.
    lease_at: Timestamp,
    pub(super) checkpoint_at: Timestamp,
    pub(super) cohorts: CohortBuilder,
    scored: VecDeque<Scored>,
    /// The baseline's failures that the trial knows, or will know, about.
    baseline_failures: u32,
    reported_rescued: u64,
}

/// The requested lease: failures visible to users, and all failures.
pub(super) type LeaseRequest = [Option<u32>; 2];

/// Failures that count as spent: visible to users, and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spent {
    pub(super) visible: u32,
    pub(super) all: u32,
}

/// The state of the preflight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PreflightState {
    Due,
    Running,
    Done(Result<(), String>),
}

pub(super) fn micros(now: Timestamp) -> u64 {
    now.monotonic_ns() / 1_000
}

/// A time known by the monotonic clock only.
fn moment(monotonic_us: u64) -> Timestamp {
    Timestamp::new(monotonic_us.saturating_mul(1_000), 0)
}

impl RunningRelease {
    /// A release without traffic yet, with `spent` failures recorded on disk as spent.
    pub(super) fn new(
        release: ReleaseState,
        spec: ReleaseHandleSpec,
        spent: Spent,
        durable: bool,
        now: Timestamp,
    ) -> RunningRelease {
        let trial = Trial::new(&release.plan, release.attempt);
        RunningRelease {
            writer: Writer::new(&release),
            units: Units::new(spec.sticky, release.plan.bake_us()),
            watch: Arc::new(ReleaseHandle::new(spec, spent.visible, spent.all)),
            visible: LeasedBudget::new(BudgetKind::Visible, spent.visible, durable),
            all: LeasedBudget::new(BudgetKind::All, spent.all, durable),
            history: History::new(now),
            recording: None,
            timeline: Timeline::new(now),
            engine: Engine::new(release, trial, None),
            landmark_us: u64::MAX,
            rescued_before: 0,
            preflight: PreflightState::Due,
            retry_at: now,
            lease_at: now,
            checkpoint_at: now,
            cohorts: CohortBuilder::new(micros(now)),
            scored: VecDeque::new(),
            baseline_failures: 0,
            reported_rescued: 0,
        }
    }

    pub(super) fn key(&self) -> ReleaseKey {
        self.watch.spec.key
    }

    /// Why weights cannot be set manually.
    pub(in crate::control) fn locks_weights(&self) -> Refusal {
        Refusal::Conflict(format!(
            "the release {} is in progress and controls the weights; cancel it or roll it back \
             first",
            self.release().id
        ))
    }

    /// Adds an event, if it belongs to this release.
    pub(super) fn note(&mut self, note: &RequestEvent) {
        if note.happened.is_bad() && note.assignment.side == Arm::Baseline {
            self.baseline_failures = self.baseline_failures.saturating_add(1);
        }
        self.cohorts.add(note);
    }

    pub(super) fn sample(&mut self, sample: &SampledExchange) {
        self.history.sample(sample);
    }

    /// Handles the loss of a worker's events.
    pub(super) fn lost(&mut self, batch: &EventBatch) {
        self.cohorts.give_up(batch.sent_us);
        // Lost events must not explain failures for ever.
        self.baseline_failures = self.watch.tripwire().baseline_failures();
        self.history.note(
            "events were lost because the machine was overloaded; requests of that time are not \
             judged",
        );
    }

    /// Sets the landmark: four times the baseline's p99 latency, or the maximum while that is not
    /// known.
    pub(super) fn set_landmark(&mut self, baseline_p99_us: Option<u64>) {
        if let Some(p99_us) = baseline_p99_us {
            self.watch.set_baseline_p99_us(p99_us);
        }
        let age = landmark(baseline_p99_us.map_or(Duration::MAX, Duration::from_micros));
        self.landmark_us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
    }

    /// Scores what can be scored now.
    pub(super) fn close(&mut self, now: Timestamp, floor_us: u64, baseline_down: bool) {
        let known = KnownEvents {
            now_us: micros(now),
            floor_us,
            landmark_us: self.landmark_us,
        };
        let scored = self.cohorts.close(&known, &mut self.units);
        self.scored.extend(scored);
        if self.units.is_full() {
            self.history
                .note("the limit of tracked users was reached; later users are not evaluated");
        }
        let facts = Facts {
            baseline_down,
            canary_full: self.is_full(now),
            retrying: now < self.retry_at,
            open: self.cohorts.open_past_landmark(),
            pending: self.cohorts.pending(),
            spent: self.engine.facts().spent,
        };
        self.feed(&EngineEvent::Facts(facts), self.at(now));
    }

    /// Whether a failure of the canary waits for earlier requests before it can be judged.
    pub(super) fn is_urgent(&self) -> bool {
        self.cohorts.has_failure()
    }

    /// The next decision, if one is due.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Decision> {
        if let Some(decision) = self.tripped(now) {
            return Some(decision);
        }
        while let Some(scored) = self.scored.pop_front() {
            let at_ms = self.timeline.ms(moment(scored.at_us));
            let cohort = scored.cohort(at_ms);
            let event = match &scored.matured {
                Some(matured) => EngineEvent::Matured(matured),
                None if scored.is_tainted => EngineEvent::Tainted(&cohort),
                None => EngineEvent::Cohort(&cohort),
            };
            let decision = self.feed(&event, Moment { at_ms, now });
            if decision.is_some() {
                return decision;
            }
        }
        self.feed(&EngineEvent::Tick, self.at(now))
    }

    /// Hands an event to the engine, and records it.
    pub(super) fn feed(&mut self, event: &EngineEvent<'_>, at: Moment) -> Option<Decision> {
        let decision = self.engine.on(event, at);
        if let Some(recording) = &self.recording {
            let add = |line| recording.add(line);
            self.writer
                .event(&self.engine, event, at, decision.as_ref(), add);
        }
        decision
    }

    /// Records a command that is carried out.
    pub(super) fn record_command(&mut self, command: &Command<'_>, at: Moment) {
        if let Some(recording) = &self.recording {
            let add = |line| recording.add(line);
            self.writer.command(&self.engine, command, at, add);
        }
    }

    /// A time of this process for the engine.
    pub(super) fn at(&self, now: Timestamp) -> Moment {
        Moment {
            at_ms: self.timeline.ms(now),
            now,
        }
    }

    /// The release in effect.
    pub(super) fn release(&self) -> &ReleaseState {
        self.engine.release()
    }

    pub(super) fn trial(&self) -> &Trial {
        self.engine.trial()
    }

    fn is_full(&self, now: Timestamp) -> bool {
        let lately = |at_us: u64| micros(now).saturating_sub(at_us) < FULL_US;
        self.cohorts.full_at_us().is_some_and(lately)
    }

    fn tripped(&mut self, now: Timestamp) -> Option<Decision> {
        let by = self.watch.tripwire().tripped_by()?;
        let plan = &self.release().plan;
        let (budget, limit) = match by {
            BudgetKind::Visible => (&self.visible, plan.budget()),
            BudgetKind::All => (&self.all, plan.rescued_budget()),
        };
        let trip = TrippedBudget {
            objective: by.as_str(),
            spent: self.counted(budget),
            written_off: budget.forgone.into(),
            limit,
            outran: budget.capped.map(u64::from),
        };
        self.feed(&EngineEvent::Tripped(trip), self.at(now))
    }

    /// The last decision was not carried out: the judge returns to the release's step.
    pub(in crate::control) fn step_back(&mut self, now: Timestamp) {
        self.retry_at = now.plus(RETRY);
        self.feed(&EngineEvent::Refused, self.at(now));
        if self.release().step().is_none() {
            self.preflight = PreflightState::Due;
        }
    }

    /// Arms the tripwire with what the budgets allow now.
    pub(super) fn arm(&mut self) {
        let watch = Arc::clone(&self.watch);
        let spent = self.spent();
        let facts = Facts {
            spent: [spent.visible.into(), spent.all.into()],
            ..self.engine.facts()
        };
        // They count from the next evaluation on, which may record them.
        let origin = Timestamp::new(0, 0);
        self.feed(&EngineEvent::Facts(facts), self.at(origin));
        let pending = self.cohorts.pending();
        let known = self.baseline_failures;
        let (visible, all) = (
            self.trial().allowance_given(pending),
            self.trial().rescued_allowance_given(pending),
        );
        self.visible.arm(&watch, visible, 0, known);
        self.all.arm(&watch, all, self.cohorts.unfinished(), known);
    }

    /// Whether another lease must be requested now; if so, it counts as requested.
    pub(super) fn request_lease(&mut self, now: Timestamp) -> bool {
        if now < self.lease_at {
            return false;
        }
        let spent = self.spent();
        let (visible, all) = (
            self.visible.request_more(spent.visible),
            self.all.request_more(spent.all),
        );
        visible || all
    }

    /// The lease that is requested from the disk.
    pub(super) fn requested(&self) -> LeaseRequest {
        [self.visible.lease.requested(), self.all.lease.requested()]
    }

    /// What counts as spent now.
    pub(super) fn spent(&self) -> Spent {
        let wire = self.watch.tripwire();
        Spent {
            visible: wire.spent(BudgetKind::Visible),
            all: wire
                .spent(BudgetKind::All)
                .saturating_add(self.cohorts.unfinished()),
        }
    }

    /// What is, or may soon be, recorded on disk as spent.
    pub(super) fn on_disk(&self) -> Spent {
        let spent = self.spent();
        Spent {
            visible: self.visible.lease.on_disk(spent.visible),
            all: self.all.lease.on_disk(spent.all),
        }
    }

    /// Handles the result of a lease request.
    pub(super) fn settle_lease(&mut self, requested: LeaseRequest, on_disk: bool, now: Timestamp) {
        let ([visible, all], spent) = (requested, self.spent());
        self.visible.lease.settle(visible, on_disk, spent.visible);
        self.all.lease.settle(all, on_disk, spent.all);
        if !on_disk {
            self.lease_at = now.plus(RETRY);
        }
        self.arm();
    }

    /// Failovers that the metrics do not have yet.
    pub(super) fn take_rescued(&mut self) -> u64 {
        let rescued = self.watch.rescued();
        let new = rescued.saturating_sub(self.reported_rescued);
        self.reported_rescued = rescued;
        new
    }

    pub(super) fn rescued(&self) -> u64 {
        self.rescued_before + self.watch.rescued()
    }

    /// Failures visible to users, as far as is known.
    pub(super) fn visible(&self) -> u64 {
        self.counted(&self.visible)
    }

    fn counted(&self, budget: &LeasedBudget) -> u64 {
        let spent = match budget.wire {
            BudgetKind::Visible => self.spent().visible,
            BudgetKind::All => self.spent().all,
        };
        u64::from(spent.saturating_sub(budget.forgone))
    }

    /// All failures of the canary, as far as is known.
    pub(super) fn failed(&self) -> u64 {
        self.counted(&self.all)
    }

    /// Its id.
    pub(in crate::control) fn id(&self) -> &str {
        &self.release().id
    }

    /// The judge's current verdict, as a word.
    pub(super) fn verdict(&self, now: Timestamp) -> &'static str {
        match self.engine.finding(self.timeline.ms(now)) {
            Finding::Continue => "continue",
            Finding::Advance => "advance",
            Finding::Hold(_) => "hold",
            Finding::RollBack { .. } => "roll_back",
        }
    }
}
