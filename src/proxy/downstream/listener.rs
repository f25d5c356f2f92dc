//! Accepting connections on one listener, in one worker.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::connection;
use crate::proxy::worker::client::ClientConnection;
use crate::proxy::worker::limits::ConnectionPermit;
use crate::proxy::worker::listener::Listener;
use crate::proxy::worker::state::Worker;

/// How long to wait after the operating system has refused a connection, mostly for want of file
/// descriptors: long enough not to spin, short enough that nobody notices once there are some
/// again.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until `stop`; then takes in what the kernel has already accepted, so that nobody who is
/// through is refused.
pub(crate) async fn run(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    socket: TcpListener,
    stop: CancellationToken,
) {
    // Connections inherit it. A socket that cannot be told to send at once still works.
    let _ = socket2::SockRef::from(&socket).set_tcp_nodelay(true);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &socket) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Another worker may have taken the last seat since; who is through waits here, for
                // as long as it may.
                let seat = tokio::select! {
                    biased;
                    seat = listener.seats.take() => seat,
                    () = stop.cancelled() => None,
                };
                admit(&worker, &listener, (stream, peer), seat);
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                let listener = &listener.options.name;
                tracing::warn!(listener, %error, "no connection could be accepted");
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
    }
    while let Some(Ok(accepted)) = futures_util::FutureExt::now_or_never(socket.accept()) {
        admit(&worker, &listener, accepted, None);
    }
}

async fn accept(listener: &Listener, socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    // While there is no seat, the kernel's queue holds who comes.
    listener.seats.wait().await;
    socket.accept().await
}

/// Errors of `accept` that concern the connection at hand, not the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

fn admit(
    worker: &Rc<Worker>,
    listener: &Rc<Listener>,
    (stream, peer): (TcpStream, SocketAddr),
    seat: ConnectionPermit,
) {
    let guard = Admitted::new(worker, seat);
    worker.wake();
    let client = Rc::new(ClientConnection::new(
        Rc::clone(worker),
        Rc::clone(listener),
        peer,
    ));
    tokio::task::spawn_local(async move {
        connection::serve(client, stream).await;
        drop(guard);
    });
}

/// Counts a connection until dropped.
struct Admitted {
    worker: Rc<Worker>,
    _seat: ConnectionPermit,
}

impl Admitted {
    fn new(worker: &Rc<Worker>, seat: ConnectionPermit) -> Admitted {
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Admitted {
            worker: Rc::clone(worker),
            _seat: seat,
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.worker.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
