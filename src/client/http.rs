//! HTTP client of the admin API: one connection for each call, bounded in time and size. The event
//! stream has a connection of its own.
//!
//! Plain HTTP/1.1 only, without keep-alive, redirects or retries: a person or a pipeline decides
//! whether to repeat a change.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::model::api;

/// Timeout for the TCP connection; an admin address is usually on the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout for a whole call: longer than the API's own deadline, so that its response arrives.
const CALL_TIMEOUT: Duration = Duration::from_secs(35);
/// The largest response that is read; thousands of services fit.
const RESPONSE_BYTES_MAX: usize = 32 * 1024 * 1024;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The admin address is not a valid URL.
    #[error("{0:?} is not a valid admin address; expected a URL such as http://127.0.0.1:9900")]
    Address(String),
    /// The token is no valid header value.
    #[error("the token is empty or contains characters that are invalid in a header")]
    Token,
    /// The connection failed or broke.
    #[error("the admin API at {address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    /// No response before the timeout.
    #[error("the admin API at {address} did not respond within {} s", seconds.as_secs())]
    Timeout { address: String, seconds: Duration },
    /// The proxy rejected the call with a problem document.
    #[error("{}", problem_message(.0))]
    Problem(Box<api::Problem>),
    /// The response is not one of this API.
    #[error("unexpected response from {address}, which is not a Weighbridge admin API: {reason}")]
    Foreign { address: String, reason: String },
}

impl Error {
    /// Whether the error may be temporary: a restart of the proxy, or overload.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Timeout { .. } => true,
            Error::Problem(problem) => matches!(problem.status, 429 | 500 | 503 | 504),
            Error::Address(_) | Error::Token | Error::Foreign { .. } => false,
        }
    }
}

fn problem_message(problem: &api::Problem) -> String {
    match (problem.detail.is_empty(), problem.title.is_empty()) {
        (false, _) => problem.detail.clone(),
        (true, false) => problem.title.clone(),
        (true, true) => format!("the admin API responded with {}", problem.status),
    }
}

/// A client of one admin address.
#[derive(Clone, Debug)]
pub(crate) struct AdminClient {
    host: String,
    port: u16,
    /// Path prefix of the API, if it is served under one.
    prefix: String,
    token: Option<HeaderValue>,
}

/// A response of the API: the parsed value, and the JSON as received, with fields that this client
/// does not know.
#[derive(Debug)]
pub(crate) struct ApiResponse<T> {
    pub(crate) value: T,
    pub(crate) json: Value,
    /// One line about the call, for `--verbose`.
    pub(crate) trace: String,
}

impl AdminClient {
    /// Creates a client of the API at `address`, a URL whose scheme may be omitted.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] or [`Error::Token`].
    pub(crate) fn new(address: &str, token: Option<&str>) -> Result<AdminClient, Error> {
        let wrong = || Error::Address(address.to_owned());
        let uri: Uri = if address.contains("://") {
            address.parse()
        } else {
            format!("http://{address}").parse()
        }
        .map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") || uri.query().is_some() {
            return Err(wrong());
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(wrong)?;
        Ok(AdminClient {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            token: token.map(bearer).transpose()?,
        })
    }

    /// Lists the services.
    pub(crate) async fn services(&self) -> Result<ApiResponse<api::ServiceList>, Error> {
        self.call(Method::GET, "/api/v1/services", None, None).await
    }

    /// One service.
    pub(crate) async fn service(&self, service: &str) -> Result<ApiResponse<api::Service>, Error> {
        self.call(Method::GET, &service_path(service, ""), None, None)
            .await
    }

    /// The weights of a service.
    pub(crate) async fn weights(
        &self,
        service: &str,
    ) -> Result<ApiResponse<api::WeightsResource>, Error> {
        self.call(Method::GET, &service_path(service, "/weights"), None, None)
            .await
    }

    /// Changes the weights of a service, if it is still at `revision`.
    pub(crate) async fn set_weights(
        &self,
        service: &str,
        update: &api::WeightsUpdate,
        revision: Option<u64>,
    ) -> Result<ApiResponse<api::Service>, Error> {
        let path = service_path(service, "/weights");
        self.call(Method::PUT, &path, Some(json(update)), revision)
            .await
    }

    /// Moves all traffic of a service back to its baseline.
    pub(crate) async fn roll_back(
        &self,
        service: &str,
        request: &api::RollbackRequest,
    ) -> Result<ApiResponse<api::Service>, Error> {
        let path = service_path(service, "/rollback");
        self.call(Method::POST, &path, Some(json(request)), None)
            .await
    }

