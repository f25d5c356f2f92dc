//! A receiver that remembers what it was told, and answers as it is to.

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

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Status(u16),
    /// The connection is closed without an answer.
    Close,
    /// Nothing ever comes.
    Never,
    /// 200, once the gate is opened.
    Gate,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
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
    seen: Mutex<Vec<Seen>>,
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
            seen: Mutex::default(),
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

    /// A webhook that leads here; `origin` is its address without the port.
    pub(super) fn webhook(&self, origin: &str) -> Webhook {
        let url = format!("{origin}:{}/hook?a=b", self.address.port());
        Webhook {
            // No test is to fail for a slow machine.
            timeout: super::DEADLINE,
            ..Webhook::new(url.parse().unwrap())
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many requests have arrived.
    pub(super) fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// The releases that it was told of, in that order.
    pub(super) fn ids(&self) -> Vec<String> {
        let id = |seen: &Seen| {
            let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
            body["release"]["id"].as_str().unwrap().to_owned()
        };
        self.seen().iter().map(id).collect()
    }

    pub(super) fn connections(&self) -> usize {
        *self.shared.connections.lock().unwrap()
    }

    /// Lets those go that wait at the gate.
    pub(super) fn open(&self) {
        self.shared.gate.cancel();
    }
}

async fn serve(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = hyper::service::service_fn(|request| answer(Arc::clone(&shared), request));
    // What becomes of the connection is up to the script.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Closed> {
    let (head, body) = request.into_parts();
    let seen = Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes(),
    };
    let number = {
        let mut all = shared.seen.lock().unwrap();
        all.push(seen);
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
        // More than anybody waits; the longest pause holds.
        response.headers_mut().insert("retry-after", 3600.into());
    }
    Ok(response)
}

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("closed as the script says")]
struct Closed;

/// A certificate for `localhost` that no authority has signed.
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

    /// Who trusts this one and no other.
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
