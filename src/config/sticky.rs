//! `sticky`: what identifies a user.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::route::{header_name, is_domain};
use crate::document::{Fields, Node, NodeKind, ProblemList, Shape, Type, Wrong};
use crate::model::{Name, SameSite, Secure, Sticky, StickyCookie};

const SITES: [(&str, SameSite); 3] = [
    ("lax", SameSite::Lax),
    ("strict", SameSite::Strict),
    ("none", SameSite::None),
];

pub(super) fn sticky(fields: &mut Fields<'_>) -> Option<Sticky> {
    let name = Type::parsed(cookie_name).map(|name| StickyCookie::named(&name));
    let cookie = fields.read(
        "cookie",
        Type::short_or_long(name, Type::object(cookie).named("FullCookie")).example("wb"),
        "A cookie, signed with a secret of this service in the store (without `store`, it lasts \
         until the process ends). It holds a random key and its signature, not a version. Values \
         without a valid signature are replaced; unsigned ones of earlier versions (32 \
         hexadecimal digits) keep their key while no release runs. So a client cannot choose the \
         canary by a made-up key, only by collecting several cookies.\n\
         It is set on responses of upstreams that caches do not share: not on 304, `public`, \
         `s-maxage`, `immutable`, `max-age` or `Expires` in the future without `private`, \
         `no-store` or `no-cache`, or such a `CDN-Cache-Control`. Until it is set, each request \
         is assigned at random. Where a cache might store the response by default (`no-cache`, or \
         no age but an `ETag` or `Last-Modified`), `Cache-Control: private` is added.\n\
         An upstream's own cookie of this name is removed with a warning. Services on one host \
         need different cookie names or paths. Its name alone, or all of it:",
    );
    let header = fields.read(
        "header",
        Type::parsed(header_name).example("X-User-Id"),
        "Or a header set by the hop before this proxy; requests without it are assigned at \
         random. With `trusted_proxies` on the listener, it is ignored from others; without, \
         every client can choose its key.",
    );
    let client_ip = fields.read(
        "client_ip",
        Type::new(|| Shape::Scalar(json!({ "const": true })), only_true).example("true"),
        "Or the client's address; behind a proxy only with trusted_proxies.",
    );
    fields.exactly_one()?;
    cookie
        .map(Sticky::Cookie)
        .or(header.map(Sticky::Header))
        .or(client_ip.map(|()| Sticky::ClientIp))
}

fn only_true(node: &Node, problems: &ProblemList) -> Option<()> {
    match node.kind {
        NodeKind::Bool(true) => Some(()),
        _ => {
            let help = "leave `sticky` out to draw each request";
            let message = format!("expected `true`, found {}", node.found());
            problems.help(node, message, help);
            None
        }
    }
}

/// A mapping with the cookie's name and its attributes.
fn cookie(fields: &mut Fields<'_>) -> Option<StickyCookie> {
    let name = fields.required(
        "name",
        "the name of the cookie",
        Type::parsed(cookie_name).example("wb"),
        "the prefixes `__Host-` and `__Secure-` enforce https",
    );
    let mut cookie = StickyCookie::named(name.as_deref().unwrap_or_default());
    fields.set(
        "path",
        &mut cookie.path,
        Type::parsed(path).shown(|path| Some((**path).into())),
        "the attribute `Path`",
    );
    cookie.domain = fields.read(
        "domain",
        Type::parsed(domain).example("example.com"),
        "by default none: only the host that set the cookie",
    );
    cookie.max_age = fields.read(
        "max_age",
        Type::duration().checked(check_max_age).example("30d"),
        "by default none: the browser session; never renewed",
    );
    fields.set(
        "same_site",
        &mut cookie.same_site,
        Type::choice(&SITES),
        "or strict, or none",
    );
    fields.set(
        "secure",
        &mut cookie.secure,
        secure(),
        "true, false, or auto: if a trusted proxy reports https",
    );
    let places = ["path", "domain", "secure"].map(|name| fields.get(name));
    name?;
    demands(&cookie, places, fields.problems()).then_some(cookie)
}

