//! Gates: named approvals by people.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A named approval that a release needs before it advances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The name, unique in the plan.
    pub name: String,
    /// The number of approvals required, at least 1. From 2 on, the person who started the release
    /// does not count.
    pub approvals: usize,
    /// The token names that may approve. Empty means anyone with the role.
    pub by: Vec<String>,
    /// The lifetime of an approval; `None` means unlimited.
    pub expires: Option<Duration>,
}

/// One person's approval of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GateApproval {
    pub(crate) gate: String,
    pub(crate) by: String,
    pub(crate) unix_us: i64,
    pub(crate) reason: Option<String>,
}

impl Gate {
    /// Whether `person` may approve in a release that `starter` started, or the reason why not.
    pub(crate) fn admits(&self, person: &str, starter: &str) -> Result<(), String> {
        let Gate {
            name, approvals, ..
        } = self;
        if !(self.by.is_empty() || self.by.iter().any(|by| by == person)) {
            let listed = self.by.join(", ");
            return Err(format!(
                "gate `{name}` can be approved by {listed}, not by {person}"
            ));
        }
        if *approvals > 1 && person == starter {
            return Err(format!(
                "gate `{name}` needs {approvals} approvals by people other than {starter}, who \
                 started the release"
            ));
        }
        Ok(())
    }

    /// Whether an approval has not expired. A clock that is set back never makes it older.
    pub(crate) fn is_fresh(&self, approval: &GateApproval, now_us: i64) -> bool {
        let age_us = now_us
            .saturating_sub(approval.unix_us)
            .max(0)
            .unsigned_abs();
        self.expires
            .is_none_or(|expires| u128::from(age_us) <= expires.as_micros())
    }

    /// The number of valid approvals. Each person has at most one per gate.
    pub(crate) fn count_valid(&self, approvals_given: &[GateApproval], now_us: i64) -> usize {
        approvals_given
            .iter()
            .filter(|approval| approval.gate == self.name && self.is_fresh(approval, now_us))
            .count()
    }

    pub(crate) fn is_open(&self, approvals_given: &[GateApproval], now_us: i64) -> bool {
        self.count_valid(approvals_given, now_us) >= self.approvals
    }

    /// The missing approvals, as a message.
    pub(crate) fn missing(&self, approvals_given: &[GateApproval], now_us: i64) -> String {
        let Gate {
            name,
            approvals,
            by,
            ..
        } = self;
        let valid = self.count_valid(approvals_given, now_us);
        let who = if by.is_empty() {
            String::new()
        } else {
            format!(" by {}", by.join(", "))
        };
        format!("gate `{name}` has {valid} of {approvals} approvals{who}")
    }
}
