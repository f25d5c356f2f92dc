//! The table: each line is a scenario with its limits.

use std::io::Write;
use std::time::Instant;

use crate::bounds;
use crate::power::Detection;

/// The command-line arguments.
pub(crate) struct Args {
    pub(crate) only: Vec<String>,
    pub(crate) seed: u64,
}

impl Args {
    pub(crate) fn parse() -> Args {
        let (mut only, mut seed) = (Vec::new(), 1);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seed" => seed = number(arguments.next()),
                // Cargo's own argument, which it passes to any test.
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

/// Prints results as they arrive, and counts failures.
pub(crate) struct Report {
    args: Args,
    failed: Vec<String>,
}

/// A scenario with equal versions.
pub(crate) struct Alarm {
    pub(crate) runs: u64,
    /// The accepted probability of an alarm.
    pub(crate) alpha: f64,
    /// Alarms of the reference implementation.
    pub(crate) reference: &'static str,
}

/// The limits of a scenario with a bad version.
pub(crate) struct Power {
    pub(crate) runs: u64,
    pub(crate) reference: f64,
    /// The limit of the median; infinite where there is none.
    pub(crate) bar: f64,
}

impl Report {
    pub(crate) fn new(args: Args) -> Report {
        print_line(&format!(
            "seed {}. S, X: false alarms, their upper 99 % bound, and the limits. P: medians.",
            args.seed
        ));
        print_line(
            "Between the limits, or above the limit of a median: repeated with other seeds and \
             four times the runs.",
        );
        print_line(&format!(
            "{:<7} {:<46} {:>6} {:>12} {:>7} {:>8} {:>9} {:>7} {:>6}  ",
            "id", "scenario", "runs", "result", "bound", "pass", "fail", "ref", "s"
        ));
        Report {
            args,
            failed: Vec::new(),
        }
    }

    /// Counts false rollbacks (for the advance test: false passes).
    pub(crate) fn alarm(
        &mut self,
        id: &str,
        name: &str,
        bars: &Alarm,
        run: impl Fn(u64) -> bool + Sync,
    ) {
        if !self.args.wants(id) {
            return;
        }
        let count = |base: u64, runs: u64| {
            let alarms = parallel(runs, |i| run(base + i));
            alarms.into_iter().filter(|alarm| *alarm).count() as u64
        };
        let started = Instant::now();
        let (pass, hard) = bounds::bars(bars.runs, bars.alpha);
        let k = count(self.seed(), bars.runs);
        let mut bound = bounds::upper(k, bars.runs);
        let (mut verdict, mut shown) = ("ok", format!("{k}"));
        if k >= hard {
            verdict = "FAIL";
        } else if k > pass {
            let again = count(self.other_seed(), 4 * bars.runs);
            bound = bounds::upper(again, 4 * bars.runs);
            shown = format!("{k}, {again}/4N");
            verdict = if bound <= bars.alpha {
                "ok (2nd)"
            } else {
                "FAIL"
            };
        }
        let cells = [
            &*shown,
            &format!("{bound:.4}"),
            &format!("<={pass}"),
            &format!(">={hard}"),
            bars.reference,
        ];
        self.line(id, name, bars.runs, cells, started, verdict);
    }

    /// The median of `value` over runs, of which 99 % must detect the fault.
    pub(crate) fn power(
        &mut self,
        id: &str,
        name: &str,
        bars: &Power,
        value: impl Fn(Detection) -> f64,
        run: impl Fn(u64) -> Option<Detection> + Sync,
    ) {
        if !self.args.wants(id) {
            return;
        }
        let started = Instant::now();
        let measure = |base: u64, runs: u64| {
            let all = parallel(runs, |i| run(base + i));
            let mut detected: Vec<f64> = all
                .iter()
                .flatten()
                .map(|detected| value(*detected))
                .collect();
            let missed = runs - detected.len() as u64;
            detected.resize(all.len(), f64::INFINITY);
            let middle = median(detected);
            (middle, missed, middle <= bars.bar && missed * 100 <= runs)
        };
        let (middle, missed, good) = measure(self.seed(), bars.runs);
        let mut shown = format!("{middle:.4}");
        let mut lost = format!("missed {missed}");
        let mut verdict = "ok";
        if !good {
            let (again, missed, good) = measure(self.other_seed(), 4 * bars.runs);
            shown = format!("{middle:.4}, {again:.4}");
            lost = format!("missed {missed}");
            verdict = if good { "ok (2nd)" } else { "FAIL" };
        }
        let cells = [
            &*shown,
            "",
            &format!("<={}", bars.bar),
            &lost,
            &format!("{}", bars.reference),
        ];
        self.line(id, name, bars.runs, cells, started, verdict);
    }

    /// A line of any other kind.
    pub(crate) fn other(
        &mut self,
        id: &str,
        name: &str,
        runs: u64,
        run: impl FnOnce() -> (bool, String, String),
    ) {
        if !self.args.wants(id) {
            return;
        }
        let started = Instant::now();
        let (good, result, bar) = run();
        let verdict = if good { "ok" } else { "FAIL" };
        self.line(
            id,
            name,
            runs,
            [&result, "", &bar, "", ""],
            started,
            verdict,
        );
    }

    pub(crate) fn seed(&self) -> u64 {
        self.args.seed << 32
    }

    fn other_seed(&self) -> u64 {
        self.seed() + (1 << 31)
    }

    pub(crate) fn finish(self) -> std::process::ExitCode {
        if self.failed.is_empty() {
            print_line("all within their limits");
            return std::process::ExitCode::SUCCESS;
        }
        print_line(&format!(
            "NOT within the limits: {}",
            self.failed.join(", ")
        ));
        std::process::ExitCode::FAILURE
    }

    fn line(
        &mut self,
        id: &str,
        name: &str,
        runs: u64,
        cells: [&str; 5],
        started: Instant,
        verdict: &str,
    ) {
        let [result, bound, pass, hard, reference] = cells;
        let seconds = started.elapsed().as_secs_f64();
        print_line(&format!(
            "{id:<7} {name:<46} {runs:>6} {result:>12} {bound:>7} {pass:>8} {hard:>9} \
             {reference:>7} {seconds:>6.1}  {verdict}"
        ));
        if verdict == "FAIL" {
            self.failed.push(id.to_owned());
        }
    }
}

/// The results of the runs, in their order, independent of the number of processors.
pub(crate) fn parallel<T: Send>(runs: u64, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let mut all: Vec<(u64, T)> = std::thread::scope(|scope| {
        let part = |first| {
            let run = &run;
            scope.spawn(move || {
                let share = (first..runs).step_by(threads as usize);
                share.map(|i| (i, run(i))).collect::<Vec<_>>()
            })
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        let results = parts
            .into_iter()
            .map(|part| part.join().unwrap_or_default());
        results.flatten().collect()
    });
    assert_eq!(all.len() as u64, runs, "a simulation ended early");
    all.sort_by_key(|(i, _)| *i);
    all.into_iter().map(|(_, result)| result).collect()
}

fn number(argument: Option<String>) -> u64 {
    let argument = argument.unwrap_or_default();
    argument.parse().unwrap_or_else(|_| {
        print_line(&format!("`--seed {argument}` is not a number"));
        std::process::exit(2)
    })
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

fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
