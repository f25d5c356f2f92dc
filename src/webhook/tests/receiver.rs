//! A receiver that records requests and responds by a script.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::model::Webhook;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Status(u16),
    /// The connection is closed without a response.
    Close,
    /// No response ever comes.
    Never,
    /// 200, once the gate is opened.
    Gate,
}

/// A received request.
#[derive(Clone, Debug)]
pub(super) struct ReceivedRequest {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

pub(super) struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// By the number of the request, from 0.
    script: Box<dyn Fn(usize) -> Answer + Send + Sync>,
    requests: Mutex<Vec<ReceivedRequest>>,
    connections: Mutex<usize>,
    gate: CancellationToken,
}

impl Receiver {
    pub(super) async fn start(
        script: impl Fn(usize) -> Answer + Send + Sync + 'static,
    ) -> Receiver {
        Receiver::run(None, Box::new(script)).await
    }

    pub(super) async fn start_tls(
        certificate: &Certificate,
        script: impl Fn(usize) -> Answer + Send + Sync + 'static,
    ) -> Receiver {
        Receiver::run(Some(certificate.acceptor()), Box::new(script)).await
    }

    async fn run(
        tls: Option<TlsAcceptor>,
        script: Box<dyn Fn(usize) -> Answer + Send + Sync>,
    ) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script,
            requests: Mutex::default(),
            connections: Mutex::default(),
            gate: CancellationToken::new(),
        });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *accepting.connections.lock().unwrap() += 1;
                let (shared, tls) = (Arc::clone(&accepting), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(shared, stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(shared, stream).await;
                            }
                        }
                    }
                });
            }
        });
        Receiver { address, shared }
    }

    /// A webhook for this receiver; `origin` is its URL without the port.
    pub(super) fn webhook(&self, origin: &str) -> Webhook {
        let url = format!("{origin}:{}/hook?a=b", self.address.port());
        Webhook {
            // No test may fail because the machine is slow.
            timeout: super::DEADLINE,
            ..Webhook::new(url.parse().unwrap())
        }
    }

    pub(super) fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Number of received requests.
    pub(super) fn count(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// The ids of the reported releases, in order.
    pub(super) fn ids(&self) -> Vec<String> {
        let id = |requests: &ReceivedRequest| {
            let body: serde_json::Value = serde_json::from_slice(&requests.body).unwrap();
            body["release"]["id"].as_str().unwrap().to_owned()
        };
        self.requests().iter().map(id).collect()
    }

    pub(super) fn connections(&self) -> usize {
        *self.shared.connections.lock().unwrap()
    }

    /// Releases the requests that wait at the gate.
    pub(super) fn open(&self) {
        self.shared.gate.cancel();
    }
}

async fn serve(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = hyper::service::service_fn(|request| answer(Arc::clone(&shared), request));
    // The script decides how the connection ends.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Closed> {
    let (head, body) = request.into_parts();
    let requests = ReceivedRequest {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes(),
    };
    let number = {
        let mut all = shared.requests.lock().unwrap();
        all.push(requests);
        all.len() - 1
    };
    let status = match (shared.script)(number) {
        Answer::Status(status) => status,
        Answer::Close => return Err(Closed),
        Answer::Never => std::future::pending().await,
        Answer::Gate => {
            shared.gate.cancelled().await;
            200
        }
    };
    let mut response = Response::new(Full::new(Bytes::from_static(b"thanks")));
    *response.status_mut() = status.try_into().unwrap();
    if status == 429 {
        // More than any test waits; the longest pause applies.
        response.headers_mut().insert("retry-after", 3600.into());
    }
    Ok(response)
}

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("closed by the script")]
struct Closed;

/// A self-signed certificate for `localhost`.
pub(super) struct Certificate {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificate {
    pub(super) fn new() -> Certificate {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Certificate {
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
        }
    }

    /// Roots with this certificate only.
    pub(super) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}
