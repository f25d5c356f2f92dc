//! Error responses as `application/problem+json` (RFC 9457).
//!
//! A [`ProblemResponse`] describes the error; [`super::problem_layer`] writes the body, with the
//! request id.

use std::borrow::Cow;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::control::Refusal;
use crate::model::api;

/// Kind of problem: the last segment of its `type`, title, status and default detail.
#[derive(Debug)]
pub(super) struct ProblemKind {
    pub(super) word: &'static str,
    pub(super) title: &'static str,
    pub(super) status: StatusCode,
    pub(super) detail: &'static str,
}

/// Declares each [`ProblemKind`] by status, `type` word, title and default detail.
macro_rules! kinds {
    ($($name:ident = $status:ident, $word:literal, $title:literal, $detail:literal;)*) => {
        $(pub(super) const $name: &ProblemKind = &ProblemKind {
            word: $word,
            title: $title,
            status: StatusCode::$status,
            detail: $detail,
        };)*
        /// All kinds; the first kind of a status represents responses that have only a status.
        pub(super) const KINDS: &[&ProblemKind] = &[$($name),*];
    };
}

kinds! {
    BAD_REQUEST = BAD_REQUEST, "bad-request",
        "Bad request",
        "Compare the request with /api/v1/openapi.json.";
    MALFORMED_JSON = BAD_REQUEST, "malformed-json",
        "Malformed JSON",
        "Send one JSON object.";
    UNAUTHENTICATED = UNAUTHORIZED, "unauthenticated",
        "Authentication required",
        "Send `Authorization: Bearer` with a token.";
    FORBIDDEN = FORBIDDEN, "forbidden",
        "Permission denied",
        "Use a token with a higher role.";
    CROSS_ORIGIN = FORBIDDEN, "cross-origin",
        "Cross-origin request refused",
        "To allow it, add the page's origin to admin.allowed_origins.";
    NOT_FOUND = NOT_FOUND, "not-found",
        "Not found",
        "/api/v1/openapi.json lists all paths.";
    UNKNOWN_SERVICE = NOT_FOUND, "unknown-service",
        "Unknown service",
        "GET /api/v1/services lists all services.";
    UNKNOWN_RELEASE = NOT_FOUND, "unknown-release",
        "Unknown release",
        "GET /api/v1/services/{service}/releases lists the releases of a service.";
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED, "method-not-allowed",
        "Method not allowed",
        "The Allow header lists the allowed methods.";
    TOO_SLOW = REQUEST_TIMEOUT, "body-too-slow",
        "Request body timed out",
        "Nothing was changed; send the body directly after the head.";
    OVERTAKEN = CONFLICT, "overtaken",
        "Superseded by a rollback",
        "Nothing was changed; read the service again.";
    CONFLICT = CONFLICT, "conflict",
        "Conflict with the current state",
        "Nothing was changed.";
    STALE = PRECONDITION_FAILED, "stale-revision",
        "Stale revision",
        "Nothing was changed; read the service again.";
    TOO_LARGE = PAYLOAD_TOO_LARGE, "body-too-large",
        "Request body too large",
        "A request body may have at most 64 KiB.";
    WRONG_TYPE = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type",
        "Unsupported media type",
        "Send `Content-Type: application/json`.";
    MISDIRECTED = MISDIRECTED_REQUEST, "misdirected",
        "Host not served",
        "Use the listener's address or localhost, or add the host to admin.allowed_hosts.";
    INVALID = UNPROCESSABLE_ENTITY, "invalid-fields",
        "Invalid fields",
        "Nothing was changed; `errors` names the fields.";
    KEY_REUSED = UNPROCESSABLE_ENTITY, "idempotency-key-reused",
        "Idempotency-Key already used by another request",
        "Use a new key for a new request.";
    TOO_MANY = TOO_MANY_REQUESTS, "too-many-requests",
        "Too many failed attempts",
        "Wait as long as Retry-After says.";
    INTERNAL = INTERNAL_SERVER_ERROR, "internal",
        "Internal error",
        "The log has the cause under this request_id.";
    OVERLOADED = SERVICE_UNAVAILABLE, "overloaded",
        "Overloaded",
        "Try again later.";
    STOPPED = SERVICE_UNAVAILABLE, "stopped",
        "Weighbridge is stopping",
        "Nothing was changed.";
    TIMED_OUT = GATEWAY_TIMEOUT, "timed-out",
        "Request timed out",
        "The change may still take effect; read the service again.";
    STORE = INSUFFICIENT_STORAGE, "store",
        "Storage error",
        "Nothing was changed.";
}

