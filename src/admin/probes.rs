//! Probes, metrics, the OpenAPI document and the index page.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use super::problem::{ProblemResponse, retry_after};
use super::problem_layer::ProblemRendered;
use super::render::{self, Renders, SharedResponse};
use super::state::{App, Pages};
use crate::control::{Handle, Metrics, Readiness};

/// Page that lists all API calls.
#[utoipa::path(get, path = "/", tag = "process", responses(
    (status = 200, description = "The list of API calls", body = String,
        content_type = "text/html; charset=utf-8"),
))]
pub(super) async fn index(State(pages): State<Pages>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/html; charset=utf-8")],
        pages.index,
    )
}

/// This OpenAPI document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "process", responses(
    (status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"),
))]
pub(super) async fn openapi_document(State(pages): State<Pages>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], pages.openapi)
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "process", responses(
    (status = 200, description = "Text format 0.0.4", body = String,
        content_type = "text/plain; version=0.0.4"),
))]
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, ProblemResponse> {
    Ok(render::answer(
        Metrics::CONTENT_TYPE,
        app.metrics.get().await?,
    ))
}

/// Shared response of `metrics`, rendered once for concurrent callers.
pub(super) fn shared(renders: &Renders, handle: Handle) -> Arc<SharedResponse> {
    SharedResponse::new(renders.clone(), move || {
        Ok(handle.metrics().render().into_bytes())
    })
}

/// Liveness of the process. On failure it should be restarted.
#[utoipa::path(get, path = "/livez", tag = "process", responses(
    (status = 200, description = "Alive", body = String,
        content_type = "text/plain; charset=utf-8"),
))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Readiness for new connections. It does not depend on any upstream.
#[utoipa::path(get, path = "/readyz", tag = "process",
    params(("verbose" = Option<String>, Query, description = "Lists all checks; no value needed")),
    responses(
        (status = 200, description = "Ready", body = String,
            content_type = "text/plain; charset=utf-8"),
        (status = 503, description = "Starting or draining", body = String,
            content_type = "text/plain; charset=utf-8"),
    ))]
pub(super) async fn readyz(State(handle): State<Handle>, RawQuery(query): RawQuery) -> Response {
    answer(handle.readiness(), query.as_deref())
}

/// Alias of `/readyz`.
#[utoipa::path(get, path = "/healthz", tag = "process",
    params(("verbose" = Option<String>, Query, description = "Lists all checks; no value needed")),
    responses(
        (status = 200, description = "Ready", body = String,
            content_type = "text/plain; charset=utf-8"),
        (status = 503, description = "Starting or draining", body = String,
            content_type = "text/plain; charset=utf-8"),
    ))]
pub(super) async fn healthz(State(handle): State<Handle>, RawQuery(query): RawQuery) -> Response {
    answer(handle.readiness(), query.as_deref())
}

fn answer(readiness: Readiness, query: Option<&str>) -> Response {
    let (status, summary) = match readiness {
        Readiness::Ready => (StatusCode::OK, "ok"),
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    };
    let is_verbose = query.is_some_and(|query| {
        let mut names = query.split('&').map(|pair| pair.split('=').next());
        names.any(|name| name == Some("verbose"))
    });
    let mut text = String::new();
    if is_verbose {
        for (passed, check) in [
            (
                readiness != Readiness::Starting,
                "configuration in use, listeners bound",
            ),
            (readiness != Readiness::Draining, "not draining"),
        ] {
            let mark = if passed { '+' } else { '-' };
            text.push_str(&format!("[{mark}] {check}\n"));
        }
    }
    text.push_str(summary);
    text.push('\n');
    let mut headers = HeaderMap::new();
    if status != StatusCode::OK {
        let (name, value) = retry_after(1);
        headers.insert(name, value);
    }
    (status, headers, Extension(ProblemRendered), text).into_response()
}
