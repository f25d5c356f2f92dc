//! Invariants of a release under any order of ticks, clock jumps, findings, trips, commands of
//! several people, freezes and restarts, checked against a simpler model of what may move traffic.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{
    Command, Direction, Finding, Input, Plan, ReleaseAction, ReleaseState, Transition,
};
use super::{HOUR, MONDAY_9, begin, plan, tripped};
use crate::analysis::WaitReason;
use crate::model::Weight;
use crate::model::api::Phase;
use crate::time::Timestamp;

#[derive(Clone, Debug)]
enum Event {
    /// Time passes; the wall clock may differ.
    Pass {
        wall_s: i64,
    },
    Tick,
    Find(Finding),
    Trip,
    Unhealthy,
    Preflight(bool),
    Ask {
        verb: ReleaseAction,
        by: &'static str,
        gate: Option<&'static str>,
        overrides: bool,
        may: bool,
    },
    Restart,
}

const PEOPLE: [&str; 4] = ["ann", "bob", "cas", "dan"];

fn events() -> impl Strategy<Value = Vec<Event>> {
    let holds = prop_oneof![
        Just(WaitReason::Inconclusive),
        Just(WaitReason::TooLittleTraffic),
        Just(WaitReason::Split),
        Just(WaitReason::Slo)
    ];
    let verb = prop_oneof![
        3 => Just(ReleaseAction::Pause),
        6 => Just(ReleaseAction::Resume),
        9 => Just(ReleaseAction::Approve),
        3 => Just(ReleaseAction::Promote),
        1 => Just(ReleaseAction::RollBack),
        1 => Just(ReleaseAction::Cancel),
    ];
    let gate = prop_oneof![
        Just(None),
        Just(None),
        Just(Some("first")),
        Just(Some("second")),
        Just(Some("none"))
    ];
    let ask = (
        verb,
        0_usize..4,
        gate,
        proptest::bool::weighted(0.2),
        any::<bool>(),
    )
        .prop_map(|(verb, by, gate, overrides, may)| Event::Ask {
            verb,
            by: PEOPLE[by],
            gate,
            overrides,
            may,
        });
    let bad = Finding::RollBack {
        objective: "latency",
        detail: "slow".into(),
    };
    let event = prop_oneof![
        12 => (-6 * 3_600..8 * 3_600_i64).prop_map(|wall_s| Event::Pass { wall_s }),
        12 => Just(Event::Tick),
        20 => Just(Event::Find(Finding::Advance)),
        6 => Just(Event::Find(Finding::Continue)),
        5 => holds.prop_map(|reason| Event::Find(Finding::Hold(reason))),
        1 => Just(Event::Find(bad)),
        1 => Just(Event::Trip),
        1 => Just(Event::Unhealthy),
        10 => proptest::bool::weighted(0.95).prop_map(Event::Preflight),
        30 => ask,
        6 => Just(Event::Restart),
    ];
    proptest::collection::vec(event, 1..120)
}

fn plans() -> impl Strategy<Value = Value> {
    let first = prop_oneof![
        Just(json!(null)),
        Just(json!({ "name": "first", "approvals": 1, "expires": "3h" }))
    ];
    let second = prop_oneof![
        Just(json!(null)),
        Just(json!({ "name": "second", "approvals": 2, "by": ["ann", "bob", "cas"] })),
    ];
    (first, second, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(first, second, freeze, bake, last)| {
            let mut step = json!({ "weight": 20 });
            if !second.is_null() {
                step["gate"] = second;
            }
            let mut plan =
                json!({ "steps": [1, step, 60], "final_bake": if bake { "1s" } else { "0s" } });
            if last {
                let steps = plan["steps"].as_array_mut().unwrap();
                steps.push(json!({ "weight": 100, "hold": "1s" }));
            }
            if !first.is_null() {
                plan["gate"] = first;
            }
            if freeze {
                plan["freeze"] = json!(["06:00 - 12:00"]);
            }
            plan
        },
    )
}

