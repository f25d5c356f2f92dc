//! What the rest of the program asks of the controller.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, mpsc, oneshot};

use super::{EventStream, Metrics, ReleaseVerb, Views};
use crate::model::{IdempotencyKey, KeptAnswer, ServiceSpec, api};

/// Commands that may wait for the controller; whoever sends one more waits with it.
const COMMANDS_MAX: usize = 64;

/// Who asks for a change and why.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The name of the caller's token, `anonymous` without tokens, or the part of the program that
    /// acts.
    pub actor: String,
    /// The reason given, for the journal.
    pub reason: Option<String>,
    /// The revision that the caller has seen; a change is refused when the service has moved on.
    pub expected_revision: Option<u64>,
    /// Whether the caller may override gates, freeze windows and the preflight of the
    /// configuration.
    pub may_override: bool,
    /// What the caller repeats the request with, if they may.
    pub idempotency: Option<IdempotencyKey>,
}

/// The outcome of a change of weights.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The service after the change.
    pub service: api::Service,
    /// Whether the change is on disk. Only a change towards the baseline is ever applied without.
    pub durable: bool,
}

/// Why a change was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// No such service.
    #[error("there is no service {0:?}")]
    UnknownService(String),
    /// Fields that are wrong: an unknown upstream, a sum that is not 100, more than two decimals.
    #[error("the weights cannot be used")]
    Invalid(Vec<api::FieldProblem>),
    /// The caller's revision is stale.
    #[error("the service is at revision {current}, not at {expected}; read it again")]
    Stale {
        /// The revision that the caller named.
        expected: u64,
        /// The revision as it is.
        current: u64,
    },
    /// A brake came between: a rollback overtook this change before it was published.
    #[error("a rollback came first; the change was not made")]
    Overtaken,
    /// The change away from the baseline could not be written to disk, so nothing changed.
    #[error("the store did not take the change: {0}; nothing was changed")]
    Store(String),
    /// No such release.
    #[error("there is no release {0:?}")]
    UnknownRelease(String),
    /// The plan of a release, or another field of its start, is wrong. Pointers are into the
    /// request's body, so those of the plan begin with `/plan`.
    #[error("the release cannot be started like this")]
    Unfit(Vec<api::FieldProblem>),
    /// Not possible in the present state: a second release, a verb that does not fit the phase,
    /// weights by hand under a release.
    #[error("{0}")]
    Conflict(String),
    /// The caller's role does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// A reload that cannot be carried out.
    #[error("{0}")]
    Reload(String),
    /// The controller has ended.
    #[error("the controller has stopped")]
    Stopped,
}

