//! A release under way: its state, its judge, and what is needed to feed the one from the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::chronicle::Chronicle;
use super::cohorts::{Assembly, Known};
use super::lease::Lease;
use super::recording::{record, record_ripe};
use super::scored::Scored;
use crate::analysis::replay::Stand;
use crate::analysis::{Cohort, Units, landmark};
use crate::control::Refusal;
use crate::release::{Finding, Input, Release, Timeline, Transition, Trial};
use crate::routing::{Watch, WatchSpec};
use crate::stats::{Happened, Note, NoteBatch, Sample, Side, WatchKey};
use crate::store::Recording;
use crate::time::Timestamp;

/// How often what has been judged is written down.
pub(super) const CHECKPOINT: Duration = Duration::from_secs(1);
/// How long a turn that the store refused, or a preflight that failed to start, waits for its next try.
const RETRY: Duration = Duration::from_secs(1);

/// A release under way.
pub(in crate::control) struct Active {
    pub(super) release: Release,
    pub(super) watch: Arc<Watch>,
    pub(super) trial: Trial,
    pub(super) units: Units,
    pub(super) lease: Lease,
    pub(super) chronicle: Chronicle,
    pub(super) recording: Option<Recording>,
    pub(super) timeline: Timeline,
    pub(super) landmark_us: u64,
    /// The step that the trial is at. Ahead of the release's while the store has a turn.
    pub(super) trial_step: Option<usize>,
    /// Failures that count as spent only because a restart does not know better.
    pub(super) forgone: u32,
    /// The most that the wire was armed with last, when the disk had not taken down as many as the budget allows.
    pub(super) capped: Option<u32>,
    /// Rescues before the last restart.
    pub(super) rescued_before: u64,
    pub(super) preflight: Preflight,
    pub(super) retry_at: Timestamp,
    pub(super) checkpoint_at: Timestamp,
    assembly: Assembly,
    scored: VecDeque<Scored>,
    /// The baseline's failures that the trial has been told of, or will be.
    baseline_failures: u32,
    told_rescued: u64,
}

/// How far the look at the canary before its first user has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Preflight {
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

impl Active {
    /// A release of which nothing is known by traffic yet; `spent` failures count as such, on disk too.
    pub(super) fn new(release: Release, spec: WatchSpec, spent: u32, durable: bool, now: Timestamp) -> Active {
        Active {
            trial: Trial::new(&release.plan, release.attempt),
            units: Units::new(spec.sticky, release.plan.bake_us()),
            watch: Arc::new(Watch::new(spec, spent)),
            lease: Lease::new(spent, durable),
            chronicle: Chronicle::new(now),
            recording: None,
            timeline: Timeline::new(now),
            release,
            landmark_us: u64::MAX,
            trial_step: None,
            forgone: 0,
            capped: None,
            rescued_before: 0,
            preflight: Preflight::Due,
            retry_at: now,
            checkpoint_at: now,
            assembly: Assembly::new(micros(now)),
            scored: VecDeque::new(),
            baseline_failures: 0,
            told_rescued: 0,
        }
    }

