//! Where live state is stored.

use std::path::PathBuf;

/// Settings of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The directory of the database, created if missing; by default none, and live state ends with
    /// the process.
    pub path: Option<PathBuf>,
}
