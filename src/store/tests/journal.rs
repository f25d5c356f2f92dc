//! A journal that somebody with write access has altered.

use rusqlite::Connection;

use super::releases::{release, releasing};
use super::*;
use crate::model::api::AuditFindingKind::{self, Altered, Missing, Unrecorded};
use crate::model::api::AuditVerdict;
use crate::store::chain::{GENESIS, Text, hash};

/// Nine entries; releases record entries 3 and 6, a checkpoint 6.
fn written(directory: &Path) -> Connection {
    let mut database = Sqlite::open(directory).unwrap();
    for sequence in 1..=9_u64 {
        let change = match sequence {
            3 => releasing(sequence, &[release(1, 1, true)]),
            6 => releasing(sequence, &[release(2, 1, false)]),
            _ => change(sequence, 100),
        };
        assert_eq!(database.commit(&change).unwrap().sequence, sequence);
        if sequence == 6 {
            assert!(
                database
                    .checkpoint("shop-2", &serde_json::json!({}))
                    .unwrap()
            );
        }
    }
    drop(database);
    let outside = Connection::open(directory.join("weighbridge.db")).unwrap();
    outside
        .execute_batch(
            "DROP TRIGGER audit_is_never_updated; DROP TRIGGER audit_is_never_deleted; DROP \
             TRIGGER audit_is_appended_to;",
        )
        .unwrap();
    outside
}

fn verdict(directory: &Path) -> AuditVerdict {
    crate::store::verify(directory).unwrap()
}

/// Recomputes the hashes of all entries from `first` on.
fn rehash(outside: &Connection, first: i64) {
    let sql = r#"SELECT at, actor, action, service, reason, "before", "after" FROM audit
                 WHERE sequence = ?1"#;
    let mut previous: String = match first {
        1 => GENESIS.to_owned(),
        _ => outside
            .query_row(
                "SELECT hash FROM audit WHERE sequence = ?1",
                [first - 1],
                |row| row.get(0),
            )
            .unwrap(),
    };
    let mut sequence = first;
    loop {
        let hashed = outside.query_row(sql, [sequence], |row| {
            let text = |at| row.get::<_, String>(at);
            let maybe = |at| row.get::<_, Option<String>>(at);
            let (at, actor, action) = (text(0)?, text(1)?, text(2)?);
            let (service, reason) = (maybe(3)?, maybe(4)?);
            let (before, after) = (text(5)?, text(6)?);
            let text = Text {
                at: &at,
                actor: &actor,
                action: &action,
                service: service.as_deref(),
                reason: reason.as_deref(),
                before: &before,
                after: &after,
            };
            Ok(hash(&previous, sequence.unsigned_abs(), &text))
        });
        let Ok(hashed) = hashed else { return };
        outside
            .execute(
                "UPDATE audit SET hash = ?2 WHERE sequence = ?1",
                (sequence, &hashed),
            )
            .unwrap();
        previous = hashed;
        sequence += 1;
    }
}

