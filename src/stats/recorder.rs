//! The recorder: counters in a worker's own memory.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::{Outcome, Reason, RequestLabels, Summary, UpstreamKey};

/// The labels of a refusal or failure: the listener whose client received it, if any; the upstream,
/// if one was selected; the reason.
pub type ReasonLabels = (Option<u16>, Option<UpstreamKey>, Reason);

/// Summaries kept for reuse by one worker (54 KiB each); with more active upstreams, flushes
/// allocate.
const SPARE_MAX: usize = 64;

/// The counts of one worker since its last flush. Owned by that worker: no lock, no atomic.
///
/// Bounded by the configuration: an entry for each upstream, and for each combination of labels,
/// which are closed sets; a flush empties the latter.
#[derive(Debug)]
pub struct Recorder {
    worker: usize,
    /// By the slot of the upstream's key; an upstream that this worker has not served since the
    /// last flush costs an empty entry.
    summaries: Vec<Option<(UpstreamKey, Box<Summary>)>>,
    touched: Vec<usize>,
    /// Summaries of removed upstreams whose slots have been reused since the last flush.
    displaced: Vec<(UpstreamKey, Box<Summary>)>,
    /// Cleared summaries for reuse.
    #[expect(
        clippy::vec_box,
        reason = "they move between here, `summaries` and batches by pointer"
    )]
    spare: Vec<Box<Summary>>,
    requests: HashMap<RequestLabels, u64, FixedState>,
    reasons: HashMap<ReasonLabels, u64, FixedState>,
}

impl Recorder {
    /// An empty recorder for the worker of this number.
    pub fn new(worker: usize) -> Recorder {
        Recorder {
            worker,
            summaries: Vec::new(),
            touched: Vec::new(),
            displaced: Vec::new(),
            spare: Vec::new(),
            requests: HashMap::default(),
            reasons: HashMap::default(),
        }
    }

    /// Counts a finished request of an upstream.
    pub fn record(&mut self, upstream: UpstreamKey, outcome: &Outcome) {
        match self.summaries.get_mut(upstream.index()) {
            Some(Some((key, summary))) if *key == upstream => summary.record(outcome),
            _ => self.first(upstream).record(outcome),
        }
    }

    /// Counts a request with a response by its labels.
    pub fn count(&mut self, labels: RequestLabels) {
        *self.requests.entry(labels).or_default() += 1;
    }

    /// Counts a refusal (no upstream) or a failure by its reason. Without a listener it is a
    /// failure that no client saw, since another upstream responded.
    pub fn reject(&mut self, listener: Option<u16>, upstream: Option<UpstreamKey>, reason: Reason) {
        *self
            .reasons
            .entry((listener, upstream, reason))
            .or_default() += 1;
    }

    /// Whether there is anything to flush.
    pub fn is_dirty(&self) -> bool {
        !(self.touched.is_empty() && self.requests.is_empty() && self.reasons.is_empty())
    }

    /// Moves out all counts. A processed batch may be returned as `used`; its memory is then
    /// reused.
    pub fn take(&mut self, used: Option<Batch>) -> Batch {
        let mut batch = used.unwrap_or_default();
        batch.worker = self.worker;
        batch.requests.clear();
        batch.reasons.clear();
        for (_, mut summary) in batch.summaries.drain(..) {
            summary.clear();
            self.spare.push(summary);
        }
        self.spare.truncate(SPARE_MAX);
        for slot in self.touched.drain(..) {
            let summary = self.summaries.get_mut(slot).and_then(Option::take);
            batch.summaries.extend(summary);
        }
        batch.summaries.append(&mut self.displaced);
        batch.requests.extend(self.requests.drain());
        batch.reasons.extend(self.reasons.drain());
        batch
    }

    /// The summary of an upstream that has none since the last flush.
    #[cold]
    fn first(&mut self, upstream: UpstreamKey) -> &mut Summary {
        let index = upstream.index();
        if self.summaries.len() <= index {
            self.summaries.resize_with(index + 1, || None);
        }
        let summary = self.spare.pop().unwrap_or_default();
        #[expect(clippy::indexing_slicing, reason = "made long enough above")]
        let entry = &mut self.summaries[index];
        match entry.take() {
            Some(other) => self.displaced.push(other),
            None => self.touched.push(index),
        }
        &mut entry.insert((upstream, summary)).1
    }
}

/// The counts that a flush moves from a worker to the control plane.
#[derive(Debug, Default)]
pub struct Batch {
    /// The worker.
    pub worker: usize,
    /// Outcomes by upstream, if there were any.
    pub summaries: Vec<(UpstreamKey, Box<Summary>)>,
    /// Requests with a response, by labels.
    pub requests: Vec<(RequestLabels, u64)>,
    /// Refusals and failures, by reason.
    pub reasons: Vec<(ReasonLabels, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Class, MethodLabel};

    const OK: Outcome = Outcome {
        class: Class::Success,
        first_byte_us: Some(90),
        total_us: 100,
    };

    fn labels(status: u16) -> RequestLabels {
        RequestLabels {
            listener: 1,
            upstream: Some(UpstreamKey(3)),
            method: MethodLabel::Get,
            status,
        }
    }

    #[test]
    fn flush_moves_all_counts_once() {
        let mut recorder = Recorder::new(7);
        assert!(!recorder.is_dirty());
        for _ in 0..10 {
            recorder.record(UpstreamKey(3), &OK);
            recorder.count(labels(200));
        }
        recorder.record(UpstreamKey(0), &OK);
        recorder.count(labels(404));
        recorder.reject(Some(1), None, Reason::NoRoute);
        assert!(recorder.is_dirty());

        let mut batch = recorder.take(None);
        assert!(!recorder.is_dirty());
        batch.requests.sort_unstable();
        assert_eq!(batch.worker, 7);
        let counts: Vec<_> = batch
            .summaries
            .iter()
            .map(|(key, s)| (key.0, s.requests()))
            .collect();
        assert_eq!(counts, [(3, 10), (0, 1)]);
        assert_eq!(batch.requests, [(labels(200), 10), (labels(404), 1)]);
        assert_eq!(batch.reasons, [((Some(1), None, Reason::NoRoute), 1)]);

        let empty = recorder.take(Some(batch));
        assert!(
            empty.summaries.is_empty() && empty.requests.is_empty() && empty.reasons.is_empty()
        );
    }

    #[test]
    fn reused_slot_keeps_counts_apart() {
        let mut recorder = Recorder::new(0);
        let (old, new) = (UpstreamKey(3), UpstreamKey(3 + (1 << 32)));
        for key in [old, new, old, new, new] {
            recorder.record(key, &OK);
        }
        let batch = recorder.take(None);
        let sum = |key| {
            let of_key = batch.summaries.iter().filter(|(known, _)| *known == key);
            of_key.map(|(_, summary)| summary.requests()).sum::<u64>()
        };
        assert_eq!((sum(old), sum(new)), (2, 3));
        assert!(!recorder.is_dirty() && recorder.take(None).summaries.is_empty());
    }

    #[test]
    fn returned_batch_is_reused() {
        let mut recorder = Recorder::new(0);
        recorder.record(UpstreamKey(0), &OK);
        let batch = recorder.take(None);
        let first = std::ptr::from_ref(batch.summaries[0].1.as_ref());
        recorder.take(Some(batch));
        recorder.record(UpstreamKey(5), &OK);
        let batch = recorder.take(None);
        assert_eq!(batch.summaries[0].0, UpstreamKey(5));
        assert_eq!(batch.summaries[0].1.requests(), 1);
        assert!(std::ptr::eq(first, batch.summaries[0].1.as_ref()));
    }
}
