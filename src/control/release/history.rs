//! The history of a release, for people: its timeline, its weights, and the path of its statistics.
//!
//! Everything is bounded. A path that grows too long is thinned out evenly, so that releases of
//! days and of minutes have as many points.

use serde::{Deserialize, Serialize};

use crate::model::api;
use crate::model::redact;
use crate::stats::{Arm, SampledExchange};
use crate::time::Timestamp;

/// Points of the path; beyond this every second one is removed, and the distance between new ones
/// doubles.
const PATH_MAX: usize = 600;
/// Entries of the timeline: as many as the plan has steps and people give commands.
const TIMELINE_MAX: usize = 1_000;
/// Samples of each arm. The first failures tell most; successful responses are kept for comparison.
const SAMPLES_MAX: usize = 20;
/// Pairs of route and status that are counted separately.
const ROUTES_MAX: usize = 200;
/// The first distance between two points.
const DISTANCE_MS: u64 = 250;

/// The history of one release.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct History {
    started_unix_us: i64,
    timeline: Vec<api::TimelineEntry>,
    weights: Vec<(u64, f64)>,
    /// Stored point by point, beside the rest.
    #[serde(skip)]
    path: Vec<Point>,
    /// The number of the next point.
    #[serde(default)]
    number: u32,
    #[serde(skip)]
    changes: Vec<PointChange>,
    distance_ms: u64,
    routes: Vec<api::FailingRoute>,
    samples: api::Samples,
    notes: Vec<String>,
}

/// A point of the path. Its number does not change when others are removed.
#[derive(Clone, Debug)]
struct Point {
    number: u32,
    value: api::PathPoint,
}

/// A change of the path since it was last written; `None` for a removed point.
type PointChange = (u32, Option<api::PathPoint>);

impl History {
    pub(super) fn new(started: Timestamp) -> History {
        History {
            started_unix_us: started.unix_us(),
            timeline: Vec::new(),
            weights: vec![(0, 0.0)],
            path: Vec::new(),
            number: 0,
            changes: Vec::new(),
            distance_ms: DISTANCE_MS,
            routes: Vec::new(),
            samples: api::Samples::default(),
            notes: Vec::new(),
        }
    }

    /// Milliseconds since the start, by the wall clock, so that they continue across a restart.
    pub(super) fn elapsed_ms(&self, now: Timestamp) -> u64 {
        let elapsed_us = now.unix_us().saturating_sub(self.started_unix_us);
        u64::try_from(elapsed_us / 1_000).unwrap_or(0)
    }

    /// Adds a transition of the release.
    pub(super) fn turn(
        &mut self,
        now: Timestamp,
        action: &str,
        actor: &str,
        detail: String,
        weight: f64,
    ) {
        let elapsed_ms = self.elapsed_ms(now);
        if self
            .weights
            .last()
            .is_none_or(|(_, last)| last.to_bits() != weight.to_bits())
        {
            self.weights.push((elapsed_ms, weight));
        }
        if self.timeline.len() == TIMELINE_MAX {
            self.note("the timeline exceeds its limit; the later entries are in the journal");
            return;
        }
        self.timeline.push(api::TimelineEntry {
            at: now.rfc3339(),
            elapsed_ms,
            action: action.to_owned(),
            actor: actor.to_owned(),
            detail,
            weight,
        });
    }

    /// Whether the next point of the path is due.
    pub(super) fn wants_point(&self, now: Timestamp) -> bool {
        let last = self.path.last().map(|point| point.value.elapsed_ms);
        last.is_none_or(|last| self.elapsed_ms(now).saturating_sub(last) >= self.distance_ms)
    }

    /// Adds a point of the path.
    pub(super) fn point(&mut self, point: api::PathPoint) {
        if self.path.len() >= PATH_MAX {
            let (mut keep, changes) = (false, &mut self.changes);
            self.path.retain(|point| {
                keep = !keep;
                if !keep {
                    changes.push((point.number, None));
                }
                keep
            });
            self.distance_ms = self.distance_ms.saturating_mul(2);
        }
        let number = self.number;
        self.number = number.saturating_add(1);
        self.changes.push((number, Some(point.clone())));
        self.path.push(Point {
            number,
            value: point,
        });
    }

    /// Points of the path to be written, by number; `None` for removed ones.
    pub(super) fn changes(&mut self) -> Vec<(u32, Option<api::PathPoint>)> {
        std::mem::take(&mut self.changes)
    }

    /// Marks all points to be written again, after a write that may have failed.
    pub(super) fn forget_written(&mut self) {
        let points = self
            .path
            .iter()
            .map(|point| (point.number, Some(point.value.clone())));
        self.changes = points.collect();
    }

    /// Restores the path from stored points, in the order of their numbers.
    pub(super) fn restore_path(&mut self, points: impl Iterator<Item = (u32, api::PathPoint)>) {
        self.path = points
            .map(|(number, value)| Point { number, value })
            .collect();
        let next = self
            .path
            .last()
            .map_or(0, |last| last.number.saturating_add(1));
        self.number = self.number.max(next);
    }

    /// Requests of the canary before the step `step` (from 1), as far as the path shows.
    pub(super) fn requests_before(&self, step: usize) -> u64 {
        let last = self.path.iter().rev().find(|point| point.value.step < step);
        let objective = last.and_then(|point| point.value.objectives.first());
        objective.map_or(0, |objective| objective.canary.requests)
    }

