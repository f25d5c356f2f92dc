//! The store on disk: one SQLite database that operators can open with `sqlite3` while the proxy runs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::{Backend, Change, Committed, Entry, LoadedState, NewEntry, ServiceRecord, StoreError, chain};

const FILE: &str = "weighbridge.db";

/// How long to wait for another process on the same database: an upgrade's predecessor, or an operator's `sqlite3`.
const BUSY: Duration = Duration::from_secs(1);

/// Entries at the end of the journal whose hashes are checked at the start. All would take longer than a restart may.
const CHECKED_AT_START: usize = 256;

/// Each brings the schema from its index to the next version, which `user_version` holds.
const MIGRATIONS: &[&str] = &[r#"
    CREATE TABLE services (
        name     TEXT PRIMARY KEY,
        revision INTEGER NOT NULL,
        state    TEXT NOT NULL CHECK (json_valid(state))
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE audit (
        sequence INTEGER PRIMARY KEY,
        at       TEXT NOT NULL,
        actor    TEXT NOT NULL,
        action   TEXT NOT NULL,
        service  TEXT,
        reason   TEXT,
        "before" TEXT NOT NULL,
        "after"  TEXT NOT NULL,
        hash     TEXT NOT NULL
    ) STRICT;
    CREATE TRIGGER audit_is_never_updated BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
    CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
    CREATE TRIGGER audit_is_appended_to BEFORE INSERT ON audit
        WHEN EXISTS (SELECT 1 FROM audit WHERE sequence >= NEW.sequence)
        BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END;
"#];

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

/// A change whose write was reported as failed, and which may be on disk all the same: what a disk refused to confirm
/// it may have written.
#[derive(Debug)]
struct Doubt {
    sequence: u64,
    hash: String,
    change: Change,
    /// The records that it replaced; a service that had none keeps the change's record, but no entry speaks for it.
    replaced: Vec<ServiceRecord>,
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
        let services = services(connection).map_err(|error| damaged(&directory, &error))?;
        Ok(LoadedState { services })
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
        let connection = self.connection().map_err(|error| StoreError::Read(error.to_string()))?;
        page(connection, before, limit).map_err(|error| StoreError::Read(format!("cannot read the journal: {error}")))
    }
}

/// One change, as one transaction. `doubt` is set from the moment on which a failure leaves it open what is on disk.
fn write(connection: &mut Connection, change: &Change, doubt: &mut Option<Doubt>) -> rusqlite::Result<Committed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let prepared = prepare(&transaction, change)?;
    let sequence = prepared.sequence;
    *doubt = Some(prepared);
    transaction.commit()?;
    *doubt = None;
    let durable = true;
    Ok(Committed { sequence, durable })
}

/// Everything of a change but its commit; gives what is to be known if that fails.
fn prepare(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<Doubt> {
    let (sequence, hash) = append(transaction, &change.entry)?;
    let mut replaced = Vec::new();
    for service in &change.services {
        replaced.extend(stored(transaction, &service.name)?);
        put(transaction, service)?;
    }
    let change = change.clone();
    Ok(Doubt {
        sequence,
        hash,
        change,
        replaced,
    })
}

/// Makes sure that everything in the write-ahead log is on disk, by writing it back and emptying the log.
///
/// A failed fsync is not repeated as if the next one could cover for it: the kernel may have dropped those pages of the
/// log, and all that is appended after them would be lost with them. Written back, they are written anew.
fn confirm(connection: &Connection) -> rusqlite::Result<()> {
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(code, None));
    }
    Ok(())
}

/// Whether a change that was reported as failed is on disk nevertheless. Unless it is in effect, it is then undone,
/// once, and the journal says so.
fn settle(connection: &mut Connection, doubt: &Doubt) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let sequence = integer(doubt.sequence)?;
    let is_there: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM audit WHERE sequence = ?1 AND hash = ?2)",
        params![sequence, doubt.hash],
        |row| row.get(0),
    )?;
    if !is_there || doubt.change.in_effect {
        return Ok(is_there);
    }
    let reason = format!("entry {sequence} was refused: its write could not be confirmed");
    let is_undone: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM audit WHERE sequence > ?1 AND action = 'undo' AND reason = ?2)",
        params![sequence, reason],
        |row| row.get(0),
    )?;
    if is_undone {
        return Ok(true);
    }
    for service in &doubt.replaced {
        put(&transaction, service)?;
    }
    let refused = &doubt.change.entry;
    let entry = NewEntry {
        actor: "store".to_owned(),
        action: "undo".to_owned(),
        reason: Some(reason),
        before: refused.after.clone(),
        after: refused.before.clone(),
        ..refused.clone()
    };
    append(&transaction, &entry)?;
    transaction.commit()?;
    Ok(true)
}

fn append(transaction: &Transaction<'_>, entry: &NewEntry) -> rusqlite::Result<(u64, String)> {
    let last = transaction
        .query_row(
            "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1",
            [],
            |row| Ok((natural(row, 0)?, row.get::<_, String>(1)?)),
        )
        .optional()?;
    let (last, previous) = last.unwrap_or_else(|| (0, chain::GENESIS.to_owned()));
    let sequence = last + 1;
    let (before, after) = (entry.before.to_string(), entry.after.to_string());
    let hash = chain::hash(&previous, sequence, entry, &before, &after);
    transaction.execute(
        "INSERT INTO audit VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            integer(sequence)?,
            entry.at,
            entry.actor,
            entry.action,
            entry.service,
            entry.reason,
            before,
            after,
            hash
        ],
    )?;
    Ok((sequence, hash))
}

