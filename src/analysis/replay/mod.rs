//! Recorded releases, judged again: JSON lines in, one answer for each run out (STATISTICS.md 7).
//!
//! The caller reads and writes; here is only what a line means. A caller that wants to stop at a
//! line, or to go on behind one that is wrong, feeds a [`Replay`] itself; [`answers`] is the same
//! as an iterator.

mod fields;
mod line;
mod plan;
mod run;
mod scan;
mod units;

pub use line::{LineError, Replay, answers};
pub use plan::{BUDGET, RESCUED_BUDGET, RunPlan, RunStep};
pub use run::{HoldStatus, Mode, Run, RunOutcome, RunResult};
