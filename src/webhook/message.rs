//! The body of a delivery: an event as JSON, or as a sentence for a chat channel.

use std::fmt::Write;

use serde::Serialize;

use crate::model::api::{self, EventKind, Release};
use crate::model::{Webhook, WebhookFormat};

/// An event that is delivered to receivers.
#[derive(Debug, Serialize)]
pub(super) struct Notification {
    /// One of [`WebhookBlock::EVENTS`].
    pub(super) event: &'static str,
    at: String,
    actor: String,
    pub(super) release: Box<Release>,
}

/// A message in the format of Slack and compatible services.
#[derive(Serialize)]
struct Message {
    text: String,
}

impl Notification {
    /// The notification for an event, if it is one that is delivered.
    pub(super) fn of(event: api::Event) -> Option<Notification> {
        let EventKind::Release {
            release,
            action,
            actor,
        } = event.kind
        else {
            return None;
        };
        let name = Webhook::EVENTS.into_iter().find(|known| *known == action)?;
        Some(Notification {
            event: name,
            at: event.at,
            actor,
            release,
        })
    }

    /// Whether it reports the end of a release.
    pub(super) fn is_end(&self) -> bool {
        matches!(
            self.event,
            "release_promoted" | "release_rolled_back" | "release_cancelled"
        )
    }

    /// The request body.
    ///
    /// # Errors
    ///
    /// It cannot be serialised as JSON.
    pub(super) fn body(&self, format: WebhookFormat) -> serde_json::Result<Vec<u8>> {
        match format {
            WebhookFormat::Json => serde_json::to_vec(self),
            WebhookFormat::Slack => serde_json::to_vec(&Message {
                text: self.sentence(),
            }),
        }
    }

    /// The event in one sentence, with the reason if there is one.
    fn sentence(&self) -> String {
        let Release {
            id,
            service,
            baseline,
            canary,
            phase,
            weight,
            ..
        } = &*self.release;
        let did = match self.event {
            "release_started" => "was started",
            "release_preflight" => "is running its preflight checks",
            "release_advanced" => "advanced to its next step",
            "release_baking" => "reached its last step",
            "release_continued" => "continued",
            "release_waiting" => "is waiting",
            "release_paused" => "was paused",
            "release_resumed" => "was resumed",
            "release_approved" => "was approved",
            "release_promoted" => "was promoted",
            "release_rolled_back" => "was rolled back",
            _ => "was cancelled",
        };
        let mut text = format!(
            "{service}: release {id} from {baseline} to {canary} {did} by {actor}: {phase}, \
             {canary} has {weight} % of the traffic",
            actor = self.actor,
            phase = phase.as_str().replace('_', " "),
        );
        for (name, given) in [
            ("build", &self.release.version),
            ("change", &self.release.change),
        ] {
            if let Some(given) = given {
                let _ = write!(text, "; {name} {given}");
            }
        }
        if let Some(reason_text) = self.reason_text() {
            let _ = write!(text, "; {reason_text}");
        }
        escape(&text)
    }

    fn reason_text(&self) -> Option<String> {
        let release = &self.release;
        if let Some(outcome) = &release.outcome {
            return Some(match &outcome.objective {
                Some(objective) => format!("decided by {objective}: {}", outcome.reason),
                None => outcome.reason.clone(),
            });
        }
        if let Some(waiting) = &release.waiting_for {
            return Some(format!("waiting for {}: {}", waiting.kind, waiting.detail));
        }
        release
            .reason
            .as_ref()
            .map(|reason| format!("reason: {reason}"))
    }
}

/// Escapes the three characters by which a text could become a link, a mention or an entity.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, release};
    use super::*;

    fn notification(action: &str, release: Release) -> Notification {
        Notification::of(event(1, action, release)).unwrap()
    }

    #[test]
    fn json_has_the_event_its_time_its_actor_and_the_release_as_the_api_shows_it() {
        let notification = notification("release_advanced", release());
        let body: serde_json::Value =
            serde_json::from_slice(&notification.body(WebhookFormat::Json).unwrap()).unwrap();
        let expected = serde_json::json!({
            "event": "release_advanced",
            "at": "2026-11-25T09:00:00Z",
            "actor": "alice",
            "release": serde_json::to_value(release()).unwrap(),
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_message_names_release_event_and_reason() {
        let mut over = release();
        over.outcome = Some(api::ReleaseOutcome {
            verdict: "rolled_back".to_owned(),
            objective: Some("error_rate".to_owned()),
            reason: "12 of 90 failed <@channel> & 1 > 0".to_owned(),
        });
        over.phase = api::Phase::RolledBack;
        over.version = Some("5.2".to_owned());
        over.change = Some("CHG-7".to_owned());
        let body = notification("release_rolled_back", over)
            .body(WebhookFormat::Slack)
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let text = "shop: release shop-12 from blue to green was rolled back by alice: \
                    rolled back, green has 5 % of the traffic; build 5.2; change CHG-7; \
                    decided by error_rate: 12 of 90 failed &lt;@channel&gt; &amp; 1 &gt; 0";
        assert_eq!(body, serde_json::json!({ "text": text }));
    }

    #[test]
    fn every_event_has_its_own_text_and_names_the_wait_reason() {
        let mut waiting = release();
        waiting.waiting_for = Some(api::WaitingFor {
            kind: "gate".to_owned(),
            detail: "`board`, 1 of 2 approvals".to_owned(),
            until: None,
        });
        let sentences =
            Webhook::EVENTS.map(|action| notification(action, waiting.clone()).sentence());
        let distinct: std::collections::BTreeSet<_> = sentences.iter().collect();
        assert_eq!(distinct.len(), Webhook::EVENTS.len(), "{sentences:?}");
        for sentence in &sentences {
            assert!(
                sentence.ends_with("; waiting for gate: `board`, 1 of 2 approvals"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn other_events_are_not_delivered() {
        assert!(Notification::of(event(1, "release_abandoned", release())).is_none());
        let reload = EventKind::Reload {
            ok: true,
            detail: String::new(),
        };
        let other = api::Event {
            kind: reload,
            ..event(1, "release_started", release())
        };
        assert!(Notification::of(other).is_none());
    }
}
