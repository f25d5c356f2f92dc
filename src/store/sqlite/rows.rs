//! The rows of services and of the journal.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::store::chain::{self, Text};
use crate::store::{JournalEntry, NewJournalEntry, ServiceRecord};

pub(super) fn append(
    transaction: &Transaction<'_>,
    entry: &NewJournalEntry,
) -> rusqlite::Result<(u64, String)> {
    let (sequence, previous) = next(transaction)?;
    let (before, after) = (entry.before.to_string(), entry.after.to_string());
    let hash = chain::hash(&previous, sequence, &Text::of(entry, &before, &after));
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
    transaction.execute(
        "INSERT OR REPLACE INTO audit_head VALUES (1, ?1, ?2)",
        params![integer(sequence)?, hash],
    )?;
    Ok((sequence, hash))
}

/// The next sequence number, and the hash that it follows. This is the recorded head, so that
/// entries cut off or added by others since then remain visible as a break in the chain.
fn next(transaction: &Transaction<'_>) -> rusqlite::Result<(u64, String)> {
    let last = "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1";
    let recorded = "SELECT entries, hash FROM audit_head";
    let read = |sql| {
        let row = |row: &Row<'_>| Ok((natural(row, 0)?, row.get::<_, String>(1)?));
        transaction.query_row(sql, [], row).optional()
    };
    Ok(match (read(last)?, read(recorded)?) {
        (Some((last, _)), Some((entries, hash))) => (last.max(entries) + 1, hash),
        (None, Some((entries, hash))) => (entries + 1, hash),
        (Some((last, _)), None) => (last + 1, chain::GENESIS.to_owned()),
        (None, None) => (1, chain::GENESIS.to_owned()),
    })
}

pub(super) fn put(transaction: &Transaction<'_>, service: &ServiceRecord) -> rusqlite::Result<()> {
    let state = serde_json::to_string(service)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let sql = "INSERT INTO services VALUES (?1, ?2, ?3)
               ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, state = \
               excluded.state";
    transaction.execute(
        sql,
        params![service.name, integer(service.revision)?, state],
    )?;
    Ok(())
}

pub(super) fn stored(
    connection: &Connection,
    name: &str,
) -> rusqlite::Result<Option<ServiceRecord>> {
    connection
        .query_row(
            "SELECT name, revision, state FROM services WHERE name = ?1",
            [name],
            service,
        )
        .optional()
}

pub(super) fn services(connection: &Connection) -> rusqlite::Result<Vec<ServiceRecord>> {
    let mut statement =
        connection.prepare("SELECT name, revision, state FROM services ORDER BY name")?;
    statement.query_map([], service)?.collect()
}

fn service(row: &Row<'_>) -> rusqlite::Result<ServiceRecord> {
    let record: ServiceRecord =
        serde_json::from_str(&row.get::<_, String>(2)?).map_err(|error| corrupt(2, error))?;
    Ok(ServiceRecord {
        name: row.get(0)?,
        revision: natural(row, 1)?,
        ..record
    })
}

pub(super) fn page(
    connection: &Connection,
    before: Option<u64>,
    limit: usize,
) -> rusqlite::Result<Vec<JournalEntry>> {
    let before = before.map_or(Ok(i64::MAX), integer)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare(
        r#"SELECT sequence, at, actor, action, service, reason, "before", "after", hash
           FROM audit WHERE sequence < ?1 ORDER BY sequence DESC LIMIT ?2"#,
    )?;
    statement
        .query_map(params![before, limit], entry)?
        .collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<JournalEntry> {
    let json =
        |at| serde_json::from_str(&row.get::<_, String>(at)?).map_err(|error| corrupt(at, error));
    Ok(JournalEntry {
        sequence: natural(row, 0)?,
        entry: NewJournalEntry {
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

pub(super) fn integer(value: u64) -> rusqlite::Result<i64> {
    i64::try_from(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

pub(super) fn natural(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    u64::try_from(row.get::<_, i64>(at)?).map_err(|error| corrupt(at, error))
}

pub(super) fn corrupt(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}
