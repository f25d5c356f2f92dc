//! What this hop says in a request that it passes on: who asked, over what, for which host, and
//! that it came by here.
//!
//! It is written behind the client's own fields, most of it as one piece that is the same for all
//! requests of a connection, and never enters the map of fields: to put seven fields into it for
//! each request cost more than to write the request.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};

use super::forwarded;
use crate::net::Scheme;
use crate::proxy::http1::chunked::write_field;
use crate::proxy::http1::grammar::is_like;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What tells that a request has come by here, so that circles are found. Not `Via`: upstreams such
/// as nginx stop compressing for whoever sends that. Each process appends a word of its own, made
/// at random, so that nobody who has not seen it can pretend that a request goes in circles; who
/// does, gets his own request refused.
static HOPS: HeaderName = HeaderName::from_static("weighbridge-hops");
static OWN_HOP: LazyLock<String> = LazyLock::new(|| format!("{:016x}", fastrand::u64(..)));
/// How often a request may come by: a proxy whose service leads to another one of its own is no
/// circle.
const PASSES_MAX: usize = 8;

pub(crate) static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// What the names of those that tell of a request's origin begin with.
const FAMILY: &str = "x-forwarded-";

/// Where the requests of a connection come from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A proxy whose `X-Forwarded-*` is believed.
    Trusted {
        /// Its address, without its port.
        peer: Box<str>,
        /// The port that it has connected to.
        port: Box<str>,
        /// The scheme that it speaks itself.
        scheme: Scheme,
    },
    /// Anybody else. Nothing that it says of itself counts, so these fields are the same for all
    /// its requests.
    Untrusted(Box<[u8]>),
}

impl Origin {
    pub(crate) fn new(peer: IpAddr, port: u16, scheme: Scheme, trusted: bool) -> Origin {
        let peer = peer.to_string();
        if trusted {
            return Origin::Trusted {
                peer: peer.into(),
                port: port.to_string().into(),
                scheme,
            };
        }
        let scheme = scheme.as_str();
        let fields = format!(
            "x-forwarded-for: {peer}\r\nx-forwarded-proto: {scheme}\r\nx-forwarded-port: \
             {port}\r\nx-real-ip: {peer}\r\n"
        );
        Origin::Untrusted(fields.into_bytes().into())
    }

    pub(crate) fn is_trusted(&self) -> bool {
        matches!(self, Origin::Trusted { .. })
    }
}

/// Whether a request has come by here so often that it must be going in circles.
pub(crate) fn is_looping(headers: &HeaderMap) -> bool {
    if !headers.contains_key(&HOPS) {
        return false;
    }
    let passes = headers
        .get_all(&HOPS)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let own = |hop: &&str| hop.trim() == *OWN_HOP;
    passes
        .flat_map(|value| value.split(','))
        .filter(own)
        .count()
        >= PASSES_MAX
}

/// The fields of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForwardedHeaders<'a> {
    pub(crate) origin: &'a Origin,
    /// The request's identity.
    pub(crate) id: Option<&'a HeaderValue>,
    /// The user's address, where a trusted peer has told it and has not said itself what
    /// `X-Real-IP` is.
    pub(crate) user: Option<IpAddr>,
    /// Where the request goes. That is its host when it names none, which HTTP/1.0 allows and
    /// HTTP/1.1 does not.
    pub(crate) endpoint: SocketAddr,
}

