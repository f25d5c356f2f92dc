//! A release in progress: its state machine, its judge, and what connects them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cohorts::{CohortBuilder, KnownEvents};
use super::history::History;
use super::lease::LeasedBudget;
use super::recording::{record, record_matured};
use super::scored::Scored;
use crate::analysis::replay::HoldStatus;
use crate::analysis::{Cohort, Units, WaitReason, landmark};
use crate::control::Refusal;
use crate::release::{Finding, Input, ReleaseState, Timeline, Transition, Trial};
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
    pub(super) release: ReleaseState,
    pub(super) watch: Arc<ReleaseHandle>,
    pub(super) trial: Trial,
    pub(super) units: Units,
    /// The budget of failures visible to users.
    pub(super) visible: LeasedBudget,
    /// The budget of all failures.
    pub(super) all: LeasedBudget,
    pub(super) history: History,
    pub(super) recording: Option<Recording>,
    pub(super) timeline: Timeline,
    pub(super) landmark_us: u64,
    /// The step of the trial. Ahead of the release's step while the store commits a transition.
    pub(super) trial_step: Option<usize>,
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
    /// The baseline has users but no healthy endpoint.
    pub(super) baseline_down: bool,
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

/// A due transition, and the judge's time at which it is due.
pub(super) struct Due {
    pub(super) transition: Transition,
    pub(super) at_ms: u64,
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
        RunningRelease {
            trial: Trial::new(&release.plan, release.attempt),
            units: Units::new(spec.sticky, release.plan.bake_us()),
            watch: Arc::new(ReleaseHandle::new(spec, spent.visible, spent.all)),
            visible: LeasedBudget::new(BudgetKind::Visible, spent.visible, durable),
            all: LeasedBudget::new(BudgetKind::All, spent.all, durable),
            history: History::new(now),
            recording: None,
            timeline: Timeline::new(now),
            release,
            landmark_us: u64::MAX,
            trial_step: None,
            rescued_before: 0,
            preflight: PreflightState::Due,
            retry_at: now,
            lease_at: now,
            checkpoint_at: now,
            cohorts: CohortBuilder::new(micros(now)),
            scored: VecDeque::new(),
            baseline_failures: 0,
            reported_rescued: 0,
            baseline_down: false,
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
            self.release.id
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
    pub(super) fn close(&mut self, now: Timestamp, floor_us: u64) {
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
    }

    /// Whether a failure of the canary waits for earlier requests before it can be judged.
    pub(super) fn is_urgent(&self) -> bool {
        self.cohorts.has_failure()
    }

    /// The next transition, if one is due.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Due> {
        if let Some(due) = self.tripped(now) {
            return Some(due);
        }
        while let Some(scored) = self.scored.pop_front() {
            let at_ms = self.timeline.ms(moment(scored.at_us));
            let cohort = scored.cohort(at_ms);
            if let Some(matured) = &scored.matured {
                self.trial.mature(at_ms, matured);
                if let Some(recording) = &self.recording {
                    record_matured(recording, at_ms, matured, self.hold_status(now));
                }
            } else {
                self.trial.explain(&cohort);
                if scored.is_tainted {
                    continue;
                }
                self.trial.judge(&cohort);
                if let Some(recording) = &self.recording {
                    record(recording, &cohort, self.hold_status(now));
                }
            }
            let finding = self.trial.finding_given(at_ms, self.cohorts.pending());
            if let Some(due) = self.follow(&finding, at_ms, now) {
                return Some(due);
            }
        }
        let at_ms = self.timeline.ms(now);
        let finding = self.trial.finding_given(at_ms, self.cohorts.pending());
        self.follow(&finding, at_ms, now)
    }

    /// The transition that follows from a finding, or else from the time.
    fn follow(&self, finding: &Finding, at_ms: u64, now: Timestamp) -> Option<Due> {
        let finding = self.checked(finding.clone(), now);
        let verdict = Input::Verdict(&finding);
        let due = |transition| Due { transition, at_ms };
        self.next(&verdict, now)
            .or_else(|| self.next(&Input::Tick, now))
            .map(due)
    }

    /// Adjusts a finding by facts that no cohort has: nothing is compared while the canary is full,
    /// and no step ends while more requests are stalled than the baseline's rate explains.
    fn checked(&self, finding: Finding, now: Timestamp) -> Finding {
        let is_policy = matches!(
            &finding,
            Finding::RollBack {
                objective: "inconclusive",
                ..
            }
        );
        let brakes = matches!(finding, Finding::RollBack { .. });
        if self.baseline_down && (!brakes || is_policy) {
            return Finding::Hold(WaitReason::BaselineDown);
        }
        if !brakes && self.is_full(now) {
            return Finding::Hold(WaitReason::CanaryFull);
        }
        if finding == Finding::Advance && self.is_stalled() {
            return Finding::Continue;
        }
        finding
    }

    fn is_full(&self, now: Timestamp) -> bool {
        let lately = |at_us: u64| micros(now).saturating_sub(at_us) < FULL_US;
        self.cohorts.full_at_us().is_some_and(lately)
    }

