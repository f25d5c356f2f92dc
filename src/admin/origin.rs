//! Protects the API against cross-site requests from the browser of an authorized user.
//!
//! A page of another site can make a browser send requests here, and by DNS rebinding even read the
//! responses as same-origin. So only known hosts are served, and only known origins are accepted.
//! Authentication is in [`super::auth`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use super::Options;
use super::connect_info::ConnectInfo;
use super::problem::{self, ProblemResponse};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Allowed hosts and origins.
#[derive(Debug)]
pub(super) struct OriginPolicy {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl OriginPolicy {
    /// Policy from `options`. The local address of the connection, loopback names and same-origin
    /// pages are always allowed.
    pub(super) fn new(options: &Options) -> OriginPolicy {
        let lower = |all: &[String]| all.iter().map(|one| one.to_ascii_lowercase()).collect();
        OriginPolicy {
            hosts: lower(&options.allowed_hosts),
            origins: lower(&options.allowed_origins),
        }
    }

    /// Value of `Host` if it is allowed.
    fn check_host(&self, request: &Request) -> Result<Option<String>, ProblemResponse> {
        let local = request
            .extensions()
            .get::<ConnectInfo>()
            .map(|info| info.local.ip().to_canonical());
        // The authority of the target overrides Host (RFC 9112, 3.2.2), so both must be allowed.
        if let Some(authority) = request.uri().authority() {
            self.check_authority(authority.as_str(), local)?;
        }
        let mut values = request.headers().get_all(header::HOST).iter();
        match (values.next(), values.next()) {
            (Some(host), None) => {
                let host = host
                    .to_str()
                    .map_err(|_| misdirected("Host"))?
                    .to_ascii_lowercase();
                self.check_authority(&host, local)?;
                Ok(Some(host))
            }
            // HTTP/1.0 has no Host; no browser still uses it, but simple probes do.
            (None, None) if request.version() == Version::HTTP_10 => Ok(None),
            (None, None) => Err(ProblemResponse::new(
                problem::BAD_REQUEST,
                "The request has no Host header.",
            )),
            (_, Some(_)) => Err(ProblemResponse::new(
                problem::BAD_REQUEST,
                "The request has more than one Host header.",
            )),
        }
    }

    fn check_authority(&self, text: &str, local: Option<IpAddr>) -> Result<(), ProblemResponse> {
        let authority: Authority = text.parse().map_err(|_| misdirected(text))?;
        if text.contains('@') {
            return Err(misdirected(text));
        }
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let literal = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        let is_allowed = literal
            .is_ok_and(|ip| ip.is_loopback() || Some(ip.to_canonical()) == local)
            || host == "localhost"
            || self
                .hosts
                .iter()
                .any(|allowed| *allowed == host || *allowed == text.to_ascii_lowercase());
        if is_allowed {
            Ok(())
        } else {
            Err(misdirected(text))
        }
    }

    /// Origin of an allowed cross-origin request; `None` for a same-origin request, an error for a
    /// refused one.
    fn check_origin(
        &self,
        method: &Method,
        headers: &HeaderMap,
        host: Option<&str>,
    ) -> Result<Option<HeaderValue>, ProblemResponse> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return check_fetch(method, headers).map(|()| None);
        };
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let scheme_less = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("https://"));
        if origins.next().is_some() {
            return Err(ProblemResponse::new(
                problem::BAD_REQUEST,
                "The request has more than one Origin header.",
            ));
        }
        if self.origins.contains(&text) {
            return Ok(Some(origin.clone()));
        }
        if scheme_less.is_some() && scheme_less == host {
            return check_fetch(method, headers).map(|()| None);
        }
        Err(ProblemResponse::plain(problem::CROSS_ORIGIN))
    }
}

/// Without a foreign `Origin`, `Sec-Fetch-*` decides: another site may link here (navigation by
/// GET), nothing else.
fn check_fetch(method: &Method, headers: &HeaderMap) -> Result<(), ProblemResponse> {
    let value = |name| headers.get(name).map(HeaderValue::as_bytes);
    let is_link = *method == Method::GET && value(SEC_FETCH_MODE) == Some(b"navigate");
    match value(SEC_FETCH_SITE) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) if is_link => Ok(()),
        Some(_) => Err(ProblemResponse::plain(problem::CROSS_ORIGIN)),
    }
}

fn misdirected(host: &str) -> ProblemResponse {
    ProblemResponse::new(
        problem::MISDIRECTED,
        format!(
            "The host {host:?} is not served. {}",
            problem::MISDIRECTED.detail
        ),
    )
}

/// Refuses requests that violate the policy; a page of an allowed origin may read the response.
pub(super) async fn check(
    State(policy): State<Arc<OriginPolicy>>,
    request: Request,
    next: Next,
) -> Response {
    let admitted = policy
        .check_host(&request)
        .and_then(|host| policy.check_origin(request.method(), request.headers(), host.as_deref()));
    match admitted {
        Err(problem) => problem.into_response(),
        Ok(None) => next.run(request).await,
        Ok(Some(origin)) if request.method() == Method::OPTIONS => {
            grant(StatusCode::NO_CONTENT.into_response(), origin)
        }
        Ok(Some(origin)) => grant(next.run(request).await, origin),
    }
}

/// Adds the CORS headers that let a page of `origin` read `response` and send the API's headers.
fn grant(mut response: Response, origin: HeaderValue) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    for (name, value) in [
        (header::VARY, "origin"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, PUT, POST"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, idempotency-key, if-match, if-none-match, \
             last-event-id, x-request-id",
        ),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "etag, idempotency-replayed, retry-after, x-request-id",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
