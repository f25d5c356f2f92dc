//! Releases: their start, the verbs on them, and what is known of them.

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

/// How many releases are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleasesQuery {
    /// At most so many; 20 if not given.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
}

/// The releases of a service, newest first.
#[utoipa::path(get, path = "/api/v1/services/{service}/releases", tag = "releases",
    params(("service" = String, Path, description = "The service's name"), ReleasesQuery),
    responses(
        (status = 200, description = "The releases", body = api::ReleaseList),
        (status = 404, description = "No such service", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = api::Problem, content_type = "application/problem+json"),
        (status = 507, description = "The history cannot be read", body = api::Problem, content_type = "application/problem+json"),
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

/// One release, under way or ended. Conditions of writes are on the revision of its service.
#[utoipa::path(get, path = "/api/v1/releases/{id}", tag = "releases",
    params(("id" = String, Path, description = "The release's identity")),
    responses(
        (status = 200, description = "The release", body = api::Release,
            headers(("ETag" = Option<String>, description = "The revision of its service, for If-Match, while there is such a service"))),
        (status = 404, description = "No such release", body = api::Problem, content_type = "application/problem+json"),
        (status = 507, description = "The history cannot be read", body = api::Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn get_release(
    State(handle): State<Handle>,
    PathName(id): PathName,
) -> Result<Response, ProblemResponse> {
    // Asked for before the release, so that the tag is never newer than what is shown.
    let service = id.rsplit_once('-').map_or("", |(service, _)| service);
    let revision = handle.revision(service).ok();
    let tag = revision.map(|revision| [(header::ETAG, conditional::tag(revision))]);
    Ok((tag, Json(handle.release(&id).await?)).into_response())
}

/// Starts a release: the canary goes through the steps of its plan, or back to 0.
#[utoipa::path(post, path = "/api/v1/services/{service}/releases", tag = "releases",
    params(
        ("service" = String, Path, description = "The service's name"),
        ("If-Match" = Option<String>, Header, pattern = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#, description = "Tags of which one must be current; weak ones never match"),
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$", description = "The same request with the same key gets the first answer for 24 hours"),
    ),
    request_body = api::ReleaseStart,
    responses(
        (status = 201, description = "The release has been started", body = api::ReleaseChange, headers(
            ("Location" = String, description = "The path of the release"),
            ("ETag" = String, description = "The service's new revision"))),
        (status = 403, description = "The role does not allow it; `override_freeze`, and a plan that weakens gates, freeze windows or the preflight of the configuration, need `admin` and a reason", body = api::Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such service", body = api::Problem, content_type = "application/problem+json"),
        (status = 409, description = "Another release is under way", body = api::Problem, content_type = "application/problem+json"),
        (status = 412, description = "The revision is stale", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "Fields are wrong, or the key is another request's", body = api::Problem, content_type = "application/problem+json"),
        (status = 507, description = "The store cannot take the change", body = api::Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn start_release(call: RequestContext) -> Result<Response, ProblemResponse> {
    let may_override = call.may_override();
    call.write(|mut start: api::ReleaseStart| {
        may_go_on(start.override_freeze, start.reason.as_deref(), may_override)?;
        start.change = checked("change", start.change, CHANGE_LENGTH_MAX)?;
        start.version = checked("version", start.version, VERSION_LENGTH_MAX)?;
        let reason = start.reason.clone();
        Ok((Action::StartRelease(start), reason))
    })
    .await
}

/// What the service's plan would cost and take at the present traffic.
#[utoipa::path(get, path = "/api/v1/services/{service}/plan", tag = "releases",
    params(("service" = String, Path, description = "The service's name")),
    responses(
        (status = 200, description = "The forecast", body = api::Forecast),
        (status = 404, description = "No such service", body = api::Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn get_plan(
    State(handle): State<Handle>,
    PathName(service): PathName,
) -> Result<Json<api::Forecast>, ProblemResponse> {
    Ok(Json(handle.forecast(&service, None).await?))
}

/// What another plan would cost and take at the present traffic. Changes nothing.
#[utoipa::path(post, path = "/api/v1/services/{service}/plan", tag = "releases",
    params(("service" = String, Path, description = "The service's name")),
    request_body(content = api::PlanRequest, description = "May be left out, with its type"),
    responses(
        (status = 200, description = "The forecast", body = api::Forecast),
        (status = 404, description = "No such service", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "The plan is wrong", body = api::Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn try_plan(
    State(handle): State<Handle>,
    PathName(service): PathName,
    request: Request,
) -> Result<Json<api::Forecast>, ProblemResponse> {
    let (_, asked) = body::read_optional::<api::PlanRequest>(request).await?;
    Ok(Json(handle.forecast(&service, asked.plan).await?))
}

/// Declares the calls that do something with a release, which differ in their verb only.
macro_rules! verbs {
    ($($(#[doc = $doc:literal])+ $name:ident = $verb:ident, $path:literal;)*) => {$(
        $(#[doc = $doc])+
        #[utoipa::path(post, path = $path, tag = "releases",
            params(
                ("id" = String, Path, description = "The release's identity"),
                ("If-Match" = Option<String>, Header, pattern = r#"^(\*|(W/)?"[^"]*"( *, *(W/)?"[^"]*")*)$"#, description = "Tags of the service, of which one must be current; weak ones never match"),
                ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$", description = "The same request with the same key gets the first answer for 24 hours"),
            ),
            request_body(content = api::ReleaseCommand, description = "May be left out, with its type"),
            responses(
                (status = 200, description = "The release after it", body = api::ReleaseChange,
                    headers(("ETag" = String, description = "The service's revision after it"))),
                (status = 403, description = "The role does not allow it; `override_freeze` needs `admin`", body = api::Problem, content_type = "application/problem+json"),
                (status = 404, description = "No such release", body = api::Problem, content_type = "application/problem+json"),
                (status = 409, description = "It does not fit the release's phase", body = api::Problem, content_type = "application/problem+json"),
                (status = 412, description = "The service's revision is stale", body = api::Problem, content_type = "application/problem+json"),
                (status = 422, description = "Fields are wrong, or the key is another request's", body = api::Problem, content_type = "application/problem+json"),
                (status = 507, description = "The store cannot take the change", body = api::Problem, content_type = "application/problem+json"),
            ))]
        pub(super) async fn $name(call: RequestContext) -> Result<Response, ProblemResponse> {
            command(call, ReleaseVerb::$verb).await
        }
    )*};
}

verbs! {
    /// Stops a release from going on. The brakes work all the same.
    pause_release = Pause, "/api/v1/releases/{id}/pause";
    /// Lets a release go on, also past a step that gave no answer.
    resume_release = Resume, "/api/v1/releases/{id}/resume";
    /// Gives one voice for a gate.
    approve_release = Approve, "/api/v1/releases/{id}/approve";
    /// Takes the canary to 100 percent at once, past all steps that are left.
    promote_release = Promote, "/api/v1/releases/{id}/promote";
    /// Takes all weight back to the baseline, for good.
    roll_back_release = RollBack, "/api/v1/releases/{id}/rollback";
    /// Takes all weight back to the baseline, without a judgement.
    cancel_release = Cancel, "/api/v1/releases/{id}/cancel";
}

async fn command(call: RequestContext, verb: ReleaseVerb) -> Result<Response, ProblemResponse> {
    let may_override = call.may_override();
    call.write_optional(|command: api::ReleaseCommand| {
        check_command(verb, &command)?;
        may_go_on(
            command.override_freeze,
            command.reason.as_deref(),
            may_override,
        )?;
        let reason = command.reason.clone();
        Ok((Action::Release(verb, command), reason))
    })
    .await
}

/// A field that this verb would have to ignore is refused.
fn check_command(verb: ReleaseVerb, command: &api::ReleaseCommand) -> Result<(), ProblemResponse> {
    if command.gate.is_some() && verb != ReleaseVerb::Approve {
        return Err(ProblemResponse::field(
            "/gate",
            "Only approve takes a gate.",
        ));
    }
    if command.override_freeze && !matches!(verb, ReleaseVerb::Resume | ReleaseVerb::Promote) {
        return Err(ProblemResponse::field(
            "/override_freeze",
            "Only resume and promote can be held up by a freeze window.",
        ));
    }
    Ok(())
}

/// Going on through a freeze window is for admins, who have to say why.
fn may_go_on(
    override_freeze: bool,
    reason: Option<&str>,
    may_override: bool,
) -> Result<(), ProblemResponse> {
    match override_freeze {
        true if !may_override => Err(ProblemResponse::new(
            problem::FORBIDDEN,
            "To go on through freeze windows needs the role \"admin\".",
        )),
        true if reason.is_none_or(|reason| reason.trim().is_empty()) => Err(
            ProblemResponse::field("/reason", "Going on through freeze windows needs a reason."),
        ),
        _ => Ok(()),
    }
}
