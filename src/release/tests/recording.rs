//! A recorded live release replays to the same decisions at the same times, whatever happens to it.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::super::engine::cohorts::{CohortBuilder, KnownEvents};
use super::super::engine::scored::Scored;
use super::super::engine::{Decision, Engine, EngineEvent, Facts, Moment, TrippedBudget};
use super::super::replay::{Replay, Writer};
use super::super::{Command, ReleaseAction, ReleaseState, Timeline, Trial};
use super::{MONDAY_9, SECOND, begin, plan};
use crate::analysis::{ArmCounts, Cohort, Matured, Unit, Units};
use crate::model::api::Phase;
use crate::stats::{Arm, Assignment, ReleaseKey, RequestEvent, RequestEventKind};
use crate::time::Timestamp;

/// The evaluations of a live release at most.
const TICKS: u64 = 4_000;
const LANDMARK_US: u64 = 200_000;
const CHECKPOINT_US: u64 = 1_000_000;

struct Rng(u64);

impl Rng {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()].clone()
    }
}

fn random_plan(rng: &mut Rng) -> Value {
    let errors = json!({ "error_rate": { "worse_by": "0.05pp" } });
    let latency = json!({ "latency": { "worse_by": "20%" } });
    let first = json!({ "weight": 20, "gate": { "name": "qa", "expires": "20s" } });
    let objectives = rng.pick(&[json!([errors]), json!([errors, latency])]);
    let mut plan = json!({
        "steps": rng.pick(&[json!([20, 50]), json!([first, 50]), json!([50]), json!([100])]),
        "bake": rng.pick(&["0s", "1s"]),
        "min_requests": rng.pick(&[0, 20]),
        "harm_budget": "20pp",
        "objectives": objectives,
        "budget": rng.pick(&[0, 3, 20]),
        "final_bake": rng.pick(&["0s", "2s"]),
        "max_duration": rng.pick(&["0s", "4s"]),
        "inconclusive": rng.pick(&["hold", "advance", "roll_back"]),
    });
    let fields = plan.as_object_mut().unwrap();
    if rng.once_in(3) {
        fields.insert("gate".to_owned(), json!("start"));
    }
    if rng.once_in(2) {
        let windows = ["Mon 08:00 - Mon 09:00 UTC", "Mon 09:01 - Mon 09:02 UTC"];
        fields.insert("freeze".to_owned(), json!(windows));
    }
    plan
}

/// A process that controls one release, and its proxy.
struct Live {
    rng: Rng,
    engine: Engine,
    writer: Writer,
    cohorts: CohortBuilder,
    scored: VecDeque<Scored>,
    units: Units,
    sticky: bool,
    timeline: Timeline,
    now_us: u64,
    unix_us: i64,
    /// Events that have not happened yet.
    coming: BTreeMap<u64, Vec<RequestEvent>>,
    failing: [u64; 2],
    lines: Vec<String>,
    carried_out: Vec<(u64, &'static str, usize)>,
    committing: Option<(Decision, u64)>,
    retry_at_us: u64,
    baseline_down: bool,
    full_until_us: u64,
    spent: [u64; 2],
    limits: [u64; 2],
    tripped: Option<&'static str>,
    /// The release, its judged state and its time, on disk.
    row: ReleaseState,
    checkpoint: Option<(Value, Option<usize>, u64)>,
    checkpoint_at_us: u64,
}

impl Live {
    fn new(seed: u64) -> Live {
        let mut rng = Rng(seed);
        let start_us = MONDAY_9 - i64::try_from(rng.below(20)).unwrap() * SECOND;
        let mut release = begin(plan(random_plan(&mut rng)));
        release.started_us = start_us;
        if rng.once_in(4) {
            release.start_at_us = Some(start_us + 2 * SECOND);
        }
        let now = Timestamp::new(1_000_000_000, start_us);
        let sticky = rng.once_in(3);
        let failing = rng.pick(&[[5, 5], [5, 60], [20, 300], [300, 300]]);
        let trial = Trial::new(&release.plan, 1);
        let mut live = Live {
            writer: Writer::new(&release),
            lines: vec![Writer::begin(&release, sticky)],
            row: release.clone(),
            units: Units::new(sticky, release.plan.bake_us()),
            engine: Engine::new(release, trial, None),
            cohorts: CohortBuilder::new(1_000_000),
            scored: VecDeque::new(),
            sticky,
            timeline: Timeline::new(now),
            now_us: 1_000_000,
            unix_us: start_us,
            coming: BTreeMap::new(),
            failing,
            carried_out: Vec::new(),
            committing: None,
            retry_at_us: 0,
            baseline_down: false,
            full_until_us: 0,
            spent: [0; 2],
            limits: [u64::MAX; 2],
            tripped: None,
            checkpoint: None,
            checkpoint_at_us: 0,
            rng,
        };
        let latency_us: Vec<_> = (1..=400).map(|at| (900 + at, 1)).collect();
        let past = EngineEvent::Past {
            latency_us: &latency_us,
            failures: 1,
        };
        live.feed(&past);
        live
    }

