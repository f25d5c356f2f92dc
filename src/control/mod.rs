//! The control plane: the one place where weights change.
//!
//! [`Controller`] owns the live state of every service. It takes commands from a [`Handle`], what workers counted and
//! what health checkers saw; it publishes routing tables, keeps what happened in the store, and tells people by
//! [`Metrics`] and [`Events`]. It opens no socket, and no request passes through it.

mod answer;
mod audit;
mod board;
mod change;
mod collect;
mod controller;
mod events;
mod family;
mod handle;
mod metrics;
mod outbox;
mod release;
mod reload;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod view;

pub use board::Views;
pub use controller::{Controller, Links, Setup};
pub use events::Events;
pub use handle::{Applied, Command, Handle, Intent, Readiness, Refusal};
pub use metrics::{Metrics, WebhookResult};
pub use release::Preflighter;

// Its callers do not know the state machine.
pub use crate::release::ReleaseAction as ReleaseVerb;
