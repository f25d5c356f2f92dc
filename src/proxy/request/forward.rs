//! Sending a request to the upstream that it was drawn for, and waiting for the head of the answer.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use http::{Method, Request, Response, StatusCode, Version};

use super::body::{ExchangeTimeouts, RequestBody};
use super::destination::{Destination, Target};
use super::exchange::Exchange;
use super::headers;
use super::rescue::{self, Next};
use crate::net::is_local;
use crate::proxy::error::Error;
use crate::proxy::http1::fields;
use crate::proxy::observe::sample::SampleCandidate;
use crate::proxy::sticky::Issue;
use crate::proxy::upstream::forwarded_headers::ForwardedHeaders;
use crate::proxy::upstream::held::HeadCharge;
use crate::proxy::upstream::interims::Heard;
use crate::proxy::upstream::revision_guard::RevisionGuard;
use crate::proxy::upstream::{Body, SendError, UpstreamConnection};
use crate::proxy::worker::state::Worker;
use crate::routing::EndpointKey;
use crate::stats::Reason;

/// The head of an upstream's answer, with what is needed to see it through.
#[derive(Debug)]
pub(crate) struct ForwardedResponse {
    pub(crate) response: Response<Body>,
    pub(crate) endpoint: EndpointKey,
    pub(crate) limits: ExchangeTimeouts,
    /// The sticky cookie that is to be set.
    pub(crate) issue: Option<Issue>,
}

/// An upstream's answer, whose body is still to be read.
#[derive(Debug)]
pub(crate) struct UpstreamResponse {
    pub(crate) response: Response<Body>,
    endpoint: EndpointKey,
}

/// Endpoints of an upstream that are tried before a connection failure is the answer.
const ENDPOINTS_TRIED_MAX: usize = 3;
/// Times that a request is sent: a pooled connection may have been closed a moment ago, a new one
/// was not.
const SENDS_MAX: u32 = 2;

/// Sends a request where it belongs.
///
/// # Errors
///
/// What to answer when no upstream does.
pub(crate) async fn send(
    exchange: &mut Exchange,
    request: &mut Request<RequestBody>,
) -> Result<ForwardedResponse, Error> {
    let (mut destination, issue) = Destination::of(exchange, request)?;
    fields::strip_hop_by_hop(request.headers_mut());
    if exchange.client.origin.is_trusted() {
        headers::strip_wrong_port(request.headers_mut());
    }
    let limits = destination.limits(exchange.worker());
    let mut spare = None;
    if let Some(watch) = destination.watch().cloned() {
        rescue::buffer(exchange, &watch, request, &limits).await?;
        destination.draw(exchange);
        exchange.describe_trial(|| {
            Some(SampleCandidate::new(
                request.method().clone(),
                request.uri().clone(),
            ))
        });
        spare = rescue::replay_copy(exchange, request);
    }
    let attempt = attempt(exchange, &mut destination, request, &limits).await;
    let answered = match rescue::next(exchange, &mut destination, attempt, spare) {
        Next::Answer(answered) => answered,
        Next::Send(mut request) => {
            self::attempt(exchange, &mut destination, &mut request, &limits).await
        }
    };
    let UpstreamResponse {
        mut response,
        endpoint,
    } = answered?;
    destination.reserve_cookie(exchange, response.headers_mut());
    Ok(ForwardedResponse {
        response,
        endpoint,
        limits,
        issue,
    })
}

/// Sends a request to the upstream that it is drawn for.
async fn attempt(
    exchange: &mut Exchange,
    destination: &mut Destination,
    request: &mut Request<RequestBody>,
    limits: &ExchangeTimeouts,
) -> Result<UpstreamResponse, Error> {
    let mut sends = 0;
    loop {
        sends += 1;
        let lease = acquire(exchange, destination, limits, sends > 1).await?;
        let (endpoint, reused) = (lease.target.endpoint.key, lease.reused);
        let repeatable = is_repeatable(request);
        let failed = match wait(exchange, lease, request, limits, destination).await? {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(Error::new(
                    Reason::UpstreamProtocolError,
                    "the upstream switched protocols unasked",
                ));
            }
            Ok(response) => {
                return Ok(UpstreamResponse { response, endpoint });
            }
            Err(failed) => failed,
        };
        tracing::debug!(fault = %failed.fault, reused, "the upstream did not answer");
        again(exchange, &failed, repeatable, reused && sends < SENDS_MAX)?;
    }
}