/// An alteration of the journal, and the expected finding.
type Case = (&'static str, u64, AuditFindingKind);

const CASES: &[Case] = &[
    (
        "UPDATE audit SET actor = 'mallory' WHERE sequence = 4",
        4,
        Altered,
    ),
    (
        "UPDATE audit SET reason = '' WHERE sequence = 1",
        1,
        Altered,
    ),
    (
        "UPDATE audit SET service = NULL WHERE sequence = 9",
        9,
        Altered,
    ),
    // The same JSON, formatted differently.
    (
        r#"UPDATE audit SET "after" = ' ' || "after" WHERE sequence = 2"#,
        2,
        Altered,
    ),
    (
        "UPDATE audit SET at = CAST(x'ff' AS TEXT) WHERE sequence = 5",
        5,
        Altered,
    ),
    (
        "UPDATE audit SET hash = upper(hash) WHERE sequence = 9",
        9,
        Altered,
    ),
    ("DELETE FROM audit WHERE sequence = 1", 1, Missing),
    ("DELETE FROM audit WHERE sequence IN (4, 5)", 4, Missing),
    ("DELETE FROM audit WHERE sequence = 9", 9, Missing),
    ("DELETE FROM audit WHERE sequence > 7", 8, Missing),
    ("DELETE FROM audit", 1, Missing),
    ("DELETE FROM audit; DELETE FROM audit_head", 1, Missing),
    (
        "DELETE FROM audit WHERE sequence = 4; UPDATE audit SET sequence = sequence - 1 WHERE \
         sequence > 4",
        4,
        Altered,
    ),
    (
        "UPDATE audit SET sequence = -2 WHERE sequence = 5; UPDATE audit SET sequence = 5 WHERE \
         sequence = 6;
             UPDATE audit SET sequence = 6 WHERE sequence = -2",
        5,
        Altered,
    ),
    (
        "UPDATE audit SET sequence = -5 WHERE sequence = 5",
        0,
        Altered,
    ),
    (
        "INSERT INTO audit SELECT 10, at, actor, action, service, reason, before, after, hash \
         FROM audit WHERE sequence = 9",
        10,
        Altered,
    ),
    (
        "UPDATE audit_head SET entries = 8, hash = (SELECT hash FROM audit WHERE sequence = 8)",
        9,
        Unrecorded,
    ),
    ("DELETE FROM audit_head", 9, Unrecorded),
    // The head record is adapted, but not the release and its checkpoint.
    (
        "DELETE FROM audit WHERE sequence > 4;
             UPDATE audit_head SET entries = 4, hash = (SELECT hash FROM audit WHERE sequence = 4)",
        5,
        Missing,
    ),
];

#[test]
fn every_altered_removed_or_moved_entry_is_reported() {
    for (sql, sequence, kind) in CASES {
        let directory = tempfile::tempdir().unwrap();
        let outside = written(directory.path());
        let whole = verdict(directory.path());
        assert_eq!((whole.whole, whole.entries, whole.finding), (true, 9, None));
        outside.execute_batch(sql).unwrap();
        let found = verdict(directory.path());
        let finding = found.finding.unwrap_or_else(|| panic!("{sql}"));
        assert!(!found.whole);
        assert_eq!(
            (finding.sequence, finding.kind),
            (*sequence, *kind),
            "{sql}: {}",
            finding.detail
        );
        drop(outside);

        // It is served all the same, and later entries hide nothing.
        let mut database =
            Sqlite::open(directory.path()).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(database.commit(&change(10, 200)).unwrap().durable, "{sql}");
        drop(database);
        assert!(!verdict(directory.path()).whole, "{sql}");
    }
}

#[test]
fn a_rehashed_chain_is_detected_by_the_recorded_heads() {
    let directory = tempfile::tempdir().unwrap();
    let outside = written(directory.path());
    outside
        .execute_batch("UPDATE audit SET actor = 'mallory' WHERE sequence = 5")
        .unwrap();
    rehash(&outside, 5);
    let finding = verdict(directory.path()).finding.unwrap();
    assert_eq!(
        (finding.sequence, finding.kind),
        (6, AuditFindingKind::Rewritten)
    );
    assert!(
        finding.detail.contains("shop-2") && finding.detail.contains("since entry 4"),
        "{}",
        finding.detail
    );

    // From the last entry on, where only the head record reveals it.
    let directory = tempfile::tempdir().unwrap();
    let outside = written(directory.path());
    outside
        .execute_batch("UPDATE audit SET actor = 'mallory' WHERE sequence = 9")
        .unwrap();
    rehash(&outside, 9);
    let finding = verdict(directory.path()).finding.unwrap();
    assert_eq!(
        (finding.sequence, finding.kind),
        (9, AuditFindingKind::Rewritten)
    );

    // Removed, renumbered and rehashed.
    let directory = tempfile::tempdir().unwrap();
    let outside = written(directory.path());
    outside
        .execute_batch(
            "DELETE FROM audit WHERE sequence = 2; UPDATE audit SET sequence = sequence - 1 \
             WHERE sequence > 2",
        )
        .unwrap();
    rehash(&outside, 2);
    let finding = verdict(directory.path()).finding.unwrap();
    assert_eq!(
        (finding.sequence, finding.kind),
        (3, AuditFindingKind::Rewritten)
    );
}

#[tokio::test(flavor = "current_thread")]
async fn the_journal_is_verified_while_it_grows() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&options(directory.path())).unwrap();
    for revision in 1..=20 {
        let verifying = store.verify();
        store.commit(change(revision, 100)).await.unwrap();
        assert!(verifying.await.unwrap().whole);
        assert!(verdict(directory.path()).whole, "as another process");
    }
    assert_eq!(verdict(directory.path()).entries, 20);
    let (in_memory, _) = Store::open(&Options::default()).unwrap();
    in_memory.commit(change(1, 100)).await.unwrap();
    let verdict = in_memory.verify().await.unwrap();
    assert_eq!((verdict.whole, verdict.entries), (true, 1));
}

#[test]
fn a_store_without_recorded_heads_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let outside = written(directory.path());
    outside
        .execute_batch(
            "DROP TABLE audit_head; DROP TABLE answers; DROP TABLE checkpoint_parts;
             ALTER TABLE releases DROP COLUMN audit_entries; ALTER TABLE releases DROP COLUMN \
             audit_hash;
             ALTER TABLE checkpoints DROP COLUMN audit_entries; ALTER TABLE checkpoints DROP \
             COLUMN audit_hash;
             PRAGMA user_version = 3;",
        )
        .unwrap();
    assert!(verdict(directory.path()).whole, "verified as it is");
    drop(outside);
    let mut database = Sqlite::open(directory.path()).unwrap();
    assert!(
        verdict(directory.path()).whole,
        "verified after the migration"
    );
    database.commit(&change(10, 100)).unwrap();
    drop(database);
    assert_eq!(verdict(directory.path()).entries, 10);
    // After the migration the end is recorded.
    let outside = Connection::open(directory.path().join("weighbridge.db")).unwrap();
    outside
        .execute_batch("DELETE FROM audit WHERE sequence = 10")
        .unwrap();
    assert_eq!(verdict(directory.path()).finding.unwrap().sequence, 10);
}

#[test]
fn a_missing_or_foreign_database_is_not_reported_as_broken() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = crate::store::verify(directory.path())
        .unwrap_err()
        .to_string();
    assert!(nothing.contains("there is no weighbridge.db"), "{nothing}");
    assert!(!directory.path().join("weighbridge.db").exists());
    Connection::open(directory.path().join("weighbridge.db"))
        .unwrap()
        .execute_batch("CREATE TABLE other (x)")
        .unwrap();
    let foreign = crate::store::verify(directory.path())
        .unwrap_err()
        .to_string();
    assert!(foreign.contains("not a weighbridge database"), "{foreign}");
}
