//! `sticky`: what identifies a user.

use std::net::IpAddr;
use std::sync::Arc;

use super::read::{Fields, ProblemList};
use super::route::{header_name, is_domain};
use super::scalar::{Wrong, choice, duration, parsed};
use super::tree::{Node, NodeKind};
use crate::model::{Name, SameSite, Secure, Sticky, StickyCookie};

pub(super) fn sticky(node: &Node, problems: &ProblemList) -> Option<Sticky> {
    let mut fields = Fields::of(node, problems)?;
    let given = [
        fields.get("cookie"),
        fields.get("header"),
        fields.get("client_ip"),
    ];
    fields.finish();
    match given {
        [Some(node), None, None] => cookie(node, problems).map(Sticky::Cookie),
        [None, Some(node), None] => parsed(node, problems, header_name).map(Sticky::Header),
        [None, None, Some(node)] => match node.kind {
            NodeKind::Bool(true) => Some(Sticky::ClientIp),
            _ => {
                let help = "leave `sticky` out to draw each request";
                problems.help(
                    node,
                    format!("expected `true`, found {}", node.found()),
                    help,
                );
                None
            }
        },
        _ => {
            problems.at(
                node,
                "expected exactly one of `cookie`, `header` and `client_ip`",
            );
            None
        }
    }
}

/// The name of a cookie, or a mapping with its name and its attributes.
fn cookie(node: &Node, problems: &ProblemList) -> Option<StickyCookie> {
    if !matches!(node.kind, NodeKind::Map(_)) {
        return parsed(node, problems, cookie_name).map(|name| StickyCookie::named(&name));
    }
    let sites = [
        ("lax", SameSite::Lax),
        ("strict", SameSite::Strict),
        ("none", SameSite::None),
    ];
    let mut fields = Fields::of(node, problems)?;
    let name = fields.required("name", "the name of the cookie", |node, problems| {
        parsed(node, problems, cookie_name)
    });
    let mut cookie = StickyCookie::named(name.as_deref().unwrap_or_default());
    fields.set("path", &mut cookie.path, |node, problems| {
        parsed(node, problems, path)
    });
    cookie.domain = fields.read("domain", |node, problems| parsed(node, problems, domain));
    cookie.max_age = fields.read("max_age", max_age);
    fields.set("same_site", &mut cookie.same_site, |node, problems| {
        choice(node, problems, &sites)
    });
    fields.set("secure", &mut cookie.secure, secure);
    let places = [
        fields.get("path"),
        fields.get("domain"),
        fields.get("secure"),
    ];
    fields.finish();
    name?;
    demands(&cookie, places, problems).then_some(cookie)
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

fn max_age(node: &Node, problems: &ProblemList) -> Option<std::time::Duration> {
    let age = duration(node, problems)?;
    if age.as_secs() == 0 || age.subsec_nanos() > 0 {
        let help = "leave it out for a cookie that ends with the browser's session";
        problems.help(
            node,
            "expected a duration of whole seconds above zero",
            help,
        );
        return None;
    }
    Some(age)
}

fn secure(node: &Node, problems: &ProblemList) -> Option<Secure> {
    match &node.kind {
        NodeKind::Bool(true) => Some(Secure::Always),
        NodeKind::Bool(false) => Some(Secure::Never),
        NodeKind::Text(text) => match text.as_str() {
            "auto" => Some(Secure::Auto),
            "true" if node.substituted => Some(Secure::Always),
            "false" if node.substituted => Some(Secure::Never),
            _ => {
                problems.expected(node, "`auto`, `true` or `false`");
                None
            }
        },
        NodeKind::Missing => None,
        _ => {
            problems.expected(node, "`auto`, `true` or `false`");
            None
        }
    }
}
