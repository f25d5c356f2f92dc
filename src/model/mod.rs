//! The declared configuration as plain validated data, and the resources of the admin API.
//!
//! Nothing here runs: no sockets, no clocks, no files. A value of these types has already been
//! checked (by [`Weights::new`], or by the configuration that built it), so the rest of the program
//! need not check again.

pub mod api;
mod evidence;
pub(crate) mod hex;
mod idempotency;
pub(crate) mod redact;
mod release;
mod service;
mod sticky;
mod webhook;
mod weight;
mod words;

pub use idempotency::{IdempotencyKey, KeptAnswer};
pub use service::{
    EndpointSpec, HeaderMatch, Health, HostPattern, Name, PathPrefix, Protocol, Route, ServiceSpec,
    Tester, Timeouts, UpstreamSpec, probe_host,
};
pub use sticky::{SameSite, Secure, Sticky, StickyCookie, StickySecret};
pub use webhook::{Webhook, WebhookFormat};
pub use weight::{Weight, WeightError, Weights, WeightsError};
pub(crate) use words::{one_of, similar};
