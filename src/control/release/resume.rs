//! Releases that were under way when the process ended, and reloads while one is.

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

/// How long the start waits for the disk to take a lease of failures. Without one the first failure
/// of the canary rolls back.
const LEASE_WITHIN: Duration = Duration::from_secs(2);

impl Controller {
    /// Goes on with the releases that the store knows. Before any worker serves a request, so that
    /// none is served without its tripwire.
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
                Ok(active) => self.go_on_with(&name, active),
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
        active.recording = self.outbox.store().record(&record.id);
        active.chronicle.note(&match active.visible.forgone {
            0 => "the process was restarted while the release was under way".to_owned(),
            n => format!(
                "the process was killed while the release was under way; {n} failures count as \
                 seen since then, which it had on disk as spent and may not have seen"
            ),
        });
        Ok(active)
    }

    fn go_on_with(&mut self, name: &Name, mut active: RunningRelease) {
        let now = self.clock.now();
        active.arm();
        if active.ask(now) {
            let asked = active.asked();
            let written = self
                .outbox
                .store()
                .checkpoint(&active.release.id, active.checkpoint(now));
            active.leased(asked, wait(written, LEASE_WITHIN), now);
        }
        tracing::info!(release = active.release.id, phase = %active.release.phase, "the release goes on");
        self.metrics.set_phase(name, active.release.phase);
        let Some(managed) = self.services.get_mut(name) else {
            return;
        };
        managed.active = Some(Box::new(active));
        let live = managed.live();
        self.publisher
            .update(|table| table.with_weights(name, &live));
    }

    /// A release that cannot go on leaves the service without traffic on the canary, and says so.
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
            "the release cannot go on; all weight goes to the baseline"
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

    /// Whether a configuration leaves the services of all releases under way.
    pub(in crate::control) fn keep_released(&self, specs: &[ServiceSpec]) -> Result<(), Refusal> {
        let missing = |name: &Name| !specs.iter().any(|spec| spec.name == *name);
        let gone = self
            .services
            .iter()
            .find(|(name, managed)| managed.release().is_some() && missing(name));
        gone.map_or(Ok(()), |(name, managed)| Err(under_way(name, managed)))
    }
}

/// Waits for an answer without a runtime, at most so long. Whether it was yes.
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
    /// The release under way, or the one whose start the store has not taken yet.
    fn release(&self) -> Option<&RunningRelease> {
        let pending = self
            .pending
            .as_ref()
            .and_then(|pending| pending.moved.turn.as_ref());
        let starting = pending.and_then(|turn| turn.active.as_deref());
        self.active.as_deref().or(starting)
    }

    /// Whether a new declaration leaves the release under way its upstreams.
    pub(in crate::control) fn keeps_release(&self, spec: &ServiceSpec) -> Result<(), Refusal> {
        let Some(active) = self.release() else {
            return Ok(());
        };
        let there = |name: &str| {
            spec.upstreams
                .iter()
                .any(|upstream| *upstream.name == *name)
        };
        // Who is known by a key is judged by it.
        let same_users = spec.sticky.is_some() == self.spec.sticky.is_some();
        if same_users && there(&active.release.baseline) && there(&active.release.canary) {
            return Ok(());
        }
        Err(under_way(&spec.name, self))
    }
}

fn under_way(name: &str, managed: &ServiceEntry) -> Refusal {
    let release = managed.release().map_or("", RunningRelease::id);
    Refusal::Reload(format!(
        "service {name}: the release {release} is under way and needs the service with both its \
         upstreams, and sticky or not as it is; end it first"
    ))
}
