//! What survives a restart: the live state of every service, and the journal of who changed it.
//!
//! A change and its journal entry are one transaction, and a commit is reported as durable only
//! after the disk has confirmed it. A commit that failed is an error and stays one: it is never
//! tried again as if the first try might have worked, since a kernel that failed to write a page
//! may have dropped it.
//!
//! Checkpoints of releases and their evidence are written beside that, each in a transaction of its
//! own: none of them can make a change fail. What happened in a release, request by request, goes
//! to a file of its own ([`Recording`]).
//!
//! All work but recordings is done by one thread of its own, so that a slow disk keeps nobody else
//! waiting. One process at a time has the directory (`lock`); a process that takes over is to be
//! given the lock's descriptor. What was written to files that are no longer in the directory is
//! not called durable (`files`).

mod chain;
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

pub use options::Options;
pub use record::{
    ChangeRecord, Committed, JournalEntry, LoadedState, NewJournalEntry, ReleasePart,
    ReleaseRecord, ServiceRecord,
};
pub use recording::Recording;

/// Requests that may wait for the thread. The controller has at most a few outstanding for each
/// service; when this many wait, the disk hangs.
const WAITING_MAX: usize = 256;

/// How many of those may be something else than commits. Checkpoints are written every second, and
/// the journal is read by whoever likes; behind a disk that hangs they must not take the places of
/// the brakes.
const OTHERS_WAITING_MAX: usize = 64;

/// A handle on the store; cheap to clone. The thread ends after the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    requests: SyncSender<Request>,
    durable: bool,
    /// Requests other than commits that wait.
    others: Arc<AtomicUsize>,
    recordings: Option<Arc<Path>>,
    sticky_secret: Option<StickySecret>,
    directory: Option<Arc<Path>>,
    /// Whether the journal is being verified.
    verifying: Arc<AtomicBool>,
}

/// What the store keeps its records in. Runs in the store's thread and may block.
pub trait Backend: Send {
    /// Whether what is committed survives the process.
    fn durable(&self) -> bool;

    /// Writes the change and its journal entry, both or none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] when it is not, or not certainly, on disk.
    fn commit(&mut self, change: &ChangeRecord) -> Result<Committed, StoreError>;

    /// Called after a failed commit has been answered: time to make sure of what is on disk.
    fn recover(&mut self) {}

    /// Entries of the journal before `before` (all without), newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    fn audit(&mut self, before: Option<u64>, limit: usize)
    -> Result<Vec<JournalEntry>, StoreError>;

    /// Replaces what is known of a release under way. False, and nothing is written, for one that
    /// has ended or that the store does not know.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`]. Commits are not affected.
    fn checkpoint(&mut self, id: &str, state: &Value) -> Result<bool, StoreError>;

