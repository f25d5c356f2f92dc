//! How a write is carried out: once, whole, and under the condition that its caller gave.
//!
//! The work runs in a task of its own, so that a caller who hangs up cannot leave it half done or
//! its answer unknown.

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
use super::router::App;
use crate::control::{Applied, Handle, Intent, ReleaseVerb};
use crate::model::{IdempotencyKey, api};
use crate::time::{Clock, SystemClock};

/// How long an answer waits to be kept.
const KEPT_WITHIN: Duration = Duration::from_secs(1);

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What is to be written, for whom and why.
#[derive(Debug)]
pub(super) struct Write {
    /// The service's name, or the release's identity, as [`Action::subject`] says.
    pub(super) subject: String,
    pub(super) action: Action,
    pub(super) reason: Option<String>,
    pub(super) caller: Caller,
    pub(super) request_id: RequestId,
}

/// What is to be done with a service or a release.
#[derive(Debug)]
pub(super) enum Action {
    SetWeights(api::Percentages),
    Rollback,
    StartRelease(api::ReleaseStart),
    Release(ReleaseVerb, api::ReleaseCommand),
}

/// What a write is about.
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

/// Does what `write` says, or repeats the answer that its key has had already.
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
            "What If-None-Match says cannot hold for a write. Use If-Match.",
        ));
    }
    let Some(key) = CallerKey::read(headers, &write.caller.name)? else {
        let (sender, outcome) = watch::channel(None);
        tokio::spawn(perform(app.handle, write, condition, None, sender));
        return answer(idempotency::wait(outcome).await?, false);
    };
    let digest = digest(&write, headers, body);
    let kept = key.kept(&digest);
    match app.answers.turn(key, digest, Instant::now())? {
        Claim::Replay(outcome) => answer(idempotency::wait(outcome).await?, true),
        Claim::New(sender) => {
            let outcome = sender.subscribe();
            tokio::spawn(perform(app.handle, write, condition, Some(kept), sender));
            answer(idempotency::wait(outcome).await?, false)
        }
    }
}

/// What makes two requests the same: the action, its subject and condition, and the body.
fn digest(write: &Write, headers: &HeaderMap, body: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    let conditions = headers
        .get_all(header::IF_MATCH)
        .iter()
        .map(HeaderValue::as_bytes);
    let (kind, action) = (write.action.subject().as_str(), write.action.as_str());
    let named = [
        kind.as_bytes(),
        action.as_bytes(),
        write.subject.as_bytes(),
        body,
    ];
    for part in named.into_iter().chain(conditions) {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

fn answer(answer: StoredResponse, is_again: bool) -> Result<Response, ProblemResponse> {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::ETAG, conditional::tag(answer.revision)),
    ];
    let mut response = (answer.status, headers, answer.body).into_response();
    let headers = response.headers_mut();
    if let Some(location) = answer.location {
        headers.insert(header::LOCATION, location);
    }
    if is_again {
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
        keep(&handle, key, &outcome).await;
    }
    let request_id = request_id.as_str();
    match &outcome {
        Ok(answer) => {
            let revision = answer.revision;
            tracing::info!(about, subject, %actor, action, request_id, revision, "the admin API made a change");
        }
        Err(problem) => {
            let (kind, detail) = (problem.kind.word, &problem.detail);
            tracing::info!(about, subject, %actor, action, request_id, kind, %detail, "the admin API refused a change");
        }
    }
    // Nobody waits any more when the caller has hung up.
    sender.send_replace(Some(outcome));
}

/// What was answered is what a repetition after a restart gets; a change that was refused after all
/// may have left an answer in the store.
async fn keep(handle: &Handle, key: IdempotencyKey, outcome: &WriteOutcome) {
    let answer = match outcome {
        Ok(answer) if answer.durable => Some(answer.kept(key.clone(), SystemClock.now())),
        // It is written with the change, when that is.
        Ok(_) => return,
        Err(problem) => match problem.kind.word {
            word if word == problem::OVERTAKEN.word || word == problem::STORE.word => None,
            _ => return,
        },
    };
    // With a disk that hangs the answer that was foreseen has to do.
    let _ = timeout(KEPT_WITHIN, handle.keep_answer(key, answer)).await;
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

/// A release is a new resource, and the answer says where it is.
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
        tracing::error!(%error, "the answer to a change cannot be written as JSON");
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

/// The one revision under which the controller may make the change. Of several tags the current one
/// is taken; that it is still current is checked by the controller, at once with the change.
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
        "The service is at revision {current}, which If-Match does not name; nothing was changed."
    );
    Err(ProblemResponse::new(problem::STALE, detail))
}
