//! The control plane: the only part that changes weights.
//!
//! [`Controller`] owns the live state of every service. It takes commands from a [`Handle`],
//! counters from workers and health events from checkers; it publishes routing tables, commits
//! changes to the store, and reports through [`Metrics`] and events. It opens no socket, and no
//! request passes through it.

mod absent;
mod answer;
mod audit;
mod change;
mod collect;
mod commit_queue;
mod controller;
mod events;
mod family;
mod handle;
mod metrics;
mod published_views;
mod release;
mod reload;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod view;

pub use controller::{Controller, Links, Setup};
pub use events::EventStream;
pub use handle::{Applied, ControllerRequest, Handle, Intent, Readiness, Refusal};
pub use metrics::{Metrics, WebhookResult};
pub use published_views::Views;
pub use release::Preflighter;

// Re-exported so that callers need not know the state machine.
pub use crate::release::ReleaseAction as ReleaseVerb;
