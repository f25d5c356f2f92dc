//! Verifies the journal.
//!
//! Each entry must follow from the one before it, beginning with 1, and have the hash recorded for
//! it elsewhere: as the head of the journal, and in the rows of releases and checkpoints. The texts
//! are compared as they are stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::open::{VERSION, unusable};
use super::rows::integer;
use crate::model::api::{AuditFinding, AuditFindingKind, AuditVerdict};
use crate::store::StoreError;
use crate::store::chain::{self, Text, altered, missing};
use crate::store::files::{DATABASE as FILE, LOG};

/// Entries read at once, so that no reader blocks a checkpoint of the write-ahead log for long.
const PAGE: u64 = 1000;

/// The schema version that introduced recorded heads.
const RECORDS_HEADS: i64 = 4;

/// Recorded heads: number of entries to hash and the name of the row that has it.
type Heads = BTreeMap<u64, Vec<(String, String)>>;

/// The extent of the journal, read in one transaction.
struct Extent {
    /// Number of entries.
    entries: u64,
    /// Sequence number and hash of the last entry.
    last: Option<(i64, String)>,
    heads: Heads,
    /// The recorded number of the last entry, in versions that record it.
    recorded: Option<Option<u64>>,
}

/// Verifies the journal of the database at `path`, or in the directory `path`, which a proxy may be
/// using.
pub(in crate::store) fn verify_at(path: &Path) -> Result<AuditVerdict, StoreError> {
    let file = if path.is_dir() {
        path.join(FILE)
    } else {
        path.to_owned()
    };
    if !file.is_file() {
        return Err(unusable(
            path,
            &format!("there is no {FILE}"),
            "give the directory that is set as store.path",
        ));
    }
    let read_error = |error: rusqlite::Error| {
        StoreError::Read(format!("{} cannot be read: {error}", file.display()))
    };
    let connection = read_only(&file).map_err(read_error)?;
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(read_error)?;
    if version == 0 || usize::try_from(version).is_ok_and(|version| version > VERSION) {
        let reason = if version == 0 {
            "it is not a weighbridge database"
        } else {
            "it was written by a newer version of weighbridge"
        };
        return Err(unusable(
            path,
            &reason,
            "verify it with the version that wrote it",
        ));
    }
    verify(&connection, None).map_err(read_error)
}

