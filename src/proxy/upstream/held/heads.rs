//! Heads and trailers at the size that they take in memory.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Request, Uri};

use super::Held;

/// Bytes of the heads of an HTTP/2 connection's requests that are not answered yet, and of the
/// bodies that are kept in order to be sent twice.
pub(super) const HEADS_MAX: usize = 384 * 1024;
/// What a head takes that stays in the memory that `h2` read it into.
const PINNED: usize = 16 * 1024;
/// Bytes of heads up to which they stay there; further ones are copied out of it.
const PINNED_MAX: usize = 64 * 1024;
/// What a name takes in a map, with its part of the index and a text of its own.
const NAME: usize = 128;
/// What each further value of the same name takes.
const VALUE: usize = 72;
/// The least number of further values that a map has room for, once it has any.
const VALUES_MIN: usize = 4;

/// The head of a request, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldHead {
    held: Rc<Held>,
    bytes: usize,
}

impl Held {
    /// Counts the head of a request of HTTP/2, if there is room for it. There is always room for
    /// the only one. Of a connection with many requests, it is copied out of the memory that it was
    /// read into, of which other frames may have had most.
    pub(crate) fn head<B>(self: &Rc<Self>, request: &mut Request<B>) -> Option<HeldHead> {
        let uri = request.uri();
        let target = uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        let host = uri.authority().map_or(0, |host| host.as_str().len());
        let bytes = memory(request.headers()) + target + host;
        if bytes < PINNED / 2 && self.heads.get() + PINNED + bytes <= PINNED_MAX {
            return self.count(PINNED + bytes);
        }
        let head = self.count(bytes)?;
        detach(request.headers_mut());
        detach_target(request.uri_mut());
        Some(head)
    }

    /// Counts the trailers of a request of HTTP/2, if there is room for them, and copies them out
    /// of the memory that they were read into.
    pub(crate) fn trailers(self: &Rc<Self>, trailers: &mut HeaderMap) -> Option<HeldHead> {
        let head = self.count(memory(trailers))?;
        detach(trailers);
        Some(head)
    }

    fn count(self: &Rc<Self>, bytes: usize) -> Option<HeldHead> {
        let heads = self.heads.get();
        if heads > 0 && heads + self.repeated.load(Ordering::Relaxed) + bytes > HEADS_MAX {
            return None;
        }
        self.heads.set(heads + bytes);
        Some(HeldHead {
            held: Rc::clone(self),
            bytes,
        })
    }
}

impl Drop for HeldHead {
    fn drop(&mut self) {
        let heads = &self.held.heads;
        heads.set(heads.get().saturating_sub(self.bytes));
    }
}

/// What `headers` take in memory, apart from what they were read into.
pub(super) fn memory(headers: &HeaderMap) -> usize {
    let further = match headers.len() - headers.keys_len() {
        0 => 0,
        further => further.next_power_of_two().max(VALUES_MIN),
    };
    let text: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    headers.capacity() * NAME + further * VALUE + text
}

/// Copies the values of `headers` out of the memory that they were read into.
pub(crate) fn detach(headers: &mut HeaderMap) {
    let length = headers.values().map(HeaderValue::len).sum();
    let mut all = BytesMut::with_capacity(length);
    for value in headers.values() {
        all.extend_from_slice(value.as_bytes());
    }
    let mut all = all.freeze();
    for value in headers.values_mut() {
        let text = all.split_to(value.len());
        if let Ok(mut copy) = HeaderValue::from_maybe_shared(text) {
            copy.set_sensitive(value.is_sensitive());
            *value = copy;
        }
    }
}

