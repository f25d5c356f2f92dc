//! What this hop says in a request that it passes on: who asked, over what, for which host, and that it came by here.
//!
//! It is written behind the client's own fields, most of it as one piece that is the same for all requests of a
//! connection, and never enters the map of fields: to put seven fields into it for each request cost more than to write
//! the request.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use http::Version;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};

use super::gate_line::is_like;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What the names of those that tell of a request's origin begin with.
const FAMILY: &str = "x-forwarded-";

/// What all requests of a connection have in common.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Whether the peer is a proxy whose `X-Forwarded-*` is believed.
    pub(crate) trusted: bool,
    /// The peer's address, without its port.
    peer: Box<str>,
    /// The port that it has connected to.
    port: Box<str>,
    /// The fields that are the same for all requests, when nothing that the client says of itself counts.
    fields: Box<[u8]>,
}

impl Origin {
    pub(crate) fn new(peer: IpAddr, port: u16, trusted: bool) -> Origin {
        let (peer, port) = (peer.to_string(), port.to_string());
        let fields = format!(
            "x-forwarded-for: {peer}\r\nx-forwarded-proto: http\r\nx-forwarded-port: {port}\r\nx-real-ip: {peer}\r\n"
        );
        Origin {
            trusted,
            peer: peer.into(),
            port: port.into(),
            fields: fields.into_bytes().into(),
        }
    }
}

/// The fields of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop<'a> {
    pub(crate) origin: &'a Origin,
    /// The request's identity.
    pub(crate) id: Option<&'a HeaderValue>,
    /// The version that the client speaks.
    pub(crate) version: Version,
    /// Where the request goes. That is its host when it names none, which HTTP/1.0 allows and HTTP/1.1 does not.
    pub(crate) endpoint: SocketAddr,
}

impl Hop<'_> {
    /// Whether the client's own field of that name, which is in lower case, is left out, since this hop knows better. What
    /// the client says of itself counts only when the peer is trusted: neither the fields that are set here nor the others
    /// of that family (`X-Forwarded-Prefix` and so on), and not with `_` for `-` either, which many upstreams read as the
    /// same.
    pub(crate) fn overrules(&self, name: &str) -> bool {
        let is = |expected: &str| name.len() == expected.len() && is_like(name.as_bytes(), expected.as_bytes());
        match name.as_bytes() {
            [b'x', b'-' | b'_', b'f' | b'r', ..] => {
                let forwarded = name
                    .get(..FAMILY.len())
                    .is_some_and(|start| is_like(start.as_bytes(), FAMILY.as_bytes()));
                is("x-request-id")
                    || is(X_FORWARDED_FOR.as_str())
                    || (!self.origin.trusted && (forwarded || is("x-real-ip")))
            }
            [b'f', ..] => name == "forwarded" && !self.origin.trusted,
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
        if self.origin.trusted {
            self.write_trusted(headers, host, out);
        } else {
            out.extend_from_slice(&self.origin.fields);
            write_known(out, b"x-forwarded-host: ", host);
        }
        write_known(out, b"x-request-id: ", self.id);
        // As a gateway must in each request that it forwards (RFC 9110 section 7.6.3).
        out.extend_from_slice(match self.version {
            Version::HTTP_10 => b"via: 1.0 weighbridge\r\n",
            Version::HTTP_2 => b"via: 2.0 weighbridge\r\n",
            _ => b"via: 1.1 weighbridge\r\n",
        });
    }

    /// Goes on with what a trusted peer says, and adds what it does not say.
    fn write_trusted(&self, headers: &HeaderMap, host: Option<&HeaderValue>, out: &mut Vec<u8>) {
        let peer = self.origin.peer.as_bytes();
        out.extend_from_slice(b"x-forwarded-for: ");
        for hop in headers.get_all(&X_FORWARDED_FOR) {
            out.extend_from_slice(hop.as_bytes());
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(peer);
        out.extend_from_slice(b"\r\n");
        let port = self.origin.port.as_bytes();
        for (name, value) in [
            ("x-forwarded-proto", Some(&b"http"[..])),
            ("x-forwarded-host", host.map(HeaderValue::as_bytes)),
            ("x-forwarded-port", Some(port)),
            ("x-real-ip", Some(peer)),
        ] {
            if let Some(value) = value.filter(|_| !headers.contains_key(name)) {
                write_field(out, name, value);
            }
        }
    }
}

/// Writes a field's line.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a field whose name is given with the colon, if there is a value.
fn write_known(out: &mut Vec<u8>, name: &[u8], value: Option<&HeaderValue>) {
    if let Some(value) = value {
        out.extend_from_slice(name);
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields that an upstream gets of a request with those of the client.
    fn passed_on(trusted: bool, fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let id = HeaderValue::from_static("id-1");
        let hop = Hop {
            origin: &Origin::new([192, 0, 2, 7].into(), 8080, trusted),
            id: Some(&id),
            version: Version::HTTP_11,
            endpoint: ([192, 0, 2, 9], 80).into(),
        };
        let mut out = Vec::new();
        for (name, value) in headers.iter().filter(|(name, _)| !hop.overrules(name.as_str())) {
            write_field(&mut out, name.as_str(), value.as_bytes());
        }
        hop.write(&headers, &mut out);
        let mut lines: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_a_stranger_says_of_itself_does_not_count() {
        let expected = [
            "accept: */*",
            "host: shop.test",
            "via: 1.0 other",
            "via: 1.1 weighbridge",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: shop.test",
            "x-forwarded-port: 8080",
            "x-forwarded-proto: http",
            "x-real-ip: 192.0.2.7",
            "x-request-id: id-1",
        ];
        let plain = [("host", "shop.test"), ("accept", "*/*"), ("via", "1.0 other")];
        assert_eq!(passed_on(false, &plain), expected);
        let mut lies = plain.to_vec();
        for name in [
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
        ] {
            lies.extend([(name, "lie"), (name, "another")]);
        }
        lies.extend([("x-real-ip", "lie"), ("forwarded", "for=lie"), ("x-request-id", "lie")]);
        lies.extend([
            ("x_real_ip", "lie"),
            ("x_forwarded-for", "lie"),
            ("x_request_id", "lie"),
        ]);
        lies.extend([("x-forwarded-prefix", "/lie"), ("x_forwarded_ssl", "on")]);
        assert_eq!(passed_on(false, &lies), expected);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_passed_on_and_completed() {
        let said = [
            ("host", "inner.test"),
            ("x-forwarded-for", "198.51.100.1, 198.51.100.2"),
            ("x-forwarded-for", "198.51.100.3"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=198.51.100.1"),
        ];
        assert_eq!(
            passed_on(true, &said),
            [
                "forwarded: for=198.51.100.1",
                "host: inner.test",
                "via: 1.1 weighbridge",
                "x-forwarded-for: 198.51.100.1, 198.51.100.2, 198.51.100.3, 192.0.2.7",
                "x-forwarded-host: inner.test",
                "x-forwarded-port: 8080",
                "x-forwarded-proto: https",
                "x-real-ip: 192.0.2.7",
                "x-request-id: id-1",
            ]
        );
    }

    #[test]
    fn a_request_without_a_host_is_given_the_endpoint_and_claims_none() {
        let passed = passed_on(false, &[]);
        assert!(passed.contains(&"host: 192.0.2.9:80".to_owned()), "{passed:?}");
        assert!(
            !passed.iter().any(|line| line.starts_with("x-forwarded-host")),
            "{passed:?}"
        );
    }
}