    /// Whether more of the canary's requests are open past the landmark than the baseline's rate
    /// explains.
    pub(super) fn is_stalled(&self) -> bool {
        // The limit of the baseline's rate is found by bisection, and this runs with each cohort.
        let open = self.cohorts.open_past_landmark();
        open > 0 && f64::from(open) > self.trial.unfinished_explained()
    }

    fn tripped(&self, now: Timestamp) -> Option<Due> {
        let by = self.watch.tripwire().tripped_by()?;
        let (budget, limit) = match by {
            BudgetKind::Visible => (&self.visible, self.release.plan.budget()),
            BudgetKind::All => (&self.all, self.release.plan.rescued_budget()),
        };
        let input = Input::Tripped {
            objective: by.as_str(),
            spent: self.counted(budget),
            written_off: budget.forgone.into(),
            limit,
            outran: budget.capped.map(u64::from),
        };
        self.handle_input(&input, now)
    }

    /// The transition that follows from an input other than the judge's.
    pub(super) fn handle_input(&self, input: &Input<'_>, now: Timestamp) -> Option<Due> {
        let at_ms = self.timeline.ms(now);
        let due = |transition| Due { transition, at_ms };
        self.next(input, now).map(due)
    }

    /// An illegal input has no caller to report it to; it gives no transition.
    fn next(&self, input: &Input<'_>, now: Timestamp) -> Option<Transition> {
        self.release.next(input, now).ok().flatten()
    }

    /// The judge begins a step.
    pub(super) fn begin_step(&mut self, step: usize, at_ms: u64) {
        if self.trial_step != Some(step) {
            if self.trial_step.is_none() {
                self.record_begin(step, at_ms);
            }
            self.trial_step = Some(step);
            self.trial.begin_step(at_ms, step, &self.release.plan);
        }
    }

    /// Records the begin of a step. A replay begins the first step with the canary's first chance
    /// of a request, which is now, not with its first request.
    fn record_begin(&self, step: usize, at_ms: u64) {
        if let Some(first) = self.release.plan.steps().get(step) {
            self.record_time(at_ms, first.weight.fraction(), HoldStatus::default());
        }
    }

    /// Records a transition at a time at which no request ended, so that a replay evaluates then
    /// too.
    pub(super) fn record_mark(&self, at_ms: u64, now: Timestamp) {
        self.record_time(
            at_ms,
            self.release.weight().fraction(),
            self.hold_status(now),
        );
    }

    /// Records a step that begins by a command, or because a hold is over.
    pub(super) fn record_step(&self, at_ms: u64, step: usize) {
        let hold_status = HoldStatus {
            kept: false,
            step: Some(self.number(step)),
        };
        self.record_time(at_ms, self.release.weight().fraction(), hold_status);
    }

    /// The hold status, if something besides the judge holds the release.
    fn hold_status(&self, now: Timestamp) -> HoldStatus {
        let kept =
            self.release.is_held() || self.baseline_down || self.is_stalled() || self.is_full(now);
        HoldStatus {
            kept,
            step: self
                .trial_step
                .filter(|_| kept)
                .map(|step| self.number(step)),
        }
    }

    /// A step counted from 1, in the rest of the plan when the release began.
    fn number(&self, step: usize) -> usize {
        (step + 1).saturating_sub(self.release.first_step())
    }

    fn record_time(&self, at_ms: u64, weight: f64, hold_status: HoldStatus) {
        if let Some(recording) = &self.recording {
            let empty = Cohort {
                at_ms,
                weight,
                ..Cohort::default()
            };
            record(recording, &empty, hold_status);
        }
    }

    /// Undoes the begin of a step whose transition did not happen: the judge returns to the
    /// release's step.
    pub(in crate::control) fn step_back(&mut self, now: Timestamp) {
        self.retry_at = now.plus(RETRY);
        let at_ms = self.timeline.ms(now);
        match self.release.step() {
            Some(step) => self.begin_step(step, at_ms),
            None => {
                self.trial_step = None;
                self.preflight = PreflightState::Due;
            }
        }
    }

    /// Arms the tripwire with what the budgets allow now.
    pub(super) fn arm(&mut self) {
        let watch = Arc::clone(&self.watch);
        let spent = self.spent();
        self.trial.set_spent(u64::from(spent.visible));
        self.trial.set_failed(u64::from(spent.all));
        let pending = self.cohorts.pending();
        let known = self.baseline_failures;
        let (visible, all) = (
            self.trial.allowance_given(pending),
            self.trial.rescued_allowance_given(pending),
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
        &self.release.id
    }

    /// The judge's current verdict, as a word.
    pub(super) fn verdict(&self, now: Timestamp) -> &'static str {
        let finding = self
            .trial
            .finding_given(self.timeline.ms(now), self.cohorts.pending());
        match self.checked(finding, now) {
            Finding::Continue => "continue",
            Finding::Advance => "advance",
            Finding::Hold(_) => "hold",
            Finding::RollBack { .. } => "roll_back",
        }
    }
}
