//! What the client gets: an upstream's response, or the proxy's own.

use std::future::poll_fn;

use bytes::Bytes;
use http::header::{DATE, SET_COOKIE};
use http::{HeaderMap, Response, Version};

use super::exchange::Exchange;
use super::relay::{Relay, ResponseBody};
use super::route::RequestRoute;
use super::timeouts::ExchangeTimeouts;
use crate::model::Sticky;
use crate::proxy::error::Error;
use crate::proxy::http1::fields;
use crate::proxy::sticky::Issue;
use crate::proxy::upstream;
use crate::proxy::upstream::held::{self, QueuedHead};
use crate::proxy::worker::client::ClientConnection;
use crate::routing::EndpointKey;

/// The head of an upstream's response, with what is needed to see it through.
#[derive(Debug)]
pub(crate) struct ForwardedResponse {
    pub(crate) response: Response<upstream::Body>,
    pub(crate) endpoint: EndpointKey,
    pub(crate) limits: ExchangeTimeouts,
    /// The sticky cookie that is to be set.
    pub(crate) issue: Option<Issue>,
}

/// Keeps the name of the service's sticky cookie for the proxy's own, whoever has answered.
pub(crate) fn reserve_cookie(exchange: &Exchange, route: &RequestRoute, headers: &mut HeaderMap) {
    if !headers.contains_key(SET_COOKIE) {
        return;
    }
    let service = route.service();
    if let Some(Sticky::Cookie(cookie)) = &service.sticky
        && let Some(upstream) = route.upstream()
    {
        let who = (&service.name, &upstream.name, upstream.key);
        let warned = &exchange.worker().sticky.warned;
        warned.reserve(cookie, who, headers);
    }
}

/// Waits until the heads of a connection's answers leave room for one more. What has to be kept for
/// long does not keep the memory that it was read into.
async fn queue(client: &ClientConnection, headers: &mut HeaderMap) -> Option<QueuedHead> {
    if client.held.is_scarce() || client.is_blocked() {
        held::detach(headers);
    }
    poll_fn(|cx| client.held.poll_queue(headers, cx)).await
}

/// Passes the upstream's response on, watched to its end.
pub(crate) async fn relay(
    mut exchange: Exchange,
    answer: ForwardedResponse,
    version: Version,
) -> Response<ResponseBody> {
    let ForwardedResponse {
        mut response,
        endpoint,
        limits,
        issue,
    } = answer;
    response
        .body_mut()
        .charge(|| exchange.client.account(version));
    // Before it waits for the client to take other heads: the upstream has done its part.
    // Over HTTP/2 even one without a body may have to wait for that.
    let ended = response.body().is_end_stream() && version != Version::HTTP_2;
    exchange.answered(&response, ended);
    let client = &exchange.client;
    let queued = match version {
        Version::HTTP_2 => queue(client, response.headers_mut()).await,
        _ => None,
    };
    response.body_mut().release_head();
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    fields::strip_hop_by_hop(&mut head.headers);
    if let Some(id) = &exchange.request_id {
        head.headers
            .insert(fields::X_REQUEST_ID.clone(), id.clone());
    }
    if let Some(issue) = issue {
        issue.onto(&mut head);
    }
    if !head.headers.contains_key(DATE) {
        head.headers.insert(DATE, exchange.worker().date());
    }
    let mut relay = Relay {
        body: Some(body),
        endpoint,
        exchange,
        limits,
        offered: false,
        held: false,
        cut: false,
    };
    relay.offer(!relay.is_end_stream());
    if let Some(queued) = queued {
        queued.onto(&mut head.headers);
    }
    Response::from_parts(head, ResponseBody::Relay(Box::new(relay)))
}

/// Answers in the proxy's own name.
pub(crate) fn refuse(mut exchange: Exchange, error: &Error) -> Response<ResponseBody> {
    tracing::debug!(
        reason = error.reason.as_str(),
        detail = error.detail,
        "answered by the proxy"
    );
    let mut response =
        error.response_with(exchange.request_id.as_ref(), exchange.detail.as_deref());
    if exchange.is_head() {
        // The head says how long the body would be.
        *response.body_mut() = Bytes::new();
    }
    exchange.sent(response.body().len());
    exchange.fail(error);
    response.map(ResponseBody::Own)
}
