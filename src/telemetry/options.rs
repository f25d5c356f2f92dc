//! What is logged, in which format, and where.

use std::path::PathBuf;

/// Settings of logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The program's log on standard error.
    pub log: LogOptions,
    /// One line per request; off by default.
    pub access_log: Option<AccessLogOptions>,
}

/// The program's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The lowest severity that is logged; by default `info`.
    pub level: LogLevel,
    /// The format of a line; by default text.
    pub format: LogFormat,
}

/// A severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something has failed.
    Error,
    /// Something needs attention.
    Warn,
    /// Something notable has happened.
    #[default]
    Info,
    /// For debugging.
    Debug,
    /// Everything.
    Trace,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal unless `NO_COLOR` is set.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Settings of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogOptions {
    /// Where lines are written.
    pub target: AccessLogTarget,
    /// The format of a line; by default JSON.
    pub format: AccessLogFormat,
}

/// Where the access log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// A file, appended to; reopened on request, for rotation.
    File(PathBuf),
}

/// The format of an access log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// The combined log format of common web servers.
    Combined,
}
