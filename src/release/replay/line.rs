//! The recorded form: a line that begins a run, lines of cohorts, a line that ends it.

use std::borrow::Cow;

use serde::Deserialize;

use super::event::{EventLine, RecordedEvent};
use super::fields::PlanText;
use super::run::{HoldStatus, Mode, Recorded, Run, RunResult};
use super::scan;
use super::units::{MaturedLine, UnitList};
use crate::analysis::{ArmCounts, Cohort, Repeats, Unit};
use crate::release::engine::EngineEvent;

/// A sequence of runs.
#[derive(Debug, Default)]
pub struct Replay {
    run: Option<Run>,
    line: u64,
    warnings: Vec<String>,
}

/// The results for recorded lines, in their order, including a run without an end line. After an
/// invalid line there are no more, since the following lines may belong to any run.
pub fn answers<L>(lines: L) -> impl Iterator<Item = Result<RunResult, LineError>>
where
    L: IntoIterator,
    L::Item: AsRef<str>,
{
    let mut replay = Some(Replay::default());
    let mut lines = lines.into_iter();
    std::iter::from_fn(move || {
        loop {
            let Some(line) = lines.next() else {
                return replay.take()?.finish().map(Ok);
            };
            match replay.as_mut()?.line(line.as_ref()) {
                Ok(None) => {}
                Ok(Some(answer)) => return Some(Ok(answer)),
                Err(error) => {
                    replay = None;
                    return Some(Err(error));
                }
            }
        }
    })
}

/// An invalid line.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LineError {
    /// The line number, counted from 1.
    pub line: u64,
    /// The message for the user.
    pub problem: String,
}

/// A line of any kind: one struct, so that each line is parsed once. Unknown fields are ignored,
/// since a record may contain more than the judge uses, and a newer version may have written it.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    run: Option<Cow<'a, str>>,
    plan: Option<Box<PlanText>>,
    mode: Option<Mode>,
    #[serde(borrow)]
    end: Option<Cow<'a, str>>,
    at_ms: Option<f64>,
    weight: Option<f64>,
    baseline: Option<ArmLine>,
    canary: Option<ArmLine>,
    #[serde(default)]
    held: bool,
    step: Option<usize>,
    /// Of a run: the recording has lines for units that reached the age `bake`.
    #[serde(default)]
    recorded_ages: bool,
    matured: Option<MaturedLine>,
    event: Option<serde::de::IgnoredAny>,
    /// Of a cohort: the arms cannot be compared in its time.
    #[serde(default)]
    tainted: bool,
    unix_us: Option<i64>,
    /// Of a run: the recording has all events of the live release.
    #[serde(default)]
    recorded_events: bool,
    start_at_us: Option<i64>,
    #[serde(default)]
    override_freeze: bool,
    #[serde(borrow)]
    actor: Option<Cow<'a, str>>,
}

/// What a line has beside the counts of a cohort.
#[derive(Clone, Copy, Default)]
struct Beside {
    status: HoldStatus,
    is_tainted: bool,
    unix_us: Option<i64>,
}

#[derive(Deserialize)]
struct ArmLine {
    requests: u64,
    failures: u64,
    latency_us: Option<Vec<(u64, u64)>>,
    new_keys: Option<u64>,
    failing_clients: Option<u64>,
    visible_failures: Option<u64>,
    aborts: Option<u64>,
    units: Option<UnitList>,
    failed_first: Option<u64>,
    repeats: Option<Repeats>,
}

impl Line<'_> {
    /// The missing fields of an incomplete line.
    fn missing_fields(&self) -> String {
        let fields = [
            ("at_ms", self.at_ms.is_some()),
            ("weight", self.weight.is_some()),
            ("baseline", self.baseline.is_some()),
            ("canary", self.canary.is_some()),
        ];
        if fields.iter().all(|(_, there)| !there) {
            return "neither a run, an end nor a cohort".to_owned();
        }
        let missing: Vec<_> = fields
            .iter()
            .filter(|(_, there)| !there)
            .map(|(name, _)| *name)
            .collect();
        format!("a cohort without `{}`", missing.join("`, `"))
    }
}

