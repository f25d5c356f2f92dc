//! `audit`: lists and verifies the journal of changes.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::app;
use crate::config;
use crate::model::api;

use super::args::{Format, Global};
use super::exit::{Exit, Failure};
use super::table::Table;
use super::terminal::Terminal;
use super::verbs;

pub(super) const HELP: &str = "\
Examples:
  weighbridge audit                                        the newest entries, from the admin API
  weighbridge audit verify                                 the whole journal of the running proxy
  weighbridge audit verify --store /var/lib/weighbridge    on disk; the proxy may run or not

Exit codes: 0 success, or the journal is intact; 1 it is not intact, or failed; 2 usage; 5 another
verification is running; 6 unreachable; 78 invalid configuration";

const VERIFY_HELP: &str = "\
Checks every entry against the one before it and against the chain heads recorded in the store,
and names the first entry that was altered, is missing or is out of order.

The chain has no secret: whoever can write to the database can rewrite an entry, all entries after
it and every recorded head. To detect that, keep the printed head elsewhere and compare it later.

Exit codes: 0 the journal is intact; 1 it is not, or cannot be read; 2 usage; 5 another
verification is running; 6 unreachable; 78 invalid configuration";

/// Arguments of `audit`.
#[derive(Args, Clone, Debug)]
pub(super) struct Audit {
    #[command(subcommand)]
    verb: Option<AuditVerb>,
    /// Only entries before this number
    #[arg(long, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u64).range(..=i64::MAX.unsigned_abs()))]
    before: Option<u64>,
    /// Maximum number of entries
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
}

#[derive(Clone, Debug, Subcommand)]
enum AuditVerb {
    /// Verify the integrity of the journal
    #[command(after_help = VERIFY_HELP)]
    Verify {
        /// Verify this store on disk instead of asking the admin API: the directory, or the
        /// database in it
        #[arg(long, value_name = "PATH", conflicts_with = "config")]
        store: Option<PathBuf>,
        /// Verify the store of this configuration instead of asking the admin API
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

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
    let answer = verbs::ask(verbs::client(global)?.audit(before, limit), terminal)?;
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
        None => verbs::ask(verbs::client(global)?.verify_audit(), terminal)?.value,
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
