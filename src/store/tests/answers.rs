//! Stored responses to idempotent writes.

use super::*;
use crate::model::{IdempotencyKey, KeptAnswer};

fn answer(key: u64, at_ms: i64, bytes: usize) -> KeptAnswer {
    KeptAnswer {
        key: IdempotencyKey {
            caller: "alice".to_owned(),
            key: key.to_string(),
            request: "00".to_owned(),
        },
        at_ms,
        status: 200,
        location: None,
        revision: key,
        body: "x".repeat(bytes),
    }
}

fn with(answer: KeptAnswer) -> ChangeRecord {
    ChangeRecord {
        answer: Some(answer),
        ..change(1, 100)
    }
}

fn stored_revisions(database: &mut Sqlite) -> Vec<u64> {
    let answers = database.load().unwrap().answers;
    answers.iter().map(|answer| answer.revision).collect()
}

#[test]
fn a_response_is_stored_with_its_change_and_replaced_by_the_one_sent() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = Sqlite::open(directory.path()).unwrap();
    database.commit(&with(answer(1, 0, 3))).unwrap();
    let given = answer(1, 5, 7);
    database.keep_answer(&given.key, Some(&given)).unwrap();
    drop(database);
    let mut database = Sqlite::open(directory.path()).unwrap();
    assert_eq!(database.load().unwrap().answers.first(), Some(&given));
    database.keep_answer(&given.key, None).unwrap();
    assert!(stored_revisions(&mut database).is_empty());
}

#[test]
fn an_undone_change_leaves_no_response() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = Sqlite::open(directory.path()).unwrap();
    database.commit(&with(answer(1, 0, 3))).unwrap();
    database.commit_unconfirmed(&with(answer(2, 0, 3)));
    database.recover();
    assert_eq!(stored_revisions(&mut database), [1]);
}

#[test]
fn stored_responses_are_bounded_in_age_number_and_bytes() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let directory = tempfile::tempdir().unwrap();
    let mut database = Sqlite::open(directory.path()).unwrap();
    let keep = |database: &mut Sqlite, answer: KeptAnswer| {
        database.keep_answer(&answer.key, Some(&answer)).unwrap()
    };
    keep(&mut database, answer(1, 0, 1));
    keep(&mut database, answer(2, DAY_MS - 1, 1));
    assert_eq!(stored_revisions(&mut database), [1, 2]);
    keep(&mut database, answer(3, DAY_MS, 1));
    assert_eq!(stored_revisions(&mut database), [2, 3]);
    for key in 4..=6 {
        keep(&mut database, answer(key, DAY_MS, 7 << 20));
    }
    assert_eq!(stored_revisions(&mut database), [5, 6]);
    // Above the total limit: the newest stays, or no repetition could get its response.
    keep(&mut database, answer(7, DAY_MS, 17 << 20));
    assert_eq!(stored_revisions(&mut database), [7]);
}
