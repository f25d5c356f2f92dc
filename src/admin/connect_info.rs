//! Addresses of a connection.

use std::net::SocketAddr;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectInfo {
    /// Who connected.
    pub(super) peer: SocketAddr,
    /// The address that was connected to.
    pub(super) local: SocketAddr,
}