    /// Writes pieces of what is known of a release under way, beside its checkpoint; of any other
    /// release nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`]. Commits are not affected.
    fn put_parts(&mut self, _id: &str, _parts: &[ReleasePart]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Keeps, or replaces, the answer to a write that may be repeated; without one, forgets what
    /// was kept with its change. Nothing to do where nothing is found after a restart.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`]. Commits are not affected.
    fn keep_answer(
        &mut self,
        _: &IdempotencyKey,
        _: Option<&KeptAnswer>,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    /// The releases of a service, newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    fn releases(&mut self, service: &str, limit: usize) -> Result<Vec<ReleaseRecord>, StoreError>;

    /// One release.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    fn release(&mut self, id: &str) -> Result<Option<ReleaseRecord>, StoreError>;

    /// Keeps, or replaces, the evidence of a release that has ended, and its row. A row that says
    /// nothing of an end yet stays as it is: the change that ends the release is on its way, or
    /// was refused.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`]. Commits are not affected.
    fn put_evidence(&mut self, release: &ReleaseRecord, bundle: &Value) -> Result<(), StoreError>;

    /// The evidence of a release, if there is any and it is still kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    fn evidence(&mut self, id: &str) -> Result<Option<Value>, StoreError>;
}

/// Why the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be used; says what to do.
    #[error("the store in {path} cannot be used: {reason}; {advice}")]
    Open {
        /// The directory or file.
        path: String,
        /// What is wrong.
        reason: String,
        /// What an operator can do about it.
        advice: String,
    },
    /// A change was not written.
    #[error("{0}")]
    Write(String),
    /// The journal, or something of a release, could not be read.
    #[error("{0}")]
    Read(String),
    /// The journal is being verified already; one at a time is.
    #[error("the journal is being verified already; ask again")]
    Verifying,
    /// The disk has not answered for so long that no more requests are queued.
    #[error("the disk does not answer")]
    Hangs,
    /// The store's thread has ended.
    #[error("the store has stopped")]
    Stopped,
}

enum Request {
    Commit(
        Box<ChangeRecord>,
        oneshot::Sender<Result<Committed, StoreError>>,
    ),
    /// Anything else: done with the backend, or answered with the reason why it cannot be.
    Other(Work),
}

type Work = Box<dyn FnOnce(Result<&mut dyn Backend, StoreError>) + Send>;

/// A place in the queue of a request that is no commit.
struct QueuePermit(Arc<AtomicUsize>);

/// What the store was asked for.
#[derive(Debug)]
pub struct StoreReply<T>(oneshot::Receiver<Result<T, StoreError>>);

/// A commit that has been asked for. Dropping it withdraws the change if the thread has not begun
/// with it.
pub type Commit = StoreReply<Committed>;

impl Store {
    /// Opens the store that `options` name and reads what it holds. Blocks; meant for the start of
    /// the program.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] when the directory cannot be made or the database is damaged, newer, or
    /// not ours.
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

    /// A store that keeps its records in `backend`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stopped`] when the system gives no thread.
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

    /// Whether what is committed survives the process.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// What sticky cookies are signed with, the same after each restart: made with the store, and
    /// on disk before anybody is told. None where nothing survives the process.
    pub fn sticky_secret(&self) -> Option<StickySecret> {
        self.sticky_secret
    }

    /// Asks for a change to be written; changes are written in the order in which they are asked
    /// for. Never waits: the future does.
    pub fn commit(&self, change: ChangeRecord) -> Commit {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Commit(Box::new(change), reply));
        StoreReply(answer)
    }

    /// Entries of the journal before `before` (all without), newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Hangs`], [`StoreError::Stopped`].
    pub fn audit(&self, before: Option<u64>, limit: usize) -> StoreReply<Vec<JournalEntry>> {
        self.read(move |backend| backend.audit(before, limit))
    }

    /// Whether the whole journal is as it was written. Reads on a connection and a thread of its
    /// own, so that a long journal keeps no change waiting; one at a time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Verifying`], [`StoreError::Hangs`],
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

    /// Replaces what is known of a release under way: one checkpoint each, on disk when the answer
    /// is true. Nothing is written, and the answer is false, when the store does not know the
    /// release, or knows that it has ended; so a late checkpoint brings nothing back. Written
    /// also when the future is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`], [`StoreError::Hangs`], [`StoreError::Stopped`].
    pub fn checkpoint(&self, id: &str, state: Value) -> StoreReply<bool> {
        let id = id.to_owned();
        self.write(move |backend| backend.checkpoint(&id, &state))
    }

    /// Keeps the answer to a write as it was given, or, without one, forgets what was kept with its
    /// change: it was not made after all. In the order of the commits; written also when the
    /// future is dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`], [`StoreError::Hangs`], [`StoreError::Stopped`].
    pub fn keep_answer(&self, key: IdempotencyKey, answer: Option<KeptAnswer>) -> StoreReply<()> {
        self.write(move |backend| backend.keep_answer(&key, answer.as_ref()))
    }

    /// The same with those pieces that have changed. They are written after the state, so that a
    /// process that is killed between finds in it all that they refer to.
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
    /// [`StoreError::Read`], [`StoreError::Hangs`], [`StoreError::Stopped`].
    pub fn releases(&self, service: &str, limit: usize) -> StoreReply<Vec<ReleaseRecord>> {
        let service = service.to_owned();
        self.read(move |backend| backend.releases(&service, limit))
    }

