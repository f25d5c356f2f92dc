//! Builds every part, connects them, starts and drains them.
//!
//! The controller has a thread of its own, so that nothing else of the control plane can keep a
//! rollback waiting; so has the admin API. The calling thread does the rest: health checks,
//! webhooks, signals and reloads. The data plane's workers are threads of their own.

pub(crate) mod audit;
pub(crate) mod demo;
mod reload;
pub(crate) mod replay;
mod running;
mod signals;
mod threads;

use std::path::PathBuf;

pub use running::{Error, Running, start};
use signals::{Signal, Signals};

use crate::{config, telemetry};

/// What `run` needs to know.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The configuration file.
    pub config_path: PathBuf,
}

/// Runs the proxy until a signal ends it. SIGTERM, SIGINT and SIGQUIT drain, a second one ends at
/// once; SIGHUP reloads; SIGUSR1 opens the access log anew.
///
/// # Errors
///
/// [`Error`] says why it did not start, or that it had to cut requests off at its end.
pub fn run(options: RunOptions) -> Result<(), Error> {
    let config = config::load(&options.config_path)?;
    // Held to the end, also to that of a panic, so that the last lines are written.
    let log = telemetry::init(config.telemetry.log);
    if let Err(error) = &log {
        tracing::warn!(%error, "the configuration's log settings are not in use");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(supervise(config, options.config_path))
}

async fn supervise(config: config::Config, path: PathBuf) -> Result<(), Error> {
    let mut signals = Signals::listen().map_err(Error::Runtime)?;
    let drain = config.proxy.drain;
    let mut reloads = reload::Reloads::new(config.clone(), path);
    let running = start(config)?;
    tracing::info!(
        listeners = ?running.listener_addresses(),
        admin = %running.admin_address(),
        "ready; SIGTERM, SIGINT and SIGQUIT drain (a second one ends at once), SIGHUP reloads, SIGUSR1 reopens the access log"
    );
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::End => break,
                Signal::Reload => reloads.reload(&running, "signal").await,
                Signal::Reopen => running.reopen_logs(),
            },
            () = reloads.changed() => reloads.reload(&running, "file").await,
        }
    }
    tracing::info!(delay = ?drain.delay, timeout = ?drain.timeout, "draining");
    tokio::select! {
        clean = running.drain(drain.delay, drain.timeout) => {
            if !clean {
                tracing::warn!(timeout = ?drain.timeout, "requests were cut off: they had not finished in time");
            }
            Ok(())
        }
        () = signals.end() => Err(Error::Cut),
    }
}
