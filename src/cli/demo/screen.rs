//! What the audience sees: a story line by line, and below it a panel that is drawn anew in place.
//!
//! Where the output is no terminal there is no panel, but a line about the state of things from
//! time to time.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::load::{LoadTotals, RATE};
use super::meter::Gauge;
use crate::cli::panel::{Line, Panel, width};
use crate::cli::table::{count, latency};

/// Between two drawings of the panel.
const FRAME: Duration = Duration::from_millis(100);

const DIM: &str = "2";
const BOLD: &str = "1";
const RED: &str = "1;31";
const GREEN: &str = "1;32";

/// How the output can be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// The cursor can be moved.
    pub(super) live: bool,
    pub(super) colored: bool,
    /// Between two lines about the state of things, where there is no panel.
    pub(super) line_every: Duration,
}

/// The output of the demo. A panel is left behind when it is dropped, with the cursor below it.
pub(super) struct Screen<'a> {
    out: &'a mut dyn Write,
    style: Style,
    blocks: (char, char),
    began: Instant,
    shown: Option<Instant>,
    panel: Panel,
}

impl<'a> Screen<'a> {
    pub(super) fn new(out: &'a mut dyn Write, style: Style) -> Screen<'a> {
        Screen {
            out,
            style,
            blocks: if unicode() {
                ('█', '░')
            } else {
                ('#', '.')
            },
            began: Instant::now(),
            shown: None,
            panel: Panel::new(style.colored),
        }
    }

    /// What stands on the clock of the story at a moment.
    pub(super) fn clock(&self, at: Instant) -> String {
        let tenths = at.saturating_duration_since(self.began).as_millis() / 100;
        format!(
            "{:02}:{:02}.{}",
            tenths / 600,
            tenths / 10 % 60,
            tenths % 10
        )
    }

    /// Less often a line about the state of things, where there is no panel.
    pub(super) fn slow_down(&mut self, line_every: Duration) {
        self.style.line_every = line_every;
    }

    /// Tells the next thing of the story.
    pub(super) fn tell(&mut self, text: &str) -> io::Result<()> {
        self.tell_in(BOLD, text)
    }

    /// Tells something bad.
    pub(super) fn alarm(&mut self, text: &str) -> io::Result<()> {
        self.tell_in(RED, text)
    }

    /// Tells something good.
    pub(super) fn relief(&mut self, text: &str) -> io::Result<()> {
        self.tell_in(GREEN, text)
    }

    /// Writes lines as they are, above the panel.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        let mut frame = self.panel.wipe();
        for line in text.lines() {
            frame.push_str(line);
            frame.push('\n');
        }
        self.shown = None;
        self.flush(&frame)
    }

    /// Shows how things are, if it is time for that.
    pub(super) fn show(
        &mut self,
        now: Instant,
        gauges: &[Gauge],
        users: LoadTotals,
    ) -> io::Result<()> {
        let every = if self.style.live {
            FRAME
        } else {
            self.style.line_every
        };
        if self
            .shown
            .is_some_and(|shown| now.duration_since(shown) < every)
        {
            return Ok(());
        }
        if !self.style.live {
            // Not right after a line of the story, which would repeat it.
            let first = self.shown.replace(now).is_none();
            let line = format!("{}  {}\n", self.clock(now), in_one_line(gauges, users));
            return if first { Ok(()) } else { self.flush(&line) };
        }
        self.shown = Some(now);
        let lines = self.lines(now, gauges, users);
        let frame = format!("\x1b[?25l{}", self.panel.draw(&lines));
        self.flush(&frame)
    }

    /// The panel's lines, each with its colour.
    fn lines(&self, now: Instant, gauges: &[Gauge], users: LoadTotals) -> Vec<Line> {
        let bar = match width() {
            0..78 => 0,
            78..118 => 20,
            _ => 50,
        };
        let head = format!(
            "          weight  {:bar$}   req/s    errors        p50        p99",
            ""
        );
        let mut lines = vec![(String::new(), ""), (head, DIM)];
        for gauge in gauges {
            let color = if gauge.error_rate > 0.01 { RED } else { "" };
            let weight = format!("{} %", gauge.weight);
            lines.push((
                format!(
                    "  {:<6}{weight:>8}  {}  {:>6.0}  {:>6.1} %  {:>9}  {:>9}",
                    gauge.name,
                    self.bar(gauge.weight, bar),
                    gauge.rate,
                    gauge.error_rate * 100.0,
                    latency(gauge.latency.p50),
                    latency(gauge.latency.p99),
                ),
                color,
            ));
        }
        let failures = format!(
            "  users: {RATE} requests per second; {} of {} failed   {}",
            count(users.failures),
            count(users.requests),
            self.clock(now)
        );
        lines.push((failures, if users.failures > 0 { "33" } else { "" }));
        lines
    }

