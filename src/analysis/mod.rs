//! Is the canary worse? The statistics of a release, as a pure library: counts in, verdicts with
//! evidence out.
//!
//! Everything rests on one fact: for each request the proxy drew the arm itself, with a chance that
//! was fixed before. While the canary is no worse, the arm cannot be told from the outcome,
//! whatever load, drift, burst or outage both arms share. Each test is a bet against that; its
//! wealth cannot grow on average, so that however often it is looked at, the chance that it ever
//! reaches `1/alpha` is at most `alpha`.
//!
//! A [`Judge`] is fed [`Cohort`]s and asked for a [`Verdict`]; [`Evidence`] is the numbers behind
//! it. A [`Budget`] bounds what users may see meanwhile. [`replay`] judges recorded cohorts again.
//!
//! It refuses to know the time, to draw numbers, to log, to read or write anything, and to change
//! its mind about margins once a release runs.

mod aborts;
mod advance;
mod baseline;
mod bins;
mod budget;
mod cohort;
mod confidence;
mod decaying_histogram;
mod error;
mod evidence;
mod evidence_log;
mod forecast;
mod full_weight;
mod judge;
mod latency;
mod latency_advance;
mod math;
mod maturity;
mod options;
mod recent;
pub mod replay;
mod report;
mod sample_ratio;
mod slo;
mod step;
#[cfg(test)]
mod tests;
pub mod text;
mod units;
mod wealth;

pub use aborts::AbortCounts;
pub use budget::{Budget, PendingCohort};
pub use cohort::{ArmCounts, Cohort, Counts};
pub use confidence::Interval;
pub use evidence::{Behind, Evidence, LatencyBins, ObjectiveEvidence};
pub use evidence_log::Segment;
pub use forecast::{latency_requests_to_advance, requests_to_advance, requests_to_detect};
pub use judge::{Cause, Judge, Verdict, WaitReason};
pub use maturity::landmark;
pub use options::{ErrorRateMargin, LatencyMargin, Objective, Options, Slo};
pub use step::{Inconclusive, StepConditions, StepWeights};
pub use units::{Entered, Matured, Repeats, Row, Unit, UnitCounts, Units};
