//! The data plane: connections, forwarding, pools, health.
//!
//! One worker per core, each a thread with a runtime of its own, its own sockets, its own
//! connections to upstreams and its own recorder; a request never crosses a thread. It sees routes
//! and weights, and of releases only their [handle](crate::routing::ReleaseHandle): what to note,
//! whom to rescue, and when to take the canary out.
//!
//! HTTP/1.1 is spoken in both directions by code of this module, on one grammar (`http1`): with
//! clients by `connection`, with upstreams by `upstream`. HTTP/2 is spoken with clients by
//! hyper.

mod body;
mod check;
mod client;
mod connection;
mod deadline;
mod destination;
mod error;
mod exchange;
mod forward;
mod forwarded;
mod forwarded_headers;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gate_frames;
mod half_close;
mod handle;
mod headers;
pub mod health;
mod held;
mod http1;
mod interims;
mod limits;
mod listener;
mod load_shedding;
mod notice;
mod options;
mod pool;
mod preflight;
mod probe;
mod request_trial;
mod rescue;
mod revision_guard;
mod sample;
mod sticky;
mod target;
mod tick;
mod upstream;
mod worker;
mod workers;

pub use options::{DrainOptions, Options, PoolOptions};
pub use preflight::{PreflightRequest, preflight};
pub use workers::{BoundListener, Reports, Workers};
