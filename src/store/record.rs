//! The records that are kept.

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
    /// Grows by one with each accepted change.
    #[serde(skip)]
    pub revision: u64,
    /// Upstream to weight.
    pub weights: BTreeMap<String, Weight>,
    /// The upstream that last held 100 percent.
    pub baseline: String,
    /// The baseline before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_baseline: Option<String>,
    /// Grows by one whenever the weights leave a state in which one upstream held all; salts the
    /// split.
    pub generation: u64,
    /// How many releases it has had; the next is numbered one more.
    #[serde(default)]
    pub releases: u64,
    /// Builds whose release was rolled back, and how often that was tried.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attempts: BTreeMap<String, u32>,
    /// When these weights were asked for (RFC 3339).
    pub since: String,
    /// Why, as given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A release, as it is to be found after a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleaseRecord {
    /// Its identity.
    pub id: String,
    /// The service.
    pub service: String,
    /// Counts the releases of the service, from 1.
    pub number: u64,
    /// Whether nothing follows any more.
    pub ended: bool,
    /// The rest, which the store does not read.
    pub state: Value,
}

/// One transaction: new states of services and releases, and the journal entry that says why.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangeRecord {
    /// The services that change, as they are to be.
    pub services: Vec<ServiceRecord>,
    /// The releases that begin or change, as they are to be.
    pub releases: Vec<ReleaseRecord>,
    /// The journal entry.
    pub entry: NewJournalEntry,
    /// The answer to whoever asked for it, if they may repeat that: what they get when they do
    /// after a restart.
    pub answer: Option<KeptAnswer>,
    /// Whether the change is in effect already (it moves traffic towards the baseline). Such a
    /// change stays if its write was reported as failed and yet turns up on disk; any other is
    /// then undone.
    pub in_effect: bool,
}

/// A journal entry before it has its place.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJournalEntry {
    /// When (RFC 3339).
    pub at: String,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// Which service, if one.
    pub service: Option<String>,
    /// Why, as given.
    pub reason: Option<String>,
    /// The state before.
    pub before: Value,
    /// The state after.
    pub after: Value,
}

/// A journal entry in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalEntry {
    /// Grows by one with each entry.
    pub sequence: u64,
    /// What it says.
    pub entry: NewJournalEntry,
    /// SHA-256 over the previous entry's hash and this entry, in hexadecimal.
    pub hash: String,
}

/// A change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The sequence number of its journal entry.
    pub sequence: u64,
    /// Whether it survives the process.
    pub durable: bool,
}

/// A piece of what is known of a release under way, which is written when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasePart {
    /// What it is of.
    pub kind: u8,
    /// Which of that kind.
    pub number: u32,
    /// What it says, which the store does not read; `None` takes it away.
    pub state: Option<Vec<u8>>,
}

/// What the store held at the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadedState {
    /// By name, also of services that the configuration no longer has.
    pub services: Vec<ServiceRecord>,
    /// Those under way, and the last that ended of each service; by service and number.
    pub releases: Vec<ReleaseRecord>,
    /// The last checkpoint of each release under way that has one, by its identity.
    pub checkpoints: BTreeMap<String, Value>,
    /// Answers to writes that may be repeated, the oldest first.
    pub answers: Vec<KeptAnswer>,
    /// The parts of those checkpoints, by kind and number.
    pub parts: BTreeMap<String, Vec<ReleasePart>>,
}
