//! Rescue: a request that the canary failed before a byte of an answer reached the client is
//! answered by the baseline instead, where it may be sent twice and there are not too many of them.
//!
//! It still counts against the canary, in the release and in the statistics; see
//! [`RequestTrial`](crate::proxy::observe::request_trial::RequestTrial).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use http::{Method, Request};
use http_body::Body;

use super::body::{ExchangeTimeouts, RequestBody};
use super::destination::Destination;
use super::exchange::Exchange;
use super::forward::UpstreamResponse;
use crate::proxy::error::Error;
use crate::proxy::http1::target;
use crate::routing::{ReleaseHandle, RescuePolicy};
use crate::stats::{Class, Reason};

/// The largest body that is held so that it can be sent twice.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Reads a request's body beforehand if a rescue might have to send it again. On both sides of the
/// release alike, and before it is drawn, so that the time that takes tells nothing about either.
///
/// # Errors
///
/// The client does not send it, or takes longer than it may.
pub(crate) async fn buffer(
    exchange: &Exchange,
    watch: &ReleaseHandle,
    request: &mut Request<RequestBody>,
    limits: &ExchangeTimeouts,
) -> Result<(), Error> {
    let RescuePolicy::Header(name) = &watch.spec.rescue else {
        return Ok(());
    };
    let may =
        matches!(request.body(), RequestBody::Upload(_)) && is_repeatable(request.headers(), name);
    if may
        && let Some(length) = length(request.headers()).filter(|length| *length <= BODY_BYTES_MAX)
    {
        let bytes = read(exchange, request.body_mut(), limits, length).await?;
        *request.body_mut() = RequestBody::Whole(bytes);
    }
    Ok(())
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a request's sender says that it may be sent twice.
fn is_repeatable(headers: &HeaderMap, name: &HeaderName) -> bool {
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

/// A copy of a request that is about to go to the canary, if it may be sent a second time.
pub(crate) fn replay_copy(
    exchange: &Exchange,
    request: &Request<RequestBody>,
) -> Option<Box<Request<RequestBody>>> {
    let watch = exchange.trial.as_ref()?.on_canary()?;
    let bodiless = matches!(request.body(), RequestBody::Empty);
    let safe = bodiless
        && matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
        );
    let may = match &watch.spec.rescue {
        RescuePolicy::Off => false,
        RescuePolicy::Safe => safe,
        RescuePolicy::Header(name) => safe || is_repeatable(request.headers(), name),
    };
    let body = match request.body() {
        RequestBody::Empty => RequestBody::Empty,
        RequestBody::Whole(bytes) => RequestBody::Whole(bytes.clone()),
        RequestBody::Upload(_) => return None,
    };
    may.then(|| Box::new(copy(request, body)))
}

/// A request like another.
fn copy(request: &Request<RequestBody>, body: RequestBody) -> Request<RequestBody> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    target::copy(request, &mut copy);
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// What follows an attempt.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every one is an answer, which would otherwise be put on the heap"
)]
pub(crate) enum Next {
    /// It is the answer.
    Answer(Result<UpstreamResponse, Error>),
    /// This is sent to the baseline.
    Send(Box<Request<RequestBody>>),
}

/// Decides whether the canary's attempt is what the client gets.
pub(crate) fn next(
    exchange: &mut Exchange,
    destination: &mut Destination,
    attempt: Result<UpstreamResponse, Error>,
    spare: Option<Box<Request<RequestBody>>>,
) -> Next {
    let class = match &attempt {
        Ok(head) => Class::of_status(head.response.status().as_u16()),
        // Nothing can be answered in no time.
        Err(error) if error.reason == Reason::TotalTimeout => Class::ClientAbort,
        Err(error) => error.class(),
    };
    let watch = exchange
        .trial
        .as_ref()
        .and_then(|trial| trial.on_canary())
        .cloned();
    let (Some(watch), Some(spare)) = (watch.filter(|_| class.is_failure()), spare) else {
        return Next::Answer(attempt);
    };
    // A baseline without endpoints answers nothing better than what the canary has said.
    let worker = Rc::clone(exchange.worker());
    if !destination.can_rescue(&worker, &watch) || !worker.retries.withdraw(&watch) {
        return Next::Answer(attempt);
    }
    destination.rescue(&watch);
    exchange.desert(class, attempt.as_ref().map(|head| &head.response));
    tracing::debug!(
        release = &*watch.spec.release,
        class = class.as_str(),
        "the canary failed: the baseline is asked"
    );
    // The answer goes with its connection, which is not pooled with a body half read.
    drop(attempt);
    Next::Send(spare)
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
            is_repeatable(&headers, &name)
        };
        assert!(says(&["1"]) && says(&["yes"]) && says(&[""]));
        assert!(!says(&[]) && !says(&["0"]) && !says(&[" False "]) && !says(&["1", "0"]));
    }
}
