//! The write of a change, and what is made of one that the disk did not confirm.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::rows::{append, integer, put, stored};
use super::{answers, releases};
use crate::store::{ChangeRecord, Committed, NewJournalEntry, ReleaseRecord, ServiceRecord};

/// A change whose write was reported as failed, and which may be on disk all the same: what a disk
/// refused to confirm it may have written.
#[derive(Debug)]
pub(super) struct UncertainCommit {
    pub(super) sequence: u64,
    hash: String,
    pub(super) change: ChangeRecord,
    /// The records that it replaced; a service that had none keeps the change's record, but no
    /// entry speaks for it.
    replaced: Vec<ServiceRecord>,
    /// The releases that it wrote, each with what it replaced, if anything.
    releases: Vec<(String, Option<ReleaseRecord>)>,
}

/// One change, as one transaction. `doubt` is set from the moment on which a failure leaves it open
/// what is on disk; it is for the caller to drop once nothing can fail any more.
pub(super) fn write(
    connection: &mut Connection,
    change: &ChangeRecord,
    doubt: &mut Option<UncertainCommit>,
) -> rusqlite::Result<Committed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let prepared = prepare(&transaction, change)?;
    let sequence = prepared.sequence;
    *doubt = Some(prepared);
    transaction.commit()?;
    let durable = true;
    Ok(Committed { sequence, durable })
}

/// Everything of a change but its commit; gives what is to be known if that fails.
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

/// Makes sure that everything in the write-ahead log is on disk, by writing it back and emptying
/// the log.
///
/// A failed fsync is not repeated as if the next one could cover for it: the kernel may have
/// dropped those pages of the log, and all that is appended after them would be lost with them.
/// Written back, they are written anew.
pub(super) fn confirm(connection: &Connection) -> rusqlite::Result<()> {
    let busy: bool =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(code, None));
    }
    Ok(())
}

/// Whether a change that was reported as failed is on disk nevertheless. Unless it is in effect, it
/// is then undone, once, and the journal says so.
pub(super) fn settle(
    connection: &mut Connection,
    doubt: &UncertainCommit,
) -> rusqlite::Result<bool> {
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
        "SELECT EXISTS (SELECT 1 FROM audit WHERE sequence > ?1 AND action = 'undo' AND reason = \
         ?2)",
        params![sequence, reason],
        |row| row.get(0),
    )?;
    if is_undone {
        return Ok(true);
    }
    undo(&transaction, doubt, reason)?;
    transaction.commit()?;
    Ok(true)
}

/// Puts back what a refused change replaced. A release that began with it goes, or a restart would
/// carry out what was refused.
fn undo(
    transaction: &Transaction<'_>,
    doubt: &UncertainCommit,
    reason: String,
) -> rusqlite::Result<()> {
    let refused = &doubt.change.entry;
    let entry = NewJournalEntry {
        actor: "store".to_owned(),
        action: "undo".to_owned(),
        reason: Some(reason),
        before: refused.after.clone(),
        after: refused.before.clone(),
        ..refused.clone()
    };
    append(transaction, &entry)?;
    if let Some(answer) = &doubt.change.answer {
        answers::remove(transaction, &answer.key)?;
    }
    for service in &doubt.replaced {
        put(transaction, service)?;
    }
    for (id, before) in &doubt.releases {
        match before {
            Some(before) => releases::put(transaction, before)?,
            None => releases::remove(transaction, id)?,
        }
    }
    Ok(())
}
