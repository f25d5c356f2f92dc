//! What makes a user return to the same upstream, and how a tester names one.

use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::client::Client;
use super::headers::{client_address, doubt_address};
use crate::model::{Sticky, Tester};

/// How the upstream of a request is to be chosen.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// A tester named this upstream.
    Named(Box<str>),
    /// By this user's key.
    Key(Box<[u8]>),
    /// By a draw of its own.
    Draw(u64),
}

/// A sticky cookie that the answer is to set.
pub(crate) type NewCookie = Option<HeaderValue>;

/// The longest key that is taken from a request; a longer one is somebody playing.
const KEY_BYTES_MAX: usize = 256;

/// The upstream that a tester names, if the service allows it and the request does. An empty name is none.
pub(crate) fn tester(tester: Option<&Tester>, headers: &HeaderMap) -> Option<Box<str>> {
    let name = match tester? {
        Tester::Header(name) => headers.get(name)?.as_bytes(),
        Tester::Cookie(name) => cookie(headers, name)?,
    };
    // What is no text is no upstream's name either, and is said to be none.
    let name = String::from_utf8_lossy(name.trim_ascii());
    (!name.is_empty()).then(|| name.into())
}

/// The user's key, and the cookie to set when a new user had to be made up.
pub(crate) fn choose(sticky: Option<&Sticky>, headers: &HeaderMap, client: &Client) -> (Choice, NewCookie) {
    let sane = |key: &[u8]| (1..=KEY_BYTES_MAX).contains(&key.len());
    match sticky {
        None => (Choice::Draw(client.worker.draw()), None),
        Some(Sticky::ClientIp) => {
            doubt_address(client);
            (Choice::Key(address_key(client_address(headers, client))), None)
        }
        Some(Sticky::Header(name)) => match headers.get(name).map(HeaderValue::as_bytes).filter(|key| sane(key)) {
            Some(key) => (Choice::Key(key.into()), None),
            None => (Choice::Draw(client.worker.draw()), None),
        },
        Some(Sticky::Cookie(name)) => match cookie(headers, name).filter(|key| sane(key)) {
            Some(key) => (Choice::Key(key.into()), None),
            None => new_user(name, client),
        },
    }
}

fn address_key(address: std::net::IpAddr) -> Box<[u8]> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().into(),
        std::net::IpAddr::V6(v6) => v6.octets().into(),
    }
}

/// A user without a cookie gets a random key: it names no upstream, so it says nothing and stays true as weights move.
fn new_user(name: &str, client: &Client) -> (Choice, NewCookie) {
    let key = format!("{:016x}{:016x}", client.worker.draw(), client.worker.draw());
    let cookie = HeaderValue::from_str(&format!("{name}={key}; Path=/; HttpOnly; SameSite=Lax"));
    (Choice::Key(key.into_bytes().into()), cookie.ok())
}

/// The value of a cookie. Read by hand, since this is on the path of every sticky request and the values of the other
/// cookies are of no interest.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .find_map(|pair| {
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
