//! Releases in progress across restarts and reloads.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::persist::{Abandoned, Stored};
use super::running::RunningRelease;
use super::transition::ITSELF;
use crate::control::Refusal;
use crate::control::controller::{Controller, ServiceEntry, UncommittedChange};
use crate::model::{Name, ServiceSpec, api};
use crate::store::{ChangeRecord, NewJournalEntry, ReleasePart, ReleaseRecord};

/// How long the start waits for a lease of failures on disk. Without one the canary gets no
/// requests until it is there.
const LEASE_WITHIN: Duration = Duration::from_secs(2);

impl Controller {
    /// Resumes the stored releases before any worker serves a request, so that no request is served
    /// without its tripwire.
    pub(in crate::control) fn resume_releases(
        &mut self,
        records: Vec<ReleaseRecord>,
        mut checkpoints: BTreeMap<String, Value>,
        mut parts: BTreeMap<String, Vec<ReleasePart>>,
    ) {
        for record in records {
            let Some(name) = self
                .services
                .get_key_value(&*record.service)
                .map(|(name, _)| Name::clone(name))
            else {
                continue;
            };
            if record.ended {
                let stored: Result<Stored, _> = serde_json::from_value(record.state);
                if let (Ok(stored), Some(managed)) = (stored, self.services.get_mut(&name)) {
                    managed.last = Some(Box::new(stored.view));
                }
                continue;
            }
            let checkpoint = checkpoints.remove(&record.id);
            let parts = parts.remove(&record.id).unwrap_or_default();
            match self.resume(&record, checkpoint.as_ref(), &parts) {
                Ok(active) => self.continue_release(&name, active),
                Err(error) => self.abandon(&name, &record, (checkpoint.as_ref(), &parts), &error),
            }
        }
    }

    fn resume(
        &mut self,
        record: &ReleaseRecord,
        checkpoint: Option<&Value>,
        parts: &[ReleasePart],
    ) -> Result<RunningRelease, String> {
        let (now, durable) = (self.clock.now(), self.outbox.store().is_durable());
        let mut active = RunningRelease::resume(
            record,
            checkpoint,
            parts,
            |release| self.watch_spec(release).ok(),
            durable,
            now,
        )?;
        active.continue_with(self.outbox.store().record(&record.id), now);
        active.history.note(&match active.visible.forgone {
            0 => "the process was restarted while the release was in progress".to_owned(),
            n => format!(
                "the process was killed while the release was in progress; {n} failures that \
                 were recorded on disk as spent count as seen by users, although they may not \
                 have happened"
            ),
        });
        Ok(active)
    }

    fn continue_release(&mut self, name: &Name, mut active: RunningRelease) {
        let now = self.clock.now();
        active.arm();
        if active.request_lease(now) {
            let requested = active.requested();
            let written = self
                .outbox
                .store()
                .checkpoint(&active.release().id, active.checkpoint(now));
            active.settle_lease(requested, wait(written, LEASE_WITHIN), now);
        }
        tracing::info!(
            release = active.release().id,
            phase = %active.release().phase,
            "the release continues"
        );
        self.metrics.set_phase(name, active.release().phase);
        let Some(managed) = self.services.get_mut(name) else {
            return;
        };
        managed.active = Some(Box::new(active));
        let live = managed.live();
        self.publisher
            .update(|table| table.with_weights(name, &live));
    }

