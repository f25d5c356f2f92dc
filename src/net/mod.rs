//! Sockets and the options of whatever listens on them.

mod options;

pub use options::{Limits, ListenerOptions, ListenerTimeouts};
