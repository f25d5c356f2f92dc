//! Handles a database that is no longer where it was opened.
//!
//! Nothing is acknowledged until the same files are back. If they were removed for good, the
//! database is still complete behind the open connection: once the directory exists without another
//! database, it is rewritten there. This waits a while, since an operator who removes files or
//! restores a backup needs time; the directory itself is never created, since it may be a mount
//! point.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::super::files::{DATABASE as FILE, FileIdentity, LOG, MissingFile};
use super::commit::UncertainCommit;
use super::open::sync;
use super::{Lock, Sqlite, StoreError, failed, lock};

/// The database while it is being rewritten.
const FRESH: &str = "weighbridge.db.restored";

/// How long files must have been missing before they are rewritten.
const RESTORE_AFTER: Duration = Duration::from_secs(5);

/// Files that are not where they were.
#[derive(Debug)]
pub(super) struct MissingFiles {
    since: Instant,
    restore_after: Duration,
}

impl Sqlite {
    /// The connection, if its files are where a restart would find them.
    pub(super) fn ready(&mut self) -> Result<&mut Connection, StoreError> {
        match self.place.as_ref().map(super::DatabaseFiles::check) {
            Some(Err(lost)) => {
                self.lost(&lost)?;
                tracing::warn!("the store was rewritten to its directory");
            }
            Some(Ok(())) if self.loss.take().is_some() => {
                tracing::warn!("the files of the store are back");
                self.close();
            }
            _ => {}
        }
        self.connection()
    }

    /// After a write: checks that its files are where a restart would find them. `uncertain` is
    /// what was written.
    pub(super) fn check_location(
        &mut self,
        uncertain: Option<UncertainCommit>,
    ) -> Result<(), StoreError> {
        let Some(Err(lost)) = self.place.as_ref().map(super::DatabaseFiles::check) else {
            return Ok(());
        };
        self.uncertain = uncertain.or(self.uncertain.take());
        self.note_loss();
        Err(missing_error(&lost))
    }

    fn note_loss(&mut self) -> &MissingFiles {
        self.loss.get_or_insert_with(|| MissingFiles {
            since: Instant::now(),
            restore_after: RESTORE_AFTER,
        })
    }

    /// Rewrites the files if the time has come and no other file is in their place.
    fn lost(&mut self, lost: &MissingFile) -> Result<(), StoreError> {
        let loss = self.note_loss();
        if loss.since.elapsed() < loss.restore_after || !self.directory.is_dir() {
            return Err(missing_error(lost));
        }
        match lost {
            MissingFile::Gone(FILE) if self.is_removed() => self.rewrite(lost)?,
            MissingFile::Gone(LOG) => self.empty_log()?,
            MissingFile::Gone(_) => {}
            MissingFile::Replaced(name) if *name == lock::FILE => {}
            _ => return Err(missing_error(lost)),
        }
        self.relock(lost)?;
        self.loss = None;
        self.close();
        Ok(())
    }

    fn is_removed(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(super::DatabaseFiles::is_removed)
    }

    /// Writes a copy of the database from the open connection.
    fn rewrite(&mut self, lost: &MissingFile) -> Result<(), StoreError> {
        // A log without its database belongs to another database.
        if self.directory.join(LOG).exists() {
            return Err(missing_error(lost));
        }
        self.relock(lost)?;
        let fresh = self.directory.join(FRESH);
        let Some(connection) = &self.connection else {
            return Err(missing_error(lost));
        };
        let _ = fs::remove_file(&fresh);
        connection
            .execute("VACUUM INTO ?1", [fresh.to_string_lossy()])
            .map_err(|error| failed("rewrite the store", &error))?;
        let placed = File::open(&fresh)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&fresh, self.directory.join(FILE)))
            .and_then(|()| sync(&self.directory))
            .and_then(|()| fs::metadata(self.directory.join(FILE)));
        let placed = placed
            .map_err(|error| StoreError::Write(format!("cannot rewrite the store: {error}")))?;
        self.database = FileIdentity::of(&placed);
        Ok(())
    }

    /// The log was removed; its content is lost as soon as the connection is closed.
    fn empty_log(&mut self) -> Result<(), StoreError> {
        let Some(connection) = &self.connection else {
            return Ok(());
        };
        super::confirm(connection).map_err(|error| failed("recover", &error))
    }

    /// Locks the lock file that the directory has now.
    fn relock(&mut self, lost: &MissingFile) -> Result<(), StoreError> {
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

    /// Closes the connection. SQLite would remove the log by its name, which may belong to another
    /// database by now.
    pub(super) fn close(&mut self) {
        let lost = self
            .place
            .as_ref()
            .is_some_and(|place| place.check().is_err());
        if let (true, Some(connection)) = (lost, &self.connection) {
            detach(connection);
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

/// Makes the closing of a connection touch no file by its name.
pub(super) fn detach(connection: &Connection) {
    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
}

pub(super) fn missing_error(lost: &MissingFile) -> StoreError {
    StoreError::Write(format!(
        "{lost}, so a restart would not find the change; restore the files, or restart the proxy"
    ))
}

#[cfg(test)]
impl Sqlite {
    /// Makes missing files count as missing for long enough.
    pub(in crate::store) fn expire_missing(&mut self) {
        self.loss = Some(MissingFiles {
            since: Instant::now(),
            restore_after: Duration::ZERO,
        });
    }
}