    /// Starts a release of a service.
    pub(crate) async fn start_release(
        &self,
        service: &str,
        start: &api::ReleaseStart,
    ) -> Result<ApiResponse<api::ReleaseChange>, Error> {
        let path = service_path(service, "/releases");
        self.call(Method::POST, &path, Some(json(start)), None)
            .await
    }

    /// Sends a command to a release; `verb` is the last path segment.
    pub(crate) async fn command_release(
        &self,
        id: &str,
        verb: &str,
        command: &api::ReleaseCommand,
    ) -> Result<ApiResponse<api::ReleaseChange>, Error> {
        let path = release_path(id, &format!("/{verb}"));
        self.call(Method::POST, &path, Some(json(command)), None)
            .await
    }

    /// The releases of a service, newest first.
    pub(crate) async fn releases(
        &self,
        service: &str,
        limit: usize,
    ) -> Result<ApiResponse<api::ReleaseList>, Error> {
        let path = service_path(service, &format!("/releases?limit={limit}"));
        self.call(Method::GET, &path, None, None).await
    }

    /// One release.
    pub(crate) async fn release(&self, id: &str) -> Result<ApiResponse<api::Release>, Error> {
        self.call(Method::GET, &release_path(id, ""), None, None)
            .await
    }

    /// A page of the journal, newest first.
    pub(crate) async fn audit(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<ApiResponse<api::AuditPage>, Error> {
        let before = before.map_or_else(String::new, |before| format!("&before={before}"));
        let path = format!("/api/v1/audit?limit={limit}{before}");
        self.call(Method::GET, &path, None, None).await
    }

    /// Verifies the journal.
    pub(crate) async fn verify_audit(&self) -> Result<ApiResponse<api::AuditVerdict>, Error> {
        self.call(Method::GET, "/api/v1/audit/verify", None, None)
            .await
    }

    /// Forecasts a plan; without one, the service's own.
    pub(crate) async fn forecast(
        &self,
        service: &str,
        request: &api::PlanRequest,
    ) -> Result<ApiResponse<api::Forecast>, Error> {
        let path = service_path(service, "/plan");
        self.call(Method::POST, &path, Some(json(request)), None)
            .await
    }

    /// Opens the event stream of a service, after the event `last_id` if one is given. The reader
    /// has to set timeouts.
    pub(crate) async fn events(
        &self,
        service: &str,
        last_id: Option<u64>,
    ) -> Result<Incoming, Error> {
        let path = format!("/api/v1/events?service={}", escaped(service));
        let mut request = self.request(Method::GET, &path, None, None)?;
        let headers = request.headers_mut();
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("text/event-stream, application/problem+json"),
        );
        if let Some(id) = last_id {
            headers.insert(LAST_EVENT_ID, HeaderValue::from(id));
        }
        let opened = tokio::time::timeout(CALL_TIMEOUT, self.open(request)).await;
        let answer = opened.map_err(|_| self.timeout(CALL_TIMEOUT))??;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let (status, body) = self.whole(answer).await?;
        Err(self.problem(status, &body))
    }

    /// Maps a stream error to [`Error::Unreachable`].
    pub(crate) fn stream_result<T>(&self, result: Result<T, String>) -> Result<T, Error> {
        result.map_err(|reason| self.unreachable(reason))
    }

    /// The URL of a release's evidence page.
    pub(crate) fn evidence_page(&self, id: &str) -> String {
        format!(
            "{}{}{}",
            self.address(),
            self.prefix,
            release_path(id, "/evidence")
        )
    }

    /// Checks readiness, and returns the text of the response.
    pub(crate) async fn ready(&self) -> Result<(bool, String), Error> {
        let (status, body, _) = self.exchange(Method::GET, "/readyz", None, None).await?;
        Ok((
            status.is_success(),
            String::from_utf8_lossy(&body).trim().to_owned(),
        ))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        revision: Option<u64>,
    ) -> Result<ApiResponse<T>, Error> {
        let (status, body, trace) = self.exchange(method, path, body, revision).await?;
        if !status.is_success() {
            return Err(self.problem(status, &body));
        }
        let foreign = |error: serde_json::Error| self.foreign(error.to_string());
        let json: Value = serde_json::from_slice(&body).map_err(foreign)?;
        let value = T::deserialize(&json).map_err(foreign)?;
        Ok(ApiResponse { value, json, trace })
    }

