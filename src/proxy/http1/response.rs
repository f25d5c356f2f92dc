//! The head of an answer: read strictly, and what it says of the framing of the body and the future
//! of the connection.
//!
//! Pure: bytes in, a head out. What could be read in two ways is an error, since whoever stands
//! behind the proxy might read it the other way, and the bytes in between would then be an answer
//! to somebody else's request. Lines that end in LF alone are taken, as RFC 9112 section 2.2
//! allows: a head is written anew, so nobody else gets to read them.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::{Response, StatusCode};
use hyper::ext::ReasonPhrase;

use super::error::Malformed;
use super::grammar::is_like;

/// The most bytes of an answer's head; more is a protocol error of the upstream. As much as all
/// that a client of HTTP/1.1 may cost allows, which a head is read for as a whole.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most fields of an answer's head.
const HEADERS_MAX: usize = 256;
/// The most interim answers to one request.
const INTERIMS_MAX: u32 = 100;
/// The most bytes that may come before the final answer's head is whole. Interim answers have no
/// end of their own, and an upstream that sends nothing else would keep its worker from everything
/// else.
const ANSWER_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

/// What the request that is answered means for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseTo {
    /// A HEAD: whatever the answer's fields say of a body, none follows.
    Head,
    Other,
}

/// How the end of a body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseFraming {
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
}

/// A whole head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) response: Response<()>,
    pub(crate) framing: ResponseFraming,
    /// Whether the connection may carry another request once the body has been read.
    pub(crate) reusable: bool,
}

/// Reads heads as their bytes come in, until the final one.
#[derive(Debug)]
pub(crate) struct ResponseHeadReader {
    asked: ResponseTo,
    /// Bytes of interim answers so far.
    interim: usize,
    /// How many they were, and how many of them said that the request is being worked on.
    interims: u32,
    processing: u32,
    /// Bytes of the head at hand that are known not to hold its end.
    scanned: usize,
}

impl ResponseHeadReader {
    pub(crate) fn new(asked: ResponseTo) -> ResponseHeadReader {
        ResponseHeadReader {
            asked,
            interim: 0,
            interims: 0,
            processing: 0,
            scanned: 0,
        }
    }

    /// Takes the final answer's head off the front of `buffer` once it is whole; interim ones
    /// before it are handed to `interim`. The fields of the final one go into `headers`, a map
    /// of no further use whose memory is used again.
    ///
    /// # Errors
    ///
    /// What has come is no answer, or too much of one.
    pub(crate) fn advance(
        &mut self,
        buffer: &mut BytesMut,
        headers: &mut HeaderMap,
        interim: &mut dyn FnMut(&mut Response<()>),
    ) -> Result<Option<ResponseHead>, Malformed> {
        loop {
            if buffer.first().is_some_and(|first| *first != b'H') {
                return Err(Malformed("not an answer"));
            }
            let Some(end) = self.end(buffer) else {
                return self.bound(buffer.len()).map(|()| None);
            };
            self.bound(end)?;
            let bytes = buffer.split_to(end).freeze();
            match read(&bytes, self.asked, headers)? {
                Read::Final(head) => return Ok(Some(head)),
                Read::Interim(mut response) => {
                    self.interim += end;
                    self.interims += 1;
                    if self.interims > INTERIMS_MAX {
                        return Err(Malformed("interim answers without end"));
                    }
                    self.processing += u32::from(response.status() == StatusCode::PROCESSING);
                    interim(&mut response);
                }
            }
        }
    }

    /// How many interim answers have said that the request is being worked on (102).
    pub(crate) fn processing(&self) -> u32 {
        self.processing
    }

    /// Where the head at hand ends. Looks at no byte twice, lest a head that comes byte by byte
    /// cost its square.
    fn end(&mut self, buffer: &BytesMut) -> Option<usize> {
        let mut at = self.scanned;
        while let Some(found) = memchr::memchr(b'\n', buffer.get(at..)?) {
            let after = at + found + 1;
            match buffer.get(after..) {
                Some([b'\n', ..]) => return self.found(after + 1),
                Some([b'\r', b'\n', ..]) => return self.found(after + 2),
                Some([] | [b'\r']) => {
                    self.scanned = after - 1;
                    return None;
                }
                _ => at = after,
            }
        }
        self.scanned = buffer.len();
        None
    }

    fn found(&mut self, end: usize) -> Option<usize> {
        self.scanned = 0;
        Some(end)
    }

    fn bound(&self, head: usize) -> Result<(), Malformed> {
        if head > HEAD_BYTES_MAX {
            return Err(Malformed("an answer's head is too long"));
        }
        if self.interim + head > ANSWER_BYTES_MAX {
            return Err(Malformed("interim answers without end"));
        }
        Ok(())
    }
}

/// What a head is that of.
enum Read {
    Interim(Response<()>),
    Final(ResponseHead),
}

