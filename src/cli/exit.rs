//! Exit codes, and failures with a message and a hint.

use std::io;
use std::process::ExitCode;

use crate::client;

/// The exit codes, a contract that `--help` documents. clap itself exits with 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Success.
    Done = 0,
    /// The operation failed.
    Failed = 1,
    /// Invalid command line.
    Usage = 2,
    /// The release that the command waited for was rolled back.
    RolledBack = 3,
    /// The release that the command waited for is inconclusive, cancelled or timed out.
    Inconclusive = 4,
    /// The proxy rejects the call in its current state: a stale revision, an invalid transition.
    Refused = 5,
    /// The admin API is unreachable.
    Unreachable = 6,
    /// The configuration is invalid (`EX_CONFIG` of sysexits); restarting does not help.
    Configuration = 78,
    /// Interrupted by the user: 128 + SIGINT, as in shells.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a verb failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Reported to the user.
    Told(Box<FailureReport>),
    /// The reader of standard output has closed it (`weighbridge status | head -1`).
    ReaderGone,
}

/// A failure as reported to the user.
#[derive(Debug)]
pub(super) struct FailureReport {
    pub(super) exit: Exit,
    /// The problem in one line.
    pub(super) message: String,
    /// Invalid fields: pointer and detail.
    pub(super) fields: Vec<(String, String)>,
    /// What the user can do.
    pub(super) hint: Option<String>,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure::Told(Box::new(FailureReport {
            exit,
            message: message.into(),
            fields: Vec::new(),
            hint: None,
        }))
    }

    /// Adds a hint, unless the failure has one.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Failure {
        if let Failure::Told(report) = &mut self {
            report.hint.get_or_insert_with(|| hint.into());
        }
        self
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::ReaderGone
        } else {
            Failure::new(Exit::Failed, format!("cannot write the output: {error}"))
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        let exit = match &error {
            client::Error::Address(_) | client::Error::Token => Exit::Usage,
            client::Error::Unreachable { .. } | client::Error::Timeout { .. } => Exit::Unreachable,
            client::Error::Problem(problem) if matches!(problem.status, 409 | 412) => Exit::Refused,
            client::Error::Problem(_) | client::Error::Foreign { .. } => Exit::Failed,
        };
        let hint = hint_for(&error).map(str::to_owned);
        let fields = match &error {
            client::Error::Problem(problem) => problem
                .errors
                .iter()
                .map(|field| (field.pointer.clone(), field.detail.clone()))
                .collect(),
            _ => Vec::new(),
        };
        Failure::Told(Box::new(FailureReport {
            exit,
            message: error.to_string(),
            fields,
            hint,
        }))
    }
}

/// The hint for an error whose own message gives none.
fn hint_for(error: &client::Error) -> Option<&'static str> {
    match error {
        client::Error::Unreachable { .. } => Some(
            "check that Weighbridge is running and that this is its admin address; set another \
             one with --admin URL or WEIGHBRIDGE_ADMIN",
        ),
        client::Error::Timeout { .. } => Some(
            "a change may have been applied nevertheless: check with `weighbridge status` before \
             you retry",
        ),
        client::Error::Foreign { .. } => Some(
            "check that this is the admin address of Weighbridge, not a traffic listener; set \
             another one with --admin URL",
        ),
        client::Error::Problem(problem) => match problem.status {
            401 => Some("provide a token with --token-file FILE or in WEIGHBRIDGE_TOKEN"),
            403 => Some(
                "the role of this token does not permit the call; use a token with the required \
                 role",
            ),
            404 => Some(
                "`weighbridge status` lists the services, `weighbridge release history SERVICE` \
                 its releases",
            ),
            412 => Some(
                "it was changed in the meantime: check with `weighbridge status` before you retry",
            ),
            507 => Some("nothing was changed; free disk space, or roll back, which needs none"),
            _ => None,
        },
        _ => None,
    }
}
