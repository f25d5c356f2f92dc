//! A request's target as it was sent.
//!
//! A request knows it as a `Uri`, which does not take all characters that browsers send. Where it
//! has such characters, the [reader](super::request) masks them there and keeps what was
//! sent, which is what is matched, logged and forwarded.

use http::Request;
use http::uri::PathAndQuery;

/// A target as it was sent, in origin form, where the request's `Uri` is not it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawTarget(Box<str>);

impl RawTarget {
    /// Takes a target that follows the grammar, in any form.
    pub(crate) fn new(sent: &[u8]) -> Option<RawTarget> {
        let sent = std::str::from_utf8(sent).ok()?;
        let origin = match sent.split_once("://") {
            // The scheme has no slash before it; whatever else has, has its path there.
            Some((scheme, rest)) if !scheme.contains('/') => {
                let path = rest
                    .find(['/', '?'])
                    .and_then(|at| rest.get(at..))
                    .unwrap_or("/");
                match path.strip_prefix('?') {
                    Some(_) => format!("/{path}").into(),
                    None => path.into(),
                }
            }
            _ => sent.into(),
        };
        Some(RawTarget(origin))
    }
}

/// Path and query of a request; with a host in its target, of what follows that.
pub(crate) fn of<B>(request: &Request<B>) -> &str {
    match request.extensions().get::<RawTarget>() {
        Some(raw) => &raw.0,
        None => request
            .uri()
            .path_and_query()
            .map_or_else(|| request.uri().path(), PathAndQuery::as_str),
    }
}

/// The path of a request.
pub(crate) fn path<B>(request: &Request<B>) -> &str {
    match request.extensions().get::<RawTarget>() {
        Some(raw) => raw.0.split('?').next().unwrap_or_default(),
        None => request.uri().path(),
    }
}

/// Gives a copy of a request the same target.
pub(crate) fn copy<A, B>(from: &Request<A>, to: &mut Request<B>) {
    if let Some(raw) = from.extensions().get::<RawTarget>() {
        to.extensions_mut().insert(raw.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_counts_and_not_what_the_parser_made_of_it() {
        for (sent, target, path) in [
            ("/a`b?c=\"d\"", "/a`b?c=\"d\"", "/a`b"),
            ("http://a/`", "/`", "/`"),
            ("HTTP://a?\"", "/?\"", "/"),
            ("/x?u=http://`/y", "/x?u=http://`/y", "/x"),
            ("?\"", "?\"", ""),
        ] {
            let mut request = Request::new(());
            assert_eq!((of(&request), self::path(&request)), ("/", "/"));
            request.extensions_mut().extend({
                let mut raw = http::Extensions::new();
                raw.insert(RawTarget::new(sent.as_bytes()).unwrap());
                raw
            });
            assert_eq!(
                (of(&request), self::path(&request)),
                (target, path),
                "{sent}"
            );
            let mut twin = Request::new(());
            copy(&request, &mut twin);
            assert_eq!(of(&twin), target);
        }
    }
}
