//! Releases under control: what carries them from their start to their verdict.
//!
//! [`Controller::drive`] is the path: notes become cohorts, cohorts are judged, the release says what follows, and the
//! turn is taken: towards the baseline published and then committed, away from it committed and then published.

mod active;
mod chronicle;
mod cohorts;
mod command;
mod drive;
mod lease;
mod overdue;
mod persist;
mod protect;
mod read;
mod recording;
mod resume;
mod scored;
mod start;
mod turn;
mod view;

pub(super) use active::Active;
pub(super) use drive::Errands;
pub use drive::Preflighter;
pub(super) use turn::{Ended, Turn};
