//! Making, bringing up to date and checking the database.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::rows::page;
use super::{FILE, StoreError};
use crate::store::{Entry, chain};

/// How long to wait for another process on the same database: an upgrade's predecessor, or an operator's `sqlite3`.
const BUSY: Duration = Duration::from_secs(1);

/// Entries at the end of the journal whose hashes are checked at the start. All would take longer than a restart may.
const CHECKED_AT_START: usize = 256;

/// Each brings the schema from its index to the next version, which `user_version` holds.
const MIGRATIONS: &[&str] = &[
    r#"
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
"#,
    r#"
    CREATE TABLE releases (
        id      TEXT PRIMARY KEY,
        service TEXT NOT NULL,
        number  INTEGER NOT NULL,
        ended   INTEGER NOT NULL CHECK (ended IN (0, 1)),
        state   TEXT NOT NULL CHECK (json_valid(state))
    ) STRICT;
    CREATE INDEX releases_by_service ON releases (service, number);
    CREATE INDEX releases_under_way ON releases (service, number) WHERE ended = 0;
    CREATE TABLE checkpoints (
        id    TEXT PRIMARY KEY,
        state TEXT NOT NULL CHECK (json_valid(state))
    ) STRICT;
    CREATE TABLE evidence (
        id     TEXT PRIMARY KEY,
        bundle TEXT NOT NULL CHECK (json_valid(bundle))
    ) STRICT;
"#,
    r#"
    CREATE TABLE checkpoint_parts (
        id     TEXT NOT NULL,
        kind   INTEGER NOT NULL,
        number INTEGER NOT NULL,
        state  BLOB NOT NULL,
        PRIMARY KEY (id, kind, number)
    ) STRICT, WITHOUT ROWID;
"#,
];

/// The directory, and its entry in its parent, on disk.
pub(super) fn make(directory: &Path) -> io::Result<()> {
    if !directory.is_dir() {
        fs::create_dir_all(directory)?;
        if let Some(parent) = directory.canonicalize()?.parent() {
            sync(parent)?;
        }
    }
    Ok(())
}

pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn connect(directory: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(directory.join(FILE))?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

pub(super) fn migrate(connection: &mut Connection, directory: &Path) -> Result<(), StoreError> {
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
pub(super) fn check(connection: &Connection, directory: &Path) -> Result<(), StoreError> {
    for table in ["services", "releases", "checkpoints"] {
        let verdict: String = connection
            .query_row(&format!("PRAGMA quick_check({table})"), [], |row| row.get(0))
            .map_err(|error| damaged(directory, &error))?;
        if verdict != "ok" {
            return Err(damaged(directory, &verdict));
        }
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

pub(super) fn unusable(directory: &Path, reason: &impl ToString, advice: &str) -> StoreError {
    StoreError::Open {
        path: directory.display().to_string(),
        reason: reason.to_string(),
        advice: advice.to_owned(),
    }
}

pub(super) fn damaged(directory: &Path, reason: &impl ToString) -> StoreError {
    let advice = format!(
        "look at {FILE} with `sqlite3`, restore a copy of the directory, or move it away to start from the weights in \
         the configuration"
    );
    unusable(directory, reason, &advice)
}
