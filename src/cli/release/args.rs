//! Command line arguments of `weighbridge release`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

const START_HELP: &str = "\
The canary goes through the steps of the plan automatically, and back to 0 as soon as it is found
to be worse. Without --wait the command prints the ID of the release once it has started.

Examples:
  weighbridge release start shop green --reason 'try 5.2' --version 5.2 --change OPS-7
  weighbridge release start shop green --wait --timeout 30m    in a pipeline
  weighbridge release start shop green --plan careful.yaml     with `steps: [1, 10, 50]` in it
  weighbridge release start shop green --at 2026-11-26T09:00:00+01:00

Exit codes: 0 started (with --wait: promoted), 1 failed or rejected as invalid, 2 usage, 5 not
possible now, 6 unreachable; with --wait also 3 rolled back, 4 cancelled, timed out or inconclusive
(a step reached its max_duration without a result; the release waits for resume, promote or
rollback), 130 interrupted (the release continues)";

const WATCH_HELP: &str = "\
On a terminal the state is redrawn in place. Elsewhere each change is one line, and with --output
json each event is one JSON object per line. A broken connection is retried for 30 seconds. A
release with an inconclusive step (max_duration reached) waits for resume, promote or rollback:
a terminal keeps following it, elsewhere the command ends with exit code 4.

Examples:
  weighbridge release watch shop                   the running release, or the latest
  weighbridge release watch shop-12 --timeout 10m
  weighbridge release watch shop --output json | jq -c .release.phase

Exit codes: 0 promoted, 1 failed, 2 usage, 3 rolled back, 4 inconclusive, cancelled or timed out,
6 unreachable, 130 interrupted (the release continues)";

const VERB_HELP: &str = "\
A service stands for its running release, or its latest.

Exit codes: 0 success, 1 failed or rejected as invalid, 2 usage, 5 not possible now, 6 unreachable";

const APPROVE_HELP: &str = "\
Needs a token with the role approve; the approval is recorded under the name of the token. Without
--gate it applies to the gate that the release waits for.

Example:
  weighbridge release approve shop --gate business --reason 'numbers look right'

Exit codes: 0 success, 1 failed or not allowed, 2 usage, 5 not possible now, 6 unreachable";

/// Argument that selects a release.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ReleaseRef {
    /// A release, or a service for its running or latest release
    #[arg(value_name = "SERVICE|ID")]
    pub(super) subject: String,
}

/// The option `--reason`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ReasonArgs {
    /// Reason, recorded in the journal
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

/// The option `--override-freeze`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Freeze {
    /// Ignore freeze windows; needs a reason and the role admin
    #[arg(long, requires = "reason")]
    pub(super) override_freeze: bool,
}

/// Arguments of `release start`.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Start {
    /// The service
    pub(super) service: String,
    /// The upstream to release
    pub(super) canary: String,
    /// File with a plan, YAML or JSON; its fields replace those of the configured plan; `-` is
    /// standard input
    #[arg(long, value_name = "FILE")]
    pub(super) plan: Option<PathBuf>,
    #[command(flatten)]
    pub(super) why: ReasonArgs,
    /// Reference to the change: a ticket, a commit or a link
    #[arg(long, value_name = "TEXT")]
    pub(super) change: Option<String>,
    /// Version or build of the canary
    #[arg(long, value_name = "TEXT")]
    pub(super) version: Option<String>,
    /// Start time, such as 2026-11-26T09:00:00+01:00; by default now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) at: Option<String>,
    #[command(flatten)]
    pub(super) freeze: Freeze,
    /// Wait until the release ends or a step is inconclusive; the exit code gives the outcome
    #[arg(long)]
    pub(super) wait: bool,
    /// Maximum time to wait, such as 30m; the release continues after that
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = span)]
    pub(super) timeout: Option<Duration>,
}

