//! Evidence of a release: the bundle as JSON or HTML page, and the recording for `replay`.

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

/// Chunk size for reading and sending a recording.
const CHUNK_BYTES: u64 = 64 << 10;

/// Query of the evidence bundle.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EvidenceQuery {
    /// Format of the response; without it `Accept` decides, with JSON as default.
    #[param(inline)]
    format: Option<Format>,
}

/// Formats of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Html,
}

/// All evidence of a release; for a running release, the evidence so far.
#[utoipa::path(get, path = "/api/v1/releases/{id}/evidence", tag = "releases",
    params(
        ("id" = String, Path, description = "The release's id"),
        EvidenceQuery,
        ("Accept" = Option<String>, Header, description = "`text/html` selects the HTML page"),
    ),
    responses(
        (status = 200, description = "The evidence bundle", content(
            (api::EvidenceBundle = "application/json"), (String = "text/html; charset=utf-8"))),
        (status = 404, description = "Unknown release", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "Invalid parameter", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 507, description = "The bundle cannot be read", body = api::Problem,
            content_type = "application/problem+json"),
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
    let mut response = match query.format.unwrap_or_else(|| negotiate(&headers)) {
        Format::Json => renders.json(bundle).await?,
        Format::Html => page::answer(
            renders
                .write(move || Ok(page::evidence(&bundle).into_bytes()))
                .await?,
        ),
    };
    let vary = HeaderValue::from_static("accept");
    response.headers_mut().append(header::VARY, vary);
    Ok(response)
}

/// Negotiates the format: HTML only if it is preferred to JSON, as by a browser.
fn negotiate(headers: &HeaderMap) -> Format {
    let lines = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let ranges: Vec<(&str, f64)> = lines.flat_map(|line| line.split(',')).map(range).collect();
    let quality = |names: [&str; 3]| {
        // The most specific range applies (RFC 9110, 12.5.1).
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
        Format::Html
    } else {
        Format::Json
    }
}

/// Parses a media range and its quality.
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

/// Recorded inputs of the release's analysis for `weighbridge replay`, as JSON lines; for a running
/// release, the recording so far.
#[utoipa::path(get, path = "/api/v1/releases/{id}/recording", tag = "releases",
    params(("id" = String, Path, description = "The release's id")),
    responses(
        (status = 200, description = "One JSON object on each line", body = String,
            content_type = "application/x-ndjson"),
        (status = 404, description = "Unknown release, or no recording of it", body = api::Problem,
            content_type = "application/problem+json"),
        (status = 507, description = "The recording cannot be read", body = api::Problem,
            content_type = "application/problem+json"),
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
    Ok((headers, Body::from_stream(recording.chunks())).into_response())
}

fn unreadable(error: &io::Error) -> ProblemResponse {
    match error.kind() {
        ErrorKind::NotFound => {
            ProblemResponse::new(problem::NOT_FOUND, "This release has no recording.")
        }
        _ => ProblemResponse::new(
            problem::STORE,
            format!("The recording cannot be read: {error}."),
        ),
    }
}

/// A recording, which may grow while it is read.
struct Recording {
    file: File,
    /// Bytes still to be sent.
    left: u64,
}

impl Recording {
    /// Opens the complete lines present now: the last line may be half written.
    fn open(path: PathBuf) -> io::Result<Recording> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let tail_at = length.saturating_sub(CHUNK_BYTES);
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

    fn chunks(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::try_unfold(self, |recording| async {
            match spawn_blocking(move || recording.chunk()).await {
                Ok(chunk) => chunk,
                Err(error) => Err(io::Error::other(error)),
            }
        })
    }

    /// Reads the next chunk; `None` at the end.
    fn chunk(mut self) -> io::Result<Option<(Bytes, Recording)>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut chunk = Vec::new();
        (&self.file)
            .take(self.left.min(CHUNK_BYTES))
            .read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            // Content-Length announced more; an early end shows the client that it is truncated.
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= chunk.len() as u64;
        Ok(Some((chunk.into(), self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_header_selects_the_format_with_the_higher_quality() {
        for (accept, format) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("application/json", Format::Json),
            ("text/html", Format::Html),
            ("TEXT/html;q=0.9, */*;q=0.1", Format::Html),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Format::Html,
            ),
            ("application/json, text/html", Format::Json),
            ("text/*;q=0.5, application/json;q=0.4", Format::Html),
            ("text/html;q=0, */*", Format::Json),
            ("text/html;q=x", Format::Json),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(negotiate(&headers), format, "{accept}");
        }
    }
}
