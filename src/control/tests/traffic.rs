//! Starts releases in a [`Rig`] and sends traffic to them.

use serde_json::json;

use super::*;
use crate::control::ReleaseVerb;
use crate::model::api::Phase;
use crate::routing::ReleaseHandle;
use crate::stats::{Arm, Assignment, EventBatch, RequestEvent, RequestEventKind};
use crate::time::Clock;

/// A plan that good traffic passes in a few hundred requests.
pub(super) fn quick() -> serde_json::Map<String, serde_json::Value> {
    let plan = json!({
        "steps": [20, 50],
        "bake": "1s",
        "min_requests": 20,
        "harm_budget": "20pp",
        "objectives": [{ "error_rate": { "worse_by": "0.05pp" } }],
        "final_bake": "2s",
    });
    plan.as_object().unwrap().clone()
}

pub(super) fn start(plan: serde_json::Map<String, serde_json::Value>) -> api::ReleaseStart {
    api::ReleaseStart {
        canary: "green".to_owned(),
        reason: Some("v42".to_owned()),
        version: Some("42".to_owned()),
        plan: Some(plan),
        ..api::ReleaseStart::default()
    }
}

impl Rig {
    pub(super) async fn begin(&self) -> api::Release {
        let started = self
            .links
            .handle
            .start_release("shop", start(quick()), intent(None))
            .await;
        let release = started.unwrap().release;
        self.phase(&release.id, Phase::Progressing).await
    }

    pub(super) async fn release(&self, id: &str) -> api::Release {
        self.links.handle.release(id).await.unwrap()
    }

    /// Waits for a phase.
    pub(super) async fn phase(&self, id: &str, phase: Phase) -> api::Release {
        let wait = async {
            loop {
                let release = self.release(id).await;
                if release.phase == phase {
                    return release;
                }
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), wait).await;
        match found {
            Ok(release) => release,
            Err(_) => panic!("never {phase}: {:?}", self.release(id).await),
        }
    }

    pub(super) async fn verb(
        &self,
        id: &str,
        verb: ReleaseVerb,
    ) -> Result<api::ReleaseChange, Refusal> {
        let command = api::ReleaseCommand::default();
        self.links
            .handle
            .command_release(id, verb, command, intent(None))
            .await
    }

    /// The rollback counters by reason, without zeros.
    pub(super) fn rollbacks(&self) -> Vec<(String, u64)> {
        let page = self.links.handle.metrics().render();
        let of_shop = page.lines().filter_map(|line| {
            let rest =
                line.strip_prefix(r#"weighbridge_rollbacks_total{service="shop",reason=""#)?;
            let (reason, count) = rest.split_once("\"} ")?;
            Some((reason.to_owned(), count.parse().unwrap()))
        });
        of_shop.filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn watch(&self) -> Option<Arc<ReleaseHandle>> {
        let snapshot = self.links.publisher.current();
        snapshot.table.service("shop").unwrap().watch.clone()
    }

    /// Sends so many requests over so long, split by the weights; those of the canary fail if
    /// `bad`.
    pub(super) async fn traffic(&self, requests: u64, over: Duration, bad: bool) {
        self.traffic_at(self.points(), requests, over, bad).await;
    }

    /// The canary's weight of 10,000.
    pub(super) fn points(&self) -> u16 {
        let snapshot = self.links.publisher.current();
        let green = snapshot
            .table
            .service("shop")
            .unwrap()
            .upstream("green")
            .unwrap();
        green.weight.basis_points()
    }

    /// The same, with a fixed canary share of 10,000.
    pub(super) async fn traffic_at(&self, points: u16, requests: u64, over: Duration, bad: bool) {
        self.visits(points, 0, requests, over, bad).await;
    }

    /// The same, for users numbered from `first`.
    pub(super) async fn visits(
        &self,
        points: u16,
        first: u64,
        requests: u64,
        over: Duration,
        bad: bool,
    ) {
        let Some(watch) = self.watch() else { return };
        let notes = (first..first + requests).flat_map(|at| {
            self.clock.advance(over / u32::try_from(requests).unwrap());
            self.request(&watch, points, at, bad)
        });
        self.send_events(notes.collect()).await;
    }

    /// Requests without a response.
    pub(super) async fn hang(&self, points: u16, requests: u64) {
        let Some(watch) = self.watch() else { return };
        let assigned = |at| self.request(&watch, points, at, false)[0];
        self.send_events((0..requests).map(assigned).collect())
            .await;
    }

    pub(super) async fn send_events(&self, notes: Vec<RequestEvent>) {
        let batch = EventBatch {
            notes,
            sent_us: micros(self.clock.now()),
            ..EventBatch::default()
        };
        self.clock.advance(Duration::from_millis(1));
        self.links.notes.send(batch).await.unwrap();
        let notes = &self.links.notes;
        until(|| notes.capacity() == notes.max_capacity()).await;
        // A reply to a later command comes after they were judged.
        self.shop().await;
    }

    fn request(&self, watch: &ReleaseHandle, points: u16, at: u64, bad: bool) -> [RequestEvent; 2] {
        // By the golden ratio, so that each prefix is split about as the weights say.
        let draw = (at as f64 * 0.618_033_988_75).fract() * 10_000.0;
        let side = if draw < f64::from(points) {
            Arm::Canary
        } else {
            Arm::Baseline
        };
        let failed = bad && side == Arm::Canary;
        let note = |happened| RequestEvent {
            assignment: Assignment {
                watch: watch.spec.key,
                at_us: micros(self.clock.now()),
                canary_points: points,
                baseline_points: 10_000 - points,
                side,
            },
            user: u32::try_from(at).unwrap(),
            happened,
        };
        let end = if failed {
            RequestEventKind::Bad { visible: true }
        } else {
            RequestEventKind::Good { latency_us: 900 }
        };
        [note(RequestEventKind::ASSIGNED), note(end)]
    }
}

fn micros(now: Timestamp) -> u64 {
    now.monotonic_ns() / 1_000
}
