//! Keys for names; a key never stands for another name.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::net::SocketAddr;

use foldhash::fast::FixedState;

use super::{EndpointKey, RoutingTable};
use crate::model::Name;
use crate::stats::UpstreamKey;

/// Assigns the keys of upstreams and endpoints, so that counts, pools and health survive a reload.
///
/// A key is a slot, by which dense tables are indexed, and a generation. The slots of removed names
/// are reused, so that tables stay as small as the live set; the generation changes, so that no
/// request in flight and no count is attributed to the new owner. A name that returns after it was
/// forgotten gets a new key.
#[derive(Debug, Default)]
pub struct KeyRegistry {
    upstreams: Slots<(Name, Name)>,
    endpoints: Slots<(UpstreamKey, SocketAddr)>,
}

impl KeyRegistry {
    /// A registry without keys.
    pub fn new() -> KeyRegistry {
        KeyRegistry::default()
    }

    /// The key of an upstream of a service.
    pub fn upstream(&mut self, service: &Name, upstream: &Name) -> UpstreamKey {
        UpstreamKey(
            self.upstreams
                .key((Name::clone(service), Name::clone(upstream))),
        )
    }

    /// The key of an endpoint of an upstream.
    pub fn endpoint(&mut self, upstream: UpstreamKey, address: SocketAddr) -> EndpointKey {
        EndpointKey(self.endpoints.key((upstream, address)))
    }

    /// The service and upstream of a key; `None` once they are forgotten.
    pub fn names(&self, key: UpstreamKey) -> Option<&(Name, Name)> {
        self.upstreams.name(key.0)
    }

    /// Forgets names that are not in `table`, which must be the newest table built with these keys.
    pub fn retain(&mut self, table: &RoutingTable) {
        let upstreams = || table.services().flat_map(|service| &service.upstreams);
        let (live_upstreams, endpoints) = (upstreams().map(|upstream| upstream.key.0), upstreams());
        self.upstreams.retain(&live_upstreams.collect());
        let live_endpoints = endpoints.flat_map(|upstream| &upstream.endpoints);
        self.endpoints
            .retain(&live_endpoints.map(|endpoint| endpoint.key.0).collect());
    }

    /// The numbers of upstream slots and of endpoint slots.
    pub fn slots(&self) -> (usize, usize) {
        (self.upstreams.slots.len(), self.endpoints.slots.len())
    }
}

#[derive(Debug)]
struct Slots<N> {
    known: HashMap<N, u64, FixedState>,
    /// By slot: the newest key, and its name while it is known.
    slots: Vec<(u64, Option<N>)>,
    /// Free slots, the one that has been free for longest first.
    free: VecDeque<u32>,
}

impl<N> Default for Slots<N> {
    fn default() -> Self {
        Slots {
            known: HashMap::default(),
            slots: Vec::new(),
            free: VecDeque::new(),
        }
    }
}

impl<N: Clone + Eq + Hash> Slots<N> {
    fn key(&mut self, name: N) -> u64 {
        if let Some(key) = self.known.get(&name) {
            return *key;
        }
        let freed = self.free.pop_front();
        let key = match freed.and_then(|slot| self.slots.get_mut(slot as usize)) {
            Some((key, owner)) => {
                *key += 1 << 32;
                *owner = Some(name.clone());
                *key
            }
            None => {
                let key = self.slots.len() as u64;
                self.slots.push((key, Some(name.clone())));
                key
            }
        };
        self.known.insert(name, key);
        key
    }

    fn name(&self, key: u64) -> Option<&N> {
        let (newest, name) = self.slots.get(slot(key))?;
        name.as_ref().filter(|_| *newest == key)
    }

    fn retain(&mut self, live: &HashSet<u64>) {
        let (slots, free) = (&mut self.slots, &mut self.free);
        self.known.retain(|_, key| {
            let stays = live.contains(key);
            if !stays && let Some((_, owner)) = slots.get_mut(slot(*key)) {
                *owner = None;
                // A slot with no generations left is not reused; this does not happen in practice.
                free.extend(
                    u32::try_from(slot(*key))
                        .ok()
                        .filter(|_| *key < u64::from(u32::MAX) << 32),
                );
            }
            stays
        });
    }
}

/// The slot of a key.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn slot(key: u64) -> usize {
    key as u32 as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceSpec;
    use crate::routing::testing::service;

    fn at(number: u32) -> SocketAddr {
        let [_, a, b, c] = number.to_be_bytes();
        ([10, a, b, c], 80).into()
    }

    /// A service whose one upstream `name` has an endpoint at `number`.
    fn spec(name: &str, number: u32) -> ServiceSpec {
        let mut spec = service("shop", &[(name, 10_000, 1)]);
        spec.upstreams[0].endpoints = vec![crate::model::EndpointSpec(at(number))];
        spec
    }

    #[test]
    fn slots_are_reused_and_keys_are_not() {
        let mut keys = KeyRegistry::new();
        let mut seen = HashSet::new();
        let mut table = RoutingTable::build(&[], |_| None, &mut keys, None);
        for number in 0..100_000 {
            let specs = [spec(&format!("v{number}"), number)];
            table = RoutingTable::build(&specs, |_| None, &mut keys, Some(&table));
            keys.retain(&table);
            let upstream = &table.service("shop").unwrap().upstreams[0];
            assert!(
                seen.insert(upstream.endpoints[0].key),
                "a key stands for another endpoint"
            );
            assert_eq!(&*keys.names(upstream.key).unwrap().1, format!("v{number}"));
        }
        assert_eq!(keys.slots(), (2, 2));
        assert_eq!(
            (keys.upstreams.known.len(), keys.endpoints.known.len()),
            (1, 1)
        );
        assert!(keys.upstreams.free.len() + keys.endpoints.free.len() <= 2);
    }

    #[test]
    fn name_keeps_its_key_until_it_is_forgotten() {
        let mut keys = KeyRegistry::new();
        let first = RoutingTable::build(&[spec("a", 1)], |_| None, &mut keys, None);
        let key = |table: &RoutingTable| table.service("shop").unwrap().upstreams[0].key;
        keys.retain(&first);
        let same = RoutingTable::build(&[spec("a", 1)], |_| None, &mut keys, Some(&first));
        assert_eq!(key(&same), key(&first));
        let other = RoutingTable::build(&[spec("b", 1)], |_| None, &mut keys, Some(&same));
        keys.retain(&other);
        assert_eq!(keys.names(key(&first)), None, "it is forgotten");
        let back = RoutingTable::build(&[spec("a", 1)], |_| None, &mut keys, Some(&other));
        assert_eq!(
            key(&back).index(),
            key(&first).index(),
            "the slot is used again"
        );
        assert_ne!(key(&back), key(&first));
        assert_eq!(
            keys.names(key(&first)),
            None,
            "the old key does not name the new owner"
        );
    }
}
