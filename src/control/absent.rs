//! The state of services that the configuration no longer has. They may return, and then continue
//! with their weights.

use std::collections::BTreeMap;

use super::state::ServiceState;
use crate::store::ServiceRecord;

/// The number of services that are remembered; beyond it those that left first are forgotten.
pub(super) const REMEMBERED_MAX: usize = 10_000;

/// Services that have left the configuration.
#[derive(Debug, Default)]
pub(super) struct AbsentServices {
    /// With a number that increases in the order in which they left.
    records: BTreeMap<String, (u64, ServiceRecord)>,
    left: u64,
    /// The highest numbers of forgotten services: a service that returns goes on above them, so
    /// that neither a revision nor the name of a release is used twice.
    highest_revision: u64,
    most_releases: u64,
}

impl AbsentServices {
    /// The services of the store, in the order of their last change.
    pub(super) fn new(mut records: Vec<ServiceRecord>) -> AbsentServices {
        records.sort_by(|one, other| one.since.cmp(&other.since));
        let mut absent = AbsentServices::default();
        records.into_iter().for_each(|record| absent.keep(record));
        absent
    }

    /// A service leaves the configuration. The caller calls [`AbsentServices::trim`] when all have.
    pub(super) fn keep(&mut self, record: ServiceRecord) {
        self.left += 1;
        self.records
            .insert(record.name.clone(), (self.left, record));
    }

    /// A service returns.
    pub(super) fn take(&mut self, name: &str) -> Option<ServiceRecord> {
        self.records.remove(name).map(|(_, record)| record)
    }

    /// Raises the numbers of a service that is not remembered above those of forgotten ones.
    pub(super) fn raise(&self, state: &mut ServiceState) {
        state.revision = state.revision.max(self.highest_revision.saturating_add(1));
        state.releases = state.releases.max(self.most_releases);
    }

    /// Forgets the services beyond `most` that left first.
    pub(super) fn trim(&mut self, most: usize) {
        let excess = self.records.len().saturating_sub(most);
        if excess == 0 {
            return;
        }
        let mut order: Vec<u64> = self.records.values().map(|(left, _)| *left).collect();
        order.sort_unstable();
        let first_kept = order.get(excess).copied().unwrap_or(u64::MAX);
        let (revision, releases) = (&mut self.highest_revision, &mut self.most_releases);
        self.records.retain(|_, (left, record)| {
            let is_kept = *left >= first_kept;
            if !is_kept {
                *revision = record.revision.max(*revision);
                *releases = record.releases.max(*releases);
            }
            is_kept
        });
        tracing::warn!(
            "{excess} services that left the configuration first are forgotten, since more than \
             {most} have left it; if one returns, it starts with its configured weights"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::spec;

    fn record(number: u64) -> ServiceRecord {
        let mut state = ServiceState::declared(&spec("shop", 0.0), "2026-01-01T00:00:00Z");
        (state.revision, state.releases) = (number, number / 2);
        state.record(&format!("service-{number}"))
    }

    #[test]
    fn the_services_that_left_first_are_forgotten_beyond_the_bound() {
        let mut absent = AbsentServices::new(vec![record(7)]);
        for number in (100..130).chain([8]) {
            absent.keep(record(number));
        }
        absent.trim(3);
        assert_eq!(absent.records.len(), 3);
        assert!(absent.take("service-7").is_none() && absent.take("service-127").is_none());
        assert_eq!(
            absent.take("service-8").map(|record| record.revision),
            Some(8)
        );
        // The state on disk of a forgotten service may have these numbers.
        let mut state = ServiceState::declared(&spec("shop", 0.0), "2026-01-01T00:00:00Z");
        absent.raise(&mut state);
        assert_eq!((state.revision, state.releases), (128, 63));
        absent.trim(3);
        assert_eq!(absent.records.len(), 2, "nothing more");
    }

    #[test]
    fn nothing_is_raised_while_nothing_is_forgotten() {
        let mut state = ServiceState::declared(&spec("shop", 0.0), "2026-01-01T00:00:00Z");
        let declared = (state.revision, state.releases);
        AbsentServices::new(vec![record(7)]).raise(&mut state);
        assert_eq!((state.revision, state.releases), declared);
    }
}
