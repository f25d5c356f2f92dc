//! The store on disk: one SQLite database that operators can open with `sqlite3` while the proxy runs.

mod commit;
mod open;
mod parts;
mod releases;
mod rows;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};
use serde_json::Value;

use self::commit::{Doubt, confirm, settle, write};
use self::open::{check, connect, damaged, make, migrate, sync, unusable};
use super::{Backend, Change, Committed, Entry, LoadedState, Part, ReleaseRecord, StoreError};

const FILE: &str = "weighbridge.db";

/// The database. Without a connection after a failure, until one has been opened anew.
#[derive(Debug)]
pub(super) struct Sqlite {
    directory: PathBuf,
    connection: Option<Connection>,
    /// Whether the write-ahead log may hold what the kernel only remembers and the disk does not have.
    suspect: bool,
    doubt: Option<Doubt>,
    /// A change in effect whose write was reported as failed, and which turned up; its next try finds it done.
    found: Option<(Change, u64)>,
}

impl Sqlite {
    /// Opens or makes the database in `directory`, and checks it.
    pub(super) fn open(directory: &Path) -> Result<Sqlite, StoreError> {
        make(directory).map_err(|error| unusable(directory, &error, "check that this user may write there"))?;
        let is_new = !directory.join(FILE).exists();
        let mut connection = connect(directory).map_err(|error| damaged(directory, &error))?;
        migrate(&mut connection, directory)?;
        check(&connection, directory)?;
        if is_new {
            sync(directory).map_err(|error| unusable(directory, &error, "check the file system"))?;
        }
        // A process that could not confirm its last writes may have left them to us. With a full disk, or beside a
        // predecessor that is reading, it fails; what matters was confirmed then, and the proxy must start.
        if let Err(error) = confirm(&connection) {
            tracing::warn!(%error, "the log of the store could not be written back at the start");
        }
        Ok(Sqlite {
            directory: directory.to_owned(),
            connection: Some(connection),
            suspect: false,
            doubt: None,
            found: None,
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
                parts: parts::all(connection)?,
            })
        };
        loaded().map_err(|error: rusqlite::Error| damaged(&directory, &error))
    }

    /// The connection; after a failure opened anew, with no doubt left about what is on disk.
    fn connection(&mut self) -> Result<&mut Connection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(self.reopen().map_err(|error| failed("recover", &error))?);
            self.suspect = false;
        }
        self.connection.as_mut().ok_or(StoreError::Stopped)
    }

    /// First the undo, so that a restart finds it even if nothing can be confirmed; then the confirmation of both.
    fn reopen(&mut self) -> rusqlite::Result<Connection> {
        let mut connection = connect(&self.directory)?;
        if let Some(doubt) = &self.doubt {
            let is_there = settle(&mut connection, doubt)?;
            let stands = Some((doubt.change.clone(), doubt.sequence)).filter(|_| is_there && doubt.change.in_effect);
            self.found = stands;
        }
        if self.suspect {
            confirm(&connection)?;
        }
        self.doubt = None;
        Ok(connection)
    }

    /// Writes what no commit depends on, and on whose failure none does: it leaves no doubt to be settled, since a
    /// checkpoint or a bundle that turns up after all is as good as one that was confirmed.
    fn keep<T>(&mut self, write: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        write(self.connection()?).map_err(|error| {
            // Another process is writing, so nothing was begun.
            if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) {
                self.give_up(None, Some(&error));
            }
            failed("write", &error)
        })
    }

    fn read<T>(&mut self, what: &str, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let connection = self.connection().map_err(|error| StoreError::Read(error.to_string()))?;
        read(connection).map_err(|error| StoreError::Read(format!("cannot read {what}: {error}")))
    }

    /// After a failure nothing that the connection holds in memory is trusted any more.
    fn give_up(&mut self, doubt: Option<Doubt>, error: Option<&rusqlite::Error>) {
        self.connection = None;
        self.doubt = doubt;
        // A disk that said it is full has not failed to keep what it took.
        self.suspect = error.and_then(rusqlite::Error::sqlite_error_code) != Some(ErrorCode::DiskFull);
    }
}

impl Backend for Sqlite {
    fn durable(&self) -> bool {
        true
    }

    fn commit(&mut self, change: &Change) -> Result<Committed, StoreError> {
        let mut doubt = None;
        self.connection()?;
        if let Some((_, sequence)) = self.found.take().filter(|(found, _)| found == change) {
            let durable = true;
            return Ok(Committed { sequence, durable });
        }
        let written = write(self.connection()?, change, &mut doubt);
        written.map_err(|error| {
            self.give_up(doubt, Some(&error));
            failed("write", &error)
        })
    }

    fn recover(&mut self) {
        if let Err(error) = self.connection() {
            tracing::error!(%error, "the store is still not usable");
        }
    }

    fn audit(&mut self, before: Option<u64>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.read("the journal", |connection| rows::page(connection, before, limit))
    }

    fn checkpoint(&mut self, id: &str, state: &Value) -> Result<bool, StoreError> {
        self.keep(|connection| releases::put_checkpoint(connection, id, state))
    }

    fn put_parts(&mut self, id: &str, parts: &[Part]) -> Result<(), StoreError> {
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
        self.read("the evidence", |connection| releases::evidence(connection, id))
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
    pub(super) fn commit_unconfirmed(&mut self, change: &Change) {
        let transaction = self.connection().unwrap().transaction().unwrap();
        let doubt = commit::prepare(&transaction, change).unwrap();
        transaction.commit().unwrap();
        self.give_up(Some(doubt), None);
    }
}