/// Reads one whole head.
fn read(bytes: &Bytes, asked: ResponseTo, headers: &mut HeaderMap) -> Result<Read, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let complete = httparse::ParserConfig::default()
        .allow_spaces_after_header_name_in_responses(true)
        .parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)
        .map_err(|_| Malformed("the head of an answer is malformed"))?;
    let (true, Some(code), Some(version)) = (complete.is_complete(), parsed.code, parsed.version)
    else {
        return Err(Malformed("the head of an answer is malformed"));
    };
    let status = StatusCode::from_u16(code).map_err(|_| Malformed("no status that there is"))?;
    // 101 is final: what follows it is not HTTP.
    let is_final = !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    let mut own = HeaderMap::new();
    // The map with the request's fields is needed until the final answer.
    let headers = if is_final { headers } else { &mut own };
    let mut said = Said::default();
    headers.clear();
    headers.reserve(parsed.headers.len());
    for field in parsed.headers.iter() {
        if is_for_this_hop(field.name.as_bytes()) && has_space_behind(field.name, bytes) {
            return Err(Malformed("a space before the colon of a framing field"));
        }
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| Malformed("the name of a header field is malformed"))?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_| Malformed("the value of a header field is malformed"))?;
        if !said.note(&name, value.as_bytes())? {
            headers.append(name, value);
        }
    }
    let framing = if is_final {
        Some(said.framing(version, status, asked)?)
    } else {
        // An interim answer has no body, whatever its fields say.
        None
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = std::mem::take(headers);
    keep_reason(&mut response, bytes, parsed.reason);
    Ok(match framing {
        None => Read::Interim(response),
        Some((framing, reusable)) => Read::Final(ResponseHead {
            response,
            framing,
            reusable,
        }),
    })
}

/// Whether a field says how the message is framed, or what becomes of the connection.
fn is_for_this_hop(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 8] = [
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"upgrade",
        b"trailer",
        b"te",
        b"keep-alive",
        b"proxy-connection",
    ];
    // Nearly every name is told apart by its length and first letter.
    NAMES.iter().any(|known| is_like(name, known))
}

/// Whether the name of a field, a part of `bytes`, is followed by something else than its colon.
/// Such a space is taken off, as a proxy must (RFC 9112 section 5.1), but where two readers could
/// disagree on what the field says.
fn has_space_behind(name: &str, bytes: &Bytes) -> bool {
    let end = (name.as_ptr().addr() + name.len()).wrapping_sub(bytes.as_ptr().addr());
    bytes.get(end) != Some(&b':')
}

/// A reason phrase of the upstream's own is passed on; the usual one is written again anyway.
fn keep_reason(response: &mut Response<()>, bytes: &Bytes, reason: Option<&str>) {
    let reason = reason.unwrap_or_default();
    if response.status().canonical_reason() != Some(reason)
        && !reason.is_empty()
        && let Ok(phrase) = ReasonPhrase::try_from(bytes.slice_ref(reason.as_bytes()))
    {
        response.extensions_mut().insert(phrase);
    }
}

/// What the fields of a head have said of framing and connection.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Said {
    /// Takes note of a field; tells whether that was all it is good for, as of the fields that are
    /// for this hop alone.
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, Malformed> {
        if *name == CONTENT_LENGTH {
            if self.length.is_some() {
                return Err(Malformed("more than one Content-Length"));
            }
            self.length = Some(length(value)?);
        } else if *name == TRANSFER_ENCODING {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("a transfer coding that is not chunked alone"));
            }
            self.chunked = true;
            return Ok(true);
        } else if *name == CONNECTION {
            if value.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
                return Ok(true);
            }
            for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                // An `upgrade` advertises what the upstream could speak (RFC 9110 section 7.8).
                // Nobody asked for it, so this connection goes on as it was; only a
                // 101 would change it, and is the last that is read of it.
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
            // What else it names is taken off by its names.
        }
        Ok(false)
    }

    /// The framing of the body, and whether the connection can be used again after it.
    fn framing(
        self,
        minor: u8,
        status: StatusCode,
        asked: ResponseTo,
    ) -> Result<(ResponseFraming, bool), Malformed> {
        if self.chunked && self.length.is_some() {
            return Err(Malformed("both Content-Length and Transfer-Encoding"));
        }
        if self.chunked && minor == 0 {
            return Err(Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        let kept = !self.close && (minor > 0 || self.keep_alive);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok((ResponseFraming::Length(0), false));
        }
        if status == StatusCode::NO_CONTENT {
            // It has no body, and whoever announces one all the same is about to send it.
            let none = !self.chunked && self.length.unwrap_or(0) == 0;
            return Ok((ResponseFraming::Length(0), kept && none));
        }
        if asked == ResponseTo::Head || status == StatusCode::NOT_MODIFIED {
            return Ok((ResponseFraming::Length(0), kept));
        }
        Ok(match self.length {
            Some(length) => (ResponseFraming::Length(length), kept),
            None if self.chunked => (ResponseFraming::Chunked, kept),
            None => (ResponseFraming::Close, false),
        })
    }
}

fn length(value: &[u8]) -> Result<u64, Malformed> {
    // 19 digits fit into 64 bits.
    let digits = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok())
        .ok_or(Malformed("Content-Length is not a decimal number"))
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
