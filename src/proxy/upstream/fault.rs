//! Why a request got no response, or not all of one.

use std::io;

use crate::proxy::http1::Malformed;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamFault {
    /// What the upstream sent is not HTTP, or can be read in two ways.
    #[error("{0}")]
    Nonsense(&'static str),
    /// The upstream closed the connection before its answer was whole.
    #[error("the connection was closed")]
    Closed,
    /// The operating system says so.
    #[error(transparent)]
    Io(io::Error),
    /// The request's own body broke off.
    #[error("the request's body was cut short")]
    Upload,
}

impl UpstreamFault {
    /// Whether the upstream has answered, and nothing that can be passed on.
    pub(crate) fn is_nonsense(&self) -> bool {
        matches!(self, UpstreamFault::Nonsense(_))
    }
}

impl From<Malformed> for UpstreamFault {
    fn from(Malformed(why): Malformed) -> UpstreamFault {
        UpstreamFault::Nonsense(why)
    }
}

impl From<BodyAborted> for UpstreamFault {
    fn from(_: BodyAborted) -> UpstreamFault {
        UpstreamFault::Upload
    }
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) struct SendError {
    /// Whether not a byte of it was written: it may be sent again, whatever it is.
    pub(crate) unsent: bool,
    /// Whether any byte of an answer had come.
    pub(crate) answered: bool,
    /// What happened.
    pub(crate) fault: UpstreamFault,
}

/// Why a body ended before its end. What it means is known to whoever set it; the parser only has
/// to stop.
#[derive(Debug, thiserror::Error)]
#[error("the body was cut short")]
pub(crate) struct BodyAborted;
