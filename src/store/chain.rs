//! The hash chain that makes changes of the journal's past detectable: to alter an entry one must
//! alter all later ones, and the last hash is known elsewhere: in the head record, in the rows of
//! releases and checkpoints, and in every journal page that someone has read.
//!
//! The chain has no secret. If somebody with write access alters an entry, all later ones and every
//! row that has their hashes, only a hash kept outside of the database reveals it.

use sha2::{Digest, Sha256};

use super::{JournalEntry, NewJournalEntry};
use crate::model::api::{AuditFinding, AuditFindingKind, AuditVerdict};
use crate::model::hex;

/// The previous hash of the first entry.
pub(super) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The hashed fields of an entry; `before` and `after` are the stored texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) at: &'a str,
    pub(super) actor: &'a str,
    pub(super) action: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    pub(super) before: &'a str,
    pub(super) after: &'a str,
}

impl<'a> Text<'a> {
    pub(super) fn of(entry: &'a NewJournalEntry, before: &'a str, after: &'a str) -> Text<'a> {
        Text {
            at: &entry.at,
            actor: &entry.actor,
            action: &entry.action,
            service: entry.service.as_deref(),
            reason: entry.reason.as_deref(),
            before,
            after,
        }
    }
}

/// The hash of an entry: SHA-256 over the previous hash in hexadecimal, a line feed, and the
/// entry's fields as a JSON array.
pub(super) fn hash(previous: &str, sequence: u64, text: &Text<'_>) -> String {
    let Text {
        at,
        actor,
        action,
        service,
        reason,
        before,
        after,
    } = text;
    let fields = serde_json::json!([sequence, at, actor, action, service, reason, before, after]);
    let mut digest = Sha256::new();
    digest.update(previous.as_bytes());
    digest.update(b"\n");
    digest.update(fields.to_string().as_bytes());
    hex::encode(&digest.finalize())
}

/// Verifies that entries follow from each other. Entries missing before the first are not detected.
pub(super) fn verify(entries: &[JournalEntry]) -> AuditVerdict {
    let mut finding = None;
    let mut previous: Option<(u64, &str)> = None;
    for JournalEntry {
        sequence,
        entry,
        hash: stored,
    } in entries
    {
        let before = match previous {
            None if *sequence == 1 => Some(GENESIS),
            None => None,
            Some((last, _)) if last + 1 != *sequence => {
                finding = Some(missing(last + 1, *sequence));
                break;
            }
            Some((_, hash)) => Some(hash),
        };
        let (was, is) = (entry.before.to_string(), entry.after.to_string());
        if before
            .is_some_and(|before| hash(before, *sequence, &Text::of(entry, &was, &is)) != *stored)
        {
            finding = Some(altered(*sequence));
            break;
        }
        previous = Some((*sequence, stored));
    }
    AuditVerdict {
        whole: finding.is_none(),
        entries: entries.len() as u64,
        head: entries.last().map(|entry| entry.hash.clone()),
        finding,
    }
}

pub(super) fn altered(sequence: u64) -> AuditFinding {
    AuditFinding {
        sequence,
        kind: AuditFindingKind::Altered,
        detail: format!(
            "entry {sequence} does not follow from the entry before it: it was altered or replaced"
        ),
    }
}

pub(super) fn missing(sequence: u64, next: u64) -> AuditFinding {
    AuditFinding {
        sequence,
        kind: AuditFindingKind::Missing,
        detail: match next - 1 {
            last if last == sequence => format!("entry {sequence} is missing"),
            last => format!("the entries {sequence} to {last} are missing"),
        },
    }
}
