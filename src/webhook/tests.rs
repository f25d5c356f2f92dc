//! Deliveries to real receivers.

mod receiver;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::RootCertStore;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use self::receiver::{Answer, Certificate, ReceivedRequest, Receiver};
use super::Webhooks;
use super::backoff::Backoff;
use super::client::WebhookClient;
use super::queue::QUEUE_MAX;
use crate::control::{ControllerRequest, EventStream, Handle, Metrics, Views};
use crate::model::{Webhook, WebhookFormat, api};

/// Longer than any test takes, however slow the machine is.
const DEADLINE: Duration = Duration::from_secs(60);

/// A release at its first step.
pub(super) fn release() -> api::Release {
    serde_json::from_value(serde_json::json!({
        "id": "shop-12", "service": "shop", "baseline": "blue", "canary": "green",
        "phase": "progressing", "paused": false, "step": 1, "steps": [5.0, 100.0], "weight": 5.0,
        "started_at": "2026-11-25T08:59:00Z", "phase_since": "2026-11-25T09:00:00Z",
        "actor": "alice",
        "budget": { "limit": 20, "spent": 0, "allowance": 20 },
        "user_visible_failures": 0, "rescued": 0, "canary_requests": 0, "baseline_requests": 0,
        "log_e": 0.0, "log_limit": 6.9, "objectives": [], "durable": true,
    }))
    .unwrap()
}

/// An event of a release, as the stream has it.
pub(super) fn event(id: u64, action: &str, release: api::Release) -> api::Event {
    let kind = api::EventKind::Release {
        release: Box::new(release),
        action: action.to_owned(),
        actor: "alice".to_owned(),
    };
    let at = "2026-11-25T09:00:00Z".to_owned();
    api::Event { id, at, kind }
}

/// Delivery tasks, and the event stream that they read. Webhooks read no services.
#[derive(Debug)]
struct Nothing;

impl Views for Nothing {
    fn services(&self) -> Vec<api::Service> {
        Vec::new()
    }

    fn service(&self, _: &str) -> Option<api::Service> {
        None
    }
}

struct Rig {
    events: Arc<EventStream>,
    metrics: Arc<Metrics>,
    webhooks: Webhooks,
    _commands: mpsc::Receiver<ControllerRequest>,
}

impl Rig {
    fn start(receivers: &[Webhook]) -> Rig {
        Rig::trusting(receivers, RootCertStore::empty())
    }

    fn trusting(receivers: &[Webhook], roots: RootCertStore) -> Rig {
        Rig::with_events(EventStream::new(), receivers, roots)
    }

    /// Starts when the stream already has these events.
    fn with_events(events: EventStream, receivers: &[Webhook], roots: RootCertStore) -> Rig {
        let (events, metrics) = (Arc::new(events), Arc::new(Metrics::new()));
        let (handle, commands) =
            Handle::channel(Arc::clone(&metrics), Arc::clone(&events), Arc::new(Nothing));
        let pace = Backoff {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(20),
        };
        let client = WebhookClient::trusting(roots).unwrap();
        Rig {
            webhooks: Webhooks::start_with(receivers, &handle, &client, pace),
            events,
            metrics,
            _commands: commands,
        }
    }

    /// Sends an event about the release of this id.
    fn send_event(&self, action: &str, id: &str) {
        let release = api::Release {
            id: id.to_owned(),
            ..release()
        };
        let event = event(0, action, release);
        self.events.send(event.at, event.kind);
    }

    fn counted(&self, result: &str) -> u64 {
        let series = format!("weighbridge_webhook_deliveries_total{{result=\"{result}\"}} ");
        let page = self.metrics.render();
        let value = page.lines().find_map(|line| line.strip_prefix(&series));
        value.unwrap().parse().unwrap()
    }

    async fn count(&self, result: &str, number: u64) {
        until(&format!("{number} {result}"), || {
            self.counted(result) == number
        })
        .await;
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}: not in time"));
}

fn block_on<T>(case: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(case)
}

fn header(requests: &ReceivedRequest, name: &str) -> String {
    let value = requests.headers.get(name).map(HeaderValue::to_str);
    value
        .unwrap_or_else(|| panic!("no {name} in {requests:?}"))
        .unwrap()
        .to_owned()
}

