//! Client of the event stream. A broken connection is reopened after the last event received.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::http::{AdminClient, Error};

/// Delay before the stream is reopened.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The API sends a comment every 15 seconds, so a stream that is silent for this long is broken.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Capacity of the queue to the subscriber; when it is full, the stream is not read.
const QUEUE_MAX: usize = 256;
/// The longest event that is read; a stream with a longer one is reopened.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An event, or a change of the stream's state.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    /// The stream is open. It has no earlier events, unless it was resumed.
    Open,
    /// The data of an event.
    Event(Value),
    /// Events are missing here.
    Lost,
    /// The stream broke or cannot be opened; it will be retried.
    Broken(Error),
}

/// An event stream, kept open by a task until it is dropped.
#[derive(Debug)]
pub(crate) struct EventSubscription {
    events: mpsc::Receiver<StreamEvent>,
    task: JoinHandle<()>,
}

impl EventSubscription {
    /// Subscribes to the events of a service.
    pub(crate) fn of(client: AdminClient, service: String) -> EventSubscription {
        let (sender, events) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(async move {
            let mut last_id = None;
            // When the subscriber is gone, sending fails and the task ends.
            while let Err(error) = listen(&client, &service, &mut last_id, &sender).await {
                if sender.send(StreamEvent::Broken(error)).await.is_err() {
                    return;
                }
                sleep(RETRY_AFTER).await;
            }
        });
        EventSubscription { events, task }
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> StreamEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

impl Drop for EventSubscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one stream to its end, which is always an error; `Ok` when the subscriber is gone.
async fn listen(
    client: &AdminClient,
    service: &str,
    last_id: &mut Option<u64>,
    sender: &mpsc::Sender<StreamEvent>,
) -> Result<(), Error> {
    let mut body = client.events(service, *last_id).await?;
    let mut reader = Reader::default();
    if sender.send(StreamEvent::Open).await.is_err() {
        return Ok(());
    }
    loop {
        let bytes = client.stream_result(next(&mut body).await)?;
        let messages =
            client.stream_result(reader.read(&bytes).ok_or("an event is too long".to_owned()))?;
        for message in messages {
            *last_id = message.id.or(*last_id);
            let event = match (message.event.as_str(), serde_json::from_str(&message.data)) {
                ("lost", _) => StreamEvent::Lost,
                (_, Ok(data)) => StreamEvent::Event(data),
                (_, Err(_)) => continue,
            };
            if sender.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn next(body: &mut Incoming) -> Result<bytes::Bytes, String> {
    match timeout(SILENCE_MAX, body.frame()).await {
        Err(_) => Err(format!(
            "the event stream was silent for {} s",
            SILENCE_MAX.as_secs()
        )),
        Ok(None) => Err("the event stream ended".to_owned()),
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(Some(Ok(frame))) => Ok(frame.into_data().unwrap_or_default()),
    }
}

/// One message of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Message {
    id: Option<u64>,
    event: String,
    data: String,
}

/// Parser of the event stream format (HTML standard, 9.2.6), for lines that end with a line feed.
#[derive(Debug, Default)]
struct Reader {
    line: Vec<u8>,
    message: Message,
}

impl Reader {
    /// Returns the messages that `bytes` complete; `None` when one is too long.
    fn read(&mut self, bytes: &[u8]) -> Option<Vec<Message>> {
        let mut messages = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.message.data.len() > EVENT_BYTES_MAX {
                return None;
            }
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                messages.extend(
                    self.take(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])),
                );
            }
        }
        Some(messages)
    }

    fn take(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return (!message.data.is_empty()).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.message.id = value.parse().ok(),
            "event" => value.clone_into(&mut self.message.event),
            "data" => {
                if !self.message.data.is_empty() {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_parsed_across_any_chunk_boundary() {
        let text = ": open\nretry: 1000\n\nid: 7\nevent: release\ndata: {\"a\":\ndata: \
                    1}\n\nevent: lost\ndata: {}\r\n\r\nid: 8\n\n";
        let expected = [
            Message {
                id: Some(7),
                event: "release".into(),
                data: "{\"a\":\n1}".into(),
            },
            Message {
                id: None,
                event: "lost".into(),
                data: "{}".into(),
            },
        ];
        for size in 1..text.len() {
            let mut reader = Reader::default();
            let pieces = text.as_bytes().chunks(size);
            let messages: Vec<Message> = pieces
                .flat_map(|piece| reader.read(piece).unwrap())
                .collect();
            assert_eq!(messages, expected, "{size}");
        }
    }

    #[test]
    fn a_line_over_the_limit_is_rejected() {
        let mut reader = Reader::default();
        let piece = vec![b'x'; EVENT_BYTES_MAX / 2];
        assert!(reader.read(&piece).is_some());
        assert!(reader.read(&piece).is_some());
        assert!(reader.read(&piece).is_none());
    }
}
