//! The store on real files.

mod answers;
mod custody;
mod journal;
mod recordings;
mod releases;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::sqlite::Sqlite;
use super::*;
use crate::model::Weight;

fn weights(green: u16) -> BTreeMap<String, Weight> {
    let of = |points| Weight::from_basis_points(points).unwrap();
    BTreeMap::from([
        ("blue".to_owned(), of(10_000 - green)),
        ("green".to_owned(), of(green)),
    ])
}

fn record(revision: u64, green: u16) -> ServiceRecord {
    ServiceRecord {
        name: "shop".to_owned(),
        revision,
        weights: weights(green),
        baseline: "blue".to_owned(),
        previous_baseline: None,
        generation: u64::MAX,
        releases: 0,
        attempts: BTreeMap::new(),
        since: "2026-01-01T00:00:00Z".to_owned(),
        reason: Some("because".to_owned()),
    }
}

fn change(revision: u64, green: u16) -> ChangeRecord {
    ChangeRecord {
        services: vec![record(revision, green)],
        releases: Vec::new(),
        entry: NewJournalEntry {
            at: "2026-01-01T00:00:00Z".to_owned(),
            actor: "alice".to_owned(),
            action: "weights".to_owned(),
            service: Some("shop".to_owned()),
            reason: None,
            before: serde_json::json!({ "revision": revision - 1 }),
            after: serde_json::json!({
                "weights": { "green": 0.1, "blue": 99.9 },
                "revision": revision,
            }),
        },
        answer: None,
        in_effect: false,
    }
}

/// A store whose commits wait for the test.
struct Gated(memory::Memory, std::sync::mpsc::Receiver<()>);

impl Backend for Gated {
    fn durable(&self) -> bool {
        false
    }
    fn commit(&mut self, change: &ChangeRecord) -> Result<Committed, StoreError> {
        self.1.recv().unwrap();
        self.0.commit(change)
    }
    fn audit(
        &mut self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        self.0.audit(before, limit)
    }
    fn checkpoint(&mut self, id: &str, state: &Value) -> Result<bool, StoreError> {
        self.0.checkpoint(id, state)
    }
    fn releases(&mut self, service: &str, limit: usize) -> Result<Vec<ReleaseRecord>, StoreError> {
        self.0.releases(service, limit)
    }
    fn release(&mut self, id: &str) -> Result<Option<ReleaseRecord>, StoreError> {
        self.0.release(id)
    }
    fn put_evidence(&mut self, release: &ReleaseRecord, bundle: &Value) -> Result<(), StoreError> {
        self.0.put_evidence(release, bundle)
    }
    fn evidence(&mut self, id: &str) -> Result<Option<Value>, StoreError> {
        self.0.evidence(id)
    }
}

fn options(path: &Path) -> Options {
    Options {
        path: Some(path.to_owned()),
    }
}

async fn sequences(store: &Store, before: Option<u64>, limit: usize) -> Vec<u64> {
    let entries = store.audit(before, limit).await.unwrap();
    entries.iter().map(|entry| entry.sequence).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn acknowledged_changes_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("not/there/yet");
    let (store, loaded) = Store::open(&options(&path)).unwrap();
    assert_eq!(loaded, LoadedState::default());
    for revision in 1..=5 {
        let committed = store
            .commit(change(revision, 100 * u16::try_from(revision).unwrap()))
            .await
            .unwrap();
        assert_eq!(
            committed,
            Committed {
                sequence: revision,
                durable: true
            }
        );
    }
    // A killed process leaves behind the same files.
    let copy = directory.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["weighbridge.db", "weighbridge.db-wal"] {
        std::fs::copy(path.join(file), copy.join(file)).unwrap();
    }
    drop(store);
    for path in [&path, &copy] {
        let (again, loaded) = Store::open(&options(path)).unwrap();
        assert_eq!(loaded.services, [record(5, 500)]);
        assert_eq!(sequences(&again, None, 3).await, [5, 4, 3]);
        assert_eq!(sequences(&again, Some(3), 10).await, [2, 1]);
        assert_eq!(again.commit(change(6, 0)).await.unwrap().sequence, 6);
    }
}

