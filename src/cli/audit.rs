//! `audit`: lists and verifies the journal of changes.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::app;
use crate::config;
use crate::model::api;

use super::args::{Audit, AuditVerb, Format, Global};
use super::call::{ask, client};
use super::exit::{Exit, Failure};
use super::table::Table;
use super::terminal::Terminal;

/// Shows the journal, or verifies it.
pub(super) fn run(global: &Global, args: Audit, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match args.verb {
        None => list(global, args.before, args.limit.into(), terminal),
        Some(AuditVerb::Verify { store, config }) => {
            let path = match (store, config) {
                (Some(path), _) => Some(path),
                (None, Some(file)) => match configured(&file, terminal)? {
                    Ok(path) => Some(path),
                    Err(exit) => return Ok(exit),
                },
                (None, None) => None,
            };
            verify(global, path.as_deref(), terminal)
        }
    }
}

/// The store path of a configuration.
fn configured(file: &Path, terminal: &mut Terminal) -> Result<Result<PathBuf, Exit>, Failure> {
    match config::load(file) {
        Err(report) => {
            terminal.report(&report);
            Ok(Err(Exit::Configuration))
        }
        Ok(config) => config.store.path.map(Ok).ok_or_else(|| {
            let message = format!(
                "{} sets no store.path, so there is no journal on disk",
                file.display()
            );
            Failure::new(Exit::Failed, message)
        }),
    }
}

fn list(
    global: &Global,
    before: Option<u64>,
    limit: usize,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let answer = ask(client(global)?.audit(before, limit), terminal)?;
    if terminal.format() == Format::Json {
        terminal.print_json(&answer.json)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[">ENTRY", "AT", "ACTOR", "ACTION", "SERVICE", "REASON"]);
    for entry in &answer.value.entries {
        let maybe = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            entry.sequence.to_string(),
            entry.at.clone(),
            entry.actor.clone(),
            entry.action.clone(),
            maybe(&entry.service),
            maybe(&entry.reason),
        ]);
    }
    terminal.print(&table.text())?;
    if let Some(next) = answer.value.next {
        terminal.say(&format!("(older entries: --before {next})"));
    }
    Ok(Exit::Done)
}

fn verify(global: &Global, path: Option<&Path>, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let verdict = match path {
        Some(path) => {
            app::audit::verify(path).map_err(|message| Failure::new(Exit::Failed, message))?
        }
        None => ask(client(global)?.verify_audit(), terminal)?.value,
    };
    match terminal.format() {
        Format::Json => terminal.print_json(&json!(verdict))?,
        Format::Text => terminal.print(&verdict_text(&verdict))?,
    }
    Ok(if verdict.whole {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn verdict_text(verdict: &api::AuditVerdict) -> String {
    let head = verdict.head.as_deref().unwrap_or("-");
    match &verdict.finding {
        None => format!(
            "the journal is intact: {} entries, head {head}\n",
            verdict.entries
        ),
        Some(finding) => format!(
            "the journal is not intact, from entry {} on: {}\n",
            finding.sequence, finding.detail
        ),
    }
}
