//! Header fields on their way through: what is for one hop alone comes off.

use http::header::{
    CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Fields that are for this hop alone, whether `Connection` names them or not (RFC 9110
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

/// Fields that a `Connection` field cannot take off: they are not the client's to remove.
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

/// Whether `Connection` names no fields: what nearly every one of them says.
fn is_plain_connection(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().all(|value| {
        value.as_bytes().eq_ignore_ascii_case(b"keep-alive")
            || value.as_bytes().eq_ignore_ascii_case(b"close")
    })
}

/// Takes off the fields that `Connection` names.
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
