//! Services: state, weights and rollback.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use super::conditional;
use super::problem::ProblemResponse;
use super::render::{self, Renders, SharedResponse};
use super::request_context::{PathName, RequestContext};
use super::state::App;
use super::writes::Action;
use crate::control::Handle;
use crate::model::api;

/// All services.
#[utoipa::path(get, path = "/api/v1/services", tag = "services", responses(
    (status = 200, description = "All services, sorted by name", body = api::ServiceList),
))]
pub(super) async fn list_services(State(app): State<App>) -> Result<Response, ProblemResponse> {
    Ok(render::answer(
        "application/json",
        app.services.get().await?,
    ))
}

/// Shared response of `list_services`, rendered once for concurrent callers.
pub(super) fn shared(renders: &Renders, handle: Handle) -> Arc<SharedResponse> {
    SharedResponse::new(renders.clone(), move || {
        let services = handle.services()?;
        render::json(&api::ServiceList { services })
    })
}

/// One service: routes, upstreams with the health of their endpoints, weights and statistics.
#[utoipa::path(get, path = "/api/v1/services/{service}", tag = "services",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("If-None-Match" = Option<String>, Header,
            pattern = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#,
            description = "Tags that the caller holds; 304 if one is current"),
    ),
    responses(
        (status = 200, description = "The service", body = api::Service,
            headers(("ETag" = String, description = "The revision of weights and release; \
                statistics and health do not change it"))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "Unknown service", body = api::Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn get_service(
    State(handle): State<Handle>,
    PathName(name): PathName,
    headers: HeaderMap,
) -> Result<Response, ProblemResponse> {
    let service = handle.service(&name)?;
    tagged_response(&headers, service.revision, &service)
}

/// The weights of a service.
#[utoipa::path(get, path = "/api/v1/services/{service}/weights", tag = "services",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("If-None-Match" = Option<String>, Header,
            pattern = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#,
            description = "Tags that the caller holds; 304 if one is current"),
    ),
    responses(
        (status = 200, description = "The weights", body = api::WeightsResource,
            headers(("ETag" = String, description = "The service's revision, for If-Match"))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "Unknown service", body = api::Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn get_weights(
    State(handle): State<Handle>,
    PathName(name): PathName,
    headers: HeaderMap,
) -> Result<Response, ProblemResponse> {
    let service = handle.service(&name)?;
    let weights = api::WeightsResource {
        revision: service.revision,
        weights: service.weights.intended,
        effective: service.weights.effective,
        since: service.weights.since,
    };
    tagged_response(&headers, service.revision, &weights)
}

/// Sets the weights; they are in effect for the next request once this returns.
#[utoipa::path(put, path = "/api/v1/services/{service}/weights", tag = "services",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("If-Match" = Option<String>, Header,
            pattern = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#,
            description = "Tags, of which one must be current; weak tags never match"),
        ("Idempotency-Key" = Option<String>, Header,
            pattern = "^[!-~]{1,255}$",
            description = "A repeated request with this key gets the first response for 24 hours"),
    ),
    request_body = api::WeightsUpdate,
    responses(
        (status = 200, description = "The service after the change", body = api::WeightsChange,
            headers(("ETag" = String, description = "The new revision"))),
        (status = 403, description = "Permission denied; during a configured freeze window, and \
            where gates are configured, only `admin` may move weight away from the baseline, with \
            a reason", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "Unknown service", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "Superseded by a rollback", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 412, description = "Stale revision", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "Invalid fields, or an Idempotency-Key of another request",
            body = api::Problem, content_type = "application/problem+json"),
        (status = 507, description = "Storage error", body = api::Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn put_weights(call: RequestContext) -> Result<Response, ProblemResponse> {
    call.write(|update: api::WeightsUpdate| Ok((Action::SetWeights(update.weights), update.reason)))
        .await
}

/// Moves all weight back to the baseline; if it is there already, to the previous baseline.
#[utoipa::path(post, path = "/api/v1/services/{service}/rollback", tag = "services",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("If-Match" = Option<String>, Header,
            pattern = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#,
            description = "Tags, of which one must be current; weak tags never match"),
        ("Idempotency-Key" = Option<String>, Header,
            pattern = "^[!-~]{1,255}$",
            description = "A repeated request with this key gets the first response for 24 hours"),
    ),
    request_body(content = api::RollbackRequest, description = "Optional, with its Content-Type"),
    responses(
        (status = 200, description = "The service after the rollback", body = api::WeightsChange,
            headers(("ETag" = String, description = "The new revision"))),
        (status = 404, description = "Unknown service", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "Conflict with the current state", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 412, description = "Stale revision", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "Invalid fields, or an Idempotency-Key of another request",
            body = api::Problem, content_type = "application/problem+json"),
        (status = 507, description = "Storage error", body = api::Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn roll_back(call: RequestContext) -> Result<Response, ProblemResponse> {
    call.write_optional(|rollback: api::RollbackRequest| Ok((Action::Rollback, rollback.reason)))
        .await
}

/// The resource with its tag, or 304 if the caller has this revision.
fn tagged_response(
    headers: &HeaderMap,
    revision: u64,
    resource: &impl Serialize,
) -> Result<Response, ProblemResponse> {
    let tag = [(header::ETAG, conditional::tag(revision))];
    match conditional::if_none_match(headers)? {
        Some(tags) if tags.match_weakly(revision) => {
            Ok((StatusCode::NOT_MODIFIED, tag).into_response())
        }
        _ => Ok((tag, Json(resource)).into_response()),
    }
}
