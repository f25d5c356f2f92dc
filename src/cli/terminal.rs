//! Output of the verbs: results to standard output, messages to standard error.
//!
//! All output goes through these handles, so that a closed pipe ends the program without a panic,
//! and colours are used only on a terminal.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use serde_json::{Value, json};

use crate::config::Report;
use crate::telemetry::last_words;

use super::args::{Format, Global};
use super::exit::{Exit, Failure, FailureReport};

/// Standard output and standard error, with their settings.
pub(super) struct Terminal {
    out: io::Stdout,
    messages: io::Stderr,
    format: Format,
    quiet: bool,
    verbose: bool,
    color_out: bool,
    color_messages: bool,
}

impl Terminal {
    pub(super) fn new(global: &Global) -> Terminal {
        let (out, messages) = (io::stdout(), io::stderr());
        let color = |choice: ColorChoice| !global.no_color && choice != ColorChoice::Never;
        Terminal {
            color_out: color(AutoStream::choice(&out)),
            color_messages: color(AutoStream::choice(&messages)),
            out,
            messages,
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

    /// Whether results go to a terminal that can move its cursor.
    pub(super) fn live(&self) -> bool {
        self.out.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// Where the narration of the demo goes: standard output in text format, standard error in JSON
    /// format, nowhere if quiet.
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

    /// Writes a result as one JSON line.
    pub(super) fn print_json_line(&mut self, value: &Value) -> Result<(), Failure> {
        self.print(&format!("{value}\n"))
    }

    /// Writes a message, unless `--quiet` is set.
    pub(super) fn say(&mut self, text: &str) {
        if !self.quiet {
            // A closed standard error is no failure.
            let _ = writeln!(self.messages, "{text}");
        }
    }

    /// Writes a message if `--verbose` is set.
    pub(super) fn explain(&mut self, text: &str) {
        if self.verbose {
            let _ = writeln!(self.messages, "{text}");
        }
    }

    /// Writes a warning, even if `--quiet` is set.
    pub(super) fn warn(&mut self, text: &str) {
        let label = paint("warning:", "1;33", self.color_messages);
        let _ = writeln!(self.messages, "{label} {text}");
    }

    /// Reports all problems of a configuration.
    pub(super) fn report(&mut self, report: &Report) {
        let text = if self.color_messages {
            report.coloured()
        } else {
            report.to_string()
        };
        let _ = writeln!(self.messages, "{text}");
    }

    /// Reports a failure in the output format, and returns the exit code.
    pub(super) fn fail(&mut self, failure: Failure) -> Exit {
        match failure {
            // Like a program ended by SIGPIPE, which is normal in a pipeline.
            Failure::ReaderGone => Exit::Done,
            Failure::Told(report) => {
                let text = match self.format {
                    Format::Text => failure_text(&report, self.color_messages),
                    Format::Json => format!("{}\n", failure_json(&report)),
                };
                last_words(&text);
                report.exit
            }
        }
    }
}

/// Colours `text` with an SGR sequence, if `colored`.
pub(super) fn paint(text: &str, sgr: &str, colored: bool) -> String {
    if colored {
        format!("\x1b[{sgr}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Replaces control characters in foreign text, so that it is one line without escape sequences.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn failure_text(report: &FailureReport, colored: bool) -> String {
    let mut text = format!("{} {}\n", paint("error:", "1;31", colored), report.message);
    // The message of the proxy repeats the first field's detail.
    let fields = report
        .fields
        .iter()
        .filter(|(_, detail)| !report.message.contains(detail));
    for (field, detail) in fields {
        text.push_str(&format!("  {field}: {detail}\n"));
    }
    if let Some(hint) = &report.hint {
        text.push_str(&format!("{} {hint}\n", paint("hint:", "1;36", colored)));
    }
    text
}

fn failure_json(report: &FailureReport) -> Value {
    let fields: Vec<Value> = report
        .fields
        .iter()
        .map(|(pointer, detail)| json!({ "pointer": pointer, "detail": detail }))
        .collect();
    json!({
        "error": report.message,
        "exit_code": report.exit as u8,
        "errors": fields,
        "hint": report.hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced_in_foreign_text() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{9b}d"), "a [2Jb c d");
    }
}
