//! A disk in memory that outlives the process and fails on demand.

use std::collections::BTreeMap;

use super::*;
use crate::store::{ReleaseRecord, ServiceRecord};

/// The disk. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    services: BTreeMap<String, ServiceRecord>,
    releases: BTreeMap<String, ReleaseRecord>,
    checkpoints: BTreeMap<String, serde_json::Value>,
    entries: u64,
    full: bool,
}

impl Disk {
    /// Makes all writes fail, or work again.
    pub(super) fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    /// Whether a process that starts on it would resume a release.
    pub(super) fn is_under_way(&self) -> bool {
        self.0
            .lock()
            .unwrap()
            .releases
            .values()
            .any(|release| !release.ended)
    }

    /// What a process that starts on it reads.
    pub(super) fn load(&self) -> (Store, LoadedState) {
        let kept = self.0.lock().unwrap();
        let loaded = LoadedState {
            services: kept.services.values().cloned().collect(),
            releases: kept.releases.values().cloned().collect(),
            checkpoints: kept.checkpoints.clone(),
            ..LoadedState::default()
        };
        drop(kept);
        (Store::over(Box::new(self.clone())).unwrap(), loaded)
    }

    fn writable(&self) -> Result<std::sync::MutexGuard<'_, Kept>, StoreError> {
        let kept = self.0.lock().unwrap();
        if kept.full {
            return Err(StoreError::Write("database or disk is full".to_owned()));
        }
        Ok(kept)
    }
}

impl Backend for Disk {
    fn durable(&self) -> bool {
        true
    }

    fn commit(&mut self, change: &ChangeRecord) -> Result<Committed, StoreError> {
        let mut kept = self.writable()?;
        for service in &change.services {
            kept.services.insert(service.name.clone(), service.clone());
        }
        for release in &change.releases {
            kept.releases.insert(release.id.clone(), release.clone());
        }
        kept.entries += 1;
        let sequence = kept.entries;
        Ok(Committed {
            sequence,
            durable: true,
        })
    }

    fn audit(&mut self, _: Option<u64>, _: usize) -> Result<Vec<JournalEntry>, StoreError> {
        Ok(Vec::new())
    }

    fn checkpoint(&mut self, id: &str, state: &serde_json::Value) -> Result<bool, StoreError> {
        let mut kept = self.writable()?;
        if kept.releases.get(id).is_none_or(|release| release.ended) {
            return Ok(false);
        }
        kept.checkpoints.insert(id.to_owned(), state.clone());
        Ok(true)
    }

    fn releases(&mut self, service: &str, _: usize) -> Result<Vec<ReleaseRecord>, StoreError> {
        let kept = self.0.lock().unwrap();
        let of_service = kept
            .releases
            .values()
            .filter(|release| release.service == service);
        Ok(of_service.cloned().collect())
    }

    fn release(&mut self, id: &str) -> Result<Option<ReleaseRecord>, StoreError> {
        Ok(self.0.lock().unwrap().releases.get(id).cloned())
    }

    fn put_evidence(&mut self, _: &ReleaseRecord, _: &serde_json::Value) -> Result<(), StoreError> {
        self.writable().map(drop)
    }

    fn evidence(&mut self, _: &str) -> Result<Option<serde_json::Value>, StoreError> {
        Ok(None)
    }
}
