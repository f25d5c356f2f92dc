//! Header fields on their way through: what is taken off, and what is set.

use http::header::{
    CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

use super::client::ClientConnection;
use super::forwarded;
use super::forwarded_headers::X_REAL_IP;
use super::notice::{self, Notice};

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Fields that are for this hop alone, whether `UpstreamConnection` names them or not (RFC 9110
/// section 7.6.1). The expectation of a 100 is among them: each hop answers that itself, as soon as
/// it wants the body.
static HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    UPGRADE,
    TRANSFER_ENCODING,
    HeaderName::from_static("proxy-authenticate"),
    http::header::EXPECT,
    TE,
];

/// The place of a name in [`HOP_BY_HOP`], as a bit. One comparison for nearly every name, by its
/// length: to look each of the eight up in every message would cost more than all else that is done
/// to its headers.
fn hop_by_hop_bit(name: &HeaderName) -> u8 {
    match name.as_str() {
        "connection" => 1,
        "keep-alive" => 1 << 1,
        "proxy-connection" => 1 << 2,
        "upgrade" => 1 << 3,
        "transfer-encoding" => 1 << 4,
        "proxy-authenticate" => 1 << 5,
        "expect" => 1 << 6,
        "te" => 1 << 7,
        _ => 0,
    }
}

/// Fields that a `UpstreamConnection` field cannot take off: they are not the client's to remove.
fn is_protected(name: &HeaderName) -> bool {
    [
        HOST,
        http::header::CONTENT_LENGTH,
        COOKIE,
        http::header::AUTHORIZATION,
    ]
    .contains(name)
}

/// Takes off what is meant for this hop only.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let found = headers
        .keys()
        .fold(0, |found, name| found | hop_by_hop_bit(name));
    if found == 0 {
        return;
    }
    let trailers = found & hop_by_hop_bit(&TE) != 0 && accepts_trailers(headers);
    if found & hop_by_hop_bit(&CONNECTION) != 0 && !is_plain_connection(headers) {
        strip_connection(headers);
    }
    for (at, name) in HOP_BY_HOP.iter().enumerate() {
        if found & (1 << at) != 0 {
            headers.remove(name);
        }
    }
    if trailers {
        // Of `TE` a proxy passes on only this.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes off an `X-Forwarded-Port` that tells no port, so that the next hop is told the one that
/// the user has connected to.
pub(crate) fn strip_wrong_port(headers: &mut HeaderMap) {
    let told = headers.get(&X_FORWARDED_PORT);
    if told.is_some_and(|value| !forwarded::tells_port(value)) {
        headers.remove(&X_FORWARDED_PORT);
    }
}

/// Whether `UpstreamConnection` names no fields: what nearly every one of them says.
fn is_plain_connection(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().all(|value| {
        value.as_bytes().eq_ignore_ascii_case(b"keep-alive")
            || value.as_bytes().eq_ignore_ascii_case(b"close")
    })
}

/// Takes off the fields that `UpstreamConnection` names.
fn strip_connection(headers: &mut HeaderMap) {
    let values: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    for value in values.iter().filter_map(|value| value.to_str().ok()) {
        for name in value
            .split(',')
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        {
            if !is_protected(&name) {
                headers.remove(name);
            }
        }
    }
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    let codings = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    codings
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// HTTP/2 may split cookies over several fields; HTTP/1.1 may not (RFC 9113 section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// The address of the user: the peer's, or the last one in the chain that is not a trusted proxy's.
pub(crate) fn client_address(headers: &HeaderMap, client: &ClientConnection) -> std::net::IpAddr {
    let peer = client.peer.ip().to_canonical();
    if !client.origin.is_trusted() {
        return peer;
    }
    let trusted = &client.listener.options.trusted_proxies;
    let mut nearest = peer;
    for value in headers.get_all(&X_FORWARDED_FOR).iter().rev() {
        let Ok(text) = value.to_str() else {
            not_understood(client, "what is no text");
            return nearest;
        };
        for hop in text.rsplit(',').filter(|hop| !hop.trim().is_empty()) {
            let Some(address) = forwarded::address(hop) else {
                not_understood(client, hop.trim());
                return nearest;
            };
            nearest = address;
            if !trusted.iter().any(|net| net.contains(&nearest)) {
                return nearest;
            }
        }
    }
    nearest
}

/// Says that a trusted proxy tells of its user what is not understood.
fn not_understood(client: &ClientConnection, said: &str) {
    let peer = client.peer.ip().to_canonical();
    if notice::first(Notice::UnreadAddress, client.listener.index, peer) {
        let said: String = said.chars().take(64).collect();
        tracing::warn!(
            listener = client.listener.options.name,
            %peer,
            ?said,
            "a trusted proxy sends an X-Forwarded-For that is not understood, and its users count \
             as the last proxy that is; expected are addresses such as 203.0.113.7, \
             203.0.113.7:51234 or [2001:db8::7]:443 (logged once)"
        );
    }
}

/// Says that users who are told apart by their address come by way of what may be a proxy that
/// nobody has declared.
pub(crate) fn doubt_address(client: &ClientConnection) {
    let peer = client.peer.ip().to_canonical();
    if client.origin.is_trusted() || !is_private(peer) || client.listener.doubted.replace(true) {
        return;
    }
    // One of the kind is enough for a listener: behind it may be all the machines of a network.
    let anybody = std::net::Ipv4Addr::UNSPECIFIED.into();
    if notice::first(Notice::PrivateHop, client.listener.index, anybody) {
        tracing::warn!(
            listener = client.listener.options.name,
            %peer,
            "a service with sticky.client_ip gets requests from a private address that is not \
             among trusted_proxies: if it is a proxy's, all its users stay on one version; name it \
             in the listener's trusted_proxies (logged once)"
        );
    }
}

/// Whether an address is of a network of somebody's own, where proxies are.
fn is_private(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        std::net::IpAddr::V6(v6) => {
            v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local()
        }
    }
}

/// What a request of a trusted peer that says no `X-Real-IP` is to be given for one. Strangers are
/// not asked: what they are given is the same for all their requests.
pub(crate) fn real_ip(headers: &HeaderMap, client: &ClientConnection) -> Option<std::net::IpAddr> {
    let told = client.origin.is_trusted() && !headers.contains_key(&X_REAL_IP);
    told.then(|| client_address(headers, client))
}

/// The request's identity: what a trusted peer says, if it is sane, or a new UUID of version 7 (RFC
/// 9562).
pub(crate) fn request_id(headers: &HeaderMap, client: &ClientConnection) -> HeaderValue {
    if client.origin.is_trusted()
        && let Some(given) = headers.get(&X_REQUEST_ID)
        && (1..=128).contains(&given.len())
        && given.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        // A copy, which does not hold the whole head for as long as the exchange takes.
        return HeaderValue::from_bytes(given.as_bytes()).unwrap_or_else(|_| given.clone());
    }
    client.worker.new_request_id()
}
