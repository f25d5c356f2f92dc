//! Writes that may be repeated, and the answers to them.

use serde::{Deserialize, Serialize};

/// The key of a write, and which request it was given with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// Whose key it is: nobody gets another's answer.
    pub caller: String,
    /// The key, as given.
    pub key: String,
    /// The digest of the request, in hexadecimal.
    pub request: String,
}

/// The answer to a write that was made, as it is kept for those who repeat it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// What it answers.
    #[serde(flatten)]
    pub key: IdempotencyKey,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The status.
    pub status: u16,
    /// The path of what was made, if something was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The service's revision after it.
    pub revision: u64,
    /// The body, JSON.
    pub body: String,
}
