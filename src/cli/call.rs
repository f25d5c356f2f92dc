//! Calls of the admin API, as the verbs make them.

use crate::client::{AdminClient, ApiResponse, Error};

use super::args::Global;
use super::exit::{Exit, Failure};
use super::terminal::Terminal;

/// Calls the admin API and waits for the response.
pub(super) fn ask<T>(
    call: impl Future<Output = Result<ApiResponse<T>, Error>>,
    terminal: &mut Terminal,
) -> Result<ApiResponse<T>, Failure> {
    let answer = block_on(call)??;
    terminal.explain(&answer.trace);
    Ok(answer)
}

/// Runs a call on a runtime of its own.
pub(super) fn block_on<T>(call: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("cannot start the async runtime: {error}"),
            )
        })?;
    Ok(runtime.block_on(call))
}

/// The client for the address and token of the command line or the environment.
pub(super) fn client(global: &Global) -> Result<AdminClient, Failure> {
    Ok(AdminClient::new(&global.admin, token(global)?.as_deref())?)
}

/// The token from the file or the environment, never from the command line, which other users of
/// the machine can read.
fn token(global: &Global) -> Result<Option<String>, Failure> {
    if let Some(path) = &global.token_file {
        let unreadable = |error| {
            Failure::new(
                Exit::Failed,
                format!("cannot read the token file {}: {error}", path.display()),
            )
        };
        return std::fs::read_to_string(path).map(Some).map_err(unreadable);
    }
    Ok(std::env::var("WEIGHBRIDGE_TOKEN")
        .ok()
        .filter(|token| !token.trim().is_empty()))
}
