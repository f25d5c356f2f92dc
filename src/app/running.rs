//! The running proxy with all its parts.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::sockets::ListenerSockets;
use super::threads::ThreadHandle;
use crate::config::{Config, Report};
use crate::control::{Controller, Handle, Links, Setup};
use crate::model::Name;
use crate::proxy::{Reports, Workers};
use crate::store::{LoadedState, Store};
use crate::telemetry::{self, AccessLog};
use crate::time::SystemClock;
use crate::webhook::{self, Webhooks};
use crate::{admin, endpoints, release};

/// Why the proxy did not start, or did not drain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is invalid.
    #[error("{0}")]
    Config(#[from] Report),
    /// An async runtime cannot be started.
    #[error("cannot start the async runtime: {0}")]
    Runtime(io::Error),
    /// Listening on an address failed.
    #[error("{name} cannot listen on {address}: {error}")]
    Bind {
        /// The listener, or `admin`.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot open the access log: {0}")]
    AccessLog(io::Error),
    /// The store cannot be opened or restored.
    #[error("{0}")]
    Store(#[from] crate::store::StoreError),
    /// The admin API cannot be served.
    #[error("{0}")]
    Admin(#[from] admin::AdminStartError),
    /// Webhooks cannot be started.
    #[error("{0}")]
    Webhook(#[from] webhook::WebhookStartError),
    /// A second signal ended the drain.
    #[error("stopped by a second signal: requests in flight were aborted")]
    Cut,
}

/// The running proxy. Dropping it without [`Running::drain`] ends the control plane and leaves the
/// workers running; health checks and webhooks end with the runtime that it was started in.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    workers: Workers,
    access_log: AccessLog,
    admin_address: SocketAddr,
    listener_addresses: Vec<SocketAddr>,
    controller: ThreadHandle,
    admin: ThreadHandle,
    health: JoinHandle<()>,
    webhooks: Webhooks,
    stop_admin: DropGuard,
    stop_controller: DropGuard,
}

/// Starts every part, inside a tokio runtime. When this returns, requests are served.
///
/// # Errors
///
/// [`Error`] names the part that failed; nothing is left running then.
pub fn start(config: Config) -> Result<Running, Error> {
    // First: a second process on the same store must not take a connection.
    let stored = Store::open(&config.store)?;
    let sockets = ListenerSockets::bind(&config)?;
    start_on(config, stored, sockets)
}

/// Starts every part on sockets that are bound already.
fn start_on(
    mut config: Config,
    (store, loaded): (Store, LoadedState),
    sockets: ListenerSockets,
) -> Result<Running, Error> {
    let (admin_address, listener_addresses) = sockets.addresses();
    let ListenerSockets { listeners, admin } = sockets;
    let admin = admin.into_iter().next();
    let admin = admin.ok_or_else(|| Error::Runtime(io::ErrorKind::AddrNotAvailable.into()))?;
    let access_log =
        AccessLog::open(config.telemetry.access_log.as_ref()).map_err(Error::AccessLog)?;
    if config.store.path.is_none() {
        tracing::warn!(
            "store.path is not set: weights set by the admin API are lost when the process ends"
        );
    }
    config.proxy.sticky_secret = store.sticky_secret();
    let (controller, links) = Controller::new(Setup {
        services: config.services,
        preflighter: Arc::new(preflight),
        approvals: !config.admin.tokens.is_empty(),
        listeners: config
            .listeners
            .iter()
            .map(|listener| listener.name.clone())
            .collect(),
        workers: config.proxy.workers.get(),
        store,
        loaded,
        clock: Arc::new(SystemClock),
    });
    let Links {
        handle,
        publisher,
        batches,
        notes,
        horizon,
        health,
    } = links;
    let reports = Reports {
        batches,
        notes,
        horizon,
    };
    let workers = Workers::start(&config.proxy, listeners, &publisher, &reports, &access_log)
        .map_err(Error::Runtime)?;
    let webhooks = Webhooks::start(&config.webhooks, &handle)?;
    show(&handle, &workers, &access_log);
    let stop_admin = CancellationToken::new();
    let serving = admin::serve(
        &config.admin,
        admin,
        handle.clone(),
        stop_admin.clone().cancelled_owned(),
    )?;
    let serving = async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the admin API stopped");
        }
    };
    let stop_controller = CancellationToken::new();
    let controlling = controller.run(stop_controller.clone().cancelled_owned());
    Ok(Running {
        workers,
        access_log,
        admin_address,
        listener_addresses,
        controller: ThreadHandle::start("controller", controlling).map_err(Error::Runtime)?,
        admin: ThreadHandle::start("admin", serving).map_err(Error::Runtime)?,
        health: tokio::spawn(endpoints::health::run(publisher, health)),
        webhooks,
        stop_admin: stop_admin.drop_guard(),
        stop_controller: stop_controller.drop_guard(),
        handle,
    })
}

/// Registers the metrics that single parts provide.
fn show(handle: &Handle, workers: &Workers, access_log: &AccessLog) {
    let metrics = handle.metrics();
    let (open, lost) = (workers.connections(), access_log.dropped_reader());
    metrics.gauge_from("connections_active", "Open connections from clients.", open);
    metrics.counter_from(
        "access_log_dropped_total",
        "Dropped lines of the access log.",
        lost,
    );
    metrics.counter_from(
        "log_dropped_total",
        "Dropped lines of the program log, because standard error was blocked.",
        telemetry::log_dropped,
    );
}

impl Running {
    /// The address of the admin API.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The addresses of the listeners, in the order of the configuration.
    pub fn listener_addresses(&self) -> &[SocketAddr] {
        &self.listener_addresses
    }

    /// The controller.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Reopens log files after rotation.
    pub(super) fn reopen_logs(&self) {
        self.access_log.reopen();
    }

    /// Drains: readiness fails; after `delay` the listeners close; requests in flight get
    /// `timeout`; then the control plane ends, and pending webhooks get a moment. Returns whether
    /// all requests finished in time.
    pub async fn drain(self, delay: Duration, timeout: Duration) -> bool {
        self.handle.set_draining();
        tokio::time::sleep(delay).await;
        let clean = self.workers.drain(timeout).await;
        self.health.abort();
        drop(self.stop_admin);
        self.admin.ended().await;
        drop(self.stop_controller);
        self.controller.ended().await;
        self.webhooks.drain().await;
        clean
    }
}

/// How long each of the canary's endpoints may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Runs the preflight checks of a canary.
fn preflight(
    endpoints: Vec<SocketAddr>,
    host: Option<Name>,
    plan: Option<release::Preflight>,
) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
    Box::pin(async move {
        let Some(plan) = plan else {
            return endpoints::preflight(&endpoints, &[], CONNECT).await;
        };
        let requests: Result<Vec<_>, String> = plan
            .requests
            .iter()
            .map(|request| smoke(request, host.as_deref()))
            .collect();
        let requests = requests?;
        let asked = endpoints::preflight(&endpoints, &requests, CONNECT);
        let answered = tokio::time::timeout(plan.timeout, asked).await;
        answered.unwrap_or_else(|_| {
            Err(format!(
                "the preflight checks took longer than {:?}",
                plan.timeout
            ))
        })
    })
}

/// A preflight request of a plan, which was validated already.
fn smoke(
    smoke: &release::Smoke,
    host: Option<&str>,
) -> Result<endpoints::PreflightRequest, String> {
    let invalid = |what: &str| format!("invalid preflight request: {what}");
    let mut headers = http::HeaderMap::new();
    for (name, value) in &smoke.headers {
        let name = http::HeaderName::try_from(name).map_err(|_| invalid(name))?;
        headers.append(name, value.parse().map_err(|_| invalid(value))?);
    }
    if let Some(host) = host.and_then(|host| host.parse().ok()) {
        headers.entry(http::header::HOST).or_insert(host);
    }
    Ok(endpoints::PreflightRequest {
        method: smoke.method.parse().map_err(|_| invalid(&smoke.method))?,
        target: smoke.path.parse().map_err(|_| invalid(&smoke.path))?,
        headers,
        expected: smoke.expect.clone(),
        timeout: smoke.timeout,
    })
}
