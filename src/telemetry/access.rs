//! The access log: a bounded channel to a thread that formats and writes.
//!
//! Formatting happens on the writer's thread, so that a worker pays for moving a record and no
//! more. When the writer falls behind (a slow disk, a blocked pipe) records are dropped and
//! counted; requests never wait for a log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use super::{AccessLogFormat, AccessLogOptions, AccessLogTarget, AccessRecord};

/// Records on their way to the writer; at 100,000 requests per second this bridges 80 ms.
const QUEUE: usize = 8 * 1024;

/// Bytes that are collected before they are written, while more records wait.
const CHUNK: usize = 64 * 1024;

/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// One line per request, or nothing at all. A clone writes to the same place.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    sink: Option<Arc<Sink>>,
}

impl AccessLog {
    /// No access log: [`AccessLog::log`] does nothing.
    pub const fn off() -> AccessLog {
        AccessLog { sink: None }
    }

    /// The access log that `options` asks for; off when there are none.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened for appending, or no thread can be had.
    pub fn open(options: Option<&AccessLogOptions>) -> io::Result<AccessLog> {
        let Some(options) = options else {
            return Ok(AccessLog::off());
        };
        let output = Output::open(&options.target)?;
        let sink = Sink::start(output, options.target.clone(), options.format)?;
        Ok(AccessLog {
            sink: Some(Arc::new(sink)),
        })
    }

    /// Whether a record would be written; a caller that would have to build one for nothing asks
    /// first.
    #[inline]
    pub fn enabled(&self) -> bool {
        self.sink.is_some()
    }

    /// Queues `record`; never waits, and drops the record when the queue is full.
    #[inline]
    pub fn log(&self, record: AccessRecord) {
        if let Some(sink) = &self.sink {
            sink.send(record);
        }
    }

    /// Records that were lost since the start, because the writer was behind or could not write.
    pub fn dropped(&self) -> u64 {
        self.sink
            .as_ref()
            .map_or(0, |sink| sink.shared.dropped.load(Ordering::Relaxed))
    }

    /// Reads [`AccessLog::dropped`], and keeps nothing from being written at the end.
    pub fn dropped_reader(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let shared = self.sink.as_ref().map(|sink| Arc::clone(&sink.shared));
        move || {
            shared
                .as_ref()
                .map_or(0, |shared| shared.dropped.load(Ordering::Relaxed))
        }
    }

    /// Opens the file anew before the next line, so that a rotated file is let go. Standard output
    /// stays as it is.
    pub fn reopen(&self) {
        if let Some(sink) = &self.sink {
            sink.reopen();
        }
    }
}

#[derive(Debug)]
struct Sink {
    /// `None` only while it is dropped.
    records: Option<SyncSender<Message>>,
    shared: Arc<Shared>,
    /// Disconnected when the writer has ended.
    ended: std::sync::Mutex<Receiver<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    reopen: AtomicBool,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a box per record would cost an allocation on the request path"
)]
enum Message {
    Record(AccessRecord),
    /// Look at `SharedResponse::reopen`; only wakes the writer.
    Wake,
}

impl Sink {
    fn start(output: Output, target: AccessLogTarget, format: AccessLogFormat) -> io::Result<Sink> {
        let (records, incoming) = sync_channel(QUEUE);
        let (ending, ended) = sync_channel(0);
        let shared = Arc::new(Shared::default());
        let mut writer = Writer {
            incoming,
            output,
            target,
            format,
            shared: Arc::clone(&shared),
            failing: false,
        };
        thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                writer.run();
                drop(ending);
            })?;
        Ok(Sink {
            records: Some(records),
            shared,
            ended: std::sync::Mutex::new(ended),
        })
    }

    fn send(&self, record: AccessRecord) {
        let Some(records) = &self.records else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            records.try_send(Message::Record(record))
        {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        if let Some(records) = &self.records {
            // A full queue means that the writer is awake anyway.
            records.try_send(Message::Wake).ok();
        }
    }
}

