//! Command line arguments: the verbs, their options and their help texts.
//!
//! Checks syntax only. The proxy checks names of services and upstreams, and sums of weights.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::release::args::{ReleaseVerb, span};
use crate::model::Weight;

/// The shortest polling interval of `top`.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

const TOP_HELP: &str = "\
Exit codes:
    0  success
    1  the operation failed
    2  invalid command line
    3  the release was rolled back (commands that wait for a release)
    4  the release is inconclusive, cancelled or timed out (commands that wait for a release)
    5  rejected: stale revision, or not possible in the current state
    6  the admin API is unreachable
   78  invalid configuration (restarting does not help)

Results go to standard output, everything else to standard error.
See `weighbridge run --help` for signals, and `weighbridge demo` for an introduction.";

const RUN_HELP: &str = "\
Signals:
  SIGTERM, SIGINT, SIGQUIT  drain: readiness fails, listeners close, requests in flight have
                            until the drain timeout, then exit 0; a second signal exits at once
  SIGHUP                    reload the configuration; an invalid one changes nothing
  SIGUSR1                   reopen the access log after it was rotated

Exit codes:
    0  drained and exited, even if the drain timeout aborted requests
    1  failed to start, for example because an address is in use, or ended by a second signal
    2  invalid command line
   78  invalid configuration (restarting does not help)";

const CHECK_HELP: &str = "\
Reports all problems at once, each with its line, column and field.

Exit codes:
    0  every file is valid
    2  invalid command line
   78  a configuration is invalid or cannot be read";

const LIVE_HELP: &str = "\
On a terminal the table is redrawn in place. Elsewhere snapshots follow one another, with
--output json as one JSON object per line. A release that ends stays in the list with its outcome.
An unreachable proxy is polled again until it responds.

Examples:
  weighbridge top                       everything, once a second
  weighbridge top shop --interval 5s    one service and its release
  weighbridge top --once -o json        one snapshot for a script

Exit codes: 0 ended by Ctrl-C or after --once, 1 failed, 2 usage, 6 unreachable at the first poll";

const WEIGHTS_HELP: &str = "\
Weights are percentages with at most two decimals and must sum to 100. An upstream that is left
out gets 0. Once the command returns, the weights apply to the next request; they survive a restart.

Examples:
  weighbridge weights shop                             show the weights
  weighbridge weights shop blue=95 green=5 --reason 'try 5.2'
  weighbridge weights shop blue=100 --if-match 7       only if the revision is still 7

Exit codes: 0 success, 1 failed or rejected as invalid, 2 usage, 5 stale revision or not possible
now, 6 unreachable";

const ROLLBACK_HELP: &str = "\
Once the command returns, every request that arrives goes to the baseline, also on connections
that are already open.

Exit codes: 0 success, 1 failed, 2 usage, 5 not possible now, 6 unreachable";

const PLAN_HELP: &str = "\
Shows for each step the requests of the canary at the traffic of the last minute, when a good
canary could advance, and when a bad one would be detected. Changes nothing.

Examples:
  weighbridge plan shop                        the configured plan
  weighbridge plan shop --plan careful.yaml    another plan

Exit codes: 0 success, 1 failed or rejected as invalid, 2 usage, 6 unreachable";

const EXPLAIN_HELP: &str = "\
Explains the state of a release: what it waits for, each objective with its numbers and limits,
and how many requests are still needed.

Examples:
  weighbridge explain shop       the running release, or the latest
  weighbridge explain shop-12    this release

Exit codes: 0 success, 1 failed, 2 usage, 6 unreachable";

const REPLAY_HELP: &str = "\
Reads recorded runs (JSON lines) and prints one JSON line for each: its verdict, the time and the
cause. Change the plan in the first line of a run to see what other limits would have decided. A
plan has the fields of a release block with the same defaults, except final_bake: it is zero
unless the plan sets it, as recordings do.

Examples:
  curl -s http://127.0.0.1:9900/api/v1/releases/shop-12/recording | weighbridge replay -
  weighbridge replay last-quarter.jsonl

Exit codes: 0 every run was judged, 1 the input cannot be read or is invalid, 2 usage";

const AUDIT_HELP: &str = "\
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

const DEMO_HELP: &str = "\
Needs no other program: it starts two versions of a small shop, a proxy in front of them and 300
requests per second, moves 5, 25 and 50 % of the traffic to the new version through the admin API,
makes that version fail, and rolls it back. It takes about 25 seconds and ends with a summary.
Everything listens on 127.0.0.1 only.

Exit codes: 0 the demo went as expected, 1 it did not, 130 interrupted";

/// A reverse proxy that splits traffic by weight, measures every response, and takes traffic away
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
    /// Address of the proxy's admin API
    #[arg(long, global = true, value_name = "URL", env = "WEIGHBRIDGE_ADMIN")]
    #[arg(default_value = "http://127.0.0.1:9900")]
    pub(super) admin: String,
    /// File with the token for the admin API; WEIGHBRIDGE_TOKEN can hold the token itself
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "WEIGHBRIDGE_TOKEN_FILE"
    )]
    pub(super) token_file: Option<PathBuf>,
    /// Output format of results
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
    /// Print only results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Print details, such as the calls to the admin API
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
}

