//! Whose request it is, and how a tester names an upstream.

use std::sync::Arc;

use http::Request;
use http::header::{COOKIE, FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::exchange::Exchange;
use super::headers::{client_address, doubt_address};
use super::route::{self, RequestRoute};
use crate::model::{StickyCookie, Tester};
use crate::net::Scheme;
use crate::proxy::error::Error;
use crate::proxy::observe::request_trial;
use crate::proxy::sticky::{Choice, Form, Issue, KEY_BYTES, StickyIdentity};
use crate::proxy::worker::client::ClientConnection;
use crate::routing::RoutedService;
use crate::stats::Reason;

/// The longest key that is taken from a header; a longer one is somebody playing.
const HEADER_KEY_BYTES_MAX: usize = 256;
/// Tags that are checked for one request. Whoever sends more cookies of the name is playing, and
/// pays for it himself.
const TAGS_CHECKED_MAX: u32 = 8;

static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

fn known(key: &[u8]) -> StickyIdentity {
    StickyIdentity {
        choice: Choice::Key(key.into()),
        issue: None,
    }
}

fn unknown(client: &ClientConnection) -> StickyIdentity {
    StickyIdentity {
        choice: Choice::Draw(client.worker.draw()),
        issue: None,
    }
}

/// Routes a request, and settles how its upstream is chosen; with the cookie that its response is
/// to set.
///
/// # Errors
///
/// No route matches, or a tester names an upstream that does not exist.
pub(crate) fn route<B>(
    exchange: &mut Exchange,
    request: &Request<B>,
) -> Result<(RequestRoute, Option<Issue>), Error> {
    let client = &*exchange.client;
    let (service, revision) = client
        .worker
        .with_snapshot(|snapshot| {
            let service = route::service(snapshot, request)?;
            Some((Arc::clone(service), snapshot.revision))
        })
        .ok_or(NO_ROUTE)?;
    client.limit_writes(service.timeouts.idle);
    let headers = request.headers();
    if let Some(name) = tester(service.tester.as_ref(), headers) {
        if service.upstream(&name).is_none() {
            return Err(unknown_upstream(exchange, &service));
        }
        let choice = Choice::Named(name);
        return Ok((RequestRoute::new(service, revision, choice, None), None));
    }
    let StickyIdentity { choice, issue } = identify(&service, request, client);
    let user = service.watch.is_some().then(|| {
        let address = || client_address(headers, client);
        request_trial::user(&service, &choice, address)
    });
    Ok((RequestRoute::new(service, revision, choice, user), issue))
}

const NO_ROUTE: Error = Error::new(
    Reason::NoRoute,
    "no route matches the request's host and path",
);

/// A tester who is taken for a user would believe that the new version works.
fn unknown_upstream(exchange: &mut Exchange, service: &RoutedService) -> Error {
    let names: Vec<&str> = service
        .upstreams
        .iter()
        .map(|upstream| &*upstream.name)
        .collect();
    let (service, names) = (&service.name, names.join(", "));
    exchange.detail = Some(format!(
        "the request names an upstream that service {service} does not have; its upstreams are: \
         {names}"
    ));
    Error::new(
        Reason::BadRequest,
        "the request names an upstream that does not exist",
    )
}

/// The upstream that a tester names, if the service allows it and the request does. An empty name
/// is none.
fn tester(tester: Option<&Tester>, headers: &HeaderMap) -> Option<Box<str>> {
    let name = match tester? {
        Tester::Header(name) => headers.get(name)?.as_bytes(),
        Tester::Cookie(name) => cookies(headers, name).next()?,
    };
    // What is no text is no upstream's name either, and is said to be none.
    let name = String::from_utf8_lossy(name.trim_ascii());
    (!name.is_empty()).then(|| name.into())
}

/// Who a request is from.
fn identify<B>(
    service: &RoutedService,
    request: &Request<B>,
    client: &ClientConnection,
) -> StickyIdentity {
    use crate::model::Sticky;
    let headers = request.headers();
    match &service.sticky {
        None => unknown(client),
        Some(Sticky::ClientIp) => {
            doubt_address(client);
            known(&address_key(client_address(headers, client)))
        }
        Some(Sticky::Header(name)) => match header_key(name, headers, client) {
            Some(key) => known(key),
            None => unknown(client),
        },
        Some(Sticky::Cookie(cookie)) => by_cookie(service, cookie, request, client),
    }
}

/// The header is the word of the hop before this one. Where it is known who that is, others have no
/// say in it.
fn header_key<'a>(
    name: &HeaderName,
    headers: &'a HeaderMap,
    client: &ClientConnection,
) -> Option<&'a [u8]> {
    let believed = client.origin.is_trusted() || client.listener.options.trusted_proxies.is_empty();
    let key = headers.get(name).filter(|_| believed)?.as_bytes();
    (1..=HEADER_KEY_BYTES_MAX)
        .contains(&key.len())
        .then_some(key)
}

