//! What every answer has: the request's identity, and a body that says what is wrong when something
//! is.
//!
//! Errors are written here and nowhere else, also those of axum and of the layers below, which know
//! only a status.

use std::any::Any;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use uuid::Uuid;

use super::problem::{self, ProblemResponse};

/// Identities that callers bring may be so long.
const REQUEST_ID_LENGTH_MAX: usize = 128;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The identity of a request: the caller's own if it is sane, else a new one that sorts by time.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    fn of(request: &Request) -> RequestId {
        let brought = request
            .headers()
            .get(X_REQUEST_ID)
            .filter(|value| is_sane(value))
            .cloned();
        RequestId(brought.unwrap_or_else(new_id))
    }

    /// As text, for the log.
    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

fn is_sane(value: &HeaderValue) -> bool {
    (1..=REQUEST_ID_LENGTH_MAX).contains(&value.len())
        && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn new_id() -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(Uuid::now_v7().hyphenated().encode_lower(&mut text))
        .unwrap_or_else(|_| HeaderValue::from_static("none"))
}

/// Marks an answer that is an error and has said so itself, as text for probes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProblemRendered;

/// Names the request, and writes the answer's problem if it has one.
pub(super) async fn seal(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    let mut response = write_problem(next.run(request).await, &id);
    response.headers_mut().insert(X_REQUEST_ID, id.0);
    response
}

fn write_problem(response: Response, id: &RequestId) -> Response {
    let Some(problem) = problem_of(&response) else {
        return response;
    };
    if response.status().is_server_error() {
        let (request_id, kind, detail) = (id.as_str(), problem.kind.word, &problem.detail);
        tracing::warn!(request_id, kind, %detail, "an admin request failed");
    }
    let Ok(body) = serde_json::to_vec(&problem.to_api(id.as_str())) else {
        return response;
    };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let kind = HeaderValue::from_static("application/problem+json");
    parts.headers.insert(header::CONTENT_TYPE, kind);
    Response::from_parts(parts, Body::from(body))
}

/// The problem that an answer carries, or the one that its status stands for; `None` for an answer
/// that is none.
fn problem_of(response: &Response) -> Option<Arc<ProblemResponse>> {
    if let Some(problem) = response.extensions().get::<Arc<ProblemResponse>>() {
        return Some(Arc::clone(problem));
    }
    let status = response.status();
    let is_spoken = response.extensions().get::<ProblemRendered>().is_some();
    if is_spoken || !(status.is_client_error() || status.is_server_error()) {
        return None;
    }
    let known = problem::KINDS.iter().find(|kind| kind.status == status);
    Some(Arc::new(ProblemResponse::plain(
        known.unwrap_or(&problem::INTERNAL),
    )))
}

/// The answer to a request whose handling panicked.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that the layer asks for"
)]
pub(super) fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let cause = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    tracing::error!(cause, "the handling of an admin request panicked");
    ProblemResponse::plain(problem::INTERNAL).into_response()
}
