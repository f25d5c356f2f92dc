//! Clients that close their side of the connection behind their last request, and read the answer
//! (`printf … | nc -N`).
//!
//! What such a client sends ends with its request; that of a client that has given up ends while it
//! waits. Nothing else tells them apart until something is written, since a closed socket answers
//! data only. So an end within 50 ms of the request means that the client waits for its
//! answer, and from then on only a reset, or an answer that cannot be written, tells that it has
//! gone. An end that comes later is that of a client that has gone, as is any reset.

use std::os::fd::AsFd;
use std::rc::Rc;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::net::Stream;
use crate::proxy::worker::client::ClientConnection;

/// Looks whether a client that has half closed its connection resets it. The socket itself cannot
/// tell any more: it is at its end, which is all that a reader gets to see.
#[derive(Debug)]
pub(crate) struct ResetWatch(JoinHandle<()>);

impl ResetWatch {
    /// Begins to look; `None` if the operating system has no room for that.
    pub(crate) fn new(stream: &Stream, client: &Rc<ClientConnection>) -> Option<ResetWatch> {
        let twin = stream.as_fd().try_clone_to_owned().ok()?;
        let socket = TcpStream::from_std(twin.into()).ok()?;
        let client = Rc::clone(client);
        Some(ResetWatch(tokio::task::spawn_local(async move {
            if socket.ready(Interest::ERROR).await.is_ok() {
                client.reset();
            }
        })))
    }
}

impl Drop for ResetWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}
