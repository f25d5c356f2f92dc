//! What happened: outcomes of requests, recorders that count them, summaries and sliding windows.
//!
//! A worker owns one [`Recorder`] and writes to it at the end of each request, without a lock, an
//! atomic or (after the first request of an upstream) an allocation. What it has gathered leaves as
//! a [`Batch`]; the control plane merges batches into [`Windows`]. Nothing here knows a clock, a
//! thread or a socket: time is an argument.

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
