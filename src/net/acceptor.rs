//! Accepting connections, for data and admin listeners alike.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use futures_util::FutureExt;
use socket2::SockRef;

use super::downstream::Downstream;
use super::stream::Stream;

/// How long to wait after the operating system has refused a connection, mostly for want of file
/// descriptors: long enough not to spin, short enough that nobody notices once there are some
/// again.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket of one runtime.
#[derive(Debug)]
pub struct Acceptor {
    /// For the log.
    listener: String,
    local: SocketAddr,
    socket: tokio::net::TcpListener,
}

impl Acceptor {
    /// Accepts from `socket` in the runtime at hand; `listener` is its name in the log.
    ///
    /// # Errors
    ///
    /// The socket cannot be used.
    pub fn new(listener: &str, socket: TcpListener) -> io::Result<Acceptor> {
        socket.set_nonblocking(true)?;
        // Connections inherit it. A socket that cannot be told to send at once still works.
        let _ = SockRef::from(&socket).set_tcp_nodelay(true);
        Ok(Acceptor {
            listener: listener.to_owned(),
            local: socket.local_addr()?,
            socket: tokio::net::TcpListener::from_std(socket)?,
        })
    }

    /// The address that it listens on.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next connection. What goes wrong with one of them leads to the next; what goes wrong
    /// with the listener is logged, and tried again.
    pub async fn accept(&self) -> (Stream, Downstream) {
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => return self.accepted(stream, peer),
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    let listener = &*self.listener;
                    tracing::warn!(listener, %error, "no connection could be accepted");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
        }
    }

    /// A connection that is there already.
    pub fn accept_ready(&self) -> Option<(Stream, Downstream)> {
        let (stream, peer) = self.socket.accept().now_or_never()?.ok()?;
        Some(self.accepted(stream, peer))
    }

    fn accepted(&self, stream: tokio::net::TcpStream, peer: SocketAddr) -> (Stream, Downstream) {
        let downstream = Downstream::cleartext(peer, self.local);
        (Stream::Plain(stream), downstream)
    }
}

/// Errors of `accept` that concern the connection at hand, not the listener.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
