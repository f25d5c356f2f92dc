//! The rows of releases: their states, checkpoints and evidence.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde_json::Value;

use super::rows::{corrupt, integer, natural};
use crate::store::ReleaseRecord;

/// Evidence bundles that are kept; the oldest are removed.
const EVIDENCE_MAX: i64 = 1000;
/// Ended releases per service that are kept; the oldest are removed. At least as many as bundles,
/// so that nearly each bundle has its release: one that a restart abandoned has none.
const ENDED_MAX: i64 = 1000;

/// Writes a row with the current head of the journal, which already includes the change's entry. A
/// replaced row keeps its `rowid`, so that their order is that in which releases began.
pub(super) fn put(transaction: &Transaction<'_>, release: &ReleaseRecord) -> rusqlite::Result<()> {
    let sql = "INSERT INTO releases (id, service, number, ended, state, audit_entries, audit_hash)
               SELECT ?1, ?2, ?3, ?4, ?5, max(entries), hash FROM audit_head WHERE true
               ON CONFLICT (id) DO UPDATE SET service = excluded.service, number = excluded.number,
               ended = excluded.ended, state = excluded.state,
               audit_entries = excluded.audit_entries, audit_hash = excluded.audit_hash";
    let ReleaseRecord { id, service, .. } = release;
    let (number, state) = (integer(release.number)?, release.state.to_string());
    transaction.execute(sql, params![id, service, number, release.ended, state])?;
    Ok(())
}

pub(super) fn remove(transaction: &Transaction<'_>, id: &str) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM releases WHERE id = ?1", [id])?;
    transaction.execute("DELETE FROM checkpoints WHERE id = ?1", [id])?;
    Ok(())
}

pub(super) fn stored(connection: &Connection, id: &str) -> rusqlite::Result<Option<ReleaseRecord>> {
    let sql = "SELECT id, service, number, ended, state FROM releases WHERE id = ?1";
    connection.query_row(sql, [id], release).optional()
}

/// The releases of a service, newest first.
pub(super) fn newest(
    connection: &Connection,
    service: &str,
    limit: usize,
) -> rusqlite::Result<Vec<ReleaseRecord>> {
    let sql = "SELECT id, service, number, ended, state FROM releases WHERE service = ?1 ORDER BY \
               number DESC LIMIT ?2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    connection
        .prepare(sql)?
        .query_map(params![service, limit], release)?
        .collect()
}

/// What a restart needs: the releases in progress, and the last ended one of each service.
pub(super) fn to_resume(connection: &Connection) -> rusqlite::Result<Vec<ReleaseRecord>> {
    let sql = "SELECT id, service, number, ended, state FROM releases AS one
               WHERE ended = 0 OR number =
                     (SELECT max(number) FROM releases AS other WHERE other.service = one.service \
               AND ended = 1)
               ORDER BY service, number";
    connection.prepare(sql)?.query_map([], release)?.collect()
}

/// The checkpoints of the releases in progress. A checkpoint left by an ended release is ignored.
pub(super) fn checkpoints(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Value>> {
    let sql =
        "SELECT id, checkpoints.state FROM checkpoints JOIN releases USING (id) WHERE ended = 0";
    connection
        .prepare(sql)?
        .query_map([], |row| Ok((row.get(0)?, json(row, 1)?)))?
        .collect()
}

/// Replaces the checkpoint of a release in progress; returns false, and writes nothing, for any
/// other.
///
/// Checkpoints of ended releases are removed here, not with the change that ends a release: that
/// change may have to be undone, and the release would lose its past.
pub(super) fn put_checkpoint(
    connection: &mut Connection,
    id: &str,
    state: &Value,
) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(
        "DELETE FROM checkpoints WHERE NOT EXISTS
         (SELECT 1 FROM releases WHERE releases.id = checkpoints.id AND ended = 0)",
        [],
    )?;
    let written = transaction.execute(
        "INSERT OR REPLACE INTO checkpoints (id, state, audit_entries, audit_hash)
         SELECT id, ?2, (SELECT entries FROM audit_head), (SELECT hash FROM audit_head)
         FROM releases WHERE id = ?1 AND ended = 0",
        params![id, state.to_string()],
    )?;
    transaction.commit()?;
    Ok(written > 0)
}

/// Stores the evidence of a release with its row. Rows beyond the bounds are removed here, for the
/// same reason as checkpoints.
pub(super) fn put_evidence(
    connection: &mut Connection,
    release: &ReleaseRecord,
    bundle: &Value,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let ReleaseRecord {
        id, service, state, ..
    } = release;
    transaction.execute(
        "UPDATE releases SET state = ?2, audit_entries = (SELECT entries FROM audit_head),
         audit_hash = (SELECT hash FROM audit_head) WHERE id = ?1 AND ended = 1",
        params![id, state.to_string()],
    )?;
    transaction.execute(
        "INSERT INTO evidence (id, bundle) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET bundle \
         = excluded.bundle",
        params![id, bundle.to_string()],
    )?;
    transaction.execute(
        "DELETE FROM evidence WHERE rowid <= (SELECT rowid FROM evidence ORDER BY rowid DESC \
         LIMIT 1 OFFSET ?1)",
        [EVIDENCE_MAX],
    )?;
    transaction.execute(
        "DELETE FROM releases WHERE service = ?1 AND ended = 1 AND number <=
         (SELECT number FROM releases WHERE service = ?1 AND ended = 1 ORDER BY number DESC LIMIT \
         1 OFFSET ?2)",
        params![service, ENDED_MAX],
    )?;
    transaction.commit()
}

pub(super) fn evidence(connection: &Connection, id: &str) -> rusqlite::Result<Option<Value>> {
    let sql = "SELECT bundle FROM evidence WHERE id = ?1";
    connection
        .query_row(sql, [id], |row| json(row, 0))
        .optional()
}

fn release(row: &Row<'_>) -> rusqlite::Result<ReleaseRecord> {
    Ok(ReleaseRecord {
        id: row.get(0)?,
        service: row.get(1)?,
        number: natural(row, 2)?,
        ended: row.get(3)?,
        state: json(row, 4)?,
    })
}

fn json(row: &Row<'_>, at: usize) -> rusqlite::Result<Value> {
    serde_json::from_str(&row.get::<_, String>(at)?).map_err(|error| corrupt(at, error))
}
