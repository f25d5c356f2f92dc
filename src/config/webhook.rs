//! `webhooks`: who is told of releases.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::read::{Fields, ProblemList, list};
use super::scalar::{choice, count, duration_above_zero, path};
use super::tree::{Node, NodeKind};
use crate::model::{Webhook, WebhookFormat};

const WEBHOOKS_MAX: usize = 32;
const ATTEMPTS_MAX: usize = 20;
const SECRET_BYTES_MAX: usize = 4096;

/// An attempt that takes longer holds up the events behind it for no good.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// All receivers, in the order of the file.
pub(super) fn webhooks(node: &Node, problems: &ProblemList) -> Option<Vec<Webhook>> {
    list(node, problems, WEBHOOKS_MAX, webhook)
}

fn webhook(node: &Node, problems: &ProblemList) -> Option<Webhook> {
    let formats = [
        ("json", WebhookFormat::Json),
        ("slack", WebhookFormat::Slack),
    ];
    let mut fields = Fields::of(node, problems)?;
    let url = fields.required("url", "where events are posted to", url);
    // The defaults are there also without a right address, and what else is wrong is told.
    let mut webhook = Webhook::new(url.clone().unwrap_or_default());
    fields.set("format", &mut webhook.format, |node, problems| {
        choice(node, problems, &formats)
    });
    fields.set("events", &mut webhook.events, events);
    let (secret, file) = (fields.get("secret"), fields.get("secret_file"));
    webhook.secret = match (secret, file) {
        (Some(_), Some(file)) => {
            problems.at(file, "expected either `secret` or `secret_file`");
            None
        }
        (Some(node), None) => secret_text(node, problems),
        (None, Some(node)) => secret_file(node, problems),
        (None, None) => None,
    };
    fields.set("timeout", &mut webhook.timeout, timeout);
    fields.set("attempts", &mut webhook.attempts, |node, problems| {
        u32::try_from(count(node, problems, 1..=ATTEMPTS_MAX)?).ok()
    });
    fields.finish();
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

fn events(node: &Node, problems: &ProblemList) -> Option<Vec<String>> {
    let known = Webhook::EVENTS.map(|name| (name, name));
    let mut events: Vec<String> = Vec::new();
    let read = list(node, problems, known.len(), |node, problems| {
        Some((node, choice(node, problems, &known)?))
    })?;
    if matches!(&node.kind, NodeKind::List(items) if items.is_empty()) {
        problems.help(
            node,
            "expected at least one event",
            "remove the key to receive all",
        );
    }
    for (node, event) in read {
        if events.iter().any(|earlier| earlier == event) {
            problems.at(node, format!("the event `{event}` is given twice"));
        }
        events.push(event.to_owned());
    }
    Some(events)
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
    match read(&path) {
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

fn read(path: &Path) -> std::io::Result<String> {
    super::read_text(path)
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

fn timeout(node: &Node, problems: &ProblemList) -> Option<Duration> {
    let timeout = duration_above_zero(node, problems)?;
    if timeout > TIMEOUT_MAX {
        problems.at(node, format!("{} is longer than a minute", node.quoted()));
        return None;
    }
    Some(timeout)
}
