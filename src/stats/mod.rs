//! Request statistics: outcomes, recorders that count them, summaries and sliding windows.
//!
//! A worker owns one [`Recorder`] and writes to it at the end of each request, without a lock, an
//! atomic or (after the first request of an upstream) an allocation. Its counts leave as a
//! [`Batch`]; the control plane merges batches into [`Windows`]. This module reads no clock and
//! uses no threads or sockets: time is an argument.

mod labels;
mod outcome;
mod recorder;
mod request_event;
mod sparse;
mod summary;
mod windows;

pub use labels::{MethodLabel, Reason, RequestLabels};
pub use outcome::{Class, Outcome, UpstreamKey};
pub use recorder::{Batch, ReasonLabels, Recorder};
pub use request_event::{
    Arm, Assignment, EventBatch, EventBuffer, ReleaseKey, RequestEvent, RequestEventKind,
    SampledExchange, Watermark,
};
pub use summary::{LATENCY_US_MAX, Summary};
pub use windows::{WindowSpan, Windows};
