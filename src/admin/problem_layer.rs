//! Adds the request id to every response, and the problem body to every error.
//!
//! Error bodies are written only here, including those for errors of axum and of the layers below,
//! which set only a status.

use std::any::Any;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, header};
use uuid::Uuid;

use super::problem::{self, ProblemResponse};

/// Maximum length of a request id sent by a caller.
const REQUEST_ID_LENGTH_MAX: usize = 128;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Request id: the caller's if it is valid, else a new one that sorts by time.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    fn of(request: &Request) -> RequestId {
        let sent = request
            .headers()
            .get(X_REQUEST_ID)
            .filter(|value| is_valid(value))
            .cloned();
        RequestId(sent.unwrap_or_else(new_id))
    }

    /// The id as text, for the log.
    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

fn is_valid(value: &HeaderValue) -> bool {
    (1..=REQUEST_ID_LENGTH_MAX).contains(&value.len())
        && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn new_id() -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    HeaderValue::from_str(Uuid::now_v7().hyphenated().encode_lower(&mut text))
        .unwrap_or_else(|_| HeaderValue::from_static("none"))
}

/// Marks an error response whose body is already written, such as the text of a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProblemRendered;

/// Adds the request id, and writes the problem body if the response is an error.
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
        tracing::warn!(request_id, kind, %detail, "admin request failed");
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

/// Problem carried by the response, or the default problem of its status; `None` if the response
/// is no error or has its body already.
fn problem_of(response: &Response) -> Option<Arc<ProblemResponse>> {
    if let Some(problem) = response.extensions().get::<Arc<ProblemResponse>>() {
        return Some(Arc::clone(problem));
    }
    let status = response.status();
    let is_rendered = response.extensions().get::<ProblemRendered>().is_some();
    if is_rendered || !(status.is_client_error() || status.is_server_error()) {
        return None;
    }
    let known = problem::KINDS.iter().find(|kind| kind.status == status);
    Some(Arc::new(ProblemResponse::plain(
        known.unwrap_or(&problem::INTERNAL),
    )))
}

/// Response to a request whose handler panicked.
#[expect(
    clippy::needless_pass_by_value,
    reason = "signature required by the layer"
)]
pub(super) fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let cause = cause
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    tracing::error!(cause, "handler of an admin request panicked");
    ProblemResponse::plain(problem::INTERNAL).into_response()
}
