//! Listening sockets and their options.

mod error;
mod options;
mod socket;

pub(crate) use error::is_local;
pub use options::{ListenerLimits, ListenerOptions, ListenerTimeouts};
pub use socket::bind;
