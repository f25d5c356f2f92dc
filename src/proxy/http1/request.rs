//! The head of a request, read strictly.
//!
//! Pure: bytes in, a head out. It takes only what RFC 9112 allows word for word: lines end in CRLF,
//! no folded lines, no space before a colon, one framing that nobody can read in two ways. To
//! forward what a laxer reader made of a message would be safe as well, since messages are written
//! anew; but two readers of the same bytes (a firewall in front, an auditor behind) would not agree
//! on what was sent.

use std::sync::LazyLock;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri, Version};
use memchr::memmem::Finder;

use super::error::{HeadError, HeadLimits};
use super::grammar::{self, Header, RequestLine};
use super::target::RawTarget;

/// The most empty lines before a request line.
const EMPTY_LINES_MAX: usize = 4;
/// Fields that a map has room for at first.
const FIELDS: usize = 16;

static HEAD_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// How the end of a request's body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// There is none.
    Nothing,
    Exactly(u64),
    Chunked,
}

/// A whole head.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) request: Request<()>,
    pub(crate) body: BodyLength,
    /// Whether the connection may carry another request after the response.
    pub(crate) keep_alive: bool,
    /// Whether the body is sent only once a 100 has come.
    pub(crate) expects_continue: bool,
    /// Whether the client takes trailers.
    pub(crate) accepts_trailers: bool,
}

/// What the fields of a head have said.
#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    http10: bool,
    length: Option<u64>,
    chunked: bool,
    hosts: u8,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    accepts_trailers: bool,
}

impl Framing {
    /// Takes note of a field.
    fn note(&mut self, header: Header) -> Result<(), HeadError> {
        match header {
            Header::Other => {}
            Header::Host => self.hosts = self.hosts.saturating_add(1),
            Header::Length(_) if self.length.is_some() => {
                return Err(HeadError::Malformed("more than one Content-Length"));
            }
            Header::Length(length) => self.length = Some(length),
            Header::Chunked if self.chunked => return Err(HeadError::UnknownCoding),
            Header::Chunked => self.chunked = true,
            Header::Connection { close, keep_alive } => {
                self.close |= close;
                self.keep_alive |= keep_alive;
            }
            Header::Continue => self.expects_continue = true,
            Header::Trailers => self.accepts_trailers = true,
        }
        Ok(())
    }

    /// What follows the head that says this.
    fn body(self) -> Result<BodyLength, HeadError> {
        if self.chunked && self.length.is_some() {
            return Err(HeadError::Malformed(
                "both Content-Length and Transfer-Encoding",
            ));
        }
        if self.chunked && self.http10 {
            return Err(HeadError::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        if self.hosts > 1 || (self.hosts == 0 && !self.http10) {
            return Err(HeadError::Malformed("a request has exactly one Host"));
        }
        Ok(match self.length {
            Some(length) if length > 0 => BodyLength::Exactly(length),
            _ if self.chunked => BodyLength::Chunked,
            _ => BodyLength::Nothing,
        })
    }
}

/// Reads the heads of a connection's requests as their bytes come in.
///
/// Nearly every head comes in one piece, and is read in one pass. One that does not is checked line
/// by line as it comes, so that what is wrong with it is known at once, and is read when it is
/// whole.
#[derive(Debug)]
pub(crate) struct RequestHeadReader {
    limits: HeadLimits,
    lines: Lines,
}

/// How far a head has been checked line by line.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    /// Where the request line begins, behind empty lines.
    start: usize,
    empty_lines: usize,
    /// Where the first line begins that has not been checked.
    at: usize,
    /// Bytes of it that are known not to hold its end.
    scanned: usize,
    /// Whether the request line has been checked.
    in_fields: bool,
    fields: usize,
    framing: Framing,
}

impl RequestHeadReader {
    pub(crate) fn new(limits: HeadLimits) -> RequestHeadReader {
        RequestHeadReader {
            limits,
            lines: Lines::default(),
        }
    }

    /// Whether a head has begun and is not whole, where `buffered` bytes of it are here.
    pub(crate) fn is_in_head(&self, buffered: usize) -> bool {
        buffered > self.lines.start
    }

    /// Takes a head off the front of `buffer` once it is whole. Its fields go into a map that is
    /// taken from `spare`.
    ///
    /// # Errors
    ///
    /// What has come is not passed on.
    pub(crate) fn advance(
        &mut self,
        buffer: &mut BytesMut,
        spare: impl FnOnce() -> HeaderMap,
    ) -> Result<Option<RequestHead>, HeadError> {
        // Only what has not been looked at yet: a head that comes byte by byte must not cost its
        // square.
        if self.lines.at == 0
            && self.lines.scanned == 0
            && buffer.first().is_some_and(|first| *first != b'\r')
            && let Some(end) = HEAD_END.find(buffer).map(|end| end + 4)
            && end <= self.limits.head_bytes
        {
            let bytes = buffer.split_to(end).freeze();
            return match read(&bytes, &self.limits, spare()) {
                Ok(head) => Ok(Some(head)),
                // The first line that is wrong says why, as it would have if it had come alone.
                Err(refusal) => Err(self
                    .lines
                    .advance(&bytes, &self.limits)
                    .err()
                    .unwrap_or(refusal)),
            };
        }
        let Some(end) = self.lines.advance(buffer, &self.limits)? else {
            return Ok(None);
        };
        let lines = std::mem::take(&mut self.lines);
        buffer.advance(lines.start);
        let bytes = buffer.split_to(end - lines.start).freeze();
        read(&bytes, &self.limits, spare()).map(Some)
    }
}

impl Lines {
    /// Checks the lines that are whole; tells where the head ends once it does.
    fn advance(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let found = memchr::memchr(b'\n', rest.get(self.scanned..).unwrap_or_default());
            let Some(end) = found.map(|end| self.scanned + end + 1) else {
                self.bound(rest, limits)?;
                self.scanned = rest.len();
                return Ok(None);
            };
            let line = rest.get(..end).unwrap_or_default();
            self.bound(line, limits)?;
            self.at += end;
            self.scanned = 0;
            let Some(text) = line.strip_suffix(b"\r\n") else {
                return Err(HeadError::Malformed("a line ends in LF without CR"));
            };
            if self.line(text, limits)? {
                return Ok(Some(self.at));
            }
        }
    }