impl ForwardedHeaders<'_> {
    /// Whether the client's own field of that name, which is in lower case, is left out, since this
    /// hop knows better. What the client says of itself counts only when the peer is trusted:
    /// neither the fields that are set here nor the others of that family (`X-Forwarded-Prefix`
    /// and so on), and not with `_` for `-` either, which many upstreams read as the same.
    pub(crate) fn overrules(&self, name: &str) -> bool {
        let is = |expected: &str| is_like(name.as_bytes(), expected.as_bytes());
        match name.as_bytes() {
            [b'x', b'-' | b'_', b'f' | b'r', ..] => {
                let of_family = || {
                    name.get(..FAMILY.len())
                        .is_some_and(|start| is_like(start.as_bytes(), FAMILY.as_bytes()))
                };
                is("x-request-id")
                    || is(X_FORWARDED_FOR.as_str())
                    || (!self.origin.is_trusted() && (of_family() || is("x-real-ip")))
            }
            [b'w', ..] => is(HOPS.as_str()),
            [b'f', ..] => name == "forwarded" && !self.origin.is_trusted(),
            _ => false,
        }
    }

    /// Writes the fields, each on a line. `headers` are the client's own.
    pub(crate) fn write(&self, headers: &HeaderMap, out: &mut Vec<u8>) {
        let host = headers.get(HOST);
        if host.is_none() {
            // Writing to memory does not fail.
            let _ = write!(out, "host: {}\r\n", self.endpoint);
        }
        match self.origin {
            Origin::Trusted { peer, port, scheme } => {
                write_trusted(headers, host, (peer, port, *scheme), out);
                self.write_user(headers, peer, out);
            }
            Origin::Untrusted(fields) => {
                out.extend_from_slice(fields);
                write_known(out, "x-forwarded-host", host);
            }
        }
        write_known(out, "x-request-id", self.id);
        write_list(out, &HOPS, headers, &OWN_HOP);
    }

    /// Behind a trusted peer the real address is the user's: that of the peer, a load balancer's,
    /// is the same for all.
    fn write_user(&self, headers: &HeaderMap, peer: &str, out: &mut Vec<u8>) {
        if headers.contains_key(&X_REAL_IP) {
            return;
        }
        // Writing to memory does not fail.
        let _ = match self.user {
            Some(user) => write!(out, "{X_REAL_IP}: {user}\r\n"),
            None => write!(out, "{X_REAL_IP}: {peer}\r\n"),
        };
    }
}

/// Goes on with what a trusted peer says, and adds what it does not say.
fn write_trusted(
    headers: &HeaderMap,
    host: Option<&HeaderValue>,
    (peer, port, scheme): (&str, &str, Scheme),
    out: &mut Vec<u8>,
) {
    write_list(out, &X_FORWARDED_FOR, headers, peer);
    for (name, value) in [
        ("x-forwarded-proto", Some(scheme.as_str().as_bytes())),
        ("x-forwarded-host", host.map(HeaderValue::as_bytes)),
    ] {
        if let Some(value) = value.filter(|_| !headers.contains_key(name)) {
            write_field(out, name, value);
        }
    }
    if !headers.contains_key("x-forwarded-port") {
        // Writing to memory does not fail.
        let _ = match forwarded::client_port(headers, host) {
            Some(port) => write!(out, "x-forwarded-port: {port}\r\n"),
            None => write!(out, "x-forwarded-port: {port}\r\n"),
        };
    }
}

/// Writes what has been said of a list as one line, with one more element.
fn write_list(out: &mut Vec<u8>, name: &HeaderName, headers: &HeaderMap, last: &str) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    for said in headers.get_all(name) {
        out.extend_from_slice(said.as_bytes());
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(last.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes a field's line, if there is a value.
fn write_known(out: &mut Vec<u8>, name: &str, value: Option<&HeaderValue>) {
    if let Some(value) = value {
        write_field(out, name, value.as_bytes());
    }
}

/// What tests of those who write a request need of a hop.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// One for a stranger's requests.
    pub(crate) fn hop() -> ForwardedHeaders<'static> {
        static STRANGER: LazyLock<Origin> =
            LazyLock::new(|| Origin::new([192, 0, 2, 7].into(), 8080, Scheme::Http, false));
        ForwardedHeaders {
            origin: &STRANGER,
            id: None,
            user: None,
            endpoint: ([192, 0, 2, 9], 80).into(),
        }
    }

    /// The line that every request gets.
    pub(crate) fn own_hop() -> String {
        format!("weighbridge-hops: {}", *OWN_HOP)
    }

    /// A request as it was written, without the fields that [`hop`] adds to it, which are
    /// there once and in one piece.
    pub(crate) fn without_hop(written: &[u8], headers: &HeaderMap) -> Vec<u8> {
        let mut said = Vec::new();
        hop().write(headers, &mut said);
        let places: Vec<usize> = memchr::memmem::find_iter(written, &said).collect();
        let [at] = places[..] else {
            panic!(
                "{:?} is there {} times",
                said.escape_ascii().to_string(),
                places.len()
            )
        };
        [&written[..at], &written[at + said.len()..]].concat()
    }
}
