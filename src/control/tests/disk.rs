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
    /// Checkpoints wait.
    slow: bool,
}

impl Disk {
    /// Makes all writes fail, or work again.
    pub(super) fn set_full(&self, full: bool) {
        self.0.lock().unwrap().full = full;
    }

    /// Makes checkpoints wait, or lets them through.
    pub(super) fn set_slow(&self, slow: bool) {
        self.0.lock().unwrap().slow = slow;
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
        let state = self.0.lock().unwrap();
        let loaded = LoadedState {
            services: state.services.values().cloned().collect(),
            releases: state.releases.values().cloned().collect(),
            checkpoints: state.checkpoints.clone(),
            ..LoadedState::default()
        };
        drop(state);
        (Store::over(Box::new(self.clone())).unwrap(), loaded)
    }

    fn writable(&self) -> Result<std::sync::MutexGuard<'_, Kept>, StoreError> {
        let state = self.0.lock().unwrap();
        if state.full {
            return Err(StoreError::Write("database or disk is full".to_owned()));
        }
        Ok(state)
    }
}

impl Backend for Disk {
    fn durable(&self) -> bool {
        true
    }

    fn commit(&mut self, change: &ChangeRecord) -> Result<Committed, StoreError> {
        let mut state = self.writable()?;
        for service in &change.services {
            state.services.insert(service.name.clone(), service.clone());
        }
        for release in &change.releases {
            state.releases.insert(release.id.clone(), release.clone());
        }
        state.entries += 1;
        let sequence = state.entries;
        Ok(Committed {
            sequence,
            durable: true,
        })
    }

    fn audit(&mut self, _: Option<u64>, _: usize) -> Result<Vec<JournalEntry>, StoreError> {
        Ok(Vec::new())
    }

    fn checkpoint(&mut self, id: &str, checkpoint: &serde_json::Value) -> Result<bool, StoreError> {
        while self.0.lock().unwrap().slow {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut state = self.writable()?;
        if state.releases.get(id).is_none_or(|release| release.ended) {
            return Ok(false);
        }
        state.checkpoints.insert(id.to_owned(), checkpoint.clone());
        Ok(true)
    }

    fn releases(&mut self, service: &str, _: usize) -> Result<Vec<ReleaseRecord>, StoreError> {
        let state = self.0.lock().unwrap();
        let of_service = state
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
