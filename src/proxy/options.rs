//! What the data plane is told to do, whatever the listener.

use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use crate::model::StickySecret;

/// Settings of all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Worker threads; by default one per core that the process may use.
    pub workers: NonZeroUsize,
    /// How the process ends.
    pub drain: DrainOptions,
    /// Connections to upstreams that wait for their next request.
    pub pool: PoolOptions,
    /// Requests under way at one time, over all workers; by default 0, which means as many as the
    /// listeners' connections carry. More are answered with 503.
    pub max_in_flight: usize,
    /// What sticky cookies are signed with; by default a secret that ends with the process.
    pub sticky_secret: Option<StickySecret>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            workers: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            drain: DrainOptions::default(),
            pool: PoolOptions::default(),
            max_in_flight: 0,
            sticky_secret: None,
        }
    }
}

/// What happens between the signal to end and the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainOptions {
    /// Goes on accepting for so long after readiness has begun to fail, for load balancers to
    /// notice; by default 0 s.
    pub delay: Duration,
    /// Leaves requests under way so much time to finish; by default 30 s.
    pub timeout: Duration,
}

impl Default for DrainOptions {
    fn default() -> Self {
        DrainOptions {
            delay: Duration::ZERO,
            timeout: Duration::from_secs(30),
        }
    }
}

/// Bounds on idle connections to upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// Idle connections that each worker keeps to each endpoint; by default 128.
    pub idle_per_endpoint: usize,
    /// How long a connection may stay idle; by default 4 s, below the 5 s after which common
    /// application servers close it from their side, so that a request rarely meets a
    /// connection that is just being closed.
    pub idle_timeout: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        PoolOptions {
            idle_per_endpoint: 128,
            idle_timeout: Duration::from_secs(4),
        }
    }
}