/// The verbs of `release`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ReleaseVerb {
    /// Start a release
    #[command(after_help = START_HELP)]
    Start(Box<Start>),
    /// Show a release
    #[command(
        after_help = "Exit codes: 0 shown, in any state of the release, 1 failed, 2 usage, 6 \
                      unreachable"
    )]
    Status {
        #[command(flatten)]
        subject: ReleaseRef,
    },
    /// Follow a release to its end
    #[command(after_help = WATCH_HELP)]
    Watch {
        #[command(flatten)]
        subject: ReleaseRef,
        /// Maximum time to follow, such as 30m
        #[arg(long, value_name = "TIME", value_parser = span)]
        timeout: Option<Duration>,
    },
    /// Pause a release; it can still be rolled back automatically
    #[command(after_help = VERB_HELP)]
    Pause {
        #[command(flatten)]
        subject: ReleaseRef,
        #[command(flatten)]
        why: ReasonArgs,
    },
    /// Resume a release, also past an inconclusive step
    #[command(after_help = VERB_HELP)]
    Resume {
        #[command(flatten)]
        subject: ReleaseRef,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        freeze: Freeze,
    },
    /// Approve a gate
    #[command(after_help = APPROVE_HELP)]
    Approve {
        #[command(flatten)]
        subject: ReleaseRef,
        /// The gate
        #[arg(long, value_name = "NAME")]
        gate: Option<String>,
        #[command(flatten)]
        why: ReasonArgs,
    },
    /// Move all traffic to the canary now and skip the remaining steps
    #[command(after_help = VERB_HELP)]
    Promote {
        #[command(flatten)]
        subject: ReleaseRef,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        freeze: Freeze,
    },
    /// Roll back: move all traffic to the baseline and end the release
    #[command(after_help = VERB_HELP)]
    Rollback {
        #[command(flatten)]
        subject: ReleaseRef,
        #[command(flatten)]
        why: ReasonArgs,
    },
    /// Cancel a release without a verdict; all traffic moves back to the baseline
    #[command(after_help = VERB_HELP)]
    Cancel {
        #[command(flatten)]
        subject: ReleaseRef,
        #[command(flatten)]
        why: ReasonArgs,
    },
    /// List the releases of a service, newest first
    #[command(after_help = "Exit codes: 0 done, 1 failed, 2 usage, 6 unreachable")]
    History {
        /// The service
        service: String,
        /// Maximum number of releases
        #[arg(long, value_name = "NUMBER", default_value_t = 20)]
        #[arg(value_parser = clap::value_parser!(u16).range(1..=200))]
        limit: u16,
    },
}

/// Parses a time with an offset or a zone into the form that the API takes.
fn moment(text: &str) -> Result<String, String> {
    let zoned = || text.parse::<jiff::Zoned>().map(|zoned| zoned.timestamp());
    let moment = text.parse::<jiff::Timestamp>().or_else(|_| zoned());
    moment.map(|moment| moment.to_string()).map_err(|_| {
        "expected a time such as 2026-11-26T09:00:00+01:00 or 2026-11-26T09:00[Europe/Berlin]"
            .to_owned()
    })
}

/// Parses a duration with units.
pub(in crate::cli) fn span(text: &str) -> Result<Duration, String> {
    let wrong = "expected a duration such as 30m, 90s or 1h30m";
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong.to_owned())?;
    Duration::try_from(span)
        .ok()
        .filter(|span| !span.is_zero())
        .ok_or_else(|| wrong.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_an_offset_or_a_zone() {
        for (text, expected) in [
            ("2026-11-26T09:00:00Z", "2026-11-26T09:00:00Z"),
            ("2026-11-26T09:00:00+01:00", "2026-11-26T08:00:00Z"),
            ("2026-11-26T09:00[UTC]", "2026-11-26T09:00:00Z"),
        ] {
            assert_eq!(moment(text).as_deref(), Ok(expected), "{text}");
        }
        for wrong in ["", "tomorrow", "09:00", "2026-11-26T09:00:00"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(span("30m"), Ok(Duration::from_secs(1_800)));
        assert_eq!(span("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "30", "-1s", "0s", "soon"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
