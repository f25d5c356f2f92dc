//! Requests of the program's own to endpoints: health checks, and the preflight checks of a canary.
//! They run on the runtime of the control plane, and nothing of them is counted.

pub mod health;
mod preflight;
mod probe;

pub use preflight::{PreflightRequest, preflight};