/// Whether a request may be sent once more after the upstream may have seen it: nothing of a body,
/// and a method that may be repeated (RFC 9110 section 9.2.2).
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    let safe = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    safe && matches!(request.body(), RequestBody::Empty)
}

/// Whether to send a request once more after a failure.
///
/// # Errors
///
/// It is not; this is what the failure means.
fn again(
    exchange: &Exchange,
    failed: &SendError,
    repeatable: bool,
    may: bool,
) -> Result<(), Error> {
    if let Some(fault) = exchange.upload.as_ref().and_then(|upload| upload.fault()) {
        return Err(fault);
    }
    if may && (failed.unsent || (repeatable && !failed.answered)) {
        return Ok(());
    }
    Err(if failed.fault.is_nonsense() {
        Error::new(
            Reason::UpstreamProtocolError,
            "the upstream's answer was not understood",
        )
    } else {
        Error::new(
            Reason::Reset,
            "the upstream closed the connection without an answer",
        )
    })
}

/// A connection to the endpoint that was chosen, with the ticket of the request that will be
/// written to it.
struct Lease {
    connection: UpstreamConnection,
    ticket: RevisionGuard,
    target: Target,
    reused: bool,
}

/// Finds a connection. Whoever had to wait for one looks at the routing table again, and is routed
/// anew when the upstream has been taken out meanwhile.
async fn acquire(
    exchange: &mut Exchange,
    destination: &mut Destination,
    limits: &ExchangeTimeouts,
    fresh: bool,
) -> Result<Lease, Error> {
    let worker = Rc::clone(exchange.worker());
    let mut tried = Vec::new();
    let mut last = None;
    loop {
        let Some(target) = destination.target(exchange, &tried) else {
            return Err(last.unwrap_or(Error::new(
                Reason::NoHealthyEndpoint,
                "no endpoint of the upstream is healthy",
            )));
        };
        let pooled = if fresh {
            None
        } else {
            worker.pool.take(target.endpoint.key)
        };
        if let Some(connection) = pooled {
            let ticket = worker.unsent.enter(target.revision);
            return Ok(Lease {
                connection,
                ticket,
                target,
                reused: true,
            });
        }
        match connect(&worker, target.endpoint.address, limits, destination).await {
            Ok(connection) => match destination.confirm(&worker, &target) {
                Some(revision) => {
                    let ticket = worker.unsent.enter(revision);
                    return Ok(Lease {
                        connection,
                        ticket,
                        target,
                        reused: false,
                    });
                }
                None => worker
                    .pool
                    .put(target.endpoint.key, connection, worker.deadlines.coarse()),
            },
            Err(error) => {
                let (endpoint, reason) = (target.endpoint.address, error.reason.as_str());
                tracing::debug!(%endpoint, reason, "no connection");
                tried.push(target.endpoint.key);
                last = Some(error);
                // Another endpoint is no remedy for what is no fault of this one.
                let pointless =
                    matches!(error.reason, Reason::TotalTimeout | Reason::LocalResources);
                if tried.len() >= ENDPOINTS_TRIED_MAX || pointless {
                    return Err(error);
                }
            }
        }
    }
}

async fn connect(
    worker: &Worker,
    address: SocketAddr,
    limits: &ExchangeTimeouts,
    destination: &Destination,
) -> Result<UpstreamConnection, Error> {
    limits.idle.set(destination.timeouts().connect);
    let mut opening = std::pin::pin!(UpstreamConnection::open(address, &worker.buffers));
    poll_fn(|cx| {
        if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
            return Poll::Ready(opened.map_err(|error| connect_error(&error)));
        }
        if let Poll::Ready(error) = limits.poll_total(cx) {
            return Poll::Ready(Err(error));
        }
        limits.idle.poll(cx).map(|()| {
            Err(Error::new(
                Reason::ConnectTimeout,
                "the upstream took no connection in time",
            ))
        })
    })
    .await
}

