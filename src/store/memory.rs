//! A store that ends with the process, for proxies that are configured without one.

use std::collections::VecDeque;

use super::{Backend, Change, Committed, Entry, StoreError, chain};

/// Entries that are kept; older ones are forgotten.
const ENTRIES_MAX: usize = 4096;

/// The journal in memory. Live state need not be kept: the controller has it, and nothing reads it back.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: VecDeque<Entry>,
}

impl Backend for Memory {
    fn durable(&self) -> bool {
        false
    }

    fn commit(&mut self, change: &Change) -> Result<Committed, StoreError> {
        let last = self.entries.back();
        let sequence = last.map_or(0, |entry| entry.sequence) + 1;
        let previous = last.map_or(chain::GENESIS, |entry| &entry.hash);
        let (before, after) = (change.entry.before.to_string(), change.entry.after.to_string());
        let hash = chain::hash(previous, sequence, &change.entry, &before, &after);
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            sequence,
            entry: change.entry.clone(),
            hash,
        });
        Ok(Committed {
            sequence,
            durable: false,
        })
    }

    fn audit(&mut self, before: Option<u64>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let earlier = |entry: &&Entry| before.is_none_or(|before| entry.sequence < before);
        Ok(self.entries.iter().rev().filter(earlier).take(limit).cloned().collect())
    }
}
