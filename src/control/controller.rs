//! The controller: an actor that owns every service's live state, and the only part that changes
//! weights.
//!
//! It waits for nothing but its next message. Commits, acknowledgements of the workers and replies
//! are futures that it polls beside its messages, so a disk that hangs delays whoever depends on
//! it, but no rollback.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::absent::AbsentServices;
use super::change::{PendingChange, Reply, RequestedWeights};
use super::collect::Collector;
use super::commit_queue::{CommitId, CommitQueue};
use super::published_views::{PublishedViews, ServiceDetails, Views};
use super::release::{BackgroundJobs, FinishedRelease, Preflighter, RunningRelease};
use super::state::ServiceState;
use super::{Applied, ControllerRequest, EventStream, Handle, Metrics, Refusal};
use crate::model::{IdempotencyKey, KeptAnswer, Name, ServiceSpec, api};
use crate::routing::{HealthEvent, KeyRegistry, Publisher, RoutingTable};
use crate::stats::{Batch, EventBatch, Watermark};
use crate::store::{Committed, LoadedState, Store, StoreError};
use crate::time::{Clock, Timestamp};

/// Batches that may wait. A worker that finds the channel full keeps counting and sends later.
const BATCHES_MAX: usize = 64;
/// Batches of events that may wait. Workers flush events at once while a failure waits for
/// evaluation, so there may be many small batches. A worker that finds the channel full keeps its
/// events and sends later.
const NOTES_MAX: usize = 1024;
/// Health events that may wait; a checker blocks on the next one.
const HEALTH_MAX: usize = 256;

/// How often releases are evaluated without a trigger, for transitions that depend on time alone.
const TICK: Duration = Duration::from_millis(10);
/// The interval of evaluations while a failure waits for events that workers still hold.
const SOON: Duration = Duration::from_millis(1);

/// The inputs of the controller.
pub struct Setup {
    /// Services of the configuration.
    pub services: Vec<ServiceSpec>,
    /// Names of the listeners, in the order of the workers' index.
    pub listeners: Vec<String>,
    /// Number of workers.
    pub workers: usize,
    /// Runs the preflight requests to canaries.
    pub preflighter: Preflighter,
    /// Whether the admin API has tokens; without them nobody can approve a gate.
    pub approvals: bool,
    /// The store that changes are committed to.
    pub store: Store,
    /// The state that was read from the store.
    pub loaded: LoadedState,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// The controller's interfaces to the rest of the program.
#[derive(Debug)]
pub struct Links {
    /// For the admin API.
    pub handle: Handle,
    /// For the workers: publishes routing tables. The first table, from configuration and store, is
    /// already published.
    pub publisher: Publisher,
    /// Counters from the workers.
    pub batches: mpsc::Sender<Batch>,
    /// Events of requests in releases, from the workers.
    pub notes: mpsc::Sender<EventBatch>,
    /// The watermark up to which these events are complete.
    pub horizon: Arc<Watermark>,
    /// Health events from the checkers.
    pub health: mpsc::Sender<HealthEvent>,
}

/// Time limits and intervals of the controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// How long a change in effect waits for its commit before the reply says that it is not
    /// durable.
    pub(super) durable_within: Duration,
    /// How long a change that is not in effect may wait for its commit.
    pub(super) commit_within: Duration,
    /// The pause between two attempts to write a change in effect.
    pub(super) retry: Duration,
    /// The interval of statistics events.
    pub(super) statistics: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            durable_within: Duration::from_secs(1),
            commit_within: Duration::from_secs(5),
            retry: Duration::from_millis(500),
            statistics: Duration::from_secs(1),
        }
    }
}

/// The controller.
pub struct Controller {
    pub(super) services: BTreeMap<Name, ServiceEntry>,
    /// Stored state of services that the configuration no longer has; they may return.
    pub(super) absent: AbsentServices,
    pub(super) publisher: Publisher,
    pub(super) preflighter: Preflighter,
    /// Whether the admin API has tokens, so that gates can be approved.
    pub(super) approvals: bool,
    /// Number of releases announced to workers; the next one's key.
    pub(super) watches: u32,
    pub(super) horizon: Arc<Watermark>,
    pub(super) notes: mpsc::Receiver<EventBatch>,
    pub(super) jobs: BackgroundJobs,
    /// When the events under evaluation became known. The duration of a rollback is counted from
    /// here.
    pub(super) decided: Timestamp,
    /// Whether a failure of a canary waits for earlier events before it can be evaluated.
    pub(super) urgent: bool,
    pub(super) keys: KeyRegistry,
    pub(super) collector: Collector,
    pub(super) outbox: CommitQueue,
    /// Services as readers on other threads see them.
    pub(super) views: Arc<PublishedViews>,
    /// The runtime for read-only work outside of the controller's thread.
    read_runtime: Option<runtime::Handle>,
    /// Changes in effect that are not on disk yet.
    pub(super) unsaved: BTreeMap<CommitId, UncommittedChange>,
    /// Replies that wait for workers or the store.
    pub(super) answers: FuturesUnordered<PendingReply>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: Arc<EventStream>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) timing: Timing,
    commands: mpsc::Receiver<ControllerRequest>,
    batches: mpsc::Receiver<Batch>,
    health: mpsc::Receiver<HealthEvent>,
}