    /// Abandons a release that cannot continue: the canary gets no traffic, and the outcome is
    /// reported.
    fn abandon(
        &mut self,
        name: &Name,
        record: &ReleaseRecord,
        (checkpoint, parts): (Option<&Value>, &[ReleasePart]),
        error: &str,
    ) {
        tracing::error!(
            release = record.id,
            error,
            "the release cannot continue; all weight moves to the baseline"
        );
        let now = self.clock.now();
        let Some(managed) = self.services.get_mut(name) else {
            return;
        };
        let revision = managed.next_revision();
        managed.state = managed
            .state
            .without_release(revision, &now.rfc3339(), error.to_owned());
        let abandoned = Abandoned::new(record, checkpoint, parts, error, now);
        let stored = abandoned.as_ref().map(|abandoned| json!(abandoned.stored));
        let row = ReleaseRecord {
            ended: true,
            state: stored.unwrap_or_else(|| record.state.clone()),
            ..record.clone()
        };
        let live = managed.live();
        let change = ChangeRecord {
            services: vec![managed.state.record(name)],
            releases: vec![row.clone()],
            entry: NewJournalEntry {
                at: now.rfc3339(),
                actor: ITSELF.to_owned(),
                action: "release_abandoned".to_owned(),
                service: Some(name.to_string()),
                reason: Some(format!("release {}: {error}", record.id)),
                before: Value::Null,
                after: managed.state.json(),
            },
            answer: None,
            in_effect: true,
        };
        let (services, saved) = (vec![Name::clone(name)], None);
        self.unsaved.insert(
            self.outbox.push(change),
            UncommittedChange { services, saved },
        );
        self.publisher
            .update(|table| table.with_weights(name, &live));
        self.collector.follow(&self.publisher.current().table, now);
        if let Some(abandoned) = abandoned {
            self.put_evidence(name, row, &abandoned.bundle);
            self.emit(api::EventKind::Release {
                release: Box::new(abandoned.bundle.release),
                action: abandoned.action.to_owned(),
                actor: ITSELF.to_owned(),
            });
        }
    }

    /// Whether a configuration keeps what every release in progress needs.
    pub(in crate::control) fn keep_released(&self, specs: &[ServiceSpec]) -> Result<(), Refusal> {
        let missing = |name: &Name| !specs.iter().any(|spec| spec.name == *name);
        let gone = self
            .services
            .iter()
            .find(|(name, managed)| managed.release().is_some() && missing(name));
        gone.map_or(Ok(()), |(name, managed)| Err(under_way(name, managed)))
    }
}

/// Blocks on a reply without a runtime, for at most the given time. Returns whether it was
/// positive.
fn wait(
    answer: impl Future<Output = Result<bool, crate::store::StoreError>>,
    within: Duration,
) -> bool {
    const LOOK: Duration = Duration::from_millis(1);
    let mut answer = std::pin::pin!(answer);
    let looks = within.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        if let Some(answer) = answer.as_mut().now_or_never() {
            return answer == Ok(true);
        }
        thread::sleep(LOOK);
    }
    false
}

impl ServiceEntry {
    /// The release in progress, or the one whose start is not committed yet.
    fn release(&self) -> Option<&RunningRelease> {
        let pending = self
            .pending
            .as_ref()
            .and_then(|pending| pending.moved.turn.as_ref());
        let starting = pending.and_then(|turn| turn.active.as_deref());
        self.active.as_deref().or(starting)
    }

    /// Whether a new declaration keeps the upstreams of the release in progress.
    pub(in crate::control) fn keeps_release(&self, spec: &ServiceSpec) -> Result<(), Refusal> {
        let Some(active) = self.release() else {
            return Ok(());
        };
        let there = |name: &str| {
            spec.upstreams
                .iter()
                .any(|upstream| *upstream.name == *name)
        };
        // Statistics by key and without keys cannot be mixed.
        let same_users = spec.sticky.is_some() == self.spec.sticky.is_some();
        if same_users && there(&active.release().baseline) && there(&active.release().canary) {
            return Ok(());
        }
        Err(under_way(&spec.name, self))
    }
}

fn under_way(name: &str, managed: &ServiceEntry) -> Refusal {
    let release = managed.release().map_or("", RunningRelease::id);
    Refusal::Reload(format!(
        "service {name}: the release {release} is in progress and requires the service, both of \
         its upstreams and an unchanged sticky setting; end the release first"
    ))
}
