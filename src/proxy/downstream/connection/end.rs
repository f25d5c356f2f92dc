//! How a connection ends.

use crate::proxy::error::Error;
use crate::proxy::worker::client::Overdue;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum ConnectionEnd {
    /// By itself, on either side.
    Closed,
    /// After a response, which the client may not have read if it `lingers`, as it may still be
    /// sending.
    Done { lingers: bool },
    /// The client sent what is not passed on.
    Refused(Error),
    /// The client took too long.
    Overdue(Overdue),
    /// Its first bytes are the preface of HTTP/2.
    Http2,
}
