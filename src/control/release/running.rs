//! A release under way: its state, its judge, and what is needed to feed the one from the other.

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

/// How often what has been judged is written down.
pub(super) const CHECKPOINT: Duration = Duration::from_secs(1);
/// How long a turn that the store refused, or a preflight that failed to start, waits for its next
/// try.
const RETRY: Duration = Duration::from_secs(1);

/// For so long after the canary was full the release holds, so that it does not come and go with
/// each request.
const FULL_US: u64 = 5_000_000;

/// A release under way.
pub(in crate::control) struct RunningRelease {
    pub(super) release: ReleaseState,
    pub(super) watch: Arc<ReleaseHandle>,
    pub(super) trial: Trial,
    pub(super) units: Units,
    /// The budget of failures that users see.
    pub(super) visible: LeasedBudget,
    /// The budget of all failures.
    pub(super) all: LeasedBudget,
    pub(super) chronicle: History,
    pub(super) recording: Option<Recording>,
    pub(super) timeline: Timeline,
    pub(super) landmark_us: u64,
    /// The step that the trial is at. Ahead of the release's while the store has a turn.
    pub(super) trial_step: Option<usize>,
    /// Rescues before the last restart.
    pub(super) rescued_before: u64,
    pub(super) preflight: PreflightState,
    pub(super) retry_at: Timestamp,
    /// When the disk may be asked again to take down failures.
    lease_at: Timestamp,
    pub(super) checkpoint_at: Timestamp,
    pub(super) assembly: CohortBuilder,
    scored: VecDeque<Scored>,
    /// The baseline's failures that the trial has been told of, or will be.
    baseline_failures: u32,
    told_rescued: u64,
    /// The baseline has users and no endpoint to send them to.
    pub(super) baseline_down: bool,
}

/// What the disk is asked to take down as spent, of failures that users saw and of all.
pub(super) type LeaseRequest = [Option<u32>; 2];

/// Failures that count as spent: those that users saw, and all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spent {
    pub(super) visible: u32,
    pub(super) all: u32,
}

/// How far the look at the canary before its first user has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PreflightState {
    Due,
    Running,
    Done(Result<(), String>),
}

pub(super) fn micros(now: Timestamp) -> u64 {
    now.monotonic_ns() / 1_000
}

/// A moment that is only known by the monotonic clock.
fn moment(monotonic_us: u64) -> Timestamp {
    Timestamp::new(monotonic_us.saturating_mul(1_000), 0)
}

/// A turn that follows from what is known, and the time of the judge at which it does.
pub(super) struct Due {
    pub(super) transition: Transition,
    pub(super) at_ms: u64,
}

