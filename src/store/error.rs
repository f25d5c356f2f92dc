//! Why the store fails.

/// Why the store did not carry out a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be used; with advice.
    #[error("the store in {path} cannot be used: {reason}; {advice}")]
    Open {
        /// The directory or file.
        path: String,
        /// The problem.
        reason: String,
        /// What an operator can do.
        advice: String,
    },
    /// A change was not written.
    #[error("{0}")]
    Write(String),
    /// The journal or a release could not be read.
    #[error("{0}")]
    Read(String),
    /// A verification is already running; only one runs at a time.
    #[error("the journal is already being verified; try again later")]
    Verifying,
    /// The disk has not responded for so long that no more requests are queued.
    #[error("the disk does not respond")]
    Stalled,
    /// The store's thread has ended.
    #[error("the store has stopped")]
    Stopped,
}
