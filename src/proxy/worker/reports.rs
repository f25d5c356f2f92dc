//! Where a worker reports to.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::stats::{Batch, EventBatch, Watermark};

/// Where workers report to.
#[derive(Clone, Debug)]
pub struct Reports {
    /// What they counted.
    pub batches: mpsc::Sender<Batch>,
    /// What became of the requests of releases.
    pub notes: mpsc::Sender<EventBatch>,
    /// How far these are complete; of as many workers as there are.
    pub horizon: Arc<Watermark>,
}
