//! The audit journal in its API form.

use crate::model::api;
use crate::store::JournalEntry;

/// A page of `limit` entries. One entry more is read to find out whether another page follows.
pub(super) fn page(mut entries: Vec<JournalEntry>, limit: usize) -> api::AuditPage {
    let more = entries.len() > limit;
    entries.truncate(limit);
    api::AuditPage {
        next: entries.last().filter(|_| more).map(|entry| entry.sequence),
        entries: entries.into_iter().map(entry).collect(),
    }
}

fn entry(stored: JournalEntry) -> api::AuditEntry {
    let JournalEntry {
        sequence,
        entry,
        hash,
    } = stored;
    api::AuditEntry {
        sequence,
        at: entry.at,
        actor: entry.actor,
        action: entry.action,
        service: entry.service,
        reason: entry.reason,
        before: entry.before,
        after: entry.after,
        hash,
    }
}
