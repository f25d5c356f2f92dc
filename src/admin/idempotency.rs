//! Idempotency keys: a repeated write gets the response of the first, so that a caller who received
//! none may send it again.
//!
//! Only responses to successful writes are stored: a failed write changed nothing, and its key may
//! be used again. Responses are stored on disk with their changes and restored at the start. A
//! duplicate that arrives while the first is in progress waits for the same response.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::problem::{self, ProblemResponse};
use crate::model::{IdempotencyKey, KeptAnswer, hex};
use crate::time::Timestamp;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Maximum length of a key.
const KEY_LENGTH_MAX: usize = 255;

/// Maximum number of stored responses; the least recently used is evicted first.
const ANSWERS_MAX: usize = 1_000;

/// Maximum bytes of all stored responses together, as services can be large.
const ANSWERS_BYTES_MAX: usize = 16 << 20;

/// Time for which a response is stored.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// Response to a successful write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredResponse {
    /// 200, or 201 with `location`.
    pub(super) status: StatusCode,
    /// Path of the created resource, if any.
    pub(super) location: Option<HeaderValue>,
    /// Revision of the service after the write.
    pub(super) revision: u64,
    /// Whether the change is on disk.
    pub(super) durable: bool,
    /// Service or release after the write, as JSON.
    pub(super) body: Bytes,
}

impl StoredResponse {
    /// Converts to the form stored on disk.
    pub(super) fn kept(&self, key: IdempotencyKey, now: Timestamp) -> KeptAnswer {
        let location = self
            .location
            .as_ref()
            .and_then(|location| location.to_str().ok());
        KeptAnswer {
            key,
            at_ms: now.unix_us() / 1000,
            status: self.status.as_u16(),
            location: location.map(str::to_owned),
            revision: self.revision,
            body: String::from_utf8_lossy(&self.body).into_owned(),
        }
    }

    fn restored(kept: KeptAnswer) -> Option<StoredResponse> {
        Some(StoredResponse {
            status: StatusCode::from_u16(kept.status).ok()?,
            location: kept.location.map(HeaderValue::try_from).transpose().ok()?,
            revision: kept.revision,
            durable: true,
            body: kept.body.into(),
        })
    }
}

/// Outcome of a write.
pub(super) type WriteOutcome = Result<StoredResponse, ProblemResponse>;

/// Key within the scope of its caller, so that no caller gets another caller's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallerKey {
    caller: Arc<str>,
    text: String,
}

impl CallerKey {
    /// Converts the key and the digest of its request to the form stored on disk.
    pub(super) fn kept(&self, request: &[u8; 32]) -> IdempotencyKey {
        IdempotencyKey {
            caller: self.caller.to_string(),
            key: self.text.clone(),
            request: hex::encode(request),
        }
    }

    /// Reads the key from `headers`, if present.
    pub(super) fn read(
        headers: &HeaderMap,
        caller: &Arc<str>,
    ) -> Result<Option<CallerKey>, ProblemResponse> {
        let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
        let (Some(value), duplicate) = (values.next(), values.next()) else {
            return Ok(None);
        };
        let is_valid = duplicate.is_none()
            && (1..=KEY_LENGTH_MAX).contains(&value.len())
            && value.as_bytes().iter().all(u8::is_ascii_graphic);
        match value.to_str() {
            Ok(text) if is_valid => Ok(Some(CallerKey {
                caller: Arc::clone(caller),
                text: text.to_owned(),
            })),
            _ => Err(ProblemResponse::new(
                problem::BAD_REQUEST,
                format!(
                    "Idempotency-Key must be one value of 1 to {KEY_LENGTH_MAX} visible ASCII \
                     characters."
                ),
            )),
        }
    }
}

/// Cache of stored responses.
#[derive(Debug, Default)]
pub(super) struct IdempotencyCache {
    entries: Mutex<VecDeque<Entry>>,
}

#[derive(Debug)]
struct Entry {
    key: CallerKey,
    request: [u8; 32],
    /// Expiry.
    until: Instant,
    outcome: watch::Receiver<Option<WriteOutcome>>,
}

impl Entry {
    fn is_in_progress(&self) -> bool {
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_ok()
    }

    /// Bytes of the stored response; `None` without one.
    fn size(&self) -> Option<usize> {
        match &*self.outcome.borrow() {
            Some(Ok(answer)) => Some(answer.body.len()),
            _ => None,
        }
    }
}