impl Replay {
    /// Reads the next line; returns a run's result if the line ends it. Empty lines are ignored.
    ///
    /// # Errors
    ///
    /// [`LineError`] if the line does not have this format, or its plan is not valid.
    pub fn line(&mut self, text: &str) -> Result<Option<RunResult>, LineError> {
        self.line += 1;
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        if let Some(plain) = scan::plain(text) {
            let (baseline, canary) = (plain.baseline.into(), plain.canary.into());
            return self.cohort(
                plain.at_ms,
                plain.weight,
                &baseline,
                &canary,
                Beside::default(),
            );
        }
        let line: Line<'_> =
            serde_json::from_str(text).map_err(|error| self.error(error.to_string()))?;
        let beside = Beside {
            status: HoldStatus {
                kept: line.held,
                step: line.step,
            },
            is_tainted: line.tainted,
            unix_us: line.unix_us,
        };
        match line {
            Line { run: Some(_), .. } => self.begin(line),
            Line {
                end: Some(name), ..
            } => self.end(&name),
            Line { event: Some(_), .. } => self.event(text),
            Line {
                at_ms: Some(at_ms),
                weight: Some(weight),
                matured: Some(matured),
                ..
            } => self.matured(at_ms, weight, &matured, beside),
            Line {
                at_ms: Some(at_ms),
                weight: Some(weight),
                baseline: Some(baseline),
                canary: Some(canary),
                ..
            } => self.cohort(at_ms, weight, &baseline, &canary, beside),
            part => Err(self.error(part.missing_fields())),
        }
    }

    /// The warnings since the last call.
    pub fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// The result of the current run at the end of the input.
    pub fn finish(&mut self) -> Option<RunResult> {
        self.run.take().map(Run::finish)
    }

    /// All decisions of the current run that were carried out: time, action and step.
    #[cfg(test)]
    pub(crate) fn carried_out(&mut self) -> Vec<(u64, &'static str, usize)> {
        self.run.as_mut().map_or_else(Vec::new, Run::carried_out)
    }

    fn begin(&mut self, line: Line<'_>) -> Result<Option<RunResult>, LineError> {
        let text = line.plan.map(|plan| *plan).unwrap_or_default();
        let PlanText {
            plan,
            warnings,
            live,
        } = text;
        let name = line.run.unwrap_or_default();
        let recorded = line.recorded_events.then(|| Recorded {
            plan: live,
            actor: line.actor.unwrap_or_default().into_owned(),
            started_us: line.unix_us.unwrap_or_default(),
            start_at_us: line.start_at_us,
            override_freeze: line.override_freeze,
        });
        let numbered = warnings
            .into_iter()
            .map(|warning| format!("line {}: {warning}", self.line));
        self.warnings.extend(numbered);
        let problems = plan.problems();
        if !problems.is_empty() {
            return Err(self.error(problems.join("; ")));
        }
        let before = self.finish();
        let mode = line.mode.unwrap_or_default();
        let mut run = Run::begin(name.into_owned(), plan, mode, recorded);
        if line.recorded_ages {
            run.has_recorded_ages();
        }
        self.run = Some(run);
        Ok(before)
    }

    fn end(&mut self, name: &str) -> Result<Option<RunResult>, LineError> {
        match self.run.as_ref().map(Run::name) {
            Some(known) if known == name => Ok(self.finish()),
            Some(known) => Err(self.error(format!(
                "the end of `{name}`, but the current run is `{known}`"
            ))),
            None => Err(self.error(format!("the end of `{name}`, but there is no current run"))),
        }
    }

