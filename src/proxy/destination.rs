//! Where a request goes: its service, the upstream that it was drawn for, and the endpoint.

use std::sync::Arc;

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::{Method, Request};

use super::body::{Limits, RequestBody};
use super::error::Error;
use super::exchange::Exchange;
use super::sticky::{self, Choice, NewCookie};
use super::worker::Worker;
use crate::model::Timeouts;
use crate::routing::{EndpointKey, InFlight, Service, Snapshot, Upstream};
use crate::stats::{Reason, UpstreamKey};

/// Where a request goes, however often it has to be looked up.
#[derive(Debug)]
pub(crate) struct Destination {
    service: Arc<Service>,
    /// The revision of the table that `service` was last looked up in.
    revision: u64,
    choice: Choice,
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
    /// No route matches. A tester who names an upstream that does not exist is a user like any other.
    pub(crate) fn of(exchange: &Exchange, head: &Parts) -> Result<(Destination, NewCookie), Error> {
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        // `OPTIONS *` asks about the server as a whole.
        let path = if head.method == Method::OPTIONS && head.uri.path() == "*" {
            "/"
        } else {
            head.uri.path()
        };
        let (service, revision) = exchange
            .worker()
            .with_snapshot(|snapshot| {
                let service = snapshot.table.route(host, path, &head.method, &head.headers)?;
                Some((Arc::clone(service), snapshot.revision))
            })
            .ok_or(Error::new(
                Reason::NoRoute,
                "no route matches the request's host and path",
            ))?;
        exchange.client.limit_writes(service.timeouts.idle);
        if let Some(name) = sticky::tester(service.tester.as_ref(), &head.headers)
            && service.upstreams.iter().any(|upstream| *upstream.name == *name)
        {
            return Ok((
                Destination {
                    service,
                    revision,
                    choice: Choice::Named(name),
                },
                None,
            ));
        }
        let (choice, cookie) = sticky::choose(service.sticky.as_ref(), &head.headers, &exchange.client);
        Ok((
            Destination {
                service,
                revision,
                choice,
            },
            cookie,
        ))
    }

    /// The service's limits of time.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.service.timeouts
    }

    /// Limits of time for one exchange; the total begins to run.
    pub(crate) fn limits(&self, worker: &Worker) -> Limits {
        let total = (!self.service.timeouts.total.is_zero()).then(|| {
            let deadline = worker.deadlines.deadline();
            deadline.set(self.service.timeouts.total);
            deadline
        });
        Limits {
            idle: worker.deadlines.deadline(),
            idle_limit: self.service.timeouts.idle,
            waiting: false,
            total,
        }
    }

    /// The endpoint to try next by the newest table; `None` when no healthy one is left untried.
    pub(crate) fn target(&mut self, exchange: &mut Exchange, tried: &[EndpointKey]) -> Option<Target> {
        let worker = std::rc::Rc::clone(exchange.worker());
        worker.with_snapshot(|snapshot| self.refresh(snapshot));
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

    /// After a wait: the newest revision, if the target may still be used under it.
    pub(crate) fn confirm(&self, worker: &Worker, target: &Target) -> Option<u64> {
        worker.with_snapshot(|snapshot| {
            let named = matches!(self.choice, Choice::Named(_));
            let taken_out = snapshot.revision != target.revision
                && !named
                && snapshot.table.service(&self.service.name).is_some_and(|service| {
                    let upstream = service
                        .upstreams
                        .iter()
                        .find(|upstream| upstream.key == target.upstream);
                    upstream.is_none_or(|upstream| upstream.weight.is_zero())
                });
            (!taken_out).then_some(snapshot.revision)
        })
    }

    /// HTTP/1.0 may come without `Host`; HTTP/1.1 may not go on without.
    pub(crate) fn name_host(&self, request: &mut Request<RequestBody>, target: &Target) {
        if !request.headers().contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(&target.endpoint.address.to_string())
        {
            request.headers_mut().insert(HOST, host);
        }
    }

    /// Takes the service as the newest table has it. A service that is gone from it is served as it was: a reload
    /// fails no request.
    fn refresh(&mut self, snapshot: &Snapshot) {
        if snapshot.revision == self.revision {
            return;
        }
        self.revision = snapshot.revision;
        if let Some(service) = snapshot.table.service(&self.service.name) {
            self.service = Arc::clone(service);
        }
    }

    fn upstream(&self) -> Option<&Upstream> {
        let upstreams = &self.service.upstreams;
        match &self.choice {
            Choice::Named(name) => upstreams.iter().find(|upstream| *upstream.name == **name),
            Choice::Key(key) => upstreams.get(self.service.split.pick_key(key)),
            Choice::Draw(draw) => upstreams.get(self.service.split.pick(*draw)),
        }
    }
}
