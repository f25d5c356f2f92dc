//! Numbers for names, the same as long as the process lives.

use std::collections::HashMap;
use std::net::SocketAddr;

use foldhash::fast::FixedState;

use super::EndpointKey;
use crate::model::Name;
use crate::stats::UpstreamKey;

/// Hands out the keys of upstreams and endpoints, and remembers them, so that counts, pools and health survive a
/// reload. It never forgets: it grows by what configurations have named since the process started.
#[derive(Debug, Default)]
pub struct Keys {
    upstreams: HashMap<(Name, Name), UpstreamKey, FixedState>,
    /// By key: service and upstream.
    names: Vec<(Name, Name)>,
    endpoints: HashMap<(UpstreamKey, SocketAddr), EndpointKey, FixedState>,
}

impl Keys {
    /// No keys yet.
    pub fn new() -> Keys {
        Keys::default()
    }

    /// The key of an upstream of a service.
    pub fn upstream(&mut self, service: &Name, upstream: &Name) -> UpstreamKey {
        let names = (Name::clone(service), Name::clone(upstream));
        if let Some(key) = self.upstreams.get(&names) {
            return *key;
        }
        let key = UpstreamKey(dense(self.names.len()));
        self.names.push(names.clone());
        self.upstreams.insert(names, key);
        key
    }

    /// The key of an endpoint of an upstream.
    pub fn endpoint(&mut self, upstream: UpstreamKey, address: SocketAddr) -> EndpointKey {
        let next = EndpointKey(dense(self.endpoints.len()));
        *self.endpoints.entry((upstream, address)).or_insert(next)
    }

    /// The service and upstream that a key stands for.
    pub fn names(&self, key: UpstreamKey) -> Option<&(Name, Name)> {
        self.names.get(key.index())
    }
}

/// The next number of a dense sequence. Four thousand million names would have filled the memory before.
fn dense(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
