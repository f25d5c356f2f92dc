//! The controller's interface for the rest of the program.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, mpsc, oneshot};

use super::{EventStream, Metrics, ReleaseVerb, Views};
use crate::model::{IdempotencyKey, KeptAnswer, ServiceSpec, api};

/// Commands that may wait for the controller; the sender of the next one blocks.
const COMMANDS_MAX: usize = 64;

/// Who requests a change, and why.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The name of the caller's token, `anonymous` without tokens, or the component that acts.
    pub actor: String,
    /// The reason given, for the journal.
    pub reason: Option<String>,
    /// The revision that the caller has read; the change is refused as stale if the service has a
    /// later one.
    pub expected_revision: Option<u64>,
    /// Whether the caller may override gates, freeze windows and the preflight of the
    /// configuration.
    pub may_override: bool,
    /// The idempotency key of the request, if it has one.
    pub idempotency: Option<IdempotencyKey>,
}

/// The result of a change of weights.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The service after the change.
    pub service: api::Service,
    /// Whether the change is on disk. Only a change towards the baseline is applied without.
    pub durable: bool,
}

/// Why a change was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// The service does not exist.
    #[error("there is no service {0:?}")]
    UnknownService(String),
    /// Invalid fields: an unknown upstream, a sum other than 100, more than two decimals.
    #[error("the weights are not valid")]
    Invalid(Vec<api::FieldProblem>),
    /// The caller's revision is stale.
    #[error(
        "the request is based on a stale revision: the service is at revision {current}, not \
         {expected}; read it again"
    )]
    Stale {
        /// The revision that the caller named.
        expected: u64,
        /// The current revision.
        current: u64,
    },
    /// A rollback superseded this change before it was published.
    #[error("a rollback superseded this change; nothing was changed")]
    Overtaken,
    /// The change away from the baseline could not be written to disk, so nothing changed.
    #[error("the store did not commit the change: {0}; nothing was changed")]
    Store(String),
    /// The release does not exist.
    #[error("there is no release {0:?}")]
    UnknownRelease(String),
    /// The plan of a release, or another field of its start, is invalid. Pointers refer to the
    /// request's body, so those of the plan begin with `/plan`.
    #[error("the release start is not valid")]
    Unfit(Vec<api::FieldProblem>),
    /// Not possible in the current state: a second release, a command that the phase does not
    /// allow, manual weights during a release.
    #[error("{0}")]
    Conflict(String),
    /// The caller's role does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// A reload that cannot be applied.
    #[error("{0}")]
    Reload(String),
    /// The controller has stopped.
    #[error("the controller has stopped")]
    Stopped,
}

