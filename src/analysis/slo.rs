//! Absolute objectives: is the canary's rate of bad requests above a fixed limit?
//!
//! The baseline is tested in the same way. When both exceed the limit, the canary alone is not the
//! cause, and the release only waits. These tests are also the only defence against a canary that
//! degrades the baseline too, which no comparison can detect.

use serde::{Deserialize, Serialize};

use super::cohort::{ArmCounts, Counts};
use super::error::{ErrorTest, Margin, Pair};
use super::latency_advance::AnswerCounts;
use super::options::Slo;

/// The running test of one objective.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SloGuard {
    pub(crate) slo: Slo,
    pub(crate) canary: SloArm,
    pub(crate) baseline: SloArm,
    /// The baseline was approaching or above the limit too, since both were last well within it.
    shared: bool,
}

/// The result for the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SloFinding {
    Within,
    Beyond,
    BothBeyond,
}

/// One arm under test.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SloArm {
    test: ErrorTest,
    pub(crate) log_e: f64,
    pub(crate) counts: Counts,
}

impl SloGuard {
    pub(crate) fn new(slo: Slo) -> SloGuard {
        let limit = slo.limit();
        SloGuard {
            slo,
            canary: SloArm::new(limit),
            baseline: SloArm::new(limit),
            shared: false,
        }
    }

    pub(crate) fn score(&mut self, canary: &ArmCounts<'_>, baseline: &ArmCounts<'_>, limit: f64) {
        self.canary.score(self.slo, canary);
        self.baseline.score(self.slo, baseline);
        // Half of the evidence is enough to doubt that the canary alone is affected.
        if self.baseline.log_e >= 0.5 * limit {
            self.shared = true;
        } else if self.baseline.log_e <= 0.0 && self.canary.log_e <= 0.0 {
            self.shared = false;
        }
    }

    pub(crate) fn share(&mut self, k: u32) {
        self.canary.share(k);
        self.baseline.share(k);
    }

    pub(crate) fn finding(&self, limit: f64) -> SloFinding {
        match (self.canary.log_e >= limit, self.shared) {
            (false, _) => SloFinding::Within,
            (true, false) => SloFinding::Beyond,
            (true, true) => SloFinding::BothBeyond,
        }
    }
}

impl SloArm {
    pub(crate) fn new(limit: f64) -> SloArm {
        SloArm {
            test: ErrorTest::new(Margin::fixed(limit)),
            log_e: 0.0,
            counts: Counts::default(),
        }
    }

    pub(crate) fn share(&mut self, k: u32) {
        self.test.share(k);
    }

    pub(crate) fn score(&mut self, slo: Slo, arm: &ArmCounts<'_>) {
        let (requests, bad) = match slo {
            Slo::ErrorRate { .. } => (arm.requests, arm.distinct_failures()),
            Slo::Latency { below, .. } => {
                let Some(seen) = AnswerCounts::of(arm) else {
                    return;
                };
                let threshold = u64::try_from(below.as_micros()).unwrap_or(u64::MAX);
                (seen.observations(), seen.beyond(threshold))
            }
        };
        if requests == 0 {
            return;
        }
        self.counts.requests += requests;
        self.counts.failures += bad;
        // With ratio 0 the weight has no effect.
        self.test.score(0.0, Pair::of(requests, bad), 0);
        self.log_e = self.test.log_e();
    }
}
