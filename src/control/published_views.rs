//! Services in their API form, for readers on any thread.
//!
//! The controller publishes its part of a service whenever that changes, before it replies to the
//! caller who changed it. The rest is read at its source: weights in effect, health and requests in
//! flight from the routing table, statistics from copies that the collector publishes. So readers,
//! however slow or frequent, cost the controller nothing, and a client that got a reply finds its
//! change here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;

use super::state::{ServiceState, percentages};
use super::view;
use crate::model::{Name, api};
use crate::routing::{Publisher, RoutingTable};
use crate::stats::{Summary, UpstreamKey, WindowSpan, Windows};
use crate::time::{Clock, Timestamp};

/// Services, readable without the controller.
pub trait Views: fmt::Debug + Send + Sync {
    /// All services, sorted by name.
    fn services(&self) -> Vec<api::Service>;

    /// One service.
    fn service(&self, name: &str) -> Option<api::Service>;

    /// The revision of a service alone.
    fn revision(&self, name: &str) -> Option<u64> {
        self.service(name).map(|service| service.revision)
    }
}

/// The part of a service's state that only the controller has.
#[derive(Clone, Debug)]
pub(super) struct ServiceDetails {
    pub(super) revision: u64,
    pub(super) baseline: Name,
    pub(super) previous_baseline: Option<Name>,
    /// The requested weights, also before they are in effect.
    pub(super) intended: api::Percentages,
    pub(super) since: String,
    pub(super) reason: Option<String>,
    /// The id of the release in progress.
    pub(super) release: Option<String>,
    pub(super) durable: bool,
}

impl ServiceDetails {
    pub(super) fn new(
        state: &ServiceState,
        pending: Option<&ServiceState>,
        release: Option<&str>,
        durable: bool,
    ) -> ServiceDetails {
        ServiceDetails {
            revision: state.revision,
            baseline: Name::clone(&state.baseline),
            previous_baseline: state.previous_baseline.clone(),
            intended: percentages(&pending.unwrap_or(state).weights),
            since: state.since.clone(),
            reason: state.reason.clone(),
            release: release.map(str::to_owned),
            durable,
        }
    }
}

/// The published statistics of one upstream.
pub(super) type Recent = ArcSwap<Windows>;

/// The published statistics of the upstreams in the table.
pub(super) type Recents = ArcSwap<HashMap<UpstreamKey, Arc<Recent>>>;

/// The published views.
pub(super) struct PublishedViews {
    publisher: Publisher,
    recents: Arc<Recents>,
    clock: Arc<dyn Clock>,
    /// The map changes with the configuration only; a change of a service replaces the value of its
    /// slot.
    slots: ArcSwap<BTreeMap<Name, ArcSwap<ServiceDetails>>>,
}

impl PublishedViews {
    /// Views without services.
    pub(super) fn new(
        publisher: Publisher,
        recents: Arc<Recents>,
        clock: Arc<dyn Clock>,
    ) -> PublishedViews {
        PublishedViews {
            publisher,
            recents,
            clock,
            slots: ArcSwap::default(),
        }
    }

    /// Publishes these services, and no others.
    pub(super) fn replace(&self, services: impl Iterator<Item = (Name, ServiceDetails)>) {
        let slots = services.map(|(name, shown)| (name, ArcSwap::from_pointee(shown)));
        self.slots.store(Arc::new(slots.collect()));
    }

    /// A service as it would be shown with `shown`.
    pub(super) fn service_as(&self, name: &str, shown: &ServiceDetails) -> Option<api::Service> {
        let (snapshot, mut reader) = (self.publisher.current(), Reader::new(self));
        let table: &RoutingTable = &snapshot.table;
        Some(view::service(table.service(name)?, shown, |key| {
            reader.windows(key)
        }))
    }

    /// Publishes a changed service.
    pub(super) fn show(&self, name: &str, shown: ServiceDetails) {
        if let Some(slot) = self.slots.load().get(name) {
            slot.store(Arc::new(shown));
        }
    }
}