fn connect_error(error: &io::Error) -> Error {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    if is_local(error) {
        return Error::new(
            Reason::LocalResources,
            "the proxy cannot open another connection",
        );
    }
    match error.kind() {
        ConnectionRefused => Error::new(
            Reason::ConnectRefused,
            "the upstream refused the connection",
        ),
        TimedOut => Error::new(
            Reason::ConnectTimeout,
            "the upstream took no connection in time",
        ),
        HostUnreachable | NetworkUnreachable => Error::unroutable(),
        _ => Error::new(Reason::ConnectError, "no connection to the upstream"),
    }
}

/// Waits for the head of the answer, within the limits of time.
async fn wait(
    exchange: &Exchange,
    lease: Lease,
    request: &mut Request<RequestBody>,
    limits: &ExchangeTimeouts,
    destination: &Destination,
) -> Result<Result<Response<Body>, SendError>, Error> {
    let timeouts = destination.timeouts();
    limits.idle.set(timeouts.first_byte);
    let hop = ForwardedHeaders {
        origin: &exchange.client.origin,
        id: exchange.request_id.as_ref(),
        user: headers::real_ip(request.headers(), &exchange.client),
        endpoint: lease.target.endpoint.address,
    };
    let heard = Heard {
        client: (request.version() == Version::HTTP_11).then_some(&exchange.client.interims),
        ..Heard::default()
    };
    let (mut known, mut held) = (0, false);
    let mut connection = lease.connection;
    if request.version() == Version::HTTP_2 {
        connection.charge(HeadCharge::new(&exchange.client.held));
    }
    let mut sending = std::pin::pin!(connection.send(request, hop, lease.ticket, &heard));
    let deadlines = Rc::clone(&exchange.worker().deadlines);
    let stall = exchange.stall();
    poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(Ok(sent));
        }
        if let Some(stall) = &stall {
            exchange.watch_upload(stall, cx);
        }
        let resumed = std::mem::replace(&mut held, heard.held.get()) && !held;
        if std::mem::replace(&mut known, heard.processing.get()) != known || resumed {
            // It is at work, and has the whole time for the rest (RFC 2518 section 10.1). So has
            // one whose answer was not read for the client's sake.
            limits.idle.set(timeouts.first_byte);
        }
        if let Poll::Ready(error) = limits.poll_total(cx) {
            return Poll::Ready(Err(error));
        }
        while limits.idle.poll(cx).is_ready() {
            if held {
                limits.idle.set(timeouts.first_byte);
                continue;
            }
            // The upstream is late only when it has had all of the request for that long.
            let now = deadlines.coarse();
            let since = exchange
                .upload
                .as_ref()
                .map(|upload| upload.upstream_since(now));
            let patience = u64::try_from(timeouts.first_byte.as_millis()).unwrap_or(u64::MAX);
            match since
                .map(|since| since.saturating_add(patience))
                .filter(|due| *due > now)
            {
                Some(due) => limits.idle.set_at(due),
                None => {
                    return Poll::Ready(Err(Error::new(
                        Reason::FirstByteTimeout,
                        "the upstream did not answer in time",
                    )));
                }
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connection_is_put_down_to_whoever_it_failed_for() {
        let reason = |code| connect_error(&io::Error::from_raw_os_error(code)).reason;
        for code in [
            libc::EMFILE,
            libc::ENFILE,
            libc::EADDRNOTAVAIL,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EAGAIN,
        ] {
            assert_eq!(reason(code), Reason::LocalResources, "{code}");
        }
        assert_eq!(reason(libc::ECONNREFUSED), Reason::ConnectRefused);
        assert_eq!(reason(libc::ETIMEDOUT), Reason::ConnectTimeout);
        assert_eq!(reason(libc::ECONNRESET), Reason::ConnectError);
        for code in [libc::EHOSTUNREACH, libc::ENETUNREACH] {
            assert_eq!(
                connect_error(&io::Error::from_raw_os_error(code)),
                Error::unroutable()
            );
        }
    }
}