    fn cohort(
        &mut self,
        at_ms: f64,
        weight: f64,
        baseline: &ArmLine,
        canary: &ArmLine,
        beside: Beside,
    ) -> Result<Option<RunResult>, LineError> {
        let at_ms = self.time(at_ms, weight)?;
        let failures = baseline.failures.saturating_add(canary.failures);
        for arm in [baseline, canary] {
            let units = arm.units.as_ref();
            let problem = units.and_then(|units| units.problem(arm.requests, failures));
            if let Some(problem) = problem {
                return Err(self.error(problem));
            }
        }
        if !(baseline.adds_up() && canary.adds_up()) {
            return Err(self.error("an arm has more failures, responses or aborts than requests"));
        }
        let units = [canary, baseline].map(|arm| arm.units.as_ref().map(UnitList::units));
        let [of_canary, of_baseline] = units.each_ref().map(Option::as_deref);
        let Some(run) = &mut self.run else {
            return Err(self.error("a cohort before the first run"));
        };
        let cohort = Cohort {
            at_ms,
            weight: weight / 100.0,
            baseline: baseline.arm(canary, of_baseline),
            canary: canary.arm(baseline, of_canary),
        };
        let event = match beside.is_tainted {
            true => EngineEvent::Tainted(&cohort),
            false => EngineEvent::Cohort(&cohort),
        };
        if run.has_events() || beside.is_tainted {
            run.on(&RecordedEvent::Engine(event), at_ms, beside.unix_us);
        } else {
            run.observe_recorded(&cohort, beside.status);
        }
        Ok(None)
    }

    /// An event other than a cohort.
    fn event(&mut self, text: &str) -> Result<Option<RunResult>, LineError> {
        let line: EventLine =
            serde_json::from_str(text).map_err(|error| self.error(error.to_string()))?;
        let at_ms = self.time(line.at_ms, 0.0)?;
        let event = match line.event() {
            Ok(event) => event,
            Err(warning) => {
                self.warnings.push(format!("line {}: {warning}", self.line));
                return Ok(None);
            }
        };
        let Some(run) = &mut self.run else {
            return Err(self.error("an event before the first run"));
        };
        run.on(&event, at_ms, line.unix_us);
        Ok(None)
    }

    fn matured(
        &mut self,
        at_ms: f64,
        weight: f64,
        matured: &MaturedLine,
        beside: Beside,
    ) -> Result<Option<RunResult>, LineError> {
        let at_ms = self.time(at_ms, weight)?;
        let Some(run) = &mut self.run else {
            return Err(self.error("matured units before the first run"));
        };
        let matured = matured.matured(weight / 100.0);
        if run.has_events() {
            let event = RecordedEvent::Engine(EngineEvent::Matured(&matured));
            run.on(&event, at_ms, beside.unix_us);
        } else {
            run.mature_recorded(at_ms, &matured, beside.status);
        }
        Ok(None)
    }

    /// The time of a line, if time and weight are in range.
    fn time(&self, at_ms: f64, weight: f64) -> Result<u64, LineError> {
        if !(0.0..=100.0).contains(&weight) || !(0.0..=1e15).contains(&at_ms) {
            return Err(
                self.error("`weight` must be 0 to 100 percent, `at_ms` 0 to 1e15 milliseconds")
            );
        }
        #[expect(clippy::cast_possible_truncation, reason = "0 to 1e15, checked above")]
        let at_ms = at_ms as u64;
        Ok(at_ms)
    }

    fn error(&self, problem: impl Into<String>) -> LineError {
        LineError {
            line: self.line,
            problem: problem.into(),
        }
    }
}

impl From<(u64, u64)> for ArmLine {
    fn from((requests, failures): (u64, u64)) -> ArmLine {
        ArmLine {
            requests,
            failures,
            latency_us: None,
            new_keys: None,
            failing_clients: None,
            visible_failures: None,
            aborts: None,
            units: None,
            failed_first: None,
            repeats: None,
        }
    }
}

impl ArmLine {
    /// The counts of this arm, given the other. An arm without responses has no latencies; its
    /// failures count as slow.
    fn arm<'a>(&'a self, other: &ArmLine, units: Option<&'a [Unit]>) -> ArmCounts<'a> {
        let unanswered = self.requests == self.failures && other.latency_us.is_some();
        let none = unanswered.then_some(&[][..]);
        ArmCounts {
            requests: self.requests,
            failures: self.failures,
            latency_us: self.latency_us.as_deref().or(none),
            new_keys: self.new_keys,
            failing_clients: self.failing_clients,
            visible_failures: self.visible_failures,
            aborts: self.aborts,
            units,
            failed_first: self.failed_first,
            repeats: self.repeats,
        }
    }

    fn adds_up(&self) -> bool {
        let pairs = self.latency_us.iter().flatten();
        let answers = pairs.fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        let aborts = self.aborts.unwrap_or_default();
        answers.saturating_add(self.failures) <= self.requests && aborts <= self.requests
    }
}
