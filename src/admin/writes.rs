//! Executes writes: at most once for each idempotency key, and under the caller's precondition.
//!
//! Each write runs in a task of its own, so that a caller who disconnects cannot interrupt it or
//! lose its response.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::auth::Caller;
use super::conditional::{self, Tags};
use super::idempotency::{self, CallerKey, Claim, StoredResponse, WriteOutcome};
use super::problem::{self, ProblemResponse};
use super::problem_layer::RequestId;
use super::state::App;
use crate::control::{Applied, Handle, Intent, ReleaseVerb};
use crate::model::{IdempotencyKey, api};
use crate::time::{Clock, SystemClock};

/// Time limit for storing a response.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A write with its caller and reason.
#[derive(Debug)]
pub(super) struct Write {
    /// Name of the service or id of the release, by [`Action::subject`].
    pub(super) subject: String,
    pub(super) action: Action,
    pub(super) reason: Option<String>,
    pub(super) caller: Caller,
    pub(super) request_id: RequestId,
}

/// Action on a service or a release.
#[derive(Debug)]
pub(super) enum Action {
    SetWeights(api::Percentages),
    Rollback,
    StartRelease(api::ReleaseStart),
    Release(ReleaseVerb, api::ReleaseCommand),
}

/// Resource that a write changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Service,
    Release,
}

impl Action {
    fn as_str(&self) -> &'static str {
        match self {
            Action::SetWeights(_) => "weights",
            Action::Rollback => "rollback",
            Action::StartRelease(_) => "releases",
            Action::Release(verb, _) => verb.as_str(),
        }
    }

    fn subject(&self) -> Subject {
        match self {
            Action::SetWeights(_) | Action::Rollback | Action::StartRelease(_) => Subject::Service,
            Action::Release(..) => Subject::Release,
        }
    }
}

impl Subject {
    fn as_str(self) -> &'static str {
        match self {
            Subject::Service => "service",
            Subject::Release => "release",
        }
    }
}

