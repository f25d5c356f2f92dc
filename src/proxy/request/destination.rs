//! Where a request goes: its service, the upstream that it was drawn for, and the endpoint.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{HOST, SET_COOKIE};
use http::{HeaderMap, Method, Request};

use super::body::ExchangeTimeouts;
use super::exchange::Exchange;
use super::headers::client_address;
use super::identify;
use crate::model::{Sticky, Timeouts};
use crate::proxy::error::Error;
use crate::proxy::http1::target;
use crate::proxy::observe::request_trial::{self, Drawn, RequestTrial};
use crate::proxy::sticky::{Choice, Issue};
use crate::proxy::worker::state::Worker;
use crate::routing::{
    EndpointKey, InFlight, ReleaseHandle, RoutedService, RoutedUpstream, Snapshot,
};
use crate::stats::{Reason, UpstreamKey};

/// Where a request goes, however often it has to be looked up.
#[derive(Debug)]
pub(crate) struct Destination {
    service: Arc<RoutedService>,
    /// The revision of the table that `service` was last looked up in.
    revision: u64,
    choice: Choice,
    /// The user's hash, for a service with a release.
    user: Option<u32>,
    way: Way,
}

/// Which of the ways to an upstream a request takes.
#[derive(Debug)]
enum Way {
    /// It has not been drawn yet.
    New,
    /// To the upstream that it is drawn for.
    Split,
    /// To the baseline of this release, though it was drawn for the canary.
    Overflow(Arc<ReleaseHandle>),
    /// To the baseline of this release, since the canary has failed it.
    Failover(Arc<ReleaseHandle>),
}

/// The endpoint that a request goes to, under one revision of the table.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) endpoint: Address,
    pub(crate) revision: u64,
    upstream: UpstreamKey,
}

/// An endpoint's identity; that the request is on it is counted by the exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) key: EndpointKey,
    pub(crate) address: std::net::SocketAddr,
}

impl Destination {
    /// Routes a request and settles how its upstream is chosen.
    ///
    /// # Errors
    ///
    /// No route matches, or a tester names an upstream that does not exist.
    pub(crate) fn of<B>(
        exchange: &mut Exchange,
        request: &Request<B>,
    ) -> Result<(Destination, Option<Issue>), Error> {
        let headers = request.headers();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        // `OPTIONS *` asks about the server as a whole.
        let path = match target::path(request) {
            "*" if *request.method() == Method::OPTIONS => "/",
            path => path,
        };
        let (service, revision) = exchange
            .worker()
            .with_snapshot(|snapshot| {
                let service = snapshot
                    .table
                    .route(host, path, request.method(), headers)?;
                Some((Arc::clone(service), snapshot.revision))
            })
            .ok_or(Error::new(
                Reason::NoRoute,
                "no route matches the request's host and path",
            ))?;
        exchange.client.limit_writes(service.timeouts.idle);
        if let Some(name) = identify::tester(service.tester.as_ref(), headers) {
            if service.upstream(&name).is_none() {
                return Err(unknown_upstream(exchange, &service));
            }
            return Ok((
                Destination::new(service, revision, Choice::Named(name), None),
                None,
            ));
        }
        let identity = identify::identify(&service, request, &exchange.client);
        let user = service.watch.is_some().then(|| {
            let address = || client_address(headers, &exchange.client);
            request_trial::user(&service, &identity.choice, address)
        });
        let destination = Destination::new(service, revision, identity.choice, user);
        Ok((destination, identity.issue))
    }

    fn new(
        service: Arc<RoutedService>,
        revision: u64,
        choice: Choice,
        user: Option<u32>,
    ) -> Destination {
        Destination {
            service,
            revision,
            choice,
            user,
            way: Way::New,
        }
    }

    /// The release under way, for a request that has a part in it: a tester's has none.
    pub(crate) fn watch(&self) -> Option<&Arc<ReleaseHandle>> {
        let named = matches!(self.choice, Choice::Named(_));
        self.service.watch.as_ref().filter(|_| !named)
    }

    /// Whether this release's baseline has an endpoint, by the newest table.
    pub(crate) fn can_rescue(&mut self, worker: &Worker, watch: &ReleaseHandle) -> bool {
        worker.with_snapshot(|snapshot| self.refresh(snapshot));
        let baseline = upstream(&self.service, watch.spec.baseline);
        baseline.is_some_and(|baseline| !baseline.usable().is_empty())
    }

