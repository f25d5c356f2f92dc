//! What to do next with a release: a pure state machine over evidence, commands and time.
//!
//! A [`Plan`] describes the steps of a release and their conditions; a [`ReleaseState`] is its
//! state, and [`ReleaseState::next`] computes what an [`Input`] changes; a [`Trial`] holds the
//! evidence from the canary's traffic. [`forecast`] estimates the cost of a plan before it starts.
//!
//! This module changes no weight, counts no failure, sends no preflight request and stores nothing
//! outside its values: the caller commits a [`Transition`] and keeps the release that it leads to.

mod command;
pub(crate) mod engine;
mod forecast;
mod freeze;
mod gate;
mod machine;
mod objectives;
mod plan;
pub mod replay;
mod state;

#[cfg(test)]
mod tests;
mod timeline;
mod trial;

pub(crate) use command::overriding;
pub use command::{Command, Illegal, ReleaseAction};
pub use forecast::{forecast, forecast_by_users};
pub use freeze::{FreezeWindow, Frozen};
pub use gate::Gate;
pub use machine::{Direction, Input, Transition};
pub use plan::{FastFollow, Plan, Preflight, Rescue, Smoke, Step};
pub use state::ReleaseState;
pub use timeline::{Timeline, TimelineMark};
pub use trial::{Finding, Trial};
