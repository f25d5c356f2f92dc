//! Accepts connections to the admin API, a bounded number of them, and lets them finish at the end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Options;
use super::router::{self, Limits};
use crate::control::Handle;

/// After an error to accept, such as no free file descriptor, the next try comes after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer that takes nothing for so long is gone; without this, one that stalls would keep its event stream for ever.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the admin API is not served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Anyone who reaches the address could move traffic.
    #[error(
        "the admin API refuses to listen on {0} without tokens, as anyone who reaches it could move traffic; \
         configure admin.tokens or admin.tokens_file, or use a loopback address such as 127.0.0.1:9900"
    )]
    NeedsTokens(SocketAddr),
    /// The listener cannot be used.
    #[error("the admin listener cannot be used: {0}")]
    Listener(#[from] io::Error),
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// Who connected.
    pub(super) peer: SocketAddr,
    /// The address that was connected to.
    pub(super) local: SocketAddr,
}

/// The admin API on `listener`, until `shutdown` is ready and its connections have finished.
///
/// # Errors
///
/// [`StartError::NeedsTokens`] unless the listener is on a loopback address or `options` has tokens.
pub fn serve<S: Future<Output = ()> + Send>(
    options: &Options,
    listener: TcpListener,
    handle: Handle,
    shutdown: S,
) -> Result<impl Future<Output = Result<(), StartError>> + Send + use<S>, StartError> {
    serve_within(Limits::default(), options, listener, handle, shutdown)
}

pub(super) fn serve_within<S: Future<Output = ()> + Send>(
    limits: Limits,
    options: &Options,
    listener: TcpListener,
    handle: Handle,
    shutdown: S,
) -> Result<impl Future<Output = Result<(), StartError>> + Send + use<S>, StartError> {
    let address = listener.local_addr()?;
    if !address.ip().to_canonical().is_loopback() && options.tokens.is_empty() {
        return Err(StartError::NeedsTokens(address));
    }
    listener.set_nonblocking(true)?;
    let stopping = CancellationToken::new();
    let server = Server {
        router: router::build(options, &limits, handle, stopping.clone()),
        free: Arc::new(Semaphore::new(limits.connections)),
        limits,
        stopping,
        connections: TaskTracker::new(),
    };
    Ok(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        server.run(&listener, shutdown).await;
        Ok(())
    })
}

struct Server {
    router: Router,
    limits: Limits,
    free: Arc<Semaphore>,
    stopping: CancellationToken,
    connections: TaskTracker,
}

impl Server {
    async fn run(self, listener: &tokio::net::TcpListener, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = self.accept(listener) => {}
            () = shutdown => {}
        }
        self.stopping.cancel();
        self.connections.close();
        let finished = tokio::time::timeout(self.limits.stop_timeout, self.connections.wait()).await;
        if finished.is_err() {
            tracing::warn!(
                left = self.connections.len(),
                "admin connections did not finish in time"
            );
        }
    }

    async fn accept(&self, listener: &tokio::net::TcpListener) {
        // The semaphore is never closed, so the loop ends only by being dropped.
        while let Ok(permit) = Arc::clone(&self.free).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, peer)) => self.spawn(stream, peer, permit),
                Err(error) => {
                    tracing::warn!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let ends = match tune(&stream) {
            Ok(local) => Ends { peer, local },
            Err(error) => return tracing::debug!(%error, %peer, "an admin connection was lost at once"),
        };
        let router = self.router.clone();
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(ends);
            router.clone().oneshot(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let stopping = self.stopping.clone();
        self.connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, %peer, "an admin connection ended early");
            }
            drop(permit);
        });
    }
}

/// Sets what an admin connection needs; gives the address that was connected to.
fn tune(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PEER_TIMEOUT))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(PEER_TIMEOUT))?;
    stream.local_addr()
}
