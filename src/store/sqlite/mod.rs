//! The store on disk: one SQLite database that operators can open with `sqlite3` while the proxy
//! runs.

mod answers;
mod commit;
mod missing_files;
mod open;
mod parts;
mod releases;
mod rows;
mod settings;
mod verify;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};
use serde_json::Value;

use self::commit::{UncertainCommit, confirm, settle, write};
use self::missing_files::MissingFiles;
use self::open::{check, connect, damaged, make, migrate, restrict, sync, unusable};
pub(super) use self::verify::verify_at;
use super::files::{DATABASE as FILE, DatabaseFiles, FileIdentity, LOG, MissingFile};
use super::lock::{self, Lock};
use super::{
    Backend, ChangeRecord, Committed, JournalEntry, LoadedState, ReleasePart, ReleaseRecord,
    StoreError,
};
use crate::model::{IdempotencyKey, KeptAnswer, StickySecret};

/// The files that must stay in place, the database first.
const FILES: [&str; 3] = [FILE, LOG, lock::FILE];

/// The database. It has no connection after a failure, until one is reopened.
///
/// The fields are dropped in declaration order: the lock last.
#[derive(Debug)]
pub(super) struct Sqlite {
    directory: PathBuf,
    connection: Option<Connection>,
    /// The files of the connection.
    place: Option<DatabaseFiles>,
    /// The identity of the database file.
    database: FileIdentity,
    /// Since when files are missing.
    loss: Option<MissingFiles>,
    /// Whether the write-ahead log may have content that the kernel has cached but the disk does
    /// not have.
    log_unconfirmed: bool,
    uncertain: Option<UncertainCommit>,
    /// A change in effect whose write was reported as failed and which was found on disk; its next
    /// attempt succeeds at once.
    found: Option<(ChangeRecord, u64)>,
    lock: Lock,
}

impl Sqlite {
    /// Opens or creates the database in `directory`, locks it against other processes, and checks
    /// it.
    pub(super) fn open(directory: &Path) -> Result<Sqlite, StoreError> {
        make(directory)
            .map_err(|error| unusable(directory, &error, "check that this user may write there"))?;
        let lock = Lock::acquire(directory, lock::PATIENCE)
            .map_err(|refused| refused.refusal(directory))?;
        Sqlite::open_locked(directory, lock)
    }

    /// The same under a lock that this process already holds.
    fn open_locked(directory: &Path, lock: Lock) -> Result<Sqlite, StoreError> {
        let is_new = !directory.join(FILE).exists();
        restrict(directory)
            .map_err(|error| unusable(directory, &error, "check that this user may write there"))?;
        let mut connection =
            connect(directory, true).map_err(|error| damaged(directory, &error))?;
        migrate(&mut connection, directory)?;
        check(&connection, directory)?;
        if is_new {
            sync(directory)
                .map_err(|error| unusable(directory, &error, "check the file system"))?;
        }
        // A process that could not confirm its last writes may have left them in the log. With a
        // full disk, or beside a predecessor that is reading, this fails; everything that matters
        // was confirmed then, and the proxy must start.
        if let Err(error) = confirm(&connection) {
            tracing::warn!(
                %error,
                "the write-ahead log of the store could not be checkpointed at the start"
            );
        }
        let place = DatabaseFiles::note(directory, FILES);
        let place = place.map_err(|error| unusable(directory, &error, "start again"))?;
        Ok(Sqlite {
            directory: directory.to_owned(),
            connection: Some(connection),
            database: place.database(),
            place: Some(place),
            loss: None,
            log_unconfirmed: false,
            uncertain: None,
            found: None,
            lock,
        })
    }

    /// Reads the state that a restart begins with.
    pub(super) fn load(&mut self) -> Result<LoadedState, StoreError> {
        let directory = self.directory.clone();
        let connection = self.connection()?;
        let loaded = || {
            Ok(LoadedState {
                services: rows::services(connection)?,
                releases: releases::to_resume(connection)?,
                checkpoints: releases::checkpoints(connection)?,
                answers: answers::all(connection)?,
                parts: parts::all(connection)?,
            })
        };
        loaded().map_err(|error: rusqlite::Error| damaged(&directory, &error))
    }

    /// The signing secret of sticky cookies. Created at the first start, which needs a writable
    /// store; later starts only read it.
    pub(super) fn sticky_secret(&mut self) -> Result<StickySecret, StoreError> {
        let directory = self.directory.clone();
        settings::sticky_secret(self.connection()?, &directory)
    }

