//! The table: each line a scenario with its bars.

use std::io::Write;
use std::time::Instant;

use crate::power::Detection;

/// What was asked for on the command line.
pub(crate) struct Args {
    pub(crate) only: Vec<String>,
    pub(crate) seed: u64,
}

impl Args {
    pub(crate) fn parse() -> Args {
        let (mut only, mut seed) = (Vec::new(), 1);
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seed" => seed = words.next().and_then(|seed| seed.parse().ok()).unwrap_or(1),
                flag if flag.starts_with('-') => {}
                id => only.push(id.to_lowercase()),
            }
        }
        Args { only, seed }
    }

    fn wants(&self, id: &str) -> bool {
        let id = id.to_lowercase();
        self.only.is_empty()
            || self
                .only
                .iter()
                .any(|only| id == *only || id.starts_with(&format!("{only}.")))
    }
}

/// Prints as it goes, and counts what failed.
pub(crate) struct Report {
    args: Args,
    failed: Vec<String>,
}

/// The bars of a scenario in which nothing is wrong.
pub(crate) struct Alarm {
    pub(crate) runs: u64,
    pub(crate) pass: u64,
    pub(crate) hard: u64,
    pub(crate) reference: &'static str,
}

/// The bars of a scenario in which something is.
pub(crate) struct Power {
    pub(crate) runs: u64,
    pub(crate) reference: f64,
    /// Least upper bound of the median; infinite where there is none.
    pub(crate) bar: f64,
}

impl Report {
    pub(crate) fn new(args: Args) -> Report {
        say(&format!(
            "{:<8} {:<50} {:>6} {:>9} {:>9} {:>9} {:>9} {:>7}  ",
            "id", "scenario", "runs", "result", "pass", "hard", "ref", "s"
        ));
        Report {
            args,
            failed: Vec::new(),
        }
    }

    /// Counts rollbacks (or, for the advance test, passes) that should not be. Between the bars: once more with other
    /// seeds and four times the runs.
    pub(crate) fn alarm(&mut self, id: &str, name: &str, bars: &Alarm, run: impl Fn(u64) -> bool) {
        if !self.args.wants(id) {
            return;
        }
        let count = |base: u64, runs: u64| (0..runs).filter(|i| run(base + i)).count() as u64;
        let started = Instant::now();
        let base = self.args.seed << 32;
        let k = count(base, bars.runs);
        let (mut verdict, mut shown) = ("ok", format!("{k}"));
        if k >= bars.hard {
            verdict = "FAIL";
        } else if k > bars.pass {
            let again = count(base + (1 << 31), 4 * bars.runs);
            shown = format!("{k},{again}/4N");
            verdict = if again <= 4 * bars.pass { "ok (2nd)" } else { "FAIL" };
        }
        let limits = (format!("<={}", bars.pass), format!(">={}", bars.hard));
        self.line(
            id,
            name,
            bars.runs,
            [&shown, &limits.0, &limits.1, bars.reference],
            started,
            verdict,
        );
    }

    /// The median of `value` over runs, of which 99 % must see the fault.
    pub(crate) fn power(
        &mut self,
        id: &str,
        name: &str,
        bars: &Power,
        value: impl Fn(Detection) -> f64,
        run: impl Fn(u64) -> Option<Detection>,
    ) {
        if !self.args.wants(id) {
            return;
        }
        let started = Instant::now();
        let base = self.args.seed << 32;
        let all: Vec<Option<Detection>> = (0..bars.runs).map(|i| run(base + i)).collect();
        let mut seen: Vec<f64> = all.iter().flatten().map(|seen| value(*seen)).collect();
        let missed = bars.runs - seen.len() as u64;
        seen.resize(all.len(), f64::INFINITY);
        let middle = median(seen);
        let good = middle <= bars.bar && missed * 100 <= bars.runs;
        let limits = (format!("<={}", bars.bar), format!("missed {missed}"));
        let shown = (format!("{middle:.4}"), format!("{}", bars.reference));
        let verdict = if good { "ok" } else { "FAIL" };
        self.line(
            id,
            name,
            bars.runs,
            [&shown.0, &limits.0, &limits.1, &shown.1],
            started,
            verdict,
        );
    }

    /// A line of any other kind.
    pub(crate) fn other(&mut self, id: &str, name: &str, runs: u64, run: impl FnOnce() -> (bool, String, String)) {
        if !self.args.wants(id) {
            return;
        }
        let started = Instant::now();
        let (good, result, bar) = run();
        let verdict = if good { "ok" } else { "FAIL" };
        self.line(id, name, runs, [&result, &bar, "", ""], started, verdict);
    }

    pub(crate) fn seed(&self) -> u64 {
        self.args.seed << 32
    }

    pub(crate) fn finish(self) -> std::process::ExitCode {
        if self.failed.is_empty() {
            say("all within their bars");
            return std::process::ExitCode::SUCCESS;
        }
        say(&format!("NOT within its bars: {}", self.failed.join(", ")));
        std::process::ExitCode::FAILURE
    }

    fn line(&mut self, id: &str, name: &str, runs: u64, cells: [&str; 4], started: Instant, verdict: &str) {
        let [result, pass, hard, reference] = cells;
        let seconds = started.elapsed().as_secs_f64();
        say(&format!(
            "{id:<8} {name:<50} {runs:>6} {result:>9} {pass:>9} {hard:>9} {reference:>9} {seconds:>7.1}  {verdict}"
        ));
        if verdict == "FAIL" {
            self.failed.push(id.to_owned());
        }
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        0.5 * (values[middle - 1] + values[middle])
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