impl RunningRelease {
    /// A release of which nothing is known by traffic yet; so many failures count as spent, on disk
    /// too.
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
            chronicle: History::new(now),
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
            assembly: CohortBuilder::new(micros(now)),
            scored: VecDeque::new(),
            baseline_failures: 0,
            told_rescued: 0,
            baseline_down: false,
        }
    }

    pub(super) fn key(&self) -> ReleaseKey {
        self.watch.spec.key
    }

    /// Why weights cannot be set by hand.
    pub(in crate::control) fn locks_weights(&self) -> Refusal {
        Refusal::Conflict(format!(
            "the release {} is under way and moves the weights; cancel it or roll it back first",
            self.release.id
        ))
    }

    /// Takes notes in that belong to this release.
    pub(super) fn note(&mut self, note: &RequestEvent) {
        if note.happened.is_bad() && note.assignment.side == Arm::Baseline {
            self.baseline_failures = self.baseline_failures.saturating_add(1);
        }
        self.assembly.add(note);
    }

    pub(super) fn sample(&mut self, sample: &SampledExchange) {
        self.chronicle.sample(sample);
    }

    /// A worker's notes were lost.
    pub(super) fn lost(&mut self, batch: &EventBatch) {
        self.assembly.give_up(batch.sent_us);
        // What was lost is not to explain failures for ever.
        self.baseline_failures = self.watch.tripwire().baseline_failures();
        self.chronicle
            .note("for some time the machine was too busy to keep notes; that time is not judged");
    }

    /// From here on requests are waited for so long: four times what the baseline's slowest percent
    /// takes. As long as ever where that is not known.
    pub(super) fn set_landmark(&mut self, baseline_p99_us: Option<u64>) {
        if let Some(p99_us) = baseline_p99_us {
            self.watch.set_baseline_p99_us(p99_us);
        }
        let age = landmark(baseline_p99_us.map_or(Duration::MAX, Duration::from_micros));
        self.landmark_us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
    }

    /// Puts together what can be scored now.
    pub(super) fn close(&mut self, now: Timestamp, floor_us: u64) {
        let known = KnownEvents {
            now_us: micros(now),
            floor_us,
            landmark_us: self.landmark_us,
        };
        let scored = self.assembly.close(&known, &mut self.units);
        self.scored.extend(scored);
        if self.units.is_full() {
            self.chronicle.note(
                "more users came than are told apart; those that came later are not judged by",
            );
        }
    }

    /// Whether a failure of the canary waits for others to be judged with.
    pub(super) fn is_urgent(&self) -> bool {
        self.assembly.has_failure()
    }

    /// The next turn, if one follows from what is known.
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
                    record_matured(recording, at_ms, matured, self.stand(now));
                }
            } else {
                self.trial.explain(&cohort);
                if scored.is_spoiled {
                    continue;
                }
                self.trial.judge(&cohort);
                if let Some(recording) = &self.recording {
                    record(recording, &cohort, self.stand(now));
                }
            }
            let finding = self.trial.finding_given(at_ms, self.assembly.pending());
            if let Some(due) = self.follow(&finding, at_ms, now) {
                return Some(due);
            }
        }
        let at_ms = self.timeline.ms(now);
        let finding = self.trial.finding_given(at_ms, self.assembly.pending());
        self.follow(&finding, at_ms, now)
    }

    /// What the release makes of a finding; then of the time.
    fn follow(&self, finding: &Finding, at_ms: u64, now: Timestamp) -> Option<Due> {
        let finding = self.checked(finding.clone(), now);
        let verdict = Input::Verdict(&finding);
        let due = |transition| Due { transition, at_ms };
        self.next(&verdict, now)
            .or_else(|| self.next(&Input::Tick, now))
            .map(due)
    }

    /// What cohorts cannot say holds a finding up: nothing is compared while the canary is full,
    /// and no step ends while more requests hang than the baseline's rate explains.
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
        if finding == Finding::Advance && self.hangs() {
            return Finding::Continue;
        }
        finding
    }

    fn is_full(&self, now: Timestamp) -> bool {
        let lately = |at_us: u64| micros(now).saturating_sub(at_us) < FULL_US;
        self.assembly.full_at_us().is_some_and(lately)
    }

    /// Whether more of the canary's requests are open past the landmark than the baseline's rate
    /// explains.
    pub(super) fn hangs(&self) -> bool {
        // The limit of the baseline's rate is found by bisection, and this is asked with each
        // cohort.
        let open = self.assembly.open_past_landmark();
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

    /// What follows from something that the judge has no part in.
    pub(super) fn handle_input(&self, input: &Input<'_>, now: Timestamp) -> Option<Due> {
        let at_ms = self.timeline.ms(now);
        let due = |transition| Due { transition, at_ms };
        self.next(input, now).map(due)
    }

    /// A machine's input is never illegal in a way that anybody could be told; it then just leads
    /// nowhere.
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

    /// A replay begins the first step with the canary's first chance of a request, which is now,
    /// and not with its first request.
    fn record_begin(&self, step: usize, at_ms: u64) {
        if let Some(first) = self.release.plan.steps().get(step) {
            self.record_time(at_ms, first.weight.fraction(), HoldStatus::default());
        }
    }

    /// A turn is taken at this time, at which no request ended: a replay has to look then too.
    pub(super) fn record_mark(&self, at_ms: u64, now: Timestamp) {
        self.record_time(at_ms, self.release.weight().fraction(), self.stand(now));
    }

    /// The release goes on to another step by people's word, or because what kept it there is over.
    pub(super) fn record_step(&self, at_ms: u64, step: usize) {
        let stand = HoldStatus {
            kept: false,
            step: Some(self.number(step)),
        };
        self.record_time(at_ms, self.release.weight().fraction(), stand);
    }

    /// Where others than the judge keep it, if they do.
    fn stand(&self, now: Timestamp) -> HoldStatus {
        let kept =
            self.release.is_held() || self.baseline_down || self.hangs() || self.is_full(now);
        HoldStatus {
            kept,
            step: self
                .trial_step
                .filter(|_| kept)
                .map(|step| self.number(step)),
        }
    }

    /// A step counted from 1, in what was left of the plan when the release began.
    fn number(&self, step: usize) -> usize {
        (step + 1).saturating_sub(self.release.first_step())
    }

    fn record_time(&self, at_ms: u64, weight: f64, stand: HoldStatus) {
        if let Some(recording) = &self.recording {
            let empty = Cohort {
                at_ms,
                weight,
                ..Cohort::default()
            };
            record(recording, &empty, stand);
        }
    }

    /// A turn to another step did not happen: the judge goes back to the step that the release is
    /// still at.
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
        let pending = self.assembly.pending();
        let known = self.baseline_failures;
        let (visible, all) = (
            self.trial.allowance_given(pending),
            self.trial.rescued_allowance_given(pending),
        );
        self.visible.arm(&watch, visible, 0, known);
        self.all.arm(&watch, all, self.assembly.unfinished(), known);
    }

    /// Whether it is time to write down what should be on disk as spent; then that is asked for.
    pub(super) fn ask(&mut self, now: Timestamp) -> bool {
        if now < self.lease_at {
            return false;
        }
        let spent = self.spent();
        let (visible, all) = (self.visible.ask(spent.visible), self.all.ask(spent.all));
        visible || all
    }

    /// What the disk is asked for.
    pub(super) fn asked(&self) -> LeaseRequest {
        [self.visible.lease.asked(), self.all.lease.asked()]
    }

    /// What counts as spent now.
    pub(super) fn spent(&self) -> Spent {
        let wire = self.watch.tripwire();
        Spent {
            visible: wire.spent(BudgetKind::Visible),
            all: wire
                .spent(BudgetKind::All)
                .saturating_add(self.assembly.unfinished()),
        }
    }

    /// The same as it is, or may soon be, on disk.
    pub(super) fn on_disk(&self) -> Spent {
        let spent = self.spent();
        Spent {
            visible: self.visible.lease.on_disk(spent.visible),
            all: self.all.lease.on_disk(spent.all),
        }
    }

    /// The disk has taken what was asked for, or has not.
    pub(super) fn leased(&mut self, asked: LeaseRequest, on_disk: bool, now: Timestamp) {
        let [visible, all] = asked;
        self.visible.lease.answered(visible, on_disk);
        self.all.lease.answered(all, on_disk);
        if !on_disk {
            self.lease_at = now.plus(RETRY);
        }
        self.arm();
    }

    /// Rescues that have not been told to the metrics.
    pub(super) fn take_rescued(&mut self) -> u64 {
        let rescued = self.watch.rescued();
        let new = rescued.saturating_sub(self.told_rescued);
        self.told_rescued = rescued;
        new
    }

    pub(super) fn rescued(&self) -> u64 {
        self.rescued_before + self.watch.rescued()
    }

    /// Failures that users saw, as far as is known.
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

    /// Its identity.
    pub(in crate::control) fn id(&self) -> &str {
        &self.release.id
    }

    /// What the judge says now, in a word.
    pub(super) fn verdict(&self, now: Timestamp) -> &'static str {
        let finding = self
            .trial
            .finding_given(self.timeline.ms(now), self.assembly.pending());
        match self.checked(finding, now) {
            Finding::Continue => "continue",
            Finding::Advance => "advance",
            Finding::Hold(_) => "hold",
            Finding::RollBack { .. } => "roll_back",
        }
    }
}