    /// One release, also one that has ended.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Hangs`], [`StoreError::Stopped`].
    pub fn release(&self, id: &str) -> StoreReply<Option<ReleaseRecord>> {
        let id = id.to_owned();
        self.read(move |backend| backend.release(&id))
    }

    /// Keeps, or replaces, the evidence of a release that has ended, and its row, so that both tell
    /// the same. The oldest bundles give way, and so do the service's oldest releases that have
    /// ended, so that a bounded number of both is kept. Written also when the future is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`], [`StoreError::Hangs`], [`StoreError::Stopped`].
    pub fn put_evidence(&self, release: ReleaseRecord, bundle: Value) -> StoreReply<()> {
        self.write(move |backend| backend.put_evidence(&release, &bundle))
    }

    /// The evidence of a release, if there is any and it is still kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Hangs`], [`StoreError::Stopped`].
    pub fn evidence(&self, id: &str) -> StoreReply<Option<Value>> {
        let id = id.to_owned();
        self.read(move |backend| backend.evidence(&id))
    }

    /// Begins, or goes on with, the recording of a release; none without a directory, or for an
    /// identity that cannot name a file.
    pub fn record(&self, id: &str) -> Option<Recording> {
        Recording::begin(&self.recording(id)?)
    }

    /// Where the recording of a release is, if there is one.
    pub fn recording(&self, id: &str) -> Option<PathBuf> {
        recording::path(self.recordings.as_deref()?, id)
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Backend) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreReply<T> {
        self.other(|backend, reply| drop(reply.send(work(backend))))
    }

    /// As a commit: first the answer to a failure, then the way out of it.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Backend) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreReply<T> {
        self.other(|backend, reply| {
            let written = work(backend);
            let error = written.as_ref().err().cloned();
            drop(reply.send(written));
            if let Some(error) = error {
                tracing::warn!(%error, "a checkpoint, the evidence of a release or the answer to a write was not written to the store");
                backend.recover();
            }
        })
    }

    fn other<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Backend, oneshot::Sender<Result<T, StoreError>>) + Send + 'static,
    ) -> StoreReply<T> {
        let (reply, answer) = oneshot::channel();
        match QueuePermit::among(&self.others) {
            None => drop(reply.send(Err(StoreError::Hangs))),
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

    /// A request that cannot be queued is answered at once.
    fn ask(&self, request: Request) {
        match self.requests.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request)) => request.refuse(StoreError::Hangs),
            Err(TrySendError::Disconnected(request)) => request.refuse(StoreError::Stopped),
        }
    }
}

impl Request {
    fn refuse(self, error: StoreError) {
        // Whoever asked may have gone; then nobody needs the answer.
        match self {
            Request::Commit(_, reply) => drop(reply.send(Err(error))),
            Request::Other(work) => work(Err(error)),
        }
    }
}

impl QueuePermit {
    fn among(others: &Arc<AtomicUsize>) -> Option<QueuePermit> {
        let place = QueuePermit(Arc::clone(others));
        // One too many is given back by the drop.
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

/// Whether the journal of the store at `path` is as it was written: the directory, or the database
/// in it. A proxy may be running on it; nothing is written.
///
/// # Errors
///
/// [`StoreError::Open`] when there is no store, [`StoreError::Read`] when it cannot be read.
pub fn verify(path: &Path) -> Result<AuditVerdict, StoreError> {
    sqlite::verify_at(path)
}

/// The thread: one request after the other, until no handle is left.
fn serve(mut backend: Box<dyn Backend>, requests: &Receiver<Request>) {
    for request in requests {
        match request {
            Request::Commit(_, reply) if reply.is_closed() => {}
            Request::Commit(change, reply) => {
                let committed = backend.commit(&change);
                let error = committed.as_ref().err().cloned();
                let _ = reply.send(committed);
                if let Some(error) = error {
                    tracing::error!(%error, action = change.entry.action, "a change was not written to the store");
                    backend.recover();
                }
            }
            Request::Other(work) => work(Ok(backend.as_mut())),
        }
    }
}
