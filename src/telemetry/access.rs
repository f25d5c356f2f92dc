//! The access log: a bounded channel to a thread that formats and writes.
//!
//! Formatting happens on the writer's thread, so that a worker only pays for moving a record. If
//! the writer falls behind (a slow disk, a blocked pipe), records are dropped and counted; requests
//! never wait for the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use super::{AccessLogFormat, AccessLogOptions, AccessLogTarget, AccessRecord};

/// Records that may wait for the writer; at 100,000 requests per second this covers 80 ms.
const QUEUE: usize = 8 * 1024;

/// Bytes buffered before a write while more records wait.
const CHUNK: usize = 64 * 1024;

/// How long shutdown waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes one line per request, or nothing if off. Clones share the writer.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    sink: Option<Arc<Sink>>,
}

impl AccessLog {
    /// No access log: [`AccessLog::log`] does nothing.
    pub const fn off() -> AccessLog {
        AccessLog { sink: None }
    }

    /// The access log for `options`; off without options.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for appending, or no thread can be started.
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

    /// Whether records are written; callers check this before they build one.
    #[inline]
    pub fn enabled(&self) -> bool {
        self.sink.is_some()
    }

    /// Queues `record`. Never blocks; drops the record if the queue is full.
    #[inline]
    pub fn log(&self, record: AccessRecord) {
        if let Some(sink) = &self.sink {
            sink.send(record);
        }
    }

    /// Records lost since the start because the writer was behind or could not write.
    pub fn dropped(&self) -> u64 {
        self.sink
            .as_ref()
            .map_or(0, |sink| sink.shared.dropped.load(Ordering::Relaxed))
    }

    /// A reader of [`AccessLog::dropped`] that does not keep the log open.
    pub fn dropped_reader(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let shared = self.sink.as_ref().map(|sink| Arc::clone(&sink.shared));
        move || {
            shared
                .as_ref()
                .map_or(0, |shared| shared.dropped.load(Ordering::Relaxed))
        }
    }

    /// Reopens the file before the next line, to release a rotated file. No effect on standard
    /// output.
    pub fn reopen(&self) {
        if let Some(sink) = &self.sink {
            sink.reopen();
        }
    }
}

#[derive(Debug)]
struct Sink {
    /// `None` only during drop.
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
    /// Wakes the writer so that it checks for a reopen request.
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
            // If the queue is full, the writer is awake anyway.
            records.try_send(Message::Wake).ok();
        }
    }
}

/// Waits for queued lines up to a limit: a blocked pipe must not keep the process alive.
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
    /// Writes whenever the queue is empty or a chunk is full, until every sender is dropped.
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
                tracing::info!("the access log is writable again");
            }
            Ok(()) => {}
            Err(error) => {
                self.shared.dropped.fetch_add(lines, Ordering::Relaxed);
                // Once per outage, so that a full disk does not fill the program's log too.
                if !self.failing {
                    self.failing = true;
                    tracing::error!(%error, "the access log cannot be written; lines are dropped");
                }
            }
        }
    }

    /// Keeps the old file if the new one cannot be opened, so that no lines are lost.
    fn reopen(&mut self) {
        match Output::open(&self.target) {
            Ok(output) => self.output = output,
            Err(error) => {
                tracing::error!(%error, "the access log cannot be reopened; keeping the old file")
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