    /// From here on it goes to the baseline, if the newest table still has that.
    pub(crate) fn rescue(&mut self, watch: &Arc<ReleaseHandle>) {
        self.way = Way::Failover(Arc::clone(watch));
    }

    /// The service's limits of time.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.service.timeouts
    }

    /// Keeps the name of the service's sticky cookie for the proxy's own, whoever has answered.
    pub(crate) fn reserve_cookie(&self, exchange: &Exchange, headers: &mut HeaderMap) {
        if !headers.contains_key(SET_COOKIE) {
            return;
        }
        if let Some(Sticky::Cookie(cookie)) = &self.service.sticky
            && let Some(upstream) = self.upstream()
        {
            let who = (&self.service.name, &upstream.name, upstream.key);
            exchange
                .worker()
                .sticky
                .warned
                .reserve(cookie, who, headers);
        }
    }

    /// Limits of time for one exchange; the total begins to run.
    pub(crate) fn limits(&self, worker: &Worker) -> ExchangeTimeouts {
        let total = (!self.service.timeouts.total.is_zero()).then(|| {
            let deadline = worker.deadlines.deadline();
            deadline.set(self.service.timeouts.total);
            deadline
        });
        ExchangeTimeouts {
            idle: worker.deadlines.deadline(),
            idle_limit: self.service.timeouts.idle,
            waiting: false,
            total,
        }
    }

    /// The endpoint to try next by the newest table; `None` when no healthy one is left untried.
    pub(crate) fn target(
        &mut self,
        exchange: &mut Exchange,
        tried: &[EndpointKey],
    ) -> Option<Target> {
        let worker = Rc::clone(exchange.worker());
        self.draw(exchange);
        let revision = self.revision;
        let upstream = self.upstream()?;
        exchange.assign(&self.service.name, &upstream.name, upstream.key);
        let draw = worker.draw();
        let endpoint = if tried.is_empty() {
            upstream.endpoint(draw)
        } else {
            upstream.endpoint_excluding(draw, tried)
        }?;
        let target = Address {
            key: endpoint.key,
            address: endpoint.address,
        };
        let occupied: InFlight = endpoint.enter();
        let key = upstream.key;
        exchange.occupy(occupied);
        Some(Target {
            endpoint: target,
            revision,
            upstream: key,
        })
    }

    /// Draws the request by the newest table. The first draw decides which side of a release it
    /// counts for; where a later one comes to another, it counts for none.
    pub(crate) fn draw(&mut self, exchange: &mut Exchange) {
        let worker = Rc::clone(exchange.worker());
        worker.with_snapshot(|snapshot| self.refresh(snapshot));
        match &exchange.trial {
            None if matches!(self.way, Way::New) => self.enrol(exchange, &worker),
            None => {}
            Some(trial) => self.stay(exchange, &worker, trial.upstream()),
        }
    }

    fn enrol(&mut self, exchange: &mut Exchange, worker: &Worker) {
        self.way = Way::Split;
        let Some(watch) = self.watch().cloned() else {
            return;
        };
        worker.retries.deposit(&watch);
        if self.service.is_baseline_down() {
            // The canary answers whatever is drawn, or nobody does: the draw decides nothing.
            return;
        }
        let Some(drawn) = self.drawn().map(|upstream| upstream.key) else {
            return;
        };
        let user = self.user.unwrap_or_else(|| {
            let address = || exchange.client.peer.ip().to_canonical();
            request_trial::user(&self.service, &self.choice, address)
        });
        let request = request_trial::PendingAssignment {
            drawn,
            user,
            uploading: exchange
                .upload
                .as_ref()
                .is_some_and(|upload| !upload.is_done()),
        };
        match RequestTrial::draw(worker, &self.service, &watch, &request) {
            Drawn::On(trial) => exchange.trial = Some(trial),
            Drawn::Displaced => self.way = Way::Overflow(watch),
            Drawn::Aside => {}
        }
    }

    /// Leaves a request where it is if it may be there. From the baseline it goes only when that
    /// has no weight any more, and then it is a new one on the canary, within its limits.
    fn stay(&mut self, exchange: &mut Exchange, worker: &Worker, at: UpstreamKey) {
        let drawn = self.drawn().map(|upstream| upstream.key);
        if !matches!(self.way, Way::Split) {
            return;
        }
        if drawn == Some(at) {
            let baseline = self
                .service
                .watch
                .as_ref()
                .is_some_and(|watch| watch.spec.baseline == at);
            if baseline && self.service.failover_canary().is_some() {
                // The baseline has gone down since, and the canary answers what was drawn for it.
                let _subject = exchange
                    .trial
                    .take()
                    .and_then(|trial| trial.reroute(worker));
            }
            return;
        }
        let canary = self.service.watch.as_ref().map(|watch| watch.spec.canary);
        let to_canary = drawn.is_some() && drawn == canary;
        if let Some(watch) = self.service.watch.clone().filter(|_| to_canary)
            && upstream(&self.service, at).is_some_and(|upstream| !upstream.weight.is_zero())
        {
            self.way = Way::Overflow(watch);
            return;
        }
        let subject = exchange
            .trial
            .take()
            .and_then(|trial| trial.reroute(worker));
        if to_canary {
            self.enrol(exchange, worker);
            exchange.describe_trial(|| subject);
        }
    }

    /// After a wait: the newest revision, if the target may still be used under it.
    pub(crate) fn confirm(&self, worker: &Worker, target: &Target) -> Option<u64> {
        worker.with_snapshot(|snapshot| {
            let named = matches!(self.choice, Choice::Named(_));
            let taken_out = snapshot.revision != target.revision
                && !named
                && snapshot
                    .table
                    .service(&self.service.name)
                    .is_some_and(|service| match &self.way {
                        Way::Overflow(watch) | Way::Failover(watch)
                            if watch.spec.baseline == target.upstream =>
                        {
                            !has_baseline(service, watch)
                        }
                        _ => upstream(service, target.upstream)
                            .is_none_or(|upstream| upstream.weight.is_zero()),
                    });
            (!taken_out).then_some(snapshot.revision)
        })
    }

    /// Takes the service as the newest table has it. A service that is gone from it is served as it
    /// was: a reload fails no request.
    fn refresh(&mut self, snapshot: &Snapshot) {
        if snapshot.revision == self.revision {
            return;
        }
        self.revision = snapshot.revision;
        if let Some(service) = snapshot.table.service(&self.service.name) {
            self.service = Arc::clone(service);
        }
    }

    fn upstream(&self) -> Option<&RoutedUpstream> {
        let baseline = |watch: &ReleaseHandle| upstream(&self.service, watch.spec.baseline);
        match &self.way {
            Way::Overflow(watch) if has_baseline(&self.service, watch) => baseline(watch)
                .map(|baseline| self.service.failover_target(baseline).unwrap_or(baseline)),
            Way::Failover(watch) => baseline(watch).filter(|_| has_baseline(&self.service, watch)),
            _ => self.chosen(),
        }
    }

    fn chosen(&self) -> Option<&RoutedUpstream> {
        let drawn = self.drawn()?;
        let named = matches!(self.choice, Choice::Named(_));
        Some(
            self.service
                .failover_target(drawn)
                .filter(|_| !named)
                .unwrap_or(drawn),
        )
    }

    fn drawn(&self) -> Option<&RoutedUpstream> {
        let upstreams = &self.service.upstreams;
        match &self.choice {
            Choice::Named(name) => upstreams.iter().find(|upstream| *upstream.name == **name),
            Choice::Key(key) => upstreams.get(self.service.split.pick_key(key)),
            Choice::Draw(draw) => upstreams.get(self.service.split.pick(*draw)),
        }
    }
}

/// A tester who is taken for a user would believe that the new version works.
fn unknown_upstream(exchange: &mut Exchange, service: &RoutedService) -> Error {
    let names: Vec<&str> = service
        .upstreams
        .iter()
        .map(|upstream| &*upstream.name)
        .collect();
    let (service, names) = (&service.name, names.join(", "));
    exchange.detail = Some(format!(
        "the request names an upstream that service {service} does not have; its upstreams are: \
         {names}"
    ));
    Error::new(
        Reason::BadRequest,
        "the request names an upstream that does not exist",
    )
}

fn upstream(service: &RoutedService, key: UpstreamKey) -> Option<&RoutedUpstream> {
    service
        .upstreams
        .iter()
        .find(|upstream| upstream.key == key)
}

/// Whether a release's baseline may still be sent its canary's requests: it has users of its own,
/// or the release is still under way, if only with all weight on the canary.
fn has_baseline(service: &RoutedService, watch: &Arc<ReleaseHandle>) -> bool {
    let under_way = service
        .watch
        .as_ref()
        .is_some_and(|now| Arc::ptr_eq(now, watch));
    upstream(service, watch.spec.baseline)
        .is_some_and(|upstream| under_way || !upstream.weight.is_zero())
}
