//! All routes, and the layers around them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Router, extract::DefaultBodyLimit};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{self, Auth};
use super::idempotency::IdempotencyCache;
use super::origin::{self, OriginPolicy};
use super::render::{Renders, SharedResponse};
use super::{
    Options, Role, events, evidence, journal, openapi, probes, problem_layer, releases, services,
};
use crate::control::Handle;
use crate::time::{Clock, SystemClock};

/// What is bounded, by how much.
#[derive(Clone, Debug)]
pub(super) struct RequestLimits {
    /// Connections at the same time. For a further one another goes, if any can; else it waits.
    pub(super) connections: usize,
    /// For the head of a request, from a connection's beginning or from the head's first byte.
    pub(super) header_timeout: Duration,
    /// Between two requests of a connection.
    pub(super) idle_timeout: Duration,
    /// While the client reads next to nothing of an answer.
    pub(super) write_timeout: Duration,
    /// From the head of a request to the head of its answer.
    pub(super) request_timeout: Duration,
    /// For connections to finish when the server stops.
    pub(super) stop_timeout: Duration,
    /// Bytes of a body.
    pub(super) body_bytes: usize,
    /// Event streams at the same time.
    pub(super) streams: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        RequestLimits {
            connections: 256,
            header_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            // A write waits for every worker and for the disk.
            request_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(5),
            body_bytes: 64 << 10,
            streams: 64,
        }
    }
}

/// What the handlers share.
#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) handle: Handle,
    pub(super) answers: Arc<IdempotencyCache>,
    pub(super) streams: Arc<Semaphore>,
    pub(super) stopping: CancellationToken,
    pub(super) pages: Pages,
    pub(super) renders: Renders,
    /// Answers that are the same for all, and large with many services.
    pub(super) services: Arc<SharedResponse>,
    pub(super) metrics: Arc<SharedResponse>,
}

/// Answers that never change.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    pub(super) openapi: Bytes,
    pub(super) index: Bytes,
}

impl FromRef<App> for Handle {
    fn from_ref(app: &App) -> Handle {
        app.handle.clone()
    }
}

impl FromRef<App> for Renders {
    fn from_ref(app: &App) -> Renders {
        app.renders.clone()
    }
}

impl FromRef<App> for Pages {
    fn from_ref(app: &App) -> Pages {
        app.pages.clone()
    }
}

/// The whole API. It ends its event streams when `stopping` is cancelled.
pub(super) fn build(
    options: &Options,
    limits: &RequestLimits,
    handle: Handle,
    stopping: CancellationToken,
) -> Router {
    let auth = Arc::new(Auth::new(options));
    let (routes, document) = OpenApiRouter::with_openapi(openapi::base())
        .merge(anyone())
        .merge(from_role(&auth, Role::View, viewers()))
        .merge(from_role(&auth, Role::Operate, operators()))
        .merge(from_role(&auth, Role::Approve, approvers()))
        .split_for_parts();
    let answers =
        IdempotencyCache::restored(handle.take_answers(), Instant::now(), SystemClock.now());
    let renders = Renders::default();
    let app = App {
        services: services::shared(&renders, handle.clone()),
        metrics: probes::shared(&renders, handle.clone()),
        renders,
        handle,
        answers: Arc::new(answers),
        streams: Arc::new(Semaphore::new(limits.streams)),
        stopping,
        pages: openapi::pages(document),
    };
    around(routes.with_state(app), options, limits)
}

/// Without a token: what says nothing that is secret, and what probes ask.
fn anyone() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(probes::index))
        .routes(routes!(probes::livez))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::healthz))
}

fn viewers() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(services::list_services))
        .routes(routes!(services::get_service))
        .routes(routes!(services::get_weights))
        .routes(routes!(releases::list_releases))
        .routes(routes!(releases::get_release))
        .routes(routes!(releases::get_plan, releases::try_plan))
        .routes(routes!(evidence::get_evidence))
        .routes(routes!(evidence::get_recording))
        .routes(routes!(events::stream_events))
        .routes(routes!(journal::list_audit))
        .routes(routes!(journal::verify_audit))
        .routes(routes!(probes::metrics))
        .routes(routes!(probes::openapi_document))
}

fn operators() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(services::put_weights))
        .routes(routes!(services::roll_back))
        .routes(routes!(releases::start_release))
        .routes(routes!(releases::pause_release))
        .routes(routes!(releases::resume_release))
        .routes(routes!(releases::promote_release))
        .routes(routes!(releases::roll_back_release))
        .routes(routes!(releases::cancel_release))
}

fn approvers() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(releases::approve_release))
}

/// Routes for callers who have at least this role.
fn from_role(auth: &Arc<Auth>, least: Role, mut routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    openapi::protect(routes.get_openapi_mut(), least);
    routes.route_layer(from_fn_with_state((Arc::clone(auth), least), auth::require))
}

/// The layers, in the order in which a request passes them.
fn around(routes: Router, options: &Options, limits: &RequestLimits) -> Router {
    let guard = Arc::new(OriginPolicy::new(options));
    routes.layer(
        ServiceBuilder::new()
            .layer(always(header::CACHE_CONTROL, "no-store"))
            .layer(SetResponseHeaderLayer::if_not_present(
                header::CONTENT_SECURITY_POLICY,
                HeaderValue::from_static(openapi::CONTENT_SECURITY_POLICY),
            ))
            .layer(always(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .layer(always(header::X_FRAME_OPTIONS, "DENY"))
            .layer(always(header::REFERRER_POLICY, "no-referrer"))
            .layer(always(
                HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ))
            .layer(from_fn(problem_layer::seal))
            .layer(CatchPanicLayer::custom(problem_layer::panicked))
            .layer(from_fn_with_state(guard, origin::check))
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                limits.request_timeout,
            ))
            .layer(DefaultBodyLimit::disable())
            .layer(RequestBodyLimitLayer::new(limits.body_bytes)),
    )
}

fn always(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}
