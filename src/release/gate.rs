//! Gates: named approvals by people.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A named approval that a release asks for before it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its name, which no other gate of the plan has.
    pub name: String,
    /// How many people must approve; at least 1. From 2 on, who started the release is not one of
    /// them.
    pub approvals: usize,
    /// Who may: names of tokens. Empty means anyone who may approve at all.
    pub by: Vec<String>,
    /// After this time an approval no longer counts; `None` keeps it for ever.
    pub expires: Option<Duration>,
}

/// One person's word for a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GateApproval {
    pub(crate) gate: String,
    pub(crate) by: String,
    pub(crate) unix_us: i64,
    pub(crate) reason: Option<String>,
}

impl Gate {
    /// Whether `person` counts here in a release that `starter` started, or why not.
    pub(crate) fn admits(&self, person: &str, starter: &str) -> Result<(), String> {
        let Gate {
            name, approvals, ..
        } = self;
        if !(self.by.is_empty() || self.by.iter().any(|by| by == person)) {
            let listed = self.by.join(", ");
            return Err(format!(
                "gate `{name}` is approved by {listed}, not by {person}"
            ));
        }
        if *approvals > 1 && person == starter {
            return Err(format!(
                "gate `{name}` asks for {approvals} people besides {starter}, who started the \
                 release"
            ));
        }
        Ok(())
    }

    /// Whether a word given at `unix_us` still counts. A clock that was set back makes it young,
    /// never older.
    pub(crate) fn is_fresh(&self, voice: &GateApproval, now_us: i64) -> bool {
        let age_us = now_us.saturating_sub(voice.unix_us).max(0).unsigned_abs();
        self.expires
            .is_none_or(|expires| u128::from(age_us) <= expires.as_micros())
    }

    /// How many people's words count now. Each person has at most one among the voices of a gate.
    pub(crate) fn heard(&self, voices: &[GateApproval], now_us: i64) -> usize {
        voices
            .iter()
            .filter(|voice| voice.gate == self.name && self.is_fresh(voice, now_us))
            .count()
    }

    pub(crate) fn is_open(&self, voices: &[GateApproval], now_us: i64) -> bool {
        self.heard(voices, now_us) >= self.approvals
    }

    /// What is still missing, for people.
    pub(crate) fn missing(&self, voices: &[GateApproval], now_us: i64) -> String {
        let Gate {
            name,
            approvals,
            by,
            ..
        } = self;
        let heard = self.heard(voices, now_us);
        let who = if by.is_empty() {
            String::new()
        } else {
            format!(" by {}", by.join(", "))
        };
        format!("gate `{name}` has {heard} of {approvals} approvals{who}")
    }
}
