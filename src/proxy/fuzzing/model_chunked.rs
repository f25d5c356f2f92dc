//! The chunked coding, as the model reads it.

use super::model::{Field, field, is_control, lists};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyEnd {
    Whole,
    #[default]
    Missing,
    Malformed,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkedBody {
    pub(super) data: Vec<u8>,
    pub(super) trailers: Vec<Field>,
    pub(super) end: BodyEnd,
    /// Bytes behind the body.
    pub(super) rest: usize,
}

/// A body in the chunked coding; of a request, with so many trailers at most.
pub(super) fn chunked(data: &[u8], request: Option<usize>) -> ChunkedBody {
    let mut body = ChunkedBody::default();
    let mut rest = data;
    body.end = loop {
        let size = match chunk_line(&mut rest, 256) {
            Ok(line) => match chunk_size(line) {
                Some(size) => size,
                None => break BodyEnd::Malformed,
            },
            Err(end) => break end,
        };
        if size == 0 {
            break trailers(&mut rest, request, &mut body.trailers);
        }
        let here = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        body.data.extend_from_slice(&rest[..here]);
        rest = &rest[here..];
        if (here as u64) < size {
            break BodyEnd::Missing;
        }
        match rest {
            [] | [b'\r'] => break BodyEnd::Missing,
            [b'\r', b'\n', after @ ..] => rest = after,
            _ => break BodyEnd::Malformed,
        }
    };
    if body.end == BodyEnd::Whole {
        body.rest = rest.len();
    } else {
        body.trailers.clear();
    }
    body
}

/// A line of less than `limit` bytes.
fn chunk_line<'a>(rest: &mut &'a [u8], limit: usize) -> Result<&'a [u8], BodyEnd> {
    let Some(end) = rest.iter().take(limit).position(|byte| *byte == b'\n') else {
        return Err(if rest.len() >= limit {
            BodyEnd::Malformed
        } else {
            BodyEnd::Missing
        });
    };
    let line = rest[..end].strip_suffix(b"\r").ok_or(BodyEnd::Malformed)?;
    *rest = &rest[end + 1..];
    Ok(line)
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let text = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = (1..=15).contains(&text.len()) && text.iter().all(u8::is_ascii_hexdigit);
    let extension = &line[text.len()..];
    if !digits || extension.iter().any(|byte| is_control(*byte)) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

fn trailers(rest: &mut &[u8], request: Option<usize>, fields: &mut Vec<Field>) -> BodyEnd {
    let mut left = 16 * 1024;
    loop {
        let before = rest.len();
        let line = match chunk_line(rest, left) {
            Ok(line) => line,
            Err(end) => return end,
        };
        left -= before - rest.len();
        if line.is_empty() {
            fields.sort_by(|one, other| one.0.cmp(&other.0));
            return BodyEnd::Whole;
        }
        let Ok((name, value)) = field(line) else {
            return BodyEnd::Malformed;
        };
        if fields.len() >= request.unwrap_or(256) {
            return BodyEnd::Malformed;
        }
        if request.is_some() && is_forbidden(&name, &value) {
            return BodyEnd::Malformed;
        }
        fields.push((name, value));
    }
}

/// Whether a trailer of a request says something of framing, host or connection.
fn is_forbidden(name: &str, value: &[u8]) -> bool {
    match name.replace('_', "-").as_str() {
        "content-length" | "transfer-encoding" => true,
        _ if name == "host" || name == "connection" => true,
        _ if name == "te" => lists(value, "trailers"),
        _ if name == "expect" => lists(value, "100-continue"),
        _ => false,
    }
}