fn address_key(address: std::net::IpAddr) -> Box<[u8]> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().into(),
        std::net::IpAddr::V6(v6) => v6.octets().into(),
    }
}

/// Of several cookies of the name, which browsers send the one with the longest path first, the
/// first that is signed counts. Without one, the first of the old form keeps its key and is signed
/// now, but not while a release is under way: anybody can make it up. Everybody else is a new user.
fn by_cookie<B>(
    service: &RoutedService,
    cookie: &StickyCookie,
    request: &Request<B>,
    client: &ClientConnection,
) -> StickyIdentity {
    let signer = &client.worker.signer;
    let (mut old, mut checked) = (None, 0);
    for value in cookies(request.headers(), &cookie.name) {
        match Form::of(value) {
            Form::Signed { key, tag } if checked < TAGS_CHECKED_MAX => {
                checked += 1;
                if signer.verify(&service.name, key, tag) {
                    return known(key);
                }
            }
            Form::Unsigned(key) => old = old.or(Some(key)),
            Form::Signed { .. } | Form::Foreign => {}
        }
    }
    let old = old.filter(|_| service.watch.is_none());
    let old: Option<&[u8; KEY_BYTES]> = old.and_then(|key| key.try_into().ok());
    let key = old.copied().unwrap_or_else(|| new_key(client));
    let value = signer.sign(&service.name, &key);
    let https = is_https(request.headers(), client);
    StickyIdentity {
        choice: Choice::Key(key.into()),
        issue: Issue::new(cookie, &value, https, request.method()),
    }
}

/// A random key: it names no upstream, so it says nothing and stays true as weights move.
fn new_key(client: &ClientConnection) -> [u8; KEY_BYTES] {
    let text = format!("{:016x}{:016x}", client.worker.draw(), client.worker.draw());
    let mut key = [b'0'; KEY_BYTES];
    key.iter_mut()
        .zip(text.bytes())
        .for_each(|(place, digit)| *place = digit);
    key
}

/// Whether the client came over TLS: to here, or as a trusted proxy says that has ended it. Of
/// several hops the first is the client's.
fn is_https(headers: &HeaderMap, client: &ClientConnection) -> bool {
    let direct = client.downstream.scheme == Scheme::Https;
    if !client.origin.is_trusted() {
        return direct;
    }
    let first = |value: &'_ HeaderValue| {
        value
            .to_str()
            .ok()
            .and_then(|text| text.split(',').next())
            .map(str::to_owned)
    };
    match headers.get(&X_FORWARDED_PROTO) {
        Some(proto) => first(proto).is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https")),
        None => headers
            .get(FORWARDED)
            .and_then(first)
            .map_or(direct, |hop| {
                let mut pairs = hop.split(';').filter_map(|pair| pair.split_once('='));
                pairs.any(|(name, value)| {
                    name.trim().eq_ignore_ascii_case("proto")
                        && value.trim().trim_matches('"').eq_ignore_ascii_case("https")
                })
            }),
    }
}

/// The values of the cookies of a name, in the order of the request. Read by hand, since this is on
/// the path of every sticky request and the values of the other cookies are of no interest.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(
                value
                    .strip_prefix(b"\"")
                    .and_then(|inner| inner.strip_suffix(b"\""))
                    .unwrap_or(value),
            )
        })
}
