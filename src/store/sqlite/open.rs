//! Creates, migrates and checks the database.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::verify::verify;
use crate::store::StoreError;
use crate::store::files::DATABASE as FILE;

/// How long to wait for another process on the same database: an operator's `sqlite3`, or `audit
/// verify`.
const BUSY: Duration = Duration::from_secs(1);

/// Entries at the end of the journal whose hashes are checked at the start. All would take too long
/// for a restart.
const CHECKED_AT_START: u64 = 256;

/// Each migrates the schema from its index to the next version, which `user_version` holds.
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
    CREATE TABLE settings (
        name  TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
"#,
    // The number of journal entries when a row was written, and the last entry's hash. Older rows
    // have neither.
    r#"
    CREATE TABLE audit_head (
        one     INTEGER PRIMARY KEY CHECK (one = 1),
        entries INTEGER NOT NULL,
        hash    TEXT NOT NULL
    ) STRICT;
    INSERT INTO audit_head SELECT 1, sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1;
    ALTER TABLE releases ADD COLUMN audit_entries INTEGER;
    ALTER TABLE releases ADD COLUMN audit_hash TEXT;
    ALTER TABLE checkpoints ADD COLUMN audit_entries INTEGER;
    ALTER TABLE checkpoints ADD COLUMN audit_hash TEXT;
    CREATE TABLE answers (
        place  INTEGER PRIMARY KEY,
        caller TEXT NOT NULL,
        key    TEXT NOT NULL,
        at     INTEGER NOT NULL,
        bytes  INTEGER NOT NULL,
        answer TEXT NOT NULL CHECK (json_valid(answer)),
        UNIQUE (caller, key)
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

/// The current version of the schema.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// Creates the directory and syncs it and its parent.
pub(super) fn make(directory: &Path) -> io::Result<()> {
    if !directory.is_dir() {
        fs::create_dir_all(directory)?;
        if let Some(parent) = directory.canonicalize()?.parent() {
            sync(parent)?;
        }
    }
    Ok(())
}

/// Restricts the database's files to this user, since they hold a secret. SQLite gives the files
/// beside the database the same mode.
pub(super) fn restrict(directory: &Path) -> io::Result<()> {
    const OWNER_ONLY: u32 = 0o600;
    let file = directory.join(FILE);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(OWNER_ONLY)
        .open(&file)?;
    for name in [
        FILE.to_owned(),
        format!("{FILE}-wal"),
        format!("{FILE}-shm"),
    ] {
        let path = directory.join(name);
        let open_to_others =
            fs::metadata(&path).is_ok_and(|known| known.permissions().mode() & 0o077 != 0);
        if open_to_others
            && let Err(error) = fs::set_permissions(&path, Permissions::from_mode(OWNER_ONLY))
        {
            tracing::warn!(
                file = %path.display(),
                %error,
                "other users can read the store, and only its owner can change that"
            );
        }
    }
    Ok(())
}

pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A connection; with `make`, to a database that may not exist yet.
pub(super) fn connect(directory: &Path, make: bool) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::default();
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, make);
    let connection = Connection::open_with_flags(directory.join(FILE), flags)?;
    connection.busy_timeout(BUSY)?;
    connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The first read creates the log, which must exist before its identity is noted.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
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
            transaction.pragma_update(
                None,
                "user_version",
                i64::try_from(from + 1).unwrap_or(i64::MAX),
            )?;
        }
        transaction.commit()?;
        Ok(version)
    };
    match run(connection) {
        Ok(version) if version > MIGRATIONS.len() => Err(StoreError::Open {
            path: directory.display().to_string(),
            reason: "it was written by a newer version of weighbridge".to_owned(),
            advice: "run that version, or set store.path to another directory".to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(error) => Err(damaged(directory, &error)),
    }
}

/// Checks the live state for damage. A broken journal is only reported: it is no reason not to
/// serve.
pub(super) fn check(connection: &Connection, directory: &Path) -> Result<(), StoreError> {
    for table in ["services", "releases", "checkpoints"] {
        let verdict: String = connection
            .query_row(&format!("PRAGMA quick_check({table})"), [], |row| {
                row.get(0)
            })
            .map_err(|error| damaged(directory, &error))?;
        if verdict != "ok" {
            return Err(damaged(directory, &verdict));
        }
    }
    let verdict =
        verify(connection, Some(CHECKED_AT_START)).map_err(|error| damaged(directory, &error))?;
    if let Some(finding) = verdict.finding {
        // The live state matters more than its history.
        tracing::warn!(
            store = %directory.display(),
            entry = finding.sequence,
            detail = finding.detail,
            "the journal is not whole; `weighbridge audit verify` checks all entries"
        );
    }
    Ok(())
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
        "inspect {FILE} with `sqlite3`, restore the directory from a backup, or move it away to \
         start from the weights in the configuration"
    );
    unusable(directory, reason, &advice)
}
