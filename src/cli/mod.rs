//! The command line. Most verbs are clients of the admin API.
//!
//! Results go to standard output, messages to standard error, and the exit code gives the outcome.
//! A verb decides nothing that the proxy can decide: it calls the API and shows the response.

mod args;
mod audit;
mod check;
mod demo;
mod exit;
mod panel;
mod release;
mod replay;
mod status;
mod table;
mod terminal;
mod top;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Verb};
use exit::{Exit, Failure};
use terminal::Terminal;

/// Parses the command line and runs the verb.
pub fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => {
            let mut terminal = Terminal::new(&arguments.global);
            let ended = run(arguments, &mut terminal);
            ended
                .unwrap_or_else(|failure| terminal.fail(failure))
                .into()
        }
        Err(error) => {
            // Help and version take this path too, with 0. A closed output is no failure.
            let _ = error.print();
            u8::try_from(error.exit_code()).map_or_else(|_| Exit::Usage.into(), ExitCode::from)
        }
    }
}

fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let Arguments { global, verb } = arguments;
    match verb {
        Verb::Run { config } => verbs::run(config, terminal),
        Verb::Check { files, format } => check::run(&files, format, terminal),
        Verb::Schema => check::schema(terminal),
        Verb::Status { service } => verbs::status(&global, service.as_deref(), terminal),
        Verb::Top(args) => top::run(&global, &args, terminal),
        Verb::Weights {
            service,
            weights,
            reason: _,
            if_match: _,
        } if weights.is_empty() => verbs::show_weights(&global, &service, terminal),
        Verb::Weights {
            service,
            weights,
            reason,
            if_match,
        } => verbs::set_weights(&global, &service, weights, reason, if_match, terminal),
        Verb::Rollback { service, reason } => verbs::rollback(&global, &service, reason, terminal),
        Verb::Release { verb } => release::run(&global, verb, terminal),
        Verb::Plan { service, plan } => {
            release::forecast(&global, &service, plan.as_deref(), terminal)
        }
        Verb::Explain { subject } => release::explain(&global, &subject, terminal),
        Verb::Replay { file } => replay::run(&file, terminal),
        Verb::Audit(args) => audit::run(&global, args, terminal),
        Verb::Healthcheck => verbs::healthcheck(&global, terminal),
        Verb::Demo { hold, fast } => verbs::demo(hold, fast, terminal),
        Verb::Completions { shell } => verbs::completions(shell, terminal),
        Verb::Version => verbs::version(terminal),
    }
}