/// HMAC as RFC 2104 defines it, written out, so that the test is independent of the tested library.
fn hmac(key: &[u8], text: &[u8]) -> String {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(text)
        .finalize();
    let outer = Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn events_of_the_start_are_delivered_once() {
    block_on(async {
        let receiver = Receiver::start(|_| Answer::Status(204)).await;
        let events = EventStream::new();
        let before = event(0, "release_rolled_back", release());
        events.send(before.at, before.kind);
        let rig = Rig::with_events(
            events,
            &[receiver.webhook("http://localhost")],
            RootCertStore::empty(),
        );
        rig.send_event("release_started", "shop-13");
        rig.count("delivered", 2).await;
        let told: Vec<String> = receiver
            .requests()
            .iter()
            .map(|requests| header(requests, "x-weighbridge-event").to_owned())
            .collect();
        assert_eq!(told, ["release_rolled_back", "release_started"]);
    });
}

#[test]
fn an_event_is_delivered_with_signature_and_id() {
    block_on(async {
        let receiver = Receiver::start(|_| Answer::Status(204)).await;
        let mut webhook = receiver.webhook("http://localhost");
        webhook.secret = Some("hunter2".into());
        webhook.events = vec!["release_advanced".to_owned()];
        let rig = Rig::start(&[webhook]);
        rig.send_event("release_paused", "shop-1");
        rig.send_event("release_advanced", "shop-1");
        rig.count("delivered", 1).await;
        let requests = receiver.requests();
        let [requests] = &*requests else {
            panic!("only requested events: {requests:?}")
        };
        assert_eq!(
            (requests.method.as_str(), requests.target.as_str()),
            ("POST", "/hook?a=b")
        );
        let body: serde_json::Value = serde_json::from_slice(&requests.body).unwrap();
        assert_eq!(
            (&body["event"], &body["release"]["id"]),
            (&"release_advanced".into(), &"shop-1".into())
        );
        assert_eq!(header(requests, "content-type"), "application/json");
        assert_eq!(
            header(requests, "user-agent"),
            concat!("weighbridge/", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(header(requests, "x-weighbridge-event"), "release_advanced");
        let id: uuid::Uuid = header(requests, "x-weighbridge-delivery").parse().unwrap();
        assert_eq!(id.get_version_num(), 7);
        let timestamp = header(requests, "x-weighbridge-timestamp");
        let age = jiff::Timestamp::now().as_second() - timestamp.parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{timestamp}");
        let signed = [timestamp.as_bytes(), b".", &requests.body].concat();
        assert_eq!(
            header(requests, "x-weighbridge-signature"),
            format!("sha256={}", hmac(b"hunter2", &signed))
        );
    });
}

#[test]
fn a_slack_receiver_gets_a_sentence_and_no_signature_without_a_secret() {
    block_on(async {
        let receiver = Receiver::start(|_| Answer::Status(200)).await;
        let mut webhook = receiver.webhook("http://127.0.0.1");
        webhook.format = WebhookFormat::Slack;
        let rig = Rig::start(&[webhook]);
        rig.send_event("release_promoted", "shop-1");
        rig.count("delivered", 1).await;
        let requests = receiver.requests();
        let body: serde_json::Value = serde_json::from_slice(&requests[0].body).unwrap();
        assert!(
            body["text"]
                .as_str()
                .unwrap()
                .starts_with("shop: release shop-1 from blue to green was promoted")
        );
        assert!(!requests[0].headers.contains_key("x-weighbridge-signature"));
    });
}

#[test]
fn transient_failures_are_retried_with_the_same_id() {
    for trouble in [
        Answer::Status(500),
        Answer::Status(503),
        Answer::Status(429),
        Answer::Close,
        Answer::Never,
    ] {
        block_on(async {
            let receiver = Receiver::start(move |number| {
                if number < 2 {
                    trouble
                } else {
                    Answer::Status(200)
                }
            })
            .await;
            let mut webhook = receiver.webhook("http://127.0.0.1");
            if trouble == Answer::Never {
                webhook.timeout = Duration::from_millis(50);
            }
            // On a slow machine the good response may be late too.
            webhook.attempts = 20;
            let rig = Rig::start(&[webhook]);
            rig.send_event("release_started", "shop-1");
            rig.count("delivered", 1).await;
            let requests = receiver.requests();
            assert!(requests.len() >= 3, "{trouble:?}: {requests:?}");
            let first = header(&requests[0], "x-weighbridge-delivery");
            for again in &requests {
                assert_eq!(
                    header(again, "x-weighbridge-delivery"),
                    first,
                    "{trouble:?}"
                );
                assert_eq!(again.body, requests[0].body);
            }
            assert_eq!(rig.counted("failed"), 0);
        });
    }
}

#[test]
fn permanent_failures_are_not_retried_and_the_next_event_follows() {
    for status in [301, 400, 401, 404, 410] {
        block_on(async {
            let receiver = Receiver::start(move |number| {
                Answer::Status(if number == 0 { status } else { 200 })
            })
            .await;
            let rig = Rig::start(&[receiver.webhook("http://127.0.0.1")]);
            rig.send_event("release_started", "shop-1");
            rig.send_event("release_started", "shop-2");
            rig.count("delivered", 1).await;
            assert_eq!(
                (rig.counted("failed"), receiver.ids()),
                (1, ids(1..=2)),
                "{status}"
            );
        });
    }
}

#[test]
fn attempts_are_counted() {
    block_on(async {
        let receiver = Receiver::start(|_| Answer::Status(500)).await;
        let mut webhook = receiver.webhook("http://127.0.0.1");
        webhook.attempts = 3;
        let rig = Rig::start(&[webhook]);
        rig.send_event("release_started", "shop-1");
        rig.count("failed", 1).await;
        assert_eq!(
            (receiver.requests().len(), rig.counted("delivered")),
            (3, 0)
        );
    });
}

fn ids(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|number| format!("shop-{number}")).collect()
}

#[test]
fn events_arrive_in_order_when_each_is_retried() {
    block_on(async {
        let receiver =
            Receiver::start(|number| Answer::Status(if number % 2 == 0 { 500 } else { 200 })).await;
        let rig = Rig::start(&[receiver.webhook("http://127.0.0.1")]);
        for id in ids(0..30) {
            rig.send_event("release_advanced", &id);
        }
        rig.count("delivered", 30).await;
        let mut arrived = receiver.ids();
        assert_eq!(arrived.len(), 60);
        arrived.dedup();
        assert_eq!(arrived, ids(0..30));
    });
}

#[test]
fn a_slow_receiver_loses_the_oldest_events_and_delays_no_other() {
    block_on(async {
        let slow = Receiver::start(|number| {
            if number == 0 {
                Answer::Gate
            } else {
                Answer::Status(200)
            }
        })
        .await;
        let fast = Receiver::start(|_| Answer::Status(200)).await;
        let mut webhook = slow.webhook("http://127.0.0.1");
        webhook.timeout = DEADLINE;
        let rig = Rig::start(&[webhook, fast.webhook("http://127.0.0.1")]);
        rig.send_event("release_advanced", "shop-0");
        until("the first is in progress", || slow.count() == 1).await;
        for number in 1..QUEUE_MAX + 11 {
            rig.send_event("release_advanced", &format!("shop-{number}"));
            // The fast receiver must keep up, however slow the machine is.
            until("the fast one has it", || fast.count() == number + 1).await;
        }
        rig.count("dropped", 10).await;
        assert_eq!(fast.ids(), ids(0..QUEUE_MAX + 11));
        slow.open();
        rig.count("delivered", 2 * (QUEUE_MAX as u64 + 1) + 10)
            .await;
        let kept = std::iter::once(0).chain(11..QUEUE_MAX + 11);
        assert_eq!((slow.ids(), rig.counted("failed")), (ids(kept), 0));
    });
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_at_once() {
    block_on(async {
        let certificate = Certificate::new();
        let receiver = Receiver::start_tls(&certificate, |_| Answer::Status(200)).await;
        let webhook = receiver.webhook("https://localhost");
        let rig = Rig::start(std::slice::from_ref(&webhook));
        rig.send_event("release_started", "shop-1");
        rig.count("failed", 1).await;
        assert_eq!(
            (receiver.requests().len(), receiver.connections()),
            (0, 1),
            "not retried"
        );

        let rig = Rig::trusting(&[webhook], certificate.roots());
        rig.send_event("release_started", "shop-2");
        rig.count("delivered", 1).await;
        assert_eq!(receiver.ids(), ["shop-2"]);

        let other = receiver.webhook("https://127.0.0.1");
        let rig = Rig::trusting(&[other], certificate.roots());
        rig.send_event("release_started", "shop-3");
        rig.count("failed", 1).await;
        assert_eq!(
            receiver.ids(),
            ["shop-2"],
            "the certificate is for another name"
        );
    });
}

#[test]
fn queued_events_are_delivered_at_shutdown() {
    block_on(async {
        let receiver = Receiver::start(|_| Answer::Status(200)).await;
        let rig = Rig::start(&[receiver.webhook("http://127.0.0.1")]);
        for id in ids(0..20) {
            rig.send_event("release_advanced", &id);
        }
        rig.webhooks.drain_within(DEADLINE).await;
        assert_eq!(receiver.ids(), ids(0..20));
    });
}

#[test]
fn shutdown_does_not_wait_for_a_receiver_that_does_not_respond() {
    block_on(async {
        let receiver = Receiver::start(|_| Answer::Never).await;
        let mut webhook = receiver.webhook("http://127.0.0.1");
        webhook.timeout = DEADLINE;
        let rig = Rig::start(&[webhook]);
        rig.send_event("release_started", "shop-1");
        rig.send_event("release_started", "shop-2");
        until("one is in progress", || receiver.count() == 1).await;
        let metrics = Arc::clone(&rig.metrics);
        rig.webhooks.drain_within(Duration::from_millis(1)).await;
        assert!(
            metrics
                .render()
                .contains("webhook_deliveries_total{result=\"dropped\"} 2")
        );
    });
}