fn put(transaction: &Transaction<'_>, service: &ServiceRecord) -> rusqlite::Result<()> {
    let state =
        serde_json::to_string(service).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let sql = "INSERT INTO services VALUES (?1, ?2, ?3)
               ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, state = excluded.state";
    transaction.execute(sql, params![service.name, integer(service.revision)?, state])?;
    Ok(())
}

fn stored(connection: &Connection, name: &str) -> rusqlite::Result<Option<ServiceRecord>> {
    connection
        .query_row(
            "SELECT name, revision, state FROM services WHERE name = ?1",
            [name],
            service,
        )
        .optional()
}

fn services(connection: &Connection) -> rusqlite::Result<Vec<ServiceRecord>> {
    let mut statement = connection.prepare("SELECT name, revision, state FROM services ORDER BY name")?;
    statement.query_map([], service)?.collect()
}

fn service(row: &Row<'_>) -> rusqlite::Result<ServiceRecord> {
    let record: ServiceRecord = serde_json::from_str(&row.get::<_, String>(2)?).map_err(|error| corrupt(2, error))?;
    Ok(ServiceRecord {
        name: row.get(0)?,
        revision: natural(row, 1)?,
        ..record
    })
}

fn page(connection: &Connection, before: Option<u64>, limit: usize) -> rusqlite::Result<Vec<Entry>> {
    let before = before.map_or(Ok(i64::MAX), integer)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare(
        r#"SELECT sequence, at, actor, action, service, reason, "before", "after", hash
           FROM audit WHERE sequence < ?1 ORDER BY sequence DESC LIMIT ?2"#,
    )?;
    statement.query_map(params![before, limit], entry)?.collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let json = |at| serde_json::from_str(&row.get::<_, String>(at)?).map_err(|error| corrupt(at, error));
    Ok(Entry {
        sequence: natural(row, 0)?,
        entry: NewEntry {
            at: row.get(1)?,
            actor: row.get(2)?,
            action: row.get(3)?,
            service: row.get(4)?,
            reason: row.get(5)?,
            before: json(6)?,
            after: json(7)?,
        },
        hash: row.get(8)?,
    })
}

/// The directory, and its entry in its parent, on disk.
fn make(directory: &Path) -> io::Result<()> {
    if !directory.is_dir() {
        fs::create_dir_all(directory)?;
        if let Some(parent) = directory.canonicalize()?.parent() {
            sync(parent)?;
        }
    }
    Ok(())
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn connect(directory: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(directory.join(FILE))?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, directory: &Path) -> Result<(), StoreError> {
    let run = |connection: &mut Connection| -> rusqlite::Result<usize> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: usize = transaction.pragma_query_value(None, "user_version", |row| {
            row.get::<_, u32>(0)
                .map(|version| usize::try_from(version).unwrap_or(usize::MAX))
        })?;
        for (from, step) in MIGRATIONS.iter().enumerate().skip(version) {
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", i64::try_from(from + 1).unwrap_or(i64::MAX))?;
        }
        transaction.commit()?;
        Ok(version)
    };
    match run(connection) {
        Ok(version) if version > MIGRATIONS.len() => Err(StoreError::Open {
            path: directory.display().to_string(),
            reason: "it was written by a newer version of weighbridge".to_owned(),
            advice: "start that version, or name another directory as store.path".to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(error) => Err(damaged(directory, &error)),
    }
}

/// Looks for damage where it would be believed: in the live state, and at the end of the journal.
fn check(connection: &Connection, directory: &Path) -> Result<(), StoreError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(services)", [], |row| row.get(0))
        .map_err(|error| damaged(directory, &error))?;
    if verdict != "ok" {
        return Err(damaged(directory, &verdict));
    }
    let newest = page(connection, None, CHECKED_AT_START).map_err(|error| damaged(directory, &error))?;
    match unchained(&newest) {
        Some(sequence) => Err(damaged(
            directory,
            &format!("entry {sequence} of the journal was altered"),
        )),
        None => Ok(()),
    }
}

/// The first entry, from the newest, whose hash does not follow from its predecessor's.
fn unchained(newest_first: &[Entry]) -> Option<u64> {
    let follows = |entry: &Entry, previous: &str| {
        let (before, after) = (entry.entry.before.to_string(), entry.entry.after.to_string());
        chain::hash(previous, entry.sequence, &entry.entry, &before, &after) == entry.hash
    };
    let pairs = newest_first.iter().zip(newest_first.iter().skip(1));
    let broken = pairs
        .filter(|(entry, previous)| !follows(entry, &previous.hash))
        .map(|(entry, _)| entry.sequence)
        .next();
    let first = newest_first.last().filter(|entry| entry.sequence == 1);
    broken.or_else(|| {
        first
            .filter(|entry| !follows(entry, chain::GENESIS))
            .map(|entry| entry.sequence)
    })
}

fn integer(value: u64) -> rusqlite::Result<i64> {
    i64::try_from(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn natural(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    u64::try_from(row.get::<_, i64>(at)?).map_err(|error| corrupt(at, error))
}

fn corrupt(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}

fn failed(what: &str, error: &rusqlite::Error) -> StoreError {
    StoreError::Write(format!("cannot {what}: {error}"))
}

fn unusable(directory: &Path, reason: &impl ToString, advice: &str) -> StoreError {
    StoreError::Open {
        path: directory.display().to_string(),
        reason: reason.to_string(),
        advice: advice.to_owned(),
    }
}

fn damaged(directory: &Path, reason: &impl ToString) -> StoreError {
    let advice = format!(
        "look at {FILE} with `sqlite3`, restore a copy of the directory, or move it away to start from the weights in \
         the configuration"
    );
    unusable(directory, reason, &advice)
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
        let doubt = prepare(&transaction, change).unwrap();
        transaction.commit().unwrap();
        self.give_up(Some(doubt), None);
    }
}
