//! A store in memory, for proxies configured without one on disk.

use std::collections::VecDeque;

use serde_json::Value;

use super::{Backend, ChangeRecord, Committed, JournalEntry, ReleaseRecord, StoreError, chain};

/// Journal entries that are kept; older ones are dropped.
const ENTRIES_MAX: usize = 4096;

/// Releases and evidence bundles that are kept. The oldest ended release is dropped, so releases in
/// progress, one per service, stay.
const RELEASES_MAX: usize = 100;

/// Journal and releases in memory. Live state is not kept: the controller has it, and nothing reads
/// it back.
#[derive(Debug, Default)]
pub(super) struct Memory {
    entries: VecDeque<JournalEntry>,
    /// In the order in which they began.
    releases: Vec<ReleaseRecord>,
    /// In the order of their first write.
    evidence: VecDeque<(String, Value)>,
}

impl Memory {
    fn append(&mut self, change: &ChangeRecord) -> u64 {
        let last = self.entries.back();
        let sequence = last.map_or(0, |entry| entry.sequence) + 1;
        let previous = last.map_or(chain::GENESIS, |entry| &entry.hash);
        let (before, after) = (
            change.entry.before.to_string(),
            change.entry.after.to_string(),
        );
        let hash = chain::hash(
            previous,
            sequence,
            &chain::Text::of(&change.entry, &before, &after),
        );
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(JournalEntry {
            sequence,
            entry: change.entry.clone(),
            hash,
        });
        sequence
    }

    fn put(&mut self, release: &ReleaseRecord) {
        match self
            .releases
            .iter_mut()
            .find(|known| known.id == release.id)
        {
            Some(known) => *known = release.clone(),
            None => self.releases.push(release.clone()),
        }
        if self.releases.len() > RELEASES_MAX
            && let Some(oldest) = self.releases.iter().position(|release| release.ended)
        {
            self.releases.remove(oldest);
        }
    }
}

impl Backend for Memory {
    fn durable(&self) -> bool {
        false
    }

    fn commit(&mut self, change: &ChangeRecord) -> Result<Committed, StoreError> {
        let sequence = self.append(change);
        change.releases.iter().for_each(|release| self.put(release));
        Ok(Committed {
            sequence,
            durable: false,
        })
    }

    fn audit(
        &mut self,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        let earlier = |entry: &&JournalEntry| before.is_none_or(|before| entry.sequence < before);
        Ok(self
            .entries
            .iter()
            .rev()
            .filter(earlier)
            .take(limit)
            .cloned()
            .collect())
    }

    /// Not kept: checkpoints are read at a start only.
    fn checkpoint(&mut self, id: &str, _: &Value) -> Result<bool, StoreError> {
        Ok(self
            .releases
            .iter()
            .any(|release| release.id == id && !release.ended))
    }

    fn releases(&mut self, service: &str, limit: usize) -> Result<Vec<ReleaseRecord>, StoreError> {
        let newest = self.releases.iter().rev();
        let of_service = newest.filter(|release| release.service == service);
        Ok(of_service.take(limit).cloned().collect())
    }

    fn release(&mut self, id: &str) -> Result<Option<ReleaseRecord>, StoreError> {
        Ok(self
            .releases
            .iter()
            .find(|release| release.id == id)
            .cloned())
    }

    fn put_evidence(&mut self, release: &ReleaseRecord, bundle: &Value) -> Result<(), StoreError> {
        let id = &release.id;
        let row = self
            .releases
            .iter_mut()
            .find(|known| known.id == *id && known.ended);
        if let Some(row) = row {
            *row = release.clone();
        }
        if let Some((_, known)) = self.evidence.iter_mut().find(|(known, _)| known == id) {
            *known = bundle.clone();
            return Ok(());
        }
        if self.evidence.len() == RELEASES_MAX {
            self.evidence.pop_front();
        }
        self.evidence.push_back((id.clone(), bundle.clone()));
        Ok(())
    }

    fn evidence(&mut self, id: &str) -> Result<Option<Value>, StoreError> {
        let found = self.evidence.iter().find(|(known, _)| known == id);
        Ok(found.map(|(_, bundle)| bundle.clone()))
    }
}
