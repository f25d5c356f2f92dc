//! What the fuzz targets in `tests/fuzz` run, and the tests on `tests/fuzz-corpus`.
//!
//! Each function takes an input of a fuzzer and panics when it finds something: bytes that are read
//! differently when they come in pieces, or otherwise than a [`model`] reads them. The first byte
//! of an input says how the rest is cut.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a finding is a panic, and the program is built without this module"
)]

mod connection;
mod model;
mod model_chunked;
pub(crate) mod stage;

#[cfg(test)]
mod allocations_tests;

use bytes::BytesMut;
use http::HeaderMap;

use super::http1::chunked::{Chunked, ChunkedPiece};
use super::http1::request::{BodyLength, RequestHead, RequestHeadReader};
use super::http1::response::{ResponseFraming, ResponseHead, ResponseHeadReader, ResponseTo};
use super::http1::{HeadError, HeadLimits, target};

pub use self::connection::connection;

/// Small limits, so that small inputs reach them.
const LIMITS: HeadLimits = HeadLimits {
    head_bytes: 512,
    headers: 8,
    target_bytes: 128,
};

/// Bytes as they arrive: one by one for 0, else in pieces of different lengths.
fn pieces(seed: u8, data: &[u8]) -> Vec<&[u8]> {
    let mut state = u32::from(seed);
    let mut rest = data;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let length = match seed {
            0 => 1,
            _ => 1 + (state >> 16) as usize % (usize::from(seed) * 2),
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Heads of requests, one behind the other.
pub fn request_head(input: &[u8]) {
    let Some((seed, data)) = input.split_first() else {
        return;
    };
    let whole = request_heads(&[data]);
    assert_eq!(whole, request_heads(&pieces(*seed, data)), "in pieces");
    assert_eq!(whole, model::request_heads(data, &LIMITS), "in the model");
}

fn request_heads(pieces: &[&[u8]]) -> model::RequestHeads {
    let mut read = model::RequestHeads::default();
    let mut buffer = BytesMut::new();
    let mut reader = RequestHeadReader::new(LIMITS);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while !buffer.is_empty() {
            match reader.advance(&mut buffer, HeaderMap::new) {
                Ok(Some(head)) => read.heads.push(request(&head)),
                Ok(None) => break,
                Err(error) => {
                    read.refused = Some(refusal(error));
                    return read;
                }
            }
        }
    }
    read
}

fn refusal(error: HeadError) -> model::Refused {
    match error {
        HeadError::Malformed(_) => model::Refused::Malformed,
        HeadError::TargetTooLong => model::Refused::TargetTooLong,
        HeadError::HeadTooLarge => model::Refused::HeadTooLarge,
        HeadError::UnknownCoding => model::Refused::UnknownCoding,
        HeadError::Version => model::Refused::Version,
    }
}

fn request(head: &RequestHead) -> model::ModelRequest {
    let request = &head.request;
    let target = target::of(request);
    // What is written begins with a slash.
    let slash = if target.starts_with('?') { "/" } else { "" };
    model::ModelRequest {
        method: request.method().to_string(),
        target: format!("{slash}{target}"),
        http10: request.version() == http::Version::HTTP_10,
        fields: fields(request.headers()),
        body: match head.body {
            BodyLength::Nothing => model::Framing::Length(0),
            BodyLength::Exactly(length) => model::Framing::Length(length),
            BodyLength::Chunked => model::Framing::Chunked,
        },
        keep_alive: head.keep_alive,
        expects_continue: head.expects_continue,
        accepts_trailers: head.accepts_trailers,
    }
}

/// Names and values, values of one name in the order in which they came.
fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let fields = headers.iter();
    let mut fields: Vec<_> = fields
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

/// Heads of responses, up to the final one.
pub fn response_head(input: &[u8]) {
    let Some((seed, data)) = input.split_first() else {
        return;
    };
    let to_head = seed & 1 == 1;
    let whole = response_heads(&[data], to_head);
    let cut = response_heads(&pieces(seed >> 1, data), to_head);
    assert_eq!(whole, cut, "in pieces");
    model::check_response(data, to_head, &whole);
}

fn response_heads(pieces: &[&[u8]], to_head: bool) -> model::ResponseRead {
    let mut read = model::ResponseRead::default();
    let mut buffer = BytesMut::new();
    let mut reader = ResponseHeadReader::new(if to_head {
        ResponseTo::Head
    } else {
        ResponseTo::Other
    });
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if read.head.is_some() {
            continue;
        }
        let mut interims = Vec::new();
        let advanced = reader.advance(&mut buffer, &mut HeaderMap::new(), &mut |interim| {
            interims.push(interim.status().as_u16());
        });
        read.interims.extend(interims);
        match advanced {
            Ok(Some(head)) => read.head = Some(response(&head)),
            Ok(None) => {}
            Err(_) => {
                read.refused = true;
                return read;
            }
        }
    }
    read.rest = buffer.len();
    read
}

