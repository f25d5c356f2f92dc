//! Rendering of large responses: outside the threads of the API and the controller, one at a time,
//! and once for concurrent callers of the same resource.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;

use super::problem::{self, ProblemResponse, retry_after};

/// Maximum bytes of all large responses that clients have not read yet.
const HELD_BYTES_MAX: usize = 64 << 20;

/// Responses up to this size are not counted.
const SMALL_BYTES: usize = 64 << 10;

/// Unit in which bytes are counted.
const UNIT_BYTES: usize = 1 << 10;

/// Renderer of large responses.
#[derive(Clone, Debug)]
pub(super) struct Renders {
    /// One response is rendered at a time, so that rendering takes one core at most.
    turn: Arc<Semaphore>,
    held: Arc<Semaphore>,
}

impl Default for Renders {
    fn default() -> Self {
        Renders::holding(HELD_BYTES_MAX)
    }
}

impl Renders {
    fn holding(bytes: usize) -> Renders {
        Renders {
            turn: Arc::new(Semaphore::new(1)),
            held: Arc::new(Semaphore::new(bytes / UNIT_BYTES)),
        }
    }

    /// Runs `work` and returns its bytes.
    pub(super) async fn write(
        &self,
        work: impl FnOnce() -> Result<Vec<u8>, ProblemResponse> + Send + 'static,
    ) -> Result<Bytes, ProblemResponse> {
        let failed = || ProblemResponse::plain(problem::INTERNAL);
        let turn = Arc::clone(&self.turn)
            .acquire_owned()
            .await
            .map_err(|_| failed())?;
        let written = spawn_blocking(move || {
            // Held until the work is done, also when the caller has disconnected.
            let _turn = turn;
            work()
        });
        self.hold(written.await.map_err(|_| failed())??)
    }

    /// JSON response of `resource`.
    pub(super) async fn json(
        &self,
        resource: impl Serialize + Send + 'static,
    ) -> Result<Response, ProblemResponse> {
        let json = self.write(move || json(&resource)).await?;
        Ok(answer("application/json", json))
    }

    /// The bytes count as held until the kernel has all of them or the connection is closed.
    fn hold(&self, bytes: Vec<u8>) -> Result<Bytes, ProblemResponse> {
        if bytes.len() <= SMALL_BYTES {
            return Ok(bytes.into());
        }
        let units = u32::try_from(bytes.len().div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.held).try_acquire_many_owned(units);
        let _held = held.map_err(|_| {
            let problem = ProblemResponse::new(
                problem::OVERLOADED,
                "Too many large responses wait for clients that do not read; try again later.",
            );
            let (name, value) = retry_after(1);
            problem.with_header(name, value)
        })?;
        Ok(Bytes::from_owner(RenderPermit { bytes, _held }))
    }
}

struct RenderPermit {
    bytes: Vec<u8>,
    _held: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for RenderPermit {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Serializes `resource` as JSON.
pub(super) fn json(resource: &impl Serialize) -> Result<Vec<u8>, ProblemResponse> {
    serde_json::to_vec(resource).map_err(|error| {
        tracing::error!(%error, "response could not be serialized as JSON");
        ProblemResponse::plain(problem::INTERNAL)
    })
}

/// Response with this content type.
pub(super) fn answer(content_type: &'static str, body: Bytes) -> Response {
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(content_type))];
    (headers, body).into_response()
}

type Written = Option<Result<Bytes, ProblemResponse>>;

/// Response shared by concurrent callers.
pub(super) struct SharedResponse {
    work: Arc<dyn Fn() -> Result<Vec<u8>, ProblemResponse> + Send + Sync>,
    renders: Renders,
    /// Next rendering, which has not begun: a caller who joins it gets state as of now or later.
    next: Arc<Mutex<Option<watch::Receiver<Written>>>>,
}

impl SharedResponse {
    /// A response rendered by `work`.
    pub(super) fn new(
        renders: Renders,
        work: impl Fn() -> Result<Vec<u8>, ProblemResponse> + Send + Sync + 'static,
    ) -> Arc<SharedResponse> {
        Arc::new(SharedResponse {
            work: Arc::new(work),
            renders,
            next: Arc::default(),
        })
    }

    /// Gets the response; its state is not older than this call.
    pub(super) async fn get(&self) -> Result<Bytes, ProblemResponse> {
        let mut written = self.join();
        match written.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(written)) => written.clone(),
            _ => Err(ProblemResponse::plain(problem::INTERNAL)),
        }
    }

    fn join(&self) -> watch::Receiver<Written> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = &*next {
            return next.clone();
        }
        let (tell, written) = watch::channel(None);
        *next = Some(written.clone());
        let (work, renders, next) = (
            Arc::clone(&self.work),
            self.renders.clone(),
            Arc::clone(&self.next),
        );
        // In a task of its own, because the first caller may disconnect.
        tokio::spawn(async move {
            let result = renders.write(move || {
                next.lock().unwrap_or_else(PoisonError::into_inner).take();
                work()
            });
            tell.send_replace(Some(result.await));
        });
        written
    }
}

impl fmt::Debug for SharedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn concurrent_callers_share_a_rendering_that_is_not_older_than_their_request() {
        let renders = Renders::default();
        let (state, written) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, count) = (Arc::clone(&state), Arc::clone(&written));
        let shared = SharedResponse::new(renders.clone(), move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(seen.load(Ordering::SeqCst).to_string().into_bytes())
        });
        let turn = Arc::clone(&renders.turn).acquire_owned().await.unwrap();
        let callers: Vec<_> = (0..10)
            .map(|_| {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { shared.get().await.unwrap() })
            })
            .collect();
        tokio::task::yield_now().await;
        state.store(1, Ordering::SeqCst);
        drop(turn);
        for caller in callers {
            assert_eq!(caller.await.unwrap(), "1");
        }
        assert_eq!(written.load(Ordering::SeqCst), 1);
        state.store(2, Ordering::SeqCst);
        assert_eq!(shared.get().await.unwrap(), "2");
    }

    #[tokio::test]
    async fn unread_large_responses_are_bounded() {
        let renders = Renders::holding(3 * SMALL_BYTES);
        let large = || Ok(vec![b'x'; 2 * SMALL_BYTES]);
        let first = renders.write(large).await.unwrap();
        let copy = first.clone();
        assert_eq!(
            renders.write(large).await.unwrap_err().kind.word,
            "overloaded"
        );
        assert_eq!(
            renders.write(|| Ok(b"small".to_vec())).await.unwrap(),
            "small"
        );
        drop(first);
        assert!(renders.write(large).await.is_err());
        drop(copy);
        assert_eq!(renders.write(large).await.unwrap().len(), 2 * SMALL_BYTES);
    }

    #[tokio::test]
    async fn a_panic_while_rendering_is_an_internal_error_and_does_not_block_the_next() {
        let renders = Renders::default();
        let failed = renders.write(|| panic!("as it should")).await.unwrap_err();
        assert_eq!(failed.kind.word, "internal");
        assert!(renders.write(|| Ok(Vec::new())).await.is_ok());
    }
}
