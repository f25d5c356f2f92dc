//! One version of the demo's shop: a small HTTP server that can be told to fail.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Names the version that gave an answer.
pub(super) const VERSION_HEADER: &str = "x-demo-version";

/// An answer takes a time in this range, as one with a database behind it would.
const ANSWER_MS: std::ops::Range<u64> = 3..8;

/// A running version; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct DemoVersion {
    address: SocketAddr,
    failing: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl DemoVersion {
    /// Starts a version on a free port of the loopback interface.
    pub(super) async fn start(name: &'static str) -> io::Result<DemoVersion> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let failing = Arc::new(AtomicBool::new(false));
        let accepting = tokio::spawn(accept(listener, name, Arc::clone(&failing)));
        Ok(DemoVersion {
            address,
            failing,
            accepting,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes every answer from now on a failure, or good again.
    pub(super) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }
}

impl Drop for DemoVersion {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, name: &'static str, failing: Arc<AtomicBool>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, name, Arc::clone(&failing)))),
            // Out of descriptors, most likely: some are free again soon.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve(stream: TcpStream, name: &'static str, failing: Arc<AtomicBool>) {
    // An answer that waits for an acknowledgement would be measured as slow.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let failing = Arc::clone(&failing);
        async move { Ok::<_, Infallible>(answer(&request, name, &failing).await) }
    });
    // A connection that breaks is its client's business.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A good answer, or a failure. `POST /demo/fail` and `/demo/heal` choose which from then on.
async fn answer(
    request: &Request<Incoming>,
    name: &'static str,
    failing: &AtomicBool,
) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/demo/fail") => failing.store(true, Ordering::Relaxed),
        (&Method::POST, "/demo/heal") => failing.store(false, Ordering::Relaxed),
        _ => tokio::time::sleep(Duration::from_millis(fastrand::u64(ANSWER_MS))).await,
    }
    let fails = failing.load(Ordering::Relaxed);
    let text = if fails {
        format!("{{\"version\":\"{name}\",\"error\":\"out of order\"}}\n")
    } else {
        format!("{{\"version\":\"{name}\"}}\n")
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    if fails && request.method() != Method::POST {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    let headers = response.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(VERSION_HEADER, HeaderValue::from_static(name));
    response
}
