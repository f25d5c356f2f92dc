//! What to do next with a release: a pure state machine over what is known, what is asked for, and
//! what time it is.
//!
//! A [`Plan`] says where a release goes and under which conditions; a [`Release`] says where it is,
//! and [`Release::next`] what follows from an [`Input`]; a [`Trial`] holds what is known of its
//! canary by its traffic. [`forecast`] tells what a plan costs before the first user is risked.
//!
//! It refuses to change a weight, to count a failure, to ask whether a canary answers, or to
//! remember anything outside its values: whoever owns live state commits a [`Transition`] and then
//! holds the release that it leads to.

mod command;
mod forecast;
mod freeze;
mod gate;
mod machine;
mod objectives;
mod plan;
mod state;

#[cfg(test)]
mod tests;
mod timeline;
mod trial;

pub(crate) use command::overriding;
pub use command::{Illegal, ReleaseAction, ReleaseCommand};
pub use forecast::{forecast, forecast_by_users};
pub use freeze::{FreezeWindow, Frozen};
pub use gate::Gate;
pub use machine::{Direction, Input, Transition};
pub use plan::{FastFollow, Plan, Preflight, Rescue, Smoke, Step};
pub use state::ReleaseState;
pub use timeline::{Timeline, TimelineMark};
pub use trial::{Finding, Trial};
