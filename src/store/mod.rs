//! The persistent store: the live state of every service, and the journal of changes.
//!
//! A change and its journal entry are one transaction, and a commit is reported as durable only
//! after the disk has confirmed it. A failed commit is an error and stays one: it is never retried
//! as if the first attempt might have worked, since a kernel that failed to write a page may have
//! dropped it.
//!
//! Checkpoints and evidence of releases are written beside that, each in its own transaction: none
//! of them can make a change fail. What happened in a release, request by request, goes to a
//! separate file ([`Recording`]).
//!
//! All work but recordings runs on one thread, so that a slow disk blocks nobody else. One process
//! at a time may use the directory (`lock`); a successor process must inherit the lock's
//! descriptor. Writes to files that are no longer in the directory are not called durable
//! (`files`).

mod backend;
mod chain;
mod error;
mod files;
mod lock;
mod memory;
mod options;
mod record;
mod recording;
mod sqlite;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::task::{Context, Poll};
use std::thread;

use serde_json::Value;
use tokio::sync::oneshot;

use crate::model::api::AuditVerdict;
use crate::model::{IdempotencyKey, KeptAnswer, StickySecret};

pub use backend::Backend;
pub use error::StoreError;
pub use options::Options;
pub use record::{
    ChangeRecord, Committed, JournalEntry, LoadedState, NewJournalEntry, ReleasePart,
    ReleaseRecord, ServiceRecord,
};
pub use recording::Recording;

/// Requests that may wait for the store's thread. The controller has at most a few outstanding per
/// service; when this many wait, the disk hangs.
const WAITING_MAX: usize = 256;

/// How many of those may be other than commits. Checkpoints are written every second and anyone may
/// read the journal; while the disk hangs they must not take the queue space of rollbacks.
const OTHERS_WAITING_MAX: usize = 64;

/// A handle on the store; cheap to clone. The thread ends after the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    requests: SyncSender<Request>,
    durable: bool,
    /// Number of waiting requests other than commits.
    others: Arc<AtomicUsize>,
    recordings: Option<Arc<Path>>,
    sticky_secret: Option<StickySecret>,
    directory: Option<Arc<Path>>,
    /// Whether a verification of the journal is running.
    verifying: Arc<AtomicBool>,
}

enum Request {
    Commit(Box<ChangeRecord>, ReplySender<Committed>),
    /// Anything else: run on the backend, or replied to with the reason why it cannot be.
    Other(Work),
}

type Work = Box<dyn FnOnce(Result<&mut dyn Backend, StoreError>) + Send>;

/// A queue slot of a request other than a commit.
struct QueuePermit(Arc<AtomicUsize>);

/// Where the store sends a reply.
type ReplySender<T> = oneshot::Sender<Result<T, StoreError>>;

/// A pending reply of the store.
#[derive(Debug)]
pub struct StoreReply<T>(oneshot::Receiver<Result<T, StoreError>>);

/// A requested commit. Dropping it withdraws the change unless the thread has begun it.
pub type Commit = StoreReply<Committed>;

impl Store {
    /// Opens the store of `options` and reads its state. Blocks; meant for the start of the
    /// program.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] if the directory cannot be created, or the database is damaged, newer,
    /// or not a weighbridge database.
    pub fn open(options: &Options) -> Result<(Store, LoadedState), StoreError> {
        let Some(directory) = &options.path else {
            let store = Store::over(Box::<memory::Memory>::default())?;
            return Ok((store, LoadedState::default()));
        };
        let mut database = sqlite::Sqlite::open(directory)?;
        let loaded = database.load()?;
        let secret = database.sticky_secret()?;
        let mut store = Store::over(Box::new(database))?;
        store.sticky_secret = Some(secret);
        store.recordings = Some(directory.join(recording::FOLDER).into());
        store.directory = Some(directory.as_path().into());
        Ok((store, loaded))
    }

