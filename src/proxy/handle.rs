//! The way of a request, in one function.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{DATE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, Version};

use super::body::{ClientBody, Relay, RequestBody, ResponseBody};
use super::client::ClientConnection;
use super::error::Error;
use super::exchange::Exchange;
use super::forward::{self, ForwardedResponse};
use super::held::{self, HeldHead, QueuedHead};
use super::limits::Permit;
use super::{check, headers, target};
use crate::stats::MethodLabel;
use crate::telemetry::AccessRecord;

/// Answers a request: with what the upstream says, or with why there is nothing.
pub(crate) async fn handle(
    client: Rc<ClientConnection>,
    request: Request<ClientBody>,
    place: Permit,
    head: Option<HeldHead>,
) -> Response<ResponseBody> {
    let _counted = head;
    let mut exchange = Exchange::begin(&client, MethodLabel::of(request.method()), place);
    let version = request.version();
    let (head, body) = request.into_parts();
    let (body, upload) = RequestBody::new(body, &client);
    exchange.upload = upload;
    let mut request = Request::from_parts(head, body);
    introduce(&mut exchange, &client, &request);
    let answered = match check::request(&mut request, &client) {
        Ok(()) => forward::send(&mut exchange, &mut request).await,
        Err(error) => Err(error),
    };
    match answered {
        Ok(mut answer) => {
            answer
                .response
                .body_mut()
                .charge(|| client.account(version));
            // Before it waits for the client to take other heads: the upstream has done its part.
            let ended = answer.response.body().is_end_stream();
            exchange.answered(&answer.response, ended);
            let queued = match version {
                Version::HTTP_2 => queue(&client, answer.response.headers_mut()).await,
                _ => None,
            };
            answer.response.body_mut().release_head();
            let mut response = relay(exchange, answer);
            if let Some(queued) = queued {
                queued.onto(response.headers_mut());
            }
            response
        }
        Err(error) => refuse(exchange, &error),
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

/// Passes the upstream's answer on, watched to its end.
fn relay(exchange: Exchange, answer: ForwardedResponse) -> Response<ResponseBody> {
    let ForwardedResponse {
        response,
        endpoint,
        limits,
        issue,
    } = answer;
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers);
    if let Some(id) = &exchange.request_id {
        head.headers
            .insert(headers::X_REQUEST_ID.clone(), id.clone());
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

/// Gives a request its identity, and keeps what the access log will tell of it.
pub(crate) fn introduce<B>(
    exchange: &mut Exchange,
    client: &ClientConnection,
    request: &Request<B>,
) {
    exchange.describe(|| describe(client, request));
    exchange.request_id = Some(headers::request_id(request.headers(), client));
}

fn describe<B>(client: &ClientConnection, request: &Request<B>) -> AccessRecord {
    let (uri, headers) = (request.uri(), request.headers());
    // A copy, which does not hold the whole head for as long as the exchange takes.
    let header = |name| HeaderValue::from_bytes(headers.get(name)?.as_bytes()).ok();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    AccessRecord {
        client: headers::client_address(headers, client),
        method: Some(request.method().clone()),
        host: host
            .or(uri.authority().map(http::uri::Authority::as_str))
            .map(str::to_owned),
        target: Some(target::of(request).to_owned()),
        protocol: Some(request.version()),
        user_agent: header(USER_AGENT),
        referer: header(http::header::REFERER),
        ..unknown(client)
    }
}

/// What the access log tells of a client of whose request nothing is known.
pub(crate) fn unknown(client: &ClientConnection) -> AccessRecord {
    AccessRecord {
        time: SystemTime::now(),
        listener: client.listener.options.name.as_str().into(),
        client: client.peer.ip().to_canonical(),
        method: None,
        host: None,
        target: None,
        protocol: None,
        status: 0,
        service: None,
        upstream: None,
        endpoint: None,
        outcome: "",
        reason: None,
        bytes_in: 0,
        bytes_out: 0,
        first_byte_us: None,
        total_us: 0,
        request_id: None,
        user_agent: None,
        referer: None,
    }
}
