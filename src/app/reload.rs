//! Reading the configuration again, when a signal asks for it or the file has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;

use super::Running;
use crate::config::{self, Config, FileWatch};

/// Reloads of one configuration file.
#[derive(Debug)]
pub(super) struct Reloads {
    path: PathBuf,
    /// The configuration in use.
    current: Arc<Config>,
    changed: Arc<Notify>,
    /// Held for its effect; `None` when the file is not watched.
    _watch: Option<FileWatch>,
}

impl Reloads {
    /// Watches the file that `current` was read from.
    pub(super) fn new(current: Config, path: PathBuf) -> Reloads {
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        let watch = config::watch(&path, move || notify.notify_one())
            .inspect_err(|error| tracing::warn!(%error, "the configuration file is not watched; SIGHUP reloads it"))
            .ok();
        Reloads {
            path,
            current: Arc::new(current),
            changed,
            _watch: watch,
        }
    }

    /// Waits until the file's content has changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Reads the file again. A wrong one changes nothing.
    pub(super) async fn reload(&mut self, running: &Running, actor: &str) {
        match self.apply(running, actor).await {
            Ok(detail) => tracing::info!(detail, actor, "configuration reloaded"),
            Err(detail) => tracing::error!(
                actor,
                "the configuration was not reloaded, the old one stays in use: {detail}"
            ),
        }
    }

    async fn apply(&mut self, running: &Running, actor: &str) -> Result<String, String> {
        // Not on this thread: a large file takes a moment, and health checks and webhooks go on
        // meanwhile.
        let (path, current) = (self.path.clone(), Arc::clone(&self.current));
        let read = tokio::task::spawn_blocking(move || read(&path, &current)).await;
        let new = match read.unwrap_or_else(|error| Err(format!("it could not be read: {error}"))) {
            Ok(new) => new,
            Err(detail) => {
                running.handle().reload_failed(detail.clone()).await;
                return Err(detail);
            }
        };
        // Who watches is told by the controller, also when it refuses.
        let reloaded = running.handle().reload(new.services.clone(), actor).await;
        let detail = reloaded.map_err(|refusal| refusal.to_string())?;
        self.current = Arc::new(new);
        Ok(detail)
    }
}

/// The configuration at `path`, if it can take the place of `current` without a restart.
fn read(path: &Path, current: &Config) -> Result<Config, String> {
    let new = config::load(path).map_err(|report| report.to_string())?;
    let cold = config::changes_needing_restart(current, &new);
    if cold.is_empty() {
        return Ok(new);
    }
    Err(format!(
        "these keys only change with a restart: {}",
        cold.join(", ")
    ))
}
