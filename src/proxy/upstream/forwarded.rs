//! What proxies write into `X-Forwarded-*`, of which there are many spellings.
//!
//! Pure: text in, values out.

use std::net::{IpAddr, Ipv6Addr};

use http::HeaderMap;
use http::header::HeaderValue;

/// The address in one element of `X-Forwarded-For`: `203.0.113.7`, `203.0.113.7:51234`,
/// `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:443`, each also in quotes, and IPv6 also with a
/// zone. `None` for everything else, such as `unknown`.
pub(crate) fn address(element: &str) -> Option<IpAddr> {
    let text = element.trim();
    let text = text
        .strip_prefix('"')
        .and_then(|inner| inner.strip_suffix('"'))
        .unwrap_or(text)
        .trim();
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, behind) = rest.split_once(']')?;
        return (behind.is_empty() || port(behind.strip_prefix(':')?).is_some())
            .then(|| v6(inside))
            .flatten();
    }
    match text.split_once(':') {
        None => text.parse().ok().map(IpAddr::V4),
        Some((before, behind)) if before.contains('.') => {
            port(behind)?;
            before.parse().ok().map(IpAddr::V4)
        }
        Some(_) => v6(text),
    }
}

/// An address of IPv6; its zone means something on the machine that wrote it alone.
fn v6(text: &str) -> Option<IpAddr> {
    let (address, zone) = text
        .split_once('%')
        .map_or((text, None), |(address, zone)| (address, Some(zone)));
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
    if zone.is_some_and(|zone| zone.is_empty() || !zone.bytes().all(known)) {
        return None;
    }
    address
        .parse::<Ipv6Addr>()
        .ok()
        .map(|address| IpAddr::V6(address).to_canonical())
}

fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Whether the first element of an `X-Forwarded-Port` is a port.
pub(crate) fn tells_port(value: &HeaderValue) -> bool {
    let told = first(Some(value)).and_then(port);
    told.is_some_and(|port| port > 0)
}

/// The port that a user has connected to, where a trusted proxy does not tell it: that of the host
/// that was asked for, else that of the scheme. `None` when neither is known.
pub(crate) fn client_port(headers: &HeaderMap, host: Option<&HeaderValue>) -> Option<u16> {
    let host = first(headers.get("x-forwarded-host")).or_else(|| first(host));
    let scheme = first(headers.get("x-forwarded-proto"));
    host.and_then(host_port).or(match scheme {
        Some(scheme)
            if scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss") =>
        {
            Some(443)
        }
        Some(_) => Some(80),
        None => host.map(|_| 80),
    })
}

/// The first element of a list: that of the proxy next to the user.
fn first(value: Option<&HeaderValue>) -> Option<&str> {
    let text = value?.to_str().ok()?.split(',').next()?.trim();
    (!text.is_empty()).then_some(text)
}

fn host_port(host: &str) -> Option<u16> {
    let (name, digits) = host.rsplit_once(':')?;
    let whole = name.ends_with(']') || !name.contains(':');
    port(digits).filter(|port| whole && *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood_however_they_are_written() {
        for (text, expected) in [
            ("203.0.113.7", "203.0.113.7"),
            (" 203.0.113.7:51234 ", "203.0.113.7"),
            ("\"203.0.113.7:51234\"", "203.0.113.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("\"[2001:db8::7]:443\"", "2001:db8::7"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:80", "fe80::1"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("[::ffff:203.0.113.7]:1", "203.0.113.7"),
        ] {
            assert_eq!(address(text), Some(expected.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            "unknown",
            "_hidden",
            "203.0.113",
            "203.0.113.7:",
            "203.0.113.7:x",
            "203.0.113.7:99999",
            "203.0.113.7:1:2",
            "[2001:db8::7",
            "[2001:db8::7]x",
            "[2001:db8::7]:",
            "[203.0.113.7]",
            "fe80::1%",
            "\"203.0.113.7",
            "shop.test:80",
        ] {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_is_a_number_that_can_be_connected_to() {
        let tells = |text| tells_port(&HeaderValue::from_static(text));
        for text in ["443", " 8443 ", "8443, 443", "65535"] {
            assert!(tells(text), "{text}");
        }
        for text in [
            "", "0", "https", "65536", "-1", "+80", "4 43", "\"443\"", ",443",
        ] {
            assert!(!tells(text), "{text}");
        }
    }

    #[test]
    fn the_port_is_that_of_the_host_or_of_the_scheme() {
        for (proto, forwarded, host, expected) in [
            (Some("https"), None, Some("shop.test"), Some(443)),
            (Some("https, http"), None, Some("shop.test"), Some(443)),
            (Some("WSS"), None, None, Some(443)),
            (Some("http"), None, Some("shop.test"), Some(80)),
            (Some("https"), None, Some("shop.test:8443"), Some(8443)),
            (Some("https"), None, Some("[2001:db8::7]"), Some(443)),
            (Some("https"), None, Some("[2001:db8::7]:444"), Some(444)),
            (
                Some("https"),
                Some("a.test:9443, b.test"),
                Some("inner:1"),
                Some(9443),
            ),
            (Some("https"), Some("a.test"), Some("inner:1"), Some(443)),
            (None, None, Some("shop.test"), Some(80)),
            (None, None, Some("shop.test:81"), Some(81)),
            (None, None, Some("shop.test:0"), Some(80)),
            (None, None, None, None),
        ] {
            let mut headers = HeaderMap::new();
            let given = [
                ("x-forwarded-proto", proto),
                ("x-forwarded-host", forwarded),
            ];
            for (name, value) in given
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
            {
                headers.insert(name, HeaderValue::from_static(value));
            }
            let host = host.map(HeaderValue::from_static);
            assert_eq!(
                client_port(&headers, host.as_ref()),
                expected,
                "{proto:?} {forwarded:?} {host:?}"
            );
        }
    }
}
