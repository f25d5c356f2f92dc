//! The verbs `run`, `status`, `weights`, `rollback`, `healthcheck`, `demo`, `completions` and
//! `version`, and the calls that all verbs share.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::app;
use crate::model::{Weight, api};

use super::args::{Arguments, Format, Global};
use super::demo;
use super::exit::{Exit, Failure};
use super::release;
use super::status;
use super::terminal::Terminal;
use crate::client::{AdminClient, ApiResponse, Error};

/// Runs the proxy until a signal stops it.
pub(super) fn run(config_path: PathBuf, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match app::run(app::RunOptions { config_path }) {
        Ok(()) => Ok(Exit::Done),
        Err(app::Error::Config(report)) => {
            terminal.report(&report);
            Ok(Exit::Configuration)
        }
        Err(error) => Err(Failure::new(Exit::Failed, error.to_string())),
    }
}

/// Shows one service, or all services.
pub(super) fn status(
    global: &Global,
    service: Option<&str>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let client = client(global)?;
    match service {
        Some(service) => {
            let answer = ask(client.service(service), terminal)?;
            match terminal.format() {
                Format::Json => terminal.print_json(&answer.json)?,
                Format::Text => {
                    let release = answer.value.release.as_deref();
                    let release = release
                        .map(|id| release::summary(&client, id, terminal))
                        .transpose()?;
                    let text =
                        status::detail(&answer.value, release.as_deref(), terminal.colored());
                    terminal.print(&text)?;
                }
            }
        }
        None => {
            let answer = ask(client.services(), terminal)?;
            match terminal.format() {
                Format::Json => terminal.print_json(&answer.json)?,
                Format::Text => {
                    terminal.print(&status::overview(&answer.value.services))?;
                    terminal.say(
                        "(* marks the baseline; requests, errors and latencies cover the last 10 \
                         seconds)",
                    );
                }
            }
        }
    }
    Ok(Exit::Done)
}

/// Shows the weights of a service.
pub(super) fn show_weights(
    global: &Global,
    service: &str,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let answer = ask(client(global)?.weights(service), terminal)?;
    match terminal.format() {
        Format::Json => terminal.print_json(&answer.json)?,
        Format::Text => {
            let weights = &answer.value;
            terminal.print(&status::weights(&weights.weights, &weights.effective))?;
            terminal.say(&format!(
                "(revision {}, since {})",
                weights.revision, weights.since
            ));
        }
    }
    Ok(Exit::Done)
}

/// Changes the weights of a service. Upstreams left out get 0; the proxy validates the rest.
pub(super) fn set_weights(
    global: &Global,
    service: &str,
    weights: Vec<(String, Weight)>,
    reason: Option<String>,
    if_match: Option<u64>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let mut update = api::WeightsUpdate {
        weights: api::Percentages::new(),
        reason,
    };
    for (upstream, weight) in weights {
        if update
            .weights
            .insert(upstream.clone(), weight.percent())
            .is_some()
        {
            return Err(Failure::new(
                Exit::Usage,
                format!("upstream {upstream} is given twice"),
            ));
        }
    }
    let client = client(global)?;
    let answer =
        ask(client.set_weights(service, &update, if_match), terminal).map_err(|failure| {
            let sum: f64 = update.weights.values().sum();
            if (sum - 100.0).abs() < 0.005 {
                return failure;
            }
            failure.hint(format!(
                "these weights sum to {sum}, not 100; an upstream that is left out gets 0"
            ))
        })?;
    show_change(&answer, terminal)
}

/// Moves all traffic of a service back to its baseline.
pub(super) fn rollback(
    global: &Global,
    service: &str,
    reason: Option<String>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let request = api::RollbackRequest { reason };
    let answer = ask(client(global)?.roll_back(service, &request), terminal)?;
    show_change(&answer, terminal)
}

/// Checks readiness. Every failure is exit code 1, since container engines know no other.
pub(super) fn healthcheck(global: &Global, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let client = client(global)?;
    let (ready, detail) = match block_on(client.ready())? {
        Ok(answer) => answer,
        Err(error) => (false, error.to_string()),
    };
    match terminal.format() {
        Format::Json => terminal.print_json(&json!({ "ready": ready, "detail": detail }))?,
        Format::Text if ready => terminal.print("ready\n")?,
        Format::Text => return Err(Failure::new(Exit::Failed, format!("not ready: {detail}"))),
    }
    Ok(if ready { Exit::Done } else { Exit::Failed })
}

/// Runs the demo. Its narration is the result in text format and goes to standard error in JSON.
pub(super) fn demo(hold: bool, fast: bool, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let text = terminal.format() == Format::Text;
    let options = demo::Options {
        hold,
        fast,
        live: text && terminal.live(),
        colored: text && terminal.colored(),
    };
    let ended = demo::run(options, terminal.story());
    match ended {
        Ok(demo::DemoEnd::Interrupted) => Ok(Exit::Interrupted),
        Ok(demo::DemoEnd::Played(report)) => {
            if !text {
                terminal.print_json(&json!(report))?;
            }
            Ok(if report.as_told() {
                Exit::Done
            } else {
                Exit::Failed
            })
        }
        Err(demo::Error::Output(error)) => Err(Failure::from(error)),
        Err(error) => Err(Failure::new(Exit::Failed, error.to_string())),
    }
}

/// Prints the completion script of a shell.
pub(super) fn completions(shell: Shell, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "weighbridge", &mut script);
    terminal.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// Prints the version.
pub(super) fn version(terminal: &mut Terminal) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match terminal.format() {
        Format::Json => {
            terminal.print_json(&json!({ "name": "weighbridge", "version": version }))?
        }
        Format::Text => terminal.print(&format!("weighbridge {version}\n"))?,
    }
    Ok(Exit::Done)
}

fn show_change(
    answer: &ApiResponse<api::Service>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let service = &answer.value;
    let weights = &service.weights;
    match terminal.format() {
        Format::Json => terminal.print_json(&answer.json)?,
        Format::Text => terminal.print(&status::weights(&weights.intended, &weights.effective))?,
    }
    let summary = format!(
        "{} is at revision {}: {}",
        service.name,
        service.revision,
        status::in_words(&weights.effective)
    );
    terminal.say(&summary);
    if !weights.durable {
        terminal
            .warn("the weights are in effect but not stored: a restart would not start with them");
    }
    Ok(Exit::Done)
}

/// Calls the admin API and waits for the response.
pub(super) fn ask<T>(
    call: impl Future<Output = Result<ApiResponse<T>, Error>>,
    terminal: &mut Terminal,
) -> Result<ApiResponse<T>, Failure> {
    let answer = block_on(call)??;
    terminal.explain(&answer.trace);
    Ok(answer)
}

pub(super) fn block_on<T>(call: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("cannot start the async runtime: {error}"),
            )
        })?;
    Ok(runtime.block_on(call))
}

pub(super) fn client(global: &Global) -> Result<AdminClient, Failure> {
    Ok(AdminClient::new(&global.admin, token(global)?.as_deref())?)
}

/// The token from the file or the environment, never from the command line, which other users of
/// the machine can read.
fn token(global: &Global) -> Result<Option<String>, Failure> {
    if let Some(path) = &global.token_file {
        let unreadable = |error| {
            Failure::new(
                Exit::Failed,
                format!("cannot read the token file {}: {error}", path.display()),
            )
        };
        return std::fs::read_to_string(path).map(Some).map_err(unreadable);
    }
    Ok(std::env::var("WEIGHBRIDGE_TOKEN")
        .ok()
        .filter(|token| !token.trim().is_empty()))
}