/// The model: pauses, freezes and approvals, without phases.
struct Model {
    release: ReleaseState,
    monotonic_s: u64,
    wall_us: i64,
    paused: bool,
    overridden: bool,
    /// (gate, person) to the time of the approval.
    approvals: BTreeMap<(String, &'static str), i64>,
}

impl Model {
    fn new(plan: Plan) -> Model {
        Model {
            release: begin(plan),
            monotonic_s: 0,
            wall_us: MONDAY_9,
            paused: false,
            overridden: false,
            approvals: BTreeMap::new(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::new(self.monotonic_s * 1_000_000_000, self.wall_us)
    }

    fn frozen(&self) -> bool {
        let hour = self.wall_us.rem_euclid(24 * HOUR) / HOUR;
        !self.release.plan.freeze.is_empty() && !self.overridden && (6..12).contains(&hour)
    }

    fn is_open(&self, gate: &str) -> bool {
        let fresh = |at: i64| gate == "second" || self.wall_us - at <= 3 * HOUR;
        let valid = self
            .approvals
            .iter()
            .filter(|((of, _), at)| of == gate && fresh(**at))
            .count();
        valid >= if gate == "second" { 2 } else { 1 }
    }

    /// Applies one event and checks the transition.
    fn take(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match event {
            Event::Pass { wall_s } => {
                self.monotonic_s += wall_s.unsigned_abs();
                self.wall_us += wall_s * 1_000_000;
                Ok(())
            }
            Event::Restart => {
                let text = serde_json::to_string(&self.release).unwrap();
                let again: ReleaseState = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(&again, &self.release);
                self.release = again;
                self.monotonic_s = 0;
                Ok(())
            }
            Event::Tick => self.send(&Input::Tick, event),
            Event::Find(finding) => self.send(&Input::Verdict(finding), event),
            Event::Trip => self.send(&tripped(23, 20), event),
            Event::Unhealthy => self.send(&Input::Unhealthy { detail: "dead" }, event),
            Event::Preflight(well) => {
                let result = if *well { Ok(()) } else { Err("no answer") };
                self.send(&Input::Preflight(result), event)
            }
            Event::Ask {
                verb,
                by,
                gate,
                overrides,
                may,
            } => {
                let command = Command {
                    verb: *verb,
                    by,
                    reason: Some("why"),
                    gate: *gate,
                    override_freeze: *overrides,
                    may_override: *may,
                };
                self.send(&Input::Command(command), event)
            }
        }
    }

    fn send(&mut self, input: &Input<'_>, event: &Event) -> Result<(), TestCaseError> {
        let before = self.release.clone();
        let result = before.next(input, self.now());
        if before.phase.is_over() {
            prop_assert!(
                !matches!(result, Ok(Some(_))),
                "something follows the end: {:?}",
                result
            );
            return Ok(());
        }
        let rolls_back = match event {
            Event::Find(Finding::RollBack { .. }) | Event::Trip | Event::Unhealthy => true,
            Event::Ask { verb, .. } => {
                matches!(verb, ReleaseAction::RollBack | ReleaseAction::Cancel)
            }
            _ => false,
        };
        let is_command = matches!(input, Input::Command(_));
        prop_assert!(is_command || result.is_ok(), "only commands are refused");
        let Ok(Some(transition)) = result else {
            prop_assert!(!rolls_back, "a brake was refused in {}", before.phase);
            return Ok(());
        };
        if rolls_back {
            prop_assert!(matches!(
                transition.after.phase,
                Phase::RolledBack | Phase::Cancelled
            ));
            prop_assert_eq!(transition.after.weight(), Weight::ZERO);
        }
        self.check(&before, &transition, event)?;
        self.record(&transition, event);
        self.release = transition.after;
        Ok(())
    }

    fn check(
        &self,
        before: &ReleaseState,
        transition: &Transition,
        event: &Event,
    ) -> Result<(), TestCaseError> {
        let after = &transition.after;
        let (was, is) = (before.weight(), after.weight());
        let given_up = matches!(after.phase, Phase::RolledBack | Phase::Cancelled);
        let direction = match is.cmp(&was) {
            _ if given_up => Direction::Towards,
            std::cmp::Ordering::Greater => Direction::Away,
            std::cmp::Ordering::Less => Direction::Towards,
            std::cmp::Ordering::Equal => Direction::Level,
        };
        prop_assert_eq!(transition.direction, direction);
        prop_assert!(transition.action.starts_with("release_") && !transition.detail.is_empty());
        prop_assert!(
            after.since_us >= before.since_us
                && after.ended_us.is_none_or(|end| end >= after.started_us)
        );
        prop_assert_eq!(after.phase.is_over(), after.outcome.is_some());
        prop_assert_eq!(after.phase.is_over(), after.ended_us.is_some());
        if is < was {
            prop_assert!(
                is.is_zero() && matches!(after.phase, Phase::RolledBack | Phase::Cancelled)
            );
        }
        if is > was {
            self.check_growth(before, after, event)?;
        }
        Ok(())
    }

    /// Traffic moves towards the canary only along the plan, and only when no barrier forbids it.
    fn check_growth(
        &self,
        before: &ReleaseState,
        after: &ReleaseState,
        event: &Event,
    ) -> Result<(), TestCaseError> {
        let asked =
            |wanted: ReleaseAction| matches!(event, Event::Ask { verb, .. } if *verb == wanted);
        let overrides = matches!(
            event,
            Event::Ask {
                overrides: true,
                may: true,
                ..
            }
        );
        prop_assert!(!self.frozen() || overrides, "frozen");
        prop_assert!(!self.paused || asked(ReleaseAction::Promote), "paused");
        let steps = before.plan.steps();
        let next = before.step().map_or(0, |step| step + 1);
        let expected = if asked(ReleaseAction::Promote) {
            Weight::FULL
        } else {
            steps[next].weight
        };
        prop_assert_eq!(after.weight(), expected, "off the plan");
        let by_judge = matches!(event, Event::Find(Finding::Advance));
        prop_assert!(
            by_judge
                || matches!(event, Event::Preflight(true))
                || asked(ReleaseAction::Promote)
                || asked(ReleaseAction::Resume),
            "moved by {:?}",
            event
        );
        let gate_passed = |index: usize| steps[index].gate.is_none() || self.is_open("second");
        match before.step() {
            None => prop_assert!(
                before.plan.start_gate.is_none() || self.is_open("first"),
                "start gate"
            ),
            Some(step) if asked(ReleaseAction::Promote) => {
                prop_assert!((step..steps.len()).all(gate_passed), "gate")
            }
            Some(step) => prop_assert!(gate_passed(step), "gate"),
        }
        Ok(())
    }

    fn record(&mut self, transition: &Transition, event: &Event) {
        if let Event::Ask {
            verb,
            by,
            overrides,
            may,
            ..
        } = event
        {
            self.overridden |= *overrides
                && *may
                && matches!(verb, ReleaseAction::Resume | ReleaseAction::Promote);
            match transition.action {
                "release_paused" => self.paused = true,
                "release_approved" => {
                    let gate = if transition.detail.contains("`first`") {
                        "first"
                    } else {
                        "second"
                    };
                    self.approvals.insert((gate.to_owned(), by), self.wall_us);
                }
                _ if matches!(verb, ReleaseAction::Resume | ReleaseAction::Promote) => {
                    self.paused = false
                }
                _ => {}
            }
        }
    }

    /// From any state, willing people can bring the release to its end.
    fn finish(mut self) -> Result<(), TestCaseError> {
        let ask = |verb, by, overrides| Event::Ask {
            verb,
            by,
            gate: None,
            overrides,
            may: true,
        };
        let approvals = ["first", "second"].into_iter().flat_map(|gate| {
            ["bob", "cas"].map(|by| Event::Ask {
                verb: ReleaseAction::Approve,
                by,
                gate: Some(gate),
                overrides: false,
                may: false,
            })
        });
        let approvals: Vec<Event> = approvals.collect();
        for _ in 0..8 {
            self.take(&ask(ReleaseAction::Resume, "bob", true))?;
            approvals.iter().try_for_each(|word| self.take(word))?;
            for event in [
                Event::Tick,
                Event::Preflight(true),
                Event::Find(Finding::Advance),
            ] {
                self.take(&event)?;
            }
        }
        prop_assert!(self.release.phase.is_over(), "stuck: {:?}", self.release);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn traffic_moves_only_when_no_barrier_forbids_it(value in plans(), events in events()) {
        let mut model = Model::new(plan(value));
        for event in &events {
            model.take(event)?;
            let waiting = model.release.waiting_for(model.now());
            prop_assert!(!(model.release.phase.is_over() && waiting.is_some()));
            let may_wait = model.frozen() && !model.paused;
            let must_wait = may_wait && model.release.phase == Phase::Pending;
            prop_assert!(!must_wait || waiting.is_some());
        }
        model.finish()?;
    }
}
