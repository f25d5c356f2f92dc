//! The API over real sockets, with a fake controller.

mod controller;
mod play;
mod releases;
mod requests;
mod security;
mod streams;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::controller::TestController;
use super::router::RequestLimits;
use super::server::{AdminStartError, serve_within};
use super::{Options, Role, Token};

/// A running API.
struct Server {
    address: SocketAddr,
    controller: TestController,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AdminStartError>>,
    document: Value,
}

/// An answer, whole.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A request, as its first line, its headers and its body.
#[derive(Clone, Copy)]
struct Ask<'a>(&'a str, &'a [(&'a str, &'a str)], &'a str);

const JSON: (&str, &str) = ("content-type", "application/json");
const PUT: &str = "PUT /api/v1/services/shop/weights";
const ROLLBACK: &str = "POST /api/v1/services/shop/rollback";
const HALF: &str = r#"{"weights": {"blue": 50, "green": 50}}"#;

impl Server {
    async fn start() -> Server {
        Server::start_with(Options::default(), RequestLimits::default()).await
    }

    async fn start_with(options: Options, limits: RequestLimits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (handle, controller) = TestController::start();
        let stop = CancellationToken::new();
        let server = serve_within(
            limits,
            &options,
            listener,
            handle,
            stop.clone().cancelled_owned(),
        )
        .unwrap();
        let mut server = Server {
            address,
            controller,
            stop,
            task: tokio::spawn(server),
            document: Value::Null,
        };
        let reader = bearer("boss");
        let headers = [("authorization", reader.as_str())];
        server.document = server
            .send(Ask("GET /api/v1/openapi.json", &headers, ""))
            .await
            .json();
        server
    }

    /// An API for which `boss`, `paul`, `anna` and `vera` have tokens, which are their names.
    async fn with_tokens() -> Server {
        Server::start_with(options_with_tokens(), RequestLimits::default()).await
    }

    async fn open(&self, Ask(line, headers, body): Ask<'_>) -> http::Response<Incoming> {
        let (method, target) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(target);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header(header::HOST, self.address.to_string());
        }
        for (name, value) in headers.iter().filter(|(_, value)| *value != "-") {
            request = request.header(*name, *value);
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = request
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        sender.send_request(request).await.unwrap()
    }

    async fn send(&self, ask: Ask<'_>) -> Answer {
        let (parts, body) = self.open(ask).await.into_parts();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.collect().await.unwrap().to_bytes(),
        }
    }

    /// The answer to `ask`: it must have `status`, its body must contain `text`, and it must be as
    /// every answer is.
    async fn check(&self, ask: Ask<'_>, status: u16, text: &str) -> Answer {
        let answer = self.send(ask).await;
        let what = format!(
            "{} {:?} {:.200}: {} {}",
            ask.0,
            ask.1,
            ask.2,
            answer.status,
            answer.text()
        );
        assert_eq!(answer.status, status, "{what}");
        assert!(answer.text().contains(text), "{what}: no {text:?}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{what}");
        assert_eq!(answer.header("cache-control"), "no-store", "{what}");
        assert!(
            answer
                .header("content-security-policy")
                .contains("frame-ancestors 'none'"),
            "{what}"
        );
        assert!(!answer.header("x-request-id").is_empty(), "{what}");
        let is_probe = answer.header("content-type").starts_with("text/plain");
        if status >= 400 && !is_probe && !ask.0.starts_with("HEAD") {
            assert_eq!(
                answer.header("content-type"),
                "application/problem+json",
                "{what}"
            );
            let problem = answer.json();
            assert_eq!(problem["status"], status, "{what}");
            assert_eq!(
                problem["request_id"],
                answer.header("x-request-id"),
                "{what}"
            );
            for field in ["type", "title", "detail"] {
                assert!(
                    !problem[field].as_str().unwrap().is_empty(),
                    "{what}: {field}"
                );
            }
        }
        self.check_documented(ask.0, &answer, &what);
        answer
    }

    /// The document must know this status and content type for the call, if it knows the call.
    fn check_documented(&self, line: &str, answer: &Answer, what: &str) {
        let (method, target) = line.split_once(' ').unwrap();
        let path = target.split('?').next().unwrap();
        let paths = self.document["paths"].as_object().unwrap();
        let Some((_, item)) = paths.iter().find(|(template, _)| fits(template, path)) else {
            return assert!([400, 404, 421].contains(&answer.status), "{what}");
        };
        let Some(call) = item.get(method.to_lowercase()) else {
            return assert!(
                matches!(answer.status, 204 | 403 | 405) || method == "HEAD",
                "{what}"
            );
        };
        let response = &call["responses"][answer.status.to_string()];
        assert!(
            response.is_object(),
            "the document has no such status: {what}"
        );
        let kind = answer.header("content-type");
        let kinds = response["content"].as_object();
        assert!(
            kinds.map_or(kind.is_empty(), |kinds| kinds.contains_key(kind)),
            "the document has no such content type {kind:?}: {what}"
        );
    }

    async fn revision(&self) -> u64 {
        let anna = bearer("anna");
        let ask = Ask("GET /api/v1/services/shop", &[("authorization", &anna)], "");
        self.send(ask).await.json()["revision"].as_u64().unwrap()
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len()
        && template
            .iter()
            .zip(path)
            .all(|(t, p)| t.starts_with('{') || *t == p)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn options_with_tokens() -> Options {
    let token = |name: &str, role| Token {
        name: name.to_owned(),
        role,
        sha256: <sha2::Sha256 as sha2::Digest>::digest(name).into(),
    };
    Options {
        tokens: vec![
            token("vera", Role::View),
            token("anna", Role::Operate),
            token("paul", Role::Approve),
            token("boss", Role::Admin),
        ],
        ..Options::default()
    }
}

/// Shared by those who look at what the controller was asked.
type Seen<T> = Arc<std::sync::Mutex<T>>;
