//! Random sequences of traffic, verdicts, commands, freezes, clock jumps, restarts and store
//! failures, checked against invariants. The message names the seed that breaks one.

use serde_json::json;

use super::disk::Disk;
use super::traffic::{quick, start};
use super::*;
use crate::control::ReleaseVerb;
use crate::model::api::Phase;

/// Number of histories.
const SEEDS: u64 = 12;
/// Events in one history.
const EVENTS: usize = 40;

/// One history in progress.
struct History {
    disk: Disk,
    rig: Option<(Rig, Arc<OnceLock<Acknowledger>>)>,
    /// Both clocks continue from one process to the next.
    unix_us: i64,
    random: fastrand::Rng,
    /// A release was rolled back or cancelled, and nobody has requested traffic on the canary
    /// since.
    latched: bool,
    /// The store has failed since the last successful write.
    full: bool,
    last_spent: Option<(String, u64)>,
}

#[tokio::test]
async fn invariants_hold_in_random_histories() {
    for seed in 0..SEEDS {
        let history = History {
            disk: Disk::default(),
            rig: None,
            unix_us: 1_700_000_000_000_000,
            random: fastrand::Rng::with_seed(seed),
            latched: false,
            full: false,
            last_spent: None,
        };
        // A panic is reported with the seed, through the task's result.
        let played = tokio::spawn(history.play()).await;
        assert!(played.is_ok(), "seed {seed}: {played:?}");
    }
}

impl History {
    async fn play(mut self) {
        self.restart();
        for _ in 0..EVENTS {
            match self.random.u32(0..13) {
                0 => self.begin().await,
                1..=3 => self.traffic(false).await,
                4 => self.traffic(true).await,
                5 | 6 => self.verb().await,
                7 => self.wait(),
                8 => self.trip(),
                9 => {
                    self.full = !self.full;
                    self.disk.set_full(self.full);
                }
                10 => self.restart(),
                11 => drop(
                    self.rig()
                        .links
                        .handle
                        .reload(vec![spec("shop", 0.0)], "file")
                        .await,
                ),
                _ => self.weights().await,
            }
            self.settle().await;
            self.check().await;
        }
    }

    fn wait(&mut self) {
        let millis = self.random.u64(0..4_000);
        self.rig().clock.advance(Duration::from_millis(millis));
    }

    fn rig(&self) -> &Rig {
        &self.rig.as_ref().unwrap().0
    }

    /// Kills the process and starts another on the same disk; the wall clock may have been set
    /// back.
    fn restart(&mut self) {
        if let Some((rig, _)) = self.rig.take() {
            let at = crate::time::Clock::now(&rig.clock).unix_us();
            self.unix_us = at + self.random.i64(-5_000_000..5_000_000);
        }
        if self.full {
            // A safe change that was reported as not durable may be lost with the process.
            self.latched &= !self.disk.is_under_way();
            self.last_spent = None;
        }
        self.full = false;
        self.disk.set_full(false);
        let (store, loaded) = self.disk.load();
        let clock = ManualClock::new(Timestamp::new(0, self.unix_us));
        let timing = Timing {
            durable_within: Duration::from_millis(5),
            ..TIMING
        };
        let rig = Rig::at(clock, store, loaded, vec![spec("shop", 0.0)], timing);
        let worker = prompt_worker(&rig.links.publisher);
        self.rig = Some((rig, worker));
    }

    async fn begin(&mut self) {
        let mut plan = quick();
        if self.random.bool() {
            let gated = json!([{ "weight": 20, "gate": { "name": "qa", "approvals": 1 } }, 50]);
            plan.insert("steps".into(), gated);
        }
        if self.random.u8(0..4) == 0 {
            plan.insert("freeze".into(), json!(["00:00 - 23:59 UTC"]));
        }
        let started = self
            .rig()
            .links
            .handle
            .start_release("shop", start(plan), intent(None))
            .await;
        if started.is_ok() {
            self.latched = false;
            self.last_spent = None;
        } else if self.full {
            assert!(
                matches!(started, Err(Refusal::Store(_) | Refusal::Conflict(_))),
                "{started:?}"
            );
        }
    }

    async fn traffic(&mut self, bad: bool) {
        let requests = self.random.u64(5..120);
        let over = Duration::from_millis(self.random.u64(50..1_500));
        self.rig().traffic(requests, over, bad).await;
    }

    async fn verb(&mut self) {
        let verbs = [
            ReleaseVerb::Pause,
            ReleaseVerb::Resume,
            ReleaseVerb::Approve,
            ReleaseVerb::Promote,
            ReleaseVerb::RollBack,
            ReleaseVerb::Cancel,
        ];
        let verb = verbs[self.random.usize(0..verbs.len())];
        let Some(id) = self.rig().shop().await.release else {
            return;
        };
        let done = self.rig().verb(&id, verb).await;
        if matches!(verb, ReleaseVerb::RollBack | ReleaseVerb::Cancel) && done.is_ok() {
            assert_eq!(
                self.rig().green(),
                0.0,
                "a safe change is in effect when the reply is sent, whatever the disk does"
            );
            self.latched = true;
        }
    }

    /// A worker finishes the failure that exhausts the budget.
    fn trip(&mut self) {
        if let Some(watch) = self.rig().watch()
            && self.rig().green() > 0.0
        {
            trip(&watch);
            self.rig()
                .links
                .publisher
                .update(|table| table.drained(watch.spec.canary));
            assert_eq!(self.rig().green(), 0.0);
        }
    }

    async fn weights(&mut self) {
        let green = f64::from(self.random.u8(0..=100));
        let put = self.rig().put(green).await.unwrap();
        if put.is_ok() {
            self.latched &= green == 0.0;
        }
    }

    /// Lets the controller process what it has received.
    async fn settle(&self) {
        for _ in 0..3 {
            self.rig().shop().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn check(&mut self) {
        let (shop, green) = (self.rig().shop().await, self.rig().green());
        let newest = self
            .rig()
            .links
            .handle
            .releases("shop", 5)
            .await
            .unwrap()
            .into_iter()
            .next();
        if let Some(watch) = self.rig().watch() {
            assert!(
                green == 0.0 || !watch.tripwire().is_tripped(),
                "a tripped canary has traffic"
            );
        }
        if let Some(release) = &newest {
            self.latched |=
                matches!(release.phase, Phase::RolledBack | Phase::Cancelled) && green == 0.0;
            self.check_release(release, &shop, green);
        }
        assert!(
            !self.latched || green == 0.0,
            "traffic returned to a canary that was taken out: {newest:?}"
        );
    }

    fn check_release(&mut self, release: &api::Release, shop: &api::Service, green: f64) {
        if release.phase.is_over() {
            return;
        }
        assert_eq!(shop.release.as_deref(), Some(release.id.as_str()));
        assert!(
            [0.0, 20.0, 50.0, 100.0].contains(&green),
            "{green} is not one of the plan's weights"
        );
        if matches!(release.phase, Phase::Pending | Phase::Preflight) {
            assert_eq!(green, 0.0);
        }
        // No less of the budget is spent after a restart.
        if let Some((id, spent)) = &self.last_spent
            && *id == release.id
        {
            assert!(
                release.budget.spent >= *spent,
                "{} after {spent}",
                release.budget.spent
            );
        }
        self.last_spent = Some((release.id.clone(), release.budget.spent));
    }
}