/// Commits until it is killed, and reports each acknowledged commit.
#[tokio::test(flavor = "current_thread")]
#[ignore = "a separate process, started and killed by the next test"]
async fn commits_until_it_is_killed() {
    let Some(path) = std::env::var_os(KILLED) else {
        return;
    };
    let (store, loaded) = Store::open(&options(Path::new(&path))).unwrap();
    let first = loaded.services.first().map_or(0, |record| record.revision) + 1;
    for revision in first.. {
        let going_on = releases::releasing(revision, &[releases::release(1, revision, false)]);
        store.commit(going_on).await.unwrap();
        let checkpoint = serde_json::json!(revision);
        assert!(store.checkpoint("shop-1", checkpoint).await.unwrap());
        println!("\n{TELLS}{revision}");
    }
}

const KILLED: &str = "WEIGHBRIDGE_TEST_STORE_TO_BE_KILLED";
const TELLS: &str = "acknowledged ";

#[test]
fn a_killed_process_loses_no_acknowledged_change() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "store::tests::commits_until_it_is_killed",
            ])
            .env(KILLED, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let mut read_report = || {
            lines
                .by_ref()
                .find_map(|line| line.strip_prefix(TELLS)?.parse::<u64>().ok())
        };
        for _ in 0..round * 7 {
            acknowledged = read_report().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it reported before it died counts too.
        while let Some(more) = read_report() {
            acknowledged = more;
        }
        let loaded = Sqlite::open(directory.path()).unwrap().load().unwrap();
        let stored = loaded.services[0].revision;
        assert_eq!(loaded.releases, [releases::release(1, stored, false)]);
        assert!(loaded.checkpoints["shop-1"].as_u64().unwrap() >= acknowledged);
        assert!(
            stored == acknowledged || stored == acknowledged + 1,
            "{acknowledged} was acknowledged, and {stored} is there"
        );
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_withdrawn_change_is_not_written() {
    let (gate, blocked) = std::sync::mpsc::channel::<()>();
    let store = Store::over(Box::new(Gated(memory::Memory::default(), blocked))).unwrap();
    let (first, second, third) = (
        store.commit(change(1, 1)),
        store.commit(change(2, 2)),
        store.commit(change(3, 3)),
    );
    drop(second);
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    assert_eq!(first.await.unwrap().sequence, 1);
    assert_eq!(third.await.unwrap().sequence, 2);
    assert_eq!(
        store.audit(None, 9).await.unwrap()[0].entry,
        change(3, 3).entry
    );
}

#[test]
fn a_full_disk_refuses_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = Sqlite::open(directory.path()).unwrap();
    database.commit(&change(1, 100)).unwrap();
    database.limit_pages(true);
    let mut large = change(2, 200);
    large.entry.reason = Some("x".repeat(1 << 20));
    let refused = database.commit(&large).unwrap_err();
    assert!(refused.to_string().contains("full"), "{refused}");
    database.recover();
    assert_eq!(database.load().unwrap().services, [record(1, 100)]);
    assert_eq!(database.commit(&change(2, 200)).unwrap().sequence, 2);
}

#[test]
fn a_failed_change_found_on_disk_is_undone_unless_it_is_in_effect() {
    for in_effect in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let mut database = Sqlite::open(directory.path()).unwrap();
        database.commit(&change(1, 100)).unwrap();
        database.commit_unconfirmed(&ChangeRecord {
            in_effect,
            ..change(2, 200)
        });
        database.recover();
        let expected = if in_effect {
            record(2, 200)
        } else {
            record(1, 100)
        };
        assert_eq!(database.load().unwrap().services, [expected]);
        if in_effect {
            // Its next attempt succeeds at once.
            let again = ChangeRecord {
                in_effect,
                ..change(2, 200)
            };
            assert_eq!(database.commit(&again).unwrap().sequence, 2);
        }
        assert_eq!(
            database.commit(&change(3, 300)).unwrap().sequence,
            if in_effect { 3 } else { 4 }
        );
        let newest = &database.audit(None, 2).unwrap()[1];
        assert_eq!(
            newest.entry.action,
            if in_effect { "weights" } else { "undo" }
        );
        drop(database);
        assert!(super::verify(directory.path()).unwrap().whole);
    }
}