    fn now(&self) -> Timestamp {
        Timestamp::new(self.now_us * 1_000, self.unix_us)
    }

    fn at(&self) -> Moment {
        Moment {
            at_ms: self.timeline.ms(self.now()),
            now: self.now(),
        }
    }

    fn feed(&mut self, event: &EngineEvent<'_>) -> Option<Decision> {
        self.feed_at(event, self.at())
    }

    fn feed_at(&mut self, event: &EngineEvent<'_>, at: Moment) -> Option<Decision> {
        let decision = self.engine.on(event, at);
        let add = |line| self.lines.push(line);
        self.writer
            .event(&self.engine, event, at, decision.as_ref(), add);
        decision
    }

    fn run(&mut self) {
        for _ in 0..TICKS {
            if self.engine.release().phase.is_over() {
                break;
            }
            let passed_us = 2_000 + self.rng.below(18_000);
            self.now_us += passed_us;
            self.unix_us += i64::try_from(passed_us).unwrap();
            if self.rng.once_in(500) {
                self.unix_us += 5 * SECOND - i64::try_from(self.rng.below(10_000_000)).unwrap();
            }
            self.commit();
            self.requests();
            self.command();
            self.drive();
            self.after_tick();
            if self.rng.once_in(800) {
                let killed = self.rng.once_in(2);
                self.restart(killed);
            }
        }
    }

    /// The store's answer.
    fn commit(&mut self) {
        let now_us = self.now_us;
        let Some((decision, _)) = self.committing.take_if(|(_, at_us)| *at_us <= now_us) else {
            return;
        };
        match self.rng.once_in(6) {
            true => self.refuse(),
            false => self.apply(&decision),
        }
    }

    fn refuse(&mut self) {
        self.retry_at_us = self.now_us + 1_000_000;
        self.feed(&EngineEvent::Refused);
    }

    fn apply(&mut self, decision: &Decision) {
        let after = &decision.transition.after;
        self.carried_out.push((
            decision.at_ms,
            decision.transition.action,
            after.step_number(),
        ));
        self.row = after.clone();
        self.feed(&EngineEvent::Applied(after));
    }

    fn carry_out(&mut self, decision: &Decision) {
        self.feed(&EngineEvent::Accepted(decision));
        if decision.is_away() {
            let takes_us = self.rng.pick(&[0, 1_000, 50_000, 500_000]);
            self.committing = Some((decision.clone(), self.now_us + takes_us));
            return;
        }
        if self.committing.take().is_some() {
            self.refuse();
        }
        let promotes = decision.transition.after.phase == Phase::Promoted;
        if promotes && self.tripped.is_some() {
            return self.refuse();
        }
        self.apply(decision);
    }

