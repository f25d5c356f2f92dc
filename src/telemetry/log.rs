//! The program's own log: standard error, by a queue and a thread, so that nobody who logs waits
//! for its reader.

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

/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The way to standard error, once the log is up. There is one for the process, as there is one
/// log.
static LOG: OnceLock<LineQueue> = OnceLock::new();

/// Why the log was not set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The process has a logger already.
    #[error("the log has been set up before")]
    AlreadyLogging,
    /// The system gives no thread that writes.
    #[error("no thread can be started: {0}")]
    Thread(io::Error),
}

/// The log. Dropping it waits for the lines that are queued, but not for ever.
#[derive(Debug)]
#[must_use = "the last lines are lost without it"]
pub struct Log(LineQueue);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.drain(LAST_LINES);
    }
}

/// Sends the program's log to standard error, for the rest of the process; panics too, as lines of
/// it.
///
/// Lines that standard error does not take in time are dropped and counted: see [`log_dropped`].
///
/// # Errors
///
/// [`LogError`] when that was done before, or cannot be done.
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

/// Lines of the program's log that were lost since the start, because standard error did not take
/// them.
pub fn log_dropped() -> u64 {
    LOG.get().map_or(0, LineQueue::dropped)
}

/// Writes `text` to standard error and waits until it is there, but not for ever: at the end of a
/// process nobody may be left to read it.
pub fn last_words(text: &str) {
    if let Ok(queue) = LineQueue::start("last-words", output()) {
        queue.send(text.as_bytes());
        queue.drain(LAST_LINES);
    }
}

/// A handle of its own on standard error: a thread that is blocked in writing to it must not hold
/// the lock that the standard library puts around the shared one.
fn output() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(io::stderr()),
    }
}

/// What the formatter writes to: each line comes in one call.
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

/// A panic as a line of the log: the standard hook would write to standard error in the thread that
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

/// `level` is for this program alone: at `debug` the protocol libraries would write out header
/// fields, cookies and credentials among them.
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