    /// Sends one request and reads the whole response within [`CALL_TIMEOUT`].
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        revision: Option<u64>,
    ) -> Result<(StatusCode, Bytes, String), Error> {
        let started = Instant::now();
        let line = format!("{method} {}{}{path}", self.address(), self.prefix);
        let request = self.request(method, path, body, revision)?;
        let answer = tokio::time::timeout(CALL_TIMEOUT, self.send(request)).await;
        let (status, body) = answer.map_err(|_| self.timeout(CALL_TIMEOUT))??;
        let trace = format!(
            "{line}: {status} in {:.1} ms",
            started.elapsed().as_secs_f64() * 1e3
        );
        Ok((status, body, trace))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        revision: Option<u64>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(ACCEPT, "application/json, application/problem+json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(revision) = revision {
            request = request.header(IF_MATCH, format!("\"{revision}\""));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|_| Error::Address(format!("{}{path}", self.address())))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Error> {
        let answer = self.open(request).await?;
        self.whole(answer).await
    }

    /// Connects, sends `request` and reads the response head.
    async fn open(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, self.port)))
            .await
            .map_err(|_| {
                self.unreachable(format!(
                    "no connection within {} s",
                    CONNECT_TIMEOUT.as_secs()
                ))
            })?
            .map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(error))?;
        // Connection errors also surface in the request and its body.
        tokio::spawn(connection);
        sender
            .send_request(request)
            .await
            .map_err(|error| self.unreachable(error))
    }

    async fn whole(&self, answer: Response<Incoming>) -> Result<(StatusCode, Bytes), Error> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), RESPONSE_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| self.unreachable(error))?;
        Ok((status, body.to_bytes()))
    }

    fn address(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    fn unreachable(&self, reason: impl ToString) -> Error {
        Error::Unreachable {
            address: self.address(),
            reason: reason.to_string(),
        }
    }

    fn timeout(&self, seconds: Duration) -> Error {
        Error::Timeout {
            address: self.address(),
            seconds,
        }
    }

    fn foreign(&self, reason: String) -> Error {
        Error::Foreign {
            address: self.address(),
            reason,
        }
    }

    fn problem(&self, status: StatusCode, body: &[u8]) -> Error {
        match serde_json::from_slice::<api::Problem>(body) {
            Ok(problem) => Error::Problem(Box::new(problem)),
            Err(_) => self.foreign(format!("{status} without a problem document")),
        }
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let token = token.trim();
    if token.is_empty() {
        return Err(Error::Token);
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

fn json(value: &impl Serialize) -> Bytes {
    // Serialization cannot fail: plain structures with string keys and finite numbers.
    serde_json::to_vec(value)
        .map(Bytes::from)
        .unwrap_or_default()
}

/// The path of a service.
fn service_path(service: &str, rest: &str) -> String {
    format!("/api/v1/services/{}{rest}", escaped(service))
}

/// The path of a release.
fn release_path(id: &str, rest: &str) -> String {
    format!("/api/v1/releases/{}{rest}", escaped(id))
}

/// Percent-encodes a name for a path segment or query value. Declared names need no escaping, but
/// user input may.
fn escaped(name: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_is_a_url_with_optional_scheme() {
        let check = |address: &str| {
            let client = AdminClient::new(address, None).ok()?;
            Some(format!("{} {} {}", client.host, client.port, client.prefix))
        };
        assert_eq!(
            check("http://127.0.0.1:9900").as_deref(),
            Some("127.0.0.1 9900 ")
        );
        assert_eq!(check("127.0.0.1:9900").as_deref(), Some("127.0.0.1 9900 "));
        assert_eq!(check("localhost:9900/").as_deref(), Some("localhost 9900 "));
        assert_eq!(
            check("http://[::1]:9900/wb/").as_deref(),
            Some("[::1] 9900 /wb")
        );
        for wrong in [
            "https://127.0.0.1:9900",
            "http://",
            "",
            "ftp://a",
            "a b",
            "http://a?b",
        ] {
            assert_eq!(check(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_service_name_is_encoded_as_one_path_segment() {
        assert_eq!(
            service_path("shop-1.a", "/weights"),
            "/api/v1/services/shop-1.a/weights"
        );
        assert_eq!(
            service_path("a/b?c d", ""),
            "/api/v1/services/a%2Fb%3Fc%20d"
        );
    }

    #[test]
    fn a_token_that_is_no_valid_header_value_is_rejected() {
        assert!(bearer(" secret\n").unwrap().is_sensitive());
        assert!(matches!(bearer("\n"), Err(Error::Token)));
        assert!(matches!(bearer("a\u{1}b"), Err(Error::Token)));
    }
}
