//! The chain of hashes that makes a change of the past visible: who alters an entry must alter all after it, and the
//! last hash is known elsewhere (in every page of the journal that someone has read).

use sha2::{Digest, Sha256};

use super::NewEntry;

/// What stands in for the hash before the first entry.
pub(super) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The hash of an entry that follows one with the hash `previous`: SHA-256 over that hash in hexadecimal, a line feed,
/// and the entry's fields as a JSON array. `before` and `after` are hashed as the texts that are stored.
pub(super) fn hash(previous: &str, sequence: u64, entry: &NewEntry, before: &str, after: &str) -> String {
    let fields = serde_json::json!([
        sequence,
        entry.at,
        entry.actor,
        entry.action,
        entry.service,
        entry.reason,
        before,
        after
    ]);
    let mut digest = Sha256::new();
    digest.update(previous.as_bytes());
    digest.update(b"\n");
    digest.update(fields.to_string().as_bytes());
    digest
        .finalize()
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            text.push(char::from(digit(byte >> 4)));
            text.push(char::from(digit(byte & 15)));
            text
        })
}

const fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        _ => b'a' + value - 10,
    }
}
