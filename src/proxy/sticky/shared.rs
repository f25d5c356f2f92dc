//! Whether an answer may be given to others than the one who asked.
//!
//! A shared cache stores `Set-Cookie` with the answer (RFC 9111 section 7.3), and hands one user's
//! cookie to all. So an answer that says that it may be shared takes no cookie along. One that says
//! nothing, or that it is to be asked for again each time, may be stored as well; it takes the
//! cookie along and is made private.

use std::time::SystemTime;

use http::header::{CACHE_CONTROL, DATE, ETAG, EXPIRES, HeaderMap, HeaderValue, LAST_MODIFIED};
use http::{StatusCode, response};

/// What a shared cache may do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Store it and give it to others, as the answer says.
    Allowed,
    /// Store it by a guess of its own, or ask for it again and then give what it has stored.
    Possible,
    /// Nothing.
    Excluded,
}

/// What a shared cache may do with an answer to a request that reads (GET or HEAD) or does not.
pub(crate) fn sharing(reads: bool, head: &response::Parts) -> Sharing {
    if head.status == StatusCode::NOT_MODIFIED {
        // It renews what is stored, whatever that said of itself.
        return Sharing::Allowed;
    }
    if targeted(&head.headers) {
        return Sharing::Allowed;
    }
    let control = Control::of(head.headers.get_all(CACHE_CONTROL));
    match control.verdict() {
        Some(Sharing::Possible) => {}
        Some(sharing) => return sharing,
        None if control.max_age.is_none() && is_in_future(&head.headers) => {
            return Sharing::Allowed;
        }
        None => {}
    }
    if reads && is_stored_unasked(head) {
        Sharing::Possible
    } else {
        Sharing::Excluded
    }
}

/// Whether caches may store an answer to a read that does not say for how long, and have something
/// to go by: a date to guess from, or something to ask with whether it still holds.
fn is_stored_unasked(head: &response::Parts) -> bool {
    const CACHEABLE: [u16; 12] = [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501];
    let permanent = matches!(
        head.status,
        StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT
    );
    let validator = head.headers.contains_key(LAST_MODIFIED) || head.headers.contains_key(ETAG);
    CACHEABLE.contains(&head.status.as_u16()) && (permanent || validator)
}

/// Whether a field that is meant for a cache of one kind alone (RFC 9213, and what came before it)
/// lets it share the answer, whatever the others are told.
fn targeted(headers: &HeaderMap) -> bool {
    headers.iter().any(|(name, value)| match name.as_str() {
        "x-accel-expires" => value.as_bytes() != b"0" && value.as_bytes() != b"off",
        "surrogate-control" => shares(value),
        name => name.ends_with("cdn-cache-control") && shares(value),
    })
}

fn shares(value: &HeaderValue) -> bool {
    Control::of([value]).verdict() == Some(Sharing::Allowed)
}

/// Whether `Expires` says that the answer is still fresh. A value that is no date is in the past
/// (RFC 9111 section 5.3).
fn is_in_future(headers: &HeaderMap) -> bool {
    let date = |name| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok();
    date(EXPIRES).is_some_and(|expires| expires > date(DATE).unwrap_or_else(SystemTime::now))
}

/// What counts of `Cache-Control`.
#[derive(Debug, Default)]
struct Control {
    /// `no-store` or `private`.
    closed: bool,
    /// `public`, `s-maxage` or `immutable`.
    open: bool,
    no_cache: bool,
    /// Whether it is above zero, or nonsense.
    max_age: Option<bool>,
}

impl Control {
    fn of<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Control {
        let mut control = Control::default();
        for value in values {
            for_each_directive(value.as_bytes(), |name, argument| {
                control.add(name, argument)
            });
        }
        control
    }

    fn add(&mut self, name: &[u8], argument: Option<&[u8]>) {
        let is = |expected: &str| name.eq_ignore_ascii_case(expected.as_bytes());
        // `private` and `no-cache` with an argument are about the fields that it lists, and caches
        // differ in that.
        self.closed |= is("no-store") || (is("private") && argument.is_none());
        self.open |= is("public") || is("s-maxage") || is("immutable");
        self.no_cache |= is("no-cache") && argument.is_none();
        if is("max-age") {
            let zero = argument
                .is_some_and(|age| !age.is_empty() && age.iter().all(|digit| *digit == b'0'));
            self.max_age = Some(self.max_age.unwrap_or(false) || !zero);
        }
    }

    /// `None` when it says nothing of that.
    fn verdict(&self) -> Option<Sharing> {
        if self.closed {
            Some(Sharing::Excluded)
        } else if self.open {
            Some(Sharing::Allowed)
        } else if self.no_cache {
            Some(Sharing::Possible)
        } else {
            self.max_age.map(|fresh| {
                if fresh {
                    Sharing::Allowed
                } else {
                    Sharing::Possible
                }
            })
        }
    }
}

