//! Builds every part, connects them, starts and drains them.

use std::path::PathBuf;

/// What `run` needs to know.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The configuration file.
    pub config_path: PathBuf,
}

/// Why the proxy could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The assembly is not there yet.
    #[error("the proxy is not assembled yet; {0} was not read")]
    NotAssembled(PathBuf),
}

/// Runs the proxy until a signal ends it.
///
/// # Errors
///
/// [`Error`] says why it did not start or go on.
pub fn run(options: RunOptions) -> Result<(), Error> {
    Err(Error::NotAssembled(options.config_path))
}
