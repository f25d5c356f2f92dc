//! The journal of accepted changes.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::problem::{self, ProblemResponse};
use super::render::Renders;
use crate::control::Handle;
use crate::model::api;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 500;

/// Query of a page of the journal.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Entries before this sequence number: the `next` of the previous page. Default: the newest.
    before: Option<u64>,
    /// Maximum number of entries; 50 if not given.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
}

/// Accepted changes with actor, time and reason, newest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "journal", params(AuditQuery), responses(
    (status = 200, description = "A page of entries", body = api::AuditPage),
    (status = 422, description = "Invalid parameter", body = api::Problem,
        content_type = "application/problem+json"),
    (status = 507, description = "The journal cannot be read", body = api::Problem,
        content_type = "application/problem+json"),
))]
pub(super) async fn list_audit(
    State(handle): State<Handle>,
    State(renders): State<Renders>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Response, ProblemResponse> {
    let Query(query) =
        query.map_err(|rejection| ProblemResponse::new(problem::INVALID, rejection.body_text()))?;
    // Sequence numbers of the journal have 63 bits.
    if query
        .before
        .is_some_and(|before| i64::try_from(before).is_err())
    {
        return Err(ProblemResponse::new(
            problem::INVALID,
            "before must be a sequence number.",
        ));
    }
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ProblemResponse::new(
            problem::INVALID,
            format!("limit must be 1 to {LIMIT_MAX}."),
        ));
    }
    renders.json(handle.audit(query.before, limit).await?).await
}

/// Verifies the hash chain of the whole journal. One verification runs at a time.
#[utoipa::path(get, path = "/api/v1/audit/verify", tag = "journal", responses(
    (status = 200, description = "The result, also when the journal is damaged",
        body = api::AuditVerdict),
    (status = 409, description = "Another verification is running", body = api::Problem,
        content_type = "application/problem+json"),
    (status = 507, description = "The journal cannot be read", body = api::Problem,
        content_type = "application/problem+json"),
))]
pub(super) async fn verify_audit(
    State(handle): State<Handle>,
) -> Result<Json<api::AuditVerdict>, ProblemResponse> {
    Ok(Json(handle.verify_audit().await?))
}
