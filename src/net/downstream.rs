//! What is known of an accepted connection before its first byte of HTTP.

use std::net::SocketAddr;

/// The scheme of the requests that come over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Cleartext.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As `X-Forwarded-Proto` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The peer of a connection, and what was agreed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downstream {
    /// Who connected.
    pub peer: SocketAddr,
    /// The address that was connected to; of a listener on all addresses, that one.
    pub local: SocketAddr,
    /// The scheme of its requests.
    pub scheme: Scheme,
    /// The name that the client asked for (SNI); `None` in cleartext.
    pub server_name: Option<Box<str>>,
    /// The protocol that was agreed on (ALPN); `None` in cleartext.
    pub alpn: Option<Box<[u8]>>,
    /// The client's own certificate, in DER; `None` in cleartext.
    pub client_certificate: Option<Box<[u8]>>,
}

impl Downstream {
    /// A connection in cleartext.
    pub fn cleartext(peer: SocketAddr, local: SocketAddr) -> Downstream {
        Downstream {
            peer,
            local,
            scheme: Scheme::Http,
            server_name: None,
            alpn: None,
            client_certificate: None,
        }
    }
}