/// A command to the controller, with its reply channel.
#[derive(Debug)]
pub enum ControllerRequest {
    /// Sets weights.
    SetWeights {
        /// The service.
        service: String,
        /// Upstream to percent, as given; the controller validates them against the current
        /// service.
        weights: api::Percentages,
        /// Who and why.
        intent: Intent,
        /// The reply channel.
        reply: oneshot::Sender<Result<Applied, Refusal>>,
    },
    /// Moves all weight to the baseline.
    Rollback {
        /// The service.
        service: String,
        /// Who and why.
        intent: Intent,
        /// The reply channel.
        reply: oneshot::Sender<Result<Applied, Refusal>>,
    },
    /// Starts a release.
    StartRelease {
        /// The service.
        service: String,
        /// The request's body.
        start: Box<api::ReleaseStart>,
        /// Who and why.
        intent: Intent,
        /// The reply channel.
        reply: oneshot::Sender<Result<api::ReleaseChange, Refusal>>,
    },
    /// A command on a release.
    Release {
        /// The id of the release.
        id: String,
        /// The command.
        verb: ReleaseVerb,
        /// The request's body.
        command: Box<api::ReleaseCommand>,
        /// Who and why.
        intent: Intent,
        /// The reply channel.
        reply: oneshot::Sender<Result<api::ReleaseChange, Refusal>>,
    },
    /// The releases of a service, newest first.
    Releases {
        /// The service.
        service: String,
        /// The largest number of releases to return.
        limit: usize,
        /// The reply channel.
        reply: oneshot::Sender<Result<Vec<api::Release>, Refusal>>,
    },
    /// One release, also a finished one.
    GetRelease {
        /// The id of the release.
        id: String,
        /// The reply channel.
        reply: oneshot::Sender<Result<api::Release, Refusal>>,
    },
    /// The evidence bundle of a release.
    Evidence {
        /// The id of the release.
        id: String,
        /// The reply channel.
        reply: oneshot::Sender<Result<Box<api::EvidenceBundle>, Refusal>>,
    },
    /// The recording of a release: the input of its decisions.
    Recording {
        /// The id of the release.
        id: String,
        /// The reply channel.
        reply: oneshot::Sender<Result<PathBuf, Refusal>>,
    },
    /// The cost and duration of a plan at the current traffic.
    Forecast {
        /// The service.
        service: String,
        /// The plan: its fields replace those of the service's `release` block.
        plan: Option<serde_json::Map<String, serde_json::Value>>,
        /// The reply channel.
        reply: oneshot::Sender<Result<api::Forecast, Refusal>>,
    },
    /// Applies the services of a new, valid configuration.
    Reload {
        /// All services of the new configuration.
        services: Vec<ServiceSpec>,
        /// Who requests it: the name of a token, `signal` or `file`.
        actor: String,
        /// The reply channel: a summary of what changed.
        reply: oneshot::Sender<Result<String, Refusal>>,
    },
    /// Reports that a new configuration was rejected before it reached the controller.
    ReloadFailed {
        /// Why it was rejected.
        detail: String,
    },
    /// Stores the response to a write with an idempotency key as it was sent.
    KeepAnswer {
        /// The idempotency key.
        key: IdempotencyKey,
        /// The response; `None` removes a stored one.
        answer: Option<KeptAnswer>,
        /// The reply channel, used once this is done or has failed.
        reply: oneshot::Sender<()>,
    },
    /// A page of the journal.
    Audit {
        /// Return entries before this sequence number; without it the newest.
        before: Option<u64>,
        /// The largest number of entries to return.
        limit: usize,
        /// The reply channel.
        reply: oneshot::Sender<Result<api::AuditPage, Refusal>>,
    },
    /// Verifies the journal's hash chain.
    VerifyAudit {
        /// The reply channel.
        reply: oneshot::Sender<Result<api::AuditVerdict, Refusal>>,
    },
}

/// Whether the proxy is ready for new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The controller has not published its first table yet.
    Starting,
    /// Requests are served by the configuration.
    Ready,
    /// The process is shutting down.
    Draining,
}

/// A cheap handle on the controller. Dropping the last one stops it.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<ControllerRequest>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    events: Arc<EventStream>,
    views: Arc<dyn Views>,
    readiness: AtomicU8,
    /// Stored responses from before the start.
    answers: Mutex<Vec<KeptAnswer>>,
}

impl Handle {
    /// A handle and the receiver of its commands, for the controller or a substitute in tests.
    /// Services are read from `views` without a command.
    pub fn channel(
        metrics: Arc<Metrics>,
        events: Arc<EventStream>,
        views: Arc<dyn Views>,
    ) -> (Handle, mpsc::Receiver<ControllerRequest>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let shared = Arc::new(Shared {
            metrics,
            events,
            views,
            readiness: AtomicU8::new(Readiness::Starting as u8),
            answers: Mutex::default(),
        });
        (Handle { commands, shared }, receiver)
    }

    /// All services, sorted by name. Uses no time of the controller's thread. Reflects every change
    /// that the controller has replied to before.
    ///
    /// # Errors
    ///
    /// [`Refusal::Stopped`].
    pub fn services(&self) -> Result<Vec<api::Service>, Refusal> {
        self.running()?;
        Ok(self.shared.views.services())
    }

