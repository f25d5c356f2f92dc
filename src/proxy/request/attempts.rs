//! Which endpoint is asked first, and what follows when it does not answer. Pure: what an attempt
//! came to goes in, what to do comes out.
//!
//! There are three reasons to ask again: an endpoint that took no connection ([`ENDPOINTS_MAX`]), a
//! pooled connection that had gone stale ([`SENDS_MAX`]), and a canary that has failed a request
//! of its release. What each may do depends on the request alone: [`Repeatability`].

use std::sync::Arc;

use http::Method;

use crate::proxy::error::Error;
use crate::routing::{EndpointKey, RoutedEndpoint, RoutedUpstream};
use crate::stats::{Class, Reason};

/// Endpoints of an upstream that are tried before a connection failure is the answer.
const ENDPOINTS_MAX: usize = 3;
/// Times that a request is sent: a pooled connection may have been closed a moment ago, a new one
/// was not.
const SENDS_MAX: u32 = 2;

/// How far a request may have come and still be sent again (RFC 9110 section 9.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeatability {
    /// Not at all: its body has broken off.
    Never,
    /// Until its first byte has been written.
    Unsent,
    /// To another upstream, whatever the first has done with it: its sender says so, and all of it
    /// is at hand.
    Buffered,
    /// On another connection, while no byte of a response has come: its method is idempotent, and
    /// it has no body.
    Idempotent,
    /// Both.
    Safe,
}

impl Repeatability {
    /// Of a request with this `method` and `body`; its sender has `declared` that it may be sent
    /// twice, or not.
    pub(crate) fn of(method: &Method, body: BodyAtHand, declared: bool) -> Repeatability {
        let safe = matches!(
            *method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
        );
        let idempotent = matches!(*method, Method::PUT | Method::DELETE);
        match body {
            BodyAtHand::None if safe || (idempotent && declared) => Repeatability::Safe,
            BodyAtHand::None if idempotent => Repeatability::Idempotent,
            BodyAtHand::None | BodyAtHand::All if declared => Repeatability::Buffered,
            _ => Repeatability::Unsent,
        }
    }

    /// Whether it may be sent on another connection.
    fn on_another_connection(self, unsent: bool, answered: bool) -> bool {
        match self {
            Repeatability::Never => false,
            Repeatability::Unsent | Repeatability::Buffered => unsent,
            Repeatability::Idempotent | Repeatability::Safe => unsent || !answered,
        }
    }

    /// Whether it may be sent to another upstream.
    pub(crate) fn to_another_upstream(self) -> bool {
        matches!(self, Repeatability::Buffered | Repeatability::Safe)
    }
}

/// How much of a request's body is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyAtHand {
    /// There is none.
    None,
    /// It was read beforehand.
    All,
    /// It comes from the client while it is sent.
    Streamed,
}

/// What one attempt came to.
#[derive(Debug)]
pub(crate) enum AttemptOutcome<R> {
    /// The head of a response is here.
    Response(R),
    /// This endpoint took no connection.
    Unconnected(EndpointKey, Error),
    /// While the connection was made, the upstream was taken out; nothing was sent.
    TakenOut,
    /// The request was sent, or part of it, and there is no response.
    Unanswered(Unanswered),
    /// There is no endpoint, or it was sent and may not be sent again.
    Failed(Error),
}

/// A request that was sent and not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unanswered {
    /// Whether it went over a pooled connection.
    pub(crate) reused: bool,
    /// Whether not a byte of it was written.
    pub(crate) unsent: bool,
    /// Whether any byte of a response had come.
    pub(crate) answered: bool,
    /// Whether what had come was not understood.
    pub(crate) invalid: bool,
    /// What the client did wrong, if its body has broken off.
    pub(crate) upload: Option<Error>,
}

/// What follows an attempt.
#[derive(Debug)]
pub(crate) enum Next<R> {
    /// This is what the client gets.
    Respond(Result<R, Error>),
    /// Another attempt.
    Again,
    /// Another attempt, on the baseline: the canary has failed with this.
    FailOver(Class, Result<R, Error>),
}

/// The attempts at one request.
#[derive(Debug)]
pub(crate) struct Attempts {
    repeatability: Repeatability,
    /// Endpoints that took no connection, and why the last of them did not.
    tried: Vec<EndpointKey>,
    unconnected: Option<Error>,
    /// How often it has been sent to this upstream.
    sends: u32,
}

