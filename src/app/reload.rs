//! Reloads the configuration on a signal or a change of the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;

use super::Running;
use crate::config::{self, Config, FileWatch};

/// Reloads of one configuration file.
#[derive(Debug)]
pub(super) struct Reloads {
    path: PathBuf,
    /// The current configuration.
    current: Arc<Config>,
    changed: Arc<Notify>,
    /// Kept alive to watch the file; `None` when it is not watched.
    _watch: Option<FileWatch>,
}

impl Reloads {
    /// Watches the file of `current`.
    pub(super) fn new(current: Config, path: PathBuf) -> Reloads {
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        let watch = config::watch(&path, move || notify.notify_one())
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot watch the configuration file; SIGHUP reloads it");
            })
            .ok();
        Reloads {
            path,
            current: Arc::new(current),
            changed,
            _watch: watch,
        }
    }

    /// Waits until the content of the file changes.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Reloads the file. An invalid one changes nothing.
    pub(super) async fn reload(&mut self, running: &Running, actor: &str) {
        match self.apply(running, actor).await {
            Ok(detail) => tracing::info!(detail, actor, "configuration reloaded"),
            Err(detail) => tracing::error!(
                actor,
                "the configuration was not reloaded, the current one stays in effect: {detail}"
            ),
        }
    }

    async fn apply(&mut self, running: &Running, actor: &str) -> Result<String, String> {
        // On a blocking thread, since a large file takes time and this thread runs health checks
        // and webhooks.
        let (path, current) = (self.path.clone(), Arc::clone(&self.current));
        let read = tokio::task::spawn_blocking(move || read(&path, &current)).await;
        let new = match read.unwrap_or_else(|error| Err(format!("cannot read it: {error}"))) {
            Ok(new) => new,
            Err(detail) => {
                running.handle().reload_failed(detail.clone()).await;
                return Err(detail);
            }
        };
        // The controller publishes the event, also when it rejects the configuration.
        let reloaded = running.handle().reload(new.services.clone(), actor).await;
        let detail = reloaded.map_err(|refusal| refusal.to_string())?;
        self.current = Arc::new(new);
        Ok(detail)
    }
}

/// Loads the configuration at `path`, if it can replace `current` without a restart.
fn read(path: &Path, current: &Config) -> Result<Config, String> {
    let new = config::load(path).map_err(|report| report.to_string())?;
    let cold = config::changes_needing_restart(current, &new);
    if cold.is_empty() {
        return Ok(new);
    }
    Err(format!(
        "changes of these keys need a restart: {}",
        cold.join(", ")
    ))
}
