//! Telling receivers of releases by HTTP.
//!
//! One task takes the releases' events out of the stream and puts them into a bounded queue for
//! each receiver; one task for each receiver posts them, in their order, and tries again. So a slow
//! receiver holds up nobody but itself, and a release never waits for any. What is in a queue does
//! not survive a restart: a receiver that must know asks the API.

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

/// How long what is under way may take at the end.
const GRACE: Duration = Duration::from_secs(2);

/// The tasks that tell. They go on when it is dropped without [`Webhooks::drain`].
#[derive(Debug)]
pub struct Webhooks {
    sorter: JoinHandle<()>,
    deliverers: Vec<(Receiver, JoinHandle<()>)>,
    stop_sorter: CancellationToken,
    stop_deliverers: CancellationToken,
    metrics: Arc<Metrics>,
}

/// A receiver, and what waits for it.
#[derive(Clone, Debug)]
struct Receiver {
    webhook: Arc<Webhook>,
    queue: Arc<DeliveryQueue>,
}

impl Webhooks {
    /// Tells `receivers` of every release from now on. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// Nothing can be posted by `https`.
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
        let sorter = Dispatcher::new(handle.clone(), receivers);
        let stop_sorter = CancellationToken::new();
        Webhooks {
            sorter: tokio::spawn(sorter.run(stop_sorter.clone())),
            deliverers,
            stop_sorter,
            stop_deliverers,
            metrics,
        }
    }

    /// Ends: what has happened so far is still told, if that takes no longer than a moment.
    pub async fn drain(self) {
        self.drain_within(GRACE).await;
    }

    async fn drain_within(self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.stop_sorter.cancel();
        let _ = self.sorter.await;
        self.stop_deliverers.cancel();
        for (receiver, mut task) in self.deliverers {
            if tokio::time::timeout_at(deadline, &mut task).await.is_ok() {
                continue;
            }
            task.abort();
            // Those that wait, and the one under way.
            let untold = receiver.queue.len() + 1;
            tracing::warn!(webhook = ?receiver.webhook, untold, "events could not be told before the end");
            self.metrics
                .add_webhooks(WebhookResult::Dropped, untold as u64);
        }
    }
}

/// Puts each event into the queues of those who want it.
struct Dispatcher {
    handle: Handle,
    receivers: Vec<Receiver>,
    events: broadcast::Receiver<api::Event>,
    /// The last event that was looked at.
    last_id: u64,
}

impl Dispatcher {
    fn new(handle: Handle, receivers: Vec<Receiver>) -> Dispatcher {
        let (_, events) = handle.events(None);
        let mut sorter = Dispatcher {
            handle,
            receivers,
            events,
            last_id: 0,
        };
        // A release that the start itself has ended was told before anybody could listen.
        sorter.catch_up();
        sorter
    }

    async fn run(mut self, stop: CancellationToken) {
        if self.receivers.is_empty() {
            return;
        }
        while let Some(received) = stop.run_until_cancelled(self.events.recv()).await {
            match received {
                Ok(event) => self.sort(event),
                Err(broadcast::error::RecvError::Lagged(_)) => self.catch_up(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.sort(event);
        }
    }

    /// Looks at what the stream remembers of what has not been looked at.
    fn catch_up(&mut self) {
        let (missed, events) = self.handle.events(Some(self.last_id));
        self.events = events;
        for event in missed {
            self.sort(event);
        }
    }

    fn sort(&mut self, event: api::Event) {
        self.last_id = event.id;
        let Some(news) = Notification::of(event).map(Arc::new) else {
            return;
        };
        let wanted = |receiver: &&Receiver| {
            receiver
                .webhook
                .events
                .iter()
                .any(|name| name == news.event)
        };
        for receiver in self.receivers.iter().filter(wanted) {
            if let Some(lost) = receiver.queue.push(Arc::clone(&news)) {
                tracing::warn!(
                    webhook = ?receiver.webhook,
                    waiting = QUEUE_MAX,
                    event = lost.event,
                    release = lost.release.id,
                    "an event was dropped: the receiver does not keep up"
                );
                self.handle
                    .metrics()
                    .add_webhooks(WebhookResult::Dropped, 1);
            }
        }
    }
}