    /// One service, read like [`Handle::services`].
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownService`], [`Refusal::Stopped`].
    pub fn service(&self, name: &str) -> Result<api::Service, Refusal> {
        self.running()?;
        let service = self.shared.views.service(name);
        service.ok_or_else(|| Refusal::UnknownService(name.to_owned()))
    }

    /// The revision of a service, read like [`Handle::services`].
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownService`], [`Refusal::Stopped`].
    pub fn revision(&self, name: &str) -> Result<u64, Refusal> {
        self.running()?;
        let revision = self.shared.views.revision(name);
        revision.ok_or_else(|| Refusal::UnknownService(name.to_owned()))
    }

    fn running(&self) -> Result<(), Refusal> {
        if self.commands.is_closed() {
            return Err(Refusal::Stopped);
        }
        Ok(())
    }

    /// Sets the weights of a service. When this returns, no request routed by the older weights can
    /// still start on an upstream whose weight is now 0.
    ///
    /// # Errors
    ///
    /// Every [`Refusal`] but `Reload`; nothing changed then.
    pub async fn set_weights(
        &self,
        service: &str,
        weights: api::Percentages,
        intent: Intent,
    ) -> Result<Applied, Refusal> {
        let service = service.to_owned();
        self.ask(|reply| ControllerRequest::SetWeights {
            service,
            weights,
            intent,
            reply,
        })
        .await?
    }

    /// Moves all weight of a service to its baseline, or to the previous baseline if the baseline
    /// already has all of it.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownService`], [`Refusal::Stale`], [`Refusal::Stopped`]; never the store's.
    pub async fn rollback(&self, service: &str, intent: Intent) -> Result<Applied, Refusal> {
        let service = service.to_owned();
        self.ask(|reply| ControllerRequest::Rollback {
            service,
            intent,
            reply,
        })
        .await?
    }

    /// Starts a release.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownService`], [`Refusal::Unfit`], [`Refusal::Conflict`] while another is
    /// under way, [`Refusal::Stale`], [`Refusal::Store`], [`Refusal::Stopped`]; nothing changed
    /// then.
    pub async fn start_release(
        &self,
        service: &str,
        start: api::ReleaseStart,
        intent: Intent,
    ) -> Result<api::ReleaseChange, Refusal> {
        let (service, start) = (service.to_owned(), Box::new(start));
        self.ask(|reply| ControllerRequest::StartRelease {
            service,
            start,
            intent,
            reply,
        })
        .await?
    }

    /// Carries out a command on a release. After [`ReleaseVerb::RollBack`] and
    /// [`ReleaseVerb::Cancel`] no new request can start on the canary.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRelease`], [`Refusal::Conflict`] if its phase does not allow the command,
    /// [`Refusal::Unfit`], [`Refusal::Stale`], [`Refusal::Store`] (never for a pause, a rollback or
    /// a cancellation), [`Refusal::Stopped`].
    pub async fn command_release(
        &self,
        id: &str,
        verb: ReleaseVerb,
        command: api::ReleaseCommand,
        intent: Intent,
    ) -> Result<api::ReleaseChange, Refusal> {
        let (id, command) = (id.to_owned(), Box::new(command));
        self.ask(|reply| ControllerRequest::Release {
            id,
            verb,
            command,
            intent,
            reply,
        })
        .await?
    }

    /// The releases of a service, newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownService`], [`Refusal::Store`], [`Refusal::Stopped`].
    pub async fn releases(
        &self,
        service: &str,
        limit: usize,
    ) -> Result<Vec<api::Release>, Refusal> {
        let service = service.to_owned();
        self.ask(|reply| ControllerRequest::Releases {
            service,
            limit,
            reply,
        })
        .await?
    }

    /// One release, also a finished one.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRelease`], [`Refusal::Store`], [`Refusal::Stopped`].
    pub async fn release(&self, id: &str) -> Result<api::Release, Refusal> {
        let id = id.to_owned();
        self.ask(|reply| ControllerRequest::GetRelease { id, reply })
            .await?
    }

    /// The evidence bundle of a release; for a release in progress, as far as it goes.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRelease`], [`Refusal::Store`], [`Refusal::Stopped`].
    pub async fn evidence(&self, id: &str) -> Result<Box<api::EvidenceBundle>, Refusal> {
        let id = id.to_owned();
        self.ask(|reply| ControllerRequest::Evidence { id, reply })
            .await?
    }

    /// The file with the recording of a release, for a replay. It exists once something was
    /// recorded, and grows while the release is in progress.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRelease`], [`Refusal::Store`], [`Refusal::Stopped`].
    pub async fn recording(&self, id: &str) -> Result<PathBuf, Refusal> {
        let id = id.to_owned();
        self.ask(|reply| ControllerRequest::Recording { id, reply })
            .await?
    }

    /// The cost and duration of a plan at the current traffic.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownService`], [`Refusal::Unfit`], [`Refusal::Stopped`].
    pub async fn forecast(
        &self,
        service: &str,
        plan: Option<serde_json::Map<String, serde_json::Value>>,
    ) -> Result<api::Forecast, Refusal> {
        let service = service.to_owned();
        self.ask(|reply| ControllerRequest::Forecast {
            service,
            plan,
            reply,
        })
        .await?
    }

    /// Applies the services of a new, valid configuration; returns a summary of what changed.
    ///
    /// # Errors
    ///
    /// [`Refusal::Reload`] if it would remove an upstream that has traffic; the old table stays in
    /// use then.
    pub async fn reload(&self, services: Vec<ServiceSpec>, actor: &str) -> Result<String, Refusal> {
        let actor = actor.to_owned();
        self.ask(|reply| ControllerRequest::Reload {
            services,
            actor,
            reply,
        })
        .await?
    }

    /// Reports that a new configuration was rejected before it reached the controller, and why.
    pub async fn reload_failed(&self, detail: String) {
        // A controller that has stopped has no subscribers to notify.
        let _ = self
            .commands
            .send(ControllerRequest::ReloadFailed { detail })
            .await;
    }

    /// Stores the response to a write with an idempotency key as it was sent; `None` removes a
    /// stored one. Returns when this is on disk, or has failed.
    pub async fn keep_answer(&self, key: IdempotencyKey, answer: Option<KeptAnswer>) {
        // A controller that has stopped stores nothing.
        let _ = self
            .ask(|reply| ControllerRequest::KeepAnswer { key, answer, reply })
            .await;
    }

    /// Takes the responses that the store held at the start.
    pub fn take_answers(&self) -> Vec<KeptAnswer> {
        std::mem::take(
            &mut *self
                .shared
                .answers
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(super) fn set_answers(&self, answers: Vec<KeptAnswer>) {
        *self
            .shared
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = answers;
    }

    /// A page of the journal, newest first.
    ///
    /// # Errors
    ///
    /// [`Refusal::Store`] if it cannot be read.
    pub async fn audit(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<api::AuditPage, Refusal> {
        self.ask(|reply| ControllerRequest::Audit {
            before,
            limit,
            reply,
        })
        .await?
    }

    /// Verifies the journal's hash chain.
    ///
    /// # Errors
    ///
    /// [`Refusal::Store`] if it cannot be read, [`Refusal::Conflict`] while another verification is
    /// running.
    pub async fn verify_audit(&self) -> Result<api::AuditVerdict, Refusal> {
        self.ask(|reply| ControllerRequest::VerifyAudit { reply })
            .await?
    }

    /// All events from now on, and the kept events after `last_id`.
    pub fn events(
        &self,
        last_id: Option<u64>,
    ) -> (Vec<api::Event>, broadcast::Receiver<api::Event>) {
        self.shared.events.subscribe(last_id)
    }

    /// The metrics; `render` gives the response to a scrape.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Whether the proxy is ready for new connections.
    pub fn readiness(&self) -> Readiness {
        match self.shared.readiness.load(Ordering::Acquire) {
            ready if ready == Readiness::Ready as u8 => Readiness::Ready,
            draining if draining == Readiness::Draining as u8 => Readiness::Draining,
            _ => Readiness::Starting,
        }
    }

    /// Marks the first table as in use, unless the process is already shutting down.
    pub fn set_ready(&self) {
        let (from, to) = (Readiness::Starting as u8, Readiness::Ready as u8);
        let _ =
            self.shared
                .readiness
                .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Marks the process as shutting down; this is final.
    pub fn set_draining(&self) {
        self.shared
            .readiness
            .store(Readiness::Draining as u8, Ordering::Release);
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> ControllerRequest,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| Refusal::Stopped)?;
        answer.await.map_err(|_| Refusal::Stopped)
    }
}
