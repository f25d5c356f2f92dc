//! Values that are created once per store and read at each start.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::open::{damaged, unusable};
use crate::model::StickySecret;
use crate::store::StoreError;

const STICKY_SECRET: &str = "sticky_secret";

/// The stored secret, or a new one once it is on disk.
pub(super) fn sticky_secret(
    connection: &mut Connection,
    directory: &Path,
) -> Result<StickySecret, StoreError> {
    if let Some(bytes) = stored(connection).map_err(|error| damaged(directory, &error))? {
        return known(bytes, directory);
    }
    let advice = "make room on the disk and check that this user may write there";
    let mut fresh = [0; StickySecret::BYTES];
    getrandom::fill(&mut fresh)
        .map_err(|error| unusable(directory, &error, "check the system's random generator"))?;
    let bytes =
        read_or_insert(connection, &fresh).map_err(|error| unusable(directory, &error, advice))?;
    known(bytes, directory)
}

/// Another process may have been faster; then its secret is used.
fn read_or_insert(connection: &mut Connection, fresh: &[u8]) -> rusqlite::Result<Vec<u8>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let bytes = match stored(&transaction)? {
        Some(bytes) => bytes,
        None => {
            transaction.execute(
                "INSERT INTO settings VALUES (?1, ?2)",
                (STICKY_SECRET, fresh),
            )?;
            fresh.to_vec()
        }
    };
    transaction.commit()?;
    Ok(bytes)
}

fn stored(connection: &Connection) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .query_row(
            "SELECT value FROM settings WHERE name = ?1",
            [STICKY_SECRET],
            |row| row.get(0),
        )
        .optional()
}

fn known(bytes: Vec<u8>, directory: &Path) -> Result<StickySecret, StoreError> {
    let length = bytes.len();
    <[u8; StickySecret::BYTES]>::try_from(bytes)
        .map(StickySecret::new)
        .map_err(|_| {
            damaged(
                directory,
                &format!("the sticky cookie secret has {length} bytes"),
            )
        })
}
