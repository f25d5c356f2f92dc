//! `admin`: the address and who may call it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::service::name;
use crate::admin::{Options, Role, Token};
use crate::document::{Fields, Node, NodeKind, ProblemList, Shape, SourceText, Type, Wrong, yaml};
use crate::model::hex;

const TOKENS_MAX: usize = 1_000;
const NAMES_MAX: usize = 100;

/// The settings of the admin API. Tokens in a file are read here too, so that a wrong one is told
/// with the rest.
pub(super) fn admin(fields: &mut Fields<'_>, env: &HashMap<String, String>) -> Option<Options> {
    let problems = fields.problems();
    let mut options = Options::default();
    fields.set(
        "address",
        &mut options.address,
        Type::address(),
        "an address other than loopback requires tokens",
    );
    fields.set(
        "tokens",
        &mut options.tokens,
        tokens(&[]).without_default(),
        "The callers of the API; without tokens it is open to everyone who can reach the address. \
         Only digests are stored here: `printf %s \"$TOKEN\" | sha256sum`.",
    );
    options.tokens_file = fields.read(
        "tokens_file",
        Type::path().example("/run/secrets/weighbridge-tokens.yaml"),
        "A file with a list as under `tokens`, in addition to these.",
    );
    if let Some(node) = fields.get("tokens_file") {
        let path = options.tokens_file.as_deref();
        let tokens = path.and_then(|path| tokens_file(node, path, problems, env, &options.tokens));
        options.tokens.extend(tokens.unwrap_or_default());
    }
    let shown = |name: &String| Some(name.as_str().into());
    fields.set(
        "allowed_hosts",
        &mut options.allowed_hosts,
        Type::parsed(host).shown(shown).list(NAMES_MAX),
        "`Host` values besides the address and loopback names; others are rejected, so that a web \
         page cannot use the API by DNS rebinding.",
    );
    fields.set(
        "allowed_origins",
        &mut options.allowed_origins,
        Type::parsed(origin).shown(shown).list(NAMES_MAX),
        "Origins of other web pages that may call the API.",
    );
    fields.unavailable("tls");
    // Whether the tokens are right has been told by then; here it only matters that some are meant.
    let open = fields.get("tokens").is_none() && fields.get("tokens_file").is_none();
    if open && !options.address.ip().is_loopback() {
        let message = format!(
            "{} can be reached by others, and the admin API has no tokens",
            options.address
        );
        let help = "give it `tokens` or a `tokens_file`, or listen on `127.0.0.1:9900`";
        let node = fields.get("address").unwrap_or(fields.node());
        problems.help(node, message, help);
    }
    Some(options)
}

/// A list of tokens whose names are new and differ from those in `taken`.
fn tokens(taken: &[Token]) -> Type<'_, Vec<Token>> {
    Type::object(token)
        .named("Token")
        .list_checked(1, TOKENS_MAX, move |read, node, problems| {
            if node.items().is_empty() {
                problems.at(node, "expected at least one token");
            }
            for (at, (node, token)) in read.iter().enumerate() {
                let mut earlier = read.iter().take(at).map(|(_, token)| token).chain(taken);
                if earlier.any(|earlier| earlier.name == token.name) {
                    problems.at(node, format!("two tokens are named {:?}", token.name));
                }
            }
        })
}

fn token(fields: &mut Fields<'_>) -> Option<Token> {
    const ROLES: [(&str, Role); 4] = [
        (Role::View.as_str(), Role::View),
        (Role::Operate.as_str(), Role::Operate),
        (Role::Approve.as_str(), Role::Approve),
        (Role::Admin.as_str(), Role::Admin),
    ];
    let name = fields.required(
        "name",
        "a name for the journal",
        name().example("ci"),
        "the name of the caller in the journal",
    );
    let role = fields.required(
        "role",
        "`view`, `operate`, `approve` or `admin`",
        Type::choice(&ROLES).example("operate"),
        "view, operate, approve or admin; each includes the previous ones",
    );
    let shape = || Shape::Scalar(json!({ "type": "string" }));
    let sha256 = fields.required(
        "sha256",
        "the SHA-256 of the token",
        Type::new(shape, digest).example("\"${CI_TOKEN_SHA256}\""),
        "SHA-256 of the token, as 64 hexadecimal digits in quotes",
    );
    Some(Token {
        name: name?,
        role: role?,
        sha256: sha256?,
    })
}

/// 64 hexadecimal digits. What else is there may be the token itself, so no message quotes it.
fn digest(node: &Node, problems: &ProblemList) -> Option<[u8; 32]> {
    let digest = match &node.kind {
        NodeKind::Missing => return None,
        NodeKind::Text(text) => hex::digest(text),
        _ => None,
    };
    if digest.is_none() {
        let help = "`printf %s \"$TOKEN\" | sha256sum` prints it; write it in quotes";
        problems.help(
            node,
            "expected the SHA-256 of the token as 64 hexadecimal digits",
            help,
        );
    }
    digest
}

/// The tokens of a file of their own, which is a list as under `tokens`.
fn tokens_file(
    node: &Node,
    path: &Path,
    problems: &ProblemList,
    env: &HashMap<String, String>,
    taken: &[Token],
) -> Option<Vec<Token>> {
    let text = match super::read_text(path) {
        Ok(text) => text,
        Err(error) => {
            problems.at(
                node,
                format!("the tokens cannot be read from {}: {error}", path.display()),
            );
            return None;
        }
    };
    let source = Arc::new(SourceText {
        name: path.display().to_string(),
        text,
    });
    let inner = ProblemList::new(Arc::clone(&source));
    let tree = yaml::read(&source, env, &inner);
    let tokens = tree.and_then(|tree| tokens(taken).read(&tree, &inner));
    problems.extend(inner);
    tokens
}

/// A host as it stands in `Host`: a name or an address, with or without a port.
fn host(text: &str) -> Result<String, Wrong> {
    let authority: Result<http::uri::Authority, _> = text.parse();
    match authority {
        Ok(authority) if !text.contains('@') => Ok(authority.as_str().to_ascii_lowercase()),
        _ => Err("a host such as `admin.example.com` or `admin.example.com:9900`".into()),
    }
}

/// An origin as browsers send it.
fn origin(text: &str) -> Result<String, Wrong> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let plain = rest.is_some_and(|host| !host.contains(['/', '@', '?', '#']));
    match rest.map(str::parse::<http::uri::Authority>) {
        Some(Ok(_)) if plain => Ok(text.to_ascii_lowercase()),
        _ => Err("an origin such as `https://admin.example.com`".into()),
    }
}
