//! The response to a change, computed before the change is made and stored with it, so that a
//! client that repeats its request after a restart gets a response.
//!
//! It counts only if the process ends between commit and response; otherwise the response that was
//! sent replaces it.

use super::change::{Change, Reply};
use super::controller::Controller;
use super::published_views::ServiceDetails;
use super::state::percentages;
use crate::model::{KeptAnswer, Name, api};
use crate::time::Timestamp;

impl Controller {
    /// `None` for a change without an idempotency key, or where the store keeps nothing on disk.
    pub(super) fn foreseen(
        &self,
        name: &Name,
        moved: &Change,
        now: Timestamp,
    ) -> Option<KeptAnswer> {
        let key = moved.intent.idempotency.clone()?;
        if !self.outbox.store().is_durable() {
            return None;
        }
        let (made, body) = match &moved.reply {
            Reply::Nobody => return None,
            Reply::Service(_) => (
                None,
                serde_json::to_string(&self.foreseen_service(name, moved)?),
            ),
            Reply::Release(id, _) => {
                let turn = moved.turn.as_ref()?;
                let release = self.services.get(name)?.foreseen_release(turn, now)?;
                let change = api::ReleaseChange {
                    weights: percentages(&moved.next.weights),
                    revision: moved.next.revision,
                    release,
                };
                let made = turn.begins().then(|| format!("/api/v1/releases/{id}"));
                (made, serde_json::to_string(&change))
            }
        };
        Some(KeptAnswer {
            key,
            at_ms: now.unix_us() / 1000,
            status: if made.is_some() { 201 } else { 200 },
            location: made,
            revision: moved.next.revision,
            body: body.ok()?,
        })
    }

    fn foreseen_service(&self, name: &Name, moved: &Change) -> Option<api::WeightsChange> {
        // Manual weights and rollbacks end a release or require that none is in progress.
        let shown = ServiceDetails::new(&moved.next, None, None, true);
        let mut service = self.views.service_as(name, &shown)?;
        service.weights.effective = service.weights.intended.clone();
        Some(api::WeightsChange {
            durable: true,
            service,
        })
    }
}