    pub(super) fn key(&self) -> WatchKey {
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
    pub(super) fn note(&mut self, note: &Note) {
        let bad = matches!(note.happened, Happened::Bad { .. });
        if bad && note.assignment.side == Side::Baseline {
            self.baseline_failures = self.baseline_failures.saturating_add(1);
        }
        self.assembly.add(note);
    }

    pub(super) fn sample(&mut self, sample: &Sample) {
        self.chronicle.sample(sample);
    }

    /// A worker's notes were lost.
    pub(super) fn lost(&mut self, batch: &NoteBatch) {
        self.assembly.give_up(batch.sent_us);
        // What was lost is not to explain failures for ever.
        self.baseline_failures = self.watch.tripwire().baseline_failures();
        self.chronicle
            .note("for some time the machine was too busy to keep notes; that time is not judged");
    }

    /// From here on requests are waited for so long: four times what the baseline's slowest percent takes.
    pub(super) fn set_landmark(&mut self, baseline_p99_us: u64) {
        let age = landmark(Duration::from_micros(baseline_p99_us));
        self.landmark_us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
    }

    /// Puts together what can be scored now.
    pub(super) fn close(&mut self, now: Timestamp, floor_us: u64) {
        let known = Known {
            now_us: micros(now),
            floor_us,
            landmark_us: self.landmark_us,
        };
        let scored = self.assembly.close(&known, &mut self.units);
        self.scored.extend(scored);
        if self.units.is_full() {
            self.chronicle
                .note("more users came than are told apart; those that came later are not judged by");
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
            if let Some(ripe) = &scored.ripe {
                self.trial.mature(at_ms, ripe);
                if let Some(recording) = &self.recording {
                    record_ripe(recording, at_ms, ripe, self.stand());
                }
            } else {
                self.trial.explain(&cohort);
                if scored.is_spoiled {
                    continue;
                }
                self.trial.judge(&cohort);
                if let Some(recording) = &self.recording {
                    record(recording, &cohort, self.stand());
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
        let verdict = Input::Verdict(finding);
        let due = |transition| Due { transition, at_ms };
        self.next(&verdict, now)
            .or_else(|| self.next(&Input::Tick, now))
            .map(due)
    }

    fn tripped(&self, now: Timestamp) -> Option<Due> {
        let wire = self.watch.tripwire();
        let input = Input::Tripped {
            spent: self.visible(),
            written_off: self.forgone.into(),
            limit: self.release.plan.budget(),
            outran: self.capped.map(u64::from),
        };
        wire.is_tripped().then(|| self.heed(&input, now)).flatten()
    }

    /// What follows from something that the judge has no part in.
    pub(super) fn heed(&self, input: &Input<'_>, now: Timestamp) -> Option<Due> {
        let at_ms = self.timeline.ms(now);
        let due = |transition| Due { transition, at_ms };
        self.next(input, now).map(due)
    }

    /// A machine's input is never illegal in a way that anybody could be told; it then just leads nowhere.
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

    /// A replay begins the first step with the canary's first chance of a request, which is now, and not with its first
    /// request.
    fn record_begin(&self, step: usize, at_ms: u64) {
        if let Some(first) = self.release.plan.steps().get(step) {
            self.record_time(at_ms, first.weight.fraction(), Stand::default());
        }
    }

    /// A turn is taken at this time, at which no request ended: a replay has to look then too.
    pub(super) fn record_mark(&self, at_ms: u64) {
        self.record_time(at_ms, self.release.weight().fraction(), self.stand());
    }

    /// The release goes on to another step by people's word, or because what kept it there is over.
    pub(super) fn record_step(&self, at_ms: u64, step: usize) {
        let stand = Stand {
            kept: false,
            step: Some(self.number(step)),
        };
        self.record_time(at_ms, self.release.weight().fraction(), stand);
    }

    /// Where others than the judge keep it, if they do.
    fn stand(&self) -> Stand {
        let kept = self.release.is_kept();
        Stand {
            kept,
            step: self.trial_step.filter(|_| kept).map(|step| self.number(step)),
        }
    }

    /// A step counted from 1, in what was left of the plan when the release began.
    fn number(&self, step: usize) -> usize {
        (step + 1).saturating_sub(self.release.first_step())
    }

    fn record_time(&self, at_ms: u64, weight: f64, stand: Stand) {
        if let Some(recording) = &self.recording {
            let empty = Cohort {
                at_ms,
                weight,
                ..Cohort::default()
            };
            record(recording, &empty, stand);
        }
    }

    /// A turn to another step did not happen: the judge goes back to the step that the release is still at.
    pub(in crate::control) fn step_back(&mut self, now: Timestamp) {
        self.retry_at = now.plus(RETRY);
        let at_ms = self.timeline.ms(now);
        match self.release.step() {
            Some(step) => self.begin_step(step, at_ms),
            None => {
                self.trial_step = None;
                self.preflight = Preflight::Due;
            }
        }
    }

    /// Arms the tripwire with what the budget allows now. Gives what should be on disk as spent, when it is time to write
    /// that down.
    pub(super) fn arm(&mut self) -> Option<u32> {
        let wire = self.watch.tripwire();
        let spent = wire.spent();
        self.trial.set_spent(u64::from(spent));
        let allowance = self.trial.allowance_given(self.assembly.pending());
        let limit = spent.saturating_add(u32::try_from(allowance).unwrap_or(u32::MAX));
        let cap = self.lease.cap(limit);
        self.capped = (cap < limit).then_some(cap);
        wire.arm(cap, self.baseline_failures);
        self.lease.ask(spent, limit)
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
        u64::from(self.watch.tripwire().spent().saturating_sub(self.forgone))
    }

    /// Its identity.
    pub(in crate::control) fn id(&self) -> &str {
        &self.release.id
    }

    /// What the judge says now, in a word.
    pub(super) fn verdict(&self, now: Timestamp) -> &'static str {
        match self.trial.finding_given(self.timeline.ms(now), self.assembly.pending()) {
            Finding::Continue => "continue",
            Finding::Advance => "advance",
            Finding::Hold(_) => "hold",
            Finding::RollBack { .. } => "roll_back",
        }
    }
}
