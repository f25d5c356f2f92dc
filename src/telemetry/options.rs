//! What is logged, how, and where to.

use std::path::PathBuf;

/// Settings of logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the program says about itself, on standard error.
    pub log: LogOptions,
    /// One line per request; by default off.
    pub access_log: Option<AccessLogOptions>,
}

/// The program's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The least severity that is logged; by default `info`.
    pub level: LogLevel,
    /// The form of a line; by default text.
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
    /// For finding faults.
    Debug,
    /// Everything.
    Trace,
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal, unless `NO_COLOR` is set.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The access log, when it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLogOptions {
    /// Where lines go.
    pub target: AccessLogTarget,
    /// The form of a line; by default JSON.
    pub format: AccessLogFormat,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// A file, appended to; opened anew on request, for rotation.
    File(PathBuf),
}

/// The form of a line of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// The combined format that web servers share.
    Combined,
}
