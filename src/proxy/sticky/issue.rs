//! Giving a user the cookie, with the answers that can carry it; and keeping its name for the
//! proxy.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, SET_COOKIE};
use http::{Method, response};

use super::shared::{Sharing, sharing};
use super::signer::VALUE_BYTES;
use crate::model::{Name, SameSite, Secure, StickyCookie};
use crate::stats::UpstreamKey;

/// A cookie that goes out with the answer to this request, if that can carry it.
#[derive(Debug)]
pub(crate) struct Issue {
    field: HeaderValue,
    /// Whether the request is of a method whose answers caches store.
    reads: bool,
}

impl Issue {
    /// `https`: the client's scheme.
    pub(crate) fn new(
        cookie: &StickyCookie,
        value: &[u8; VALUE_BYTES],
        https: bool,
        method: &Method,
    ) -> Option<Issue> {
        Some(Issue {
            field: field(cookie, value, https)?,
            reads: matches!(*method, Method::GET | Method::HEAD),
        })
    }

    /// Puts the cookie on the head of an upstream's answer, and tells whether it did. An answer
    /// that shared caches may give to others takes none along: the request was one without a
    /// key, and so is the user's next one. An answer that they might store unasked is made
    /// private, since it is for this user alone now.
    pub(crate) fn onto(self, head: &mut response::Parts) -> bool {
        match sharing(self.reads, head) {
            Sharing::Allowed => return false,
            Sharing::Possible => {
                head.headers
                    .append(CACHE_CONTROL, HeaderValue::from_static("private"));
            }
            Sharing::Excluded => {}
        }
        head.headers.append(SET_COOKIE, self.field);
        true
    }
}

/// The value of the field `Set-Cookie` (RFC 6265 section 4.1).
fn field(cookie: &StickyCookie, value: &[u8; VALUE_BYTES], https: bool) -> Option<HeaderValue> {
    let mut text = String::with_capacity(160);
    text.push_str(&cookie.name);
    text.push('=');
    text.push_str(std::str::from_utf8(value).ok()?);
    text.push_str("; Path=");
    text.push_str(&cookie.path);
    if let Some(domain) = &cookie.domain {
        text.push_str("; Domain=");
        text.push_str(domain);
    }
    if let Some(age) = cookie.max_age {
        // Writing to memory does not fail.
        let _ = write!(text, "; Max-Age={}", age.as_secs());
    }
    let secure = match cookie.secure {
        Secure::Always => true,
        Secure::Never => false,
        Secure::Auto => https || cookie.demands_secure(),
    };
    if secure {
        text.push_str("; Secure");
    }
    text.push_str("; HttpOnly");
    text.push_str(match cookie.same_site {
        SameSite::Lax => "; SameSite=Lax",
        SameSite::Strict => "; SameSite=Strict",
        SameSite::None => "; SameSite=None",
    });
    HeaderValue::try_from(text).ok()
}

/// Which upstreams have been told that they set a cookie of the proxy's name: one bit for each, of
/// all workers.
#[derive(Debug, Default)]
pub(crate) struct Warned([AtomicU64; 32]);

impl Warned {
    /// Whether this is the first time. Beyond 2,048 upstreams some share a bit, and so a warning.
    fn is_first(&self, upstream: UpstreamKey) -> bool {
        let bit = 1_u64 << (upstream.index() % 64);
        let word = self.0.get(upstream.index() / 64 % self.0.len());
        word.is_some_and(|word| {
            word.load(Ordering::Relaxed) & bit == 0
                && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
        })
    }

    /// Takes an upstream's own cookies of that name off its answer, and warns of them once. Its
    /// value would be no key, and would make the user's browser forget the one that it has: the
    /// user would be drawn anew with each answer.
    pub(crate) fn reserve(
        &self,
        cookie: &StickyCookie,
        (service, name, upstream): (&Name, &Name, UpstreamKey),
        headers: &mut HeaderMap,
    ) {
        let taken = |value: &HeaderValue| is_named(value.as_bytes(), &cookie.name);
        if !headers.get_all(SET_COOKIE).iter().any(taken) {
            return;
        }
        let others: Vec<HeaderValue> = headers
            .get_all(SET_COOKIE)
            .iter()
            .filter(|value| !taken(value))
            .cloned()
            .collect();
        headers.remove(SET_COOKIE);
        for value in others {
            headers.append(SET_COOKIE, value);
        }
        if self.is_first(upstream) {
            tracing::warn!(
                service = &**service,
                upstream = &**name,
                cookie = &*cookie.name,
                "the upstream sets a cookie of the name that `sticky.cookie` of its service gives \
                 to the proxy's own; the upstream's is not passed on: name one of them otherwise"
            );
        }
    }
}

