//! Delivers release events to receivers by HTTP.
//!
//! One task takes events of releases from the stream and puts them into a bounded queue per
//! receiver; one task per receiver posts them in order, with retries. So a slow receiver delays
//! nobody else, and a release never waits for any. Queues do not survive a restart: a receiver that
//! must know everything reads the API.

mod backoff;
mod client;
mod delivery;
mod message;
mod queue;
mod signature;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use backoff::Backoff;
use client::WebhookClient;
pub use client::WebhookStartError;
use delivery::Deliverer;
use message::Notification;
use queue::{DeliveryQueue, QUEUE_MAX};

use crate::control::{Handle, Metrics, WebhookResult};
use crate::model::{Webhook, api};

/// How long deliveries in progress may take at shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// The delivery tasks. They continue if it is dropped without [`Webhooks::drain`].
#[derive(Debug)]
pub struct Webhooks {
    dispatcher: JoinHandle<()>,
    deliverers: Vec<(Receiver, JoinHandle<()>)>,
    stop_sorter: CancellationToken,
    stop_deliverers: CancellationToken,
    metrics: Arc<Metrics>,
}

/// A receiver and its queue.
#[derive(Clone, Debug)]
struct Receiver {
    webhook: Arc<Webhook>,
    queue: Arc<DeliveryQueue>,
}

impl Webhooks {
    /// Delivers every release event from now on to `receivers`. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// HTTPS cannot be set up.
    pub fn start(receivers: &[Webhook], handle: &Handle) -> Result<Webhooks, WebhookStartError> {
        let client = WebhookClient::new(receivers)?;
        Ok(Webhooks::start_with(
            receivers,
            handle,
            &client,
            Backoff::default(),
        ))
    }

    fn start_with(
        receivers: &[Webhook],
        handle: &Handle,
        client: &WebhookClient,
        pace: Backoff,
    ) -> Webhooks {
        let metrics = Arc::clone(handle.metrics());
        let stop_deliverers = CancellationToken::new();
        let mut deliverers = Vec::new();
        for webhook in receivers {
            let (webhook, queue) = (Arc::new(webhook.clone()), Arc::<DeliveryQueue>::default());
            let deliverer = Deliverer::new(
                Arc::clone(&webhook),
                client.clone(),
                pace,
                Arc::clone(&metrics),
            );
            let task = tokio::spawn(deliverer.run(Arc::clone(&queue), stop_deliverers.clone()));
            deliverers.push((Receiver { webhook, queue }, task));
        }
        let receivers = deliverers
            .iter()
            .map(|(receiver, _)| receiver.clone())
            .collect();
        let dispatcher = Dispatcher::new(handle.clone(), receivers);
        let stop_sorter = CancellationToken::new();
        Webhooks {
            dispatcher: tokio::spawn(dispatcher.run(stop_sorter.clone())),
            deliverers,
            stop_sorter,
            stop_deliverers,
            metrics,
        }
    }

    /// Shuts down: delivers what has happened so far, within a short limit.
    pub async fn drain(self) {
        self.drain_within(GRACE).await;
    }

    async fn drain_within(self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.stop_sorter.cancel();
        let _ = self.dispatcher.await;
        self.stop_deliverers.cancel();
        for (receiver, mut task) in self.deliverers {
            if tokio::time::timeout_at(deadline, &mut task).await.is_ok() {
                continue;
            }
            task.abort();
            // The queued events, and the one in progress.
            let undelivered = receiver.queue.len() + 1;
            tracing::warn!(
                webhook = ?receiver.webhook,
                undelivered,
                "events were not delivered before shutdown"
            );
            self.metrics
                .add_webhooks(WebhookResult::Dropped, undelivered as u64);
        }
    }
}

/// Puts each event into the queues of the receivers that want it.
struct Dispatcher {
    handle: Handle,
    receivers: Vec<Receiver>,
    events: broadcast::Receiver<api::Event>,
    /// The last event that was processed.
    last_id: u64,
}

impl Dispatcher {
    fn new(handle: Handle, receivers: Vec<Receiver>) -> Dispatcher {
        let (_, events) = handle.events(None);
        let mut dispatcher = Dispatcher {
            handle,
            receivers,
            events,
            last_id: 0,
        };
        // A release that ended during the start sent its event before the subscription.
        dispatcher.catch_up();
        dispatcher
    }

    async fn run(mut self, stop: CancellationToken) {
        if self.receivers.is_empty() {
            return;
        }
        while let Some(received) = stop.run_until_cancelled(self.events.recv()).await {
            match received {
                Ok(event) => self.dispatch(event),
                Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.dispatch(event);
        }
    }

    /// Processes the stream's kept events that were not processed yet.
    fn catch_up(&mut self) {
        let (missed, events) = self.handle.events(Some(self.last_id));
        self.events = events;
        for event in missed {
            self.dispatch(event);
        }
    }

    fn dispatch(&mut self, event: api::Event) {
        self.last_id = event.id;
        let Some(notification) = Notification::of(event).map(Arc::new) else {
            return;
        };
        let wanted = |receiver: &&Receiver| {
            receiver
                .webhook
                .events
                .iter()
                .any(|name| name == notification.event)
        };
        for receiver in self.receivers.iter().filter(wanted) {
            if let Some(lost) = receiver.queue.push(Arc::clone(&notification)) {
                tracing::warn!(
                    webhook = ?receiver.webhook,
                    waiting = QUEUE_MAX,
                    event = lost.event,
                    release = lost.release.id,
                    "an event was dropped: the receiver is too slow"
                );
                self.handle
                    .metrics()
                    .add_webhooks(WebhookResult::Dropped, 1);
            }
        }
    }
}
