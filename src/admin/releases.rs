//! Releases: start, verbs, state and forecasts.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::header;
use serde::Deserialize;
use utoipa::IntoParams;

use super::body;
use super::conditional;
use super::problem::{self, ProblemResponse};
use super::render::Renders;
use super::request_context::{PathName, RequestContext, checked};
use super::writes::Action;
use crate::control::{Handle, ReleaseVerb};
use crate::model::api;

const LIMIT_DEFAULT: usize = 20;
const LIMIT_MAX: usize = 200;
const CHANGE_LENGTH_MAX: usize = 1000;
const VERSION_LENGTH_MAX: usize = 200;

/// Query of the list of releases.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleasesQuery {
    /// Maximum number of releases; 20 if not given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
}

/// The releases of a service, newest first.
#[utoipa::path(get, path = "/api/v1/services/{service}/releases", tag = "releases",
    params(("service" = String, Path, description = "The service's name"), ReleasesQuery),
    responses(
        (status = 200, description = "The releases", body = api::ReleaseList),
        (status = 404, description = "Unknown service", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "Invalid parameter", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 507, description = "The history cannot be read", body = api::Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn list_releases(
    State(handle): State<Handle>,
    State(renders): State<Renders>,
    PathName(service): PathName,
    query: Result<Query<ReleasesQuery>, QueryRejection>,
) -> Result<Response, ProblemResponse> {
    let Query(query) =
        query.map_err(|rejection| ProblemResponse::new(problem::INVALID, rejection.body_text()))?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let detail = format!("limit must be 1 to {LIMIT_MAX}.");
        return Err(ProblemResponse::new(problem::INVALID, detail));
    }
    let releases = handle.releases(&service, limit).await?;
    renders.json(api::ReleaseList { releases }).await
}

/// One release, running or ended. `If-Match` of writes refers to the revision of its service.
#[utoipa::path(get, path = "/api/v1/releases/{id}", tag = "releases",
    params(("id" = String, Path, description = "The release's id")),
    responses(
        (status = 200, description = "The release", body = api::Release,
            headers(("ETag" = Option<String>, description = "The revision of its service, for \
                If-Match, while the service exists"))),
        (status = 404, description = "Unknown release", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 507, description = "The history cannot be read", body = api::Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn get_release(
    State(handle): State<Handle>,
    PathName(id): PathName,
) -> Result<Response, ProblemResponse> {
    // Read before the release, so that the tag is never newer than the body.
    let service = id.rsplit_once('-').map_or("", |(service, _)| service);
    let revision = handle.revision(service).ok();
    let tag = revision.map(|revision| [(header::ETAG, conditional::tag(revision))]);
    Ok((tag, Json(handle.release(&id).await?)).into_response())
}

/// Starts a release: the canary advances through the steps of the plan, or goes back to 0.
#[utoipa::path(post, path = "/api/v1/services/{service}/releases", tag = "releases",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("If-Match" = Option<String>, Header,
            pattern = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#,
            description = "Tags, of which one must be current; weak tags never match"),
        ("Idempotency-Key" = Option<String>, Header,
            pattern = "^[!-~]{1,255}$",
            description = "A repeated request with this key gets the first response for 24 hours"),
    ),
    request_body = api::ReleaseStart,
    responses(
        (status = 201, description = "The started release", body = api::ReleaseChange, headers(
            ("Location" = String, description = "The path of the release"),
            ("ETag" = String, description = "The service's new revision"))),
        (status = 403, description = "Permission denied; `override_freeze`, and a plan that \
            weakens gates, freeze windows or the preflight of the configuration, need `admin` and \
            a reason", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "Unknown service", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "Another release is running", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 412, description = "Stale revision", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "Invalid fields, or an Idempotency-Key of another request",
            body = api::Problem, content_type = "application/problem+json"),
        (status = 507, description = "Storage error", body = api::Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn start_release(call: RequestContext) -> Result<Response, ProblemResponse> {
    let may_override = call.may_override();
    call.write(|mut start: api::ReleaseStart| {
        check_override(start.override_freeze, start.reason.as_deref(), may_override)?;
        start.change = checked("change", start.change, CHANGE_LENGTH_MAX)?;
        start.version = checked("version", start.version, VERSION_LENGTH_MAX)?;
        let reason = start.reason.clone();
        Ok((Action::StartRelease(start), reason))
    })
    .await
}

/// Forecast of the service's plan at the present traffic: duration and cost.
#[utoipa::path(get, path = "/api/v1/services/{service}/plan", tag = "releases",
    params(("service" = String, Path, description = "The service's name")),
    responses(
        (status = 200, description = "The forecast", body = api::Forecast),
        (status = 404, description = "Unknown service", body = api::Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn get_plan(
    State(handle): State<Handle>,
    PathName(service): PathName,
) -> Result<Json<api::Forecast>, ProblemResponse> {
    Ok(Json(handle.forecast(&service, None).await?))
}

/// Forecast of another plan at the present traffic: duration and cost. Changes nothing.
#[utoipa::path(post, path = "/api/v1/services/{service}/plan", tag = "releases",
    params(("service" = String, Path, description = "The service's name")),
    request_body(content = api::PlanRequest, description = "Optional, with its Content-Type"),
    responses(
        (status = 200, description = "The forecast", body = api::Forecast),
        (status = 404, description = "Unknown service", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "Invalid plan", body = api::Problem,
            content_type = "application/problem+json"),
    ))]
pub(super) async fn try_plan(
    State(handle): State<Handle>,
    PathName(service): PathName,
    request: Request,
) -> Result<Json<api::Forecast>, ProblemResponse> {
    let (_, body) = body::read_optional::<api::PlanRequest>(request).await?;
    Ok(Json(handle.forecast(&service, body.plan).await?))
}

/// Declares the handlers of the verbs on a release, which differ only in the verb.
macro_rules! verbs {
    ($($(#[doc = $doc:literal])+ $name:ident = $verb:ident, $path:literal;)*) => {$(
        $(#[doc = $doc])+
        #[utoipa::path(post, path = $path, tag = "releases",
            params(
                ("id" = String, Path, description = "The release's id"),
                ("If-Match" = Option<String>, Header,
                    pattern = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#,
                    description = "Tags of the service, of which one must be current; \
                        weak tags never match"),
                ("Idempotency-Key" = Option<String>, Header,
                    pattern = "^[!-~]{1,255}$",
                    description = "A repeated request with this key gets the first response \
                        for 24 hours"),
            ),
            request_body(content = api::ReleaseCommand,
                description = "Optional, with its Content-Type"),
            responses(
                (status = 200, description = "The release after the change",
                    body = api::ReleaseChange,
                    headers(("ETag" = String, description = "The service's new revision"))),
                (status = 403, description = "Permission denied; `override_freeze` needs `admin`",
                    body = api::Problem, content_type = "application/problem+json"),
                (status = 404, description = "Unknown release", body = api::Problem,
                    content_type = "application/problem+json"),
                (status = 409, description = "Conflict with the phase of the release",
                    body = api::Problem, content_type = "application/problem+json"),
                (status = 412, description = "Stale revision of the service", body = api::Problem,
                    content_type = "application/problem+json"),
                (status = 422, description = "Invalid fields, or an Idempotency-Key of another \
                    request", body = api::Problem,
                    content_type = "application/problem+json"),
                (status = 507, description = "Storage error", body = api::Problem,
                    content_type = "application/problem+json"),
            ))]
        pub(super) async fn $name(call: RequestContext) -> Result<Response, ProblemResponse> {
            command(call, ReleaseVerb::$verb).await
        }
    )*};
}

verbs! {
    /// Pauses a release. Automatic rollback stays active.
    pause_release = Pause, "/api/v1/releases/{id}/pause";
    /// Resumes a release, also past a step that was inconclusive.
    resume_release = Resume, "/api/v1/releases/{id}/resume";
    /// Approves a gate.
    approve_release = Approve, "/api/v1/releases/{id}/approve";
    /// Moves the canary to 100 percent at once, skipping all remaining steps.
    promote_release = Promote, "/api/v1/releases/{id}/promote";
    /// Moves all weight back to the baseline and ends the release as rolled back.
    roll_back_release = RollBack, "/api/v1/releases/{id}/rollback";
    /// Moves all weight back to the baseline and ends the release without a verdict.
    cancel_release = Cancel, "/api/v1/releases/{id}/cancel";
}

async fn command(call: RequestContext, verb: ReleaseVerb) -> Result<Response, ProblemResponse> {
    let may_override = call.may_override();
    call.write_optional(|command: api::ReleaseCommand| {
        check_command(verb, &command)?;
        check_override(
            command.override_freeze,
            command.reason.as_deref(),
            may_override,
        )?;
        let reason = command.reason.clone();
        Ok((Action::Release(verb, command), reason))
    })
    .await
}

/// Refuses fields that the verb does not use.
fn check_command(verb: ReleaseVerb, command: &api::ReleaseCommand) -> Result<(), ProblemResponse> {
    if command.gate.is_some() && verb != ReleaseVerb::Approve {
        return Err(ProblemResponse::field(
            "/gate",
            "Only approve accepts a gate.",
        ));
    }
    if command.override_freeze && !matches!(verb, ReleaseVerb::Resume | ReleaseVerb::Promote) {
        return Err(ProblemResponse::field(
            "/override_freeze",
            "Only resume and promote accept override_freeze.",
        ));
    }
    Ok(())
}

/// Overriding a freeze window needs the role `admin` and a reason.
fn check_override(
    override_freeze: bool,
    reason: Option<&str>,
    may_override: bool,
) -> Result<(), ProblemResponse> {
    match override_freeze {
        true if !may_override => Err(ProblemResponse::new(
            problem::FORBIDDEN,
            "Overriding freeze windows needs the role \"admin\".",
        )),
        true if reason.is_none_or(|reason| reason.trim().is_empty()) => Err(
            ProblemResponse::field("/reason", "Overriding freeze windows needs a reason."),
        ),
        _ => Ok(()),
    }
}