/// Calls `look` with the name of each directive and its argument, without its quotes. A comma in
/// quotes separates nothing.
fn for_each_directive(value: &[u8], mut look: impl FnMut(&[u8], Option<&[u8]>)) {
    let mut quoted = false;
    let pieces = value.split(|byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    for piece in pieces {
        let mut parts = piece.splitn(2, |byte| *byte == b'=');
        let name = parts.next().unwrap_or_default().trim_ascii();
        let argument = parts.next().map(<[u8]>::trim_ascii);
        let argument = argument.map(|text| unquoted(text).unwrap_or(text));
        look(name, argument);
    }
}

fn unquoted(text: &[u8]) -> Option<&[u8]> {
    text.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    fn told(status: u16, reads: bool, fields: &[(&str, &str)]) -> Sharing {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        sharing(reads, &response.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn cache_control_says_who_may_share() {
        use Sharing::{Allowed, Excluded, Possible};
        for (control, expected) in [
            ("public", Allowed),
            ("PUBLIC, max-age=60", Allowed),
            ("public, no-cache", Allowed),
            ("s-maxage=60", Allowed),
            ("max-age=0, s-maxage=60", Allowed),
            ("max-age=60", Allowed),
            ("max-age=\"60\"", Allowed),
            ("max-age=nonsense", Allowed),
            ("max-age", Allowed),
            ("immutable", Allowed),
            ("private=\"x-user\", max-age=60", Allowed),
            ("no-cache=\"set-cookie, x\", max-age=60", Allowed),
            ("max-age = 60", Allowed),
            ("private, max-age=60", Excluded),
            ("Private", Excluded),
            ("no-store", Excluded),
            ("public, no-store", Excluded),
            ("x=\"public, max-age=60\", no-store", Excluded),
            ("no-cache", Possible),
            ("no-cache, max-age=60", Possible),
            ("max-age=0", Possible),
            ("max-age=00, must-revalidate", Possible),
            ("x=\"public, max-age=60\"", Possible),
            ("must-revalidate", Possible),
            ("", Possible),
        ] {
            let fields = [("cache-control", control), ("etag", "\"1\"")];
            assert_eq!(told(200, true, &fields), expected, "{control}");
        }
        let lines = [
            ("cache-control", "no-transform"),
            ("cache-control", "public"),
        ];
        assert_eq!(told(200, true, &lines), Allowed);
    }

    #[test]
    fn fields_for_one_kind_of_cache_count_too() {
        for (name, value, expected) in [
            ("cdn-cache-control", "max-age=60", Sharing::Allowed),
            ("cloudflare-cdn-cache-control", "public", Sharing::Allowed),
            ("cdn-cache-control", "no-store", Sharing::Excluded),
            ("surrogate-control", "max-age=60", Sharing::Allowed),
            ("x-accel-expires", "60", Sharing::Allowed),
            ("x-accel-expires", "0", Sharing::Excluded),
        ] {
            let fields = [("cache-control", "private"), (name, value)];
            assert_eq!(told(200, true, &fields), expected, "{name}: {value}");
        }
    }

    #[test]
    fn expires_counts_where_cache_control_is_silent() {
        const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let expires = |value, control| {
            told(
                200,
                true,
                &[DATE, ("expires", value), ("cache-control", control)],
            )
        };
        assert_eq!(
            expires("Sun, 06 Nov 1994 08:49:38 GMT", ""),
            Sharing::Allowed
        );
        assert_eq!(
            expires("Sun, 06 Nov 1994 08:49:37 GMT", ""),
            Sharing::Excluded
        );
        assert_eq!(expires("0", ""), Sharing::Excluded);
        assert_eq!(
            expires("Sun, 06 Nov 1994 08:49:38 GMT", "max-age=0"),
            Sharing::Excluded
        );
        assert_eq!(
            expires("Sun, 06 Nov 1994 08:49:38 GMT", "private"),
            Sharing::Excluded
        );
        let far = [("expires", "Fri, 31 Dec 9999 23:59:59 GMT")];
        assert_eq!(told(200, true, &far), Sharing::Allowed);
    }

    #[test]
    fn an_answer_that_says_nothing_is_stored_where_a_cache_can_guess() {
        let modified = [("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")];
        for (status, reads, fields, expected) in [
            (200, true, &modified[..], Sharing::Possible),
            (404, true, &modified, Sharing::Possible),
            (200, false, &modified, Sharing::Excluded),
            (200, true, &[], Sharing::Excluded),
            (301, true, &[], Sharing::Possible),
            (308, true, &[], Sharing::Possible),
            (302, true, &modified, Sharing::Excluded),
            (500, true, &modified, Sharing::Excluded),
            (304, true, &[], Sharing::Allowed),
            (304, true, &[("cache-control", "private")], Sharing::Allowed),
        ] {
            assert_eq!(
                told(status, reads, fields),
                expected,
                "{status} {reads} {fields:?}"
            );
        }
    }
}
