//! Sockets: listening ones and their options, and connections that were accepted from them.

mod acceptor;
mod downstream;
mod error;
mod options;
mod sockets;
mod stream;

pub use acceptor::Acceptor;
pub use downstream::{Downstream, Scheme};
pub(crate) use error::is_local;
pub use options::{ListenerLimits, ListenerOptions, ListenerTimeouts};
pub use sockets::Sockets;
pub use stream::Stream;