#[test]
fn the_journal_is_append_only() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = Sqlite::open(directory.path()).unwrap();
    database.commit(&change(1, 100)).unwrap();
    database.commit(&change(2, 100)).unwrap();
    let outside = rusqlite::Connection::open(directory.path().join("weighbridge.db")).unwrap();
    for sql in [
        "UPDATE audit SET actor = 'mallory'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE sequence = 1",
    ] {
        let refused = outside.execute(sql, []).unwrap_err();
        assert!(
            refused.to_string().contains("append-only"),
            "{sql}: {refused}"
        );
    }
}

#[test]
fn the_sticky_cookie_secret_is_kept_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let secret = |path: &Path| {
        Store::open(&options(path))
            .unwrap()
            .0
            .sticky_secret()
            .unwrap()
    };
    let first = secret(directory.path());
    assert_ne!(first.bytes(), &[0; 32]);
    assert_ne!(first, secret(other.path()));
    assert_eq!(
        Store::open(&Options::default()).unwrap().0.sticky_secret(),
        None
    );
    // As an earlier version left them.
    let (store, _) = Store::open(&options(directory.path())).unwrap();
    let file = |name: &str| directory.path().join(name);
    let names = ["weighbridge.db", "weighbridge.db-wal", "weighbridge.db-shm"];
    for name in names {
        std::fs::set_permissions(file(name), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    // Only one process at a time may use it.
    drop(store);
    let (store, _) = Store::open(&options(directory.path())).unwrap();
    assert_eq!(store.sticky_secret(), Some(first));
    for name in names {
        let mode = std::fs::metadata(file(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    drop(store);
}

#[test]
fn the_sticky_cookie_secret_is_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = Sqlite::open(directory.path()).unwrap();
    database.limit_pages(true);
    let refused = database.sticky_secret();
    database.limit_pages(false);
    let secret = database.sticky_secret().unwrap();
    // SQLite may have had space for it on an existing page; if not, the message says what to do.
    match refused {
        Ok(made) => assert_eq!(made, secret),
        Err(error) => assert!(
            error.to_string().contains("make room on the disk"),
            "{error}"
        ),
    }
    // A full disk blocks no restart.
    database.limit_pages(true);
    assert_eq!(database.sticky_secret().unwrap(), secret);
}

#[test]
fn a_damaged_or_foreign_database_is_refused_with_advice() {
    let check = |prepare: &dyn Fn(&Path), expected: &str| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("weighbridge.db");
        Sqlite::open(directory.path())
            .unwrap()
            .commit(&change(1, 100))
            .unwrap();
        prepare(&file);
        let refused = Store::open(&options(directory.path()))
            .unwrap_err()
            .to_string();
        assert!(refused.contains(expected), "{refused}");
        assert!(refused.contains("cannot be used"), "{refused}");
    };
    let sql = |sql: &'static str| {
        move |file: &Path| {
            rusqlite::Connection::open(file)
                .unwrap()
                .execute_batch(sql)
                .unwrap()
        }
    };
    check(
        &|file| std::fs::write(file, vec![7; 8192]).unwrap(),
        "not a database",
    );
    check(&sql("PRAGMA user_version = 99"), "newer version");
    check(&sql("UPDATE services SET state = '{}'"), "missing field");
    check(
        &sql("INSERT INTO settings VALUES ('sticky_secret', x'00')"),
        "has 1 bytes",
    );
    check(
        &|file| {
            let whole = std::fs::read(file).unwrap();
            let torn = [&whole[..4096], &vec![0xff; whole.len() - 4096]].concat();
            std::fs::write(file, torn).unwrap();
        },
        "page 2",
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = Store::open(&options(file.path())).unwrap_err().to_string();
    assert!(refused.contains("may write there"), "{refused}");
}
