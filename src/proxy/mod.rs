//! The data plane: connections, forwarding, pools, health.
//!
//! One worker per core, each a thread with a runtime of its own, its own sockets, its own
//! connections to upstreams and its own recorder; a request never crosses a thread. It sees routes
//! and weights, and of releases only their [handle](crate::routing::ReleaseHandle): what to note,
//! whom to rescue, and when to take the canary out.
//!
//! HTTP/1.1 is spoken in both directions by code of this module, on one grammar (`http1`): with
//! clients by `downstream`, with upstreams by `upstream`. HTTP/2 is spoken with clients by
//! `downstream` too, on the frames of `h2`.

mod deadline;
mod downstream;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod http1;
mod observe;
mod options;
mod request;
mod sticky;
mod upstream;
mod worker;
mod workers;

pub use options::{DrainOptions, Options, PoolOptions};
pub use worker::reports::Reports;
pub use workers::{BoundListener, Workers};
