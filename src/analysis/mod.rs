//! Is the canary worse? The statistics of a release, as a pure library: counts in, verdicts with
//! evidence out.
//!
//! All tests rest on one fact: the proxy itself assigned each request to an arm, with a probability
//! fixed before. While the canary is no worse, the outcome does not depend on the arm, whatever
//! load, drift, burst or outage both arms share. Each test is a bet against that; its wealth does
//! not grow on average, so the probability that it ever reaches `1/alpha` is at most `alpha`,
//! however often it is checked (testing by betting: wealth, bets and cash are the terms of that
//! literature).
//!
//! A [`Judge`] receives [`Cohort`]s and returns a [`Verdict`]; [`Evidence`] has the numbers behind
//! it. A [`Budget`] bounds what users may see meanwhile.
//!
//! This module reads no clock, uses no randomness, does no I/O or logging, and changes no margin
//! once a release runs.

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
mod report;
mod sample_ratio;
mod slo;
mod step;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod units;
mod wealth;

pub use aborts::AbortCounts;
pub use budget::{Budget, PendingCohort};
pub use cohort::{ArmCounts, Cohort, Counts};
pub use confidence::Interval;
pub use evidence::{Behind, Evidence, LatencyBins, ObjectiveEvidence};
pub use evidence_log::Segment;
pub use forecast::{latency_requests_to_advance, requests_to_advance, requests_to_detect};
pub use full_weight::FullWeightEvidence;
pub use judge::{Cause, Judge, Verdict, WaitReason};
pub use maturity::landmark;
pub use options::{ErrorRateMargin, LatencyMargin, Objective, ObjectiveDescriptor, Options, Slo};
pub use step::{Inconclusive, StepConditions, StepWeights};
pub use units::{Entered, Matured, Repeats, Row, Unit, UnitCounts, Units};
