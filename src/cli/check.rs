//! `check` and `schema`: what can be said about a configuration without running it.

use std::path::PathBuf;

use super::args::Format;
use super::exit::{Exit, Failure};
use super::terminal::Terminal;

/// Checks every file and tells all problems.
pub(super) fn run(files: &[PathBuf], format: Option<Format>, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let _ = (files, format, terminal);
    Err(Failure::new(Exit::Configuration, "the configuration is not read yet"))
}

/// Prints the JSON Schema of the configuration.
pub(super) fn schema(terminal: &mut Terminal) -> Result<Exit, Failure> {
    let _ = terminal;
    Err(Failure::new(Exit::Failed, "there is no schema yet"))
}
