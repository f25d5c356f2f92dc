//! What may be typed: the verbs, their options and their help texts.
//!
//! Nothing is done here, and nothing is checked that the proxy knows better (names of services and
//! upstreams, sums of weights).

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::release::args::{ReleaseVerb, span};
use crate::model::Weight;

/// The shortest time between two looks of `top`.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

const TOP_HELP: &str = "\
Exit codes:
    0  done
    1  it was tried and failed
    2  the command line is wrong
    3  rolled back (verbs that wait for a release)
    4  inconclusive, cancelled or out of time (verbs that wait for a release)
    5  refused: a stale revision, or not possible in the present state
    6  the admin API cannot be reached
   78  the configuration is invalid (restarting does not help)

Data goes to standard output, everything else to standard error.
See `weighbridge run --help` for signals, and `weighbridge demo` for a first look.";

const RUN_HELP: &str = "\
Signals:
  SIGTERM, SIGINT, SIGQUIT  drain: readiness fails, listeners close, requests in flight get
                            the drain timeout, then exit 0; a second one ends it at once
  SIGHUP                    read the configuration again; an invalid one changes nothing
  SIGUSR1                   open the access log anew, after it was rotated

Exit codes:
    0  drained and ended, also if the drain timeout cut requests off
    1  failed to start, for example because an address is taken, or ended at once by a second \
                        signal
    2  the command line is wrong
   78  the configuration is invalid (restarting does not help)";

const CHECK_HELP: &str = "\
All problems are told at once, each with its line, column and field.

Exit codes:
    0  every file is valid
    2  the command line is wrong
   78  a configuration is invalid or cannot be read";

const LIVE_HELP: &str = "\
On a terminal the numbers are drawn anew in place; elsewhere one snapshot follows the other, with \
                         --output json as one
JSON object in a line each. A release that ends meanwhile stays, with how it ended. A proxy that \
                         cannot be reached for a
while is waited for.

Examples:
  weighbridge top                       everything, once a second
  weighbridge top shop --interval 5s    one service and its release
  weighbridge top --once -o json        one snapshot for a script

Exit codes: 0 ended by Ctrl-C or after --once, 1 failed, 2 usage, 6 unreachable at the first look";

const WEIGHTS_HELP: &str = "\
Weights are percent with at most two decimals and must sum to 100. An upstream that is left out \
                            gets 0.
They are in effect for the next request once this returns, and kept over a restart.

Examples:
  weighbridge weights shop                             what they are
  weighbridge weights shop blue=95 green=5 --reason 'try 5.2'
  weighbridge weights shop blue=100 --if-match 7       only if nobody changed anything since \
                            revision 7

Exit codes: 0 done, 1 failed or refused as invalid, 2 usage, 5 stale revision or not possible now, \
                            6 unreachable";

const ROLLBACK_HELP: &str = "\
When this returns, no request that arrives from now on goes anywhere else than to the baseline, \
                             also not on
connections that are already open.

Exit codes: 0 done, 1 failed, 2 usage, 5 not possible now, 6 unreachable";

const PLAN_HELP: &str = "\
Says for each step what the canary would get at the traffic of the last minute, when a good canary \
                         could go on, and
when a bad one would be seen. Nothing is changed.

Examples:
  weighbridge plan shop                        the plan that is configured
  weighbridge plan shop --plan careful.yaml    another one

Exit codes: 0 done, 1 failed or refused as invalid, 2 usage, 6 unreachable";

const EXPLAIN_HELP: &str = "\
Says in words where a release is, what it waits for, what each objective says with its numbers and \
                            limits, and how
many requests are still needed.

Examples:
  weighbridge explain shop       the release under way, or the newest
  weighbridge explain shop-12    this one

Exit codes: 0 done, 1 failed, 2 usage, 6 unreachable";

const REPLAY_HELP: &str = "\
Reads recorded runs (JSON lines) and prints one JSON line for each: its \
                           verdict, when it fell, and by what. Change the
plan in a run's first line \
                           to see what other limits would have decided. A plan has the fields of a \
                           release block, with
the same defaults but for final_bake, which is no time \
                           at all unless the plan says so, as recordings do.

Examples:
  curl -s http://127.0.0.1:9900/api/v1/releases/shop-12/recording \
                           | weighbridge replay -
  weighbridge replay last-quarter.jsonl

Exit codes: 0 every run was judged, 1 the input cannot be read or is wrong, 2 usage";

const DEMO_HELP: &str = "\
Needs nothing but this program: it starts two small versions of a shop, a proxy in front of them \
                         and 300 requests
per second, moves 5, 25 and 50 % of the traffic to the new version through the admin API, lets \
                         that version fail,
and rolls it back. It takes about 25 seconds and ends with a summary. Everything listens on \
                         127.0.0.1 only.

Exit codes: 0 all went as told, 1 it did not, 130 interrupted";