/// A read-only connection. Beside a proxy it takes part in SQLite's locks; on a read-only medium, a
/// database without a log is read as it is.
fn read_only(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let read = |connection: Connection| {
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    Connection::open_with_flags(file, flags)
        .and_then(read)
        .or_else(|error| {
            let log = file.with_file_name(LOG);
            if log.metadata().is_ok_and(|log| log.len() > 0) {
                return Err(error);
            }
            Connection::open_with_flags(immutable(file), flags | OpenFlags::SQLITE_OPEN_URI)
                .and_then(read)
        })
}

fn immutable(file: &Path) -> PathBuf {
    let path = file.to_string_lossy();
    let path = path
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23");
    format!("file:{path}?immutable=1").into()
}

/// Verifies the whole journal, or its newest entries only.
pub(super) fn verify(
    connection: &Connection,
    newest: Option<u64>,
) -> rusqlite::Result<AuditVerdict> {
    let extent = extent(connection)?;
    let last = extent.last.as_ref().map_or(0, |(last, _)| *last);
    let mut walk = Walk::new(connection, &extent.heads, last, newest)?;
    let found = match walk.all(connection, last)? {
        None => find_wrong_end(&extent, last),
        found => found,
    };
    let is_counted = found.is_some() || i64::try_from(extent.entries) == Ok(last);
    let finding = if is_counted {
        found
    } else {
        first_missing(connection)?
    };
    Ok(AuditVerdict {
        whole: finding.is_none(),
        entries: extent.entries,
        head: extent.last.map(|(_, hash)| hash),
        finding,
    })
}

/// The first missing sequence number.
fn first_missing(connection: &Connection) -> rusqlite::Result<Option<AuditFinding>> {
    let sql = "SELECT sequence, before FROM
               (SELECT sequence, lag(sequence, 1, 0) OVER (ORDER BY sequence) AS before FROM audit)
               WHERE sequence != before + 1 ORDER BY sequence LIMIT 1";
    let gap = connection.query_row(sql, [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    });
    Ok(gap
        .optional()?
        .map(|(next, before)| match u64::try_from(next) {
            Ok(next) if next > 0 => missing(before.max(0).unsigned_abs() + 1, next),
            _ => altered(0),
        }))
}

fn extent(connection: &Connection) -> rusqlite::Result<Extent> {
    let transaction = connection.unchecked_transaction()?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let entries: i64 = transaction.query_row("SELECT count(*) FROM audit", [], |row| row.get(0))?;
    let sql = "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1";
    let last = transaction.query_row(sql, [], |row| Ok((row.get(0)?, text(row, 1)?)));
    let last = last.optional()?;
    let (mut heads, mut recorded) = (Heads::new(), None);
    if version >= RECORDS_HEADS {
        for (sql, whose) in [
            (
                "SELECT entries, hash, '' FROM audit_head",
                "the record of the last entry",
            ),
            (
                "SELECT audit_entries, audit_hash, id FROM releases",
                "the release ",
            ),
            (
                "SELECT audit_entries, audit_hash, id FROM checkpoints",
                "the checkpoint of ",
            ),
        ] {
            let mut statement = transaction.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                // Rows from before heads were recorded have none.
                if let Some(entries) = row.get::<_, Option<i64>>(0)? {
                    let place = heads.entry(entries.max(0).unsigned_abs()).or_default();
                    place.push((text(row, 1)?, format!("{whose}{}", text(row, 2)?)));
                }
            }
        }
        let sql = "SELECT entries FROM audit_head";
        let head: Option<i64> = transaction
            .query_row(sql, [], |row| row.get(0))
            .optional()?;
        recorded = Some(head.map(|head| head.max(0).unsigned_abs()));
    }
    transaction.finish()?;
    Ok(Extent {
        entries: entries.unsigned_abs(),
        last,
        heads,
        recorded,
    })
}

/// The finding if the end of the journal is missing, or has entries too many.
fn find_wrong_end(extent: &Extent, last: i64) -> Option<AuditFinding> {
    let last = last.max(0).unsigned_abs();
    if let Some((known, whose)) = extent.heads.range(last + 1..).next_back()
        && let Some((_, whose)) = whose.first()
    {
        let cut = missing(last + 1, known + 1);
        let detail = format!(
            "{}: the journal ends with entry {last}, but {whose} records entry {known}",
            cut.detail
        );
        return Some(AuditFinding { detail, ..cut });
    }
    let (first, detail) = match extent.recorded {
        Some(Some(recorded)) if recorded < last => (
            recorded + 1,
            format!(
                "entry {} follows entry {recorded}, which is recorded as the last",
                recorded + 1
            ),
        ),
        Some(None) if last > 0 => (last, "the record of the last entry is missing".to_owned()),
        _ => return None,
    };
    Some(AuditFinding {
        sequence: first,
        kind: AuditFindingKind::Unrecorded,
        detail,
    })
}

/// The position in the journal.
struct Walk<'a> {
    heads: &'a Heads,
    /// The previous hash; `None` at a part of the journal whose predecessor is missing.
    previous: Option<String>,
    at: i64,
    /// The last entry that a recorded head confirms.
    known: u64,
}

