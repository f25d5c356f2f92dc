//! Sending a request to one endpoint, and waiting for the head of the response.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, StatusCode, Version};

use super::attempts::{AttemptOutcome, Unanswered};
use super::headers;
use super::route::Target;
use super::timeouts::ExchangeTimeouts;
use super::upload::{RequestBody, UploadProgress};
use crate::net::is_local;
use crate::proxy::deadline::{Millis, TICK_MS};
use crate::proxy::error::Error;
use crate::proxy::upstream::forwarded_headers::ForwardedHeaders;
use crate::proxy::upstream::held::HeadCharge;
use crate::proxy::upstream::interims::Heard;
use crate::proxy::upstream::{Body, UpstreamConnection};
use crate::proxy::worker::client::ClientConnection;
use crate::routing::EndpointKey;
use crate::stats::Reason;

/// The head of an upstream's response, whose body is still to be read.
#[derive(Debug)]
pub(crate) struct UpstreamResponse {
    pub(crate) response: Response<Body>,
    pub(crate) endpoint: EndpointKey,
}

/// What a request is sent with, whichever endpoint it goes to.
#[derive(Debug)]
pub(crate) struct Sender<'a> {
    pub(crate) client: &'a ClientConnection,
    pub(crate) upload: Option<&'a UploadProgress>,
    pub(crate) request_id: Option<&'a HeaderValue>,
    pub(crate) limits: &'a ExchangeTimeouts,
}

impl Sender<'_> {
    /// Sends a request to an endpoint, over a pooled or a new connection. Until its first byte is
    /// written it counts as under the revision that it was routed by; who had to wait for a
    /// connection looks at the newest table again before. `watch` is called whenever the response
    /// is waited for, and told whether the client keeps it from being read.
    pub(crate) async fn send(
        &self,
        target: &Target<'_>,
        request: &mut Request<RequestBody>,
        watch: impl Fn(bool, &Context<'_>),
    ) -> AttemptOutcome<UpstreamResponse> {
        let worker = &*self.client.worker;
        let endpoint = target.endpoint;
        let pooled = match target.fresh {
            true => None,
            false => worker.pool.take(endpoint),
        };
        let reused = pooled.is_some();
        let mut revision = target.revision;
        let connection = match pooled {
            Some(connection) => connection,
            None => match self.connect(target).await {
                Ok(connection) => {
                    match worker.with_snapshot(|snapshot| target.confirm(snapshot)) {
                        Some(newest) => revision = newest,
                        None => {
                            let now = worker.deadlines.coarse();
                            worker.pool.put(endpoint, connection, now);
                            return AttemptOutcome::TakenOut;
                        }
                    }
                    connection
                }
                Err(error) => {
                    let (address, reason) = (target.address, error.reason.as_str());
                    tracing::debug!(endpoint = %address, reason, "no connection");
                    return AttemptOutcome::Unconnected(endpoint, error);
                }
            },
        };
        let guard = worker.unsent.enter(revision);
        let heard = Heard {
            client: (request.version() == Version::HTTP_11).then_some(&self.client.interims),
            ..Heard::default()
        };
        let forwarded = ForwardedHeaders {
            origin: &self.client.origin,
            id: self.request_id,
            user: headers::real_ip(request.headers(), self.client),
            endpoint: target.address,
        };
        let mut connection = connection;
        if request.version() == Version::HTTP_2 {
            connection.charge(HeadCharge::new(&self.client.held));
        }
        let sending = connection.send(request, forwarded, guard, &heard);
        let sent = match self.wait(target, sending, &heard, watch).await {
            Ok(sent) => sent,
            Err(late) => return AttemptOutcome::Failed(late),
        };
        match sent {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                AttemptOutcome::Failed(Error::new(
                    Reason::UpstreamProtocolError,
                    "the upstream switched protocols unasked",
                ))
            }
            Ok(response) => AttemptOutcome::Response(UpstreamResponse { response, endpoint }),
            Err(failed) => {
                tracing::debug!(fault = %failed.fault, reused, "the upstream did not answer");
                AttemptOutcome::Unanswered(Unanswered {
                    reused,
                    unsent: failed.unsent,
                    answered: failed.answered,
                    invalid: failed.fault.is_nonsense(),
                    upload: self.upload.and_then(UploadProgress::fault),
                })
            }
        }
    }

    async fn connect(&self, target: &Target<'_>) -> Result<UpstreamConnection, Error> {
        let late = Error::new(
            Reason::ConnectTimeout,
            "the upstream took no connection in time",
        );
        self.limits.begin(target.timeouts.connect);
        let buffers = &self.client.worker.buffers;
        let mut opening = pin!(UpstreamConnection::open(target.address, buffers));
        poll_fn(|cx| {
            if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
                return Poll::Ready(opened.map_err(|error| connect_error(&error)));
            }
            self.limits.poll(cx, late, || None).map(Err)
        })
        .await
    }

    /// Waits for the head of the response, within the limits of time.
    async fn wait<T>(
        &self,
        target: &Target<'_>,
        sending: impl Future<Output = T>,
        heard: &Heard<'_>,
        watch: impl Fn(bool, &Context<'_>),
    ) -> Result<T, Error> {
        let late = Error::new(
            Reason::FirstByteTimeout,
            "the upstream did not answer in time",
        );
        let limit = target.timeouts.first_byte;
        self.limits.begin(limit);
        let (mut known, mut held) = (0, false);
        let mut sending = pin!(sending);
        poll_fn(|cx| {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(Ok(sent));
            }
            watch(heard.held.get(), cx);
            let resumed = std::mem::replace(&mut held, heard.held.get()) && !held;
            if std::mem::replace(&mut known, heard.processing.get()) != known || resumed {
                // It is at work, and has the whole time for the rest (RFC 2518 section 10.1). So
                // has one whose response was not read for the client's sake.
                self.limits.begin(limit);
            }
            let limit = u64::try_from(limit.as_millis()).unwrap_or(Millis::MAX);
            self.limits
                .poll(cx, late, || self.extended(held, limit))
                .map(Err)
        })
        .await
    }

    /// Until when an upstream may take for its response that is late, if it is not late at all:
    /// since it is not read for the client's sake, or has not had all of the request for that long.
    fn extended(&self, held: bool, limit: Millis) -> Option<Millis> {
        let now = self.client.worker.deadlines.coarse();
        if held {
            return Some(now.saturating_add(limit).saturating_add(TICK_MS));
        }
        let since = self.upload?.upstream_since(now);
        Some(since.saturating_add(limit)).filter(|due| *due > now)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_errors_are_classified_as_local_or_upstream() {
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
