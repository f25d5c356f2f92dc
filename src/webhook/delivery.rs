//! Posting one event until it is taken, or until it is clear that it will not be.

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

/// Tells one receiver.
pub(super) struct Deliverer {
    webhook: Arc<Webhook>,
    client: WebhookClient,
    pace: Backoff,
    metrics: Arc<Metrics>,
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it answered {0}")]
    Status(StatusCode, Option<Duration>),
    #[error("it did not answer in time")]
    Timeout,
    #[error(transparent)]
    Unsent(#[from] DeliveryError),
    #[error("the event cannot be written: {0}")]
    Unwritten(String),
}

impl Failure {
    /// Whether the same may be taken later.
    fn may_pass(&self) -> bool {
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

    /// How long the receiver wants to be left alone.
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

    /// Delivers what comes, one after another. Once it is to stop, it ends with the last that
    /// waits.
    pub(super) async fn run(self, queue: Arc<DeliveryQueue>, stop: CancellationToken) {
        while let Some(news) = next(&queue, &stop).await {
            let id = Uuid::now_v7().hyphenated().to_string();
            let (webhook, event, release) = (&self.webhook, news.event, &news.release.id);
            let result = match self.deliver(&news, &id).await {
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

    /// Posts an event, as often as it takes and is allowed.
    async fn deliver(&self, news: &Notification, id: &str) -> Result<(), Failure> {
        let body = Bytes::from(news.body(self.webhook.format).map_err(unwritten)?);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let failure = match self.attempt(news, id, body.clone()).await {
                Err(failure) if failure.may_pass() && attempts < self.webhook.attempts => failure,
                done => return done,
            };
            let pause = self.pace.pause(attempts, failure.pause(), fastrand::f64());
            tracing::info!(
                webhook = ?self.webhook, delivery = id, event = news.event, attempts, ?pause,
                "an event will be sent again: {failure}"
            );
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, news: &Notification, id: &str, body: Bytes) -> Result<(), Failure> {
        let request = self.request(news, id, body)?;
        let sent = tokio::time::timeout(self.webhook.timeout, self.client.send(request)).await;
        // The head says all; the connection ends with the rest.
        let answer = sent.map_err(|_| Failure::Timeout)??;
        if answer.status().is_success() {
            return Ok(());
        }
        let pause = retry_after(answer.headers(), SystemTime::now());
        Err(Failure::Status(answer.status(), pause))
    }

    /// The request of one attempt: signed anew, since the time is part of that.
    fn request(
        &self,
        news: &Notification,
        id: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let timestamp = (SystemClock.now().unix_us() / 1_000_000).to_string();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.webhook.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static(AGENT))
            .header(&EVENT, news.event)
            .header(&DELIVERY, id)
            .header(&TIMESTAMP, &timestamp);
        if let Some(secret) = &self.webhook.secret {
            let signature = signature::sign(secret, &timestamp, &body).map_err(unwritten)?;
            request = request.header(&SIGNATURE, signature);
        }
        request.body(Full::new(body)).map_err(unwritten)
    }
}

fn unwritten(error: impl std::fmt::Display) -> Failure {
    Failure::Unwritten(error.to_string())
}

/// The next event; `None` once nothing waits and no more is to come.
async fn next(queue: &DeliveryQueue, stop: &CancellationToken) -> Option<Arc<Notification>> {
    tokio::select! {
        biased;
        news = queue.next() => Some(news),
        () = stop.cancelled() => None,
    }
}

/// How long a receiver wants to be left alone (RFC 9110 section 10.2.3): seconds, or a date.
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
        let asked = |text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers, now).map(|pause| pause.as_secs())
        };
        assert_eq!(asked("30"), Some(30));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(77));
        assert_eq!(
            (asked("soon"), asked("Sun, 06 Nov 1994 08:00:00 GMT")),
            (None, None)
        );
    }

    #[test]
    fn transient_failures_are_retried() {
        let status = |code| Failure::Status(StatusCode::from_u16(code).unwrap(), None).may_pass();
        assert!([408, 429, 500, 502, 503, 599].into_iter().all(status));
        assert!(![301, 400, 401, 404, 410].into_iter().any(status));
        assert!(Failure::Timeout.may_pass());
    }
}
