//! Output while following a release: a panel redrawn in place on a terminal, one line for each
//! change elsewhere, one JSON line for each event in JSON format.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::format;
use crate::cli::args::Format;
use crate::cli::exit::Failure;
use crate::cli::panel::{Line, Panel};
use crate::cli::table::{count, latency, percent, rate};
use crate::cli::terminal::Terminal;
use crate::model::api::{Phase, Release, Window};

/// Width of a bar in cells.
const BAR: usize = 40;

/// Shows a release in one of the three forms.
pub(super) struct ReleaseView<'a> {
    terminal: &'a mut Terminal,
    form: Form,
    /// The state shown last, to detect changes.
    shown: Option<Shown>,
    measured: BTreeMap<String, Window>,
    panel: Panel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Panel,
    Lines,
    Json,
}

/// The fields whose change is shown as a new line.
#[derive(Debug, PartialEq)]
struct Shown {
    phase: Phase,
    is_paused: bool,
    step: usize,
    weight: f64,
    waiting: Option<String>,
    lacks_requests: bool,
    approvals: usize,
}

impl Shown {
    fn of(release: &Release) -> Shown {
        Shown {
            phase: release.phase,
            is_paused: release.paused,
            step: release.step,
            weight: release.weight,
            waiting: release.waiting_for.as_ref().map(format::waits),
            lacks_requests: release.too_few_requests.is_some(),
            approvals: release.approvals.len(),
        }
    }
}

impl<'a> ReleaseView<'a> {
    pub(super) fn new(terminal: &'a mut Terminal) -> ReleaseView<'a> {
        let form = match terminal.format() {
            Format::Json => Form::Json,
            Format::Text if terminal.live() => Form::Panel,
            Format::Text => Form::Lines,
        };
        ReleaseView {
            panel: Panel::new(terminal.colored()),
            terminal,
            form,
            shown: None,
            measured: BTreeMap::new(),
        }
    }

    /// Whether a panel with current numbers is shown.
    pub(super) fn is_live(&self) -> bool {
        self.form == Form::Panel
    }

    /// Shows the release after a poll.
    pub(super) fn seen(&mut self, release: &Release) -> Result<(), Failure> {
        let is_new = self.shown.as_ref() != Some(&Shown::of(release));
        if is_new && self.form == Form::Json {
            let event = json!({ "type": "release", "action": "seen", "release": release });
            self.terminal.print_json_line(&event)?;
        }
        self.show(release, is_new)
    }

    /// Shows the release after an event that changed it.
    pub(super) fn changed(&mut self, release: &Release, event: &Value) -> Result<(), Failure> {
        if self.form == Form::Json {
            self.terminal.print_json_line(event)?;
        }
        let is_new = self.shown.as_ref() != Some(&Shown::of(release));
        self.show(release, is_new)
    }

    /// Shows the release after a verdict event.
    pub(super) fn judged(&mut self, release: &Release, event: &Value) -> Result<(), Failure> {
        if self.form == Form::Json {
            self.terminal.print_json_line(event)?;
        }
        self.show(release, false)
    }

    /// Shows the statistics of both arms over the last ten seconds.
    pub(super) fn measured(
        &mut self,
        release: &Release,
        upstreams: &BTreeMap<String, Window>,
    ) -> Result<(), Failure> {
        self.measured.clone_from(upstreams);
        self.show(release, false)
    }

    /// Writes a message above the panel.
    pub(super) fn say(&mut self, text: &str) -> Result<(), Failure> {
        let wiped = self.panel.wipe();
        self.terminal.print(&wiped)?;
        self.terminal.say(text);
        Ok(())
    }

    /// Writes a message if `--verbose` is set.
    pub(super) fn explain(&mut self, text: &str) {
        self.terminal.explain(text);
    }

    /// Keeps the panel on the screen, with the cursor below it.
    pub(super) fn finish(&mut self) {
        self.panel.leave();
    }

    fn show(&mut self, release: &Release, is_new: bool) -> Result<(), Failure> {
        self.shown = Some(Shown::of(release));
        match self.form {
            Form::Json => Ok(()),
            Form::Lines if is_new => self.terminal.print(&format!("{}\n", format::line(release))),
            Form::Lines => Ok(()),
            Form::Panel => {
                let mut text = String::new();
                if is_new {
                    text = self.panel.wipe() + &format::line(release) + "\n";
                }
                text += &self.panel.draw(&lines(release, &self.measured));
                self.terminal.print(&text)
            }
        }
    }
}

/// The panel's lines, each with its colour.
fn lines(release: &Release, measured: &BTreeMap<String, Window>) -> Vec<Line> {
    let color = match release.phase {
        Phase::Promoted => "1;32",
        Phase::RolledBack => "1;31",
        Phase::Waiting | Phase::Pending | Phase::Cancelled => "1;33",
        _ => "1",
    };
    let budget = &release.budget;
    let mut lines = vec![
        (String::new(), ""),
        (
            format!(
                "{}  {}: {} to {}  {}",
                release.id,
                release.service,
                release.baseline,
                release.canary,
                format::phase(release)
            ),
            color,
        ),
        (
            format!(
                "weight    {} {}",
                bar(release.weight / 100.0),
                percent(release.weight)
            ),
            "",
        ),
        (
            arm("canary", &release.canary, release.canary_requests, measured),
            "",
        ),
        (
            arm(
                "baseline",
                &release.baseline,
                release.baseline_requests,
                measured,
            ),
            "",
        ),
        (
            format!(
                "evidence  {} {}",
                bar(release.log_e / release.log_limit),
                format::of_limit(release.log_e, release.log_limit)
            ),
            if release.log_e > release.log_limit / 2.0 {
                "33"
            } else {
                ""
            },
        ),
        (
            format!(
                "users     saw {} failures of the canary, {} rescued; {} more roll it back",
                count(release.user_visible_failures),
                count(release.rescued),
                count(budget.allowance)
            ),
            "",
        ),
    ];
    let waits = release.waiting_for.as_ref().map(format::waits);
    let waits = waits.or_else(|| release.too_few_requests.map(format::too_few));
    lines.extend(waits.map(|waits| (waits, "33")));
    lines
}

fn arm(role: &str, name: &str, requests: u64, measured: &BTreeMap<String, Window>) -> String {
    let window = measured.get(name).cloned().unwrap_or_default();
    format!(
        "{role:<9} {name:<12} errors {:>8}  p99 {:>8} in 10 s, {} in all",
        rate(window.error_rate, window.requests),
        latency(window.latency_us.p99),
        count(requests)
    )
}

/// A bar for a fraction; NaN gives an empty bar.
fn bar(part: f64) -> String {
    let part = if part.is_nan() {
        0.0
    } else {
        part.clamp(0.0, 1.0)
    };
    let full = (0..BAR)
        .filter(|cell| (*cell as f64 + 0.5) < part * BAR as f64)
        .count();
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_filled_in_proportion_to_the_fraction() {
        for (part, full) in [
            (-1.0, 0),
            (0.0, 0),
            (0.5, BAR / 2),
            (1.0, BAR),
            (7.0, BAR),
            (f64::NAN, 0),
        ] {
            assert_eq!(bar(part).matches('#').count(), full, "{part}");
        }
    }
}