/// A service under control.
pub(super) struct ServiceEntry {
    pub(super) spec: ServiceSpec,
    /// The release in progress.
    pub(super) active: Option<Box<RunningRelease>>,
    /// The release that has just ended.
    pub(super) ended: Option<FinishedRelease>,
    /// The last finished release, in its API form.
    pub(super) last: Option<Box<api::Release>>,
    /// The state in effect.
    pub(super) state: ServiceState,
    /// A change away from the baseline that is not committed yet.
    pub(super) pending: Option<PendingChange>,
    /// Changes that wait for the pending one, in their order.
    pub(super) waiting: VecDeque<RequestedWeights>,
}

/// A change in effect that is not on disk yet.
pub(super) struct UncommittedChange {
    pub(super) services: Vec<Name>,
    /// Notified when the change is on disk.
    pub(super) saved: Option<oneshot::Sender<()>>,
}

/// Completes when a reply can be sent.
pub(super) type PendingReply = Pin<Box<dyn Future<Output = DueReply> + Send>>;

/// A reply that is ready to be sent.
pub(super) struct DueReply {
    pub(super) service: Name,
    pub(super) durable: bool,
    pub(super) reply: Reply,
}

impl Controller {
    /// A controller and its interfaces. The first table, from configuration and store, is already
    /// published.
    pub fn new(setup: Setup) -> (Controller, Links) {
        let (metrics, events) = (Arc::<Metrics>::default(), Arc::<EventStream>::default());
        let (batches, batches_receiver) = mpsc::channel(BATCHES_MAX);
        let (notes, notes_receiver) = mpsc::channel(NOTES_MAX);
        let horizon = Arc::new(Watermark::new(setup.workers));
        let (health, health_receiver) = mpsc::channel(HEALTH_MAX);
        let mut keys = KeyRegistry::new();
        let mut loaded = setup.loaded;
        let publisher = Publisher::new(RoutingTable::build(&[], |_| None, &mut keys, None));
        let collector = Collector::new(Arc::clone(&metrics), setup.listeners);
        let views = PublishedViews::new(
            publisher.clone(),
            collector.shown(),
            Arc::clone(&setup.clock),
        );
        let views = Arc::new(views);
        let shared_views = Arc::<PublishedViews>::clone(&views);
        let (handle, commands) =
            Handle::channel(Arc::clone(&metrics), Arc::clone(&events), shared_views);
        let mut controller = Controller {
            services: BTreeMap::new(),
            absent: AbsentServices::default(),
            publisher: publisher.clone(),
            keys,
            preflighter: setup.preflighter,
            approvals: setup.approvals,
            watches: 0,
            horizon: Arc::clone(&horizon),
            jobs: BackgroundJobs::new(),
            decided: setup.clock.now(),
            urgent: false,
            collector,
            outbox: CommitQueue::new(setup.store),
            views,
            read_runtime: runtime::Handle::try_current().ok(),
            unsaved: BTreeMap::new(),
            answers: FuturesUnordered::new(),
            metrics,
            events,
            clock: setup.clock,
            timing: Timing::default(),
            commands,
            batches: batches_receiver,
            notes: notes_receiver,
            health: health_receiver,
        };
        handle.set_answers(std::mem::take(&mut loaded.answers));
        controller.start(setup.services, loaded);
        handle.set_ready();
        let links = Links {
            handle,
            publisher,
            batches,
            notes,
            horizon,
            health,
        };
        (controller, links)
    }

