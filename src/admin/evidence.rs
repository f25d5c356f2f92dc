//! What a release was decided by: its bundle, as JSON or as a page to read, and the recording for a
//! replay.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use utoipa::{IntoParams, ToSchema};

use super::page;
use super::problem::{self, ProblemResponse};
use super::render::Renders;
use super::request_context::PathName;
use crate::control::Handle;
use crate::model::api;

/// A recording is read and sent in pieces of this size.
const PIECE_BYTES: u64 = 64 << 10;

/// In which form the bundle is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EvidenceQuery {
    /// The form; without it `Accept` decides, and JSON if that leaves it open.
    #[param(inline)]
    format: Option<Form>,
}

/// The forms of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Form {
    Json,
    Html,
}

/// Everything that a release was decided by; of one under way, as far as it goes.
#[utoipa::path(get, path = "/api/v1/releases/{id}/evidence", tag = "releases",
    params(
        ("id" = String, Path, description = "The release's identity"),
        EvidenceQuery,
        ("Accept" = Option<String>, Header, description = "`text/html` asks for a page to read"),
    ),
    responses(
        (status = 200, description = "The bundle", content(
            (api::EvidenceBundle = "application/json"), (String = "text/html; charset=utf-8"))),
        (status = 404, description = "No such release", body = api::Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = api::Problem, content_type = "application/problem+json"),
        (status = 507, description = "The bundle cannot be read", body = api::Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn get_evidence(
    State(handle): State<Handle>,
    State(renders): State<Renders>,
    PathName(id): PathName,
    query: Result<Query<EvidenceQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ProblemResponse> {
    let Query(query) =
        query.map_err(|rejection| ProblemResponse::new(problem::INVALID, rejection.body_text()))?;
    let bundle = handle.evidence(&id).await?;
    let mut response = match query.format.unwrap_or_else(|| wanted(&headers)) {
        Form::Json => renders.json(bundle).await?,
        Form::Html => page::answer(
            renders
                .write(move || Ok(page::evidence(&bundle).into_bytes()))
                .await?,
        ),
    };
    let vary = HeaderValue::from_static("accept");
    response.headers_mut().append(header::VARY, vary);
    Ok(response)
}

/// A browser, which asks for `text/html` first, gets the page; whoever takes anything gets JSON.
fn wanted(headers: &HeaderMap) -> Form {
    let lines = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let ranges: Vec<(&str, f64)> = lines.flat_map(|line| line.split(',')).map(range).collect();
    let quality = |names: [&str; 3]| {
        // The most specific range decides (RFC 9110, 12.5.1).
        let matching = names.iter().find_map(|name| {
            ranges
                .iter()
                .find(|(range, _)| range.eq_ignore_ascii_case(name))
        });
        matching.map_or(0.0, |(_, quality)| *quality)
    };
    if quality(["text/html", "text/*", "*/*"])
        > quality(["application/json", "application/*", "*/*"])
    {
        Form::Html
    } else {
        Form::Json
    }
}

/// A media range and its quality.
fn range(text: &str) -> (&str, f64) {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let quality =
        parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (
        name,
        quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0)),
    )
}

/// What a release was judged by, line by line, for `weighbridge replay`; of one under way, as far
/// as it goes.
#[utoipa::path(get, path = "/api/v1/releases/{id}/recording", tag = "releases",
    params(("id" = String, Path, description = "The release's identity")),
    responses(
        (status = 200, description = "One JSON object on each line", body = String, content_type = "application/x-ndjson"),
        (status = 404, description = "No such release, or nothing was recorded of it", body = api::Problem, content_type = "application/problem+json"),
        (status = 507, description = "The recording cannot be read", body = api::Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn get_recording(
    State(handle): State<Handle>,
    PathName(id): PathName,
) -> Result<Response, ProblemResponse> {
    let path = handle.recording(&id).await?;
    let opened = spawn_blocking(move || Recording::open(path)).await;
    let recording = opened
        .map_err(|_| ProblemResponse::plain(problem::INTERNAL))?
        .map_err(|error| unreadable(&error))?;
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        ),
        (header::CONTENT_LENGTH, HeaderValue::from(recording.left)),
    ];
    Ok((headers, Body::from_stream(recording.pieces())).into_response())
}

fn unreadable(error: &io::Error) -> ProblemResponse {
    match error.kind() {
        ErrorKind::NotFound => {
            ProblemResponse::new(problem::NOT_FOUND, "Nothing was recorded of this release.")
        }
        _ => ProblemResponse::new(
            problem::STORE,
            format!("The recording cannot be read: {error}."),
        ),
    }
}

/// A recording, which may grow at its end while it is read.
struct Recording {
    file: File,
    /// Bytes that are still to be sent.
    left: u64,
}

impl Recording {
    /// The whole lines that are there now: the last one may be half written.
    fn open(path: PathBuf) -> io::Result<Recording> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let tail_at = length.saturating_sub(PIECE_BYTES);
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(tail_at))?;
        (&file).take(length - tail_at).read_to_end(&mut tail)?;
        let whole = tail
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        file.rewind()?;
        Ok(Recording {
            file,
            left: tail_at + whole as u64,
        })
    }

    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::try_unfold(self, |recording| async {
            match spawn_blocking(move || recording.piece()).await {
                Ok(piece) => piece,
                Err(error) => Err(io::Error::other(error)),
            }
        })
    }

    /// The next piece, and what is left; `None` at the end.
    fn piece(mut self) -> io::Result<Option<(Bytes, Recording)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut piece = Vec::new();
        (&self.file)
            .take(self.left.min(PIECE_BYTES))
            .read_to_end(&mut piece)?;
        if piece.is_empty() {
            // The answer has promised more; ending it early shows that it is not whole.
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= piece.len() as u64;
        Ok(Some((piece.into(), self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_is_accepted_more() {
        for (accept, form) in [
            ("", Form::Json),
            ("*/*", Form::Json),
            ("application/json", Form::Json),
            ("text/html", Form::Html),
            ("TEXT/html;q=0.9, */*;q=0.1", Form::Html),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Form::Html,
            ),
            ("application/json, text/html", Form::Json),
            ("text/*;q=0.5, application/json;q=0.4", Form::Html),
            ("text/html;q=0, */*", Form::Json),
            ("text/html;q=x", Form::Json),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(wanted(&headers), form, "{accept}");
        }
    }
}
