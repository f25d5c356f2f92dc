//! The grammar of single lines of HTTP/1.1 (RFC 9112), shared by both directions.

use super::error::HeadError;

/// What a header field means for the framing of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// Nothing.
    Other,
    /// The `Host` field, with a well-formed value.
    Host,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// `UpstreamConnection`, and what it says of this connection.
    Connection { close: bool, keep_alive: bool },
    /// `Expect: 100-continue`.
    Continue,
    /// `TE`, with `trailers`.
    Trailers,
}

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const HOST: u8 = 4;
const QUERY: u8 = 8;

/// Classes of bytes: `TOKEN` is RFC 9110's tchar, `TARGET` what RFC 3986 allows in a path with
/// query (and the few characters that browsers send unescaped), `QUERY` what browsers send
/// unescaped in a query alone, `HOST` what RFC 3986 allows in an authority without userinfo. A
/// backslash stays out of paths: some upstreams read it as a slash, and what the route was matched
/// by would not be what they serve. Browsers send it in queries only.
static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0_u8; 256];
    mark(&mut table, b"!#$%&'*+-.^_`|~", TOKEN);
    mark(&mut table, b"!$%&'()*+,-./:;=?@_~[]^`{|}\"", TARGET);
    mark(&mut table, b"\\", QUERY);
    mark(&mut table, b"-._~%!$&'()*+,;=:[]", HOST);
    mark(
        &mut table,
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
        TOKEN | TARGET | HOST,
    );
    table
}

#[expect(
    clippy::indexing_slicing,
    reason = "evaluated at compile time; the table has an entry for every byte"
)]
const fn mark(table: &mut [u8; 256], bytes: &[u8], class: u8) {
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] |= class;
        at += 1;
    }
}

fn is(byte: u8, class: u8) -> bool {
    CLASS
        .get(usize::from(byte))
        .is_some_and(|have| have & class != 0)
}

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|byte| is(*byte, class))
}

/// What a request line says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestLine {
    pub(crate) http10: bool,
    /// Whether the target has characters that the `http` crate does not take: see [`mask`].
    pub(crate) odd: bool,
}

/// Where the next character is that is forwarded as it is, and that the `http` crate does not take
/// in a target: it allows `"` in paths only, and a backtick in queries only.
fn odd(bytes: &[u8]) -> Option<usize> {
    memchr::memchr2(b'"', b'`', bytes)
}

/// Whether there are characters that have to be [masked](mask).
pub(crate) fn is_odd(bytes: &[u8]) -> bool {
    odd(bytes).is_some()
}

/// Puts characters in the place of those that the `http` crate does not take. The target as it was
/// sent is kept beside.
pub(crate) fn mask(bytes: &mut [u8]) {
    let mut rest = bytes;
    while let Some(at) = odd(rest) {
        let (_, from) = rest.split_at_mut(at);
        let Some((byte, after)) = from.split_first_mut() else {
            return;
        };
        *byte = b'_';
        rest = after;
    }
}

/// Checks a request line without its CRLF.
pub(crate) fn request_line(text: &[u8], target_max: usize) -> Result<RequestLine, HeadError> {
    let mut parts = text.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::Malformed(
            "the request line is not METHOD SP TARGET SP VERSION",
        ));
    };
    if method.is_empty() || method.len() > 32 || !all(method, TOKEN) {
        return Err(HeadError::Malformed("the method is not a token"));
    }
    if target.len() > target_max {
        return Err(HeadError::TargetTooLong);
    }
    check_target(method, target)?;
    let line = |http10| RequestLine {
        http10,
        odd: is_odd(target),
    };
    match version {
        b"HTTP/1.1" => Ok(line(false)),
        b"HTTP/1.0" => Ok(line(true)),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(HeadError::Version)
        }
        _ => Err(HeadError::Malformed(
            "the version is not HTTP/1.1 or HTTP/1.0",
        )),
    }
}