impl Attempts {
    pub(crate) fn new(repeatability: Repeatability) -> Attempts {
        Attempts {
            repeatability,
            tried: Vec::new(),
            unconnected: None,
            sends: 0,
        }
    }

    /// The endpoint to ask next; `draw` is uniform over all numbers of 64 bits.
    ///
    /// # Errors
    ///
    /// No healthy one is left.
    pub(crate) fn next<'a>(
        &self,
        upstream: &'a RoutedUpstream,
        draw: u64,
    ) -> Result<&'a Arc<RoutedEndpoint>, Error> {
        let endpoint = match &self.tried[..] {
            [] => upstream.endpoint(draw),
            tried => upstream.endpoint_excluding(draw, tried),
        };
        endpoint.ok_or_else(|| self.no_endpoint())
    }

    /// Why there is no endpoint to ask.
    pub(crate) fn no_endpoint(&self) -> Error {
        self.unconnected.unwrap_or(NO_ENDPOINT)
    }

    /// Whether the next attempt needs a connection that has carried no request.
    pub(crate) fn needs_fresh(&self) -> bool {
        self.sends > 0
    }

    /// What follows an attempt. Whether the request may fail over is asked only when all else is
    /// for it.
    pub(crate) fn after<R>(
        &mut self,
        outcome: AttemptOutcome<R>,
        status: impl FnOnce(&R) -> u16,
        may_fail_over: impl FnOnce() -> bool,
    ) -> Next<R> {
        let failed = match outcome {
            AttemptOutcome::Response(response) => {
                let class = Class::of_status(status(&response));
                return self.end(class, Ok(response), may_fail_over);
            }
            AttemptOutcome::TakenOut => return Next::Again,
            AttemptOutcome::Unconnected(endpoint, error) => self.another_endpoint(endpoint, error),
            AttemptOutcome::Unanswered(unanswered) => self.another_connection(&unanswered),
            AttemptOutcome::Failed(error) => Some(error),
        };
        let Some(error) = failed else {
            return Next::Again;
        };
        let class = match error.reason {
            // Nothing can be answered in no time.
            Reason::TotalTimeout => Class::ClientAbort,
            _ => error.class(),
        };
        self.end(class, Err(error), may_fail_over)
    }

    /// An endpoint took no connection: another may. The error, if none is asked.
    fn another_endpoint(&mut self, endpoint: EndpointKey, error: Error) -> Option<Error> {
        self.tried.push(endpoint);
        self.unconnected = Some(error);
        // Another endpoint is no remedy for what is no fault of this one.
        let pointless = matches!(error.reason, Reason::TotalTimeout | Reason::LocalResources);
        (self.tried.len() >= ENDPOINTS_MAX || pointless).then_some(error)
    }

    /// A connection ended without a response. If it came from the pool, that may be because the
    /// upstream had closed it already. The error, if the request is not sent again.
    fn another_connection(&mut self, unanswered: &Unanswered) -> Option<Error> {
        self.sends += 1;
        let Unanswered {
            unsent, answered, ..
        } = *unanswered;
        let repeatability = match unanswered.upload {
            Some(_) => Repeatability::Never,
            None => self.repeatability,
        };
        if unanswered.reused
            && self.sends < SENDS_MAX
            && repeatability.on_another_connection(unsent, answered)
        {
            self.tried.clear();
            self.unconnected = None;
            return None;
        }
        Some(unanswered.upload.unwrap_or(if unanswered.invalid {
            INVALID_RESPONSE
        } else {
            NO_RESPONSE
        }))
    }

    /// The canary's failure is the baseline's turn.
    fn end<R>(
        &mut self,
        class: Class,
        result: Result<R, Error>,
        may_fail_over: impl FnOnce() -> bool,
    ) -> Next<R> {
        let repeatable = self.repeatability.to_another_upstream();
        if !class.is_failure() || !repeatable || !may_fail_over() {
            return Next::Respond(result);
        }
        *self = Attempts::new(self.repeatability);
        Next::FailOver(class, result)
    }
}

const NO_ENDPOINT: Error = Error::new(
    Reason::NoHealthyEndpoint,
    "no endpoint of the upstream is healthy",
);
const INVALID_RESPONSE: Error = Error::new(
    Reason::UpstreamProtocolError,
    "the upstream's answer was not understood",
);
const NO_RESPONSE: Error = Error::new(
    Reason::Reset,
    "the upstream closed the connection without an answer",
);

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
