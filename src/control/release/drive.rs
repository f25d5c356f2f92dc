//! Drives releases: by events of the workers, the clock, and the results of background jobs.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use serde_json::Value;

use super::running::{CHECKPOINT, LeaseRequest, PreflightState, RunningRelease, micros};
use super::transition::{FinishedRelease, ITSELF};
use crate::control::Intent;
use crate::control::change::Reply;
use crate::control::controller::Controller;
use crate::control::metrics::MANUAL;
use crate::model::{Name, api, probe_host};
use crate::release::Direction;
use crate::release::engine::{Decision, EngineEvent};
use crate::stats::{EventBatch, ReleaseKey};
use crate::store::ReleaseRecord;
use crate::time::Timestamp;

/// Transitions of a release in one evaluation. The state machine has no cycle; this bound guards
/// against a defect.
const TURNS_MAX: usize = 16;
/// How long the last requests of an ended release may take before its evidence is final.
const SETTLE: Duration = Duration::from_secs(6);
/// The shortest such time: a failed-over request is on the baseline after it has left the canary.
const SETTLE_LEAST: Duration = Duration::from_secs(1);

/// Sends preflight requests for this host to the canary's endpoints before any user is sent there.
/// Implemented by the network side of the program.
pub type Preflighter = Arc<
    dyn Fn(
            Vec<SocketAddr>,
            Option<Name>,
            Option<crate::release::Preflight>,
        ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>
        + Send
        + Sync,
>;

/// How far events are complete.
#[derive(Clone, Copy)]
struct Floor {
    /// Every assignment before this time has been reported.
    at_us: u64,
    /// Whether some worker still holds events.
    is_held: bool,
}

/// Background jobs of releases; they block nothing else.
pub(in crate::control) type BackgroundJobs =
    FuturesUnordered<Pin<Box<dyn Future<Output = BackgroundJob> + Send>>>;

/// The result of a background job.
pub(in crate::control) enum BackgroundJob {
    /// Preflight requests have completed.
    Preflight {
        release: String,
        result: Result<(), String>,
    },
    /// A checkpoint was written, or failed.
    Checkpoint {
        release: String,
        on_disk: bool,
        requested: LeaseRequest,
    },
    /// Evidence was written, or failed.
    Evidence {
        release: String,
        error: Option<String>,
    },
}

impl Controller {
    /// Whether any release needs the tick.
    pub(in crate::control) fn has_releases(&self) -> bool {
        self.services
            .values()
            .any(|managed| managed.active.is_some() || managed.ended.is_some())
    }

    /// Processes events of workers. The watermark is read first, so that everything before it has
    /// already been sent.
    pub(in crate::control) fn notes(&mut self, first: EventBatch) {
        let floor = self.floor();
        let by_key: BTreeMap<ReleaseKey, Name> = self.watched();
        let mut batch = Some(first);
        while let Some(notes) = batch {
            self.decided = self.timestamp_of(notes.sent_us);
            self.sort(&notes, &by_key);
            batch = self.notes.try_recv().ok();
        }
        self.drive_all(floor);
    }

    /// Evaluates all releases by the clock.
    pub(in crate::control) fn tick(&mut self) {
        let floor = self.floor();
        self.decided = self.clock.now();
        while let Ok(batch) = self.notes.try_recv() {
            let by_key = self.watched();
            self.sort(&batch, &by_key);
        }
        self.drive_all(floor);
        self.settle_ended();
    }

    fn watched(&self) -> BTreeMap<ReleaseKey, Name> {
        let active = self.services.iter();
        active
            .filter_map(|(name, managed)| {
                let active = managed.active.as_ref();
                let ended = managed.ended.as_ref().map(|ended| &ended.active);
                Some((active.or(ended)?.key(), Name::clone(name)))
            })
            .collect()
    }

    /// Hands each event to its release; events of releases that are gone are dropped.
    fn sort(&mut self, batch: &EventBatch, by_key: &BTreeMap<ReleaseKey, Name>) {
        let mut last: Option<(ReleaseKey, Name)> = None;
        for note in &batch.notes {
            let key = note.assignment.watch;
            if last.as_ref().is_none_or(|(known, _)| *known != key) {
                last = by_key.get(&key).map(|name| (key, Name::clone(name)));
            }
            let managed = last
                .as_ref()
                .and_then(|(_, name)| self.services.get_mut(name));
            if let Some(active) = managed
                .and_then(|managed| managed.active.as_mut())
                .filter(|active| active.key() == key)
            {
                active.note(note);
            }
        }
        for (key, sample) in &batch.samples {
            let managed = by_key.get(key).and_then(|name| self.services.get_mut(name));
            if let Some(active) = managed.and_then(|managed| managed.active.as_mut()) {
                active.sample(sample);
            }
        }
        if batch.lost {
            let active = self
                .services
                .values_mut()
                .filter_map(|managed| managed.active.as_mut());
            active.for_each(|active| active.lost(batch));
        }
    }

    /// The time up to which all events were sent. Must be read before the channel is emptied.
    fn floor(&self) -> Floor {
        let now_us = micros(self.clock.now());
        let at_us = self.horizon.floor(now_us);
        Floor {
            at_us,
            is_held: at_us < now_us,
        }
    }

    fn drive_all(&mut self, floor: Floor) {
        let active = self
            .services
            .iter()
            .filter(|(_, managed)| managed.active.is_some());
        let names: Vec<Name> = active.map(|(name, _)| Name::clone(name)).collect();
        let mut urgent = false;
        for name in names {
            self.drive(&name, floor.at_us);
            urgent |= self.after_tick(&name);
        }
        self.urgent = urgent;
        if urgent && floor.is_held {
            // A failure waits for events that a worker still holds.
            self.publisher.wake_all();
        }
    }

    /// Evaluates a release: judges what is known, applies the transitions that follow, and arms the
    /// tripwire.
    fn drive(&mut self, name: &Name, floor_us: u64) {
        let now = self.clock.now();
        let baseline_down = self.is_baseline_down(name);
        if let Some(active) = self.active(name) {
            active.close(now, floor_us, baseline_down);
        }
        for _ in 0..TURNS_MAX {
            let due = match self.external(name, now) {
                Some(due) => Some(due),
                None => self.active(name).and_then(|active| active.due(now)),
            };
            let Some(due) = due else { break };
            let rolled_back = due.transition.direction == Direction::Towards;
            let intent = Intent {
                actor: ITSELF.to_owned(),
                reason: Some(due.transition.detail.clone()),
                expected_revision: None,
                may_override: false,
                idempotency: None,
            };
            let trip_duration = self.trip_duration(name);
            if !self.apply_transition(name, due, intent, Reply::Nobody) {
                break;
            }
            if rolled_back {
                self.count_rollback(name, trip_duration);
            }
        }
    }

    /// Transitions that do not come from the judge: a canary without a healthy endpoint, and the
    /// preflight result.
    fn external(&mut self, name: &Name, now: Timestamp) -> Option<Decision> {
        if let Some(detail) = self.unhealthy(name) {
            let active = self.active(name)?;
            return active.feed(&EngineEvent::Unhealthy(&detail), active.at(now));
        }
        let active = self.active(name)?;
        if active.release().phase != api::Phase::Preflight {
            return None;
        }
        match active.preflight.clone() {
            PreflightState::Due => self.start_preflight(name),
            PreflightState::Running => None,
            PreflightState::Done(result) => {
                let result = result.as_ref().copied().map_err(String::as_str);
                active.feed(&EngineEvent::Preflight(result), active.at(now))
            }
        }
    }

    /// Starts the preflight; nothing follows before it has completed.
    fn start_preflight(&mut self, name: &Name) -> Option<Decision> {
        let endpoints = self.endpoints(name);
        let spec = self.services.get(name).map(|managed| &managed.spec);
        let host = spec
            .and_then(|spec| probe_host(spec.health.as_ref(), &spec.routes))
            .cloned();
        let preflighter = Arc::clone(&self.preflighter);
        let active = self.active(name)?;
        active.preflight = PreflightState::Running;
        let requested = preflighter(endpoints, host, active.release().plan.preflight.clone());
        let release = active.release().id.clone();
        self.jobs.push(Box::pin(async move {
            let result = requested.await;
            BackgroundJob::Preflight { release, result }
        }));
        None
    }

    /// Why the canary's health ends the release, if it does: all of its endpoints fail their checks
    /// while the baseline has a healthy one.
    fn unhealthy(&self, name: &Name) -> Option<String> {
        let managed = self.services.get(name)?;
        let active = managed.active.as_ref()?;
        managed.spec.health.as_ref()?;
        // A release that has not begun waits until its canary is up.
        let release = active.release();
        if release.phase != api::Phase::Preflight && release.weight().is_zero() {
            return None;
        }
        let snapshot = self.publisher.current();
        let service = snapshot.table.service(name)?;
        let healthy = |upstream: &str| {
            service
                .upstream(upstream)
                .map(|upstream| upstream.healthy.len())
        };
        let (canary, baseline) = (&active.release().canary, &active.release().baseline);
        let gone = healthy(canary) == Some(0) && healthy(baseline) != Some(0);
        gone.then(|| format!("no endpoint of {canary} passes its health checks"))
    }

    fn is_baseline_down(&self, name: &Name) -> bool {
        let snapshot = self.publisher.current();
        snapshot
            .table
            .service(name)
            .is_some_and(|service| service.is_baseline_down())
    }

    fn endpoints(&self, name: &Name) -> Vec<SocketAddr> {
        let snapshot = self.publisher.current();
        let canary = self
            .services
            .get(name)
            .and_then(|managed| managed.active.as_ref());
        let service = snapshot.table.service(name);
        let upstream = service
            .zip(canary)
            .and_then(|(service, active)| service.upstream(&active.release().canary));
        upstream.map_or_else(Vec::new, |upstream| {
            upstream
                .endpoints
                .iter()
                .map(|endpoint| endpoint.address)
                .collect()
        })
    }

    /// After an evaluation: tripwire, metrics, checkpoint. Returns whether a failure still waits
    /// for evaluation.
    fn after_tick(&mut self, name: &Name) -> bool {
        let now = self.clock.now();
        let Some(active) = self.active(name) else {
            return false;
        };
        active.arm();
        let leased = active.request_lease(now);
        let urgent = active.is_urgent();
        if urgent {
            active.watch.flush_now();
        } else {
            active.watch.relax();
        }
        let rescued = active.take_rescued();
        let point = active.release().is_judged() && active.history.wants_point(now);
        let verdict = point.then(|| active.path_point(now));
        let writes = leased || (active.release().is_judged() && now >= active.checkpoint_at);
        if writes {
            active.checkpoint_at = now.plus(CHECKPOINT);
        }
        if writes || active.landmark_us == u64::MAX {
            self.renew_landmark(name, now);
        }
        if writes {
            self.write_checkpoint(name, now);
        }
        self.metrics.add_rescues(name, rescued);
        if let Some(point) = verdict {
            self.show_verdict(name, point);
        }
        urgent
    }

    /// Writes the last checkpoints, and the evidence of releases that have just ended; the future
    /// completes when they are on disk.
    pub(in crate::control) fn last_checkpoints(&mut self) -> impl Future<Output = ()> + use<> {
        let now = self.clock.now();
        let names: Vec<Name> = self.services.keys().cloned().collect();
        for name in &names {
            self.keep_evidence(name, now);
        }
        let active = self
            .services
            .values_mut()
            .filter_map(|managed| managed.active.as_mut());
        let store = self.outbox.store();
        let written: Vec<_> = active
            .map(|active| {
                let parts = active.changed_parts();
                store.checkpoint_with(&active.release().id, active.last_checkpoint(now), parts)
            })
            .collect();
        async move {
            for written in written {
                if let Err(error) = written.await {
                    tracing::warn!(%error, "the last checkpoint of a release was not written");
                }
            }
        }
    }

    /// Renews the landmark. It adds up five minutes of the baseline's latencies, so not in each
    /// evaluation.
    fn renew_landmark(&mut self, name: &Name, now: Timestamp) {
        let p99_us = self.baseline_p99(name, now);
        let active = self.active(name);
        if let Some(active) =
            active.filter(|active| p99_us.is_some() || active.landmark_us == u64::MAX)
        {
            active.set_landmark(p99_us);
        }
    }

    fn write_checkpoint(&mut self, name: &Name, now: Timestamp) {
        let Some(active) = self
            .services
            .get_mut(name)
            .and_then(|managed| managed.active.as_mut())
        else {
            return;
        };
        let release = active.release().id.clone();
        let (requested, parts) = (active.requested(), active.changed_parts());
        let written = self
            .outbox
            .store()
            .checkpoint_with(&release, active.checkpoint(now), parts);
        self.jobs.push(Box::pin(async move {
            let on_disk = written.await == Ok(true);
            BackgroundJob::Checkpoint {
                release,
                on_disk,
                requested,
            }
        }));
    }

    /// Handles the result of a background job.
    pub(in crate::control) fn handle_job(&mut self, job: BackgroundJob) {
        match job {
            BackgroundJob::Preflight { release, result } => {
                if let Some(active) = self.by_id(&release) {
                    active.preflight = PreflightState::Done(result);
                }
                let floor = self.floor();
                self.drive_all(floor);
            }
            BackgroundJob::Checkpoint {
                release,
                on_disk,
                requested,
            } => {
                let now = self.clock.now();
                let Some(active) = self.by_id(&release) else {
                    return;
                };
                if !on_disk {
                    active.forget_written();
                }
                active.settle_lease(requested, on_disk, now);
                let again = active.request_lease(now);
                let name = Name::from(active.release().service.as_str());
                if again {
                    // A burst has used up most of it meanwhile.
                    self.write_checkpoint(&name, now);
                }
            }
            BackgroundJob::Evidence { release, error } => {
                if let Some(error) = error {
                    tracing::error!(release, error, "the evidence of a release was not written");
                }
            }
        }
    }

    /// Makes the evidence of ended releases final once their last requests have ended.
    fn settle_ended(&mut self) {
        let now = self.clock.now();
        let settled = |ended: &FinishedRelease| {
            let age = now.since(ended.at);
            age >= SETTLE || (age >= SETTLE_LEAST && ended.active.watch.in_flight() == 0)
        };
        let names: Vec<Name> = self
            .services
            .iter()
            .filter(|(_, managed)| managed.ended.as_ref().is_some_and(settled))
            .map(|(name, _)| Name::clone(name))
            .collect();
        for name in names {
            let ended = self
                .services
                .get_mut(&name)
                .and_then(|managed| managed.ended.take());
            if let Some(mut ended) = ended {
                let rescued = ended.active.take_rescued();
                self.metrics.add_rescues(&name, rescued);
                self.write_evidence(&name, &ended, now);
            }
        }
    }

    /// Writes the evidence of the release that has just ended, as far as it goes.
    pub(super) fn keep_evidence(&mut self, name: &Name, now: Timestamp) {
        let ended = self
            .services
            .get_mut(name)
            .and_then(|managed| managed.ended.take());
        if let Some(mut ended) = ended {
            let point = ended.active.path_point(now);
            ended.active.history.point(point);
            self.write_evidence(name, &ended, now);
            if let Some(managed) = self.services.get_mut(name) {
                managed.ended = Some(ended);
            }
        }
    }

    pub(super) fn write_evidence(&mut self, name: &Name, ended: &FinishedRelease, now: Timestamp) {
        let durable = self.outbox.store().is_durable();
        let bundle = ended.active.bundle(now, durable);
        let row = ended.active.last_record(&bundle.release);
        self.put_evidence(name, row, &bundle);
    }

    /// Writes the final evidence of an ended release, and its row with the same state.
    pub(super) fn put_evidence(
        &mut self,
        name: &Name,
        row: ReleaseRecord,
        bundle: &api::EvidenceBundle,
    ) {
        if let Some(managed) = self.services.get_mut(name) {
            managed.last = Some(Box::new(bundle.release.clone()));
        }
        let release = bundle.release.id.clone();
        let value = serde_json::to_value(bundle).unwrap_or(Value::Null);
        let written = self.outbox.store().put_evidence(row, value);
        self.jobs.push(Box::pin(async move {
            let error = written.await.err().map(|error| error.to_string());
            BackgroundJob::Evidence { release, error }
        }));
    }

    pub(super) fn active(&mut self, name: &str) -> Option<&mut RunningRelease> {
        self.services.get_mut(name)?.active.as_deref_mut()
    }

    fn by_id(&mut self, id: &str) -> Option<&mut RunningRelease> {
        let mut active = self
            .services
            .values_mut()
            .filter_map(|managed| managed.active.as_deref_mut());
        active.find(|active| active.release().id == id)
    }

    fn baseline_p99(&self, name: &Name, now: Timestamp) -> Option<u64> {
        let active = self
            .services
            .get(name)
            .and_then(|managed| managed.active.as_ref());
        let key = active.map(|active| active.watch.spec.baseline);
        self.collector.p99_us(key?, now)
    }

    /// How long a worker's own rollback took; `None` for one that is decided here.
    fn trip_duration(&self, name: &Name) -> Option<Duration> {
        let active = self.services.get(name)?.active.as_ref()?;
        active.watch.trip().map(|trip| trip.took)
    }

    fn count_rollback(&self, name: &Name, trip_duration: Option<Duration>) {
        let Some(managed) = self.services.get(name) else {
            return;
        };
        let outcome = managed
            .ended
            .as_ref()
            .and_then(|ended| ended.active.release().outcome.clone());
        let objective = outcome.and_then(|outcome| outcome.objective);
        let trip_duration = trip_duration.unwrap_or_else(|| self.clock.now().since(self.decided));
        self.metrics
            .add_rollback(name, objective.as_deref().unwrap_or(MANUAL), trip_duration);
    }

    fn timestamp_of(&self, monotonic_us: u64) -> Timestamp {
        let now = self.clock.now();
        let ago_us = micros(now).saturating_sub(monotonic_us);
        Timestamp::new(
            now.monotonic_ns()
                .saturating_sub(ago_us.saturating_mul(1_000)),
            now.unix_us(),
        )
    }

    fn show_verdict(&mut self, name: &Name, point: api::PathPoint) {
        let now = self.clock.now();
        let Some(active) = self.active(name) else {
            return;
        };
        let event = api::EventKind::Verdict {
            service: name.to_string(),
            release_id: active.release().id.clone(),
            verdict: active.verdict(now).to_owned(),
            log_e: point.log_e,
            log_limit: point.log_limit,
        };
        active.history.point(point);
        self.emit(event);
    }
}
