//! Posts one event until it is accepted or has failed for good.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backoff::Backoff;
use super::client::{DeliveryError, WebhookClient};
use super::message::Notification;
use super::queue::DeliveryQueue;
use super::signature;
use crate::control::{Metrics, WebhookResult};
use crate::model::Webhook;
use crate::time::{Clock, SystemClock};

const AGENT: &str = concat!("weighbridge/", env!("CARGO_PKG_VERSION"));

static EVENT: HeaderName = HeaderName::from_static("x-weighbridge-event");
static DELIVERY: HeaderName = HeaderName::from_static("x-weighbridge-delivery");
static TIMESTAMP: HeaderName = HeaderName::from_static("x-weighbridge-timestamp");
static SIGNATURE: HeaderName = HeaderName::from_static("x-weighbridge-signature");

/// Delivers events to one receiver.
pub(super) struct Deliverer {
    webhook: Arc<Webhook>,
    client: WebhookClient,
    pace: Backoff,
    metrics: Arc<Metrics>,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the receiver responded with {0}")]
    Status(StatusCode, Option<Duration>),
    #[error("the receiver did not respond in time")]
    Timeout,
    #[error(transparent)]
    Unsent(#[from] DeliveryError),
    #[error("the event cannot be serialised: {0}")]
    Unwritten(String),
}

impl Failure {
    /// Whether a retry may succeed.
    fn is_transient(&self) -> bool {
        match self {
            Failure::Status(status, _) => {
                let asks_again = matches!(
                    *status,
                    StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                );
                asks_again || status.is_server_error()
            }
            Failure::Timeout | Failure::Unsent(DeliveryError::Connection(_)) => true,
            Failure::Unsent(DeliveryError::Certificate(_)) | Failure::Unwritten(_) => false,
        }
    }

    /// The pause that the receiver asked for.
    fn pause(&self) -> Option<Duration> {
        match self {
            Failure::Status(_, pause) => *pause,
            _ => None,
        }
    }
}

impl Deliverer {
    pub(super) fn new(
        webhook: Arc<Webhook>,
        client: WebhookClient,
        pace: Backoff,
        metrics: Arc<Metrics>,
    ) -> Deliverer {
        Deliverer {
            webhook,
            client,
            pace,
            metrics,
        }
    }

    /// Delivers queued events in order. After `stop` it ends once the queue is empty.
    pub(super) async fn run(self, queue: Arc<DeliveryQueue>, stop: CancellationToken) {
        while let Some(notification) = next(&queue, &stop).await {
            let id = Uuid::now_v7().hyphenated().to_string();
            let (webhook, event, release) =
                (&self.webhook, notification.event, &notification.release.id);
            let result = match self.deliver(&notification, &id).await {
                Ok(()) => {
                    tracing::debug!(
                        ?webhook,
                        delivery = id,
                        event,
                        release,
                        "an event was delivered"
                    );
                    WebhookResult::Delivered
                }
                Err(failure) => {
                    tracing::warn!(
                        ?webhook,
                        delivery = id,
                        event,
                        release,
                        "an event was not delivered: {failure}"
                    );
                    WebhookResult::Failed
                }
            };
            self.metrics.add_webhooks(result, 1);
        }
    }

    /// Posts an event, with as many attempts as needed and allowed.
    async fn deliver(&self, notification: &Notification, id: &str) -> Result<(), Failure> {
        let body = Bytes::from(
            notification
                .body(self.webhook.format)
                .map_err(serialise_error)?,
        );
        let mut attempts = 0;
        loop {
            attempts += 1;
            let failure = match self.attempt(notification, id, body.clone()).await {
                Err(failure) if failure.is_transient() && attempts < self.webhook.attempts => {
                    failure
                }
                done => return done,
            };
            let pause = self.pace.pause(attempts, failure.pause(), fastrand::f64());
            tracing::info!(
                webhook = ?self.webhook,
                delivery = id,
                event = notification.event,
                attempts,
                ?pause,
                "delivery of an event failed and will be retried: {failure}"
            );
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(
        &self,
        notification: &Notification,
        id: &str,
        body: Bytes,
    ) -> Result<(), Failure> {
        let request = self.request(notification, id, body)?;
        let sent = tokio::time::timeout(self.webhook.timeout, self.client.send(request)).await;
        // The status is all that matters; the connection is closed with the body.
        let answer = sent.map_err(|_| Failure::Timeout)??;
        if answer.status().is_success() {
            return Ok(());
        }
        let pause = retry_after(answer.headers(), SystemTime::now());
        Err(Failure::Status(answer.status(), pause))
    }

    /// The request of one attempt. Signed anew each time, since the time is signed.
    fn request(
        &self,
        notification: &Notification,
        id: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let timestamp = (SystemClock.now().unix_us() / 1_000_000).to_string();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.webhook.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static(AGENT))
            .header(&EVENT, notification.event)
            .header(&DELIVERY, id)
            .header(&TIMESTAMP, &timestamp);
        if let Some(secret) = &self.webhook.secret {
            let signature = signature::sign(secret, &timestamp, &body).map_err(serialise_error)?;
            request = request.header(&SIGNATURE, signature);
        }
        request.body(Full::new(body)).map_err(serialise_error)
    }
}

fn serialise_error(error: impl std::fmt::Display) -> Failure {
    Failure::Unwritten(error.to_string())
}

/// The next event; `None` if the queue is empty and no more will come.
async fn next(queue: &DeliveryQueue, stop: &CancellationToken) -> Option<Arc<Notification>> {
    tokio::select! {
        biased;
        notification = queue.next() => Some(notification),
        () = stop.cancelled() => None,
    }
}

/// The value of `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_700);
        let retry_after_seconds = |text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers, now).map(|pause| pause.as_secs())
        };
        assert_eq!(retry_after_seconds("30"), Some(30));
        assert_eq!(
            retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(77)
        );
        assert_eq!(
            (
                retry_after_seconds("soon"),
                retry_after_seconds("Sun, 06 Nov 1994 08:00:00 GMT")
            ),
            (None, None)
        );
    }

    #[test]
    fn transient_failures_are_retried() {
        let status =
            |code| Failure::Status(StatusCode::from_u16(code).unwrap(), None).is_transient();
        assert!([408, 429, 500, 502, 503, 599].into_iter().all(status));
        assert!(![301, 400, 401, 404, 410].into_iter().any(status));
        assert!(Failure::Timeout.is_transient());
    }
}