    /// Adds an exchange that a worker sampled.
    pub(super) fn sample(&mut self, sample: &SampledExchange) {
        let (side, samples) = match sample.side {
            Arm::Canary => ("canary", &mut self.samples.canary),
            Arm::Baseline => ("baseline", &mut self.samples.baseline),
        };
        if samples.len() < SAMPLES_MAX {
            samples.push(to_api(sample));
        }
        if let Some(reason) = sample.reason {
            self.failure(side, sample, reason);
        }
    }

    fn failure(&mut self, side: &str, sample: &SampledExchange, reason: &str) {
        let status = match sample.status {
            Some(status) if reason == "5xx" => status.to_string(),
            _ => reason.to_owned(),
        };
        let route = Some(format!("{} {}", sample.method, redact::group(&sample.path)));
        let same = |known: &&mut api::FailingRoute| {
            known.side == side && known.status == status && known.route == route
        };
        if let Some(known) = self.routes.iter_mut().find(same) {
            known.count += 1;
        } else if self.routes.len() < ROUTES_MAX {
            self.routes.push(api::FailingRoute {
                side: side.to_owned(),
                route,
                status,
                count: 1,
            });
        }
    }

    /// Adds a note for readers, once.
    pub(super) fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|known| known == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// The evidence bundle.
    pub(super) fn bundle(
        &self,
        release: api::Release,
        judge: serde_json::Value,
        plan: serde_json::Value,
    ) -> api::EvidenceBundle {
        api::EvidenceBundle {
            release,
            timeline: self.timeline.clone(),
            weights: self.weights.clone(),
            path: self.path.iter().map(|point| point.value.clone()).collect(),
            routes: self.routes.clone(),
            samples: self.samples.clone(),
            judge,
            plan,
            notes: self.notes.clone(),
        }
        .redacted()
    }
}

fn to_api(sample: &SampledExchange) -> api::Sample {
    api::Sample {
        at: sample.at.rfc3339(),
        method: sample.method.to_string(),
        path: sample.path.to_string(),
        status: sample.status,
        reason: sample.reason.map(str::to_owned),
        latency_us: sample.latency_us,
        request_id: sample.request_id.as_deref().map(str::to_owned),
        headers: sample
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::new(0, seconds * 1_000_000)
    }

    #[test]
    fn the_path_is_thinned_out_evenly() {
        let mut history = History::new(at(0));
        let mut taken = 0;
        for second in 0..10_000 {
            if history.wants_point(at(second)) {
                taken += 1;
                history.point(api::PathPoint {
                    elapsed_ms: history.elapsed_ms(at(second)),
                    step: 1,
                    weight: 5.0,
                    log_e: 0.0,
                    log_limit: 6.9,
                    objectives: Vec::new(),
                });
            }
        }
        assert!(taken > PATH_MAX && history.path.len() <= PATH_MAX + 1);
        let gaps = history
            .path
            .windows(2)
            .map(|pair| pair[1].value.elapsed_ms - pair[0].value.elapsed_ms);
        let (least, most) = gaps.fold((u64::MAX, 0), |(least, most), gap| {
            (least.min(gap), most.max(gap))
        });
        assert!(most <= 4 * least, "{least} to {most}");
        let mut written = std::collections::BTreeMap::new();
        for (number, point) in history.changes() {
            match point {
                Some(point) => drop(written.insert(number, point)),
                None => drop(written.remove(&number)),
            }
        }
        let path: Vec<_> = history
            .path
            .iter()
            .map(|point| point.value.elapsed_ms)
            .collect();
        let value: Vec<_> = written.values().map(|point| point.elapsed_ms).collect();
        assert_eq!(
            value, path,
            "the stored changes, applied in order, give the path"
        );
    }

    #[test]
    fn requests_before_a_step_are_counted() {
        let mut history = History::new(at(0));
        for (step, requests) in [(1, 10), (1, 120), (2, 130), (2, 150)] {
            let canary = api::SideCounts {
                requests,
                failures: 0,
            };
            history.point(api::PathPoint {
                elapsed_ms: requests,
                step,
                weight: 5.0,
                log_e: 0.0,
                log_limit: 6.9,
                objectives: vec![api::PathObjective {
                    name: "error_rate".to_owned(),
                    log_e: 0.0,
                    advance_log_e: None,
                    advance_limit: 3.0,
                    canary,
                    baseline: canary,
                }],
            });
        }
        assert_eq!(
            [1, 2, 3].map(|step| history.requests_before(step)),
            [0, 120, 150]
        );
    }

    #[test]
    fn repeated_weights_are_recorded_once_and_a_clock_step_back_is_tolerated() {
        let mut history = History::new(at(10));
        history.turn(
            at(11),
            "release_advanced",
            "weighbridge",
            String::new(),
            5.0,
        );
        history.turn(at(12), "release_paused", "alice", String::new(), 5.0);
        history.turn(
            at(3),
            "release_rolled_back",
            "weighbridge",
            String::new(),
            0.0,
        );
        assert_eq!(history.weights, [(0, 0.0), (1_000, 5.0), (0, 0.0)]);
        assert_eq!(history.timeline.len(), 3);
    }
}
