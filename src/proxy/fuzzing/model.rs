//! Straightforward readers of whole messages, written from RFC 9112 and the limits alone: slow,
//! without state, and with nothing in common with the readers that they are held against.

use http::Uri;

use super::model_chunked::{BodyEnd, chunked};
use crate::proxy::http1::HeadLimits;

pub(super) type Field = (String, Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Malformed,
    TargetTooLong,
    HeadTooLarge,
    UnknownCoding,
    Version,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Framing {
    #[default]
    Close,
    Length(u64),
    Chunked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelRequest {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) http10: bool,
    pub(super) fields: Vec<Field>,
    pub(super) body: Framing,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) accepts_trailers: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RequestHeads {
    pub(super) heads: Vec<ModelRequest>,
    pub(super) refused: Option<Refused>,
}

/// Heads that follow each other at once.
pub(super) fn request_heads(data: &[u8], limits: &HeadLimits) -> RequestHeads {
    let mut read = RequestHeads::default();
    let mut rest = data;
    loop {
        match request_head(rest, limits) {
            Ok(Some((head, length))) => {
                read.heads.push(head);
                rest = &rest[length..];
            }
            Ok(None) => return read,
            Err(refused) => {
                read.refused = Some(refused);
                return read;
            }
        }
    }
}

/// A head and its length, `None` if it is not whole; else what is wrong with the first line in
/// which anything is.
pub(super) fn request_head(
    data: &[u8],
    limits: &HeadLimits,
) -> Result<Option<(ModelRequest, usize)>, Refused> {
    let mut start = 0;
    let mut empty_lines = 0;
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut at = 0;
    let mut said = Said::default();
    loop {
        let end = data[at..].iter().position(|byte| *byte == b'\n');
        let line = end.map_or(&data[at..], |end| &data[at..=at + end]);
        if lines.is_empty() && line.len() > limits.target_bytes + 64 {
            let first = line[..40]
                .split(|byte| *byte == b' ')
                .next()
                .unwrap_or_default();
            let method = first.len() < 40 && is_token(first);
            return Err(if method {
                Refused::TargetTooLong
            } else {
                Refused::Malformed
            });
        }
        if at + line.len() - start > limits.head_bytes {
            return Err(Refused::HeadTooLarge);
        }
        if end.is_none() {
            return Ok(None);
        }
        at += line.len();
        let line = line.strip_suffix(b"\r\n").ok_or(Refused::Malformed)?;
        match (lines.is_empty(), line.is_empty()) {
            (true, true) => {
                start = at;
                empty_lines += 1;
                if empty_lines > 4 {
                    return Err(Refused::Malformed);
                }
            }
            (true, false) => {
                said.http10 = request_line(line, limits)?.2;
                lines.push(line);
            }
            (false, false) => {
                if lines.len() > limits.headers {
                    return Err(Refused::HeadTooLarge);
                }
                said.note(&field(line)?)?;
                lines.push(line);
            }
            (false, true) => break,
        }
    }
    let body = said.body()?;
    let (method, target, http10) = request_line(lines[0], limits)?;
    let mut fields = Vec::new();
    for line in &lines[1..] {
        fields.push(field(line)?);
    }
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    let head = ModelRequest {
        method,
        target,
        http10,
        body,
        keep_alive: !said.close && (!http10 || said.keep_alive),
        expects_continue: said.expects && !http10 && body != Framing::Length(0),
        accepts_trailers: said.trailers,
        fields,
    };
    Ok(Some((head, at)))
}

/// What the fields say of framing and connection.
#[derive(Default)]
struct Said {
    http10: bool,
    lengths: Vec<u64>,
    chunked: u32,
    hosts: u32,
    close: bool,
    keep_alive: bool,
    expects: bool,
    trailers: bool,
}

impl Said {
    fn note(&mut self, (name, value): &Field) -> Result<(), Refused> {
        let dashed = name.replace('_', "-");
        if name.contains('_') && ["content-length", "transfer-encoding"].contains(&&*dashed) {
            return Err(Refused::Malformed);
        }
        match name.as_str() {
            "host" => {
                if !value.is_empty() && !is_host(value) {
                    return Err(Refused::Malformed);
                }
                self.hosts += 1;
            }
            "content-length" => {
                self.lengths.push(decimal(value).ok_or(Refused::Malformed)?);
                if self.lengths.len() > 1 {
                    return Err(Refused::Malformed);
                }
            }
            "transfer-encoding" => {
                self.chunked += 1;
                if !value.eq_ignore_ascii_case(b"chunked") || self.chunked > 1 {
                    return Err(Refused::UnknownCoding);
                }
            }
            "connection" => {
                self.close |= lists(value, "close");
                self.keep_alive |= lists(value, "keep-alive");
            }
            "expect" => self.expects |= lists(value, "100-continue"),
            "te" => self.trailers |= lists(value, "trailers"),
            _ => {}
        }
        Ok(())
    }

    fn body(&self) -> Result<Framing, Refused> {
        let chunked = self.chunked > 0;
        let wrong = (chunked && (!self.lengths.is_empty() || self.http10))
            || self.hosts > 1
            || (self.hosts == 0 && !self.http10);
        match (wrong, chunked) {
            (true, _) => Err(Refused::Malformed),
            (false, true) => Ok(Framing::Chunked),
            (false, false) => Ok(Framing::Length(self.lengths.first().copied().unwrap_or(0))),
        }
    }
}

/// Method, target in origin form, and whether the version is 1.0.
fn request_line(line: &[u8], limits: &HeadLimits) -> Result<(String, String, bool), Refused> {
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(Refused::Malformed);
    };
    if !is_token(method) || method.len() > 32 {
        return Err(Refused::Malformed);
    }
    if target.len() > limits.target_bytes {
        return Err(Refused::TargetTooLong);
    }
    let origin = origin_form(method, target).ok_or(Refused::Malformed)?;
    let method = String::from_utf8_lossy(method).into_owned();
    match version {
        b"HTTP/1.0" => Ok((method, origin, true)),
        b"HTTP/1.1" => Ok((method, origin, false)),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Refused::Version),
        _ => Err(Refused::Malformed),
    }
}

