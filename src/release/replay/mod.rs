//! Recorded releases, judged again: JSON lines in, one result per run out (STATISTICS.md 7).
//! `Writer` writes the lines of a live release.
//!
//! This module only parses lines; the caller does the I/O. A caller that wants to stop at a line,
//! or to continue after an invalid one, uses [`Replay`]; [`answers`] is the same as an iterator.

mod event;
mod fields;
mod line;
mod plan;
mod run;
mod scan;
mod units;
mod write;

pub use line::{LineError, Replay, answers};
pub use plan::{BUDGET, RESCUED_BUDGET, RunPlan, RunStep};
pub use run::{HoldStatus, Mode, Run, RunOutcome, RunResult};
pub(crate) use write::Writer;