/// Executes `write`, or replays the stored response of its idempotency key.
pub(super) async fn carry_out(
    app: App,
    write: Write,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, ProblemResponse> {
    let condition = conditional::if_match(headers)?;
    if conditional::if_none_match(headers)?.is_some() {
        return Err(ProblemResponse::new(
            problem::STALE,
            "If-None-Match is not supported on writes. Use If-Match.",
        ));
    }
    let Some(key) = CallerKey::read(headers, &write.caller.name)? else {
        let (sender, outcome) = watch::channel(None);
        tokio::spawn(perform(app.handle, write, condition, None, sender));
        return respond(idempotency::wait(outcome).await?, false);
    };
    let digest = digest(&write, headers, body);
    let stored_key = key.kept(&digest);
    match app.answers.claim(key, digest, Instant::now())? {
        Claim::Replay(outcome) => respond(idempotency::wait(outcome).await?, true),
        Claim::New(sender) => {
            let outcome = sender.subscribe();
            tokio::spawn(perform(
                app.handle,
                write,
                condition,
                Some(stored_key),
                sender,
            ));
            respond(idempotency::wait(outcome).await?, false)
        }
    }
}

/// Digest by which requests are compared: action, subject, condition and body.
fn digest(write: &Write, headers: &HeaderMap, body: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    let conditions = headers
        .get_all(header::IF_MATCH)
        .iter()
        .map(HeaderValue::as_bytes);
    let (kind, action) = (write.action.subject().as_str(), write.action.as_str());
    let parts = [
        kind.as_bytes(),
        action.as_bytes(),
        write.subject.as_bytes(),
        body,
    ];
    for part in parts.into_iter().chain(conditions) {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn respond(stored: StoredResponse, is_replay: bool) -> Result<Response, ProblemResponse> {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::ETAG, conditional::tag(stored.revision)),
    ];
    let mut response = (stored.status, headers, stored.body).into_response();
    let headers = response.headers_mut();
    if let Some(location) = stored.location {
        headers.insert(header::LOCATION, location);
    }
    if is_replay {
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

async fn perform(
    handle: Handle,
    write: Write,
    condition: Option<Tags>,
    key: Option<IdempotencyKey>,
    sender: watch::Sender<Option<WriteOutcome>>,
) {
    let (subject, actor, action) = (
        write.subject.clone(),
        write.caller.name.clone(),
        write.action.as_str(),
    );
    let (about, request_id) = (write.action.subject().as_str(), write.request_id.clone());
    let outcome = attempt(&handle, write, condition, key.clone()).await;
    if let Some(key) = key {
        store_response(&handle, key, &outcome).await;
    }
    let request_id = request_id.as_str();
    match &outcome {
        Ok(answer) => {
            let revision = answer.revision;
            tracing::info!(
                about, subject, %actor, action, request_id, revision,
                "admin API change applied"
            );
        }
        Err(problem) => {
            let (kind, detail) = (problem.kind.word, &problem.detail);
            tracing::info!(
                about, subject, %actor, action, request_id, kind, %detail,
                "admin API change refused"
            );
        }
    }
    // No receiver is left when the caller has disconnected.
    sender.send_replace(Some(outcome));
}

/// Stores the response that a replay gets after a restart. A change that was refused after its
/// commit began may have left a response in the store, which is removed.
async fn store_response(handle: &Handle, key: IdempotencyKey, outcome: &WriteOutcome) {
    let answer = match outcome {
        Ok(answer) if answer.durable => Some(answer.kept(key.clone(), SystemClock.now())),
        // It is stored with the change, once the change is.
        Ok(_) => return,
        Err(problem) => match problem.kind.word {
            word if word == problem::OVERTAKEN.word || word == problem::STORE.word => None,
            _ => return,
        },
    };
    // If the disk stalls, the response stored with the change is used.
    let _ = timeout(STORE_TIMEOUT, handle.keep_answer(key, answer)).await;
}

async fn attempt(
    handle: &Handle,
    write: Write,
    condition: Option<Tags>,
    idempotency: Option<IdempotencyKey>,
) -> WriteOutcome {
    let intent = Intent {
        expected_revision: expected(handle, &write, condition).await?,
        actor: write.caller.name.to_string(),
        reason: write.reason,
        may_override: write.caller.may_override(),
        idempotency,
    };
    let subject = write.subject.as_str();
    match write.action {
        Action::SetWeights(weights) => changed(handle.set_weights(subject, weights, intent).await?),
        Action::Rollback => changed(handle.rollback(subject, intent).await?),
        Action::StartRelease(start) => {
            started(&handle.start_release(subject, start, intent).await?)
        }
        Action::Release(verb, command) => {
            let change = handle
                .command_release(subject, verb, command, intent)
                .await?;
            done(change.revision, change.release.durable, &change)
        }
    }
}

fn changed(applied: Applied) -> WriteOutcome {
    let change = api::WeightsChange {
        durable: applied.durable,
        service: applied.service,
    };
    done(change.service.revision, change.durable, &change)
}

/// A release is a new resource, so the response carries its `Location`.
fn started(change: &api::ReleaseChange) -> WriteOutcome {
    let path = format!("/api/v1/releases/{}", change.release.id);
    Ok(StoredResponse {
        status: StatusCode::CREATED,
        location: HeaderValue::try_from(path).ok(),
        ..done(change.revision, change.release.durable, change)?
    })
}

fn done(revision: u64, durable: bool, resource: &impl Serialize) -> WriteOutcome {
    let body = serde_json::to_vec(resource).map_err(|error| {
        tracing::error!(%error, "response to a change could not be serialized as JSON");
        ProblemResponse::plain(problem::INTERNAL)
    })?;
    Ok(StoredResponse {
        status: StatusCode::OK,
        location: None,
        revision,
        durable,
        body: body.into(),
    })
}

/// Revision that the controller requires for the change. Of several tags the current one is taken;
/// the controller checks, atomically with the change, that it is still current.
async fn expected(
    handle: &Handle,
    write: &Write,
    condition: Option<Tags>,
) -> Result<Option<u64>, ProblemResponse> {
    let tags = match condition {
        None | Some(Tags::Any) => return Ok(None),
        Some(tags) => tags,
    };
    let current = match write.action.subject() {
        Subject::Service => handle.revision(&write.subject)?,
        Subject::Release => {
            let release = handle.release(&write.subject).await?;
            handle.revision(&release.service)?
        }
    };
    if tags.match_strongly(current) {
        return Ok(Some(current));
    }
    let detail = format!(
        "The service is at revision {current}, which is not in If-Match; nothing was changed."
    );
    Err(ProblemResponse::new(problem::STALE, detail))
}
