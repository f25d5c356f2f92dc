//! Only one process at a time holds a store, and only what a restart would find is durable.

use std::fs;

use super::*;

#[test]
fn a_second_process_is_refused_with_the_pid_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let first = Sqlite::open(directory.path()).unwrap();
    let refused = Sqlite::open(directory.path()).unwrap_err().to_string();
    let pid = format!("pid {}", std::process::id());
    assert!(
        refused.contains(&pid) && refused.contains(&directory.path().display().to_string()),
        "{refused}"
    );
    // Verification needs no lock.
    assert!(crate::store::verify(directory.path()).unwrap().whole);
    drop(first);
    Sqlite::open(directory.path()).unwrap();
}

#[test]
fn a_stale_lock_file_blocks_no_start() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("weighbridge.lock"), "4711\n").unwrap();
    Sqlite::open(directory.path()).unwrap();
}

/// A way to remove files.
type Loss = (&'static str, fn(&Path));

const LOSSES: [Loss; 6] = [
    ("removed", |path| fs::remove_dir_all(path).unwrap()),
    ("moved", |path| {
        fs::rename(path, path.with_extension("moved")).unwrap()
    }),
    ("replaced", |path| {
        fs::rename(path, path.with_extension("moved")).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("replaced by a copy", |path| {
        let moved = path.with_extension("moved");
        fs::rename(path, &moved).unwrap();
        fs::create_dir(path).unwrap();
        for file in ["weighbridge.db", "weighbridge.db-wal"] {
            fs::copy(moved.join(file), path.join(file)).unwrap();
        }
    }),
    ("database removed", |path| {
        fs::remove_file(path.join("weighbridge.db")).unwrap()
    }),
    ("log removed", |path| {
        fs::remove_file(path.join("weighbridge.db-wal")).unwrap()
    }),
];

#[test]
fn nothing_is_durable_in_missing_files() {
    for (how, lose) in LOSSES {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let mut database = Sqlite::open(&path).unwrap();
        database.commit(&change(1, 100)).unwrap();
        lose(&path);
        for revision in 2..4 {
            let refused = database
                .commit(&change(revision, 200))
                .expect_err(how)
                .to_string();
            assert!(
                refused.contains("a restart would not find"),
                "{how}: {refused}"
            );
            database.recover();
        }
        assert!(
            database.checkpoint("shop-1", &Value::Null).is_err(),
            "{how}"
        );
        // Old entries are still readable.
        assert_eq!(database.audit(None, 9).unwrap().len(), 1, "{how}");
    }
}

#[test]
fn a_restored_directory_is_used_again() {
    let parent = tempfile::tempdir().unwrap();
    let (path, away) = (parent.path().join("state"), parent.path().join("away"));
    let mut database = Sqlite::open(&path).unwrap();
    database.commit(&change(1, 100)).unwrap();
    fs::rename(&path, &away).unwrap();
    database.commit(&change(2, 200)).unwrap_err();
    fs::rename(&away, &path).unwrap();
    assert_eq!(database.commit(&change(2, 300)).unwrap().sequence, 2);
    drop(database);
    let mut again = Sqlite::open(&path).unwrap();
    assert_eq!(again.load().unwrap().services, [record(2, 300)]);
    assert!(crate::store::verify(&path).unwrap().whole);
}

#[test]
fn removed_files_are_rewritten_completely() {
    for how in ["directory", "database", "all", "log", "lock"] {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let mut database = Sqlite::open(&path).unwrap();
        for revision in 1..=3 {
            database.commit(&change(revision, 100)).unwrap();
        }
        let remove = |name: &str| fs::remove_file(path.join(name)).unwrap();
        match how {
            "directory" => {
                fs::remove_dir_all(&path).unwrap();
                fs::create_dir(&path).unwrap();
            }
            "all" => [
                "weighbridge.db",
                "weighbridge.db-wal",
                "weighbridge.db-shm",
                "weighbridge.lock",
            ]
            .iter()
            .for_each(|name| remove(name)),
            // Without its log it is rewritten once that is missing too.
            "database" => ["weighbridge.db", "weighbridge.db-wal"]
                .iter()
                .for_each(|name| remove(name)),
            "log" => remove("weighbridge.db-wal"),
            _ => remove("weighbridge.lock"),
        }
        database.commit(&change(4, 200)).expect_err(how);
        database.expire_missing();
        assert_eq!(
            database.commit(&change(4, 300)).expect(how).sequence,
            4,
            "{how}"
        );
        let refused = Sqlite::open(&path).expect_err(how).to_string();
        assert!(refused.contains("another process"), "{how}: {refused}");
        drop(database);
        let mut again = Sqlite::open(&path).expect(how);
        assert_eq!(again.load().unwrap().services, [record(4, 300)], "{how}");
        let verdict = crate::store::verify(&path).unwrap();
        assert_eq!(
            (verdict.whole, verdict.entries),
            (true, 4),
            "{how}: {verdict:?}"
        );
    }
}

/// Another proxy may be running in the directory that replaced ours.
#[test]
fn another_store_in_the_directory_is_not_touched() {
    let parent = tempfile::tempdir().unwrap();
    let (path, away) = (parent.path().join("state"), parent.path().join("away"));
    let mut database = Sqlite::open(&path).unwrap();
    database.commit(&change(1, 100)).unwrap();
    fs::rename(&path, &away).unwrap();
    let mut other = Sqlite::open(&path).unwrap();
    other.commit(&change(1, 900)).unwrap();
    database.expire_missing();
    database.commit(&change(2, 200)).unwrap_err();
    database.recover();
    drop(database);
    assert_eq!(other.commit(&change(2, 800)).unwrap().sequence, 2);
    drop(other);
    let loaded = Sqlite::open(&path).unwrap().load().unwrap();
    assert_eq!(loaded.services, [record(2, 800)]);
}