/// A request to the controller, with the way back.
#[derive(Debug)]
pub enum ControllerRequest {
    /// New weights.
    SetWeights {
        /// The service.
        service: String,
        /// Upstream and percent as given; the controller checks them against the service as it is.
        weights: api::Percentages,
        /// Who and why.
        intent: Intent,
        /// The way back.
        reply: oneshot::Sender<Result<Applied, Refusal>>,
    },
    /// All weight back to the baseline.
    Rollback {
        /// The service.
        service: String,
        /// Who and why.
        intent: Intent,
        /// The way back.
        reply: oneshot::Sender<Result<Applied, Refusal>>,
    },
    /// Starts a release.
    StartRelease {
        /// The service.
        service: String,
        /// As asked.
        start: Box<api::ReleaseStart>,
        /// Who and why.
        intent: Intent,
        /// The way back.
        reply: oneshot::Sender<Result<api::ReleaseChange, Refusal>>,
    },
    /// A verb on a release.
    Release {
        /// Its identity.
        id: String,
        /// What is to be done.
        verb: ReleaseVerb,
        /// What came with it.
        command: Box<api::ReleaseCommand>,
        /// Who and why.
        intent: Intent,
        /// The way back.
        reply: oneshot::Sender<Result<api::ReleaseChange, Refusal>>,
    },
    /// The releases of a service, newest first.
    Releases {
        /// The service.
        service: String,
        /// So many at most.
        limit: usize,
        /// The way back.
        reply: oneshot::Sender<Result<Vec<api::Release>, Refusal>>,
    },
    /// One release, also one that has ended.
    GetRelease {
        /// Its identity.
        id: String,
        /// The way back.
        reply: oneshot::Sender<Result<api::Release, Refusal>>,
    },
    /// The evidence bundle of a release.
    Evidence {
        /// Its identity.
        id: String,
        /// The way back.
        reply: oneshot::Sender<Result<Box<api::EvidenceBundle>, Refusal>>,
    },
    /// The file that holds what a release was judged by.
    Recording {
        /// Its identity.
        id: String,
        /// The way back.
        reply: oneshot::Sender<Result<PathBuf, Refusal>>,
    },
    /// What a plan would cost and take at the present traffic.
    Forecast {
        /// The service.
        service: String,
        /// The plan: what it names replaces the same fields of the service's `release` block.
        plan: Option<serde_json::Map<String, serde_json::Value>>,
        /// The way back.
        reply: oneshot::Sender<Result<api::Forecast, Refusal>>,
    },
    /// The services of a new, valid configuration.
    Reload {
        /// All services that are to be.
        services: Vec<ServiceSpec>,
        /// Who asks: the name of a token, `signal` or `file`.
        actor: String,
        /// The way back: what changed, in words.
        reply: oneshot::Sender<Result<String, Refusal>>,
    },
    /// A new configuration was refused before it came here; people are told.
    ReloadFailed {
        /// What is wrong with it.
        detail: String,
    },
    /// The answer to a write that may be repeated is to be kept as it was given.
    KeepAnswer {
        /// What it answers.
        key: IdempotencyKey,
        /// The answer; without one, none is to be kept.
        answer: Option<KeptAnswer>,
        /// The way back, once that is done or cannot be.
        reply: oneshot::Sender<()>,
    },
    /// A page of the journal.
    Audit {
        /// Entries before this sequence number; without it the newest.
        before: Option<u64>,
        /// So many at most.
        limit: usize,
        /// The way back.
        reply: oneshot::Sender<Result<api::AuditPage, Refusal>>,
    },
    /// Whether the journal is whole.
    VerifyAudit {
        /// The way back.
        reply: oneshot::Sender<Result<api::AuditVerdict, Refusal>>,
    },
}

/// Whether the proxy should get new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The controller has not yet published its first table.
    Starting,
    /// Requests are served by the configuration.
    Ready,
    /// The process is on its way out.
    Draining,
}

/// A cheap handle on the controller. Dropping the last one ends it.
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
    /// Answers of before the start.
    answers: Mutex<Vec<KeptAnswer>>,
}

impl Handle {
    /// A handle and what it sends, for the controller or for one who stands in for it.
    /// Services are read from `views`, without asking anybody.
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

    /// All services, in the order of their names. Takes CPU time where there are many, and none of
    /// the controller's. What the controller has answered before is in it.
    ///
    /// # Errors
    ///
    /// [`Refusal::Stopped`].
    pub fn services(&self) -> Result<Vec<api::Service>, Refusal> {
        self.running()?;
        Ok(self.shared.views.services())
    }

    /// One service, the same way.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownService`], [`Refusal::Stopped`].
    pub fn service(&self, name: &str) -> Result<api::Service, Refusal> {
        self.running()?;
        let service = self.shared.views.service(name);
        service.ok_or_else(|| Refusal::UnknownService(name.to_owned()))
    }

    /// The revision of a service, the same way.
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

    /// New weights for a service. When this returns, no request that was routed by older ones can
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

    /// All weight of a service back to its baseline, or to the previous one when the baseline
    /// already has it all.
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

    /// Does something with a release. After [`ReleaseVerb::RollBack`] and [`ReleaseVerb::Cancel`]
    /// no request can start on the canary any more.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRelease`], [`Refusal::Conflict`] when its phase does not allow it,
    /// [`Refusal::Unfit`], [`Refusal::Stale`], [`Refusal::Store`] (never for a pause, a
    /// rollback or a cancellation), [`Refusal::Stopped`].
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

