//! Extractors of the handlers: the name in the path, and the context of a write.

use std::convert::Infallible;

use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRef, FromRequest, FromRequestParts, Path, Request, State};
use axum::response::Response;
use http::HeaderMap;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::auth::Caller;
use super::body;
use super::problem::{self, ProblemResponse};
use super::problem_layer::RequestId;
use super::state::App;
use super::writes::{self, Action, Write};
use crate::model::api;

/// Name of the service or id of the release in the path.
pub(super) struct PathName(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let path: Result<Path<String>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        path.map(|Path(name)| PathName(name))
            .map_err(|rejection| ProblemResponse::new(problem::BAD_REQUEST, rejection.body_text()))
    }
}

/// Context of a write before its body is read: caller, resource and headers.
pub(super) struct RequestContext {
    app: App,
    name: String,
    caller: Caller,
    request_id: RequestId,
    headers: HeaderMap,
    request: Request,
}

impl RequestContext {
    /// Whether the caller may override freeze windows.
    pub(super) fn may_override(&self) -> bool {
        self.caller.may_override()
    }

    /// Reads the body, converts it with `take` to an action with a reason, and executes it.
    pub(super) async fn write<T: DeserializeOwned>(
        self,
        take: impl FnOnce(T) -> Result<(Action, Option<String>), ProblemResponse>,
    ) -> Result<Response, ProblemResponse> {
        let (rest, request) = self.split();
        let (bytes, body) = body::read::<T>(request).await?;
        rest.carry_out(&bytes, take(body)?).await
    }

    /// Like [`RequestContext::write`] with an optional body.
    pub(super) async fn write_optional<T: DeserializeOwned + Default>(
        self,
        take: impl FnOnce(T) -> Result<(Action, Option<String>), ProblemResponse>,
    ) -> Result<Response, ProblemResponse> {
        let (rest, request) = self.split();
        let (bytes, body) = body::read_optional::<T>(request).await?;
        rest.carry_out(&bytes, take(body)?).await
    }

    fn split(mut self) -> (RequestContext, Request) {
        let request = std::mem::take(&mut self.request);
        (self, request)
    }

    async fn carry_out(
        self,
        body: &[u8],
        (action, reason): (Action, Option<String>),
    ) -> Result<Response, ProblemResponse> {
        let write = Write {
            subject: self.name,
            action,
            reason: checked("reason", reason, api::REASON_LENGTH_MAX)?,
            caller: self.caller,
            request_id: self.request_id,
        };
        writes::carry_out(self.app, write, &self.headers, body).await
    }
}

impl<S> FromRequest<S> for RequestContext
where
    App: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ProblemResponse;

    async fn from_request(request: Request, state: &S) -> Result<Self, ProblemResponse> {
        let (mut parts, body) = request.into_parts();
        let PathName(name) = PathName::from_request_parts(&mut parts, state).await?;
        let missing = |_| ProblemResponse::plain(problem::INTERNAL);
        let caller = Extension::<Caller>::from_request_parts(&mut parts, state).await;
        let request_id = Extension::<RequestId>::from_request_parts(&mut parts, state).await;
        let app: Result<State<App>, Infallible> =
            State::from_request_parts(&mut parts, state).await;
        let Ok(State(app)) = app;
        Ok(RequestContext {
            app,
            name,
            caller: caller.map_err(missing)?.0,
            request_id: request_id.map_err(missing)?.0,
            headers: parts.headers.clone(),
            request: Request::from_parts(parts, body),
        })
    }
}

/// Checks that a text has at most `most` characters.
pub(super) fn checked(
    field: &str,
    text: Option<String>,
    most: usize,
) -> Result<Option<String>, ProblemResponse> {
    match &text {
        Some(text) if text.chars().count() > most => Err(ProblemResponse::field(
            format!("/{field}"),
            format!("A {field} may have at most {most} characters."),
        )),
        _ => Ok(text),
    }
}
