//! What is done when the database is no longer where it was opened.
//!
//! Nothing is acknowledged then. It is over when the same files are back. When they were removed
//! for good, the database is still whole behind the open connection: once the directory is there
//! and has no other in its place, it is written there anew. That waits a while, since who removes
//! files or puts a copy back takes time for it; the directory itself is never made, since it may be
//! where a volume was mounted.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::super::files::{FileIdentity, MissingFile};
use super::commit::UncertainCommit;
use super::open::sync;
use super::{FILE, LOG, Lock, Sqlite, StoreError, failed, lock};

/// The database while it is written anew.
const FRESH: &str = "weighbridge.db.restored";

/// For so long files must have been gone before they are written anew.
const RESTORE_AFTER: Duration = Duration::from_secs(5);

/// Files that are not where they were.
#[derive(Debug)]
pub(super) struct MissingFiles {
    since: Instant,
    restore_after: Duration,
}

impl Sqlite {
    /// The connection, when its files are where a restart would find them.
    pub(super) fn ready(&mut self) -> Result<&mut Connection, StoreError> {
        match self.place.as_ref().map(super::DatabaseFiles::check) {
            Some(Err(lost)) => {
                self.lost(&lost)?;
                tracing::warn!("the store was written to its directory anew");
            }
            Some(Ok(())) if self.loss.take().is_some() => {
                tracing::warn!("the files of the store are back");
                self.close();
            }
            _ => {}
        }
        self.connection()
    }

    /// After a write: whether it is where a restart would find it. `doubt` is what was written.
    pub(super) fn stands(&mut self, doubt: Option<UncertainCommit>) -> Result<(), StoreError> {
        let Some(Err(lost)) = self.place.as_ref().map(super::DatabaseFiles::check) else {
            return Ok(());
        };
        self.doubt = doubt.or(self.doubt.take());
        self.note_loss();
        Err(told(&lost))
    }

    fn note_loss(&mut self) -> &MissingFiles {
        self.loss.get_or_insert_with(|| MissingFiles {
            since: Instant::now(),
            restore_after: RESTORE_AFTER,
        })
    }

    /// Writes the files anew, if it is time and nothing is in their place.
    fn lost(&mut self, lost: &MissingFile) -> Result<(), StoreError> {
        let loss = self.note_loss();
        if loss.since.elapsed() < loss.restore_after || !self.directory.is_dir() {
            return Err(told(lost));
        }
        match lost {
            MissingFile::Gone(FILE) if self.is_removed() => self.write_anew(lost)?,
            MissingFile::Gone(LOG) => self.empty_log()?,
            MissingFile::Gone(_) => {}
            MissingFile::Replaced(name) if *name == lock::FILE => {}
            _ => return Err(told(lost)),
        }
        self.lock_again(lost)?;
        self.loss = None;
        self.close();
        Ok(())
    }

    fn is_removed(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(super::DatabaseFiles::is_removed)
    }

    /// A copy of the database that the open connection still has.
    fn write_anew(&mut self, lost: &MissingFile) -> Result<(), StoreError> {
        // A log without its database is of another.
        if self.directory.join(LOG).exists() {
            return Err(told(lost));
        }
        self.lock_again(lost)?;
        let fresh = self.directory.join(FRESH);
        let Some(connection) = &self.connection else {
            return Err(told(lost));
        };
        let _ = fs::remove_file(&fresh);
        connection
            .execute("VACUUM INTO ?1", [fresh.to_string_lossy()])
            .map_err(|error| failed("write the store anew", &error))?;
        let placed = File::open(&fresh)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&fresh, self.directory.join(FILE)))
            .and_then(|()| sync(&self.directory))
            .and_then(|()| fs::metadata(self.directory.join(FILE)));
        let placed = placed
            .map_err(|error| StoreError::Write(format!("cannot write the store anew: {error}")))?;
        self.database = FileIdentity::of(&placed);
        Ok(())
    }

    /// The log was removed, and what it holds with it, as soon as the connection is closed.
    fn empty_log(&mut self) -> Result<(), StoreError> {
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        super::confirm(connection).map_err(|error| failed("recover", &error))
    }

    /// The lock in the directory as it is now.
    fn lock_again(&mut self, lost: &MissingFile) -> Result<(), StoreError> {
        if self.lock.is_in(&self.directory) {
            return Ok(());
        }
        let acquired = Lock::acquire(&self.directory, Duration::ZERO);
        self.lock = acquired.map_err(|refused| {
            let reason = refused.refusal(&self.directory);
            StoreError::Write(format!("{lost}; {reason}"))
        })?;
        Ok(())
    }

    /// Closes the connection. SQLite would remove the log by its name, which may be another
    /// database's by now.
    pub(super) fn close(&mut self) {
        let lost = self
            .place
            .as_ref()
            .is_some_and(|place| place.check().is_err());
        if let (true, Some(connection)) = (lost, &self.connection) {
            leave(connection);
        }
        self.connection = None;
        self.place = None;
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection that is closed after this touches no file by its name.
pub(super) fn leave(connection: &Connection) {
    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
}

pub(super) fn told(lost: &MissingFile) -> StoreError {
    StoreError::Write(format!(
        "{lost}, so a restart would not find the change; put back what was there, or restart the \
         proxy"
    ))
}

#[cfg(test)]
impl Sqlite {
    /// As if files that are gone had been for long.
    pub(in crate::store) fn lost_for_long(&mut self) {
        self.loss = Some(MissingFiles {
            since: Instant::now(),
            restore_after: Duration::ZERO,
        });
    }
}
