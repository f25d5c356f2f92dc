//! What happened: outcomes of requests, recorders that count them, summaries and sliding windows.
//!
//! A worker owns one [`Recorder`] and writes to it at the end of each request, without a lock, an atomic or (after
//! the first request of an upstream) an allocation. What it has gathered leaves as a [`Batch`]; the control plane
//! merges batches into [`Windows`]. Nothing here knows a clock, a thread or a socket: time is an argument.

mod labels;
mod outcome;
mod recorder;
mod sparse;
mod summary;
mod request_event;
mod windows;

pub use labels::{MethodLabel, Reason, RequestLabels};
pub use outcome::{Class, Outcome, UpstreamKey};
pub use recorder::{Batch, ReasonLabels, Recorder};
pub use summary::{LATENCY_US_MAX, Summary};
pub use request_event::{Assignment, RequestEventKind, Watermark, RequestEvent, EventBatch, EventBuffer, SampledExchange, Arm, ReleaseKey};
pub use windows::{WindowSpan, Windows};