/// A reverse proxy that splits traffic by weight, measures every answer, and takes traffic away
/// from a bad version.
#[derive(Debug, Parser)]
#[command(name = "weighbridge", version, after_help = TOP_HELP, max_term_width = 110)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// Options that every verb takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Where the admin API of the proxy is
    #[arg(long, global = true, value_name = "URL", env = "WEIGHBRIDGE_ADMIN")]
    #[arg(default_value = "http://127.0.0.1:9900")]
    pub(super) admin: String,
    /// A file with the token for the admin API; WEIGHBRIDGE_TOKEN may hold the token itself
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "WEIGHBRIDGE_TOKEN_FILE"
    )]
    pub(super) token_file: Option<PathBuf>,
    /// How results are written
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        env = "WEIGHBRIDGE_OUTPUT"
    )]
    #[arg(default_value_t = Format::Text)]
    pub(super) output: Format,
    /// Never use colours; NO_COLOR in the environment does the same
    #[arg(long, global = true)]
    pub(super) no_color: bool,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Say what is done, such as the calls of the admin API
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[value(alias = "table")]
    Text,
    /// For programs: the resources of the admin API
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the proxy
    #[command(after_help = RUN_HELP)]
    Run {
        /// The configuration
        #[arg(short, long, value_name = "FILE", env = "WEIGHBRIDGE_CONFIG")]
        #[arg(default_value = "/etc/weighbridge/weighbridge.yaml")]
        config: PathBuf,
    },
    /// Check configuration files without running anything
    #[command(visible_alias = "validate", after_help = CHECK_HELP)]
    Check {
        /// The files; `-` is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// How problems are written; wins over --output
        #[arg(long, value_enum, value_name = "FORMAT")]
        format: Option<Format>,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Show services, their weights and what was measured
    Status {
        /// Only this service, in detail
        service: Option<String>,
    },
    /// Watch services, upstreams and releases as they change, until Ctrl-C
    #[command(after_help = LIVE_HELP)]
    Top(Top),
    /// Show or change the weights of a service
    #[command(after_help = WEIGHTS_HELP)]
    Weights {
        /// The service
        service: String,
        /// New weights in percent, for example `blue=95 green=5`; without them the present ones
        /// are shown
        #[arg(value_name = "UPSTREAM=PERCENT", value_parser = share)]
        weights: Vec<(String, Weight)>,
        /// Why, for the journal
        #[arg(long, value_name = "TEXT", requires = "weights")]
        reason: Option<String>,
        /// Change only if the service still is at this revision
        #[arg(long, value_name = "REVISION", requires = "weights", value_parser = revision)]
        if_match: Option<u64>,
    },
    /// Take all traffic of a service back to its baseline
    #[command(after_help = ROLLBACK_HELP)]
    Rollback {
        /// The service
        service: String,
        /// Why, for the journal
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Start a release, look at it, drive it
    Release {
        #[command(subcommand)]
        verb: ReleaseVerb,
    },
    /// Say what a release of a service would cost and take, before it is started
    #[command(after_help = PLAN_HELP)]
    Plan {
        /// The service
        service: String,
        /// A file with a plan, YAML or JSON; what it names replaces the same fields of the
        /// configured one
        #[arg(long, value_name = "FILE")]
        plan: Option<PathBuf>,
    },
    /// Say why a release is where it is
    #[command(after_help = EXPLAIN_HELP)]
    Explain {
        /// A service, whose release under way or newest one is meant, or a release
        #[arg(value_name = "SERVICE|ID")]
        subject: String,
    },
    /// Judge recorded releases again
    #[command(after_help = REPLAY_HELP)]
    Replay {
        /// The recording; `-` is standard input
        file: PathBuf,
    },
    /// Show the journal of changes, or verify it
    #[command(after_help = super::audit::HELP, args_conflicts_with_subcommands = true)]
    Audit(super::audit::Audit),
    /// Ask whether the proxy is ready: exit code 0 if it is, else 1 (for container health checks)
    Healthcheck,
    /// See a bad release rolled back, in half a minute and one process
    #[command(after_help = DEMO_HELP)]
    Demo {
        /// Leave everything running at the end, until Ctrl-C
        #[arg(long)]
        hold: bool,
        /// Run in a few seconds, for a pipeline rather than for eyes
        #[arg(long)]
        fast: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the version
    Version,
}

/// What to watch.
#[derive(Args, Clone, Debug)]
pub(super) struct Top {
    /// Only this service
    pub(super) service: Option<String>,
    /// Between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub(super) interval: Duration,
    /// Show it once and end
    #[arg(long, conflicts_with = "interval")]
    pub(super) once: bool,
}

/// A span that leaves the proxy some rest.
fn interval(text: &str) -> Result<Duration, String> {
    span(text).and_then(|span| {
        let long_enough = span >= INTERVAL_MIN;
        let wrong = || {
            format!(
                "expected a time of at least {} ms",
                INTERVAL_MIN.as_millis()
            )
        };
        long_enough.then_some(span).ok_or_else(wrong)
    })
}

/// `green=5` or `green=5%`.
fn share(text: &str) -> Result<(String, Weight), String> {
    let (upstream, percent) = text
        .split_once('=')
        .filter(|(upstream, _)| !upstream.is_empty())
        .ok_or("expected UPSTREAM=PERCENT, for example green=5")?;
    let number: f64 = percent
        .strip_suffix('%')
        .unwrap_or(percent)
        .trim()
        .parse()
        .map_err(|_| {
            format!("{percent:?} is not a number; weights are percent, for example {upstream}=5")
        })?;
    let weight = Weight::from_percent(number).map_err(|error| error.to_string())?;
    Ok((upstream.to_owned(), weight))
}

/// A revision, also in the quotes of an ETag.
fn revision(text: &str) -> Result<u64, String> {
    text.trim_matches('"').parse().map_err(|_| {
        "expected a revision, a whole number as `weighbridge status` shows it".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_share_is_a_name_and_a_percentage() {
        let percent = |text: &str| share(text).map(|(name, weight)| (name, weight.percent()));
        assert_eq!(percent("green=0.01"), Ok(("green".into(), 0.01)));
        assert_eq!(percent("green=5%"), Ok(("green".into(), 5.0)));
        for wrong in [
            "green",
            "=5",
            "green=",
            "green=NaN",
            "green=101",
            "green=-1",
            "green=0.001",
            "green=five",
        ] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_revision_may_come_in_the_quotes_of_an_etag() {
        assert_eq!(revision("7"), Ok(7));
        assert_eq!(revision("\"7\""), Ok(7));
        assert!(revision("seven").is_err());
    }
}
