//! A request as bytes: its head, and the frames that a body goes out in.
//!
//! Pure: values in, bytes out. What is written has one meaning: the framing follows from the body
//! alone, whatever the fields say.

use http::Request;
use http::header::{self, CONTENT_LENGTH, HeaderMap, HeaderName, TRANSFER_ENCODING};

use super::forwarded_headers::ForwardedHeaders;
use crate::proxy::http1::chunked::{self, write_field};
use crate::proxy::http1::target;

/// How a request's body goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestFraming {
    /// There is none.
    Nothing,
    /// As many bytes as the head says, of which so many are still to come.
    Length(u64),
    Chunked,
}

/// The framing of a request that has a body.
pub(super) fn framing(headers: &HeaderMap) -> RequestFraming {
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    declared
        .and_then(|length| length.parse().ok())
        .map_or(RequestFraming::Chunked, RequestFraming::Length)
}

/// Writes the head of a request whose target is in origin form, with the fields of `hop`.
pub(super) fn write_head<B>(
    out: &mut Vec<u8>,
    request: &Request<B>,
    framing: RequestFraming,
    hop: &ForwardedHeaders<'_>,
) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    write_target(out, target::of(request));
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        if is_framing(name) && !agrees(name, value.as_bytes(), framing) {
            continue;
        }
        let name = name.as_str();
        if !hop.overrules(name) {
            write_field(out, name, value.as_bytes());
        }
    }
    hop.write(request.headers(), out);
    if framing == RequestFraming::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_target(out: &mut Vec<u8>, target: &str) {
    // A target in absolute form may have had a query and no path.
    if !target.starts_with(['/', '*']) {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
}

fn is_framing(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING
}

/// Whether a field about the framing says what is done.
fn agrees(name: &HeaderName, value: &[u8], framing: RequestFraming) -> bool {
    *name == CONTENT_LENGTH
        && match framing {
            RequestFraming::Length(_) => true,
            RequestFraming::Nothing => value == b"0",
            RequestFraming::Chunked => false,
        }
}

/// Writes the last chunk and the trailer section.
pub(super) fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    chunked::write_trailers(out, trailers.iter().filter(|(name, _)| may_trail(name)));
}

/// Takes off an answer's trailers what may not stand among them.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    let stray: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| !may_trail(name))
        .cloned()
        .collect();
    for name in stray {
        trailers.remove(name);
    }
}

/// Whether a field may stand in a trailer section. Some upstreams merge it into the head: so
/// nothing of framing, routing or identity, all of which has been settled by the head (RFC 9110
/// section 6.5.1).
fn may_trail(name: &HeaderName) -> bool {
    const IN_HEADS_ONLY: [HeaderName; 18] = [
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::FORWARDED,
        header::HOST,
        header::MAX_FORWARDS,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::VIA,
    ];
    let text = name.as_str();
    !IN_HEADS_ONLY.contains(name)
        && !text.starts_with("x-forwarded-")
        && !text.starts_with("proxy-")
        && !matches!(
            text,
            "keep-alive" | "x-real-ip" | "x-request-id" | "weighbridge-hops"
        )
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