impl Views for PublishedViews {
    fn services(&self) -> Vec<api::Service> {
        // Read before the table, so that the shown revision is never later than that of the weights
        // in effect.
        let shown: Vec<(Name, Arc<ServiceDetails>)> = self
            .slots
            .load()
            .iter()
            .map(|(name, slot)| (Name::clone(name), slot.load_full()))
            .collect();
        let (snapshot, mut reader) = (self.publisher.current(), Reader::new(self));
        let by_name: HashMap<&str, _> = snapshot
            .table
            .services()
            .map(|service| (&*service.name, service))
            .collect();
        let known = |(name, shown): &(Name, Arc<ServiceDetails>)| {
            let service = by_name.get(&**name)?;
            Some(view::service(service, shown, |key| reader.windows(key)))
        };
        shown.iter().filter_map(known).collect()
    }

    fn service(&self, name: &str) -> Option<api::Service> {
        let shown = self.slots.load().get(name)?.load_full();
        self.service_as(name, &shown)
    }

    fn revision(&self, name: &str) -> Option<u64> {
        Some(self.slots.load().get(name)?.load().revision)
    }
}

impl fmt::Debug for PublishedViews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishedViews").finish_non_exhaustive()
    }
}

/// Reads statistics, upstream by upstream.
struct Reader {
    recents: Arc<HashMap<UpstreamKey, Arc<Recent>>>,
    now: Timestamp,
    /// Allocated with the first upstream that has had requests.
    sum: Option<Summary>,
}

/// Every window of an upstream without requests.
static EMPTY: LazyLock<api::Window> = LazyLock::new(|| Summary::new().window());

impl Reader {
    fn new(views: &PublishedViews) -> Reader {
        Reader {
            recents: views.recents.load_full(),
            now: views.clock.now(),
            sum: None,
        }
    }

    fn windows(&mut self, upstream: UpstreamKey) -> BTreeMap<String, api::Window> {
        let Some(windows) = self.recents.get(&upstream).map(|recent| recent.load_full()) else {
            return BTreeMap::new();
        };
        let each = WindowSpan::ALL.into_iter();
        if windows.is_empty() {
            return each
                .map(|span| (span.as_str().to_owned(), EMPTY.clone()))
                .collect();
        }
        let (sum, now) = (self.sum.get_or_insert_default(), self.now);
        let read = |span: WindowSpan| {
            sum.clear();
            windows.add_to(now, span, sum);
            (span.as_str().to_owned(), sum.window())
        };
        each.map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::spec;
    use crate::routing::KeyRegistry;
    use crate::time::ManualClock;

    fn shown(revision: u64) -> ServiceDetails {
        let mut state = ServiceState::declared(&spec("shop", 0.0), "2026-01-01T00:00:00Z");
        state.revision = revision;
        ServiceDetails::new(&state, None, None, true)
    }

    fn views(in_table: &[&str]) -> PublishedViews {
        let specs: Vec<_> = in_table.iter().map(|name| spec(name, 0.0)).collect();
        let table = RoutingTable::build(&specs, |_| None, &mut KeyRegistry::new(), None);
        let clock = ManualClock::new(Timestamp::new(0, 0));
        PublishedViews::new(Publisher::new(table), Arc::default(), Arc::new(clock))
    }

    fn names(views: &PublishedViews) -> Vec<(String, u64)> {
        let services = views.services().into_iter();
        services
            .map(|service| (service.name, service.revision))
            .collect()
    }

    #[test]
    fn services_are_listed_by_name_if_they_are_in_the_table() {
        let views = views(&["shop", "bank"]);
        assert_eq!(names(&views), []);
        views.replace(
            ["zoo", "shop", "bank"]
                .map(|name| (Name::from(name), shown(1)))
                .into_iter(),
        );
        views.show("shop", shown(2));
        views.show("nobody", shown(3));
        assert_eq!(
            names(&views),
            [("bank".to_owned(), 1), ("shop".to_owned(), 2)]
        );
        assert_eq!(
            (views.revision("shop"), views.revision("nobody")),
            (Some(2), None)
        );
        assert!(views.service("zoo").is_none());
    }

    #[test]
    fn effective_weights_come_from_the_table() {
        let views = views(&["shop"]);
        views.replace([(Name::from("shop"), shown(1))].into_iter());
        let mut live = views
            .publisher
            .current()
            .table
            .service("shop")
            .unwrap()
            .live();
        live.weights = crate::control::testing::weights(&[("blue", 25.0), ("green", 75.0)]);
        views
            .publisher
            .update(|table| table.with_weights("shop", &live));
        let service = views.service("shop").unwrap();
        assert_eq!(service.weights.effective["green"], 75.0);
        assert_eq!(service.weights.intended["green"], 0.0);
    }
}
