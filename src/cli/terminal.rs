//! Where a verb writes: results to standard output, talk to standard error.
//!
//! Everything goes through these handles, so that a reader that goes away ends the program quietly
//! instead of in a panic, and colours appear only where somebody can see them.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use serde_json::{Value, json};

use crate::config::Report;
use crate::telemetry::last_words;

use super::args::{Format, Global};
use super::exit::{Exit, Failure, FailureReport};

/// The two outputs of the program and how to use them.
pub(super) struct Terminal {
    out: io::Stdout,
    talk: io::Stderr,
    format: Format,
    quiet: bool,
    verbose: bool,
    color_out: bool,
    color_talk: bool,
}

impl Terminal {
    pub(super) fn new(global: &Global) -> Terminal {
        let (out, talk) = (io::stdout(), io::stderr());
        let color = |choice: ColorChoice| !global.no_color && choice != ColorChoice::Never;
        Terminal {
            color_out: color(AutoStream::choice(&out)),
            color_talk: color(AutoStream::choice(&talk)),
            out,
            talk,
            format: global.output,
            quiet: global.quiet,
            verbose: global.verbose > 0,
        }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Whether results may be coloured.
    pub(super) fn colored(&self) -> bool {
        self.color_out
    }

    /// Whether results go to somebody's eyes, on a terminal that can move its cursor.
    pub(super) fn live(&self) -> bool {
        self.out.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// Where a long story is told: to people as the result, beside a result for programs as talk,
    /// or to nobody.
    pub(super) fn story(&self) -> Box<dyn Write + Send> {
        match (self.format, self.quiet) {
            (Format::Text, _) => Box::new(io::stdout()),
            (Format::Json, false) => Box::new(io::stderr()),
            (Format::Json, true) => Box::new(io::sink()),
        }
    }

    /// Writes a result as it is.
    pub(super) fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Writes a result as JSON.
    pub(super) fn print_json(&mut self, value: &Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        self.print(&format!("{text}\n"))
    }

    /// Writes a result as JSON in one line, of which many may follow each other.
    pub(super) fn print_json_line(&mut self, value: &Value) -> Result<(), Failure> {
        self.print(&format!("{value}\n"))
    }

    /// Says something to the user, who may have asked for silence.
    pub(super) fn say(&mut self, text: &str) {
        if !self.quiet {
            // Nobody to talk to is no failure.
            let _ = writeln!(self.talk, "{text}");
        }
    }

    /// Says something that only a curious user wants to know.
    pub(super) fn explain(&mut self, text: &str) {
        if self.verbose {
            let _ = writeln!(self.talk, "{text}");
        }
    }

    /// Warns, also a user who asked for silence.
    pub(super) fn warn(&mut self, text: &str) {
        let label = paint("warning:", "1;33", self.color_talk);
        let _ = writeln!(self.talk, "{label} {text}");
    }

    /// Tells everything that is wrong with a configuration.
    pub(super) fn report(&mut self, report: &Report) {
        let text = if self.color_talk {
            report.coloured()
        } else {
            report.to_string()
        };
        let _ = writeln!(self.talk, "{text}");
    }

    /// Tells a failure, in the format of the results, and says how to end.
    pub(super) fn fail(&mut self, failure: Failure) -> Exit {
        match failure {
            // As a program that is ended by SIGPIPE, which shells take for normal; but nothing
            // failed.
            Failure::ReaderGone => Exit::Done,
            Failure::Told(told) => {
                let text = match self.format {
                    Format::Text => failure_text(&told, self.color_talk),
                    Format::Json => format!("{}\n", failure_json(&told)),
                };
                last_words(&text);
                told.exit
            }
        }
    }
}

/// `text` in the colour of this SGR sequence, if colours are wanted.
pub(super) fn paint(text: &str, sgr: &str, colored: bool) -> String {
    if colored {
        format!("\x1b[{sgr}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Text that others wrote, in one line and without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn failure_text(told: &FailureReport, colored: bool) -> String {
    let mut text = format!("{} {}\n", paint("error:", "1;31", colored), told.message);
    // The proxy repeats the first of them in its message.
    let untold = told
        .fields
        .iter()
        .filter(|(_, detail)| !told.message.contains(detail));
    for (field, detail) in untold {
        text.push_str(&format!("  {field}: {detail}\n"));
    }
    if let Some(hint) = &told.hint {
        text.push_str(&format!("{} {hint}\n", paint("hint:", "1;36", colored)));
    }
    text
}

fn failure_json(told: &FailureReport) -> Value {
    let fields: Vec<Value> = told
        .fields
        .iter()
        .map(|(pointer, detail)| json!({ "pointer": pointer, "detail": detail }))
        .collect();
    json!({ "error": told.message, "exit_code": told.exit as u8, "errors": fields, "hint": told.hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_that_others_wrote() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{9b}d"), "a [2Jb c d");
    }
}
