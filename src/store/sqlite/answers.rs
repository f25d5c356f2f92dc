//! Answers to writes that may be repeated.

use rusqlite::{Connection, TransactionBehavior, params};

use super::rows::corrupt;
use crate::model::{IdempotencyKey, KeptAnswer};

/// For so long an answer is kept.
const KEPT_MS: i64 = 24 * 60 * 60 * 1000;
/// Answers that are kept; the oldest give way.
const ANSWERS_MAX: i64 = 1000;
/// And all of them together have at most so many bytes.
const BYTES_MAX: i64 = 16 << 20;

/// Keeps, or replaces, an answer, in the caller's transaction. What is too old or too much goes.
pub(super) fn put(connection: &Connection, answer: &KeptAnswer) -> rusqlite::Result<()> {
    let told = serde_json::to_string(answer)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let KeptAnswer { key, at_ms, .. } = answer;
    let bytes = i64::try_from(told.len()).unwrap_or(i64::MAX);
    connection.execute(
        "INSERT INTO answers (caller, key, at, bytes, answer) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (caller, key) DO UPDATE SET at = excluded.at, bytes = excluded.bytes, answer \
         = excluded.answer",
        params![key.caller, key.key, at_ms, bytes, told],
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

/// Forgets the answer to a write that was not made after all.
pub(super) fn remove(connection: &Connection, key: &IdempotencyKey) -> rusqlite::Result<()> {
    let sql = "DELETE FROM answers WHERE caller = ?1 AND key = ?2";
    connection
        .execute(sql, params![key.caller, key.key])
        .map(drop)
}

/// The same in a transaction of its own.
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

/// All, the oldest first.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<KeptAnswer>> {
    let mut statement = connection.prepare("SELECT answer FROM answers ORDER BY place")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.map(|answer| serde_json::from_str(&answer?).map_err(|error| corrupt(0, error)))
        .collect()
}
