//! What a request has to be before it is looked at further.
//!
//! The [gate](super::gate) has seen every byte of HTTP/1; what is left is what only the parsed request tells, and
//! HTTP/2, whose frames allow what HTTP/1 cannot carry.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};

use super::client::Client;
use super::error::Error;
use super::gate_line;
use super::headers;
use crate::stats::Reason;

const fn bad(detail: &'static str) -> Error {
    Error::new(Reason::BadRequest, detail)
}

/// Checks a request's head, and brings its target into origin form with the host in `Host`.
pub(crate) fn request(head: &mut Parts, client: &Client) -> Result<(), Error> {
    if head.method == Method::CONNECT {
        return Err(Error::new(Reason::NotImplemented, "CONNECT is not supported"));
    }
    if head.version == Version::HTTP_2 {
        http2(head, client)?;
    }
    origin_form(head)?;
    let limit = client.listener.options.limits.body_bytes;
    if limit > 0 && declared_length(&head.headers).is_some_and(|length| length > limit) {
        return Err(Error::new(Reason::BodyTooLarge, "the request's body is too large"));
    }
    if head.headers.contains_key(http::header::VIA) && headers::is_looping(&head.headers) {
        return Err(Error::looping());
    }
    Ok(())
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn http2(head: &mut Parts, client: &Client) -> Result<(), Error> {
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if target.len() > client.listener.options.limits.uri_bytes {
        return Err(Error::new(Reason::UriTooLong, "the request target is too long"));
    }
    let star = target == "*" && head.method == Method::OPTIONS;
    if !(star || target.starts_with('/')) || !gate_line::is_target(target.as_bytes()) {
        return Err(bad("the :path is malformed"));
    }
    if head.headers.len() > client.listener.options.limits.headers {
        return Err(Error::new(Reason::HeadersTooLarge, "the header fields are too many"));
    }
    if head
        .headers
        .keys()
        .any(|name| gate_line::is_disguised(name.as_str().as_bytes()))
    {
        return Err(bad("a framing header spelled with an underscore"));
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    match (head.uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => return Err(bad("a request has one Host")),
        (None, None, _) => return Err(bad("a request has a Host or an :authority")),
        (Some(authority), Some(host), None) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            return Err(bad("Host and :authority differ"));
        }
        (Some(authority), ..) if !gate_line::host(authority.as_str().as_bytes()) => {
            return Err(bad("the :authority is malformed"));
        }
        (None, Some(host), None) if !gate_line::host(host.as_bytes()) => return Err(bad("the Host is malformed")),
        _ => {}
    }
    headers::join_cookies(&mut head.headers);
    Ok(())
}

/// A target in absolute form names the host, whatever `Host` says (RFC 9112 section 3.2.2).
fn origin_form(head: &mut Parts) -> Result<(), Error> {
    let Some(authority) = head.uri.authority() else {
        return Ok(());
    };
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad("the request's host is malformed"))?;
    head.headers.insert(HOST, host);
    let target = head
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    head.uri = Uri::from(target);
    Ok(())
}
