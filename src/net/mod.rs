//! Sockets and the options of whatever listens on them.

mod options;
mod socket;

pub use options::{ListenerLimits, ListenerOptions, ListenerTimeouts};
pub use socket::bind;