/// Waits for the lines that are queued, but not for ever: a blocked pipe must not keep the process
/// alive.
impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.records.take());
        if let Ok(ended) = self.ended.get_mut()
            && ended.recv_timeout(LAST_LINES) == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!("the last lines of the access log could not be written in time");
        }
    }
}

struct Writer {
    incoming: Receiver<Message>,
    output: Output,
    target: AccessLogTarget,
    format: AccessLogFormat,
    shared: Arc<Shared>,
    failing: bool,
}

impl Writer {
    /// Writes whenever nothing more is waiting or a chunk is full, until every sender is gone.
    fn run(&mut self) {
        let mut chunk = Vec::with_capacity(CHUNK);
        while let Ok(first) = self.incoming.recv() {
            let mut lines = 0;
            let mut next = Some(first);
            while let Some(message) = next {
                if let Message::Record(record) = message {
                    record.write(self.format, &mut chunk);
                    lines += 1;
                }
                next = if chunk.len() < CHUNK {
                    self.incoming.try_recv().ok()
                } else {
                    None
                };
            }
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            self.write(&chunk, lines);
            chunk.clear();
        }
    }

    fn write(&mut self, chunk: &[u8], lines: u64) {
        match self.output.write(chunk) {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the access log can be written again");
            }
            Ok(()) => {}
            Err(error) => {
                self.shared.dropped.fetch_add(lines, Ordering::Relaxed);
                // Once per outage: a full disk must not fill the log of the program too.
                if !self.failing {
                    self.failing = true;
                    tracing::error!(%error, "the access log cannot be written; its lines are dropped");
                }
            }
        }
    }

    /// Keeps the old file when the new one cannot be opened: its lines are better than none.
    fn reopen(&mut self) {
        match Output::open(&self.target) {
            Ok(output) => self.output = output,
            Err(error) => {
                tracing::error!(%error, "the access log cannot be opened anew; going on with the old file")
            }
        }
    }
}

enum Output {
    Stdout,
    File(File),
}

impl Output {
    fn open(target: &AccessLogTarget) -> io::Result<Output> {
        match target {
            AccessLogTarget::Stdout => Ok(Output::Stdout),
            AccessLogTarget::File(path) => append(path).map(Output::File),
        }
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(chunk)?;
                stdout.flush()
            }
            Output::File(file) => file.write_all(chunk),
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::telemetry::line::tests::record;

    fn to_file(path: &Path) -> AccessLog {
        AccessLog::open(Some(&AccessLogOptions {
            target: AccessLogTarget::File(path.to_owned()),
            format: AccessLogFormat::Json,
        }))
        .unwrap()
    }

    #[test]
    fn dropping_the_log_flushes_every_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let log = to_file(&path);
        for _ in 0..1_000 {
            log.log(record());
        }
        assert_eq!(log.dropped(), 0);
        drop(log);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1_000);
    }

    #[test]
    fn reopen_releases_a_rotated_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rotated) = (
            directory.path().join("access.log"),
            directory.path().join("access.log.1"),
        );
        let log = to_file(&path);
        fs::rename(&path, &rotated).unwrap();
        log.reopen();
        log.log(record());
        drop(log);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "");
    }

    #[test]
    fn records_beyond_the_queue_limit_are_dropped_and_counted() {
        let (records, incoming) = sync_channel(2);
        let (_ending, ended) = sync_channel(0);
        let sink = Sink {
            records: Some(records),
            shared: Arc::default(),
            ended: std::sync::Mutex::new(ended),
        };
        for _ in 0..5 {
            sink.send(record());
        }
        assert_eq!(sink.shared.dropped.load(Ordering::Relaxed), 3);
        assert_eq!(incoming.try_iter().count(), 2);
        drop(_ending);
    }

    #[test]
    fn a_full_disk_drops_lines_only() {
        let log = to_file(Path::new("/dev/full"));
        log.log(record());
        while log.dropped() == 0 {
            thread::yield_now();
        }
        assert_eq!(log.dropped(), 1);
    }

    #[test]
    fn nothing_is_written_when_the_log_is_off() {
        let log = AccessLog::open(None).unwrap();
        assert!(!log.enabled());
        log.log(record());
        log.reopen();
        assert_eq!(log.dropped(), 0);
    }
}
