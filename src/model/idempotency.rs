//! Idempotency keys of writes, and the stored responses.

use serde::{Deserialize, Serialize};

/// The key of a write and the request that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The owner of the key: responses are not shared between callers.
    pub caller: String,
    /// The key, as given.
    pub key: String,
    /// The digest of the request, in hexadecimal.
    pub request: String,
}

/// The stored response to a write, for repeated requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// The write that it responds to.
    #[serde(flatten)]
    pub key: IdempotencyKey,
    /// The time, in milliseconds since 1970.
    pub at_ms: i64,
    /// The status.
    pub status: u16,
    /// The path of the created resource, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The service's revision after it.
    pub revision: u64,
    /// The body, JSON.
    pub body: String,
}