    fn bar(&self, percent: f64, length: usize) -> String {
        let (full, empty) = self.blocks;
        (0..length)
            .map(|at| {
                f64::from(u32::try_from(at).unwrap_or(u32::MAX))
                    / f64::from(u32::try_from(length).unwrap_or(1))
            })
            .map(|share| if share * 100.0 < percent { full } else { empty })
            .collect()
    }

    fn tell_in(&mut self, sgr: &str, text: &str) -> io::Result<()> {
        let clock = self.paint(DIM, &self.clock(Instant::now()));
        let text = self.paint(sgr, text);
        self.write(&format!("{clock}  {text}"))
    }

    fn paint(&self, sgr: &str, text: &str) -> String {
        if self.style.colored && !sgr.is_empty() {
            format!("\x1b[{sgr}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn flush(&mut self, frame: &str) -> io::Result<()> {
        // In one piece, so that no half of it is seen.
        self.out.write_all(frame.as_bytes())?;
        self.out.flush()
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        if self.style.live {
            // The cursor comes back. If that cannot be written, nobody sees it either.
            let _ = self.flush("\x1b[?25h");
        }
    }
}

fn in_one_line(gauges: &[Gauge], users: LoadTotals) -> String {
    let mut parts: Vec<String> = gauges
        .iter()
        .map(|gauge| {
            format!(
                "{} {} % {:.0}/s {:.1} % errors p50 {} p99 {}",
                gauge.name,
                gauge.weight,
                gauge.rate,
                gauge.error_rate * 100.0,
                latency(gauge.latency.p50),
                latency(gauge.latency.p99)
            )
        })
        .collect();
    parts.push(format!(
        "users {} of {} failed",
        count(users.failures),
        count(users.requests)
    ));
    parts.join(" | ")
}

/// Whether the locale is one of UTF-8, by the variables in the order in which they count.
fn unicode() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty());
    set.is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauges() -> Vec<Gauge> {
        let gauge = |name: &str, weight: f64, rate: f64| Gauge {
            name: name.to_owned(),
            weight,
            rate,
            ..Gauge::default()
        };
        vec![gauge("v1", 95.0, 285.0), gauge("v2", 5.0, 15.0)]
    }

    fn text(live: bool, play: impl FnOnce(&mut Screen<'_>)) -> String {
        let mut out = Vec::new();
        let style = Style {
            live,
            colored: false,
            line_every: Duration::from_secs(1),
        };
        play(&mut Screen::new(&mut out, style));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_pipe_gets_plain_status_lines() {
        let text = text(false, |screen| {
            screen.tell("it begins").unwrap();
            let now = Instant::now();
            for tenth in 0..=25 {
                screen
                    .show(
                        now + Duration::from_millis(tenth * 100),
                        &gauges(),
                        LoadTotals::default(),
                    )
                    .unwrap();
            }
        });
        assert!(!text.contains('\x1b'), "{text:?}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("v2 5 % 15/s 0.0 % errors"), "{text}");
    }

    #[test]
    fn a_panel_is_overwritten_and_the_cursor_restored() {
        let text = text(true, |screen| {
            let now = Instant::now();
            screen.show(now, &gauges(), LoadTotals::default()).unwrap();
            screen
                .show(now + FRAME / 2, &gauges(), LoadTotals::default())
                .unwrap();
            screen
                .show(now + FRAME, &gauges(), LoadTotals::default())
                .unwrap();
            screen.tell("more").unwrap();
        });
        let lines = 5;
        assert_eq!(
            text.matches(&format!("\x1b[{lines}A")).count(),
            2,
            "{text:?}"
        );
        assert!(text.ends_with("more\n\x1b[?25h"), "{text:?}");
    }
}
