//! Listening sockets and their options.

mod options;
mod socket;

pub use options::{ListenerLimits, ListenerOptions, ListenerTimeouts};
pub use socket::bind;
