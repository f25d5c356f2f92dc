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
use super::files::{DatabaseFiles, FileIdentity, MissingFile};
use super::lock::{self, Lock};
use super::{
    Backend, ChangeRecord, Committed, JournalEntry, LoadedState, ReleasePart, ReleaseRecord,
    StoreError,
};
use crate::model::{IdempotencyKey, KeptAnswer, StickySecret};

const FILE: &str = "weighbridge.db";
/// SQLite's log of what is not in the database yet.
const LOG: &str = "weighbridge.db-wal";
/// What has to stay where it is, the database first.
const FILES: [&str; 3] = [FILE, LOG, lock::FILE];

/// The database. Without a connection after a failure, until one has been opened anew.
///
/// The order of the fields is that in which they are given up: the lock last.
#[derive(Debug)]
pub(super) struct Sqlite {
    directory: PathBuf,
    connection: Option<Connection>,
    /// The files of the connection.
    place: Option<DatabaseFiles>,
    /// Which file the database is.
    database: FileIdentity,
    /// Since when they are no longer where they were.
    loss: Option<MissingFiles>,
    /// Whether the write-ahead log may hold what the kernel only remembers and the disk does not
    /// have.
    suspect: bool,
    doubt: Option<UncertainCommit>,
    /// A change in effect whose write was reported as failed, and which turned up; its next try
    /// finds it done.
    found: Option<(ChangeRecord, u64)>,
    lock: Lock,
}

impl Sqlite {
    /// Opens or makes the database in `directory`, which no other process may use, and checks it.
    pub(super) fn open(directory: &Path) -> Result<Sqlite, StoreError> {
        make(directory)
            .map_err(|error| unusable(directory, &error, "check that this user may write there"))?;
        let lock = Lock::acquire(directory, lock::PATIENCE)
            .map_err(|refused| refused.refusal(directory))?;
        Sqlite::open_locked(directory, lock)
    }

    /// The same under a lock that this process holds already.
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
        // A process that could not confirm its last writes may have left them to us. With a full
        // disk, or beside a predecessor that is reading, it fails; what matters was
        // confirmed then, and the proxy must start.
        if let Err(error) = confirm(&connection) {
            tracing::warn!(%error, "the log of the store could not be written back at the start");
        }
        let place = DatabaseFiles::note(directory, FILES);
        let place = place.map_err(|error| unusable(directory, &error, "start again"))?;
        Ok(Sqlite {
            directory: directory.to_owned(),
            connection: Some(connection),
            database: place.database(),
            place: Some(place),
            loss: None,
            suspect: false,
            doubt: None,
            found: None,
            lock,
        })
    }

    /// Everything that a restart begins with.
    pub(super) fn load(&mut self) -> Result<LoadedState, StoreError> {
        let directory = self.directory.clone();
        let connection = self.connection()?;
        let loaded = || {
            Ok(LoadedState {
                services: rows::services(connection)?,
                releases: releases::to_go_on_with(connection)?,
                checkpoints: releases::checkpoints(connection)?,
                answers: answers::all(connection)?,
                parts: parts::all(connection)?,
            })
        };
        loaded().map_err(|error: rusqlite::Error| damaged(&directory, &error))
    }

    /// What sticky cookies are signed with. Made at the first start, which needs a store that can
    /// be written; later ones only read it.
    pub(super) fn sticky_secret(&mut self) -> Result<StickySecret, StoreError> {
        let directory = self.directory.clone();
        settings::sticky_secret(self.connection()?, &directory)
    }

    /// The connection; after a failure opened anew, with no doubt left about what is on disk.
    fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(self.reopen()?);
            self.suspect = false;
        }
        self.connection.as_mut().ok_or(StoreError::Stopped)
    }

    /// First the undo, so that a restart finds it even if nothing can be confirmed; then the
    /// confirmation of both.
    fn reopen(&mut self) -> Result<Connection, StoreError> {
        let told = |error: rusqlite::Error| failed("recover", &error);
        let mut connection = connect(&self.directory, false).map_err(told)?;
        let place = DatabaseFiles::note(&self.directory, FILES);
        let place = place.map_err(|error| StoreError::Write(format!("cannot recover: {error}")))?;
        if place.database() != self.database {
            missing_files::leave(&connection);
            drop(connection);
            return Err(missing_files::told(&MissingFile::Replaced(FILE)));
        }
        if let Some(doubt) = &self.doubt {
            let is_there = settle(&mut connection, doubt).map_err(told)?;
            let stands = Some((doubt.change.clone(), doubt.sequence))
                .filter(|_| is_there && doubt.change.in_effect);
            self.found = stands;
        }
        if self.suspect {
            confirm(&connection).map_err(told)?;
        }
        self.doubt = None;
        self.place = Some(place);
        Ok(connection)
    }

    /// Writes what no commit depends on, and on whose failure none does: it leaves no doubt to be
    /// settled, since a checkpoint or a bundle that turns up after all is as good as one that
    /// was confirmed.
    fn keep<T>(
        &mut self,
        write: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let written = write(self.ready()?).map_err(|error| {
            // Another process is writing, so nothing was begun.
            if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) {
                self.give_up(None, Some(&error));
            }
            failed("write", &error)
        })?;
        self.stands(None)?;
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

    /// After a failure nothing that the connection holds in memory is trusted any more.
    fn give_up(&mut self, doubt: Option<UncertainCommit>, error: Option<&rusqlite::Error>) {
        self.close();
        self.doubt = doubt;
        // A disk that said it is full has not failed to keep what it took.
        self.suspect =
            error.and_then(rusqlite::Error::sqlite_error_code) != Some(ErrorCode::DiskFull);
    }
}

impl Backend for Sqlite {
    fn durable(&self) -> bool {
        true
    }

    fn commit(&mut self, change: &ChangeRecord) -> Result<Committed, StoreError> {
        let mut doubt = None;
        self.ready()?;
        if let Some((_, sequence)) = self.found.take().filter(|(found, _)| found == change) {
            let durable = true;
            return Ok(Committed { sequence, durable });
        }
        let written = write(self.connection()?, change, &mut doubt);
        match written {
            Ok(committed) => {
                self.stands(doubt)?;
                Ok(committed)
            }
            Err(error) => {
                self.give_up(doubt, Some(&error));
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
        self.keep(|connection| releases::put_checkpoint(connection, id, state))
    }

    fn keep_answer(
        &mut self,
        key: &IdempotencyKey,
        answer: Option<&KeptAnswer>,
    ) -> Result<(), StoreError> {
        self.keep(|connection| answers::keep(connection, key, answer))
    }

    fn put_parts(&mut self, id: &str, parts: &[ReleasePart]) -> Result<(), StoreError> {
        self.keep(|connection| parts::put(connection, id, parts))
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
        self.keep(|connection| releases::put_evidence(connection, release, bundle))
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
    /// A disk that is full, or no longer.
    pub(super) fn limit_pages(&mut self, full: bool) {
        let pages = if full { 1 } else { i64::from(u32::MAX) - 1 };
        let connection = self.connection().unwrap();
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .unwrap();
    }

    /// A disk that wrote the change and failed to confirm it.
    pub(super) fn commit_unconfirmed(&mut self, change: &ChangeRecord) {
        let transaction = self.connection().unwrap().transaction().unwrap();
        let doubt = commit::prepare(&transaction, change).unwrap();
        transaction.commit().unwrap();
        self.give_up(Some(doubt), None);
    }
}