    fn requests(&mut self) {
        let points = match self.tripped {
            Some(_) => 0,
            None => self.engine.release().weight().basis_points(),
        };
        for _ in 0..self.rng.below(8) {
            let side = if self.rng.below(10_000) < u64::from(points) {
                Arm::Canary
            } else {
                Arm::Baseline
            };
            let assignment = Assignment {
                watch: ReleaseKey(0),
                at_us: self.now_us - self.rng.below(2_000),
                canary_points: points,
                baseline_points: 10_000 - points,
                side,
            };
            let user = u32::try_from(self.rng.below(300)).unwrap();
            let canary_full = self.now_us < self.full_until_us;
            let mut add = |after_us, happened| {
                let event = RequestEvent {
                    assignment,
                    user,
                    happened,
                };
                self.coming
                    .entry(self.now_us + after_us)
                    .or_default()
                    .push(event);
            };
            let uploading = self.rng.once_in(50);
            add(
                0,
                RequestEventKind::Assigned {
                    uploading,
                    canary_full,
                },
            );
            let takes_us = 900 + self.rng.below(600) * self.rng.pick(&[1, 1, 1, 50]);
            let fails = self.rng.below(1_000) < self.failing[usize::from(side == Arm::Canary)];
            let visible = !self.rng.once_in(3);
            match self.rng.below(200) {
                0 => {} // It never ends.
                1 => add(takes_us, RequestEventKind::Displaced),
                2 => add(takes_us, RequestEventKind::Aborted { late: false }),
                3 => {
                    add(takes_us, RequestEventKind::Sent);
                    add(takes_us + 400_000, RequestEventKind::Bad { visible });
                }
                _ if fails => add(takes_us, RequestEventKind::Bad { visible }),
                _ => {
                    let latency_us = u32::try_from(takes_us).unwrap();
                    add(takes_us, RequestEventKind::Good { latency_us });
                }
            }
        }
        self.report();
    }

    /// What the workers report, unless it is lost.
    fn report(&mut self) {
        if self.rng.once_in(900) {
            self.full_until_us = self.now_us + 300_000;
        }
        let later = self.coming.split_off(&(self.now_us + 1));
        let happened = std::mem::replace(&mut self.coming, later);
        let is_lost = self.rng.once_in(700);
        for event in happened.into_values().flatten() {
            self.spend(&event);
            if !is_lost {
                self.cohorts.add(&event);
            }
        }
        if is_lost {
            self.cohorts.give_up(self.now_us);
        }
    }

    /// The tripwire of the workers.
    fn spend(&mut self, event: &RequestEvent) {
        if event.assignment.side != Arm::Canary || !event.happened.is_bad() {
            return;
        }
        let is_visible = event.happened == RequestEventKind::Bad { visible: true };
        self.spent[0] += u64::from(is_visible);
        self.spent[1] += 1;
        for (at, name) in ["budget", "rescued_budget"].into_iter().enumerate() {
            if self.spent[at] >= self.limits[at] {
                self.tripped.get_or_insert(name);
            }
        }
    }

    fn command(&mut self) {
        let verb = match self.rng.below(2_000) {
            0..=3 => ReleaseAction::Pause,
            4..=9 => ReleaseAction::Resume,
            10..=29 => ReleaseAction::Approve,
            30 => ReleaseAction::Promote,
            31 => ReleaseAction::RollBack,
            32 => ReleaseAction::Cancel,
            _ => return,
        };
        let command = Command {
            verb,
            by: self.rng.pick(&["ann", "bob"]),
            reason: Some("because"),
            gate: None,
            override_freeze: verb == ReleaseAction::Resume && self.rng.once_in(2),
            may_override: true,
        };
        let at = self.at();
        let Ok(Some(decision)) = self.engine.command(&command, at) else {
            return;
        };
        if decision.is_away() && self.committing.is_some() {
            return;
        }
        let add = |line| self.lines.push(line);
        self.writer.command(&self.engine, &command, at, add);
        self.carry_out(&decision);
    }