impl Walk<'_> {
    fn new<'a>(
        connection: &Connection,
        heads: &'a Heads,
        last: i64,
        newest: Option<u64>,
    ) -> rusqlite::Result<Walk<'a>> {
        let newest = newest.and_then(|newest| i64::try_from(newest).ok());
        let skipped = newest
            .map_or(0, |newest| last.saturating_sub(newest))
            .max(0);
        let previous = match skipped {
            0 => Some(chain::GENESIS.to_owned()),
            skipped => connection
                .query_row(
                    "SELECT hash FROM audit WHERE sequence = ?1",
                    [skipped],
                    |row| text(row, 0),
                )
                .optional()?,
        };
        Ok(Walk {
            heads,
            previous,
            at: skipped,
            known: skipped.unsigned_abs(),
        })
    }

    fn all(
        &mut self,
        connection: &Connection,
        last: i64,
    ) -> rusqlite::Result<Option<AuditFinding>> {
        // An entry before the first would be skipped otherwise.
        let begin = if self.at == 0 { i64::MIN } else { self.at };
        let mut statement = connection.prepare(
            r#"SELECT sequence, at, actor, action, service, reason, "before", "after", hash
               FROM audit WHERE sequence > ?1 AND sequence <= ?2 ORDER BY sequence LIMIT ?3"#,
        )?;
        let mut after = begin;
        loop {
            let mut rows = statement.query(params![after, last, integer(PAGE)?])?;
            let mut any = false;
            while let Some(row) = rows.next()? {
                any = true;
                if let Some(finding) = self.step(row)? {
                    return Ok(Some(finding));
                }
                after = self.at;
            }
            if !any {
                return Ok(None);
            }
        }
    }

    fn step(&mut self, row: &Row<'_>) -> rusqlite::Result<Option<AuditFinding>> {
        let (sequence, expected) = (row.get::<_, i64>(0)?, self.at + 1);
        let number = sequence.max(0).unsigned_abs();
        if sequence < expected {
            return Ok(Some(altered(number)));
        }
        if sequence > expected {
            return Ok(Some(missing(expected.unsigned_abs(), number)));
        }
        self.at = sequence;
        let Some((hash, follows)) = self.follows(row, number) else {
            return Ok(Some(altered(number)));
        };
        if !follows {
            return Ok(Some(altered(number)));
        }
        for (recorded, whose) in self.heads.get(&number).into_iter().flatten() {
            if *recorded != hash {
                return Ok(Some(rewritten(number, self.known, whose)));
            }
            self.known = number;
        }
        self.previous = Some(hash);
        Ok(None)
    }

    /// The stored hash of an entry, and whether it matches the content; `None` if it is not text.
    fn follows(&self, row: &Row<'_>, number: u64) -> Option<(String, bool)> {
        let field = |at| row.get_ref(at).ok();
        let some = |at| field(at)?.as_str().ok();
        let maybe = |at| field(at)?.as_str_or_null().ok();
        let text = Text {
            at: some(1)?,
            actor: some(2)?,
            action: some(3)?,
            service: maybe(4)?,
            reason: maybe(5)?,
            before: some(6)?,
            after: some(7)?,
        };
        let stored = some(8)?;
        let previous = self.previous.as_deref();
        let follows =
            previous.is_none_or(|previous| chain::hash(previous, number, &text) == stored);
        Some((stored.to_owned(), follows))
    }
}

fn rewritten(number: u64, known: u64, whose: &str) -> AuditFinding {
    let since = if known + 1 < number {
        format!(
            "; it, or an entry since entry {}, was rewritten, with all hashes after it",
            known + 1
        )
    } else {
        String::new()
    };
    AuditFinding {
        sequence: number,
        kind: AuditFindingKind::Rewritten,
        detail: format!("entry {number} does not have the hash that {whose} records{since}"),
    }
}

/// A text, also if it is damaged.
fn text(row: &Row<'_>, at: usize) -> rusqlite::Result<String> {
    let value = row.get_ref(at)?;
    Ok(value.as_bytes().map_or_else(
        |_| String::new(),
        |bytes| String::from_utf8_lossy(bytes).into_owned(),
    ))
}
