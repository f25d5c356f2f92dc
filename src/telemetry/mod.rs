//! The program's log and the access log.
//!
//! The program's log goes to standard error; the access log, one line per request, to standard
//! output or a file. Each has a writer thread behind a bounded queue: a log that falls behind drops
//! and counts lines, and never blocks a caller. No request or response header is logged but
//! `User-Agent` and `Referer`.

mod access;
mod line;
mod log;
mod options;
mod queue;

pub use access::AccessLog;
pub use line::AccessRecord;
pub use log::{Log, LogError, init, last_words, log_dropped};
pub use options::{
    AccessLogFormat, AccessLogOptions, AccessLogTarget, LogFormat, LogLevel, LogOptions, Options,
};
pub(crate) use queue::LineQueue;