    /// A store on `backend`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stopped`] if no thread can be started.
    pub fn over(backend: Box<dyn Backend>) -> Result<Store, StoreError> {
        let durable = backend.durable();
        let (requests, receiver) = sync_channel(WAITING_MAX);
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || serve(backend, &receiver))
            .map_err(|_| StoreError::Stopped)?;
        Ok(Store {
            requests,
            durable,
            others: Arc::default(),
            recordings: None,
            sticky_secret: None,
            directory: None,
            verifying: Arc::default(),
        })
    }

    /// Whether commits survive the process.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// The signing secret of sticky cookies, stable across restarts: created with the store and on
    /// disk before it is used. `None` if the store is not durable.
    pub fn sticky_secret(&self) -> Option<StickySecret> {
        self.sticky_secret
    }

    /// Requests a commit; changes are written in the order of the requests. Never blocks; the
    /// future waits.
    pub fn commit(&self, change: ChangeRecord) -> Commit {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Commit(Box::new(change), reply));
        StoreReply(answer)
    }

    /// Journal entries before `before` (or all), newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Stalled`], [`StoreError::Stopped`].
    pub fn audit(&self, before: Option<u64>, limit: usize) -> StoreReply<Vec<JournalEntry>> {
        self.read(move |backend| backend.audit(before, limit))
    }

    /// Verifies the whole journal. Uses its own connection and thread, so that a long journal
    /// delays no change; one runs at a time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Verifying`], [`StoreError::Stalled`],
    /// [`StoreError::Stopped`].
    pub fn verify(&self) -> StoreReply<AuditVerdict> {
        let Some(directory) = self.directory.clone() else {
            return self.read(|backend| {
                let mut entries = backend.audit(None, usize::MAX)?;
                entries.reverse();
                Ok(chain::verify(&entries))
            });
        };
        let (reply, answer) = oneshot::channel();
        let busy = Arc::clone(&self.verifying);
        if busy.swap(true, Ordering::AcqRel) {
            let _ = reply.send(Err(StoreError::Verifying));
            return StoreReply(answer);
        }
        let work = move || {
            let verdict = verify(&directory);
            busy.store(false, Ordering::Release);
            let _ = reply.send(verdict);
        };
        if thread::Builder::new()
            .name("verify".to_owned())
            .spawn(work)
            .is_err()
        {
            self.verifying.store(false, Ordering::Release);
        }
        StoreReply(answer)
    }

    /// Replaces the checkpoint of a release in progress; on disk when the reply is true. The reply
    /// is false, and nothing is written, if the release does not exist or has ended, so that a late
    /// checkpoint restores nothing. Also written if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`], [`StoreError::Stalled`], [`StoreError::Stopped`].
    pub fn checkpoint(&self, id: &str, state: Value) -> StoreReply<bool> {
        let id = id.to_owned();
        self.write(move |backend| backend.checkpoint(&id, &state))
    }

    /// Stores the response to an idempotent write as it was sent; `None` removes the one stored
    /// with its change, which was not made. In the order of the commits; also written if the future
    /// is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`], [`StoreError::Stalled`], [`StoreError::Stopped`].
    pub fn keep_answer(&self, key: IdempotencyKey, answer: Option<KeptAnswer>) -> StoreReply<()> {
        self.write(move |backend| backend.keep_answer(&key, answer.as_ref()))
    }

    /// The same, with the parts that have changed. They are written after the state, so that a
    /// process killed in between finds in it everything that they refer to.
    ///
    /// # Errors
    ///
    /// As [`Store::checkpoint`].
    pub fn checkpoint_with(
        &self,
        id: &str,
        state: Value,
        parts: Vec<ReleasePart>,
    ) -> StoreReply<bool> {
        let id = id.to_owned();
        self.write(move |backend| {
            let written = backend.checkpoint(&id, &state)?;
            if written && !parts.is_empty() {
                backend.put_parts(&id, &parts)?;
            }
            Ok(written)
        })
    }

    /// The releases of a service, newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Stalled`], [`StoreError::Stopped`].
    pub fn releases(&self, service: &str, limit: usize) -> StoreReply<Vec<ReleaseRecord>> {
        let service = service.to_owned();
        self.read(move |backend| backend.releases(&service, limit))
    }

    /// One release, also an ended one.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Stalled`], [`StoreError::Stopped`].
    pub fn release(&self, id: &str) -> StoreReply<Option<ReleaseRecord>> {
        let id = id.to_owned();
        self.read(move |backend| backend.release(&id))
    }

    /// Stores or replaces the evidence of an ended release, and its row, so that both agree. The
    /// oldest bundles and the service's oldest ended releases are removed to stay within the
    /// bounds. Also written if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`], [`StoreError::Stalled`], [`StoreError::Stopped`].
    pub fn put_evidence(&self, release: ReleaseRecord, bundle: Value) -> StoreReply<()> {
        self.write(move |backend| backend.put_evidence(&release, &bundle))
    }

    /// The evidence of a release, if it exists and is still kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Stalled`], [`StoreError::Stopped`].
    pub fn evidence(&self, id: &str) -> StoreReply<Option<Value>> {
        let id = id.to_owned();
        self.read(move |backend| backend.evidence(&id))
    }

    /// Begins or continues the recording of a release; `None` without a directory, or for an id
    /// that cannot be a file name.
    pub fn record(&self, id: &str) -> Option<Recording> {
        Recording::begin(&self.recording(id)?)
    }

    /// The path of a release's recording, if it exists.
    pub fn recording(&self, id: &str) -> Option<PathBuf> {
        recording::path(self.recordings.as_deref()?, id)
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Backend) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreReply<T> {
        self.other(|backend, reply| drop(reply.send(work(backend))))
    }

    /// Like a commit: the error is reported first, then the backend recovers.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Backend) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreReply<T> {
        self.other(|backend, reply| {
            let written = work(backend);
            let error = written.as_ref().err().cloned();
            drop(reply.send(written));
            if let Some(error) = error {
                tracing::warn!(
                    %error,
                    "a checkpoint, evidence or a response was not written to the store"
                );
                backend.recover();
            }
        })
    }

    fn other<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Backend, ReplySender<T>) + Send + 'static,
    ) -> StoreReply<T> {
        let (reply, answer) = oneshot::channel();
        match QueuePermit::try_acquire(&self.others) {
            None => drop(reply.send(Err(StoreError::Stalled))),
            Some(place) => self.ask(Request::Other(Box::new(move |backend| {
                drop(place);
                match backend {
                    Ok(backend) => work(backend, reply),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }))),
        }
        StoreReply(answer)
    }

    /// A request that cannot be queued is replied to at once.
    fn ask(&self, request: Request) {
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request)) => request.refuse(StoreError::Stalled),
            Err(TrySendError::Disconnected(request)) => request.refuse(StoreError::Stopped),
        }
    }
}

