//! The program's own log: standard error behind a queue and a thread, so that logging never blocks.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::queue::LineQueue;
use super::{LogFormat, LogLevel, LogOptions};

/// How long shutdown waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The queue to standard error, once the log is initialised. One per process.
static LOG: OnceLock<LineQueue> = OnceLock::new();

/// Why the log was not initialised.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The process already has a logger.
    #[error("the log is already initialised")]
    AlreadyLogging,
    /// The writer's thread cannot be started.
    #[error("no thread can be started: {0}")]
    Thread(io::Error),
}

/// The log. Dropping it waits for queued lines, up to a limit.
#[derive(Debug)]
#[must_use = "the last lines are lost without it"]
pub struct Log(LineQueue);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.drain(LAST_LINES);
    }
}

/// Sends the program's log, including panics, to standard error for the rest of the process.
///
/// Lines that standard error does not accept in time are dropped and counted: see [`log_dropped`].
///
/// # Errors
///
/// [`LogError`] if it is already initialised or cannot be.
pub fn init(options: LogOptions) -> Result<Log, LogError> {
    if LOG.get().is_some() {
        return Err(LogError::AlreadyLogging);
    }
    let queue = LineQueue::start("log", output()).map_err(LogError::Thread)?;
    let registry = tracing_subscriber::registry().with(filter(options.level));
    let writer = queue.clone();
    let lines = fmt::layer()
        .log_internal_errors(false)
        .with_writer(move || Lines(writer.clone()));
    let set = match options.format {
        LogFormat::Text => registry.with(lines.with_ansi(coloured())).try_init(),
        LogFormat::Json => registry
            .with(lines.json().flatten_event(true).with_current_span(false))
            .try_init(),
    };
    set.map_err(|_| LogError::AlreadyLogging)?;
    let queue = LOG.get_or_init(|| queue);
    std::panic::set_hook(Box::new(log_panic));
    Ok(Log(queue.clone()))
}

/// Log lines lost since the start because standard error did not accept them.
pub fn log_dropped() -> u64 {
    LOG.get().map_or(0, LineQueue::dropped)
}

/// Writes `text` to standard error and waits for it, up to a limit: at the end of a process there
/// may be no reader.
pub fn last_words(text: &str) {
    if let Ok(queue) = LineQueue::start("last-words", output()) {
        queue.send(text.as_bytes());
        queue.drain(LAST_LINES);
    }
}

/// A separate handle on standard error: a thread that blocks in a write must not hold the lock that
/// the standard library puts around the shared one.
fn output() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(io::stderr()),
    }
}

/// The formatter's output; each line comes in one call.
struct Lines(LineQueue);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs a panic as a line: the standard hook would write to standard error in the thread that
/// panics.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = std::backtrace::Backtrace::capture();
    let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
    tracing::error!(
        thread = thread.name().unwrap_or("unnamed"),
        location = panic.location().map(tracing::field::display),
        backtrace = captured.then(|| tracing::field::display(&backtrace)),
        "panic: {}",
        panic.payload_as_str().unwrap_or("of an unknown kind")
    );
}

/// `level` applies to this program alone: at `debug` the protocol libraries would log header
/// fields, among them cookies and credentials.
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

/// According to <https://no-color.org>: any value of `NO_COLOR` but the empty one turns colour off.
fn coloured() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_do_not_log_at_any_level() {
        let debug = filter(LogLevel::Debug);
        assert!(debug.would_enable("weighbridge::proxy", &Level::DEBUG));
        assert!(debug.would_enable("h2::codec", &Level::WARN));
        assert!(!debug.would_enable("h2::codec", &Level::DEBUG));
        let error = filter(LogLevel::Error);
        assert!(!error.would_enable("weighbridge", &Level::WARN));
        assert!(!error.would_enable("hyper", &Level::WARN));
    }
}