/// Copies a target out of the memory that it was read into.
fn detach_target(uri: &mut Uri) {
    let mut parts = std::mem::take(uri).into_parts();
    if let Some(host) = &mut parts.authority
        && let Ok(copy) = Authority::try_from(host.as_str())
    {
        *host = copy;
    }
    if let Some(target) = &mut parts.path_and_query
        && let Ok(copy) = PathAndQuery::try_from(target.as_str())
    {
        *target = copy;
    }
    // Its parts are those of a whole one.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Empties `headers` for another head. A map that has grown to more than `kept` fields is not
/// kept.
pub(crate) fn recycle(headers: &mut HeaderMap, kept: usize) {
    if headers.capacity() > kept || headers.len() > kept {
        *headers = HeaderMap::new();
    } else {
        headers.clear();
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn request(fields: &HeaderMap) -> Request<()> {
        let mut request = Request::get("https://shop/a?b").body(()).unwrap();
        *request.headers_mut() = fields.clone();
        request
    }

    #[test]
    fn heads_of_requests_are_bounded_for_the_connection_and_one_alone_always_passes() {
        let held = Rc::new(Held::default());
        let mut cookies = HeaderMap::new();
        cookies.insert("cookie", "x".repeat(100_000).parse().unwrap());
        let count = || held.head(&mut request(&cookies));
        let heads: Vec<_> = std::iter::from_fn(count).take(100).collect();
        assert_eq!(heads.len(), HEADS_MAX / 100_000);
        drop(heads);
        let mut large = HeaderMap::new();
        large.insert("cookie", "x".repeat(600_000).parse().unwrap());
        let alone = held.head(&mut request(&large));
        assert!(alone.is_some() && count().is_none());
        drop(alone);
        assert_eq!(held.heads.get(), 0);
    }

    #[test]
    fn bodies_that_are_kept_take_of_the_room_for_heads() {
        let held = Rc::new(Held::default());
        let mut cookies = HeaderMap::new();
        cookies.insert("cookie", "x".repeat(100_000).parse().unwrap());
        let _first = held.head(&mut request(&cookies));
        let kept = held.repeat(100_000);
        assert!(kept.is_some());
        let count = || held.head(&mut request(&cookies));
        let heads: Vec<_> = std::iter::from_fn(count).take(100).collect();
        assert_eq!(heads.len(), HEADS_MAX / 100_000 - 2);
        assert!(held.repeat(HEADS_MAX % 100_000).is_none());
    }

    #[test]
    fn a_map_counts_all_that_it_has_grown_to() {
        let (mut names, mut values) = (HeaderMap::new(), HeaderMap::new());
        assert_eq!(memory(&names), 0);
        for number in 0..200_u32 {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            names.insert(name, HeaderValue::from_static("y"));
            values.append("x", HeaderValue::from_static("y"));
        }
        assert!(memory(&names) >= names.capacity() * NAME && names.capacity() == 384);
        assert!((256 * VALUE..256 * VALUE + 2048).contains(&memory(&values)));
    }

    #[test]
    fn the_heads_of_many_requests_are_copied_and_say_the_same() {
        let held = Rc::new(Held::default());
        let block = bytes::Bytes::from(b"ab".repeat(100));
        let mut fields = HeaderMap::new();
        for part in [0..2, 2..6, 6..6] {
            let value = HeaderValue::from_maybe_shared(block.slice(part)).unwrap();
            fields.append("x", value);
        }
        let within = |request: &Request<()>| {
            let value = request.headers()["x"].as_bytes().as_ptr().addr();
            (block.as_ptr().addr()..block.as_ptr().addr() + block.len()).contains(&value)
        };
        let few = PINNED_MAX / PINNED - 1;
        let mut heads = Vec::new();
        for number in 0..2 * few {
            let mut request = request(&fields);
            heads.extend(held.head(&mut request));
            assert_eq!(within(&request), number < few, "{number}");
            assert_eq!(request.uri(), "https://shop/a?b");
            assert_eq!(request.headers(), &fields);
        }
        heads.clear();
        let mut request = request(&fields);
        heads.extend(held.head(&mut request));
        assert!(within(&request));
    }

    #[test]
    fn targets_are_copied_whatever_their_form() {
        for target in ["https://shop/a?b", "/a?b", "*", "shop:80", "https://shop"] {
            let mut uri: Uri = target.parse().unwrap();
            let before = uri.clone();
            detach_target(&mut uri);
            assert_eq!(uri, before, "{target}");
        }
    }
}
