//! All routes, and the layers around them.

use std::sync::Arc;
use std::time::Duration;

use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Router, extract::DefaultBodyLimit};
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
use super::render::Renders;
use super::state::App;
use super::{
    Options, Role, events, evidence, journal, openapi, page, probes, problem_layer, releases,
    services,
};
use crate::control::Handle;
use crate::time::{Clock, SystemClock};

/// Limits of the admin server.
#[derive(Clone, Debug)]
pub(super) struct RequestLimits {
    /// Concurrent connections. A further one replaces one that may be closed; else it waits.
    pub(super) connections: usize,
    /// Time for a request head, from the start of the connection or the head's first byte.
    pub(super) header_timeout: Duration,
    /// Idle time between two requests of a connection.
    pub(super) idle_timeout: Duration,
    /// Time during which the client reads next to nothing of a response.
    pub(super) write_timeout: Duration,
    /// Time from the head of a request to the head of its response.
    pub(super) request_timeout: Duration,
    /// Time for connections to finish when the server stops.
    pub(super) stop_timeout: Duration,
    /// Bytes of a request body.
    pub(super) body_bytes: usize,
    /// Concurrent event streams.
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

/// Router of the whole API. Its event streams end when `stopping` is cancelled.
pub(super) fn build(
    options: &Options,
    limits: &RequestLimits,
    handle: Handle,
    stopping: CancellationToken,
) -> Router {
    let auth = Arc::new(Auth::new(options));
    let (routes, document) = OpenApiRouter::with_openapi(openapi::base())
        .merge(public())
        .merge(require_role(&auth, Role::View, viewers()))
        .merge(require_role(&auth, Role::Operate, operators()))
        .merge(require_role(&auth, Role::Approve, approvers()))
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
    with_layers(routes.with_state(app), options, limits)
}

/// Routes without authentication: probes, and the index, which discloses nothing.
fn public() -> OpenApiRouter<App> {
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

/// Routes that require at least the role `least`.
fn require_role(
    auth: &Arc<Auth>,
    least: Role,
    mut routes: OpenApiRouter<App>,
) -> OpenApiRouter<App> {
    openapi::protect(routes.get_openapi_mut(), least);
    routes.route_layer(from_fn_with_state((Arc::clone(auth), least), auth::require))
}

/// Adds the layers, in the order in which a request passes them.
fn with_layers(routes: Router, options: &Options, limits: &RequestLimits) -> Router {
    let origin_policy = Arc::new(OriginPolicy::new(options));
    routes.layer(
        ServiceBuilder::new()
            .layer(set_header(header::CACHE_CONTROL, "no-store"))
            .layer(SetResponseHeaderLayer::if_not_present(
                header::CONTENT_SECURITY_POLICY,
                HeaderValue::from_static(page::CONTENT_SECURITY_POLICY),
            ))
            .layer(set_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .layer(set_header(header::X_FRAME_OPTIONS, "DENY"))
            .layer(set_header(header::REFERRER_POLICY, "no-referrer"))
            .layer(set_header(
                HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ))
            .layer(from_fn(problem_layer::seal))
            .layer(CatchPanicLayer::custom(problem_layer::panicked))
            .layer(from_fn_with_state(origin_policy, origin::check))
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                limits.request_timeout,
            ))
            .layer(DefaultBodyLimit::disable())
            .layer(RequestBodyLimitLayer::new(limits.body_bytes)),
    )
}

fn set_header(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}
