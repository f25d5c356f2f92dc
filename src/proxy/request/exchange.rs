//! One request on its way: what has to be counted once, whatever becomes of it.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use http::{HeaderValue, Response};

use super::upload::UploadProgress;
use crate::model::Name;
use crate::proxy::deadline::{Deadline, Millis};
use crate::proxy::error::Error;
use crate::proxy::observe::request_trial::RequestTrial;
use crate::proxy::observe::sample::{SampleCandidate, SampledResponse};
use crate::proxy::upstream::UpstreamConnection;
use crate::proxy::worker::client::ClientConnection;
use crate::proxy::worker::limits::Permit;
use crate::proxy::worker::state::Worker;
use crate::routing::{EndpointKey, InFlight, ReleaseHandle};
use crate::stats::{Class, MethodLabel, Outcome, RequestLabels, UpstreamKey};
use crate::telemetry::AccessRecord;

/// An upload whose upstream takes nothing of it for so long waits for the upstream. Shorter than
/// the least landmark, and longer than an upstream pauses that reads at all.
const STALL_MS: Millis = 200;

/// A request from its arrival to the end of its answer. Dropped before its end, it counts as
/// aborted by the client.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) client: Rc<ClientConnection>,
    started: Instant,
    /// When the upstream at hand was asked: `started`, unless another was asked before and failed.
    asked: Instant,
    method: MethodLabel,
    status: u16,
    upstream: Option<UpstreamKey>,
    in_flight: Option<InFlight>,
    first_byte: Option<Instant>,
    done: bool,
    pub(crate) upload: Option<Rc<UploadProgress>>,
    bytes_out: u64,
    pub(crate) request_id: Option<HeaderValue>,
    /// What a refusal tells the client, where it is not the same for all of its kind.
    pub(crate) detail: Option<String>,
    access: Option<Box<AccessRecord>>,
    /// What it owes a release, if its service has one.
    pub(crate) trial: Option<Box<RequestTrial>>,
    /// Its place among the requests under way.
    _place: Permit,
}

impl Exchange {
    /// A request has arrived.
    pub(crate) fn begin(
        client: &Rc<ClientConnection>,
        method: MethodLabel,
        place: Permit,
    ) -> Exchange {
        let started = Instant::now();
        client.enter(started);
        client.worker.begin();
        Exchange {
            client: Rc::clone(client),
            started,
            asked: started,
            method,
            status: 0,
            upstream: None,
            in_flight: None,
            first_byte: None,
            done: false,
            upload: None,
            bytes_out: 0,
            request_id: None,
            detail: None,
            access: None,
            trial: None,
            _place: place,
        }
    }

    /// Keeps what the access log will tell of the request, if there is one.
    pub(crate) fn describe(&mut self, record: impl FnOnce() -> AccessRecord) {
        if self.client.worker.access_log.enabled() {
            self.access = Some(Box::new(record()));
        }
    }

    /// Keeps what a sample will tell of the request, if it has a part in a release.
    pub(crate) fn describe_trial(&mut self, subject: impl FnOnce() -> Option<SampleCandidate>) {
        if let Some(trial) = &mut self.trial
            && let Some(subject) = subject()
        {
            trial.describe(subject);
        }
    }

    /// Whom the head of the answer waits for: the client while `held`, since what it does not read
    /// leaves no room for the head; otherwise as [`Exchange::watch_upload`] finds.
    pub(crate) fn watch_client(&self, held: bool, stall: Option<&Deadline>, cx: &Context<'_>) {
        let Some(trial) = &self.trial else { return };
        match stall {
            _ if held => trial.uploads(self.worker()),
            Some(stall) => self.watch_upload(stall, cx),
            None => trial.sent(self.worker()),
        }
    }

    /// A deadline for [`Exchange::watch_upload`], where a release wants to know whom an upload
    /// waits for.
    pub(crate) fn stall(&self) -> Option<Deadline> {
        let uploads = self.upload.is_some() && self.trial.is_some();
        uploads.then(|| self.worker().deadlines.deadline())
    }

    /// Looks whether it is the client that is waited for, or the upstream: that has the whole
    /// request, or has taken nothing of what is there for as long as [`STALL_MS`].
    fn watch_upload(&self, stall: &Deadline, cx: &Context<'_>) {
        let (Some(trial), Some(upload)) = (&self.trial, &self.upload) else {
            return;
        };
        let worker = self.worker();
        if upload.is_done() {
            return trial.sent(worker);
        }
        if upload.awaits_client() {
            return trial.uploads(worker);
        }
        loop {
            let now = worker.deadlines.coarse();
            let due = upload.upstream_since(now).saturating_add(STALL_MS);
            if due <= now {
                return trial.sent(worker);
            }
            trial.uploads(worker);
            stall.set_at(due);
            if stall.poll(cx).is_pending() {
                return;
            }
        }
    }

    /// The release whose canary has the request.
    pub(crate) fn on_canary(&self) -> Option<&Arc<ReleaseHandle>> {
        self.trial.as_ref()?.on_canary()
    }

    /// Its upstream was taken out while it waited: it counts for no arm. Gives what a sample would
    /// tell.
    pub(crate) fn leave_trial(&mut self) -> Option<SampleCandidate> {
        self.trial.take()?.reroute(&self.client.worker)
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.client.worker
    }

