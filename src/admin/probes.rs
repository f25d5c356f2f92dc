//! Probes, metrics, and the pages that never change.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use super::problem::{ProblemResponse, retry_after};
use super::problem_layer::ProblemRendered;
use super::render::{self, Renders, SharedResponse};
use super::router::{App, Pages};
use crate::control::{Handle, Metrics, Readiness};

/// A page that lists the calls.
#[utoipa::path(get, path = "/", tag = "process", responses(
    (status = 200, description = "The list of calls", body = String, content_type = "text/html; charset=utf-8"),
))]
pub(super) async fn index(State(pages): State<Pages>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/html; charset=utf-8")],
        pages.index,
    )
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "process", responses(
    (status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json"),
))]
pub(super) async fn openapi_document(State(pages): State<Pages>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], pages.openapi)
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "process", responses(
    (status = 200, description = "Text format 0.0.4", body = String, content_type = "text/plain; version=0.0.4"),
))]
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, ProblemResponse> {
    Ok(render::answer(
        Metrics::CONTENT_TYPE,
        app.metrics.get().await?,
    ))
}

/// The metrics, once for all who ask for them at the same time.
pub(super) fn shared(renders: &Renders, handle: Handle) -> Arc<SharedResponse> {
    SharedResponse::new(renders.clone(), move || {
        Ok(handle.metrics().render().into_bytes())
    })
}

/// Whether the process lives. A failure means that it should be started anew.
#[utoipa::path(get, path = "/livez", tag = "process", responses(
    (status = 200, description = "It lives", body = String, content_type = "text/plain; charset=utf-8"),
))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether new connections should be sent here. It does not depend on any upstream.
#[utoipa::path(get, path = "/readyz", tag = "process",
    params(("verbose" = Option<String>, Query, description = "Lists each check, whatever its value")),
    responses(
        (status = 200, description = "Ready", body = String, content_type = "text/plain; charset=utf-8"),
        (status = 503, description = "Starting or draining", body = String, content_type = "text/plain; charset=utf-8"),
    ))]
pub(super) async fn readyz(State(handle): State<Handle>, RawQuery(query): RawQuery) -> Response {
    answer(handle.readiness(), query.as_deref())
}

/// The same as `/readyz`, by its older name.
#[utoipa::path(get, path = "/healthz", tag = "process",
    params(("verbose" = Option<String>, Query, description = "Lists each check, whatever its value")),
    responses(
        (status = 200, description = "Ready", body = String, content_type = "text/plain; charset=utf-8"),
        (status = 503, description = "Starting or draining", body = String, content_type = "text/plain; charset=utf-8"),
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
        for (is_good, check) in [
            (
                readiness != Readiness::Starting,
                "configuration in use, listeners bound",
            ),
            (readiness != Readiness::Draining, "not draining"),
        ] {
            let mark = if is_good { '+' } else { '-' };
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
