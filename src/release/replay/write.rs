//! Writes the events of an engine in the form that a replay reads (STATISTICS.md 7): the plan
//! first, then each event that changed the engine or caused a decision.

use serde_json::{Map, Value, json};

use crate::analysis::{ArmCounts, Cohort, Unit};
use crate::release::engine::{Decision, Engine, EngineEvent, Facts, Moment, TrippedBudget};
use crate::release::{Command, ReleaseState};

/// Writes the recording of one release.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    /// Decisions depend on the time of day, so each line has it.
    has_clock: bool,
    /// The facts that a replay knows.
    facts: Facts,
}

type Fields = Map<String, Value>;

impl Writer {
    /// The writer of a release, from its first line or from a restart.
    pub(crate) fn new(release: &ReleaseState) -> Writer {
        let has_schedule = release.start_at_us.is_some() && release.step().is_none();
        Writer {
            has_clock: release.plan.reads_clock() || has_schedule,
            facts: Facts::default(),
        }
    }

    /// The first line: the plan as this attempt at the build is judged, from its first step.
    pub(crate) fn begin(release: &ReleaseState, sticky: bool) -> String {
        let mut plan = release.plan.to_shown();
        let alpha = 2.0 * release.plan.analysis(release.attempt).alpha;
        plan.insert("alpha".to_owned(), json!(alpha));
        if let Some(steps) = plan.get_mut("steps").and_then(Value::as_array_mut) {
            steps.drain(..release.first_step().min(steps.len()));
        }
        let mut run = Fields::new();
        let mut add = |key: &str, value: Value| drop(run.insert(key.to_owned(), value));
        add("run", json!(release.id));
        add("plan", Value::Object(plan));
        add("recorded_events", json!(true));
        add("unix_us", json!(release.started_us));
        if sticky {
            add("recorded_ages", json!(true));
        }
        if let Some(at_us) = release.start_at_us {
            add("start_at_us", json!(at_us));
        }
        if release.override_freeze {
            add("override_freeze", json!(true));
        }
        add("actor", json!(release.actor));
        Value::Object(run).to_string()
    }

    /// The last line.
    pub(crate) fn end(release: &ReleaseState) -> String {
        json!({ "end": release.id }).to_string()
    }

    /// The line of a checkpoint, from which another process may continue.
    pub(crate) fn checkpoint(at_ms: u64) -> String {
        json!({ "at_ms": at_ms, "event": "checkpoint" }).to_string()
    }

    /// Writes an event that `engine` has handled, with the decision that followed.
    pub(crate) fn event(
        &mut self,
        engine: &Engine,
        event: &EngineEvent<'_>,
        at: Moment,
        decision: Option<&Decision>,
        mut add: impl FnMut(String),
    ) {
        let Some(mut line) = fields(engine, event, at, decision.is_some()) else {
            return;
        };
        let facts = self.facts_line(engine, at, decision.is_some());
        self.stamp(&mut line, at, decision.is_some());
        let line = Value::Object(line).to_string();
        if matches!(event, EngineEvent::Refused) {
            // It is about the last decision, which facts would settle; they follow from it.
            add(line);
            facts.into_iter().for_each(add);
        } else {
            facts.into_iter().for_each(&mut add);
            add(line);
        }
    }

    /// Writes a command that was carried out.
    pub(crate) fn command(
        &mut self,
        engine: &Engine,
        command: &Command<'_>,
        at: Moment,
        mut add: impl FnMut(String),
    ) {
        if let Some(facts) = self.facts_line(engine, at, true) {
            add(facts);
        }
        let mut line = named(at, command.verb.as_str());
        line.insert("by".to_owned(), json!(command.by));
        if let Some(gate) = command.gate {
            line.insert("gate".to_owned(), json!(gate));
        }
        if command.override_freeze {
            line.insert("override_freeze".to_owned(), json!(true));
        }
        self.stamp(&mut line, at, true);
        add(Value::Object(line).to_string());
    }

    /// The facts, if they may make a difference to what the engine has just done.
    fn facts_line(&mut self, engine: &Engine, at: Moment, decides: bool) -> Option<String> {
        let (known, facts) = (self.facts, engine.facts());
        let differs = facts.with_counts(known) != known;
        if facts == known || !(differs || decides || !engine.decides_alike(known)) {
            return None;
        }
        self.facts = facts;
        let mut line = named(at, "facts");
        let mut add = |key: &str, value: Value| drop(line.insert(key.to_owned(), value));
        let Facts {
            baseline_down,
            canary_full,
            retrying,
            open,
            pending,
            spent,
        } = facts;
        for (key, holds) in [
            ("baseline_down", baseline_down),
            ("canary_full", canary_full),
            ("retrying", retrying),
        ] {
            if holds {
                add(key, json!(true));
            }
        }
        add("open", json!(open));
        add(
            "pending",
            json!([
                pending.canary,
                pending.baseline,
                pending.baseline_bad_or_open,
                pending.alone
            ]),
        );
        add("spent", json!(spent));
        Some(Value::Object(line).to_string())
    }

