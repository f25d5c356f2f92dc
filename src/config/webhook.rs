//! `webhooks`: who is told of releases.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::json;

use crate::document::{Fields, Node, NodeKind, ProblemList, Shape, Type, path};
use crate::model::{Webhook, WebhookFormat};

const WEBHOOKS_MAX: usize = 32;
const SECRET_BYTES_MAX: usize = 4096;

/// An attempt that takes longer holds up the events behind it for no good.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

const FORMATS: [(&str, WebhookFormat); 2] = [
    ("json", WebhookFormat::Json),
    ("slack", WebhookFormat::Slack),
];

/// All receivers, in the order of the file.
pub(super) fn webhooks() -> Type<'static, Vec<Webhook>> {
    Type::object(webhook).named("Webhook").list(WEBHOOKS_MAX)
}

fn webhook(fields: &mut Fields<'_>) -> Option<Webhook> {
    let string = || Shape::Scalar(json!({ "type": "string" }));
    let address = Type::new(string, url).example("https://hooks.example.com/releases");
    let text = "Where events are posted to.";
    let url = fields.required("url", "where events are posted to", address, text);
    // The defaults are there also without a right address, and what else is wrong is told.
    let mut webhook = Webhook::new(url.clone().unwrap_or_default());
    fields.set(
        "format",
        &mut webhook.format,
        Type::choice(&FORMATS),
        "json, or slack for a message in a channel",
    );
    fields.set(
        "events",
        &mut webhook.events,
        events(),
        "Which events; by default all of these.",
    );
    webhook.secret = fields.read(
        "secret",
        Type::new(string, secret_text).example("\"${WEBHOOK_SECRET}\""),
        "The key that events are signed with, by which a receiver can tell that they come from \
         here (X-Weighbridge-Signature: sha256=… over the header X-Weighbridge-Timestamp, a dot \
         and the body).",
    );
    let has_secret = fields.get("secret").is_some();
    let file = Type::new(string, move |node, problems| match has_secret {
        true => {
            problems.at(node, "expected either `secret` or `secret_file`");
            None
        }
        false => secret_file(node, problems),
    });
    let from_file = fields.read(
        "secret_file",
        file.example("/run/secrets/webhook"),
        "A file with the key, instead of `secret`.",
    );
    webhook.secret = webhook.secret.or(from_file);
    let timeout = Type::duration()
        .above_zero()
        .checked(|timeout, node, problems| {
            if *timeout > TIMEOUT_MAX {
                problems.at(node, format!("{} is longer than a minute", node.quoted()));
            }
        });
    fields.set(
        "timeout",
        &mut webhook.timeout,
        timeout,
        "for one attempt; at most a minute",
    );
    fields.set(
        "attempts",
        &mut webhook.attempts,
        Type::count(1..=20),
        "for one event, the first included, with backoff from 1s to 1m",
    );
    url.map(|_| webhook)
}

/// The address. That of a chat's webhook is a secret in itself, so no message quotes it.
fn url(node: &Node, problems: &ProblemList) -> Option<http::Uri> {
    let given = match &node.kind {
        NodeKind::Missing => return None,
        NodeKind::Text(text) => usable(text),
        _ => None,
    };
    if given.is_none() {
        let help =
            "events are signed with `secret`; a name and a password do not belong into the address";
        let message = "expected an address such as `https://hooks.example.com/releases`";
        match &node.kind {
            NodeKind::Text(text) if text.contains('@') => problems.help(node, message, help),
            _ => problems.at(node, message),
        }
    }
    given
}

fn usable(text: &str) -> Option<http::Uri> {
    let url: http::Uri = text.parse().ok()?;
    let fits = matches!(url.scheme_str(), Some("http" | "https")) && !text.contains('#');
    let authority = url.authority()?;
    let whole = fits && !authority.host().is_empty() && !authority.as_str().contains('@');
    whole.then_some(url)
}

fn events() -> Type<'static, Vec<String>> {
    static KNOWN: LazyLock<[(&str, &str); 12]> =
        LazyLock::new(|| Webhook::EVENTS.map(|event| (event, event)));
    Type::choice(&*KNOWN)
        .map(str::to_owned)
        .shown(|event| Some(event.as_str().into()))
        .list_checked(1, KNOWN.len(), |read, node, problems| {
            if node.items().is_empty() {
                let help = "remove the key to receive all";
                problems.help(node, "expected at least one event", help);
            }
            for (at, (node, event)) in read.iter().enumerate() {
                if read.iter().take(at).any(|(_, earlier)| earlier == event) {
                    problems.at(node, format!("the event `{event}` is given twice"));
                }
            }
        })
}

/// No message quotes a secret.
fn secret_text(node: &Node, problems: &ProblemList) -> Option<Arc<str>> {
    match &node.kind {
        NodeKind::Missing => None,
        NodeKind::Text(text) => secret(node, problems, text),
        _ => {
            problems.at(node, "expected the secret as a string in quotes");
            None
        }
    }
}

/// A secret in a file of its own, without the line feed that editors put at its end.
fn secret_file(node: &Node, problems: &ProblemList) -> Option<Arc<str>> {
    let path = path(node, problems)?;
    match super::read_text(&path) {
        Ok(text) => secret(node, problems, text.trim_end_matches(['\r', '\n'])),
        Err(error) => {
            problems.at(
                node,
                format!("the secret cannot be read from {}: {error}", path.display()),
            );
            None
        }
    }
}

fn secret(node: &Node, problems: &ProblemList, text: &str) -> Option<Arc<str>> {
    if text.is_empty() || text.len() > SECRET_BYTES_MAX {
        problems.at(
            node,
            format!("expected a secret of 1 to {SECRET_BYTES_MAX} bytes"),
        );
        return None;
    }
    Some(text.into())
}