/// Problem of one request.
#[derive(Clone, Debug)]
pub(super) struct ProblemResponse {
    pub(super) kind: &'static ProblemKind,
    pub(super) detail: Cow<'static, str>,
    pub(super) errors: Vec<api::FieldProblem>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ProblemResponse {
    /// A problem of `kind` with its own detail.
    pub(super) fn new(
        kind: &'static ProblemKind,
        detail: impl Into<Cow<'static, str>>,
    ) -> ProblemResponse {
        ProblemResponse {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// A problem of `kind` with the default detail.
    pub(super) fn plain(kind: &'static ProblemKind) -> ProblemResponse {
        ProblemResponse::new(kind, kind.detail)
    }

    /// A problem with one invalid field.
    pub(super) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> ProblemResponse {
        ProblemResponse::fields(vec![api::FieldProblem {
            pointer: pointer.into(),
            detail: detail.into(),
        }])
    }

    /// A problem with several invalid fields; the detail repeats the first.
    pub(super) fn fields(errors: Vec<api::FieldProblem>) -> ProblemResponse {
        let detail = errors
            .first()
            .map_or(Cow::Borrowed(INVALID.detail), |first| {
                Cow::Owned(match first.pointer.as_str() {
                    "" => first.detail.clone(),
                    pointer => format!("{pointer}: {}", first.detail),
                })
            });
        ProblemResponse {
            errors,
            ..ProblemResponse::new(INVALID, detail)
        }
    }

    /// Adds a header to the response.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> ProblemResponse {
        self.headers.push((name, value));
        self
    }

    /// Body of the response to the request `request_id`.
    pub(super) fn to_api(&self, request_id: &str) -> api::Problem {
        api::Problem {
            kind: format!("/problems/{}", self.kind.word),
            title: self.kind.title.to_owned(),
            status: self.kind.status.as_u16(),
            detail: self.detail.clone().into_owned(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        }
    }
}

/// The response has no body yet: the problem layer, which knows the request id, writes it.
impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let mut response = self.kind.status.into_response();
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<Refusal> for ProblemResponse {
    fn from(refusal: Refusal) -> ProblemResponse {
        let detail = refusal.to_string();
        match refusal {
            Refusal::UnknownRelease(_) => ProblemResponse::new(UNKNOWN_RELEASE, detail),
            Refusal::Unfit(errors) => ProblemResponse::fields(errors),
            Refusal::Conflict(_) => ProblemResponse::new(CONFLICT, detail),
            Refusal::Forbidden(_) => ProblemResponse::new(FORBIDDEN, detail),
            Refusal::UnknownService(_) => ProblemResponse::new(UNKNOWN_SERVICE, detail),
            Refusal::Invalid(errors) => ProblemResponse::fields(errors),
            Refusal::Stale { .. } => ProblemResponse::new(STALE, detail),
            Refusal::Overtaken => ProblemResponse::new(OVERTAKEN, detail),
            Refusal::Reload(_) => ProblemResponse::new(CONFLICT, detail),
            Refusal::Store(_) => ProblemResponse::new(STORE, detail),
            Refusal::Stopped => ProblemResponse::new(STOPPED, detail),
        }
    }
}

/// Header `Retry-After` in whole seconds, at least 1.
pub(super) fn retry_after(seconds: u64) -> (HeaderName, HeaderValue) {
    (header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}