    fn drive(&mut self) {
        let known = KnownEvents {
            now_us: self.now_us,
            floor_us: self.now_us - self.rng.below(3_000),
            landmark_us: LANDMARK_US,
        };
        let scored = self.cohorts.close(&known, &mut self.units);
        self.scored.extend(scored);
        if self.rng.once_in(600) {
            self.baseline_down = !self.baseline_down;
        }
        let facts = Facts {
            baseline_down: self.baseline_down,
            canary_full: self.now_us < self.full_until_us,
            retrying: self.now_us < self.retry_at_us,
            open: self.cohorts.open_past_landmark(),
            pending: self.cohorts.pending(),
            spent: self.engine.facts().spent,
        };
        self.feed(&EngineEvent::Facts(facts));
        for _ in 0..16 {
            let Some(decision) = self.due() else { break };
            self.carry_out(&decision);
        }
    }

    fn due(&mut self) -> Option<Decision> {
        if self.engine.release().phase == Phase::Preflight {
            let result = if self.rng.once_in(30) {
                Err("refused")
            } else {
                Ok(())
            };
            if let Some(decision) = self.feed(&EngineEvent::Preflight(result)) {
                return Some(decision);
            }
        }
        if let Some(objective) = self.tripped {
            let trip = TrippedBudget {
                objective,
                spent: self.spent[0],
                written_off: 0,
                limit: match objective {
                    "budget" => self.engine.release().plan.budget(),
                    _ => self.engine.release().plan.rescued_budget(),
                },
                outran: None,
            };
            if let Some(decision) = self.feed(&EngineEvent::Tripped(trip)) {
                return Some(decision);
            }
        }
        while let Some(scored) = self.scored.pop_front() {
            let at_ms = self
                .timeline
                .ms(Timestamp::new(scored.at_us * 1_000, self.unix_us));
            let cohort = scored.cohort(at_ms);
            let event = match &scored.matured {
                Some(matured) => EngineEvent::Matured(matured),
                None if scored.is_tainted => EngineEvent::Tainted(&cohort),
                None => EngineEvent::Cohort(&cohort),
            };
            let now = self.now();
            if let Some(decision) = self.feed_at(&event, Moment { at_ms, now }) {
                return Some(decision);
            }
        }
        self.feed(&EngineEvent::Tick)
    }

    fn after_tick(&mut self) {
        let all = self.spent[1] + u64::from(self.cohorts.unfinished());
        let facts = Facts {
            spent: [self.spent[0], all],
            ..self.engine.facts()
        };
        self.feed(&EngineEvent::Facts(facts));
        let (trial, pending) = (self.engine.trial(), self.cohorts.pending());
        let limits = [
            trial.allowance_given(pending),
            trial.rescued_allowance_given(pending),
        ];
        self.limits = [0, 1].map(|at| self.spent[at].saturating_add(limits[at]));
        if self.engine.release().is_judged() && self.now_us >= self.checkpoint_at_us {
            self.checkpoint_at_us = self.now_us + CHECKPOINT_US;
            self.write_checkpoint();
        }
    }

    fn write_checkpoint(&mut self) {
        let mark = self.timeline.mark(self.now());
        self.lines.push(Writer::checkpoint(mark.at_ms));
        let trial = serde_json::to_value(self.engine.trial()).unwrap();
        self.checkpoint = Some((trial, self.engine.trial_step(), mark.at_ms));
    }

