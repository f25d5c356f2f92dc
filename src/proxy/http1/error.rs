//! What can be wrong with a message.

/// What a request's head may measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes of the whole head, the request line included.
    pub(crate) head_bytes: usize,
    /// Number of header fields.
    pub(crate) headers: usize,
    /// Bytes of the request target.
    pub(crate) target_bytes: usize,
}

/// Why a request is refused before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// Not HTTP, or ambiguous: 400.
    Malformed(&'static str),
    /// The request target is too long: 414.
    TargetTooLong,
    /// The head is too long or has too many fields: 431.
    HeadTooLarge,
    /// A transfer coding that is not `chunked`, alone: 501.
    UnknownCoding,
    /// A version that is not 1.0 or 1.1: 505.
    Version,
}

/// A message that does not follow the grammar, or can be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);
