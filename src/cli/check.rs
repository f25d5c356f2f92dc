//! `check` and `schema`: validate a configuration without running it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::{self, Config, Report};

use super::args::Format;
use super::exit::{Exit, Failure};
use super::terminal::Terminal;

/// Bytes read from standard input: above the limit of a configuration, so that a longer one is
/// rejected for its length.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Checks every file and reports all problems: as errors on standard error in text format, as the
/// result in JSON format.
pub(super) fn run(
    files: &[PathBuf],
    format: Option<Format>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let format = format.unwrap_or(terminal.format());
    let mut results = Vec::new();
    let mut valid = true;
    for file in files {
        let checked = check(file)?;
        valid &= checked.is_ok();
        match format {
            Format::Text => report(file, &checked, terminal),
            Format::Json => results.push(result(file, &checked)),
        }
    }
    if format == Format::Json {
        terminal.print_json(&json!({ "valid": valid, "files": results }))?;
    }
    Ok(if valid {
        Exit::Done
    } else {
        Exit::Configuration
    })
}

/// Prints the JSON Schema of the configuration.
pub(super) fn schema(terminal: &mut Terminal) -> Result<Exit, Failure> {
    terminal.print_json(&config::schema())?;
    Ok(Exit::Done)
}

fn check(file: &Path) -> Result<Result<Config, Report>, Failure> {
    if file != Path::new("-") {
        return Ok(config::load(file));
    }
    let mut text = String::new();
    let read = io::stdin()
        .lock()
        .take(INPUT_BYTES_MAX)
        .read_to_string(&mut text);
    read.map_err(|error| {
        Failure::new(
            Exit::Configuration,
            format!("cannot read standard input: {error}"),
        )
    })?;
    Ok(config::parse("<stdin>", &text, &config::environment()))
}

fn report(file: &Path, checked: &Result<Config, Report>, terminal: &mut Terminal) {
    match checked {
        Ok(config) => {
            let services = config.services.len();
            let what = if services == 1 { "service" } else { "services" };
            terminal.say(&format!("{}: OK ({services} {what})", file.display()));
        }
        Err(report) => terminal.report(report),
    }
}

fn result(file: &Path, checked: &Result<Config, Report>) -> Value {
    let problems = checked
        .as_ref()
        .err()
        .map_or_else(|| json!([]), |report| json!(report));
    json!({ "file": file.display().to_string(), "valid": checked.is_ok(), "problems": problems })
}
