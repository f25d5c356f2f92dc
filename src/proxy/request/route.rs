//! Where a request goes: a function of a snapshot and of what is known of the request. Nothing
//! here asks for the time, draws a number or notes anything.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::HOST;
use http::{Method, Request};

use crate::model::Timeouts;
use crate::proxy::http1::target;
use crate::proxy::sticky::Choice;
use crate::routing::{
    EndpointKey, ReleaseHandle, RoutedEndpoint, RoutedService, RoutedUpstream, Snapshot,
};
use crate::stats::UpstreamKey;

/// Where a request goes, however often it has to be looked up.
#[derive(Debug)]
pub(crate) struct RequestRoute {
    service: Arc<RoutedService>,
    /// The revision of the table that `service` was last looked up in.
    revision: u64,
    choice: Choice,
    /// Whose it is, for a service with a release.
    user: Option<u32>,
    via: Via,
}

/// How the upstream of a request is found.
#[derive(Debug)]
enum Via {
    /// It has not been looked up yet.
    New,
    /// By the split.
    Split,
    /// The baseline of this release, though the split says the canary, which is full.
    Overflow(Arc<ReleaseHandle>),
    /// The baseline of this release, since the canary has failed the request.
    Failover(Arc<ReleaseHandle>),
}

/// The endpoint of one attempt, by one revision of the table.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) endpoint: EndpointKey,
    pub(crate) address: SocketAddr,
    /// The upstream's limits of time.
    pub(crate) timeouts: Timeouts,
    /// Whether no pooled connection will do.
    pub(crate) fresh: bool,
    pub(crate) revision: u64,
    upstream: UpstreamKey,
    route: &'a RequestRoute,
}

/// The service that a request is for.
pub(crate) fn service<'a, B>(
    snapshot: &'a Snapshot,
    request: &Request<B>,
) -> Option<&'a Arc<RoutedService>> {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    // `OPTIONS *` asks about the server as a whole.
    let path = match target::path(request) {
        "*" if *request.method() == Method::OPTIONS => "/",
        path => path,
    };
    snapshot.table.route(host, path, request.method(), headers)
}

impl RequestRoute {
    pub(crate) fn new(
        service: Arc<RoutedService>,
        revision: u64,
        choice: Choice,
        user: Option<u32>,
    ) -> RequestRoute {
        RequestRoute {
            service,
            revision,
            choice,
            user,
            via: Via::New,
        }
    }

    pub(crate) fn service(&self) -> &RoutedService {
        &self.service
    }

    pub(crate) fn choice(&self) -> &Choice {
        &self.choice
    }

    pub(crate) fn user(&self) -> Option<u32> {
        self.user
    }

    /// The release under way, for a request that has a part in it: a tester's has none.
    pub(crate) fn release(&self) -> Option<&Arc<ReleaseHandle>> {
        self.service.watch.as_ref().filter(|_| !self.is_named())
    }

    fn is_named(&self) -> bool {
        matches!(self.choice, Choice::Named(_))
    }

    /// Takes the service as the newest table has it. A service that is gone from it is served as it
    /// was: a reload fails no request.
    pub(crate) fn refresh(&mut self, snapshot: &Snapshot) {
        if snapshot.revision == self.revision {
            return;
        }
        self.revision = snapshot.revision;
        if let Some(service) = snapshot.table.service(&self.service.name) {
            self.service = Arc::clone(service);
        }
    }

    /// From here on it is known which upstream it is; tells whether it was not before.
    pub(crate) fn begin(&mut self) -> bool {
        let new = matches!(self.via, Via::New);
        if new {
            self.via = Via::Split;
        }
        new
    }

    /// Whether the split says where the request goes.
    pub(crate) fn is_split(&self) -> bool {
        matches!(self.via, Via::Split)
    }

    /// From here on it goes to the baseline, since the canary is full.
    pub(crate) fn overflow(&mut self, release: Arc<ReleaseHandle>) {
        self.via = Via::Overflow(release);
    }

