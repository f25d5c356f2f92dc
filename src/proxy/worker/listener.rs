//! What a worker knows of one listener.

use std::cell::Cell;
use std::rc::Rc;

use super::limits::ConnectionLimit;
use crate::net::ListenerOptions;
use crate::proxy::http1::HeadLimits;

/// One listener, as one worker sees it.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) options: ListenerOptions,
    /// Its position in the configuration.
    pub(crate) index: u16,
    /// Its port, for `X-Forwarded-Port`.
    pub(crate) port: u16,
    /// Whether this worker has said, or need not say, that users may come by way of an undeclared
    /// proxy.
    pub(crate) doubted: Cell<bool>,
    /// Shared with the other workers.
    pub(crate) seats: ConnectionLimit,
}

impl Listener {
    pub(crate) fn new(
        options: ListenerOptions,
        index: u16,
        port: u16,
        seats: ConnectionLimit,
    ) -> Rc<Listener> {
        Rc::new(Listener {
            index,
            port,
            doubted: Cell::new(false),
            seats,
            options,
        })
    }

    /// What the head of a request of HTTP/1.1 may measure.
    pub(crate) fn head_limits(&self) -> HeadLimits {
        let limits = self.options.limits;
        HeadLimits {
            head_bytes: limits.header_bytes,
            headers: limits.headers,
            target_bytes: limits.uri_bytes,
        }
    }
}
