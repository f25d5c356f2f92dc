//! Releases, their checkpoints and their evidence.

use serde_json::json;

use super::*;

/// The release of the service `shop` with this number.
pub(super) fn release(number: u64, step: u64, ended: bool) -> ReleaseRecord {
    ReleaseRecord {
        id: format!("shop-{number}"),
        service: "shop".to_owned(),
        number,
        ended,
        state: json!({ "step": step, "plan": { "steps": [1, 2.5] } }),
    }
}

/// The change with this revision, which also writes these releases.
pub(super) fn releasing(revision: u64, releases: &[ReleaseRecord]) -> ChangeRecord {
    ChangeRecord {
        releases: releases.to_vec(),
        ..change(revision, 100)
    }
}

fn reopened(directory: &Path) -> (Sqlite, LoadedState) {
    let mut database = Sqlite::open(directory).expect("the chain is whole");
    let loaded = database.load().unwrap();
    (database, loaded)
}

#[tokio::test(flavor = "current_thread")]
async fn a_release_is_restored_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&options(directory.path())).unwrap();
    store
        .commit(releasing(1, &[release(1, 0, false)]))
        .await
        .unwrap();
    assert!(
        store
            .checkpoint("shop-1", json!({ "spent": 1 }))
            .await
            .unwrap()
    );
    store
        .commit(releasing(2, &[release(1, 1, false)]))
        .await
        .unwrap();
    assert!(
        store
            .checkpoint("shop-1", json!({ "spent": 2 }))
            .await
            .unwrap()
    );
    drop(store);
    let (again, loaded) = Store::open(&options(directory.path())).unwrap();
    assert_eq!(loaded.releases, [release(1, 1, false)]);
    assert_eq!(
        loaded.checkpoints,
        BTreeMap::from([("shop-1".to_owned(), json!({ "spent": 2 }))])
    );
    assert_eq!(
        again.release("shop-1").await.unwrap(),
        Some(release(1, 1, false))
    );
    assert_eq!(again.release("shop-2").await.unwrap(), None);
}

#[test]
fn a_late_checkpoint_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let (mut database, _) = reopened(directory.path());
    database
        .commit(&releasing(1, &[release(1, 0, false)]))
        .unwrap();
    assert!(database.checkpoint("shop-1", &json!(1)).unwrap());
    assert!(
        !database.checkpoint("shop-2", &json!(1)).unwrap(),
        "it never began"
    );
    database
        .commit(&releasing(2, &[release(1, 3, true)]))
        .unwrap();
    assert!(
        !database.checkpoint("shop-1", &json!(2)).unwrap(),
        "it has ended"
    );
    drop(database);
    let (mut database, loaded) = reopened(directory.path());
    assert_eq!(
        (loaded.releases, loaded.checkpoints),
        (vec![release(1, 3, true)], BTreeMap::new())
    );
    database
        .commit(&releasing(3, &[release(2, 0, false)]))
        .unwrap();
    assert!(database.checkpoint("shop-2", &json!(3)).unwrap());
    let outside = rusqlite::Connection::open(directory.path().join("weighbridge.db")).unwrap();
    let kept: i64 = outside
        .query_row("SELECT count(*) FROM checkpoints", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1, "parts of an ended release are removed");
}

#[test]
fn a_restart_loads_releases_in_progress_and_the_last_of_each_service() {
    let directory = tempfile::tempdir().unwrap();
    let (mut database, _) = reopened(directory.path());
    let cart = |number, ended| ReleaseRecord {
        id: format!("cart-{number}"),
        service: "cart".to_owned(),
        ..release(number, 0, ended)
    };
    let all = [
        release(9, 0, true),
        release(10, 0, true),
        release(11, 0, false),
        cart(1, true),
        cart(2, true),
    ];
    database.commit(&releasing(1, &all)).unwrap();
    drop(database);
    let (mut database, loaded) = reopened(directory.path());
    assert_eq!(
        loaded.releases,
        [cart(2, true), release(10, 0, true), release(11, 0, false)]
    );
    let newest = |database: &mut Sqlite, limit| database.releases("shop", limit).unwrap();
    assert_eq!(
        newest(&mut database, 2),
        [release(11, 0, false), release(10, 0, true)]
    );
    assert_eq!(newest(&mut database, 9).len(), 3);
}

