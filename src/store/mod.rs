//! What survives a restart: the live state of every service, and the journal of who changed it.
//!
//! A change and its journal entry are one transaction, and a commit is reported as durable only after the disk has
//! confirmed it. A commit that failed is an error and stays one: it is never tried again as if the first try might
//! have worked, since a kernel that failed to write a page may have dropped it.
//!
//! All work is done by one thread of its own, so that a slow disk keeps nobody else waiting. There is no exclusive
//! lock on the directory: while the proxy upgrades itself, the old and the new process overlap.

mod chain;
mod memory;
mod options;
mod record;
mod sqlite;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::task::{Context, Poll};
use std::thread;

use tokio::sync::oneshot;

pub use options::Options;
pub use record::{Change, Committed, Entry, LoadedState, NewEntry, ServiceRecord};

/// Requests that may wait for the thread. The controller has at most a few outstanding for each service; when this
/// many wait, the disk hangs.
const WAITING_MAX: usize = 256;

/// A handle on the store; cheap to clone. The thread ends after the last one is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    requests: SyncSender<Request>,
    durable: bool,
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
    fn commit(&mut self, change: &Change) -> Result<Committed, StoreError>;

    /// Called after a failed commit has been answered: time to make sure of what is on disk.
    fn recover(&mut self) {}

    /// Entries of the journal before `before` (all without), newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    fn audit(&mut self, before: Option<u64>, limit: usize) -> Result<Vec<Entry>, StoreError>;
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
    /// The journal could not be read.
    #[error("{0}")]
    Read(String),
    /// The disk has not answered for so long that no more requests are queued.
    #[error("the disk does not answer")]
    Hangs,
    /// The store's thread has ended.
    #[error("the store has stopped")]
    Stopped,
}

enum Request {
    Commit(Box<Change>, oneshot::Sender<Result<Committed, StoreError>>),
    Audit(Option<u64>, usize, oneshot::Sender<Result<Vec<Entry>, StoreError>>),
}

/// A commit that has been asked for. Dropping it withdraws the change if the thread has not begun with it.
#[derive(Debug)]
pub struct Commit(oneshot::Receiver<Result<Committed, StoreError>>);

impl Store {
    /// Opens the store that `options` name and reads what it holds. Blocks; meant for the start of the program.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] when the directory cannot be made or the database is damaged, newer, or not ours.
    pub fn open(options: &Options) -> Result<(Store, LoadedState), StoreError> {
        let Some(directory) = &options.path else {
            let store = Store::over(Box::<memory::Memory>::default())?;
            return Ok((store, LoadedState::default()));
        };
        let mut database = sqlite::Sqlite::open(directory)?;
        let loaded = database.load()?;
        Ok((Store::over(Box::new(database))?, loaded))
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
        Ok(Store { requests, durable })
    }

    /// Whether what is committed survives the process.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Asks for a change to be written; changes are written in the order in which they are asked for. Never waits:
    /// the future does.
    pub fn commit(&self, change: Change) -> Commit {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Commit(Box::new(change), reply));
        Commit(answer)
    }

    /// Entries of the journal before `before` (all without), newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], [`StoreError::Hangs`], [`StoreError::Stopped`].
    pub fn audit(
        &self,
        before: Option<u64>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + use<> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Audit(before, limit, reply));
        async { answer.await.unwrap_or(Err(StoreError::Stopped)) }
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
            Request::Audit(_, _, reply) => drop(reply.send(Err(error))),
        }
    }
}

impl Future for Commit {
    type Output = Result<Committed, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(StoreError::Stopped)))
    }
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
            Request::Audit(before, limit, reply) => {
                let _ = reply.send(backend.audit(before, limit));
            }
        }
    }
}
