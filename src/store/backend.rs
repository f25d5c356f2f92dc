//! What the store asks of a backend.

use serde_json::Value;

use super::error::StoreError;
use super::record::{ChangeRecord, Committed, JournalEntry, ReleasePart, ReleaseRecord};
use crate::model::{IdempotencyKey, KeptAnswer};

/// A storage backend. Runs on the store's thread and may block.
pub trait Backend: Send {
    /// Whether commits survive the process.
    fn durable(&self) -> bool;

    /// Writes a change and its journal entry, both or none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`] if it is not, or not certainly, on disk.
    fn commit(&mut self, change: &ChangeRecord) -> Result<Committed, StoreError>;

    /// Called after a failed commit was reported, to re-establish what is on disk.
    fn recover(&mut self) {}

    /// Journal entries before `before` (or all), newest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    fn audit(&mut self, before: Option<u64>, limit: usize)
    -> Result<Vec<JournalEntry>, StoreError>;

    /// Replaces the checkpoint of a release in progress. Returns false, and writes nothing, for a
    /// release that has ended or does not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`]. Commits are not affected.
    fn checkpoint(&mut self, id: &str, state: &Value) -> Result<bool, StoreError>;

    /// Writes parts of the checkpoint of a release in progress; ignored for any other release.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`]. Commits are not affected.
    fn put_parts(&mut self, _id: &str, _parts: &[ReleasePart]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Stores or replaces the response to an idempotent write; `None` removes the one stored with
    /// its change. A backend in memory does nothing.
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

    /// Stores or replaces the evidence of an ended release, and updates its row. A row that is not
    /// ended yet stays unchanged: the change that ends the release is queued, or was refused.
    ///
    /// # Errors
    ///
    /// [`StoreError::Write`]. Commits are not affected.
    fn put_evidence(&mut self, release: &ReleaseRecord, bundle: &Value) -> Result<(), StoreError>;

    /// The evidence of a release, if it exists and is still kept.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`].
    fn evidence(&mut self, id: &str) -> Result<Option<Value>, StoreError>;
}
