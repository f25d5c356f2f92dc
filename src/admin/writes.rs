//! How a write is carried out: once, whole, and under the condition that its caller gave.
//!
//! The work runs in a task of its own, so that a caller who hangs up cannot leave it half done or its answer unknown.

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;

use super::auth::Caller;
use super::conditional::{self, Tags};
use super::envelope::RequestId;
use super::idempotency::{self, Answer, Key, Outcome, Turn};
use super::problem::{self, Problem};
use super::router::App;
use crate::control::{Handle, Intent};
use crate::model::api;

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What is to be written, for whom and why.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) service: String,
    pub(super) action: Action,
    pub(super) reason: Option<String>,
    pub(super) caller: Caller,
    pub(super) request_id: RequestId,
}

/// What is to be done with the service.
#[derive(Debug)]
pub(super) enum Action {
    SetWeights(api::Percentages),
    Rollback,
}

impl Action {
    fn as_str(&self) -> &'static str {
        match self {
            Action::SetWeights(_) => "weights",
            Action::Rollback => "rollback",
        }
    }
}

/// Does what `write` says, or repeats the answer that its key has had already.
pub(super) async fn carry_out(app: App, write: Write, headers: &HeaderMap, body: &Bytes) -> Result<Response, Problem> {
    let condition = conditional::if_match(headers)?;
    if conditional::if_none_match(headers)?.is_some() {
        return Err(Problem::new(
            problem::STALE,
            "What If-None-Match says cannot hold: the service exists. Use If-Match.",
        ));
    }
    let Some(key) = Key::read(headers, &write.caller.name)? else {
        let (sender, outcome) = watch::channel(None);
        tokio::spawn(perform(app.handle, write, condition, sender));
        return answer(idempotency::wait(outcome).await?, false);
    };
    let digest = digest(&write, headers, body);
    match app.answers.turn(key, digest, Instant::now())? {
        Turn::Again(outcome) => answer(idempotency::wait(outcome).await?, true),
        Turn::First(sender) => {
            let outcome = sender.subscribe();
            tokio::spawn(perform(app.handle, write, condition, sender));
            answer(idempotency::wait(outcome).await?, false)
        }
    }
}

/// What makes two requests the same: the action, its service and condition, and the body.
fn digest(write: &Write, headers: &HeaderMap, body: &Bytes) -> [u8; 32] {
    let mut digest = Sha256::new();
    let conditions = headers.get_all(header::IF_MATCH).iter().map(HeaderValue::as_bytes);
    let named = [write.action.as_str().as_bytes(), write.service.as_bytes(), body];
    for part in named.into_iter().chain(conditions) {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn answer(answer: Answer, is_again: bool) -> Result<Response, Problem> {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::ETAG, conditional::tag(answer.revision)),
    ];
    let mut response = (StatusCode::OK, headers, answer.body).into_response();
    if is_again {
        let headers = response.headers_mut();
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn perform(handle: Handle, write: Write, condition: Option<Tags>, sender: watch::Sender<Option<Outcome>>) {
    let (service, actor, action) = (write.service.clone(), write.caller.name.clone(), write.action.as_str());
    let request_id = write.request_id.clone();
    let outcome = attempt(&handle, write, condition).await;
    let request_id = request_id.as_str();
    match &outcome {
        Ok(answer) => {
            tracing::info!(service, %actor, action, request_id, revision = answer.revision, "the admin API made a change");
        }
        Err(problem) => {
            let (kind, detail) = (problem.kind.word, &problem.detail);
            tracing::info!(service, %actor, action, request_id, kind, %detail, "the admin API refused a change");
        }
    }
    // Nobody waits any more when the caller has hung up.
    sender.send_replace(Some(outcome));
}

async fn attempt(handle: &Handle, write: Write, condition: Option<Tags>) -> Outcome {
    let intent = Intent {
        expected_revision: expected(handle, &write.service, condition).await?,
        actor: write.caller.name.to_string(),
        reason: write.reason,
        may_override: false,
    };
    let applied = match write.action {
        Action::SetWeights(weights) => handle.set_weights(&write.service, weights, intent).await?,
        Action::Rollback => handle.rollback(&write.service, intent).await?,
    };
    let change = api::Change {
        durable: applied.durable,
        service: applied.service,
    };
    let body = serde_json::to_vec(&change).map_err(|error| {
        tracing::error!(%error, "a service cannot be written as JSON");
        Problem::plain(problem::INTERNAL)
    })?;
    Ok(Answer {
        revision: change.service.revision,
        body: body.into(),
    })
}

/// The one revision under which the controller may make the change. Of several tags the current one is taken; that
/// it is still current is checked by the controller, at once with the change.
async fn expected(handle: &Handle, service: &str, condition: Option<Tags>) -> Result<Option<u64>, Problem> {
    match condition {
        None | Some(Tags::Any) => Ok(None),
        Some(tags) => {
            let current = handle.service(service).await?.revision;
            if tags.match_strongly(current) {
                Ok(Some(current))
            } else {
                let detail =
                    format!("The service is at revision {current}, which If-Match does not name; nothing was changed.");
                Err(Problem::new(problem::STALE, detail))
            }
        }
    }
}
