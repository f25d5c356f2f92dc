//! Strict parser for the JSON bodies of writes.
//!
//! Malformed JSON gets 400; JSON that does not fit the API gets 422, with a pointer to the field.
//! Tokens like `NaN`, which are not JSON but which some libraries write, count as an invalid value
//! of their field. The parser limits nesting to 128 levels; a layer limits the size.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};
use tokio::time::timeout;

use super::problem::{self, ProblemResponse};

/// Time limit for receiving a body, which has a few KiB.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a required body.
pub(super) async fn read<T: DeserializeOwned>(
    request: Request,
) -> Result<(Bytes, T), ProblemResponse> {
    check_type(request.headers())?;
    let bytes = collect(request).await?;
    let parsed = parse(&bytes)?;
    Ok((bytes, parsed))
}

/// Reads an optional body.
pub(super) async fn read_optional<T: DeserializeOwned + Default>(
    request: Request,
) -> Result<(Bytes, T), ProblemResponse> {
    // A cross-site form always sends a content type, so a request with neither type nor body does
    // not come from one.
    if request.headers().contains_key(header::CONTENT_TYPE) {
        check_type(request.headers())?;
        let bytes = collect(request).await?;
        let parsed = if bytes.is_empty() {
            T::default()
        } else {
            parse(&bytes)?
        };
        return Ok((bytes, parsed));
    }
    let bytes = collect(request).await?;
    if bytes.is_empty() {
        Ok((bytes, T::default()))
    } else {
        Err(ProblemResponse::plain(problem::WRONG_TYPE))
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), ProblemResponse> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let is_json = matches!((types.next(), types.next()), (Some(only), None) if is_json(only));
    if is_json && !headers.contains_key(header::CONTENT_ENCODING) {
        Ok(())
    } else {
        Err(ProblemResponse::plain(problem::WRONG_TYPE))
    }
}

/// Accepts `application/json`, with `charset=utf-8` as the only allowed parameter.
fn is_json(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default().to_ascii_lowercase();
    let (kind, parameters) = text.split_once(';').unwrap_or((&text, ""));
    let parameters = parameters.trim().replace('"', "");
    kind.trim() == "application/json" && matches!(parameters.as_str(), "" | "charset=utf-8")
}

async fn collect(request: Request) -> Result<Bytes, ProblemResponse> {
    let collected = timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await;
    collected
        .map_err(|_| ProblemResponse::plain(problem::TOO_SLOW))?
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ProblemResponse::plain(problem::TOO_LARGE),
            _ => ProblemResponse::new(problem::BAD_REQUEST, "The request body is incomplete."),
        })
}

/// Parses one JSON object of type `T`.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ProblemResponse> {
    // serde would also read a struct from an array; the API accepts objects only.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => ProblemResponse::field("", "Expected an object."),
            Err(error) => explain(bytes, "", &error),
        });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| explain(bytes, &pointer(error.path()), error.inner()))?;
    reader.end().map_err(|error| explain(bytes, "", &error))?;
    Ok(parsed)
}

fn explain(bytes: &[u8], pointer: &str, error: &serde_json::Error) -> ProblemResponse {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or_default();
    match error.classify() {
        Category::Data => {
            ProblemResponse::field(format!("{pointer}{}", field_of_message(message)), message)
        }
        _ if message == "number out of range" => ProblemResponse::field(pointer, message),
        _ if bytes.trim_ascii().is_empty() => {
            ProblemResponse::new(problem::MALFORMED_JSON, "The body is empty.")
        }
        _ => match token_at(bytes, error.line(), error.column()) {
            Some(token) if is_not_finite(token) => {
                ProblemResponse::field(pointer, "Expected a finite number.")
            }
            _ => ProblemResponse::new(problem::MALFORMED_JSON, text),
        },
    }
}

/// Pointer to a missing or duplicate field, which serde names only in its message.
fn field_of_message(message: &str) -> String {
    let field = message
        .strip_prefix("missing field `")
        .or_else(|| message.strip_prefix("duplicate field `"));
    field.map_or_else(String::new, |rest| {
        format!("/{}", rest.trim_end_matches('`'))
    })
}

