//! Recordings of releases, one JSON text per line, for replays with other limits.
//!
//! A recording has no gap: it ends at the first line that cannot be written, with a last line that
//! says so. Callers never block: lines go through a bounded channel to a thread of its own, so that
//! a slow disk costs the recording and not the release.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// The directory of recordings, in the store's directory.
pub(super) const FOLDER: &str = "recordings";

/// The longest recording in bytes, without its last line: some hundred thousand cohorts.
const BYTES_MAX: u64 = 64 << 20;

/// The longest line in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Lines that may wait for the disk.
const WAITING_MAX: usize = 1024;

/// Recordings that are kept; when one begins, the least recently modified are removed.
const RECORDINGS_MAX: usize = 50;

/// How long a line may stay in memory.
const FLUSH: Duration = Duration::from_secs(1);

/// The longest id that is used as a file name.
const ID_LENGTH_MAX: usize = 200;

/// A recording in progress. Ends when dropped, and continues if the same release is recorded again;
/// after a restart the caller adds a line that says so, since a killed process loses what it had in
/// memory.
#[derive(Debug)]
pub struct Recording {
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
}

impl Recording {
    /// `None` if no thread can be started. A file that cannot be written shows in
    /// [`Recording::dropped`].
    pub(super) fn begin(path: &Path) -> Option<Recording> {
        let (recording, lines) = Recording::channel();
        let (path, dropped) = (path.to_owned(), Arc::clone(&recording.dropped));
        let thread = thread::Builder::new().name("recording".to_owned());
        let work = move || run(&path, BYTES_MAX, &lines, &dropped);
        thread.spawn(work).is_ok().then_some(recording)
    }

    fn channel() -> (Recording, Receiver<String>) {
        let (lines, receiver) = sync_channel(WAITING_MAX);
        let dropped = Arc::default();
        (Recording { lines, dropped }, receiver)
    }

    /// Adds a line without a line feed. Never blocks; if the line cannot be queued, it and all
    /// later ones are lost.
    pub fn add(&self, line: String) {
        let has_ended = self.dropped.load(Ordering::Acquire) > 0;
        if has_ended || line.len() > LINE_BYTES_MAX || self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Lines lost since the recording began or continued.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Acquire)
    }
}

/// The path of a release's recording; `None` for an id that could lead out of the directory.
pub(super) fn path(folder: &Path, id: &str) -> Option<PathBuf> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits =
        (1..=ID_LENGTH_MAX).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(is_plain);
    fits.then(|| folder.join(format!("{id}.jsonl")))
}

/// The writer thread. After a failure all waiting and later lines are lost.
fn run(path: &Path, bytes_max: u64, lines: &Receiver<String>, dropped: &AtomicU64) {
    if let Err(error) = keep(path, bytes_max, lines, dropped) {
        let waiting = lines.try_iter().count();
        dropped.fetch_add(waiting.try_into().unwrap_or(u64::MAX), Ordering::AcqRel);
        dropped.fetch_max(1, Ordering::AcqRel);
        tracing::warn!(path = %path.display(), %error, "the recording of a release ended");
    }
}

/// Writes lines until the channel closes or a line is lost.
fn keep(
    path: &Path,
    bytes_max: u64,
    lines: &Receiver<String>,
    dropped: &AtomicU64,
) -> io::Result<()> {
    let Some((mut file, mut bytes)) = open(path)? else {
        return Err(io::Error::other("it was truncated earlier"));
    };
    loop {
        match lines.recv_timeout(FLUSH) {
            Ok(line) if bytes + line.len() as u64 >= bytes_max => {
                // This line is lost too, unknown to its sender.
                dropped.fetch_add(1, Ordering::AcqRel);
                return end(file, "it has reached the size limit of recordings");
            }
            Ok(line) => {
                bytes += line.len() as u64 + 1;
                writeln!(file, "{line}")?;
            }
            // Lines added after a loss are not sent, so nothing before the loss is missing here.
            Err(_) if dropped.load(Ordering::Acquire) > 0 => {
                return end(file, "a line was too long, or the disk too slow");
            }
            Err(RecvTimeoutError::Timeout) => file.flush()?,
            Err(RecvTimeoutError::Disconnected) => return file.flush(),
        }
    }
}

/// Writes the last line. It has no number of lost lines, since that would not be final before the
/// release ends.
fn end(mut file: BufWriter<File>, reason: &str) -> io::Result<()> {
    writeln!(file, "{}", serde_json::json!({ "truncated": reason }))?;
    file.flush()?;
    Err(io::Error::other(reason))
}

/// Opens the file at its end, with its length; `None` if its last line ends the recording.
fn open(path: &Path) -> io::Result<Option<(BufWriter<File>, u64)>> {
    if let Some(folder) = path.parent() {
        // Not the store's directory: if that was removed, its operator must restore it.
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        make_room(folder, path);
    }
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    let length = file.metadata()?.len();
    let begin = length.saturating_sub(LINE_BYTES_MAX as u64 + 1);
    file.seek(SeekFrom::Start(begin))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    // A partial line without a line feed, left by a killed process, is discarded.
    let whole = tail
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let length = begin + whole as u64;
    file.set_len(length)?;
    let mut lines = tail
        .get(..whole)
        .unwrap_or_default()
        .rsplit(|byte| *byte == b'\n');
    let has_ended = lines
        .nth(1)
        .is_some_and(|line| line.starts_with(br#"{"truncated":"#));
    Ok((!has_ended).then(|| (BufWriter::new(file), length)))
}

/// Removes the least recently modified recordings. A file that cannot be read or removed stays.
fn make_room(folder: &Path, of: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let others = entries.filter(|entry| entry.path() != of);
    let dated =
        others.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
    let mut recordings: Vec<_> = dated.collect();
    recordings.sort();
    let surplus = (recordings.len() + 1).saturating_sub(RECORDINGS_MAX);
    for (_, path) in recordings.iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
}

/// Records lines that are all queued before the first is written; returns the number lost.
#[cfg(test)]
pub(super) fn in_this_thread(path: &Path, bytes_max: u64, all: &[&str]) -> u64 {
    let (recording, receiver) = Recording::channel();
    all.iter()
        .for_each(|line| recording.add((*line).to_owned()));
    let dropped = Arc::clone(&recording.dropped);
    drop(recording);
    run(path, bytes_max, &receiver, &dropped);
    dropped.load(Ordering::Acquire)
}