    /// Holds a line, or the part of it that has come, against the limits.
    fn bound(&self, line: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
        // Method, two spaces, version and CRLF take some room beside the target.
        if !self.in_fields && line.len() > limits.target_bytes.saturating_add(64) {
            return Err(grammar::overlong_start(line));
        }
        if self.at + line.len() - self.start > limits.head_bytes {
            return Err(HeadError::HeadTooLarge);
        }
        Ok(())
    }

    /// Checks a line without its CRLF; tells whether it is the last.
    fn line(&mut self, text: &[u8], limits: &HeadLimits) -> Result<bool, HeadError> {
        match (self.in_fields, text.is_empty()) {
            (false, true) => {
                self.start = self.at;
                self.empty_lines += 1;
                if self.empty_lines > EMPTY_LINES_MAX {
                    return Err(HeadError::Malformed("too many empty lines"));
                }
            }
            (false, false) => {
                self.framing.http10 = grammar::request_line(text, limits.target_bytes)?.http10;
                self.in_fields = true;
            }
            (true, false) => {
                self.fields += 1;
                if self.fields > limits.headers {
                    return Err(HeadError::HeadTooLarge);
                }
                self.framing.note(grammar::field(text)?)?;
            }
            (true, true) => {
                self.framing.body()?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What is said of a head that is wrong in no line of its own.
const MALFORMED: HeadError = HeadError::Malformed("the request's head is malformed");

/// Reads a whole head.
fn read(
    bytes: &Bytes,
    limits: &HeadLimits,
    mut headers: HeaderMap,
) -> Result<RequestHead, HeadError> {
    let (line, mut rest) = split_line(bytes).ok_or(MALFORMED)?;
    let RequestLine { http10, odd } = grammar::request_line(line, limits.target_bytes)?;
    let mut framing = Framing {
        http10,
        ..Framing::default()
    };
    headers.reserve(FIELDS);
    let mut fields = 0;
    loop {
        let (line, after) = split_line(rest).ok_or(MALFORMED)?;
        rest = after;
        if line.is_empty() {
            break;
        }
        fields += 1;
        if fields > limits.headers {
            return Err(HeadError::HeadTooLarge);
        }
        let (name, value) = line.split_at(memchr::memchr(b':', line).ok_or(MALFORMED)?);
        let value = grammar::trim(value.get(1..).unwrap_or_default());
        // The parser of names takes tokens, and that of values no control characters but tabs.
        let parsed = HeaderName::from_bytes(name).map_err(|_| MALFORMED)?;
        let shared =
            HeaderValue::from_maybe_shared(bytes.slice_ref(value)).map_err(|_| MALFORMED)?;
        framing.note(grammar::known(name, value)?)?;
        headers.append(parsed, shared);
    }
    let body = framing.body()?;
    let mut request = Request::new(());
    write_line(&mut request, bytes, line, odd)?;
    *request.version_mut() = if http10 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    *request.headers_mut() = headers;
    Ok(RequestHead {
        request,
        body,
        keep_alive: !framing.close && (!http10 || framing.keep_alive),
        expects_continue: framing.expects_continue && !http10 && body != BodyLength::Nothing,
        accepts_trailers: framing.accepts_trailers,
    })
}

/// The line that `bytes` begin with, without its CRLF, and what is behind it.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (line, after) = bytes.split_at_checked(memchr::memchr(b'\n', bytes)? + 1)?;
    Some((line.strip_suffix(b"\r\n")?, after))
}

/// Gives a request the method and the target of its first line, a part of `bytes`.
fn write_line(
    request: &mut Request<()>,
    bytes: &Bytes,
    line: &[u8],
    odd: bool,
) -> Result<(), HeadError> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    *request.method_mut() = Method::from_bytes(method).map_err(|_| MALFORMED)?;
    let mut shared = bytes.slice_ref(target);
    if odd {
        let mut masked = target.to_vec();
        grammar::mask(&mut masked);
        shared = masked.into();
        if let Some(raw) = RawTarget::new(target) {
            request.extensions_mut().insert(raw);
        }
    }
    *request.uri_mut() = Uri::from_maybe_shared(shared).map_err(|_| MALFORMED)?;
    Ok(())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