#[test]
fn a_refused_change_of_a_release_found_on_disk_is_undone() {
    let directory = tempfile::tempdir().unwrap();
    let (mut database, _) = reopened(directory.path());
    database
        .commit(&releasing(1, &[release(1, 0, false)]))
        .unwrap();
    database
        .checkpoint("shop-1", &json!({ "spent": 7 }))
        .unwrap();
    // Its promotion, and the start of the next: both are refused, but both are on disk.
    database.commit_unconfirmed(&releasing(2, &[release(1, 4, true), release(2, 0, false)]));
    database.commit(&change(2, 300)).unwrap();
    drop(database);
    let (mut database, loaded) = reopened(directory.path());
    assert_eq!(loaded.releases, [release(1, 0, false)]);
    assert_eq!(
        loaded.checkpoints["shop-1"],
        json!({ "spent": 7 }),
        "it continues with its past"
    );
    assert_eq!(loaded.services, [record(2, 300)]);
    let actions: Vec<_> = database
        .audit(None, 9)
        .unwrap()
        .into_iter()
        .map(|entry| entry.entry.action)
        .collect();
    assert_eq!(actions, ["weights", "undo", "weights", "weights"]);
}

#[test]
fn a_rollback_found_on_disk_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (mut database, _) = reopened(directory.path());
    database
        .commit(&releasing(1, &[release(1, 0, false)]))
        .unwrap();
    let rollback = ChangeRecord {
        in_effect: true,
        ..releasing(2, &[release(1, 2, true)])
    };
    database.commit_unconfirmed(&rollback);
    assert_eq!(
        database.release("shop-1").unwrap(),
        Some(release(1, 2, true))
    );
    assert_eq!(
        database.commit(&rollback).unwrap().sequence,
        2,
        "its next attempt succeeds at once"
    );
    drop(database);
    assert_eq!(reopened(directory.path()).1.releases, [release(1, 2, true)]);
}

#[test]
fn a_failed_checkpoint_or_bundle_fails_no_commit() {
    let large = json!("x".repeat(1 << 20));
    type Write = fn(&mut Sqlite, &Value) -> Result<(), StoreError>;
    let checkpoint: Write = |database, state| database.checkpoint("shop-1", state).map(drop);
    let bundle: Write = |database, bundle| database.put_evidence(&release(1, 0, true), bundle);
    for write in [checkpoint, bundle] {
        let directory = tempfile::tempdir().unwrap();
        let (mut database, _) = reopened(directory.path());
        database
            .commit(&releasing(1, &[release(1, 0, false)]))
            .unwrap();
        write(&mut database, &json!("small")).unwrap();
        database.limit_pages(true);
        let refused = write(&mut database, &large).unwrap_err();
        assert!(refused.to_string().contains("full"), "{refused}");
        assert_eq!(
            database
                .commit(&releasing(2, &[release(1, 1, false)]))
                .unwrap()
                .sequence,
            2
        );
        drop(database);
        let (mut database, loaded) = reopened(directory.path());
        assert_eq!(loaded.releases, [release(1, 1, false)]);
        let kept = [
            loaded.checkpoints.get("shop-1").cloned(),
            database.evidence("shop-1").unwrap(),
        ];
        assert_eq!(
            kept.into_iter().flatten().collect::<Vec<_>>(),
            [json!("small")]
        );
    }
}

/// While another process writes, nothing is begun, so the connection and the log stay valid.
#[test]
fn a_checkpoint_during_another_write_fails_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (mut database, _) = reopened(directory.path());
    database
        .commit(&releasing(1, &[release(1, 0, false)]))
        .unwrap();
    let outside = rusqlite::Connection::open(directory.path().join("weighbridge.db")).unwrap();
    outside.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = database.checkpoint("shop-1", &json!(1)).unwrap_err();
    assert!(refused.to_string().contains("locked"), "{refused}");
    outside
        .execute_batch("ROLLBACK; BEGIN; SELECT count(*) FROM audit")
        .unwrap();
    // The reader would block a checkpoint of the log.
    assert_eq!(database.commit(&releasing(2, &[])).unwrap().sequence, 2);
}

