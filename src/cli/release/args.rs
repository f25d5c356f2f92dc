//! What may be typed after `weighbridge release`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

const START_HELP: &str = "\
The canary goes through the steps of the plan by itself, and back to 0 as soon as it is proved to \
                          be worse. Without
--wait this returns once the release has begun, and prints its identity.

Examples:
  weighbridge release start shop green --reason 'try 5.2' --version 5.2 --change OPS-7
  weighbridge release start shop green --wait --timeout 30m          in a pipeline
  weighbridge release start shop green --plan careful.yaml           careful.yaml: `steps: [1, 10, \
                          50]`
  weighbridge release start shop green --at 2026-11-26T09:00:00+01:00

Exit codes: 0 begun (with --wait: promoted), 1 failed or refused as invalid, 2 usage, 5 not \
                          possible now, 6 unreachable;
with --wait also 3 rolled back, 4 inconclusive (a step gave no answer within its max_duration; the \
                          release waits for
somebody to resume, promote or roll back), cancelled or out of time, 130 interrupted (the release \
                          goes on)";

const WATCH_HELP: &str = "\
On a terminal the state is drawn in place; elsewhere each change is a line, and with --output json \
                          each event is a JSON
object in one line. A broken connection is tried again for 30 seconds. A release whose step gave \
                          no answer within its
max_duration waits for somebody to resume, promote or roll back: a terminal goes on following it, \
                          elsewhere that ends
with exit code 4.

Examples:
  weighbridge release watch shop                   the release under way, or the newest
  weighbridge release watch shop-12 --timeout 10m
  weighbridge release watch shop --output json | jq -c .release.phase

Exit codes: 0 promoted, 1 failed, 2 usage, 3 rolled back, 4 inconclusive, cancelled or out of \
                          time, 6 unreachable,
130 interrupted (the release goes on)";

const VERB_HELP: &str = "\
A service means its release under way, or its newest.

Exit codes: 0 done, 1 failed or refused as invalid, 2 usage, 5 not possible now, 6 unreachable";

const APPROVE_HELP: &str = "\
Needs a token with the role approve; the voice counts under the token's name. Without --gate the \
                            gate is meant that the
release waits for.

Example:
  weighbridge release approve shop --gate business --reason 'numbers look right'

Exit codes: 0 done, 1 failed or not allowed, 2 usage, 5 not possible now, 6 unreachable";

/// A release that is meant.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ReleaseRef {
    /// A service, whose release under way or newest one is meant, or a release
    #[arg(value_name = "SERVICE|ID")]
    pub(super) subject: String,
}

/// Why something is done.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct ReasonArgs {
    /// Why, for the journal
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

/// Going on although it is frozen.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Freeze {
    /// Go on through freeze windows; needs a reason, and the role admin
    #[arg(long, requires = "reason")]
    pub(super) override_freeze: bool,
}

/// What a start is told.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Start {
    /// The service
    pub(super) service: String,
    /// The upstream that is to be proved
    pub(super) canary: String,
    /// A file with a plan, YAML or JSON; what it names replaces the same fields of the configured
    /// one; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) plan: Option<PathBuf>,
    #[command(flatten)]
    pub(super) why: ReasonArgs,
    /// The reference of the change: a ticket, a commit, a link
    #[arg(long, value_name = "TEXT")]
    pub(super) change: Option<String>,
    /// The build of the canary
    #[arg(long, value_name = "TEXT")]
    pub(super) version: Option<String>,
    /// When to begin, such as 2026-11-26T09:00:00+01:00; at once without it
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) at: Option<String>,
    #[command(flatten)]
    pub(super) freeze: Freeze,
    /// Wait for the end, or a step that gives no answer, and tell it by the exit code
    #[arg(long)]
    pub(super) wait: bool,
    /// Wait at most so long, such as 30m; the release goes on after that
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = span)]
    pub(super) timeout: Option<Duration>,
}

/// What to do with releases.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ReleaseVerb {
    /// Start a release
    #[command(after_help = START_HELP)]
    Start(Box<Start>),
    /// Show a release
    #[command(
        after_help = "Exit codes: 0 shown, wherever the release is, 1 failed, 2 usage, 6 \
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
        /// Follow at most so long, such as 30m
        #[arg(long, value_name = "TIME", value_parser = span)]
        timeout: Option<Duration>,
    },
    /// Stop a release from going on; it is still rolled back if it has to be
    #[command(after_help = VERB_HELP)]
    Pause {
        #[command(flatten)]
        subject: ReleaseRef,
        #[command(flatten)]
        why: ReasonArgs,
    },
    /// Let a release go on, also past a step that gave no answer
    #[command(after_help = VERB_HELP)]
    Resume {
        #[command(flatten)]
        subject: ReleaseRef,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        freeze: Freeze,
    },
    /// Give a gate your voice
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
    /// Give the canary all traffic at once, past all steps that are left
    #[command(after_help = VERB_HELP)]
    Promote {
        #[command(flatten)]
        subject: ReleaseRef,
        #[command(flatten)]
        why: ReasonArgs,
        #[command(flatten)]
        freeze: Freeze,
    },
    /// Take the canary out, for good
    #[command(after_help = VERB_HELP)]
    Rollback {
        #[command(flatten)]
        subject: ReleaseRef,
        #[command(flatten)]
        why: ReasonArgs,
    },
    /// Give a release up without a judgement; all traffic goes back to the baseline
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
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
        limit: u16,
    },
}

/// A moment, with an offset or a zone, as the API takes it.
fn moment(text: &str) -> Result<String, String> {
    let zoned = || text.parse::<jiff::Zoned>().map(|zoned| zoned.timestamp());
    let moment = text.parse::<jiff::Timestamp>().or_else(|_| zoned());
    moment.map(|moment| moment.to_string()).map_err(|_| {
        "expected a time such as 2026-11-26T09:00:00+01:00 or 2026-11-26T09:00[Europe/Berlin]"
            .to_owned()
    })
}

/// A span of time with its units.
pub(in crate::cli) fn span(text: &str) -> Result<Duration, String> {
    let wrong = "expected a time such as 30m, 90s or 1h30m";
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
    fn times_have_an_offset_or_a_zone() {
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
    fn spans_have_units() {
        assert_eq!(span("30m"), Ok(Duration::from_secs(1_800)));
        assert_eq!(span("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "30", "-1s", "0s", "soon"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
