//! The stored records.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::model::{KeptAnswer, Weight};

/// The live state of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// The service.
    #[serde(skip)]
    pub name: String,
    /// Incremented with each accepted change.
    #[serde(skip)]
    pub revision: u64,
    /// Weights by upstream.
    pub weights: BTreeMap<String, Weight>,
    /// The upstream that last held 100 percent.
    pub baseline: String,
    /// The previous baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_baseline: Option<String>,
    /// Incremented whenever the weights leave a state in which one upstream held all; salts the
    /// split.
    pub generation: u64,
    /// Number of releases so far; the next release gets the next number.
    #[serde(default)]
    pub releases: u64,
    /// Builds whose release was rolled back, with the number of attempts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attempts: BTreeMap<String, u32>,
    /// When these weights were requested (RFC 3339).
    pub since: String,
    /// The reason given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A release as it is restored after a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleaseRecord {
    /// Its id.
    pub id: String,
    /// The service.
    pub service: String,
    /// Number of the release within its service, from 1.
    pub number: u64,
    /// Whether the release has ended.
    pub ended: bool,
    /// The rest, which is opaque to the store.
    pub state: Value,
}

/// One transaction: new states of services and releases, and the journal entry.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeRecord {
    /// The changed services, in their new state.
    pub services: Vec<ServiceRecord>,
    /// The new or changed releases, in their new state.
    pub releases: Vec<ReleaseRecord>,
    /// The journal entry.
    pub entry: NewJournalEntry,
    /// The response to an idempotent request, for clients that repeat it after a restart.
    pub answer: Option<KeptAnswer>,
    /// Whether the change is already in effect (it moves traffic towards the baseline). If its
    /// write is reported as failed but is found on disk, such a change is kept; any other is
    /// undone.
    pub in_effect: bool,
}

/// A journal entry without its sequence number.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJournalEntry {
    /// Time (RFC 3339).
    pub at: String,
    /// Who made the change.
    pub actor: String,
    /// The action.
    pub action: String,
    /// The service, if there is one.
    pub service: Option<String>,
    /// The reason given.
    pub reason: Option<String>,
    /// The state before.
    pub before: Value,
    /// The state after.
    pub after: Value,
}

/// A journal entry with its sequence number and hash.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalEntry {
    /// Incremented with each entry.
    pub sequence: u64,
    /// The content.
    pub entry: NewJournalEntry,
    /// SHA-256 over the previous entry's hash and this entry, in hexadecimal.
    pub hash: String,
}

/// A committed change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The sequence number of its journal entry.
    pub sequence: u64,
    /// Whether it survives the process.
    pub durable: bool,
}

/// A part of the checkpoint of a release, written when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasePart {
    /// The kind of data.
    pub kind: u8,
    /// The number within the kind.
    pub number: u32,
    /// The content, which is opaque to the store; `None` removes the part.
    pub state: Option<Vec<u8>>,
}

/// The content of the store at the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadedState {
    /// By name, including services that the configuration no longer has.
    pub services: Vec<ServiceRecord>,
    /// Releases in progress, and the last ended one of each service; by service and number.
    pub releases: Vec<ReleaseRecord>,
    /// The last checkpoint of each release in progress that has one, by release id.
    pub checkpoints: BTreeMap<String, Value>,
    /// Stored responses to idempotent writes, oldest first.
    pub answers: Vec<KeptAnswer>,
    /// The parts of those checkpoints, by kind and number.
    pub parts: BTreeMap<String, Vec<ReleasePart>>,
}
