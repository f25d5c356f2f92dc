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
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Options;
use super::connect_info::ConnectInfo;
use super::connections::{ConnectionLimits, ConnectionSlot, Connections};
use super::router::{self, RequestLimits};
use super::wire::{Arriving, Leaving, Watched};
use crate::control::Handle;

/// After an error to accept, such as no free file descriptor, the next try comes after so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// For each connection that may be served, so many more may be sending their first heads.
const HEADS_MORE: usize = 4;

/// After so many connections in a row, those that are there get their turn to be read.
const ACCEPT_BATCH: usize = 16;

/// A peer that takes nothing for so long is gone; without this, one that stalls would keep its
/// event stream for ever.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest head of a request, and what is held of an answer besides its body.
const BUFFER_BYTES: usize = 64 << 10;

/// Why the admin API is not served.
#[derive(Debug, thiserror::Error)]
pub enum AdminStartError {
    /// Anyone who reaches the address could move traffic.
    #[error(
        "the admin API refuses to listen on {0} without tokens, as anyone who reaches it could \
         move traffic; configure admin.tokens or admin.tokens_file, or use a loopback address \
         such as 127.0.0.1:9900"
    )]
    NeedsTokens(SocketAddr),
    /// The listener cannot be used.
    #[error("the admin listener cannot be used: {0}")]
    Listener(#[from] io::Error),
}

/// The admin API on `listener`, until `shutdown` is ready and its connections have finished.
///
/// # Errors
///
/// [`AdminStartError::NeedsTokens`] unless the listener is on a loopback address or `options` has
/// tokens.
pub fn serve<S: Future<Output = ()> + Send>(
    options: &Options,
    listener: TcpListener,
    handle: Handle,
    shutdown: S,
) -> Result<impl Future<Output = Result<(), AdminStartError>> + Send + use<S>, AdminStartError> {
    serve_within(
        RequestLimits::default(),
        options,
        listener,
        handle,
        shutdown,
    )
}

pub(super) fn serve_within<S: Future<Output = ()> + Send>(
    limits: RequestLimits,
    options: &Options,
    listener: TcpListener,
    handle: Handle,
    shutdown: S,
) -> Result<impl Future<Output = Result<(), AdminStartError>> + Send + use<S>, AdminStartError> {
    let address = listener.local_addr()?;
    if !address.ip().to_canonical().is_loopback() && options.tokens.is_empty() {
        return Err(AdminStartError::NeedsTokens(address));
    }
    listener.set_nonblocking(true)?;
    let stopping = CancellationToken::new();
    let server = Server {
        router: router::build(options, &limits, handle, stopping.clone()),
        connections: Arc::new(Connections::new(
            limits.connections,
            limits.connections * HEADS_MORE,
            ConnectionLimits {
                head: limits.header_timeout,
                idle: limits.idle_timeout,
                write: limits.write_timeout,
            },
        )),
        limits,
        stopping,
        tasks: TaskTracker::new(),
    };
    Ok(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        server.run(&listener, shutdown).await;
        Ok(())
    })
}

struct Server {
    router: Router,
    limits: RequestLimits,
    connections: Arc<Connections>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    async fn run(self, listener: &tokio::net::TcpListener, shutdown: impl Future<Output = ()>) {
        let connections = Arc::clone(&self.connections);
        let mut sweep = std::pin::pin!(connections.sweep());
        tokio::select! {
            () = self.accept(listener) => {}
            () = sweep.as_mut() => {}
            () = shutdown => {}
        }
        self.stopping.cancel();
        self.tasks.close();
        let finished = tokio::time::timeout(self.limits.stop_timeout, self.tasks.wait());
        tokio::select! {
            finished = finished => if finished.is_err() {
                tracing::warn!(left = self.tasks.len(), "admin connections did not finish in time");
            },
            () = sweep => {}
        }
    }

    async fn accept(&self, listener: &tokio::net::TcpListener) {
        // Ends only by being dropped.
        let mut accepted = 0_usize;
        loop {
            accepted = accepted.wrapping_add(1);
            if accepted.is_multiple_of(ACCEPT_BATCH) {
                tokio::task::yield_now().await;
            }
            match listener.accept().await {
                Ok((stream, peer)) => match self.connections.place(Instant::now()) {
                    Some(slot) => self.spawn(stream, peer, slot),
                    None => tracing::debug!(%peer, "an admin connection found no place"),
                },
                Err(error) => {
                    tracing::warn!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, peer: SocketAddr, place: ConnectionSlot) {
        let ends = match tune(&stream) {
            Ok(local) => ConnectInfo { peer, local },
            Err(error) => {
                return tracing::debug!(%error, %peer, "an admin connection was lost at once");
            }
        };
        let router = self.router.clone();
        let place = Arc::new(place);
        let slot = Arc::clone(&place);
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let (router, slot) = (router.clone(), Arc::clone(&slot));
            async move {
                let progress = Arc::clone(slot.progress());
                if !slot.begin().await {
                    return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
                }
                let arriving =
                    |body| axum::body::Body::new(Arriving::new(body, Arc::clone(&progress)));
                let mut request: Request = request.map(arriving);
                request.extensions_mut().insert(ends);
                let response = match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                Ok(response.map(|body| Leaving::new(body, progress)))
            }
        });
        let stream = Watched::new(stream, Arc::clone(place.progress()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Heads have their time from `Connections`, which knows more of them.
            .header_read_timeout(None)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = place.progress().closed() => return,
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        result = connection => result,
                        () = place.progress().closed() => return,
                    }
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, %peer, "an admin connection ended early");
            }
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
