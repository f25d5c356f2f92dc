//! What the access log tells of a request.

use std::time::SystemTime;

use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request};

use super::exchange::Exchange;
use super::headers;
use crate::proxy::http1::target;
use crate::proxy::worker::client::ClientConnection;
use crate::telemetry::AccessRecord;

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
        client: client.downstream.peer.ip().to_canonical(),
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