/// Whether browsers will take the cookie: names with some prefixes and `SameSite=None` have their
/// demands (draft-ietf-httpbis-rfc6265bis, sections 4.1.3 and 5.7).
fn demands(
    cookie: &StickyCookie,
    [path, domain, secure]: [Option<&Node>; 3],
    problems: &ProblemList,
) -> bool {
    let before = problems.count();
    let name = &cookie.name;
    if let Some(secure) = secure.filter(|_| cookie.secure == Secure::Never) {
        if cookie.demands_secure() {
            problems.at(
                secure,
                format!(
                    "browsers refuse a cookie named `{name}` without `Secure`; expected `auto` or \
                     `true`"
                ),
            );
        } else if cookie.same_site == SameSite::None {
            problems.at(
                secure,
                "browsers refuse `same_site: none` without `Secure`; expected `auto` or `true`",
            );
        }
    }
    if cookie.demands_host() {
        if let Some(domain) = domain {
            let help = "take it out, or name the cookie otherwise";
            problems.help(
                domain,
                format!("browsers refuse a cookie named `{name}` with a domain"),
                help,
            );
        }
        if let Some(path) = path.filter(|_| &*cookie.path != "/") {
            problems.at(
                path,
                format!("browsers refuse a cookie named `{name}` with another path than `/`"),
            );
        }
    }
    problems.count() == before
}

/// Cookie names follow the same grammar as header names (RFC 6265 section 4.1.1), but keep their
/// case.
pub(super) fn cookie_name(text: &str) -> Result<Name, Wrong> {
    match header_name(text) {
        Ok(_) if text.len() <= 63 => Ok(Name::from(text)),
        _ => Err("the name of a cookie, at most 63 letters, digits and some punctuation".into()),
    }
}

fn path(text: &str) -> Result<Arc<str>, Wrong> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b';');
    match text.starts_with('/') && plain && text.len() <= 255 {
        true => Ok(text.into()),
        false => {
            Err("a path such as `/shop`, at most 255 characters and none of them a `;`".into())
        }
    }
}

fn domain(text: &str) -> Result<Arc<str>, Wrong> {
    let expected = "a domain such as `example.com`";
    if let Some(rest) = text.strip_prefix('.').filter(|rest| is_domain(rest)) {
        return Err(Wrong::with_help(
            expected,
            format!("write `{rest}`, which holds for everything below it too"),
        ));
    }
    match is_domain(text) && text.parse::<IpAddr>().is_err() {
        true => Ok(text.to_ascii_lowercase().into()),
        false => Err(expected.into()),
    }
}

fn check_max_age(age: &Duration, node: &Node, problems: &ProblemList) {
    if age.as_secs() == 0 || age.subsec_nanos() > 0 {
        let help = "leave it out for a cookie that ends with the browser's session";
        problems.help(
            node,
            "expected a duration of whole seconds above zero",
            help,
        );
    }
}

fn secure() -> Type<'static, Secure> {
    let shape = || Shape::Scalar(json!({ "enum": ["auto", true, false] }));
    let read = |node: &Node, problems: &ProblemList| {
        let given = match &node.kind {
            NodeKind::Missing => return None,
            NodeKind::Bool(true) => Some(Secure::Always),
            NodeKind::Bool(false) => Some(Secure::Never),
            NodeKind::Text(text) => match text.as_str() {
                "auto" => Some(Secure::Auto),
                "true" if node.substituted => Some(Secure::Always),
                "false" if node.substituted => Some(Secure::Never),
                _ => None,
            },
            _ => None,
        };
        if given.is_none() {
            problems.expected(node, "`auto`, `true` or `false`");
        }
        given
    };
    Type::new(shape, read).shown(|_| Some("auto".into()))
}
