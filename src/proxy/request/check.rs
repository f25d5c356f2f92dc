//! What a request has to be before it is looked at further.
//!
//! The [grammar](crate::proxy::http1) has been held to in HTTP/1.1; what is left is what only the
//! parsed request tells, and HTTP/2, whose frames allow what HTTP/1 cannot carry.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

use crate::proxy::error::Error;
use crate::proxy::http1::grammar;
use crate::proxy::upstream::forwarded_headers;
use crate::proxy::worker::client::ClientConnection;
use crate::stats::Reason;

const fn bad(detail: &'static str) -> Error {
    Error::new(Reason::BadRequest, detail)
}

/// Checks a request's head, and brings its target into origin form with the host in `Host`.
pub(crate) fn request<B>(request: &mut Request<B>, client: &ClientConnection) -> Result<(), Error> {
    if *request.method() == Method::CONNECT {
        return Err(Error::new(
            Reason::NotImplemented,
            "CONNECT is not supported",
        ));
    }
    if request.version() == Version::HTTP_2 {
        http2(request, client)?;
    }
    origin_form(request)?;
    let limit = client.listener.options.limits.body_bytes;
    if limit > 0 && declared_length(request.headers()).is_some_and(|length| length > limit) {
        return Err(Error::new(
            Reason::BodyTooLarge,
            "the request's body is too large",
        ));
    }
    if forwarded_headers::is_looping(request.headers()) {
        return Err(Error::looping());
    }
    Ok(())
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn http2<B>(request: &mut Request<B>, client: &ClientConnection) -> Result<(), Error> {
    let uri = request.uri();
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    if target.len() > client.listener.options.limits.uri_bytes {
        return Err(Error::new(
            Reason::UriTooLong,
            "the request target is too long",
        ));
    }
    let star = target == "*" && *request.method() == Method::OPTIONS;
    if !(star || target.starts_with('/')) || !grammar::is_target(target.as_bytes()) {
        return Err(bad("the :path is malformed"));
    }
    let headers = request.headers();
    if headers.len() > client.listener.options.limits.headers {
        return Err(Error::new(
            Reason::HeadersTooLarge,
            "the header fields are too many",
        ));
    }
    if headers
        .keys()
        .any(|name| grammar::is_disguised(name.as_str().as_bytes()))
    {
        return Err(bad("a framing header spelled with an underscore"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => return Err(bad("a request has one Host")),
        (None, None, _) => return Err(bad("a request has a Host or an :authority")),
        (Some(authority), Some(host), None)
            if !host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err(bad("Host and :authority differ"));
        }
        (Some(authority), ..) if !grammar::host(authority.as_str().as_bytes()) => {
            return Err(bad("the :authority is malformed"));
        }
        (None, Some(host), None) if !grammar::host(host.as_bytes()) => {
            return Err(bad("the Host is malformed"));
        }
        _ => {}
    }
    Ok(())
}

/// A target in absolute form names the host, whatever `Host` says (RFC 9112 section 3.2.2).
fn origin_form<B>(request: &mut Request<B>) -> Result<(), Error> {
    let Some(authority) = request.uri().authority() else {
        return Ok(());
    };
    let host = HeaderValue::from_str(authority.as_str())
        .map_err(|_| bad("the request's host is malformed"))?;
    let target = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = Uri::from(target);
    Ok(())
}
