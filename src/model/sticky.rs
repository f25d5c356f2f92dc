//! What identifies a user for the split, as declared, and the secret that a user's cookie is signed
//! with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;

/// What identifies a user for the split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// A cookie that the proxy issues, signed, when a request comes without a valid one.
    Cookie(StickyCookie),
    /// A header, set by the hop before this one; requests without it are drawn.
    Header(HeaderName),
    /// The client's address.
    ClientIp,
}

/// The cookie that a user is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name.
    pub name: Arc<str>,
    /// The attribute `Path`.
    pub path: Arc<str>,
    /// The attribute `Domain`; without it the cookie goes back to the very host that set it.
    pub domain: Option<Arc<str>>,
    /// The attribute `Max-Age`; without it the cookie lives as long as the browser's session.
    pub max_age: Option<Duration>,
    /// The attribute `SameSite`.
    pub same_site: SameSite,
    /// Whether it has the attribute `Secure`.
    pub secure: Secure,
}

/// When a browser sends a cookie along with a request that another site has caused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameSite {
    /// When the user follows a link.
    #[default]
    Lax,
    /// Never.
    Strict,
    /// Always; browsers demand `Secure` then.
    None,
}

/// When a cookie has the attribute `Secure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secure {
    /// When the client's scheme is https.
    #[default]
    Auto,
    /// With each answer.
    Always,
    /// With none.
    Never,
}

impl StickyCookie {
    /// The cookie of this name with the default attributes.
    pub fn named(name: &str) -> StickyCookie {
        StickyCookie {
            name: name.into(),
            path: "/".into(),
            domain: None,
            max_age: None,
            same_site: SameSite::default(),
            secure: Secure::default(),
        }
    }

    /// Whether browsers refuse a cookie of that name without `Secure`.
    pub fn demands_secure(&self) -> bool {
        ["__Secure-", "__Host-", "__Http-"]
            .iter()
            .any(|prefix| self.begins_with(prefix))
    }

    /// Whether browsers refuse a cookie of that name that has a `Domain`, or another `Path` than
    /// `/`.
    pub fn demands_host(&self) -> bool {
        self.begins_with("__Host-")
    }

    /// Browsers compare the prefix without regard to case.
    fn begins_with(&self, prefix: &str) -> bool {
        let start = self.name.as_bytes().get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    }
}

impl From<&str> for StickyCookie {
    fn from(name: &str) -> StickyCookie {
        StickyCookie::named(name)
    }
}

/// The secret that sticky cookies are signed with: the same for all workers, and kept in the store.
/// Not shown by `{:?}`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StickySecret([u8; StickySecret::BYTES]);

impl StickySecret {
    /// Its length.
    pub const BYTES: usize = 32;

    /// The secret of these bytes, which nobody else is to know or guess.
    pub const fn new(bytes: [u8; StickySecret::BYTES]) -> StickySecret {
        StickySecret(bytes)
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; StickySecret::BYTES] {
        &self.0
    }
}

impl fmt::Debug for StickySecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StickySecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_name_prefixes_require_attributes() {
        for (name, secure, host) in [
            ("wb", false, false),
            ("__Secure-wb", true, false),
            ("__Host-wb", true, true),
            ("__host-wb", true, true),
            ("__Host-Http-wb", true, true),
            ("__Http-wb", true, false),
            ("x__Host-wb", false, false),
        ] {
            let cookie = StickyCookie::named(name);
            assert_eq!(
                (cookie.demands_secure(), cookie.demands_host()),
                (secure, host),
                "{name}"
            );
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(
            format!("{:?}", StickySecret::new([7; 32])),
            "StickySecret(…)"
        );
    }
}
