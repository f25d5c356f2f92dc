//! Parts of checkpoints, so that a checkpoint writes only what has changed.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::rows::corrupt;
use crate::store::ReleasePart;

/// Parts of ended releases that are removed at once: a release may leave a million, and rollbacks
/// wait behind this.
const REMOVED_AT_ONCE: i64 = 10_000;

/// Writes parts of a release in progress, and removes some that ended releases left behind.
pub(super) fn put(
    connection: &mut Connection,
    id: &str,
    parts: &[ReleasePart],
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    remove_ended(&transaction)?;
    let sql = "SELECT EXISTS (SELECT 1 FROM releases WHERE id = ?1 AND ended = 0)";
    if transaction.query_row(sql, [id], |row| row.get(0))? {
        let mut put = transaction.prepare_cached(
            "INSERT OR REPLACE INTO checkpoint_parts (id, kind, number, state) VALUES (?1, ?2, \
             ?3, ?4)",
        )?;
        let mut remove = transaction.prepare_cached(
            "DELETE FROM checkpoint_parts WHERE id = ?1 AND kind = ?2 AND number = ?3",
        )?;
        for part in parts {
            match &part.state {
                Some(state) => put.execute(params![id, part.kind, part.number, state])?,
                None => remove.execute(params![id, part.kind, part.number])?,
            };
        }
    }
    transaction.commit()
}

/// The parts of the releases in progress.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Vec<ReleasePart>>> {
    let sql = "SELECT id, kind, number, state FROM checkpoint_parts
               WHERE id IN (SELECT id FROM releases WHERE ended = 0) ORDER BY id, kind, number";
    let mut statement = connection.prepare(sql)?;
    let mut all: BTreeMap<String, Vec<ReleasePart>> = BTreeMap::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        all.entry(row.get(0)?).or_default().push(part(row)?);
    }
    Ok(all)
}

fn part(row: &Row<'_>) -> rusqlite::Result<ReleasePart> {
    let number: i64 = row.get(2)?;
    Ok(ReleasePart {
        kind: row.get(1)?,
        number: u32::try_from(number).map_err(|error| corrupt(2, error))?,
        state: Some(row.get(3)?),
    })
}

/// Goes from release to release, since each may have a million parts.
fn remove_ended(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut before = String::new();
    let next = "SELECT id FROM checkpoint_parts WHERE id > ?1 ORDER BY id LIMIT 1";
    let under_way = "SELECT EXISTS (SELECT 1 FROM releases WHERE id = ?1 AND ended = 0)";
    while let Some(id) = transaction
        .query_row(next, [&before], |row| row.get::<_, String>(0))
        .optional()?
    {
        if !transaction.query_row(under_way, [&id], |row| row.get(0))? {
            transaction.execute(
                "DELETE FROM checkpoint_parts WHERE id = ?1 AND (kind, number) IN
                 (SELECT kind, number FROM checkpoint_parts WHERE id = ?1 LIMIT ?2)",
                params![id, REMOVED_AT_ONCE],
            )?;
        }
        before = id;
    }
    Ok(())
}
