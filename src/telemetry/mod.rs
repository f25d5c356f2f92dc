//! Logs and the access log.

mod options;

pub use options::{AccessLogFormat, AccessLogOptions, AccessLogTarget, LogFormat, LogLevel, LogOptions, Options};