#[test]
fn the_newest_thousand_bundles_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (mut database, _) = reopened(directory.path());
    let mut keep = |id: &str, bundle: Value| {
        let release = ReleaseRecord {
            id: id.to_owned(),
            ..release(1, 0, true)
        };
        database.put_evidence(&release, &bundle).unwrap();
    };
    keep("first", json!(1));
    keep("second", json!(2));
    let outside = rusqlite::Connection::open(directory.path().join("weighbridge.db")).unwrap();
    let fill = "WITH RECURSIVE n(i) AS (VALUES (3) UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                INSERT INTO evidence SELECT 'bundle-' || i, i FROM n";
    outside.execute_batch(fill).unwrap();
    keep("first", json!("again"));
    let kept: i64 = outside
        .query_row("SELECT count(*) FROM evidence", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 1000, "there is room");
    keep("last", json!({ "timeline": [] }));
    assert_eq!(database.evidence("first").unwrap(), None);
    assert_eq!(database.evidence("second").unwrap(), Some(json!(2)));
    assert_eq!(
        database.evidence("last").unwrap(),
        Some(json!({ "timeline": [] }))
    );
}

#[test]
fn an_ended_release_agrees_with_its_evidence() {
    let directory = tempfile::tempdir().unwrap();
    let (mut database, _) = reopened(directory.path());
    database
        .commit(&releasing(1, &[release(1, 0, false), release(2, 0, true)]))
        .unwrap();
    for number in 1..=3 {
        database
            .put_evidence(&release(number, 9, true), &json!(9))
            .unwrap();
    }
    let mut row = |id| database.release(id).unwrap();
    assert_eq!(
        row("shop-1"),
        Some(release(1, 0, false)),
        "a restart resumes it"
    );
    assert_eq!(row("shop-2"), Some(release(2, 9, true)));
    assert_eq!(row("shop-3"), None, "it never began");
}

#[test]
fn the_newest_thousand_ended_releases_of_a_service_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (mut database, _) = reopened(directory.path());
    let cart = ReleaseRecord {
        id: "cart-1".to_owned(),
        service: "cart".to_owned(),
        ..release(1, 0, true)
    };
    database
        .commit(&releasing(1, &[release(1, 0, false), cart.clone()]))
        .unwrap();
    let ended: Vec<ReleaseRecord> = (2..=1003).map(|number| release(number, 0, true)).collect();
    database.commit(&releasing(2, &ended)).unwrap();
    assert_eq!(
        database.releases("shop", 2000).unwrap().len(),
        1003,
        "a change may be undone"
    );
    database
        .put_evidence(&release(1003, 1, true), &json!({}))
        .unwrap();
    let kept = database.releases("shop", 2000).unwrap();
    assert_eq!(kept.first(), Some(&release(1003, 1, true)));
    let oldest: Vec<u64> = kept
        .iter()
        .rev()
        .take(2)
        .map(|release| release.number)
        .collect();
    assert_eq!(
        (kept.len(), oldest),
        (1001, vec![1, 4]),
        "and the one in progress"
    );
    assert_eq!(database.release("cart-1").unwrap(), Some(cart));
}

#[test]
fn a_database_of_the_first_version_is_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let (mut database, _) = reopened(directory.path());
    for revision in 1..=3 {
        database.commit(&change(revision, 100)).unwrap();
    }
    drop(database);
    let outside = rusqlite::Connection::open(directory.path().join("weighbridge.db")).unwrap();
    let back = "DROP TABLE releases; DROP TABLE checkpoints; DROP TABLE evidence; DROP TABLE \
                audit_head; DROP TABLE answers; DROP TABLE settings;
                DROP TABLE checkpoint_parts;
                UPDATE services SET state = json_remove(state, '$.releases'); PRAGMA user_version \
                = 1";
    outside.execute_batch(back).unwrap();
    drop(outside);
    let (mut database, loaded) = reopened(directory.path());
    assert_eq!(loaded.services, [record(3, 100)]);
    assert_eq!(loaded.releases, []);
    let committed = database
        .commit(&releasing(4, &[release(1, 0, false)]))
        .unwrap();
    assert_eq!(committed.sequence, 4);
    database
        .put_evidence(&release(1, 0, true), &json!({}))
        .unwrap();
    drop(database);
    assert_eq!(
        reopened(directory.path()).1.releases,
        [release(1, 0, false)]
    );
}