    /// One release, also one that has ended.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRelease`], [`Refusal::Store`], [`Refusal::Stopped`].
    pub async fn release(&self, id: &str) -> Result<api::Release, Refusal> {
        let id = id.to_owned();
        self.ask(|reply| ControllerRequest::GetRelease { id, reply })
            .await?
    }

    /// The evidence bundle of a release: of one under way, as far as it goes.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRelease`], [`Refusal::Store`], [`Refusal::Stopped`].
    pub async fn evidence(&self, id: &str) -> Result<Box<api::EvidenceBundle>, Refusal> {
        let id = id.to_owned();
        self.ask(|reply| ControllerRequest::Evidence { id, reply })
            .await?
    }

    /// The file that holds what a release was judged by, for a replay. It is there once something
    /// was recorded, and grows while the release is under way.
    ///
    /// # Errors
    ///
    /// [`Refusal::UnknownRelease`], [`Refusal::Store`], [`Refusal::Stopped`].
    pub async fn recording(&self, id: &str) -> Result<PathBuf, Refusal> {
        let id = id.to_owned();
        self.ask(|reply| ControllerRequest::Recording { id, reply })
            .await?
    }

    /// What a plan would cost and take at the present traffic.
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

    /// The services of a new, valid configuration; answers what changed, in words.
    ///
    /// # Errors
    ///
    /// [`Refusal::Reload`] when it would take away an upstream that has traffic; the old table
    /// stays in use then.
    pub async fn reload(&self, services: Vec<ServiceSpec>, actor: &str) -> Result<String, Refusal> {
        let actor = actor.to_owned();
        self.ask(|reply| ControllerRequest::Reload {
            services,
            actor,
            reply,
        })
        .await?
    }

    /// Tells people that a new configuration was refused before it came here, and why.
    pub async fn reload_failed(&self, detail: String) {
        // A controller that has stopped has nobody to tell.
        let _ = self
            .commands
            .send(ControllerRequest::ReloadFailed { detail })
            .await;
    }

    /// Keeps the answer to a write as it was given, for those who repeat it after a restart;
    /// without one, forgets what was kept with its change. Returns when that is on disk, or
    /// cannot be.
    pub async fn keep_answer(&self, key: IdempotencyKey, answer: Option<KeptAnswer>) {
        // A controller that has stopped keeps nothing any more.
        let _ = self
            .ask(|reply| ControllerRequest::KeepAnswer { key, answer, reply })
            .await;
    }

    /// The answers that the store had at the start, once.
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
    /// [`Refusal::Store`] when it cannot be read.
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

    /// Whether the whole journal is as it was written.
    ///
    /// # Errors
    ///
    /// [`Refusal::Store`] when it cannot be read, [`Refusal::Conflict`] while another one is being
    /// answered.
    pub async fn verify_audit(&self) -> Result<api::AuditVerdict, Refusal> {
        self.ask(|reply| ControllerRequest::VerifyAudit { reply })
            .await?
    }

    /// What happens from now on, and what happened since the event `last_id`, as far back as is
    /// remembered.
    pub fn events(
        &self,
        last_id: Option<u64>,
    ) -> (Vec<api::Event>, broadcast::Receiver<api::Event>) {
        self.shared.events.subscribe(last_id)
    }

    /// The metrics, whose `render` is the answer to a scrape.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Whether the proxy should get new connections.
    pub fn readiness(&self) -> Readiness {
        match self.shared.readiness.load(Ordering::Acquire) {
            ready if ready == Readiness::Ready as u8 => Readiness::Ready,
            draining if draining == Readiness::Draining as u8 => Readiness::Draining,
            _ => Readiness::Starting,
        }
    }

    /// Says that the first table is in use, unless the process is already on its way out.
    pub fn set_ready(&self) {
        let (from, to) = (Readiness::Starting as u8, Readiness::Ready as u8);
        let _ =
            self.shared
                .readiness
                .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Says that the process is on its way out; there is no way back.
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
