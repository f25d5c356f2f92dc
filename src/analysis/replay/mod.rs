//! Recorded releases, judged again: JSON lines in, one answer for each run out (STATISTICS.md 7).
//!
//! The caller reads and writes; here is only what a line means.

mod line;
mod plan;
mod run;

pub use line::{LineError, Replay};
pub use plan::{BUDGET, Plan, PlanStep};
pub use run::{Answer, Mode, Outcome, Run};