/// Output format of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Text for people
    #[value(alias = "table")]
    Text,
    /// The resources of the admin API, for programs
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the proxy
    #[command(after_help = RUN_HELP)]
    Run {
        /// The configuration file
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
        /// Output format of problems; overrides --output
        #[arg(long, value_enum, value_name = "FORMAT")]
        format: Option<Format>,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Show services, their weights and statistics
    Status {
        /// Only this service, in detail
        service: Option<String>,
    },
    /// Show services, upstreams and releases live, until Ctrl-C
    #[command(after_help = LIVE_HELP)]
    Top(Top),
    /// Show or change the weights of a service
    #[command(after_help = WEIGHTS_HELP)]
    Weights {
        /// The service
        service: String,
        /// New weights in percent, for example `blue=95 green=5`; without any, shows the current
        /// weights
        #[arg(value_name = "UPSTREAM=PERCENT", value_parser = share)]
        weights: Vec<(String, Weight)>,
        /// Reason, recorded in the journal
        #[arg(long, value_name = "TEXT", requires = "weights")]
        reason: Option<String>,
        /// Change the weights only if the service is still at this revision
        #[arg(long, value_name = "REVISION", requires = "weights", value_parser = revision)]
        if_match: Option<u64>,
    },
    /// Move all traffic of a service back to its baseline
    #[command(after_help = ROLLBACK_HELP)]
    Rollback {
        /// The service
        service: String,
        /// Reason, recorded in the journal
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Start, show, follow and control releases
    Release {
        #[command(subcommand)]
        verb: ReleaseVerb,
    },
    /// Forecast the duration and the worst case of a release before it starts
    #[command(after_help = PLAN_HELP)]
    Plan {
        /// The service
        service: String,
        /// File with a plan, YAML or JSON; its fields replace those of the configured plan
        #[arg(long, value_name = "FILE")]
        plan: Option<PathBuf>,
    },
    /// Explain the state of a release
    #[command(after_help = EXPLAIN_HELP)]
    Explain {
        /// A release, or a service for its running or latest release
        #[arg(value_name = "SERVICE|ID")]
        subject: String,
    },
    /// Judge recorded releases again, offline
    #[command(after_help = REPLAY_HELP)]
    Replay {
        /// The recording; `-` is standard input
        file: PathBuf,
    },
    /// Show or verify the journal of changes
    #[command(after_help = AUDIT_HELP, args_conflicts_with_subcommands = true)]
    Audit(Audit),
    /// Check that the proxy is ready: exit code 0 if it is, else 1 (for container health checks)
    Healthcheck,
    /// Show the rollback of a bad version, in half a minute and one process
    #[command(after_help = DEMO_HELP)]
    Demo {
        /// Keep everything running at the end, until Ctrl-C
        #[arg(long)]
        hold: bool,
        /// Run in a few seconds, for pipelines
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

/// Arguments of `audit`.
#[derive(Args, Clone, Debug)]
pub(super) struct Audit {
    #[command(subcommand)]
    pub(super) verb: Option<AuditVerb>,
    /// Only entries before this number
    #[arg(long, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u64).range(..=i64::MAX.unsigned_abs()))]
    pub(super) before: Option<u64>,
    /// Maximum number of entries
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(super) limit: u16,
}

/// The verbs of `audit`.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum AuditVerb {
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

/// Arguments of `top`.
#[derive(Args, Clone, Debug)]
pub(super) struct Top {
    /// Only this service
    pub(super) service: Option<String>,
    /// Time between two polls
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    pub(super) interval: Duration,
    /// Print one snapshot and exit
    #[arg(long, conflicts_with = "interval")]
    pub(super) once: bool,
}

/// A polling interval; the lower bound protects the proxy.
fn interval(text: &str) -> Result<Duration, String> {
    span(text).and_then(|span| {
        let long_enough = span >= INTERVAL_MIN;
        let wrong = || {
            format!(
                "expected a duration of at least {} ms",
                INTERVAL_MIN.as_millis()
            )
        };
        long_enough.then_some(span).ok_or_else(wrong)
    })
}

/// Parses `green=5` or `green=5%`.
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

/// Parses a revision, with or without the quotes of an ETag.
fn revision(text: &str) -> Result<u64, String> {
    text.trim_matches('"').parse().map_err(|_| {
        "expected a revision: a whole number, as shown by `weighbridge status`".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_definitions_are_valid() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_weight_is_an_upstream_name_and_a_percentage() {
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
    fn a_revision_is_accepted_with_and_without_etag_quotes() {
        assert_eq!(revision("7"), Ok(7));
        assert_eq!(revision("\"7\""), Ok(7));
        assert!(revision("seven").is_err());
    }
}