fn check_target(method: &[u8], target: &[u8]) -> Result<(), HeadError> {
    if !is_target(target) {
        return Err(HeadError::Malformed(
            "a character in the request target that has to be percent-encoded",
        ));
    }
    let form_is_known = match target {
        [b'/', ..] => method != b"CONNECT",
        b"*" => method == b"OPTIONS",
        _ if method == b"CONNECT" => all(target, HOST),
        _ => absolute_form(target),
    };
    // What begins with a slash has no part that could be wrong; a target with a host has several.
    if form_is_known && (matches!(target, [b'/', ..] | b"*") || is_uri(target)) {
        Ok(())
    } else {
        Err(HeadError::Malformed("a request target in no known form"))
    }
}

/// Whether the `http` crate takes this target.
fn is_uri(target: &[u8]) -> bool {
    let mut target = target.to_vec();
    mask(&mut target);
    http::Uri::try_from(target).is_ok()
}

fn absolute_form(target: &[u8]) -> bool {
    let lower = |prefix: &[u8]| {
        target
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
            .then_some(prefix.len())
    };
    let Some(scheme) = lower(b"http://").or_else(|| lower(b"https://")) else {
        return false;
    };
    let rest = target.get(scheme..).unwrap_or_default();
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    !authority.is_empty() && host(authority)
}

/// What is wrong with a first line that exceeds its limit before it ended.
pub(crate) fn overlong_start(line: &[u8]) -> HeadError {
    let start = line.get(..40).unwrap_or(line);
    match start.iter().position(|byte| *byte == b' ') {
        Some(end) if end > 0 && all(start.get(..end).unwrap_or_default(), TOKEN) => {
            HeadError::TargetTooLong
        }
        _ => HeadError::Malformed("the request line is not METHOD SP TARGET SP VERSION"),
    }
}

/// Checks a header or trailer field without its CRLF.
pub(crate) fn field(text: &[u8]) -> Result<Header, HeadError> {
    let Some(colon) = memchr::memchr(b':', text) else {
        return Err(HeadError::Malformed("a header line without a colon"));
    };
    let (name, value) = text.split_at(colon);
    let value = value.get(1..).unwrap_or_default();
    if name.is_empty() || !all(name, TOKEN) {
        return Err(HeadError::Malformed(
            "a header name that is not a token, or a folded line",
        ));
    }
    if control(value).is_some() {
        return Err(HeadError::Malformed(
            "a control character in a header value",
        ));
    }
    known(name, value)
}

/// Whether a list names this element.
fn has_element(list: &[u8], expected: &[u8]) -> bool {
    let mut elements = list.split(|byte| *byte == b',');
    elements.any(|element| trim(element).eq_ignore_ascii_case(expected))
}

/// What a field says of the message or the connection. `name` is a token, and `value` has no
/// control characters.
pub(crate) fn known(name: &[u8], value: &[u8]) -> Result<Header, HeadError> {
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => host_field(trim(value)),
        14 if is_like(name, b"content-length") => {
            framing_name(name).and_then(|()| length(trim(value)))
        }
        2 if name.eq_ignore_ascii_case(b"te") && has_element(value, b"trailers") => {
            Ok(Header::Trailers)
        }
        6 if name.eq_ignore_ascii_case(b"expect") && has_element(value, b"100-continue") => {
            Ok(Header::Continue)
        }
        10 if name.eq_ignore_ascii_case(b"connection") => Ok(Header::Connection {
            close: has_element(value, b"close"),
            keep_alive: has_element(value, b"keep-alive"),
        }),
        17 if is_like(name, b"transfer-encoding") => {
            framing_name(name).and_then(|()| coding(trim(value)))
        }
        _ => Ok(Header::Other),
    }
}

/// Where the first control character is that may not stand in a value.
fn control(value: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let mut at = 0;
    // Eight bytes at once: in the high bit of each, whether it is below 0x20 or is 0x7f. The lowest
    // that is set is exact.
    while let Some(eight) = value.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*eight);
        let delete = word ^ (ONES * 0x7f);
        let found =
            (word.wrapping_sub(ONES * 0x20) & !word | delete.wrapping_sub(ONES) & !delete) & HIGH;
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if value.get(at) != Some(&b'\t') {
            return Some(at);
        }
        at += 1;
    }
    let rest = value.get(at..)?;
    Some(at + rest.iter().position(|byte| is_control(*byte))?)
}

