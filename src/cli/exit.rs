//! How the program ends: exit codes that a pipeline can use, and failures that say what to do.

use std::io;
use std::process::ExitCode;

use super::client;

/// The program's exit codes, which are a contract. `--help` tells them, and clap ends with 2 by
/// itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Done.
    Done = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A release that was waited for was rolled back.
    RolledBack = 3,
    /// A release that was waited for was cancelled, or did not end in time.
    Inconclusive = 4,
    /// The proxy refuses in its present state: a stale revision, an illegal transition.
    Refused = 5,
    /// The admin API cannot be reached.
    Unreachable = 6,
    /// The configuration is invalid (`EX_CONFIG` of sysexits); restarting does not help.
    Configuration = 78,
    /// Interrupted by the user, as shells count it.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a verb did not do what was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// To be told to the user.
    Told(Box<FailureReport>),
    /// Whoever read our output has gone (`weighbridge status | head -1`); nobody is left to tell.
    ReaderGone,
}

/// What the user is told about a failure.
#[derive(Debug)]
pub(super) struct FailureReport {
    pub(super) exit: Exit,
    /// What is wrong, in one line.
    pub(super) message: String,
    /// Single fields that are wrong.
    pub(super) fields: Vec<(String, String)>,
    /// What to do about it.
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

    /// The same failure with a hint, unless it has one.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Failure {
        if let Failure::Told(told) = &mut self {
            told.hint.get_or_insert_with(|| hint.into());
        }
        self
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::ReaderGone
        } else {
            Failure::new(
                Exit::Failed,
                format!("the output cannot be written: {error}"),
            )
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

/// What helps, where the proxy's own words do not say.
fn hint_for(error: &client::Error) -> Option<&'static str> {
    match error {
        client::Error::Unreachable { .. } => Some(
            "is Weighbridge running, and is this its admin address? --admin URL or \
             WEIGHBRIDGE_ADMIN names another one",
        ),
        client::Error::Timeout { .. } => Some(
            "a change may have been made all the same: look with `weighbridge status` before \
             trying again",
        ),
        client::Error::Foreign { .. } => Some(
            "is this Weighbridge's admin address, not that of the traffic? --admin URL names \
             another one",
        ),
        client::Error::Problem(problem) => match problem.status {
            401 => Some("give a token with --token-file FILE or in WEIGHBRIDGE_TOKEN"),
            403 => Some(
                "the token's role does not allow this; use a token with the role that the call \
                 needs",
            ),
            404 => Some(
                "`weighbridge status` lists the services, `weighbridge release history SERVICE` \
                 its releases",
            ),
            412 => Some(
                "somebody else changed it in between: look with `weighbridge status`, then decide \
                 anew",
            ),
            507 => {
                Some("nothing was changed; make room for the store, or roll back, which needs none")
            }
            _ => None,
        },
        _ => None,
    }
}
