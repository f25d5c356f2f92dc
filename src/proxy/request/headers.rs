//! What a request's header fields say of its client, as far as that is believed.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::notice::{self, Notice};
use crate::proxy::http1::fields::{self, X_REQUEST_ID};
use crate::proxy::upstream::forwarded;
use crate::proxy::upstream::forwarded_headers::X_REAL_IP;
use crate::proxy::worker::client::ClientConnection;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Takes off what is not for the upstream: fields of this hop, and of a trusted peer what it cannot
/// mean.
pub(crate) fn strip(headers: &mut HeaderMap, client: &ClientConnection) {
    fields::strip_hop_by_hop(headers);
    if client.origin.is_trusted() {
        strip_wrong_port(headers);
    }
}

/// Takes off an `X-Forwarded-Port` that tells no port, so that the next hop is told the one that
/// the user has connected to.
fn strip_wrong_port(headers: &mut HeaderMap) {
    let told = headers.get(&X_FORWARDED_PORT);
    if told.is_some_and(|value| !forwarded::tells_port(value)) {
        headers.remove(&X_FORWARDED_PORT);
    }
}

/// The address of the user: the peer's, or the last one in the chain that is not a trusted proxy's.
pub(crate) fn client_address(headers: &HeaderMap, client: &ClientConnection) -> std::net::IpAddr {
    let peer = client.downstream.peer.ip().to_canonical();
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
    let peer = client.downstream.peer.ip().to_canonical();
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
    let peer = client.downstream.peer.ip().to_canonical();
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
