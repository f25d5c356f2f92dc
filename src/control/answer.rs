//! The answer to a change before it is made: what is kept with it, for those who repeat their
//! request after a restart.
//!
//! When the process ends between the commit and the answer, this is the answer. Else the one that
//! was given replaces it.

use super::change::{Change, Reply};
use super::controller::Controller;
use super::published_views::ServiceDetails;
use super::state::percentages;
use crate::model::{KeptAnswer, Name, api};
use crate::time::Timestamp;

impl Controller {
    /// None for a change that nobody asked for with a key, or of which nothing is on disk.
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
        // Weights and rollbacks by hand end a release, or need that none is under way.
        let shown = ServiceDetails::new(&moved.next, None, None, true);
        let mut service = self.board.service_as(name, &shown)?;
        service.weights.effective = service.weights.intended.clone();
        Some(api::WeightsChange {
            durable: true,
            service,
        })
    }
}
