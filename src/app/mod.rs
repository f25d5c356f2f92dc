//! Builds, connects, starts and drains all parts.
//!
//! The controller has a thread of its own, so that nothing else delays a rollback; so has the admin
//! API. The calling thread runs health checks, webhooks, signals and reloads. Each worker of the
//! data plane is a thread.

pub(crate) mod audit;
mod reload;
pub(crate) mod replay;
mod running;
mod signals;
mod threads;

use std::path::PathBuf;

pub use running::{Error, Running, start};
use signals::Signal;
pub(crate) use signals::Signals;

use crate::{config, telemetry};

/// Options of [`run`].
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The configuration file.
    pub config_path: PathBuf,
}

/// Runs the proxy until a signal stops it. SIGTERM, SIGINT and SIGQUIT drain, a second one exits at
/// once; SIGHUP reloads; SIGUSR1 reopens the access log.
///
/// # Errors
///
/// [`Error`], if it did not start or a second signal aborted the drain.
pub fn run(options: RunOptions) -> Result<(), Error> {
    let config = config::load(&options.config_path)?;
    // Kept until the end, also after a panic, so that the last lines are written.
    let log = telemetry::init(config.telemetry.log);
    if let Err(error) = &log {
        tracing::warn!(%error, "cannot apply the log settings of the configuration");
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
        "ready; SIGTERM, SIGINT and SIGQUIT drain (a second one exits at once), SIGHUP reloads, \
         SIGUSR1 reopens the access log"
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
                let timeout = drain.timeout;
                tracing::warn!(?timeout, "the drain timeout aborted requests in flight");
            }
            Ok(())
        }
        () = signals.end() => Err(Error::Cut),
    }
}
