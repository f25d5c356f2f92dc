//! The shapes of a service's `sticky` block.

use schemars::JsonSchema;

use super::{Duration, Text, True};

#[derive(JsonSchema)]
#[schemars(rename = "Sticky", rename_all = "snake_case")]
pub(super) enum StickyBlock {
    /// A cookie, which the proxy signs and issues when a request comes without a valid one.
    Cookie(Cookie),
    /// A header, which the hop before this one sets; requests without it are drawn. Taken from
    /// `trusted_proxies` alone where the listener has some.
    Header(String),
    /// The client's address.
    ClientIp(True),
}

impl Default for StickyBlock {
    fn default() -> Self {
        StickyBlock::ClientIp(True)
    }
}

#[derive(JsonSchema)]
#[schemars(untagged)]
pub(super) enum Cookie {
    /// Its name.
    Name(String),
    /// Its name and its attributes.
    Full(FullCookie),
}

/// The cookie's name and its attributes.
#[derive(Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct FullCookie {
    /// Its name. `__Host-` and `__Secure-` are for https, as browsers have it.
    name: String,
    /// The attribute `Path`.
    #[schemars(default, extend("default" = "/"))]
    path: Text,
    /// The attribute `Domain`; by default none, and the cookie goes back to the very host that set
    /// it.
    #[schemars(default)]
    domain: Text,
    /// The attribute `Max-Age`; by default none, and the cookie ends with the browser's session.
    #[schemars(default)]
    max_age: Duration,
    /// The attribute `SameSite`.
    #[schemars(default, extend("default" = "lax"))]
    same_site: SameSite,
    /// The attribute `Secure`: `true`, `false`, or `auto` for when the client's scheme is https.
    #[schemars(default, extend("default" = "auto"))]
    secure: Secure,
}

#[derive(Default, JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum SameSite {
    #[default]
    Lax,
    Strict,
    None,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum Secure {
    /// When the client's scheme is https.
    Auto(Auto),
    /// Always, or never.
    Fixed(bool),
}

impl Default for Secure {
    fn default() -> Self {
        Secure::Auto(Auto::Auto)
    }
}

#[derive(Default, JsonSchema)]
#[schemars(rename_all = "snake_case")]
enum Auto {
    #[default]
    Auto,
}
