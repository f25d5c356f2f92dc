//! Recordings: complete, or marked as truncated.

use std::fs;

use super::*;
use crate::store::recording;

/// Records these lines and returns the content of the file.
fn record_lines(path: &Path, bytes_max: u64, lines: &[&str]) -> Vec<String> {
    recording::in_this_thread(path, bytes_max, lines);
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn a_recording_is_beside_the_database_and_continues_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&options(directory.path())).unwrap();
    let path = store.recording("shop-1").unwrap();
    assert_eq!(path, directory.path().join("recordings/shop-1.jsonl"));
    for line in ["{\"a\":1}", "{\"a\":2}"] {
        let recording = store.record("shop-1").unwrap();
        recording.add(line.to_owned());
        let lines = || fs::read_to_string(&path).unwrap_or_default();
        drop(recording);
        while !lines().ends_with(&format!("{line}\n")) {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
    let (in_memory, _) = Store::open(&Options::default()).unwrap();
    assert!(in_memory.record("shop-1").is_none());
}

#[test]
fn no_id_leads_out_of_the_folder() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&options(directory.path())).unwrap();
    for id in [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        ".hidden",
        "a\0",
        "a b",
        "ä",
        &"x".repeat(201),
    ] {
        assert!(store.recording(id).is_none(), "{id:?}");
        assert!(store.record(id).is_none(), "{id:?}");
    }
    assert!(store.recording("shop_eu.1-12").is_some());
    assert!(!directory.path().join("recordings").exists());
}

#[test]
fn a_partial_line_of_a_killed_process_is_truncated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop-1.jsonl");
    fs::write(&path, "one\ntwo\nthr").unwrap();
    assert_eq!(
        record_lines(&path, 1000, &["three"]),
        ["one", "two", "three"]
    );
    fs::write(&path, "a partial line").unwrap();
    assert_eq!(record_lines(&path, 1000, &["one"]), ["one"]);
}

#[test]
fn a_recording_at_its_size_limit_ends_with_a_note() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop-1.jsonl");
    let cut = "{\"truncated\":\"it has reached the size limit of recordings\"}";
    assert_eq!(
        recording::in_this_thread(&path, 12, &["12345", "12345", "1", "2"]),
        2
    );
    assert_eq!(record_lines(&path, 12, &[]), ["12345", "12345", cut]);
    // It stays ended, or it would have a gap.
    assert_eq!(recording::in_this_thread(&path, 1000, &["later"]), 1);
    assert_eq!(record_lines(&path, 1000, &[]), ["12345", "12345", cut]);
}

#[test]
fn a_slow_disk_ends_the_recording_and_blocks_no_caller() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop-1.jsonl");
    // All are queued before the thread writes the first.
    let lines: Vec<_> = (0..2000).map(|line| line.to_string()).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    assert_eq!(recording::in_this_thread(&path, 1 << 20, &lines), 976);
    let written = record_lines(&path, 1 << 20, &[]);
    let (last, written) = written.split_last().unwrap();
    assert_eq!(written, &lines[..1024]);
    assert_eq!(
        last,
        "{\"truncated\":\"a line was too long, or the disk too slow\"}"
    );
}

#[test]
fn a_line_above_the_limit_ends_the_recording() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shop-1.jsonl");
    let long = "x".repeat((1 << 20) + 1);
    assert_eq!(
        recording::in_this_thread(&path, 1 << 22, &["a", &long, "b"]),
        2
    );
    assert_eq!(record_lines(&path, 1 << 22, &[])[..1], ["a"]);
    assert_eq!(record_lines(&path, 1 << 22, &[]).len(), 2);
}

#[test]
fn the_oldest_recordings_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    for number in 1..=60 {
        let path = directory.path().join(format!("shop-{number}.jsonl"));
        record_lines(&path, 1000, &["line"]);
        let touched = std::time::UNIX_EPOCH + std::time::Duration::from_secs(number);
        fs::File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(touched)
            .unwrap();
    }
    let written = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(written, 50);
    assert!(!directory.path().join("shop-10.jsonl").exists());
    assert!(directory.path().join("shop-11.jsonl").exists());
}