    /// The request was drawn for this upstream of this service.
    pub(crate) fn assign(&mut self, service: &Name, name: &Name, upstream: UpstreamKey) {
        self.upstream = Some(upstream);
        if let Some(access) = &mut self.access {
            access.service = Some(Name::clone(service));
            access.upstream = Some(Name::clone(name));
        }
    }

    /// The request is with this endpoint.
    pub(crate) fn occupy(&mut self, endpoint: InFlight) {
        if let Some(access) = &mut self.access {
            access.endpoint = Some(endpoint.address);
        }
        self.in_flight = Some(endpoint);
    }

    /// Whether the answer is to have no body.
    pub(crate) fn is_head(&self) -> bool {
        self.method == MethodLabel::Head
    }

    /// So many bytes of the answer are on their way to the client.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// The head of the upstream's answer is here, and perhaps the end with it.
    pub(crate) fn answered<B>(&mut self, answer: &Response<B>, ended: bool) {
        let now = Instant::now();
        let status = answer.status().as_u16();
        self.status = status;
        self.first_byte = Some(now);
        if let Some(trial) = &mut self.trial {
            let seen = SampledResponse {
                class: Class::of_status(status),
                status: Some(status),
                headers: Some(answer.headers()),
                took: now - self.started,
                request_id: self.request_id.as_ref(),
            };
            trial.sample(&self.client.worker, &seen);
            trial.head(&self.client.worker, status, ended, now);
        }
    }

    /// The upstream has failed, by its status or without an answer, and nobody has seen it: it is
    /// counted for the upstream, and the request goes on to another.
    pub(crate) fn fail_over<B>(&mut self, class: Class, answer: Result<&Response<B>, &Error>) {
        let now = Instant::now();
        self.in_flight = None;
        if let Some(trial) = &mut self.trial {
            let seen = SampledResponse {
                class,
                status: answer.ok().map(|answer| answer.status().as_u16()),
                headers: answer.ok().map(Response::headers),
                took: now - self.started,
                request_id: self.request_id.as_ref(),
            };
            trial.sample(&self.client.worker, &seen);
            trial.fail_over(&self.client.worker, now);
        }
        let mut recorder = self.client.worker.recorder.borrow_mut();
        if let Some(upstream) = self.upstream.take() {
            let total_us = micros(now - self.asked);
            let outcome = Outcome {
                class,
                first_byte_us: answer.is_ok().then_some(total_us),
                total_us,
            };
            recorder.record(upstream, &outcome);
            if let Err(error) = answer {
                recorder.reject(None, Some(upstream), error.reason);
            }
        }
        self.asked = now;
    }

    /// The upstream's answer is complete.
    pub(crate) fn complete(&mut self) {
        let class = Class::of_status(self.status);
        self.finish(class, class.as_str());
    }

    /// The proxy answers this itself, or has to cut the answer short.
    pub(crate) fn fail(&mut self, error: &Error) {
        if self.done {
            return;
        }
        self.worker().recorder.borrow_mut().reject(
            Some(self.client.listener.index),
            self.upstream,
            error.reason,
        );
        if self.status == 0 {
            self.status = error.status().as_u16();
        }
        if let Some(access) = &mut self.access {
            access.reason = Some(error.reason.as_str());
        }
        self.finish(error.class(), error.outcome());
    }

    /// `outcome` is the access log's word for it.
    fn finish(&mut self, class: Class, outcome: &'static str) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        self.in_flight = None;
        let now = Instant::now();
        if let Some(mut trial) = self.trial.take() {
            let seen = SampledResponse {
                class,
                status: self.first_byte.map(|_| self.status),
                headers: None,
                took: now - self.started,
                request_id: self.request_id.as_ref(),
            };
            trial.sample(&self.client.worker, &seen);
            trial.end(&self.client.worker, class, now);
        }
        let mut recorder = self.client.worker.recorder.borrow_mut();
        if let Some(upstream) = self.upstream {
            recorder.record(
                upstream,
                &Outcome {
                    class,
                    first_byte_us: self.first_byte.map(|at| micros(at - self.asked)),
                    total_us: micros(now - self.asked),
                },
            );
        }
        let listener = self.client.listener.index;
        recorder.count(RequestLabels {
            listener,
            upstream: self.upstream,
            method: self.method,
            status: self.status,
        });
        drop(recorder);
        if let Some(mut access) = self.access.take() {
            access.status = self.status;
            access.outcome = outcome;
            access.total_us = micros(now - self.started);
            access.first_byte_us = self.first_byte.map(|at| micros(at - self.started));
            access.bytes_in = self.upload.as_ref().map_or(0, |upload| upload.bytes());
            access.bytes_out = self.bytes_out;
            access.request_id = self.request_id.take();
            self.client.worker.access_log.log(*access);
        }
    }

    /// Gives a connection that has done its part back to the pool.
    pub(crate) fn release(&self, endpoint: EndpointKey, connection: UpstreamConnection) {
        let worker = self.worker();
        worker
            .pool
            .put(endpoint, connection, worker.deadlines.coarse());
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.done {
            // What a server that logs aborts calls 499; nothing was sent, so nothing else fits.
            if self.status == 0 {
                self.status = 499;
            }
            self.fail(&Error::new(
                crate::stats::Reason::ClientAbort,
                "the client went away",
            ));
        }
        self.client.leave();
        self.client.worker.end();
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
