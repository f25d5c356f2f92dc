//! The lock of one process on a store's directory.
//!
//! It is a lock of the open file (`flock`), so it ends with the process however that ends, and can
//! be handed over: a process that inherits the descriptor holds the same lock.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::StoreError;
use super::files::FileIdentity;

/// The lock file in the store's directory. It has the pid of the last process that locked it.
pub(super) const FILE: &str = "weighbridge.lock";

/// How long a start waits for a holder that is shutting down.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// The locked file; closing it releases the lock.
#[derive(Debug)]
pub(super) struct Lock(File);

/// Why the lock is not held.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process holds it; with its pid if known.
    Held(Option<u32>),
    /// The file system has no locks, or failed.
    Unusable(io::Error),
    /// The file cannot be created or opened.
    Closed(io::Error),
}

impl Lock {
    /// Locks the directory, which must exist; waits up to `patience` for another holder.
    pub(super) fn acquire(directory: &Path, patience: Duration) -> Result<Lock, LockError> {
        let until = Instant::now() + patience;
        loop {
            match Lock::attempt(directory) {
                Ok(Some(lock)) => return Ok(lock),
                Err(LockError::Held(_)) | Ok(None) if Instant::now() < until => {
                    thread::sleep(PAUSE)
                }
                Ok(None) => return Err(LockError::Held(None)),
                Err(refused) => return Err(refused),
            }
        }
    }

    /// `None` if the file was removed in between.
    fn attempt(directory: &Path) -> Result<Option<Lock>, LockError> {
        let path = directory.join(FILE);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = opened.map_err(LockError::Closed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(LockError::Unusable(error)),
        }
        let ours = file.metadata().map(|metadata| FileIdentity::of(&metadata));
        let there = fs::metadata(&path).map(|metadata| FileIdentity::of(&metadata));
        if ours.map_err(LockError::Closed)? != there.map_err(LockError::Closed)? {
            return Ok(None);
        }
        // The pid is information only; a full disk must not keep the proxy from starting.
        let _ = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Some(Lock(file)))
    }
}

impl Lock {
    /// Whether the directory still has the locked file.
    pub(super) fn is_in(&self, directory: &Path) -> bool {
        let ours = self
            .0
            .metadata()
            .map(|metadata| FileIdentity::of(&metadata));
        let there = fs::metadata(directory.join(FILE)).map(|metadata| FileIdentity::of(&metadata));
        matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
    }
}

/// For a successor process that inherits the lock.
impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

impl LockError {
    /// The error with advice for the operator.
    pub(super) fn refusal(&self, directory: &Path) -> StoreError {
        let (reason, advice) = match self {
            LockError::Held(pid) => (
                match pid {
                    Some(pid) => format!("another process uses it (pid {pid})"),
                    None => "another process uses it".to_owned(),
                },
                "stop that process, or set store.path to another directory".to_owned(),
            ),
            LockError::Unusable(error) => (
                format!("its file system cannot lock {FILE}: {error}"),
                "set store.path to a directory on a local file system: without locks two \
                 processes could write to it"
                    .to_owned(),
            ),
            LockError::Closed(error) => (
                format!("{FILE} cannot be opened: {error}"),
                "check that this user may write there".to_owned(),
            ),
        };
        StoreError::Open {
            path: directory.display().to_string(),
            reason,
            advice,
        }
    }
}