/// Bare word or number at a position of the parser: line and column, both counted from 1.
fn token_at(bytes: &[u8], line: usize, column: usize) -> Option<&str> {
    let line = bytes
        .split(|byte| *byte == b'\n')
        .nth(line.checked_sub(1)?)?;
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let (before, _) = line.split_at_checked(column.min(line.len()))?;
    // The position is on the offending byte or just after it; the token starts after the colon or
    // bracket.
    let start = before
        .iter()
        .rposition(|byte| !is_part(byte))
        .map_or(0, |at| at + 1);
    let token = line.get(start..)?;
    let length = token
        .iter()
        .position(|byte| !is_part(byte))
        .unwrap_or(token.len());
    str::from_utf8(token.get(..length)?).ok()
}

fn is_not_finite(token: &str) -> bool {
    let word = token.trim_start_matches(['+', '-']).to_ascii_lowercase();
    matches!(word.as_str(), "nan" | "inf" | "infinity")
}

/// Converts a path to a JSON pointer (RFC 6901).
fn pointer(path: &Path) -> String {
    path.iter()
        .fold(String::new(), |pointer, segment| match segment {
            Segment::Seq { index } => format!("{pointer}/{index}"),
            Segment::Map { key } => {
                format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
            }
            Segment::Enum { variant } => format!("{pointer}/{variant}"),
            Segment::Unknown => pointer,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::api::WeightsUpdate;

    #[track_caller]
    fn check(body: &str, status: u16, pointer: &str) {
        let problem = parse::<WeightsUpdate>(body.as_bytes()).expect_err(body);
        let pointers: Vec<_> = problem
            .errors
            .iter()
            .map(|error| error.pointer.as_str())
            .collect();
        let expected: &[&str] = if status == 422 { &[pointer] } else { &[] };
        assert_eq!(
            (problem.kind.status.as_u16(), &pointers[..]),
            (status, expected),
            "{body:.200}: {problem:?}"
        );
    }

    #[test]
    fn invalid_bodies_are_refused_with_a_pointer_to_the_field() {
        check("", 400, "");
        check(" \n", 400, "");
        check("<x>", 400, "");
        check(r#"{"weights""#, 400, "");
        check(r#"{"weights": {"green": 5}} garbage"#, 400, "");
        check(r#"{"weights": {"green": 5,}}"#, 400, "");
        check(r#"{"weights": {"green": "\ud800"}}"#, 400, "");
        for token in [
            "NaN",
            "-NaN",
            "Infinity",
            "-Infinity",
            "nan",
            "inf",
            "+Infinity",
        ] {
            check(
                &format!("{{\"weights\": {{\n \"green\": {token} }} }}"),
                422,
                "/weights/green",
            );
            check(
                &format!("{{\"weights\":{{\"green\":{token}}}}}"),
                422,
                "/weights/green",
            );
            check(
                &format!("{{\"weights\":{{\"blue\":1,\"green\":{token}"),
                422,
                "/weights/green",
            );
        }
        check("NaN", 422, "");
        check(r#"{"weights": {"green": 1e999}}"#, 422, "/weights/green");
        check(r#"{"weights": {"green": "5"}}"#, 422, "/weights/green");
        check(r#"{"weights": {"green": null}}"#, 422, "/weights/green");
        check(r#"{"weights": {"green": [5]}}"#, 422, "/weights/green");
        check(
            r#"{"weights": {"gr/e~en": true}}"#,
            422,
            "/weights/gr~1e~0en",
        );
        check(
            r#"{"weights": {"green": 5, "blue": 90, "green": 10}}"#,
            422,
            "/weights/green",
        );
        check(
            r#"{"weights": {"green": 5}, "weights": {}}"#,
            422,
            "/weights",
        );
        check(r#"{"weights": null}"#, 422, "/weights");
        check(r#"{"weights": [["green", 5]]}"#, 422, "/weights");
        check(
            r#"{"weights": {"green": 100}, "reason": 5}"#,
            422,
            "/reason",
        );
        check(r#"{"weights": {"green": 100}, "why": "x"}"#, 422, "/why");
        check("{}", 422, "/weights");
        check("[]", 422, "");
        check("null", 422, "");
        check(r#"[{"green": 100}, "reason"]"#, 422, "");
    }

    #[test]
    fn deeply_nested_bodies_are_refused() {
        check(
            &format!("{}{}", "[".repeat(30_000), "]".repeat(30_000)),
            422,
            "",
        );
        check(&"[".repeat(60_000), 400, "");
        let deep = format!(
            r#"{{"weights":{}1{}}}"#,
            r#"{"a":"#.repeat(9_000),
            "}".repeat(9_000)
        );
        check(&deep, 422, "/weights/a");
    }
}