impl Request {
    fn refuse(self, error: StoreError) {
        // The caller may be gone; then nobody needs the reply.
        match self {
            Request::Commit(_, reply) => drop(reply.send(Err(error))),
            Request::Other(work) => work(Err(error)),
        }
    }
}

impl QueuePermit {
    fn try_acquire(others: &Arc<AtomicUsize>) -> Option<QueuePermit> {
        let place = QueuePermit(Arc::clone(others));
        // The drop of the permit undoes an excess count.
        (others.fetch_add(1, Ordering::Relaxed) < OTHERS_WAITING_MAX).then_some(place)
    }
}

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> Future for StoreReply<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(StoreError::Stopped)))
    }
}

/// Verifies the journal of the store at `path`: the directory, or the database file in it. A proxy
/// may be using it; nothing is written.
///
/// # Errors
///
/// [`StoreError::Open`] if there is no store, [`StoreError::Read`] if it cannot be read.
pub fn verify(path: &Path) -> Result<AuditVerdict, StoreError> {
    sqlite::verify_at(path)
}

/// The store's thread: handles requests in order until the last handle is dropped.
fn serve(mut backend: Box<dyn Backend>, requests: &Receiver<Request>) {
    for request in requests {
        match request {
            Request::Commit(_, reply) if reply.is_closed() => {}
            Request::Commit(change, reply) => {
                let committed = backend.commit(&change);
                let error = committed.as_ref().err().cloned();
                let _ = reply.send(committed);
                if let Some(error) = error {
                    tracing::error!(
                        %error,
                        action = change.entry.action,
                        "a change was not written to the store"
                    );
                    backend.recover();
                }
            }
            Request::Other(work) => work(Ok(backend.as_mut())),
        }
    }
}
