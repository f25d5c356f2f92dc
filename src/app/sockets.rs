//! The sockets that the program listens on, all bound before any part is started.

use std::net::SocketAddr;

use super::running::Error;
use crate::config::Config;
use crate::net::Sockets;
use crate::proxy::BoundListener;

/// The sockets of all listeners, and that of the admin API.
#[derive(Debug)]
pub(super) struct ListenerSockets {
    pub(super) listeners: Vec<BoundListener>,
    pub(super) admin: Sockets,
}

impl ListenerSockets {
    /// Binds them all.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] names the one that failed.
    pub(super) fn bind(config: &Config) -> Result<ListenerSockets, Error> {
        let bind = |name: String, address, count| {
            let failed = |error| Error::Bind {
                name,
                address,
                error,
            };
            Sockets::bind(address, count).map_err(failed)
        };
        let listeners: Result<_, Error> = config
            .listeners
            .iter()
            .map(|options| {
                let name = format!("listener {}", options.name);
                let sockets = bind(name, options.address, config.proxy.workers.get())?;
                let options = options.clone();
                Ok(BoundListener { options, sockets })
            })
            .collect();
        Ok(ListenerSockets {
            listeners: listeners?,
            admin: bind("the admin API".to_owned(), config.admin.address, 1)?,
        })
    }

    /// The address of the admin API, and those of the listeners in the order of the configuration.
    pub(super) fn addresses(&self) -> (SocketAddr, Vec<SocketAddr>) {
        let listeners = self.listeners.iter();
        let listeners = listeners.map(|listener| listener.sockets.address());
        (self.admin.address(), listeners.collect())
    }
}