    /// The connection; reopened after a failure, after uncertain commits are settled.
    fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(self.reopen()?);
            self.log_unconfirmed = false;
        }
        self.connection.as_mut().ok_or(StoreError::Stopped)
    }

    /// The undo comes first, so that a restart finds it even if nothing can be confirmed; then both
    /// are confirmed.
    fn reopen(&mut self) -> Result<Connection, StoreError> {
        let recover_error = |error: rusqlite::Error| failed("recover", &error);
        let mut connection = connect(&self.directory, false).map_err(recover_error)?;
        let place = DatabaseFiles::note(&self.directory, FILES);
        let place = place.map_err(|error| StoreError::Write(format!("cannot recover: {error}")))?;
        if place.database() != self.database {
            missing_files::detach(&connection);
            drop(connection);
            return Err(missing_files::missing_error(&MissingFile::Replaced(FILE)));
        }
        if let Some(uncertain) = &self.uncertain {
            let is_there = settle(&mut connection, uncertain).map_err(recover_error)?;
            let check_location = Some((uncertain.change.clone(), uncertain.sequence))
                .filter(|_| is_there && uncertain.change.in_effect);
            self.found = check_location;
        }
        if self.log_unconfirmed {
            confirm(&connection).map_err(recover_error)?;
        }
        self.uncertain = None;
        self.place = Some(place);
        Ok(connection)
    }

    /// Writes what no commit depends on. A failure leaves nothing to settle: a checkpoint or bundle
    /// that turns out to be on disk is as good as a confirmed one.
    fn write_independent<T>(
        &mut self,
        write: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let written = write(self.ready()?).map_err(|error| {
            // Another process is writing, so nothing was begun.
            if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) {
                self.close_after_failure(None, Some(&error));
            }
            failed("write", &error)
        })?;
        self.check_location(None)?;
        Ok(written)
    }

    fn read<T>(
        &mut self,
        what: &str,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let connection = self
            .connection()
            .map_err(|error| StoreError::Read(error.to_string()))?;
        read(connection).map_err(|error| StoreError::Read(format!("cannot read {what}: {error}")))
    }

    /// After a failure nothing that the connection has in memory is trusted.
    fn close_after_failure(
        &mut self,
        uncertain: Option<UncertainCommit>,
        error: Option<&rusqlite::Error>,
    ) {
        self.close();
        self.uncertain = uncertain;
        // A full disk has not lost anything that it accepted.
        self.log_unconfirmed =
            error.and_then(rusqlite::Error::sqlite_error_code) != Some(ErrorCode::DiskFull);
    }
}

impl Backend for Sqlite {
    fn durable(&self) -> bool {
        true
    }

    fn commit(&mut self, change: &ChangeRecord) -> Result<Committed, StoreError> {
        let mut uncertain = None;
        self.ready()?;
        if let Some((_, sequence)) = self.found.take().filter(|(found, _)| found == change) {
            let durable = true;
            return Ok(Committed { sequence, durable });
        }
        let written = write(self.connection()?, change, &mut uncertain);
        match written {
            Ok(committed) => {
                self.check_location(uncertain)?;
                Ok(committed)
            }
            Err(error) => {
                self.close_after_failure(uncertain, Some(&error));
                Err(failed("write", &error))
            }
        }
    }

    fn recover(&mut self) {
        if let Err(error) = self.ready() {
            tracing::error!(%error, "the store is still not usable");
        }
    }

    fn audit(
        &mut self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        self.read("the journal", |connection| {
            rows::page(connection, before, limit)
        })
    }

    fn checkpoint(&mut self, id: &str, state: &Value) -> Result<bool, StoreError> {
        self.write_independent(|connection| releases::put_checkpoint(connection, id, state))
    }

    fn keep_answer(
        &mut self,
        key: &IdempotencyKey,
        answer: Option<&KeptAnswer>,
    ) -> Result<(), StoreError> {
        self.write_independent(|connection| answers::keep(connection, key, answer))
    }

    fn put_parts(&mut self, id: &str, parts: &[ReleasePart]) -> Result<(), StoreError> {
        self.write_independent(|connection| parts::put(connection, id, parts))
    }

    fn releases(&mut self, service: &str, limit: usize) -> Result<Vec<ReleaseRecord>, StoreError> {
        self.read("the releases", |connection| {
            releases::newest(connection, service, limit)
        })
    }

    fn release(&mut self, id: &str) -> Result<Option<ReleaseRecord>, StoreError> {
        self.read("the release", |connection| releases::stored(connection, id))
    }

    fn put_evidence(&mut self, release: &ReleaseRecord, bundle: &Value) -> Result<(), StoreError> {
        self.write_independent(|connection| releases::put_evidence(connection, release, bundle))
    }

    fn evidence(&mut self, id: &str) -> Result<Option<Value>, StoreError> {
        self.read("the evidence", |connection| {
            releases::evidence(connection, id)
        })
    }
}

fn failed(what: &str, error: &rusqlite::Error) -> StoreError {
    StoreError::Write(format!("cannot {what}: {error}"))
}

#[cfg(test)]
impl Sqlite {
    /// Simulates a full disk, or ends that.
    pub(super) fn limit_pages(&mut self, full: bool) {
        let pages = if full { 1 } else { i64::from(u32::MAX) - 1 };
        let connection = self.connection().unwrap();
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .unwrap();
    }

    /// Simulates a disk that wrote the change and failed to confirm it.
    pub(super) fn commit_unconfirmed(&mut self, change: &ChangeRecord) {
        let transaction = self.connection().unwrap().transaction().unwrap();
        let uncertain = commit::prepare(&transaction, change).unwrap();
        transaction.commit().unwrap();
        self.close_after_failure(Some(uncertain), None);
    }
}
