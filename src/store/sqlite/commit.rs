//! Writes changes, and settles those that the disk did not confirm.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::rows::{append, integer, put, stored};
use super::{answers, releases};
use crate::store::{ChangeRecord, Committed, NewJournalEntry, ReleaseRecord, ServiceRecord};

/// A change whose write was reported as failed and which may still be on disk.
#[derive(Debug)]
pub(super) struct UncertainCommit {
    pub(super) sequence: u64,
    hash: String,
    pub(super) change: ChangeRecord,
    /// The records that it replaced; for a service that had none, the change's own record, without
    /// an entry.
    replaced: Vec<ServiceRecord>,
    /// The releases that it wrote, each with the row that it replaced, if any.
    releases: Vec<(String, Option<ReleaseRecord>)>,
}

/// Writes a change as one transaction. `uncertain` is set as soon as a failure would leave the
/// state on disk unknown; the caller clears it once nothing can fail any more.
pub(super) fn write(
    connection: &mut Connection,
    change: &ChangeRecord,
    uncertain: &mut Option<UncertainCommit>,
) -> rusqlite::Result<Committed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let prepared = prepare(&transaction, change)?;
    let sequence = prepared.sequence;
    *uncertain = Some(prepared);
    transaction.commit()?;
    let durable = true;
    Ok(Committed { sequence, durable })
}

/// Everything of a change but its commit; returns what is needed to settle a failed commit.
pub(super) fn prepare(
    transaction: &Transaction<'_>,
    change: &ChangeRecord,
) -> rusqlite::Result<UncertainCommit> {
    let (sequence, hash) = append(transaction, &change.entry)?;
    let mut replaced = Vec::new();
    for service in &change.services {
        replaced.extend(stored(transaction, &service.name)?);
        put(transaction, service)?;
    }
    if let Some(answer) = &change.answer {
        answers::put(transaction, answer)?;
    }
    let mut releases = Vec::new();
    for release in &change.releases {
        releases.push((
            release.id.clone(),
            releases::stored(transaction, &release.id)?,
        ));
        releases::put(transaction, release)?;
    }
    Ok(UncertainCommit {
        sequence,
        hash,
        change: change.clone(),
        replaced,
        releases,
    })
}

/// Makes sure that the write-ahead log is on disk, by checkpointing it into the database and
/// truncating it.
///
/// A failed fsync is not repeated as if the next one could cover for it: the kernel may have
/// dropped those pages of the log, and everything appended after them would be lost too. A
/// checkpoint writes them again.
pub(super) fn confirm(connection: &Connection) -> rusqlite::Result<()> {
    let busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(code, None));
    }
    Ok(())
}

/// Checks whether a change reported as failed is on disk. Unless it is in effect, it is then
/// undone, once, with a journal entry.
pub(super) fn settle(
    connection: &mut Connection,
    uncertain: &UncertainCommit,
) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let sequence = integer(uncertain.sequence)?;
    let is_there: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM audit WHERE sequence = ?1 AND hash = ?2)",
        params![sequence, uncertain.hash],
        |row| row.get(0),
    )?;
    if !is_there || uncertain.change.in_effect {
        return Ok(is_there);
    }
    let reason = format!("entry {sequence} was refused: its write could not be confirmed");
    let is_undone: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM audit WHERE sequence > ?1 AND action = 'undo' AND reason = \
         ?2)",
        params![sequence, reason],
        |row| row.get(0),
    )?;
    if is_undone {
        return Ok(true);
    }
    undo(&transaction, uncertain, reason)?;
    transaction.commit()?;
    Ok(true)
}

/// Restores what a refused change replaced. A release that began with it is deleted, or a restart
/// would resume it.
fn undo(
    transaction: &Transaction<'_>,
    uncertain: &UncertainCommit,
    reason: String,
) -> rusqlite::Result<()> {
    let refused = &uncertain.change.entry;
    let entry = NewJournalEntry {
        actor: "store".to_owned(),
        action: "undo".to_owned(),
        reason: Some(reason),
        before: refused.after.clone(),
        after: refused.before.clone(),
        ..refused.clone()
    };
    append(transaction, &entry)?;
    if let Some(answer) = &uncertain.change.answer {
        answers::remove(transaction, &answer.key)?;
    }
    for service in &uncertain.replaced {
        put(transaction, service)?;
    }
    for (id, before) in &uncertain.releases {
        match before {
            Some(before) => releases::put(transaction, before)?,
            None => releases::remove(transaction, id)?,
        }
    }
    Ok(())
}
