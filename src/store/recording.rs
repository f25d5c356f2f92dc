//! What happened in a release, one JSON text a line, for replays with other limits.
//!
//! A recording has no gap: with the first line that cannot be kept it ends, and a last line says
//! so. Nobody waits for it. The lines go through a bounded channel to a thread that does nothing
//! else, so that a slow disk costs the recording and not the release.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// The folder of the recordings, in the store's directory.
pub(super) const FOLDER: &str = "recordings";

/// The longest recording in bytes, without its last line: some hundred thousand cohorts.
const BYTES_MAX: u64 = 64 << 20;

/// The longest line in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Lines that may wait for the disk.
const WAITING_MAX: usize = 1024;

/// Recordings that are kept; when one begins, those that were not touched for longest go.
const RECORDINGS_MAX: usize = 50;

/// How long a line may stay in memory.
const FLUSH: Duration = Duration::from_secs(1);

/// The longest identity that names a file.
const ID_LENGTH_MAX: usize = 200;

/// A recording that is under way. It ends when this is dropped, and goes on when the same release
/// is recorded again; who does that after a restart adds a line that says so, for what a killed
/// process had in memory is missing.
#[derive(Debug)]
pub struct Recording {
    lines: SyncSender<String>,
    dropped: Arc<AtomicU64>,
}

impl Recording {
    /// None when the system gives no thread. A file that cannot be written shows in
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

    /// Adds a line, which has no line feed of its own. Never waits: a line that cannot be taken is
    /// lost, and so are all after it.
    pub fn add(&self, line: String) {
        let has_ended = self.dropped.load(Ordering::Acquire) > 0;
        if has_ended || line.len() > LINE_BYTES_MAX || self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Lines that were lost, since the recording began or went on.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Acquire)
    }
}

/// Where the recording of a release is; none for an identity that could lead out of the folder.
pub(super) fn path(folder: &Path, id: &str) -> Option<PathBuf> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let fits =
        (1..=ID_LENGTH_MAX).contains(&id.len()) && !id.starts_with('.') && id.bytes().all(is_plain);
    fits.then(|| folder.join(format!("{id}.jsonl")))
}

/// The thread. After a failure the lines that still wait are lost, and so, for want of a receiver,
/// are all others.
fn run(path: &Path, bytes_max: u64, lines: &Receiver<String>, dropped: &AtomicU64) {
    if let Err(error) = keep(path, bytes_max, lines, dropped) {
        let waiting = lines.try_iter().count();
        dropped.fetch_add(waiting.try_into().unwrap_or(u64::MAX), Ordering::AcqRel);
        dropped.fetch_max(1, Ordering::AcqRel);
        tracing::warn!(path = %path.display(), %error, "the recording of a release ended");
    }
}

/// Writes what comes until no more comes or something is lost.
fn keep(
    path: &Path,
    bytes_max: u64,
    lines: &Receiver<String>,
    dropped: &AtomicU64,
) -> io::Result<()> {
    let Some((mut file, mut bytes)) = open(path)? else {
        return Err(io::Error::other("it was cut short before"));
    };
    loop {
        match lines.recv_timeout(FLUSH) {
            Ok(line) if bytes + line.len() as u64 >= bytes_max => {
                // This one is lost too, and whoever added it does not know.
                dropped.fetch_add(1, Ordering::AcqRel);
                return end(file, "it is as long as a recording may be");
            }
            Ok(line) => {
                bytes += line.len() as u64 + 1;
                writeln!(file, "{line}")?;
            }
            // What is added after a loss is not sent, so nothing of what came before it is missing
            // here.
            Err(_) if dropped.load(Ordering::Acquire) > 0 => {
                return end(file, "a line was too long, or the disk too slow");
            }
            Err(RecvTimeoutError::Timeout) => file.flush()?,
            Err(RecvTimeoutError::Disconnected) => return file.flush(),
        }
    }
}

/// The last line. Its number of lost lines would not be known before the release ends, which nobody
/// waits for.
fn end(mut file: BufWriter<File>, reason: &str) -> io::Result<()> {
    writeln!(file, "{}", serde_json::json!({ "truncated": reason }))?;
    file.flush()?;
    Err(io::Error::other(reason))
}

/// The file, at its end, and its length; none if its last line says that it has ended.
fn open(path: &Path) -> io::Result<Option<(BufWriter<File>, u64)>> {
    if let Some(folder) = path.parent() {
        // Not the store's directory: one that was taken away is for its operator to bring back.
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
    // What a killed process left without its line feed is no line.
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

/// Takes away the recordings that were not touched for longest. What cannot be looked at or removed
/// stays.
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

/// Records lines that are all added before the first is written, and gives the number of those
/// lost.
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