/// Result of claiming a key.
#[derive(Debug)]
pub(super) enum Claim {
    /// First request with this key: executes the write and sends the outcome. Dropping the sender
    /// without an outcome counts as a failure.
    New(watch::Sender<Option<WriteOutcome>>),
    /// Repeated request: receives the outcome of the first.
    Replay(watch::Receiver<Option<WriteOutcome>>),
}

impl IdempotencyCache {
    /// Restores the entries stored on disk, the oldest first. Expired and unreadable entries are
    /// left out.
    pub(super) fn restored(
        kept: Vec<KeptAnswer>,
        now: Instant,
        wall: Timestamp,
    ) -> IdempotencyCache {
        let mut entries = VecDeque::new();
        for kept in kept {
            let age = (wall.unix_us() / 1000).saturating_sub(kept.at_ms);
            let age = Duration::from_millis(age.max(0).unsigned_abs());
            let left = RETENTION.saturating_sub(age);
            let key = CallerKey {
                caller: kept.key.caller.as_str().into(),
                text: kept.key.key.clone(),
            };
            let request = hex::digest(&kept.key.request);
            if let (Some(request), Some(answer), false) =
                (request, StoredResponse::restored(kept), left.is_zero())
            {
                let (_, outcome) = watch::channel(Some(Ok(answer)));
                entries.push_back(Entry {
                    key,
                    request,
                    until: now + left,
                    outcome,
                });
            }
        }
        IdempotencyCache {
            entries: Mutex::new(entries),
        }
    }

