//! `admin`: the address and who may call it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::read::{Fields, ProblemList, list};
use super::report::SourceText;
use super::scalar::{address, choice, parsed, path};
use super::service::{NAME, is_name};
use super::tree::{Node, NodeKind};
use super::yaml;
use crate::admin::{Options, Role, Token};
use crate::model::hex;

const TOKENS_MAX: usize = 1_000;
const NAMES_MAX: usize = 100;

/// The settings of the admin API. Tokens in a file are read here too, so that a wrong one is told
/// with the rest.
pub(super) fn admin(
    node: &Node,
    problems: &ProblemList,
    env: &HashMap<String, String>,
) -> Option<Options> {
    let mut fields = Fields::of(node, problems)?;
    let mut options = Options::default();
    fields.set("address", &mut options.address, address);
    fields.set("tokens", &mut options.tokens, |node, problems| {
        tokens(node, problems, &[])
    });
    if let Some(node) = fields.get("tokens_file") {
        options.tokens_file = path(node, problems);
        let tokens = options.tokens_file.as_deref();
        let tokens =
            tokens.and_then(|path| tokens_file(node, path, problems, env, &options.tokens));
        options.tokens.extend(tokens.unwrap_or_default());
    }
    fields.set(
        "allowed_hosts",
        &mut options.allowed_hosts,
        |node, problems| list(node, problems, NAMES_MAX, host),
    );
    fields.set(
        "allowed_origins",
        &mut options.allowed_origins,
        |node, problems| list(node, problems, NAMES_MAX, origin),
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
        problems.help(fields.get("address").unwrap_or(node), message, help);
    }
    fields.finish();
    Some(options)
}

/// A list of tokens whose names are new and differ from those in `taken`.
fn tokens(node: &Node, problems: &ProblemList, taken: &[Token]) -> Option<Vec<Token>> {
    let mut tokens: Vec<Token> = Vec::new();
    let read = list(node, problems, TOKENS_MAX, |node, problems| {
        Some((node, token(node, problems)))
    })?;
    if read.is_empty() {
        problems.at(node, "expected at least one token");
    }
    for (node, token) in read {
        let Some(token) = token else { continue };
        if tokens
            .iter()
            .chain(taken)
            .any(|earlier| earlier.name == token.name)
        {
            problems.at(node, format!("two tokens are named {:?}", token.name));
        }
        tokens.push(token);
    }
    Some(tokens)
}

fn token(node: &Node, problems: &ProblemList) -> Option<Token> {
    let roles = Role::ALL.map(|role| (role.as_str(), role));
    let mut fields = Fields::of(node, problems)?;
    let name = fields.required("name", "a name for the journal", |node, problems| {
        parsed(node, problems, |name| {
            is_name(name)
                .then(|| name.to_owned())
                .ok_or_else(|| NAME.into())
        })
    });
    let role = fields.required(
        "role",
        "`view`, `operate`, `approve` or `admin`",
        |node, problems| choice(node, problems, &roles),
    );
    let sha256 = fields.required("sha256", "the SHA-256 of the token", digest);
    fields.finish();
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
    let mut found = Vec::new();
    let tree = yaml::read(&source, env, &mut found);
    let inner = ProblemList::new(source, found);
    let tokens = tree.and_then(|tree| tokens(&tree, &inner, taken));
    problems.extend(inner.into_inner());
    tokens
}

/// A host as it stands in `Host`: a name or an address, with or without a port.
fn host(node: &Node, problems: &ProblemList) -> Option<String> {
    parsed(node, problems, |text| {
        let authority: Result<http::uri::Authority, _> = text.parse();
        match authority {
            Ok(authority) if !text.contains('@') => Ok(authority.as_str().to_ascii_lowercase()),
            _ => Err("a host such as `admin.example.com` or `admin.example.com:9900`".into()),
        }
    })
}

/// An origin as browsers send it.
fn origin(node: &Node, problems: &ProblemList) -> Option<String> {
    parsed(node, problems, |text| {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let plain = rest.is_some_and(|host| !host.contains(['/', '@', '?', '#']));
        match rest.map(str::parse::<http::uri::Authority>) {
            Some(Ok(_)) if plain => Ok(text.to_ascii_lowercase()),
            _ => Err("an origin such as `https://admin.example.com`".into()),
        }
    })
}
