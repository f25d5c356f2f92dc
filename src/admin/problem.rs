//! What is wrong with a request, as `application/problem+json` (RFC 9457).
//!
//! A [`Problem`] says what is wrong; [`super::envelope`] writes it, with the identity of the
//! request.

use std::borrow::Cow;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::control::Refusal;
use crate::model::api;

/// A sort of problem: the word in its `type`, its title, its status, and a detail for when nothing
/// better is known.
#[derive(Debug)]
pub(super) struct ProblemKind {
    pub(super) word: &'static str,
    pub(super) title: &'static str,
    pub(super) status: StatusCode,
    pub(super) detail: &'static str,
}

/// Declares a [`ProblemKind`] by status, word, title and detail.
macro_rules! kinds {
    ($($name:ident = $status:ident, $word:literal, $title:literal, $detail:literal;)*) => {
        $(pub(super) const $name: &ProblemKind = &ProblemKind {
            word: $word,
            title: $title,
            status: StatusCode::$status,
            detail: $detail,
        };)*
        /// Every kind; the first of a status stands for those that have only a status.
        pub(super) const KINDS: &[&ProblemKind] = &[$($name),*];
    };
}

kinds! {
    BAD_REQUEST = BAD_REQUEST, "bad-request", "The request cannot be understood", "Compare it with /api/v1/openapi.json.";
    MALFORMED_JSON = BAD_REQUEST, "malformed-json", "The body is not JSON", "Send one JSON object.";
    UNAUTHENTICATED = UNAUTHORIZED, "unauthenticated", "The caller is not known", "Send `Authorization: Bearer` and a token.";
    FORBIDDEN = FORBIDDEN, "forbidden", "The caller may not do this", "Use a token with a higher role.";
    CROSS_ORIGIN = FORBIDDEN, "cross-origin", "Another site's page asks", "Add its origin to admin.allowed_origins if it may.";
    NOT_FOUND = NOT_FOUND, "not-found", "There is nothing here", "/api/v1/openapi.json lists what there is.";
    UNKNOWN_SERVICE = NOT_FOUND, "unknown-service", "There is no such service", "GET /api/v1/services lists all.";
    UNKNOWN_RELEASE = NOT_FOUND, "unknown-release", "There is no such release", "GET /api/v1/services/{service}/releases lists those of a service.";
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED, "method-not-allowed", "The method does not fit this resource", "The Allow header lists those that do.";
    TOO_SLOW = REQUEST_TIMEOUT, "body-too-slow", "The body did not come", "Nothing was changed; send the body right behind the head.";
    OVERTAKEN = CONFLICT, "overtaken", "A rollback came first", "Nothing was changed; read the service again.";
    CONFLICT = CONFLICT, "conflict", "The change does not fit the state", "Nothing was changed.";
    STALE = PRECONDITION_FAILED, "stale-revision", "The service has moved on", "Nothing was changed; read the service again.";
    TOO_LARGE = PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large", "A body may have 64 KiB.";
    WRONG_TYPE = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body is of the wrong type", "Send `Content-Type: application/json`.";
    MISDIRECTED = MISDIRECTED_REQUEST, "misdirected", "This host is not served here", "Use the listener's address or localhost, or add the host to admin.allowed_hosts.";
    INVALID = UNPROCESSABLE_ENTITY, "invalid-fields", "Fields are wrong", "Nothing was changed; `errors` names the fields.";
    KEY_REUSED = UNPROCESSABLE_ENTITY, "idempotency-key-reused", "The Idempotency-Key belongs to another request", "Use a new key for a new request.";
    TOO_MANY = TOO_MANY_REQUESTS, "too-many-requests", "Too many failures", "Wait as long as Retry-After says.";
    INTERNAL = INTERNAL_SERVER_ERROR, "internal", "Weighbridge failed", "The log has more under this request_id.";
    OVERLOADED = SERVICE_UNAVAILABLE, "overloaded", "Too much at once", "Try again later.";
    STOPPED = SERVICE_UNAVAILABLE, "stopped", "Weighbridge is stopping", "Nothing was changed.";
    TIMED_OUT = GATEWAY_TIMEOUT, "timed-out", "The answer took too long", "A change may still be made; read the service again.";
    STORE = INSUFFICIENT_STORAGE, "store", "The change cannot be written to disk", "Nothing was changed.";
}

/// What is wrong with one request.
#[derive(Clone, Debug)]
pub(super) struct ProblemResponse {
    pub(super) kind: &'static ProblemKind,
    pub(super) detail: Cow<'static, str>,
    pub(super) errors: Vec<api::FieldProblem>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ProblemResponse {
    /// A problem of `kind`, with its own detail.
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

    /// A problem about which only the kind is known.
    pub(super) fn plain(kind: &'static ProblemKind) -> ProblemResponse {
        ProblemResponse::new(kind, kind.detail)
    }

    /// One wrong field.
    pub(super) fn field(pointer: impl Into<String>, detail: impl Into<String>) -> ProblemResponse {
        ProblemResponse::fields(vec![api::FieldProblem {
            pointer: pointer.into(),
            detail: detail.into(),
        }])
    }

    /// Wrong fields; the detail repeats the first for those who read no further.
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

    /// The same with a header on its answer.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> ProblemResponse {
        self.headers.push((name, value));
        self
    }

    /// The body, for the request `request_id`.
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

/// An answer without a body yet: the envelope, which knows the request, writes it.
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

/// The value of `Retry-After` in whole seconds, at least 1.
pub(super) fn retry_after(seconds: u64) -> (HeaderName, HeaderValue) {
    (header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}