    /// Claims `key` for the request with the digest `request`.
    pub(super) fn claim(
        &self,
        key: CallerKey,
        request: [u8; 32],
        now: Instant,
    ) -> Result<Claim, ProblemResponse> {
        let mut entries = self.lock();
        // Failed and expired entries are removed lazily, at the next claim.
        entries
            .retain(|entry| entry.is_in_progress() || entry.size().is_some() && now < entry.until);
        if let Some(at) = entries.iter().position(|entry| entry.key == key)
            && let Some(entry) = entries.remove(at)
        {
            let claim = if entry.request == request {
                Ok(Claim::Replay(entry.outcome.clone()))
            } else {
                Err(ProblemResponse::plain(problem::KEY_REUSED))
            };
            entries.push_back(entry);
            return claim;
        }
        make_room(&mut entries)?;
        let (sender, outcome) = watch::channel(None);
        entries.push_back(Entry {
            key,
            request,
            until: now + RETENTION,
            outcome,
        });
        Ok(Claim::New(sender))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        // Nothing panics between two related writes, so the data is consistent even if poisoned.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Evicts the least recently used entries, but never one that is in progress.
fn make_room(entries: &mut VecDeque<Entry>) -> Result<(), ProblemResponse> {
    let mut bytes: usize = entries.iter().filter_map(Entry::size).sum();
    while entries.len() >= ANSWERS_MAX || bytes > ANSWERS_BYTES_MAX {
        let oldest = entries.iter().position(|entry| !entry.is_in_progress());
        let Some(entry) = oldest.and_then(|at| entries.remove(at)) else {
            return Err(ProblemResponse::plain(problem::OVERLOADED));
        };
        bytes -= entry.size().unwrap_or_default();
    }
    Ok(())
}

/// Waits for the outcome of a write.
pub(super) async fn wait(mut outcome: watch::Receiver<Option<WriteOutcome>>) -> WriteOutcome {
    match outcome.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(outcome)) => outcome.clone(),
        _ => Err(ProblemResponse::plain(problem::INTERNAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: impl ToString) -> CallerKey {
        CallerKey {
            caller: "anna".into(),
            text: text.to_string(),
        }
    }

    fn answer(size: usize) -> WriteOutcome {
        Ok(StoredResponse {
            status: StatusCode::OK,
            location: None,
            revision: 7,
            durable: true,
            body: vec![b'x'; size].into(),
        })
    }

    /// What a request gets: `first` (it is then answered with `outcome`), or what it waits for, or
    /// the problem.
    fn ask(
        answers: &IdempotencyCache,
        text: impl ToString,
        request: u8,
        now: Instant,
        outcome: Option<WriteOutcome>,
    ) -> String {
        match answers.claim(key(text), [request; 32], now) {
            Ok(Claim::New(sender)) => {
                if let Some(outcome) = outcome {
                    sender.send_replace(Some(outcome));
                }
                "first".into()
            }
            Ok(Claim::Replay(receiver)) => match &*receiver.borrow() {
                Some(Ok(answer)) => format!("again {}", answer.revision),
                other => format!("{other:?}"),
            },
            Err(problem) => problem.kind.word.into(),
        }
    }

    #[test]
    fn a_repeated_request_replays_the_first_response_and_a_different_one_is_refused() {
        let (answers, now) = (IdempotencyCache::default(), Instant::now());
        assert_eq!(ask(&answers, "a", 1, now, Some(answer(1))), "first");
        assert_eq!(ask(&answers, "a", 1, now, None), "again 7");
        assert_eq!(ask(&answers, "a", 2, now, None), "idempotency-key-reused");
        assert_eq!(
            ask(&answers, "a", 1, now + RETENTION, Some(answer(1))),
            "first"
        );
    }

    #[test]
    fn stored_responses_are_restored_until_they_expire() {
        let (now, wall) = (Instant::now(), Timestamp::new(0, 1_000_000_000_000_000));
        let kept = |text: &str, age: Duration| {
            let at_ms = wall.unix_us() / 1000 - i64::try_from(age.as_millis()).unwrap();
            KeptAnswer {
                at_ms,
                ..answer(1).unwrap().kept(key(text).kept(&[1; 32]), wall)
            }
        };
        let hour = Duration::from_secs(3600);
        let mut damaged = kept("damaged", hour);
        damaged.key.request = "12".into();
        let kept = vec![
            kept("old", RETENTION),
            kept("new", RETENTION - hour),
            damaged,
        ];
        let answers = IdempotencyCache::restored(kept, now, wall);
        assert_eq!(ask(&answers, "new", 1, now, None), "again 7");
        assert_eq!(ask(&answers, "new", 2, now, None), "idempotency-key-reused");
        assert_eq!(ask(&answers, "old", 1, now, Some(answer(1))), "first");
        assert_eq!(ask(&answers, "damaged", 1, now, Some(answer(1))), "first");
        assert_eq!(
            ask(&answers, "new", 1, now + hour, Some(answer(1))),
            "first"
        );
    }

    #[test]
    fn failed_and_dropped_writes_are_not_stored() {
        let (answers, now) = (IdempotencyCache::default(), Instant::now());
        let failure = Err(ProblemResponse::plain(problem::STORE));
        assert_eq!(ask(&answers, "a", 1, now, Some(failure)), "first");
        assert_eq!(ask(&answers, "a", 2, now, None), "first");
        assert_eq!(ask(&answers, "a", 1, now, Some(answer(1))), "first");
    }

    #[test]
    fn a_duplicate_waits_for_the_write_in_progress() {
        let (answers, now) = (IdempotencyCache::default(), Instant::now());
        let first = answers.claim(key("a"), [1; 32], now).unwrap();
        assert_eq!(ask(&answers, "a", 1, now, None), "None");
        drop(first);
        assert_eq!(ask(&answers, "a", 1, now, None), "first");
    }

    #[test]
    fn stored_responses_are_bounded_in_number_and_bytes() {
        let (answers, now) = (IdempotencyCache::default(), Instant::now());
        for n in 0..ANSWERS_MAX + 10 {
            assert_eq!(ask(&answers, n, 1, now, Some(answer(1))), "first");
            assert_eq!(ask(&answers, 0, 1, now, Some(answer(1))), "again 7");
        }
        assert_eq!(answers.lock().len(), ANSWERS_MAX);
        assert_eq!(ask(&answers, 5, 1, now, Some(answer(1))), "first");
        for n in 2_000..2_040 {
            ask(&answers, n, 1, now, Some(answer(1 << 20)));
        }
        assert!(answers.lock().len() <= 17);
    }

    #[test]
    fn writes_in_progress_are_never_evicted() {
        let (answers, now) = (IdempotencyCache::default(), Instant::now());
        let all: Vec<_> = (0..ANSWERS_MAX)
            .map(|n| answers.claim(key(n), [1; 32], now).unwrap())
            .collect();
        assert_eq!(ask(&answers, "more", 1, now, None), "overloaded");
        drop(all);
        assert_eq!(ask(&answers, "more", 1, now, None), "first");
    }
}
