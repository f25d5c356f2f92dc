//! Logs and the access log.
//!
//! The program's own log goes to standard error; the access log, one line per request, to standard
//! output or a file. Each has a thread that writes it and a bounded queue in front of that: a log
//! that cannot keep up loses lines and counts them, and nobody who logs waits for whoever reads. No
//! header of a request or answer is logged but `User-Agent` and `Referer`.

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
