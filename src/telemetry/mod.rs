//! Logs and the access log.
//!
//! The program's own log goes to standard error; the access log, one line per request, to standard output or a file by
//! a thread of its own. Neither ever holds back a request: the log is written rarely, and an access log that cannot
//! keep up loses lines and counts them. No header of a request or answer is logged but `User-Agent` and `Referer`.

mod access;
mod line;
mod log;
mod options;

pub use access::AccessLog;
pub use line::AccessRecord;
pub use log::{AlreadyLogging, init};
pub use options::{AccessLogFormat, AccessLogOptions, AccessLogTarget, LogFormat, LogLevel, LogOptions, Options};
