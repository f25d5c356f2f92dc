//! Stored responses to idempotent writes.

use rusqlite::{Connection, TransactionBehavior, params};

use super::rows::corrupt;
use crate::model::{IdempotencyKey, KeptAnswer};

/// How long a response is kept.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;
/// Responses that are kept; the oldest are removed.
const ANSWERS_MAX: i64 = 1000;
/// The largest total size of all responses in bytes.
const BYTES_MAX: i64 = 16 << 20;

/// Stores or replaces a response in the caller's transaction, and removes those beyond the bounds.
pub(super) fn put(connection: &Connection, answer: &KeptAnswer) -> rusqlite::Result<()> {
    let json = serde_json::to_string(answer)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let KeptAnswer { key, at_ms, .. } = answer;
    let bytes = i64::try_from(json.len()).unwrap_or(i64::MAX);
    connection.execute(
        "INSERT INTO answers (caller, key, at, bytes, answer) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (caller, key) DO UPDATE SET at = excluded.at, bytes = excluded.bytes, answer \
         = excluded.answer",
        params![key.caller, key.key, at_ms, bytes, json],
    )?;
    connection.execute(
        "DELETE FROM answers WHERE at <= ?1 OR place IN
         (SELECT place FROM (SELECT place, row_number() OVER newest AS number, sum(bytes) OVER \
         newest AS total
                             FROM answers WINDOW newest AS (ORDER BY place DESC))
          WHERE number > ?2 OR (total > ?3 AND number > 1))",
        params![at_ms.saturating_sub(KEPT_MS), ANSWERS_MAX, BYTES_MAX],
    )?;
    Ok(())
}

/// Removes the response to a write that was not made.
pub(super) fn remove(connection: &Connection, key: &IdempotencyKey) -> rusqlite::Result<()> {
    let sql = "DELETE FROM answers WHERE caller = ?1 AND key = ?2";
    connection
        .execute(sql, params![key.caller, key.key])
        .map(drop)
}

/// The same in its own transaction.
pub(super) fn keep(
    connection: &mut Connection,
    key: &IdempotencyKey,
    answer: Option<&KeptAnswer>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match answer {
        Some(answer) => put(&transaction, answer)?,
        None => remove(&transaction, key)?,
    }
    transaction.commit()
}

/// All responses, oldest first.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<KeptAnswer>> {
    let mut statement = connection.prepare("SELECT answer FROM answers ORDER BY place")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.map(|answer| serde_json::from_str(&answer?).map_err(|error| corrupt(0, error)))
        .collect()
}