    /// Another process continues it, from the last checkpoint.
    fn restart(&mut self, killed: bool) {
        if self.engine.release().phase.is_over() {
            return;
        }
        if !killed {
            self.write_checkpoint();
        }
        // The store may have committed what was on its way.
        if let Some((decision, _)) = self.committing.take()
            && self.rng.once_in(2)
        {
            let after = &decision.transition.after;
            self.carried_out.push((
                decision.at_ms,
                decision.transition.action,
                after.step_number(),
            ));
            self.row = after.clone();
        }
        self.now_us += 3_000_000;
        self.unix_us += 3 * SECOND;
        let (trial, trial_step, at_ms) = match &self.checkpoint {
            Some((trial, step, at_ms)) => (
                serde_json::from_value(trial.clone()).unwrap(),
                *step,
                *at_ms,
            ),
            None => (Trial::new(&self.row.plan, 1), None, 0),
        };
        let mark = super::super::TimelineMark { at_ms };
        self.timeline = Timeline::resume(mark, self.now());
        self.engine = Engine::new(self.row.clone(), trial, trial_step);
        self.writer = Writer::new(&self.row);
        self.cohorts = CohortBuilder::new(self.now_us);
        self.units = Units::new(self.sticky, self.row.plan.bake_us());
        self.scored.clear();
        self.coming.clear();
        (self.retry_at_us, self.checkpoint_at_us) = (0, 0);
        let lost = if killed { self.rng.below(3) } else { 0 };
        self.spent = self.spent.map(|spent| spent + lost);
        self.feed(&EngineEvent::Resumed {
            written_off: [lost; 2],
        });
        self.after_tick();
    }
}

fn check(seed: u64) -> &'static str {
    let mut live = Live::new(seed);
    live.run();
    let mut replay = Replay::default();
    for line in &live.lines {
        let answer = replay.line(line);
        assert_eq!(answer, Ok(None), "seed {seed}: {line}");
    }
    assert_eq!(replay.warnings(), Vec::<String>::new(), "seed {seed}");
    let replayed = replay.carried_out();
    let same = replayed.iter().zip(&live.carried_out);
    let first = same.take_while(|(left, right)| left == right).count();
    assert!(
        replayed == live.carried_out,
        "seed {seed}: after {first} decisions, live {:?}, replayed {:?}",
        &live.carried_out[first..],
        &replayed[first..]
    );
    live.engine.release().phase.as_str()
}

/// Units of that time have the probability 0, which no recording may have.
#[test]
fn a_sticky_release_is_readable_that_was_recorded_before_its_first_step() {
    let engine = Engine::new(
        begin(plan(json!({}))),
        Trial::new(&plan(json!({})), 1),
        None,
    );
    let units = [Unit {
        weight: 0.0,
        begun: 5,
        failed: 1,
    }];
    let cohort = Cohort {
        baseline: ArmCounts {
            units: Some(&units),
            ..ArmCounts::of(5, 1)
        },
        ..Cohort::default()
    };
    let matured = Matured {
        baseline: units.to_vec(),
        ..Matured::default()
    };
    let at = Moment {
        at_ms: 7,
        now: Timestamp::new(0, 0),
    };
    let mut lines = vec![Writer::begin(engine.release(), true)];
    let mut writer = Writer::new(engine.release());
    for event in [EngineEvent::Cohort(&cohort), EngineEvent::Matured(&matured)] {
        writer.event(&engine, &event, at, None, |line| lines.push(line));
    }
    assert_eq!(lines.len(), 3);
    let mut replay = Replay::default();
    assert!(lines.iter().all(|line| replay.line(line) == Ok(None)));
}

#[test]
fn a_recorded_release_replays_to_the_same_decisions() {
    (0..50).for_each(|seed| _ = check(seed));
}

/// `make replays`; the seed of a failure is in its message.
#[test]
#[ignore = "a minute of processor time; `make replays`"]
fn a_thousand_recorded_releases_replay_to_the_same_decisions() {
    let mut phases = BTreeMap::<&str, u32>::new();
    (0..1_000).for_each(|seed| *phases.entry(check(seed)).or_default() += 1);
    for phase in ["promoted", "rolled_back", "cancelled"] {
        assert!(phases.contains_key(phase), "{phases:?}");
    }
}