    /// Runs until `stop` completes or the last handle is dropped, then gives the store a moment to
    /// commit what is not on disk yet.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut second = interval(self.timing.statistics);
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batches = Vec::with_capacity(BATCHES_MAX);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                Some(event) = self.health.recv() => self.health(&event),
                (ticket, result) = self.outbox.next(self.timing.retry) => {
                    self.written(ticket, result);
                }
                Some(answer) = self.answers.next() => self.answer(answer),
                1.. = self.batches.recv_many(&mut batches, BATCHES_MAX) => {
                    self.collect(&mut batches);
                }
                Some(notes) = self.notes.recv() => self.notes(notes),
                Some(job) = self.jobs.next() => self.handle_job(job),
                _ = tick.tick(), if self.has_releases() => self.tick(),
                () = sleep(SOON), if self.urgent => self.tick(),
                _ = second.tick() => self.second(),
                () = &mut stop => break,
            }
        }
        self.flush().await;
    }

    fn command(&mut self, command: ControllerRequest) {
        // A caller that is gone needs no reply.
        match command {
            ControllerRequest::SetWeights {
                service,
                weights,
                intent,
                reply,
            } => self.set_weights(
                &service,
                RequestedWeights {
                    weights,
                    intent,
                    reply,
                },
            ),
            ControllerRequest::Rollback {
                service,
                intent,
                reply,
            } => self.rollback(&service, intent, reply),
            ControllerRequest::StartRelease {
                service,
                start,
                intent,
                reply,
            } => self.start_release(&service, &start, intent, reply),
            ControllerRequest::Release {
                id,
                verb,
                command,
                intent,
                reply,
            } => self.command_release(&id, verb, &command, intent, reply),
            ControllerRequest::Releases {
                service,
                limit,
                reply,
            } => self.releases(&service, limit, reply),
            ControllerRequest::GetRelease { id, reply } => self.get_release(&id, reply),
            ControllerRequest::Evidence { id, reply } => self.evidence(&id, reply),
            ControllerRequest::Recording { id, reply } => self.recording(&id, reply),
            ControllerRequest::Forecast {
                service,
                plan,
                reply,
            } => drop(reply.send(self.forecast(&service, plan.as_ref()))),
            ControllerRequest::Reload {
                services,
                actor,
                reply,
            } => drop(reply.send(self.reload(services, actor))),
            ControllerRequest::ReloadFailed { detail } => self.reload_failed(detail),
            ControllerRequest::Audit {
                before,
                limit,
                reply,
            } => self.audit(before, limit, reply),
            ControllerRequest::KeepAnswer { key, answer, reply } => {
                self.keep_answer(key, answer, reply)
            }
            ControllerRequest::VerifyAudit { reply } => self.verify_audit(reply),
        }
    }

    fn collect(&mut self, batches: &mut Vec<Batch>) {
        let now = self.clock.now();
        for batch in batches.drain(..) {
            self.collector.collect(&batch, now);
        }
    }

    fn health(&mut self, event: &HealthEvent) {
        let mut changed = false;
        self.publisher.update(|table| {
            let next = table.with_health(event.endpoint, event.healthy);
            changed = next.is_some();
            next
        });
        let snapshot = self.publisher.current();
        let endpoint = snapshot
            .table
            .endpoints()
            .find(|endpoint| endpoint.key == event.endpoint);
        let Some(endpoint) = endpoint.filter(|_| changed) else {
            return;
        };
        let (service, upstream, address) = (
            &endpoint.service,
            &endpoint.upstream,
            endpoint.address.to_string(),
        );
        self.metrics
            .set_healthy(service, upstream, &address, event.healthy);
        if let Some(service) = snapshot.table.service(service) {
            self.collector.show_weights(service);
        }
        tracing::info!(
            %service,
            %upstream,
            endpoint = address,
            healthy = event.healthy,
            detail = event.detail,
            "health"
        );
        let event = api::EventKind::Health {
            service: service.to_string(),
            upstream: upstream.to_string(),
            endpoint: address,
            healthy: event.healthy,
            detail: event.detail.clone(),
        };
        self.emit(event);
    }

    /// Handles the result of a commit.
    fn written(&mut self, ticket: CommitId, result: Result<Committed, StoreError>) {
        if result.is_ok() {
            let mut saved_of = Vec::new();
            // All changes before it are on disk too, or were dropped in its favour.
            let later = self.unsaved.split_off(&ticket);
            let earlier = std::mem::replace(&mut self.unsaved, later);
            let this = self.unsaved.remove(&ticket);
            for unsaved in earlier.into_values().chain(this) {
                unsaved.services.iter().for_each(|name| self.show(name));
                saved_of.extend(unsaved.saved);
            }
            for saved in saved_of {
                // The receiver may have timed out.
                let _ = saved.send(());
            }
        }
        self.settle_pending(ticket, result);
        self.metrics.set_store_pending(self.outbox.len());
    }

    fn answer(&mut self, answered: DueReply) {
        let DueReply {
            service,
            durable,
            reply,
        } = answered;
        match reply {
            Reply::Nobody => {}
            Reply::Release(id, reply) => {
                drop(reply.send(self.release_change(&service, &id, durable)))
            }
            Reply::Service(reply) => {
                self.show(&service);
                let view = self.views.service(&service);
                let applied = view.map(|service| Applied { service, durable });
                let _ =
                    reply.send(applied.ok_or_else(|| Refusal::UnknownService(service.to_string())));
            }
        }
    }

    fn second(&mut self) {
        let now = self.clock.now();
        for event in self.collector.statistics(now) {
            self.emit(event);
        }
        self.give_up_pending(now);
        self.metrics.set_store_pending(self.outbox.len());
    }

    fn audit(
        &self,
        before: Option<u64>,
        limit: usize,
        reply: oneshot::Sender<Result<api::AuditPage, Refusal>>,
    ) {
        let read = self.outbox.store().audit(before, limit.saturating_add(1));
        // Not one of the replies: it needs no state of the controller and takes as long as the disk
        // does.
        self.spawn_read(async move {
            let page = read.await.map(|entries| super::audit::page(entries, limit));
            let _ = reply.send(page.map_err(|error| Refusal::Store(error.to_string())));
        });
    }

    fn keep_answer(
        &self,
        key: IdempotencyKey,
        answer: Option<KeptAnswer>,
        reply: oneshot::Sender<()>,
    ) {
        let kept = self.outbox.store().keep_answer(key, answer);
        tokio::spawn(async move {
            // The store has logged the failure.
            let _ = kept.await;
            let _ = reply.send(());
        });
    }

    fn verify_audit(&self, reply: oneshot::Sender<Result<api::AuditVerdict, Refusal>>) {
        let verdict = self.outbox.store().verify();
        tokio::spawn(async move {
            let _ = reply.send(verdict.await.map_err(|error| match error {
                StoreError::Verifying => Refusal::Conflict(error.to_string()),
                error => Refusal::Store(error.to_string()),
            }));
        });
    }

    /// Uncommitted changes get as long as a caller would wait for them.
    async fn flush(mut self) {
        let durable_within = self.timing.durable_within;
        let releases = self.last_checkpoints();
        let all = async {
            while self.outbox.len() > 0 {
                let (ticket, result) = self.outbox.next(self.timing.retry).await;
                self.written(ticket, result);
            }
            releases.await;
            // Evidence and other background jobs in progress.
            while let Some(job) = self.jobs.next().await {
                self.handle_job(job);
            }
        };
        if timeout(durable_within, all).await.is_err() {
            tracing::error!(
                changes = self.outbox.len(),
                "the process exits with changes that are not on disk"
            );
        }
    }

    /// Publishes the current state of a service to readers.
    pub(super) fn show(&self, name: &str) {
        if let Some(managed) = self.services.get(name) {
            self.views.show(name, self.shown(name, managed));
        }
    }

    /// Publishes the current state of all services, and of no others, to readers.
    pub(super) fn show_all(&self) {
        let services = self.services.iter();
        self.views.replace(
            services.map(|(name, managed)| (Name::clone(name), self.shown(name, managed))),
        );
    }

    fn shown(&self, name: &str, managed: &ServiceEntry) -> ServiceDetails {
        let pending = managed.pending.as_ref().map(|pending| &pending.moved.next);
        let release = managed.active.as_ref().map(|active| active.id());
        ServiceDetails::new(&managed.state, pending, release, self.is_durable(name))
    }

    /// Runs read-only work, such as reading rows of the store, outside of the controller's thread.
    pub(super) fn spawn_read(&self, work: impl Future<Output = ()> + Send + 'static) {
        match &self.read_runtime {
            Some(runtime) => drop(runtime.spawn(work)),
            None => drop(tokio::spawn(work)),
        }
    }

    pub(super) fn is_durable(&self, name: &str) -> bool {
        let unsaved = || self.unsaved.values().flat_map(|unsaved| &unsaved.services);
        self.outbox.store().is_durable() && !unsaved().any(|service| **service == *name)
    }

    pub(super) fn emit(&self, kind: api::EventKind) {
        self.events.send(self.clock.now().rfc3339(), kind);
    }
}
