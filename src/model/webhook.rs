//! Declared webhooks: receivers of release events.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A receiver of events.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The URL, `http` or `https`.
    pub url: http::Uri,
    /// The format of the posted events.
    pub format: WebhookFormat,
    /// The selected events, out of [`Webhook::EVENTS`]; at least one, each once.
    pub events: Vec<String>,
    /// The key by which a receiver can tell that an event comes from here (HMAC-SHA-256); without
    /// it events are not signed.
    pub secret: Option<Arc<str>>,
    /// Timeout of one attempt, from the connection to the response head.
    pub timeout: Duration,
    /// Attempts for one event, the first included; at least 1.
    pub attempts: u32,
}

/// The format of posted events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookFormat {
    /// The event as JSON: its name, its time, its actor, and the release as the API shows it.
    #[default]
    Json,
    /// A message for a channel, as Slack and those that speak like it take it.
    Slack,
}

impl Webhook {
    /// All events, as named in the journal.
    pub const EVENTS: [&str; 12] = [
        "release_started",
        "release_preflight",
        "release_advanced",
        "release_baking",
        "release_waiting",
        "release_continued",
        "release_paused",
        "release_resumed",
        "release_approved",
        "release_promoted",
        "release_rolled_back",
        "release_cancelled",
    ];

    /// A receiver of every event, with everything else by default.
    pub fn new(url: http::Uri) -> Webhook {
        Webhook {
            url,
            format: WebhookFormat::default(),
            events: Webhook::EVENTS.map(str::to_owned).into(),
            secret: None,
            timeout: Duration::from_secs(5),
            attempts: 5,
        }
    }
}

/// Without the secret, and without the path: that of a chat's webhook is a secret itself.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.authority().map(http::uri::Authority::as_str);
        f.debug_struct("Webhook")
            .field("host", &host)
            .field("format", &self.format)
            .field("events", &self.events)
            .field("signed", &self.secret.is_some())
            .field("timeout", &self.timeout)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
