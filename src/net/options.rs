//! The options of a listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

/// A listener: one address that accepts requests.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerOptions {
    /// Its name in metrics and logs; by default its address. Unique among all listeners.
    pub name: String,
    /// Its address; by default 0.0.0.0:8080.
    pub address: SocketAddr,
    /// Timeouts for clients.
    pub timeouts: ListenerTimeouts,
    /// Limits for clients.
    pub limits: ListenerLimits,
    /// Peers whose `X-Forwarded-*` and `X-Request-Id` are trusted; by default none.
    pub trusted_proxies: Vec<IpNet>,
}

impl ListenerOptions {
    /// A listener on `address`, named after it, with every default.
    pub fn on(address: SocketAddr) -> ListenerOptions {
        ListenerOptions {
            name: address.to_string(),
            address,
            timeouts: ListenerTimeouts::default(),
            limits: ListenerLimits::default(),
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for ListenerOptions {
    fn default() -> Self {
        ListenerOptions::on(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)))
    }
}

/// Timeouts for each part of an exchange with a client. Zero means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// From the first byte of a request to the end of its head, the whole head and not each byte;
    /// by default 10 s.
    pub header: Duration,
    /// Between two pieces of a request's body; by default 10 s.
    pub body_idle: Duration,
    /// Between two requests on one connection; by default 60 s.
    pub keep_alive: Duration,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        ListenerTimeouts {
            header: Duration::from_secs(10),
            body_idle: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
        }
    }
}

/// Limits for the requests of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Bytes of a request's head, request line included; by default 64 KiB. More is answered with
    /// 431.
    pub header_bytes: usize,
    /// Fields of a request's head; by default 100. More is answered with 431.
    pub headers: usize,
    /// Bytes of the request target; by default 16 KiB. More is answered with 414.
    pub uri_bytes: usize,
    /// Bytes of a request's body; by default 0, which means without limit, since bodies are
    /// streamed and never held. More is answered with 413.
    pub body_bytes: u64,
    /// Connections of this listener at one time, over all workers; by default 10,000. 0 means
    /// without limit. Further ones wait in the kernel's queue.
    pub connections: usize,
}

impl ListenerLimits {
    /// The longest request target that [`ListenerLimits::uri_bytes`] can ask for; the `http` crate
    /// takes none longer.
    pub const URI_BYTES_MAX: usize = 65_534;
}

impl Default for ListenerLimits {
    fn default() -> Self {
        ListenerLimits {
            header_bytes: 64 * 1024,
            headers: 100,
            uri_bytes: 16 * 1024,
            body_bytes: 0,
            connections: 10_000,
        }
    }
}