fn is_control(byte: u8) -> bool {
    ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f)
}

/// Equal but for case and for `_` in place of `-`, as some servers read names.
pub(crate) fn is_like(name: &[u8], expected: &[u8]) -> bool {
    let same = |(byte, want): (&u8, &u8)| {
        byte.eq_ignore_ascii_case(want) || (*byte == b'_' && *want == b'-')
    };
    name.len() == expected.len() && name.iter().zip(expected).all(same)
}

fn framing_name(name: &[u8]) -> Result<(), HeadError> {
    if name.contains(&b'_') {
        return Err(HeadError::Malformed(
            "a framing header spelled with an underscore",
        ));
    }
    Ok(())
}

fn host_field(value: &[u8]) -> Result<Header, HeadError> {
    if value.is_empty() || host(value) {
        Ok(Header::Host)
    } else {
        Err(HeadError::Malformed("the Host is malformed"))
    }
}

/// Whether this is a host, or an IPv6 address in brackets, with an optional port.
pub(crate) fn host(value: &[u8]) -> bool {
    let (name, port) = if value.first() == Some(&b'[') {
        let Some(end) = value.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let (address, port) = value.split_at(end + 1);
        let inner = address
            .get(1..end)
            .and_then(|inner| std::str::from_utf8(inner).ok());
        if inner
            .and_then(|inner| inner.parse::<std::net::Ipv6Addr>().ok())
            .is_none()
        {
            return false;
        }
        (address, port)
    } else {
        value.split_at(
            value
                .iter()
                .position(|byte| *byte == b':')
                .unwrap_or(value.len()),
        )
    };
    let name_is_good = name.first() == Some(&b'[')
        || (!name.is_empty() && all(name, HOST) && memchr::memchr2(b'[', b']', name).is_none());
    let port_is_good = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    name_is_good && port_is_good
}

fn length(value: &[u8]) -> Result<Header, HeadError> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    match std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        Some(length) if digits => Ok(Header::Length(length)),
        _ => Err(HeadError::Malformed(
            "Content-Length is not a decimal number",
        )),
    }
}

fn coding(value: &[u8]) -> Result<Header, HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        Ok(Header::Chunked)
    } else {
        Err(HeadError::UnknownCoding)
    }
}

/// Reads a chunk's size line without its CRLF. Extensions are checked and otherwise ignored (RFC
/// 9112 section 7.1.1).
pub(crate) fn chunk_size(text: &[u8]) -> Result<u64, HeadError> {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(text.len());
    let (digits, extension) = text.split_at(end);
    // 15 hexadecimal digits are 2^60: no body has more, and nothing overflows.
    if digits.is_empty() || digits.len() > 15 {
        return Err(HeadError::Malformed(
            "a chunk's size is not a hexadecimal number",
        ));
    }
    let well_formed =
        matches!(extension.first(), None | Some(b';')) && control(extension).is_none();
    match std::str::from_utf8(digits)
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok())
    {
        Some(size) if well_formed => Ok(size),
        _ => Err(HeadError::Malformed("a chunk's size line is malformed")),
    }
}

pub(crate) fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

/// Whether every byte may stand in a path with query.
pub(crate) fn is_target(target: &[u8]) -> bool {
    let (path, query) = target.split_at(memchr::memchr(b'?', target).unwrap_or(target.len()));
    all(path, TARGET) && all(query, TARGET | QUERY)
}

/// Whether this is a framing header's name but for underscores, which some servers read as dashes.
pub(crate) fn is_disguised(name: &[u8]) -> bool {
    (is_like(name, b"content-length") || is_like(name, b"transfer-encoding"))
        && name.contains(&b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn control_characters_are_found_wherever_they_are(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(control(&value), value.iter().position(|byte| is_control(*byte)));
        }

        #[test]
        fn a_control_character_among_others_is_found(length in 0_usize..40, at in 0_usize..40, byte in any::<u8>()) {
            let mut value = vec![b'a'; length];
            value.insert(at.min(length), byte);
            prop_assert_eq!(control(&value), value.iter().position(|byte| is_control(*byte)));
        }
    }
}