/// Whether a value of `Set-Cookie` sets a cookie of this name (RFC 6265 section 5.2).
fn is_named(field: &[u8], name: &str) -> bool {
    let pair = field.split(|byte| *byte == b';').next().unwrap_or_default();
    let mut parts = pair.splitn(2, |byte| *byte == b'=');
    let given = parts.next().unwrap_or_default().trim_ascii();
    given == name.as_bytes() && parts.next().is_some()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Response;

    use super::*;

    const VALUE: &[u8; VALUE_BYTES] =
        b"00112233445566778899aabbccddeeff.ffeeddccbbaa99887766554433221100";

    fn written(cookie: &StickyCookie, https: bool) -> String {
        let value = field(cookie, VALUE, https).unwrap();
        let text = value.to_str().unwrap();
        let (value, attributes) = text.split_once(';').unwrap();
        assert_eq!(value.split_once('=').unwrap().1.as_bytes(), VALUE);
        attributes.to_owned()
    }

    #[test]
    fn the_cookie_has_the_attributes_that_are_declared() {
        let plain = StickyCookie::named("wb");
        assert_eq!(written(&plain, false), " Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(
            written(&plain, true),
            " Path=/; Secure; HttpOnly; SameSite=Lax"
        );
        let full = StickyCookie {
            path: "/shop".into(),
            domain: Some("example.com".into()),
            max_age: Some(Duration::from_secs(2_592_000)),
            same_site: SameSite::None,
            secure: Secure::Always,
            ..StickyCookie::named("wb")
        };
        assert_eq!(
            written(&full, false),
            " Path=/shop; Domain=example.com; Max-Age=2592000; Secure; HttpOnly; SameSite=None"
        );
        let never = StickyCookie {
            secure: Secure::Never,
            same_site: SameSite::Strict,
            ..StickyCookie::named("wb")
        };
        assert_eq!(written(&never, true), " Path=/; HttpOnly; SameSite=Strict");
        assert_eq!(
            written(&StickyCookie::named("__Host-wb"), false),
            " Path=/; Secure; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn an_answer_that_may_be_stored_unasked_is_made_private() {
        let answer = |control: &str| {
            let response = Response::builder()
                .header("etag", "\"1\"")
                .header("cache-control", control);
            let mut head = response.body(()).unwrap().into_parts().0;
            let issue = Issue::new(&StickyCookie::named("wb"), VALUE, false, &Method::GET).unwrap();
            let carried = issue.onto(&mut head);
            assert_eq!(head.headers.contains_key(SET_COOKIE), carried);
            let controls = head.headers.get_all(CACHE_CONTROL).iter();
            (
                carried,
                controls
                    .map(|value| value.to_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
                    .join(", "),
            )
        };
        assert_eq!(answer("no-cache"), (true, "no-cache, private".to_owned()));
        assert_eq!(answer("private"), (true, "private".to_owned()));
        assert_eq!(answer("public"), (false, "public".to_owned()));
    }

    #[test]
    fn an_upstreams_cookie_of_that_name_is_taken_off_and_told_once() {
        let warned = Warned::default();
        let (service, blue, green) = (Name::from("shop"), Name::from("blue"), Name::from("green"));
        let reserve = |name: &Name, key, values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(SET_COOKIE, HeaderValue::from_str(value).unwrap());
            }
            warned.reserve(
                &StickyCookie::named("wb"),
                (&service, name, UpstreamKey(key)),
                &mut headers,
            );
            let left = headers.get_all(SET_COOKIE).iter();
            left.map(|value| value.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let own = [
            "a=1",
            " wb = 2; Path=/",
            "WB=3",
            "wbx=4",
            "wb",
            "b=wb=5",
            "wb=",
        ];
        assert_eq!(
            reserve(&blue, 0, &own),
            ["a=1", "WB=3", "wbx=4", "wb", "b=wb=5"]
        );
        assert!(reserve(&green, 1, &["wb=1"]).is_empty());
        assert_eq!(reserve(&green, 1, &[]), Vec::<String>::new());
        assert!(!warned.is_first(UpstreamKey(0)) && !warned.is_first(UpstreamKey(1)));
        assert!(warned.is_first(UpstreamKey(2)) && !warned.is_first(UpstreamKey(2)));
        assert!(warned.is_first(UpstreamKey(64)));
    }
}
