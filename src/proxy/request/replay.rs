//! A request that may have to be sent twice: read beforehand, and copied.
//!
//! When the canary has failed a request before a byte of a response has reached the client, the
//! baseline gets it, if it may be sent twice and the retry budget of the release allows it. The
//! failure counts against the canary all the same, in the release and in the statistics.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::Request;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use http_body::Body;

use super::attempts::{BodyAtHand, Repeatability};
use super::enrolment;
use super::exchange::Exchange;
use super::route::RequestRoute;
use super::timeouts::ExchangeTimeouts;
use super::upload::RequestBody;
use crate::proxy::error::Error;
use crate::proxy::http1::target;
use crate::proxy::observe::sample::SampleCandidate;
use crate::routing::{ReleaseHandle, RescuePolicy};
use crate::stats::Reason;

/// The largest body that is held so that it can be sent twice.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What is known of sending a request twice.
#[derive(Debug)]
pub(crate) struct Resend {
    pub(crate) repeatability: Repeatability,
    /// The request once more, while the canary has it and the baseline may get it.
    copy: Option<Box<Request<RequestBody>>>,
}

impl Resend {
    /// Gets ready for what may become of a request. One that takes part in a release is assigned
    /// here, since its body may have to be read before.
    ///
    /// # Errors
    ///
    /// The client does not send the body, or takes longer than it may.
    pub(crate) async fn prepare(
        exchange: &mut Exchange,
        route: &mut RequestRoute,
        request: &mut Request<RequestBody>,
        limits: &ExchangeTimeouts,
    ) -> Result<Resend, Error> {
        let Some(release) = route.release().cloned() else {
            return Ok(Resend {
                repeatability: repeatability(request, false),
                copy: None,
            });
        };
        let declared = match &release.spec.rescue {
            RescuePolicy::Off | RescuePolicy::Safe => false,
            RescuePolicy::Header(name) => is_declared(request.headers(), name),
        };
        if declared {
            buffer(exchange, request, limits).await?;
        }
        enrolment::assign(exchange, route);
        // Another release may have begun while the body was read.
        let declared = match exchange.on_canary().map(|release| &release.spec.rescue) {
            Some(RescuePolicy::Header(name)) => declared && is_declared(request.headers(), name),
            Some(RescuePolicy::Off | RescuePolicy::Safe) => false,
            None => declared,
        };
        exchange.describe_trial(|| {
            let (method, uri) = (request.method().clone(), request.uri().clone());
            Some(SampleCandidate::new(method, uri))
        });
        let repeatability = repeatability(request, declared);
        let wanted = exchange.on_canary().is_some_and(may_fail_over);
        Ok(Resend {
            repeatability,
            copy: (wanted && repeatability.to_another_upstream())
                .then(|| copy(request))
                .flatten(),
        })
    }

    /// Has a request that the canary has failed go to the baseline, if that has an endpoint by the
    /// newest table: one without answers nothing better than what the canary has said.
    pub(crate) fn fail_over(&self, exchange: &Exchange, route: &mut RequestRoute) -> bool {
        let Some(release) = exchange.on_canary().filter(|_| self.copy.is_some()) else {
            return false;
        };
        let worker = exchange.worker();
        worker.with_snapshot(|snapshot| route.refresh(snapshot));
        if !route.has_usable_baseline(release) || !worker.retries.withdraw(release) {
            return false;
        }
        tracing::debug!(
            release = &*release.spec.release,
            "the canary failed: the baseline is asked"
        );
        route.fail_over(Arc::clone(release));
        true
    }

    /// Puts the request back as it was.
    pub(crate) fn restore(&mut self, request: &mut Request<RequestBody>) {
        if let Some(copy) = self.copy.take() {
            *request = *copy;
        }
    }
}

fn may_fail_over(release: &Arc<ReleaseHandle>) -> bool {
    release.spec.rescue != RescuePolicy::Off
}

fn repeatability(request: &Request<RequestBody>, declared: bool) -> Repeatability {
    let body = match request.body() {
        RequestBody::Empty => BodyAtHand::None,
        RequestBody::Whole(_) => BodyAtHand::All,
        RequestBody::Upload(_) => BodyAtHand::Streamed,
    };
    Repeatability::of(request.method(), body, declared)
}

/// Reads a body beforehand, if it is not too long. For both arms of the release alike, and before
/// the request is assigned, so that the time that takes tells nothing about either.
async fn buffer(
    exchange: &Exchange,
    request: &mut Request<RequestBody>,
    limits: &ExchangeTimeouts,
) -> Result<(), Error> {
    if matches!(request.body(), RequestBody::Upload(_))
        && let Some(length) = length(request.headers()).filter(|length| *length <= BODY_BYTES_MAX)
        && let Some(counted) = exchange.client.held.repeat(length)
    {
        let bytes = read(exchange, request.body_mut(), limits, length).await?;
        *request.body_mut() = RequestBody::Whole(counted.around(bytes));
    }
    Ok(())
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a request's sender says that it may be sent twice.
fn is_declared(headers: &HeaderMap, name: &HeaderName) -> bool {
    let refused = |value: &[u8]| value == b"0" || value.eq_ignore_ascii_case(b"false");
    let mut values = headers.get_all(name).iter().peekable();
    values.peek().is_some() && values.all(|value| !refused(value.as_bytes().trim_ascii()))
}

async fn read(
    exchange: &Exchange,
    body: &mut RequestBody,
    limits: &ExchangeTimeouts,
    length: usize,
) -> Result<Bytes, Error> {
    let mut whole = BytesMut::with_capacity(length);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(error) = limits.poll_total(cx) {
                return Poll::Ready(Err(error));
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    if whole.len() + data.len() > length {
                        let error = Error::new(
                            Reason::BadRequest,
                            "the request's body is longer than it says",
                        );
                        return Poll::Ready(Err(error));
                    }
                    whole.extend_from_slice(&data);
                }
                Poll::Ready(Some(Err(_))) => {
                    let fault = exchange.upload.as_ref().and_then(|upload| upload.fault());
                    let gone = Error::new(Reason::ClientAbort, "the client went away");
                    return Poll::Ready(Err(fault.unwrap_or(gone)));
                }
            }
        }
    })
    .await?;
    Ok(whole.freeze())
}

/// A request like another, if its body is at hand.
fn copy(request: &Request<RequestBody>) -> Option<Box<Request<RequestBody>>> {
    let body = match request.body() {
        RequestBody::Empty => RequestBody::Empty,
        RequestBody::Whole(bytes) => RequestBody::Whole(bytes.clone()),
        RequestBody::Upload(_) => return None,
    };
    let mut copy = Box::new(Request::new(body));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    target::copy(request, &mut copy);
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_allows_a_repetition_unless_it_says_no() {
        let name = HeaderName::from_static("x-retry-safe");
        let says = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(&name, http::HeaderValue::from_static(value));
            }
            is_declared(&headers, &name)
        };
        assert!(says(&["1"]) && says(&["yes"]) && says(&[""]));
        assert!(!says(&[]) && !says(&["0"]) && !says(&[" False "]) && !says(&["1", "0"]));
    }
}
