//! The program's own log.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{LogFormat, LogLevel, LogOptions};

/// The process has a logger already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log has been set up before")]
pub struct AlreadyLogging;

/// Sends the program's log to standard error, for the rest of the process.
///
/// # Errors
///
/// [`AlreadyLogging`] when that was done before.
pub fn init(options: LogOptions) -> Result<(), AlreadyLogging> {
    let registry = tracing_subscriber::registry().with(filter(options.level));
    let lines = fmt::layer().with_writer(io::stderr);
    let set = match options.format {
        LogFormat::Text => registry.with(lines.with_ansi(coloured())).try_init(),
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_current_span(false))
            .try_init(),
    };
    set.map_err(|_| AlreadyLogging)
}

/// `level` is for this program alone: at `debug` the protocol libraries would write out header fields, cookies and
/// credentials among them.
fn filter(level: LogLevel) -> Targets {
    Targets::new()
        .with_default(level_filter(level).min(LevelFilter::WARN))
        .with_target(env!("CARGO_CRATE_NAME"), level_filter(level))
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// As <https://no-color.org> asks: any value of `NO_COLOR` but the empty one.
fn coloured() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_stay_quiet_whatever_the_level() {
        let debug = filter(LogLevel::Debug);
        assert!(debug.would_enable("weighbridge::proxy", &Level::DEBUG));
        assert!(debug.would_enable("h2::codec", &Level::WARN));
        assert!(!debug.would_enable("h2::codec", &Level::DEBUG));
        let error = filter(LogLevel::Error);
        assert!(!error.would_enable("weighbridge", &Level::WARN));
        assert!(!error.would_enable("hyper", &Level::WARN));
    }
}
