//! Releases under control, from start to verdict.
//!
//! [`Controller::drive`] is the main path: events become cohorts, cohorts are judged, the state
//! machine gives the next transition, and the transition is applied: towards the baseline published
//! and then committed, away from it committed and then published.

mod command;
mod drive;
mod history;
mod lease;
mod persist;
mod protect;
mod read;
mod resume;
mod running;
mod start;
mod transition;
mod view;

pub(super) use drive::BackgroundJobs;
pub use drive::Preflighter;
pub(super) use running::RunningRelease;
pub(super) use transition::{AppliedTransition, FinishedRelease};
