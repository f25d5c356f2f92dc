//! Event streams, connections and their bounds.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::model::api::EventKind;

/// An open event stream.
struct Watcher {
    body: Incoming,
    text: String,
}

impl Watcher {
    async fn open(server: &Server, line: &str, headers: &[(&str, &str)]) -> Watcher {
        let response = server.open(Ask(line, headers, "")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut watcher = Watcher {
            body: response.into_body(),
            text: String::new(),
        };
        watcher.until(": open").await;
        watcher
    }

    /// Reads until `text` has come; false at the end of the stream.
    async fn until(&mut self, text: &str) -> bool {
        while !self.text.contains(text) {
            let Some(Ok(frame)) = self.body.frame().await else {
                return false;
            };
            self.text
                .push_str(str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
        true
    }

    fn ids(&self) -> Vec<&str> {
        self.text
            .lines()
            .filter_map(|line| line.strip_prefix("id: "))
            .collect()
    }
}

fn statistics(service: &str) -> EventKind {
    EventKind::Statistics {
        service: service.into(),
        upstreams: [].into(),
    }
}

fn reload() -> EventKind {
    EventKind::Reload {
        ok: true,
        detail: "last".into(),
    }
}

#[tokio::test]
async fn events_are_told_and_replayed() {
    let server = Server::start().await;
    let events = &server.controller.events;
    let mut all = Watcher::open(&server, "GET /api/v1/events", &[]).await;
    let mut shop = Watcher::open(&server, "GET /api/v1/events?service=shop", &[]).await;
    for kind in [statistics("shop"), statistics("other"), reload()] {
        events.send("2026-01-01T00:00:00Z".into(), kind);
    }
    assert!(all.until("last").await && shop.until("last").await);
    assert_eq!(
        (all.ids(), shop.ids()),
        (vec!["1", "2", "3"], vec!["1", "3"])
    );
    assert!(
        all.text.contains("event: statistics\n")
            && all.text.contains(r#"data: {"id":1,"at":"2026"#)
    );
    for (last, ids, is_lost) in [
        ("0", "1 2 3", false),
        ("2", "3", false),
        ("99", "1 2 3", true),
    ] {
        let mut again =
            Watcher::open(&server, "GET /api/v1/events", &[("last-event-id", last)]).await;
        assert!(again.until("last").await);
        assert_eq!(again.ids().join(" "), ids);
        assert_eq!(again.text.contains("event: lost\n"), is_lost, "{last}");
    }
}

#[tokio::test]
async fn a_watcher_that_is_too_slow_is_told_so() {
    let server = Server::start().await;
    let mut watcher = Watcher::open(&server, "GET /api/v1/events", &[]).await;
    for _ in 0..5_000 {
        server
            .controller
            .events
            .send(String::new(), statistics("shop"));
    }
    server.controller.events.send(String::new(), reload());
    assert!(watcher.until("event: lost").await && watcher.until("last").await);
    assert!(watcher.ids().len() < 5_000);
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_server() {
    let limits = RequestLimits {
        streams: 2,
        ..RequestLimits::default()
    };
    let mut server = Server::start_with(Options::default(), limits).await;
    let mut one = Watcher::open(&server, "GET /api/v1/events", &[]).await;
    let two = Watcher::open(&server, "GET /api/v1/events", &[]).await;
    let answer = server
        .check(
            Ask("GET /api/v1/events", &[], ""),
            503,
            "too many event streams",
        )
        .await;
    assert_eq!(answer.header("retry-after"), "1");
    drop(two);
    while server
        .open(Ask("GET /api/v1/events", &[], ""))
        .await
        .status()
        == 503
    {
        tokio::task::yield_now().await;
    }
    server.stop.cancel();
    assert!(!one.until("what never comes").await);
    (&mut server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// What the server says to `bytes` until it closes the connection.
async fn talk(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut said = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn slow_and_idle_clients_are_dropped() {
    let limits = RequestLimits {
        header_timeout: Duration::from_millis(20),
        idle_timeout: Duration::from_millis(20),
        request_timeout: Duration::from_millis(200),
        ..RequestLimits::default()
    };
    let server = Server::start_with(Options::default(), limits).await;
    for slow in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX:"] {
        let said = talk(&server, slow.as_bytes()).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
    let said = talk(&server, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let stalled = "PUT /api/v1/services/shop/weights HTTP/1.1\r\nHost: localhost\r\nContent-Type: \
                   application/json\r\nContent-Length: 50\r\n\r\n{";
    let said = talk(&server, stalled.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 504"), "{said}");
    let said = talk(&server, b"GET /livez HTTP/1.0\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.0 200"), "{said}");
}

#[tokio::test]
async fn large_bodies_are_refused_without_being_read() {
    let server = Server::start().await;
    for framing in ["Content-Length: 99999999\r\n\r\n".to_owned(), {
        format!(
            "Transfer-Encoding: chunked\r\n\r\n20000\r\n{}\r\n",
            "x".repeat(0x20000)
        )
    }] {
        let head = format!(
            "{PUT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}"
        );
        let said = talk(&server, head.as_bytes()).await;
        assert!(
            said.starts_with("HTTP/1.1 413") && said.contains("body-too-large"),
            "{said:.300}"
        );
    }
}

/// A connection that has sent `bytes` and reads nothing.
async fn silent(server: &Server, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // One that has been closed already has had its turn.
    let _ = stream.write_all(bytes.as_bytes()).await;
    stream
}

#[tokio::test]
async fn a_rollback_gets_in_beside_any_number_of_half_sent_requests_and_who_is_served_stays() {
    let host = "Host: localhost\r\n";
    let half_head = format!("GET /livez HTTP/1.1\r\n{host}");
    let half_body = format!(
        "{PUT} HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{{"
    );
    let whole = format!("GET /livez HTTP/1.1\r\n{host}\r\n");
    for text in ["", &half_head, &half_body, &whole] {
        let limits = RequestLimits {
            connections: 8,
            ..RequestLimits::default()
        };
        let server = Server::start_with(Options::default(), limits).await;
        let mut watcher = Watcher::open(&server, "GET /api/v1/events", &[]).await;
        let mut crowd = Vec::new();
        for _ in 0..100 {
            crowd.push(silent(&server, text).await);
        }
        server
            .check(Ask(ROLLBACK, &[], ""), 200, "\"blue\":100")
            .await;
        // The oldest of the crowd is closed.
        let mut said = Vec::new();
        let _ = crowd[0].read_to_end(&mut said).await;
        server.controller.events.send(String::new(), reload());
        assert!(
            watcher.until("last").await,
            "the watcher was closed: {text:?}"
        );
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = RequestLimits {
        connections: 2,
        ..RequestLimits::default()
    };
    let server = Server::start_with(Options::default(), limits).await;
    let one = Watcher::open(&server, "GET /api/v1/events", &[]).await;
    let two = Watcher::open(&server, "GET /api/v1/events", &[]).await;
    let mut third = std::pin::pin!(server.check(Ask("GET /livez", &[], ""), 200, "ok"));
    let early = tokio::time::timeout(Duration::from_millis(50), third.as_mut()).await;
    assert!(early.is_err());
    drop(one);
    third.await;
    drop(two);
}