#[tokio::test(flavor = "current_thread")]
async fn without_a_directory_a_bounded_store_in_memory_is_used() {
    let (store, _) = Store::open(&Options::default()).unwrap();
    store
        .commit(releasing(1, &[release(1, 0, false)]))
        .await
        .unwrap();
    assert!(store.checkpoint("shop-1", json!(1)).await.unwrap());
    assert!(!store.checkpoint("shop-2", json!(1)).await.unwrap());
    for number in 2..=120 {
        store
            .commit(releasing(number, &[release(number, 0, true)]))
            .await
            .unwrap();
        store
            .put_evidence(release(number, 7, true), json!(number))
            .await
            .unwrap();
    }
    assert_eq!(
        store.release("shop-1").await.unwrap(),
        Some(release(1, 0, false))
    );
    assert_eq!(store.release("shop-2").await.unwrap(), None);
    assert_eq!(
        store.releases("shop", 2).await.unwrap(),
        [release(120, 7, true), release(119, 7, true)]
    );
    assert_eq!(store.releases("shop", 1000).await.unwrap().len(), 100);
    assert_eq!(store.releases("cart", 2).await.unwrap(), []);
    assert_eq!(store.evidence("shop-2").await.unwrap(), None);
    assert_eq!(store.evidence("shop-120").await.unwrap(), Some(json!(120)));
}

#[tokio::test(flavor = "current_thread")]
async fn checkpoints_leave_queue_space_for_commits_while_the_disk_hangs() {
    let (gate, blocked) = std::sync::mpsc::channel::<()>();
    let store = Store::over(Box::new(Gated(memory::Memory::default(), blocked))).unwrap();
    let first = store.commit(releasing(1, &[release(1, 0, false)]));
    let checkpoints: Vec<_> = (0..300)
        .map(|at| store.checkpoint("shop-1", json!(at)))
        .collect();
    let brake = store.commit(change(2, 0));
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    assert_eq!(first.await.unwrap().sequence, 1);
    assert_eq!(brake.await.unwrap().sequence, 2);
    let (mut written, mut refused) = (0, 0);
    for checkpoint in checkpoints {
        match checkpoint.await {
            Ok(true) => written += 1,
            Err(StoreError::Stalled) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((written, refused), (64, 236));
    assert!(
        store.checkpoint("shop-1", json!(0)).await.unwrap(),
        "there is room again"
    );
}

/// The parts that a start finds, by release.
fn parts_found(database: &mut Sqlite) -> Vec<(String, Vec<u32>)> {
    let parts = database.load().unwrap().parts.into_iter();
    parts
        .map(|(id, parts)| (id, parts.iter().map(|part| part.number).collect()))
        .collect()
}

#[test]
fn checkpoint_parts_are_written_separately_and_removed_with_their_release() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = Sqlite::open(directory.path()).unwrap();
    let part = |number, state: Option<&[u8]>| ReleasePart {
        kind: 1,
        number,
        state: state.map(<[u8]>::to_vec),
    };
    database
        .commit(&releasing(1, &[release(1, 1, false)]))
        .unwrap();
    database
        .put_parts(
            "shop-1",
            &[
                part(3, Some(b"three")),
                part(4, Some(b"four")),
                part(5, Some(b"five")),
            ],
        )
        .unwrap();
    database
        .put_parts("shop-1", &[part(4, None), part(5, Some(b"changed"))])
        .unwrap();
    database
        .put_parts("shop-2", &[part(1, Some(b"never began"))])
        .unwrap();
    drop(database);
    let mut database = Sqlite::open(directory.path()).unwrap();
    let loaded = database.load().unwrap();
    assert_eq!(
        loaded.parts["shop-1"],
        [part(3, Some(b"three")), part(5, Some(b"changed"))]
    );
    database
        .commit(&releasing(2, &[release(1, 2, true), release(2, 2, false)]))
        .unwrap();
    assert_eq!(parts_found(&mut database), []);
    database
        .put_parts("shop-2", &[part(1, Some(b"one"))])
        .unwrap();
    assert_eq!(parts_found(&mut database), [("shop-2".to_owned(), vec![1])]);
    drop(database);
    let connection = rusqlite::Connection::open(directory.path().join("weighbridge.db")).unwrap();
    let left: u32 = connection
        .query_row("SELECT count(*) FROM checkpoint_parts", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(left, 1, "what the ended release left behind is removed");
}