    /// From here on it goes to the baseline, if the newest table still has that.
    pub(crate) fn fail_over(&mut self, release: Arc<ReleaseHandle>) {
        self.via = Via::Failover(release);
    }

    /// Whether this release's baseline has an endpoint.
    pub(crate) fn has_usable_baseline(&self, release: &ReleaseHandle) -> bool {
        let baseline = upstream(&self.service, release.spec.baseline);
        baseline.is_some_and(|baseline| !baseline.usable().is_empty())
    }

    /// Whether an upstream of the service has weight.
    pub(crate) fn has_weight(&self, key: UpstreamKey) -> bool {
        upstream(&self.service, key).is_some_and(|upstream| !upstream.weight.is_zero())
    }

    /// The upstream that the request goes to.
    pub(crate) fn upstream(&self) -> Option<&RoutedUpstream> {
        let baseline = |release: &ReleaseHandle| upstream(&self.service, release.spec.baseline);
        match &self.via {
            Via::Overflow(release) if has_baseline(&self.service, release) => baseline(release)
                .map(|baseline| self.service.failover_target(baseline).unwrap_or(baseline)),
            Via::Failover(release) => {
                baseline(release).filter(|_| has_baseline(&self.service, release))
            }
            _ => self.chosen(),
        }
    }

    fn chosen(&self) -> Option<&RoutedUpstream> {
        let assigned = self.assigned()?;
        Some(
            self.service
                .failover_target(assigned)
                .filter(|_| !self.is_named())
                .unwrap_or(assigned),
        )
    }

    /// The upstream that the split, or a tester, names, whoever answers for it.
    pub(crate) fn assigned(&self) -> Option<&RoutedUpstream> {
        let upstreams = &self.service.upstreams;
        match &self.choice {
            Choice::Named(name) => upstreams.iter().find(|upstream| *upstream.name == **name),
            Choice::Key(key) => upstreams.get(self.service.split.pick_key(key)),
            Choice::Draw(draw) => upstreams.get(self.service.split.pick(*draw)),
        }
    }

    /// An endpoint of [`RequestRoute::upstream`] for the next attempt.
    pub(crate) fn target(
        &self,
        upstream: UpstreamKey,
        endpoint: &RoutedEndpoint,
        fresh: bool,
    ) -> Target<'_> {
        Target {
            endpoint: endpoint.key,
            address: endpoint.address,
            timeouts: self.service.timeouts,
            fresh,
            revision: self.revision,
            upstream,
            route: self,
        }
    }
}

impl Target<'_> {
    /// After a wait: the newest revision, if the target may still be used under it.
    pub(crate) fn confirm(&self, snapshot: &Snapshot) -> Option<u64> {
        let RequestRoute { service, via, .. } = self.route;
        let taken_out = snapshot.revision != self.revision
            && !self.route.is_named()
            && snapshot
                .table
                .service(&service.name)
                .is_some_and(|service| match via {
                    Via::Overflow(release) | Via::Failover(release)
                        if release.spec.baseline == self.upstream =>
                    {
                        !has_baseline(service, release)
                    }
                    _ => upstream(service, self.upstream)
                        .is_none_or(|upstream| upstream.weight.is_zero()),
                });
        (!taken_out).then_some(snapshot.revision)
    }
}

fn upstream(service: &RoutedService, key: UpstreamKey) -> Option<&RoutedUpstream> {
    service
        .upstreams
        .iter()
        .find(|upstream| upstream.key == key)
}

/// Whether a release's baseline may still be sent its canary's requests: it has users of its own,
/// or the release is still under way, if only with all weight on the canary.
fn has_baseline(service: &RoutedService, release: &Arc<ReleaseHandle>) -> bool {
    let under_way = service
        .watch
        .as_ref()
        .is_some_and(|now| Arc::ptr_eq(now, release));
    upstream(service, release.spec.baseline)
        .is_some_and(|upstream| under_way || !upstream.weight.is_zero())
}
