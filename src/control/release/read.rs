//! Reads of releases.

use std::cmp::Reverse;
use std::path::PathBuf;

use tokio::sync::oneshot;

use super::persist::{Stored, number};
use super::protect::PlanRecord;
use super::start::plan;
use crate::control::Refusal;
use crate::control::controller::Controller;
use crate::model::{Name, api};
use crate::release::{forecast, forecast_by_users};
use crate::stats::WindowSpan;
use crate::store::ReleaseRecord;

impl Controller {
    /// The releases of a service, newest first: ended ones from the store, the one in progress from
    /// memory.
    pub(in crate::control) fn releases(
        &self,
        service: &str,
        limit: usize,
        reply: oneshot::Sender<Result<Vec<api::Release>, Refusal>>,
    ) {
        let (name, _) = match self.managed(service) {
            Ok(found) => found,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let live = self.live_views(&name);
        let read = self.outbox.store().releases(service, limit);
        self.spawn_read(async move {
            let page = read
                .await
                .map_err(|error| Refusal::Store(error.to_string()))
                .map(|records| {
                    let stored = records.into_iter().filter_map(view);
                    newest(live, stored, limit)
                });
            let _ = reply.send(page);
        });
    }

    /// One release.
    pub(in crate::control) fn get_release(
        &self,
        id: &str,
        reply: oneshot::Sender<Result<api::Release, Refusal>>,
    ) {
        // An id begins with the name of its service.
        let service = id.rsplit_once('-').map_or("", |(service, _)| service);
        let mut live = self.live_views(service).into_iter();
        if let Some(found) = live.find(|release| release.id == id) {
            return drop(reply.send(Ok(found)));
        }
        let read = self.outbox.store().release(id);
        let unknown = Refusal::UnknownRelease(id.to_owned());
        self.spawn_read(async move {
            let found = match read.await {
                Ok(record) => record.and_then(view).ok_or(unknown),
                Err(error) => Err(Refusal::Store(error.to_string())),
            };
            let _ = reply.send(found);
        });
    }

    /// The evidence bundle of a release.
    pub(in crate::control) fn evidence(
        &self,
        id: &str,
        reply: oneshot::Sender<Result<Box<api::EvidenceBundle>, Refusal>>,
    ) {
        let now = self.clock.now();
        let durable = self.outbox.store().is_durable();
        let managed = self.services.values();
        let mut live = managed.filter_map(|managed| {
            let ended = managed.ended.as_ref().map(|ended| &ended.active);
            managed.active.as_ref().or(ended)
        });
        if let Some(active) = live.find(|active| active.release().id == id) {
            return drop(reply.send(Ok(Box::new(active.bundle(now, durable)))));
        }
        let read = self.outbox.store().evidence(id);
        let unknown = Refusal::UnknownRelease(id.to_owned());
        self.spawn_read(async move {
            let found = match read.await {
                Ok(Some(value)) => serde_json::from_value(value)
                    .map(|bundle: Box<api::EvidenceBundle>| Box::new(bundle.redacted()))
                    .map_err(|error| Refusal::Store(error.to_string())),
                Ok(None) => Err(unknown),
                Err(error) => Err(Refusal::Store(error.to_string())),
            };
            let _ = reply.send(found);
        });
    }

    /// The file with the recording of a release.
    pub(in crate::control) fn recording(
        &self,
        id: &str,
        reply: oneshot::Sender<Result<PathBuf, Refusal>>,
    ) {
        let path = self.outbox.store().recording(id);
        let unknown = Refusal::UnknownRelease(id.to_owned());
        let _ = reply.send(path.filter(|path| path.is_file()).ok_or(unknown));
    }

    /// The cost and duration of a plan at the current traffic.
    pub(in crate::control) fn forecast(
        &self,
        service: &str,
        overlay: Option<&serde_json::Map<String, serde_json::Value>>,
    ) -> Result<api::Forecast, Refusal> {
        let (name, managed) = self.managed(service)?;
        let plan = plan(managed, overlay, true)?;
        let now = self.clock.now();
        let snapshot = self.publisher.current();
        let service = snapshot.table.service(&name);
        let upstreams = service.iter().flat_map(|service| &service.upstreams);
        let (mut requests, mut of_baseline) = (0, (0, 0));
        for upstream in upstreams {
            let (minute, _) = self
                .collector
                .counts(upstream.key, WindowSpan::OneMinute, now);
            requests += minute;
            if upstream.name == managed.state.baseline {
                of_baseline = self
                    .collector
                    .counts(upstream.key, WindowSpan::FiveMinutes, now);
            }
        }
        let seconds = self.collector.age(now).as_secs_f64().clamp(1.0, 60.0);
        #[expect(
            clippy::cast_precision_loss,
            reason = "rates; counts are far below 2^53"
        )]
        let (rate, error_rate) = (
            requests as f64 / seconds,
            of_baseline.1 as f64 / (of_baseline.0 as f64).max(1.0),
        );
        let estimate = if managed.spec.sticky.is_some() {
            forecast_by_users
        } else {
            forecast
        };
        let mut estimated = estimate(&plan, &name, rate, error_rate, now);
        estimated
            .warnings
            .extend(PlanRecord::of(managed, overlay, &plan)?.warning());
        Ok(estimated)
    }

    /// The release in progress, and the one that has just ended.
    fn live_views(&self, name: &str) -> Vec<api::Release> {
        let now = self.clock.now();
        let Some(managed) = self.services.get(name) else {
            return Vec::new();
        };
        let durable = self.is_durable(name);
        let active = managed.active.as_ref();
        let ended = managed.ended.as_ref().map(|ended| &ended.active);
        let both = active.into_iter().chain(ended);
        let mut views: Vec<api::Release> = both
            .map(|active| active.view(active.release(), now, durable))
            .collect();
        if let Some(last) = &managed.last
            && !views.iter().any(|known| known.id == last.id)
        {
            views.push((**last).clone());
        }
        views
    }

    /// The reply to a command.
    pub(in crate::control) fn release_change(
        &self,
        name: &Name,
        id: &str,
        durable: bool,
    ) -> Result<api::ReleaseChange, Refusal> {
        let managed = self
            .services
            .get(name)
            .ok_or_else(|| Refusal::UnknownService(name.to_string()))?;
        let mut views = self.live_views(name).into_iter();
        let found = views.find(|release| release.id == id);
        let release = found.ok_or_else(|| Refusal::UnknownRelease(id.to_owned()))?;
        Ok(api::ReleaseChange {
            weights: crate::control::state::percentages(&managed.state.weights),
            revision: managed.state.revision,
            release: api::Release { durable, ..release },
        })
    }
}