    fn stamp(&self, line: &mut Fields, at: Moment, decides: bool) {
        if self.has_clock || decides {
            line.insert("unix_us".to_owned(), json!(at.now.unix_us()));
        }
    }
}

fn named(at: Moment, event: &str) -> Fields {
    Fields::from_iter([
        ("at_ms".to_owned(), json!(at.at_ms)),
        ("event".to_owned(), json!(event)),
    ])
}

/// The line of an event; `None` if it changed nothing.
fn fields(engine: &Engine, event: &EngineEvent<'_>, at: Moment, decides: bool) -> Option<Fields> {
    let with = |name: &str, key: &str, value: Value| {
        let mut line = named(at, name);
        line.insert(key.to_owned(), value);
        line
    };
    Some(match *event {
        EngineEvent::Past {
            latency_us,
            failures,
        } => {
            let answered: u64 = latency_us.iter().map(|(_, count)| count).sum();
            let past = ArmCounts {
                latency_us: Some(latency_us),
                ..ArmCounts::of(answered, failures)
            };
            with("past", "baseline", arm(&past))
        }
        EngineEvent::Cohort(scored) => cohort(scored),
        EngineEvent::Tainted(scored) => {
            let mut line = cohort(scored);
            line.insert("tainted".to_owned(), json!(true));
            line
        }
        EngineEvent::Matured(matured) => Fields::from_iter([
            ("at_ms".to_owned(), json!(at.at_ms)),
            ("weight".to_owned(), json!(matured.weight * 100.0)),
            (
                "matured".to_owned(),
                json!({
                    "canary": compared(&matured.canary),
                    "baseline": compared(&matured.baseline),
                }),
            ),
        ]),
        EngineEvent::Accepted(decision) if decision.is_away() => named(at, "committing"),
        EngineEvent::Applied(_) => named(at, "committed"),
        EngineEvent::Refused => named(at, "refused"),
        EngineEvent::Resumed { written_off } => {
            let mut line = with("restart", "written_off", json!(written_off));
            let number = |step: usize| (step + 1).saturating_sub(engine.release().first_step());
            line.insert(
                "step".to_owned(),
                json!(engine.release().step().map(number)),
            );
            line
        }
        EngineEvent::Tick if decides => named(at, "tick"),
        EngineEvent::Tripped(trip) if decides => trip_fields(trip, named(at, "trip")),
        EngineEvent::Unhealthy(_) if decides => named(at, "unhealthy"),
        EngineEvent::Preflight(result) if decides => {
            with("preflight", "passed", json!(result.is_ok()))
        }
        _ => return None,
    })
}

fn trip_fields(trip: TrippedBudget, mut line: Fields) -> Fields {
    let fields = [
        ("objective", json!(trip.objective)),
        ("spent", json!(trip.spent)),
        ("written_off", json!(trip.written_off)),
        ("limit", json!(trip.limit)),
        ("outran", json!(trip.outran)),
    ];
    line.extend(fields.map(|(key, value)| (key.to_owned(), value)));
    line
}

fn cohort(cohort: &Cohort<'_>) -> Fields {
    Fields::from_iter([
        ("at_ms".to_owned(), json!(cohort.at_ms)),
        ("weight".to_owned(), json!(cohort.weight * 100.0)),
        ("baseline".to_owned(), arm(&cohort.baseline)),
        ("canary".to_owned(), arm(&cohort.canary)),
    ])
}

/// The units that may be compared; those that began before the canary had traffic may not.
fn compared(units: &[Unit]) -> Vec<Unit> {
    let units = units.iter().filter(|unit| unit.weight > 0.0);
    units.copied().collect()
}

fn arm(arm: &ArmCounts<'_>) -> Value {
    let mut fields = Fields::new();
    let mut add = |key: &str, value: Option<Value>| {
        value
            .into_iter()
            .for_each(|value| drop(fields.insert(key.to_owned(), value)));
    };
    add("requests", Some(json!(arm.requests)));
    add("failures", Some(json!(arm.failures)));
    // The first line of a run tells whether units are counted at all.
    add(
        "aborts",
        arm.aborts
            .filter(|aborts| *aborts > 0)
            .map(|aborts| json!(aborts)),
    );
    add(
        "latency_us",
        arm.latency_us.map(|latency_us| json!(latency_us)),
    );
    add("units", arm.units.map(|units| json!(compared(units))));
    // Without failures these fields are omitted.
    let failed = |count: Option<u64>| count.filter(|_| arm.failures > 0).map(|count| json!(count));
    add("failing_clients", failed(arm.failing_clients));
    add("visible_failures", failed(arm.visible_failures));
    add("failed_first", failed(arm.failed_first));
    let repeats = arm.repeats.filter(|repeats| repeats.largest > 1);
    add("repeats", repeats.map(|repeats| json!(repeats)));
    Value::Object(fields)
}