fn response(head: &ResponseHead) -> model::ModelResponse {
    model::ModelResponse {
        status: head.response.status().as_u16(),
        fields: fields(head.response.headers()),
        body: match head.framing {
            ResponseFraming::Length(length) => model::Framing::Length(length),
            ResponseFraming::Chunked => model::Framing::Chunked,
            ResponseFraming::Close => model::Framing::Close,
        },
        reusable: head.reusable,
    }
}

/// Bodies in the chunked coding, of requests and of responses.
pub fn chunked(input: &[u8]) {
    let Some((seed, data)) = input.split_first() else {
        return;
    };
    for strict in [false, true] {
        let whole = chunked_body(&[data], strict, false);
        let cut = pieces(seed >> 1, data);
        assert_eq!(
            whole,
            chunked_body(&cut, strict, seed & 1 == 1),
            "in pieces"
        );
        assert_eq!(whole, chunked_body(&[data], strict, true), "looking ahead");
        assert_eq!(
            whole,
            model_chunked::chunked(data, strict.then_some(8)),
            "in the model"
        );
    }
}

fn chunked_body(pieces: &[&[u8]], strict: bool, looks_ahead: bool) -> model_chunked::ChunkedBody {
    let mut read = model_chunked::ChunkedBody::default();
    let mut buffer = BytesMut::new();
    let mut reader = if strict {
        Chunked::strict(LIMITS.headers)
    } else {
        Chunked::new()
    };
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match reader.next(&mut buffer) {
                Ok(ChunkedPiece::Data(data)) => read.data.extend_from_slice(&data),
                Ok(ChunkedPiece::Trailers(trailers)) => read.trailers = fields(&trailers),
                Ok(ChunkedPiece::End) => {
                    read.end = model_chunked::BodyEnd::Whole;
                    break;
                }
                Ok(ChunkedPiece::More) => break,
                Err(_) => {
                    read.end = model_chunked::BodyEnd::Malformed;
                    return read;
                }
            }
            if looks_ahead {
                reader.look_ahead(&mut buffer);
            }
        }
    }
    if read.end == model_chunked::BodyEnd::Whole {
        assert!(reader.is_done(), "a body that has ended");
        read.rest = buffer.len();
    }
    read
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Runs a target on its corpus.
    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz-corpus");
        let mut inputs = 0;
        for entry in std::fs::read_dir(folder.join(target)).unwrap() {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            if std::panic::catch_unwind(|| run(&input)).is_err() {
                panic!("{}", path.display());
            }
            inputs += 1;
        }
        assert!(inputs > 5, "{inputs} inputs for {target}");
    }

    #[test]
    fn request_heads_of_the_corpus_are_read_as_the_model_reads_them() {
        replay("request_head", request_head);
    }

    #[test]
    fn response_heads_of_the_corpus_are_read_as_the_model_reads_them() {
        replay("response_head", response_head);
    }

    #[test]
    fn chunked_bodies_of_the_corpus_are_read_as_the_model_reads_them() {
        replay("chunked", chunked);
    }

    #[test]
    fn connections_of_the_corpus_are_served_as_the_model_says() {
        replay("connection", connection);
    }
}