/// Merges stored rows and live views, newest first. A live view replaces its row; the remembered
/// last release may be older than rows of the store.
fn newest(
    live: Vec<api::Release>,
    stored: impl Iterator<Item = api::Release>,
    limit: usize,
) -> Vec<api::Release> {
    let mut all = live;
    for release in stored {
        if !all.iter().any(|known| known.id == release.id) {
            all.push(release);
        }
    }
    all.sort_by_key(|release| Reverse(number(&release.id)));
    all.truncate(limit);
    all
}

/// A release from its row. A row that this version cannot read is left out of lists, and not found
/// on its own.
fn view(record: ReleaseRecord) -> Option<api::Release> {
    let stored: Result<Stored, _> = serde_json::from_value(record.state);
    let log_error = |error: &serde_json::Error| {
        tracing::error!(%error, release = record.id, "a stored release cannot be read");
    };
    stored.inspect_err(log_error).ok().map(|stored| stored.view)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn release(number: u64, step: usize) -> api::Release {
        serde_json::from_value(json!({
            "id": format!("my-shop-{number}"), "service": "my-shop",
            "baseline": "blue", "canary": "green",
            "phase": "progressing", "paused": false,
            "step": step, "steps": [5.0, 100.0], "weight": 5.0,
            "started_at": "", "phase_since": "", "actor": "alice",
            "budget": { "limit": 20, "spent": 0, "allowance": 20 },
            "user_visible_failures": 0, "rescued": 0,
            "canary_requests": 0, "baseline_requests": 0,
            "log_e": 0.0, "log_limit": 4.6, "objectives": [],
            "durable": true,
        }))
        .unwrap()
    }

    #[test]
    fn stored_and_live_releases_are_merged_newest_first() {
        let live = vec![release(11, 2), release(8, 1)];
        let stored = [11, 10, 9, 8].map(|number| release(number, 0));
        let page = newest(live, stored.into_iter(), 3);
        assert_eq!(page, [release(11, 2), release(10, 0), release(9, 0)]);
    }
}
