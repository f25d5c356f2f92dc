//! Tests of releases as a whole: plans in, transitions out.

mod forecast;
mod freeze;
mod laws;
mod machine;
mod plan;
mod protected;
mod recording;
mod replay;
mod trial;
mod units;

use serde_json::{Map, Value, json};

use super::{Command, Finding, Illegal, Input, Plan, ReleaseAction, ReleaseState, Transition};
use crate::model::api::FieldProblem;
use crate::time::Timestamp;

/// The data plane removed the canary after `spent` failures.
pub(super) fn tripped(spent: u64, limit: u64) -> Input<'static> {
    Input::Tripped {
        objective: "budget",
        spent,
        written_off: 0,
        limit,
        outran: None,
    }
}

/// Monday, 23 November 2026, 09:00 UTC.
const MONDAY_9: i64 = 1_795_424_400_000_000;
const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

fn read(value: Value) -> Result<Plan, Vec<FieldProblem>> {
    Plan::read(Some(&object(value)), None)
}

fn plan(value: Value) -> Plan {
    read(value).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn at(us: i64) -> Timestamp {
    Timestamp::new(u64::try_from((us - MONDAY_9).max(0)).unwrap() * 1_000, us)
}

fn begin(plan: Plan) -> ReleaseState {
    ReleaseState {
        id: "shop-12".into(),
        service: "shop".into(),
        baseline: "blue".into(),
        canary: "green".into(),
        actor: "ann".into(),
        ..ReleaseState::pending(plan, at(MONDAY_9))
    }
}

fn command<'a>(verb: ReleaseAction, by: &'a str) -> Command<'a> {
    Command {
        verb,
        by,
        reason: Some("because"),
        gate: None,
        override_freeze: false,
        may_override: false,
    }
}

/// A release and its time, driven by the test.
struct Driver {
    release: ReleaseState,
    now_us: i64,
}

impl Driver {
    fn new(value: Value) -> Driver {
        Driver::of(begin(plan(value)))
    }

    fn of(release: ReleaseState) -> Driver {
        Driver {
            release,
            now_us: MONDAY_9,
        }
    }

    /// A release at its first step.
    fn started(value: Value) -> Driver {
        let mut driver = Driver::new(value);
        assert_eq!(
            driver.send(&Input::Tick).unwrap().action,
            "release_preflight"
        );
        assert_eq!(
            driver.send(&Input::Preflight(Ok(()))).unwrap().action,
            "release_advanced"
        );
        driver
    }

    fn try_send(&mut self, input: &Input<'_>) -> Result<Option<Transition>, Illegal> {
        let transition = self.release.next(input, at(self.now_us))?;
        if let Some(transition) = &transition {
            self.release = transition.after.clone();
        }
        Ok(transition)
    }

    fn send(&mut self, input: &Input<'_>) -> Option<Transition> {
        self.try_send(input).unwrap()
    }

    fn ask(&mut self, verb: ReleaseAction, by: &str) -> Result<Option<Transition>, Illegal> {
        self.try_send(&Input::Command(command(verb, by)))
    }

    fn advance(&mut self) -> Option<Transition> {
        self.send(&Input::Verdict(&Finding::Advance))
    }

    /// Checks the phase, the canary's weight and what the release waits for.
    #[track_caller]
    fn expect(&self, phase: &str, weight: f64, waits: Option<&str>) {
        let waiting = self.release.waiting_for(at(self.now_us));
        let waiting = waiting.as_ref().map(|waiting| waiting.kind.as_str());
        let state = (
            self.release.phase.as_str(),
            self.release.weight().percent(),
            waiting,
        );
        assert_eq!(state, (phase, weight, waits));
    }
}

fn quick() -> Value {
    json!({ "steps": [5, 50], "bake": "0s" })
}