fn origin_form(method: &[u8], target: &[u8]) -> Option<String> {
    let (path, query) = match target.iter().position(|byte| *byte == b'?') {
        Some(at) => target.split_at(at),
        None => (target, &b""[..]),
    };
    let in_path =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-./:;=?@_~[]^`{|}\"".contains(byte);
    let in_query = |byte: &u8| in_path(byte) || *byte == b'\\';
    if !path.iter().all(in_path) || !query.iter().all(in_query) {
        return None;
    }
    let text = String::from_utf8(target.to_vec()).ok()?;
    // Only its own crate knows what is a URI to it.
    let is_uri = text.replace(['"', '`'], "_").parse::<Uri>().is_ok();
    if method == b"CONNECT" {
        let is_authority = !text.is_empty()
            && target
                .iter()
                .all(|byte| is_of_host(*byte) || b":[]".contains(byte));
        return (is_authority && is_uri).then_some(String::new());
    }
    if text.starts_with('/') || (text == "*" && method == b"OPTIONS") {
        return Some(text);
    }
    let lower = text.to_ascii_lowercase();
    let rest = lower
        .strip_prefix("http://")
        .or(lower.strip_prefix("https://"))?;
    let rest = &text[text.len() - rest.len()..];
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let slash = if path.starts_with('/') { "" } else { "/" };
    (is_host(authority.as_bytes()) && is_uri).then(|| format!("{slash}{path}"))
}

