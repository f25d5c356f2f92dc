//! The test harness: the program as a child process, scripted upstreams, clients that send raw
//! bytes, and waiting for conditions. Nothing here sleeps for a fixed time or measures speed.

mod http2;
mod metrics;
mod proxy;
mod upstream;
mod wait;
mod wire;

pub(crate) use http2::{Http2, block_on};
pub(crate) use metrics::Metrics;
pub(crate) use proxy::{Proxy, Reserved, shop};
pub(crate) use upstream::{Seen, Upstream};
pub(crate) use wait::{DEADLINE, Gate, eventually, settled, until, until_within};
pub(crate) use wire::{Client, Response, get};
