//! The control plane: the one place where weights change.

mod events;
mod handle;
mod metrics;

pub use events::Events;
pub use handle::{Applied, Command, Handle, Intent, Readiness, Refusal};
pub use metrics::Metrics;