/// A line of a header or trailer section.
pub(super) fn field(line: &[u8]) -> Result<Field, Refused> {
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = line.split_at(colon.ok_or(Refused::Malformed)?);
    let value = &value[1..];
    if !is_token(name) || value.iter().any(|byte| is_control(*byte)) {
        return Err(Refused::Malformed);
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok((name, trimmed(value).to_vec()))
}

fn trimmed(value: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !b" \t".contains(byte);
    match (
        value.iter().position(is_text),
        value.iter().rposition(is_text),
    ) {
        (Some(first), Some(last)) => &value[first..=last],
        _ => b"",
    }
}

pub(super) fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

fn is_token(bytes: &[u8]) -> bool {
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(of_token)
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

/// RFC 3986 section 3.2, without userinfo.
fn is_host(value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value);
    let (is_name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (!name.is_empty() && name.bytes().all(is_of_host), port)
        }
    };
    let is_port = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    is_name && is_port
}

fn decimal(value: &[u8]) -> Option<u64> {
    let digits = value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

pub(super) fn lists(value: &[u8], element: &str) -> bool {
    let mut elements = value.split(|byte| *byte == b',');
    elements.any(|one| trimmed(one).eq_ignore_ascii_case(element.as_bytes()))
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ModelResponse {
    pub(super) status: u16,
    pub(super) fields: Vec<Field>,
    pub(super) body: Framing,
    pub(super) reusable: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ResponseRead {
    pub(super) interims: Vec<u16>,
    pub(super) head: Option<ModelResponse>,
    pub(super) refused: bool,
    /// Bytes behind the final head, or of one that is not whole.
    pub(super) rest: usize,
}

/// How strictly the model takes the first heads: what is laxer than the grammar may be taken or
/// refused, but what is taken has one meaning.
struct Heads<'a> {
    heads: Vec<(u16, bool, Vec<Field>)>,
    rest: &'a [u8],
    /// Whether everything is as RFC 9112 has it, with LF for CRLF.
    is_strict: bool,
}

/// Holds what was read of a response against the model.
pub(super) fn check_response(data: &[u8], to_head: bool, read: &ResponseRead) {
    let model = heads(data);
    if read.refused {
        let is_ambiguous = |head| framing(head, to_head).is_none();
        let allowed = !model.is_strict
            || model.heads.len() > 100
            || model.heads.iter().any(|(_, _, fields)| fields.len() > 256)
            || model.heads.iter().any(is_ambiguous)
            || data.len() > 128 * 1024;
        assert!(allowed, "a well-formed response was refused");
        return;
    }
    let statuses: Vec<_> = model.heads.iter().map(|head| head.0).collect();
    let mut read_statuses = read.interims.clone();
    read_statuses.extend(read.head.as_ref().map(|head| head.status));
    assert_eq!(statuses, read_statuses, "statuses");
    assert_eq!(model.rest.len(), read.rest, "what is behind the head");
    if let (Some(last), Some(head)) = (model.heads.last(), &read.head) {
        let meant = framing(last, to_head);
        assert_eq!(Some((head.body, head.reusable)), meant, "framing");
        let dropped = |(name, value): &&Field| {
            name == "transfer-encoding"
                || (name == "connection" && value.eq_ignore_ascii_case(b"keep-alive"))
        };
        let mut fields: Vec<_> = last
            .2
            .iter()
            .filter(|field| !dropped(field))
            .cloned()
            .collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(fields, head.fields, "fields");
    }
}

fn heads(data: &[u8]) -> Heads<'_> {
    let mut all = Heads {
        heads: Vec::new(),
        rest: data,
        is_strict: true,
    };
    loop {
        let mut lines: Vec<&[u8]> = Vec::new();
        let mut at = 0;
        loop {
            let Some(end) = all.rest[at..].iter().position(|byte| *byte == b'\n') else {
                // What a part of a head holds may be wrong or not.
                all.is_strict &= all.rest.first().is_none_or(|first| *first == b'H');
                return all;
            };
            let line = &all.rest[at..at + end];
            at += end + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() && !lines.is_empty() {
                break;
            }
            lines.push(line);
        }
        let (version, status) = status_line(lines[0], &mut all.is_strict);
        let fields = lines[1..].iter().map(|line| {
            let parsed = field(line);
            all.is_strict &= parsed.is_ok();
            parsed.unwrap_or_else(|_| lax_field(line))
        });
        let head = (status, version, fields.collect());
        all.heads.push(head);
        all.rest = &all.rest[at..];
        if !(100..200).contains(&status) || status == 101 {
            return all;
        }
    }
}

/// Whether the version is 1.0, and the status.
fn status_line(line: &[u8], is_strict: &mut bool) -> (bool, u16) {
    let (version, rest) = line.split_at(line.len().min(8));
    let status = rest.get(1..4).unwrap_or_default();
    let well_formed = [b"HTTP/1.0", b"HTTP/1.1"].contains(&version.try_into().unwrap_or(&[0; 8]))
        && rest.first() == Some(&b' ')
        && status.len() == 3
        && status.iter().all(u8::is_ascii_digit)
        && status.first() != Some(&b'0')
        && rest.get(4) == Some(&b' ')
        && !line.iter().any(|byte| is_control(*byte));
    *is_strict &= well_formed;
    let status = std::str::from_utf8(status).ok();
    let status = status.and_then(|status| status.parse().ok());
    (version == b"HTTP/1.0", status.unwrap_or(0))
}

/// A field with space around its name.
fn lax_field(line: &[u8]) -> Field {
    let mut parts = line.splitn(2, |byte| *byte == b':');
    let name = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let value = trimmed(parts.next().unwrap_or_default()).to_vec();
    (
        name.trim_end_matches([' ', '\t']).to_ascii_lowercase(),
        value,
    )
}

/// How the body of a response is framed, and whether the connection can be used again; `None` if
/// that can be read in two ways.
fn framing(head: &(u16, bool, Vec<Field>), to_head: bool) -> Option<(Framing, bool)> {
    let (status, http10, fields) = head;
    let values = |name: &'static str| fields.iter().filter(move |field| field.0 == name);
    let lengths: Vec<_> = values("content-length")
        .map(|(_, value)| decimal(value))
        .collect();
    let codings: Vec<_> = values("transfer-encoding").collect();
    let length = match lengths[..] {
        [] => None,
        [Some(length)] => Some(length),
        _ => return None,
    };
    let chunked = match codings[..] {
        [] => false,
        [(_, coding)] if coding.eq_ignore_ascii_case(b"chunked") => true,
        _ => return None,
    };
    if chunked && (length.is_some() || *http10) {
        return None;
    }
    if (100..200).contains(status) && *status != 101 {
        return Some((Framing::Length(0), true));
    }
    let says = |option| values("connection").any(|(_, value)| lists(value, option));
    let kept = !says("close") && (!*http10 || says("keep-alive"));
    Some(match status {
        101 => (Framing::Length(0), false),
        204 => (
            Framing::Length(0),
            kept && !chunked && length.unwrap_or(0) == 0,
        ),
        _ if to_head || *status == 304 => (Framing::Length(0), kept),
        _ if chunked => (Framing::Chunked, kept),
        _ => match length {
            Some(length) => (Framing::Length(length), kept),
            None => (Framing::Close, false),
        },
    })
}

/// Status and body of the first whole response of the proxy, behind interim ones, and the length of
/// it all.
pub(super) fn response(data: &[u8], to_head: bool) -> Option<((u16, Vec<u8>), usize)> {
    let model = heads(data);
    let last = model.heads.last()?;
    if (100..200).contains(&last.0) {
        return None;
    }
    assert!(model.is_strict, "what the proxy wrote is malformed");
    let (body, rest) = match framing(last, to_head).expect("a framing").0 {
        Framing::Length(length) => model.rest.split_at_checked(usize::try_from(length).ok()?)?,
        Framing::Chunked => {
            let body = chunked(model.rest, None);
            let rest = &model.rest[model.rest.len() - body.rest..];
            let whole = body.end == BodyEnd::Whole;
            return whole.then(|| ((last.0, body.data), data.len() - rest.len()));
        }
        Framing::Close => return None,
    };
    Some(((last.0, body.to_vec()), data.len() - rest.len()))
}
