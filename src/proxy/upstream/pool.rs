//! Idle connections to endpoints, of one worker: last in, first out, so that the warmest is used
//! and the rest age away.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::UpstreamConnection;
use crate::proxy::deadline::Millis;
use crate::proxy::options::PoolOptions;
use crate::routing::EndpointKey;

/// The idle connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    options: PoolOptions,
    /// By the slot of the endpoint's key, with the key.
    idle: RefCell<Vec<(EndpointKey, Vec<Idle>)>>,
    /// No idle connection is older than this.
    oldest: Cell<Option<Millis>>,
}

#[derive(Debug)]
struct Idle {
    connection: UpstreamConnection,
    since: Millis,
}

impl Pool {
    pub(crate) fn new(options: PoolOptions) -> Pool {
        Pool {
            options,
            idle: RefCell::default(),
            oldest: Cell::new(None),
        }
    }

    /// An idle connection to the endpoint, if there is one that the upstream has not closed.
    pub(crate) fn take(&self, endpoint: EndpointKey) -> Option<UpstreamConnection> {
        let mut all = self.idle.borrow_mut();
        let (key, idle) = all.get_mut(endpoint.index())?;
        if *key != endpoint {
            return None;
        }
        std::iter::from_fn(|| idle.pop())
            .map(|idle| idle.connection)
            .find(UpstreamConnection::is_open)
    }

    /// Keeps a connection for the endpoint's next request, unless there are enough.
    pub(crate) fn put(&self, endpoint: EndpointKey, connection: UpstreamConnection, now: Millis) {
        let mut all = self.idle.borrow_mut();
        while all.len() <= endpoint.index() {
            let slot = EndpointKey(all.len() as u64);
            all.push((slot, Vec::new()));
        }
        let Some((key, idle)) = all.get_mut(endpoint.index()) else {
            return;
        };
        if *key < endpoint {
            // Those to an endpoint that has gone, whose slot this one has.
            idle.clear();
            *key = endpoint;
        }
        if *key == endpoint && idle.len() < self.options.idle_per_endpoint {
            idle.push(Idle {
                connection,
                since: now,
            });
            self.oldest.set(Some(
                self.oldest.get().map_or(now, |oldest| oldest.min(now)),
            ));
        }
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self, now: Millis) {
        if self.next(now).is_none_or(|wait| !wait.is_zero()) {
            return;
        }
        let limit = self.idle_millis();
        let mut oldest = None;
        for (_, idle) in self.idle.borrow_mut().iter_mut() {
            idle.retain(|entry| {
                let keep = now.saturating_sub(entry.since) < limit && entry.connection.is_open();
                if keep {
                    oldest = Some(
                        oldest.map_or(entry.since, |earlier: Millis| earlier.min(entry.since)),
                    );
                }
                keep
            });
        }
        self.oldest.set(oldest);
    }

    /// How long until the next sweep has something to do; `None` while nothing is idle.
    pub(crate) fn next(&self, now: Millis) -> Option<Duration> {
        let due = self.oldest.get()?.saturating_add(self.idle_millis());
        Some(Duration::from_millis(due.saturating_sub(now)))
    }

    fn idle_millis(&self) -> Millis {
        u64::try_from(self.options.idle_timeout.as_millis()).unwrap_or(Millis::MAX)
    }
}
