//! Builds cohorts from the events of all workers: complete, in the order in which their requests
//! were assigned.
//!
//! The scored requests are always a prefix of all assignments. An unfinished request holds up those
//! behind it until it ends or reaches the landmark age; then it counts as bad, in both arms alike.
//! So a canary that fails fast is never compared with a baseline whose failures are still to come
//! (STATISTICS.md 1.e).

use std::collections::BTreeMap;

use super::scored::{Scored, place};
use crate::analysis::{Entered, PendingCohort, Units};
use crate::stats::{Arm, Assignment, RequestEvent, RequestEventKind};

use super::overdue::OverdueRequests;

/// The interval around a displaced request that is tainted, for both arms.
const TAINTED_US: u64 = 10_000;
/// Assignments that may wait for scoring. Beyond this all are dropped, since evidence with gaps is
/// not valid.
const WAITING_MAX: usize = 1 << 20;

/// Requests that wait for scoring.
#[derive(Debug, Default)]
pub(crate) struct CohortBuilder {
    slots: BTreeMap<AssignmentKey, Slot>,
    /// Every assignment before this time has been scored or left out.
    closed_us: u64,
    /// Tainted intervals, as multiples of the interval's length.
    tainted: BTreeMap<u64, ()>,
    /// Failures of the canary that are not scored yet.
    failures: usize,
    overdue: OverdueRequests,
    /// Time of the last assignment while the canary was full.
    full_at_us: Option<u64>,
}

/// Assignments with equal keys are indistinguishable; keys sort by time.
pub(crate) type AssignmentKey = (u64, u16, u16, Arm);

pub(crate) fn key(assignment: &Assignment) -> AssignmentKey {
    (
        assignment.at_us,
        assignment.canary_points,
        assignment.baseline_points,
        assignment.side,
    )
}

#[derive(Debug, Default)]
struct Slot {
    open: Vec<Open>,
    ended: Vec<Ended>,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Open {
    user: u32,
    /// The head of a successful response has arrived.
    headed: bool,
    /// The client is still uploading the request.
    uploading: bool,
    /// It has failed and was failed over.
    failed: bool,
    /// The canary was full at the assignment.
    canary_full: bool,
}

/// How a request ended, for scoring.
#[derive(Clone, Copy, Debug)]
struct Ended {
    user: u32,
    end: End,
    canary_full: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Good {
        latency_us: u32,
    },
    Bad {
        visible: bool,
    },
    Aborted {
        late: bool,
    },
    /// The client was still uploading at the landmark.
    Uploading,
    /// Sent to the baseline because the canary was full: counts in neither arm.
    Displaced,
}

impl End {
    pub(crate) fn is_bad(self) -> bool {
        matches!(self, End::Bad { .. } | End::Aborted { late: true })
    }
}

impl Slot {
    fn failures(&self) -> usize {
        self.ended.iter().filter(|ended| ended.end.is_bad()).count()
    }
}

/// How far events are known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownEvents {
    /// Now, on the monotonic clock.
    pub(crate) now_us: u64,
    /// Every assignment before this time has been reported ([`crate::stats::Watermark::floor`]).
    pub(crate) floor_us: u64,
    /// The age at which an unfinished request is scored.
    pub(crate) landmark_us: u64,
}

impl CohortBuilder {
    /// Scores no request that was assigned before `from_us`.
    pub(crate) fn new(from_us: u64) -> CohortBuilder {
        CohortBuilder {
            closed_us: from_us,
            ..CohortBuilder::default()
        }
    }

    /// Adds an event.
    pub(crate) fn add(&mut self, note: &RequestEvent) {
        let at_us = note.assignment.at_us;
        if at_us < self.closed_us {
            self.overdue.add_event(note);
            return;
        }
        match note.happened {
            RequestEventKind::Assigned {
                uploading,
                canary_full,
            } => self.assign(note, uploading, canary_full),
            RequestEventKind::Sent => self.with_open(note, |open| open.uploading = false),
            RequestEventKind::Uploading => self.with_open(note, |open| open.uploading = true),
            RequestEventKind::Failed => self.with_open(note, |open| open.failed = true),
            RequestEventKind::Headed => self.with_open(note, |open| open.headed = true),
            RequestEventKind::Displaced => self.displace(note),
            RequestEventKind::Good { latency_us } => self.end(note, End::Good { latency_us }),
            RequestEventKind::Bad { visible } => self.end(note, End::Bad { visible }),
            RequestEventKind::Aborted { late } => self.end(note, End::Aborted { late }),
        }
    }

    /// Drops all waiting requests after events were lost.
    pub(crate) fn give_up(&mut self, now_us: u64) {
        self.slots.clear();
        // No further events will arrive for overdue requests.
        self.overdue.forget_open();
        self.failures = 0;
        self.closed_us = self.closed_us.max(now_us);
    }

    /// Whether a failure of the canary waits for scoring.
    pub(crate) fn has_failure(&self) -> bool {
        self.failures > 0
    }

    /// Open requests of the canary past the landmark without a response head.
    pub(crate) fn open_past_landmark(&self) -> u32 {
        self.overdue.stalled_without_head()
    }

    /// Requests of the canary that were scored as unfinished and not counted by the tripwire.
    pub(crate) fn unfinished(&self) -> u32 {
        self.overdue.unfinished()
    }

    /// Time of the last assignment while the canary was full, in microseconds of the monotonic
    /// clock.
    pub(crate) fn full_at_us(&self) -> Option<u64> {
        self.full_at_us
    }

    /// Counts of requests that wait for scoring: the canary's, the baseline's, and those of the
    /// baseline that failed or have not ended.
    pub(crate) fn pending(&self) -> PendingCohort {
        let mut pending = PendingCohort::default();
        for (key, slot) in &self.slots {
            let assigned = (slot.open.len() + slot.ended.len()) as u64;
            if key.3 == Arm::Canary && key.2 == 0 {
                pending.alone += assigned;
            } else if key.3 == Arm::Canary {
                pending.canary += assigned;
            } else {
                pending.baseline += assigned;
                pending.baseline_bad_or_open += (slot.open.len() + slot.failures()) as u64;
            }
        }
        pending
    }

    /// Scores everything that can be scored now, in order; requests under the same weights share a
    /// cohort.
    pub(crate) fn close(&mut self, known: &KnownEvents, units: &mut Units) -> Vec<Scored> {
        let end_us = self.boundary(known);
        let mut scored: Vec<Scored> = Vec::new();
        while let Some(first) = self.slots.first_entry() {
            let (at_us, canary, baseline, side) = *first.key();
            if at_us >= end_us {
                break;
            }
            let slot = first.remove();
            if side == Arm::Canary {
                self.failures = self.failures.saturating_sub(slot.failures());
            }
            let is_tainted = self.tainted.contains_key(&(at_us / TAINTED_US));
            let weight = chance(canary, baseline);
            for open in &slot.open {
                let key = (at_us, canary, baseline, side);
                if open.is_unfinished() && side == Arm::Canary {
                    self.overdue.add(key, open.user);
                } else if open.uploading && !open.headed {
                    self.overdue
                        .add_upload(key, open.user, !open.canary_full && !is_tainted);
                }
            }
            for ended in slot.take(known.landmark_us) {
                // While the canary is full nothing is compared; the request only explains failures.
                let is_tainted = is_tainted || ended.canary_full;
                let enter = || match ended.canary_full {
                    true => Entered::default(),
                    false => units.enter(ended.user, side, weight, at_us, ended.end.is_bad()),
                };
                // A request that waits for its client counts in neither arm.
                let counts = !matches!(ended.end, End::Displaced | End::Uploading);
                let entered = counts.then(enter);
                let begins = entered.as_ref().and_then(|entered| entered.begins);
                let into = place(&mut scored, weight, is_tainted, begins);
                into.at_us = at_us;
                if let Some(entered) = entered {
                    into.count(side, ended.end, &entered, units.are_sticky());
                }
            }
        }
        let closed_us = end_us.min(known.now_us);
        self.score_uploads(closed_us, known, units, &mut scored);
        let matured = units.matured(closed_us).into_iter();
        scored.extend(matured.map(|matured| Scored {
            at_us: closed_us,
            weight: matured.weight,
            matured: Some(matured),
            ..Scored::default()
        }));
        self.closed_us = self.closed_us.max(closed_us);
        self.tainted = self.tainted.split_off(&(self.closed_us / TAINTED_US));
        scored
    }

    /// Scores uploads that were left out at the landmark, because they waited for the client, and
    /// have been stalled on the upstream since.
    fn score_uploads(
        &mut self,
        at_us: u64,
        known: &KnownEvents,
        units: &mut Units,
        scored: &mut Vec<Scored>,
    ) {
        let unfinished = self
            .overdue
            .unfinished_uploads(known.now_us, known.landmark_us);
        for ((_, canary, baseline, side), user) in unfinished {
            let weight = chance(canary, baseline);
            let entered = units.enter(user, side, weight, at_us, true);
            let into = place(scored, weight, false, entered.begins);
            into.at_us = at_us;
            into.count(
                side,
                End::Bad { visible: false },
                &entered,
                units.are_sticky(),
            );
        }
    }

    /// The time up to which all is known: limited by the watermark, the clock, and the first
    /// request that may still end.
    fn boundary(&self, known: &KnownEvents) -> u64 {
        let limit = known.floor_us.min(known.now_us);
        let is_young = |at_us: u64| known.now_us.saturating_sub(at_us) < known.landmark_us;
        let waits = |(key, slot): (&AssignmentKey, &Slot)| {
            (!slot.open.is_empty() && is_young(key.0)).then_some(key.0)
        };
        let first = self
            .slots
            .range(..(limit, 0, 0, Arm::Baseline))
            .find_map(waits);
        first.unwrap_or(limit)
    }

    fn assign(&mut self, note: &RequestEvent, uploading: bool, canary_full: bool) {
        if self.slots.len() >= WAITING_MAX {
            self.give_up(note.assignment.at_us);
        }
        if canary_full {
            self.full_at_us = self.full_at_us.max(Some(note.assignment.at_us));
        }
        let slot = self.slots.entry(key(&note.assignment)).or_default();
        slot.open.push(Open {
            user: note.user,
            headed: false,
            uploading,
            failed: false,
            canary_full,
        });
    }

    /// Handles a request displaced by a full canary. If the canary was known to be full at the
    /// draw, single requests are left out; if another worker took the last place, the whole
    /// interval is tainted.
    fn displace(&mut self, note: &RequestEvent) {
        let at_us = note.assignment.at_us;
        let mut was_known = false;
        self.with_open(note, |open| was_known = open.canary_full);
        if !was_known {
            self.tainted.insert(at_us / TAINTED_US, ());
            self.full_at_us = self.full_at_us.max(Some(at_us));
        }
        self.end(note, End::Displaced);
    }

    /// Changes the first open request that the event may refer to.
    fn with_open(&mut self, note: &RequestEvent, change: impl FnOnce(&mut Open)) {
        let slot = self.slots.get_mut(&key(&note.assignment));
        let open = slot.and_then(|slot| {
            slot.open
                .iter_mut()
                .find(|open| open.user == note.user && !open.headed)
        });
        if let Some(open) = open {
            change(open);
        }
    }

    fn end(&mut self, note: &RequestEvent, end: End) {
        // Events of dropped assignments are ignored.
        let Some(slot) = self.slots.get_mut(&key(&note.assignment)) else {
            return;
        };
        if let Some(at) = slot.open.iter().position(|open| open.user == note.user) {
            let open = slot.open.swap_remove(at);
            slot.ended.push(Ended {
                user: note.user,
                end,
                canary_full: open.canary_full,
            });
            let failed = note.assignment.side == Arm::Canary && end.is_bad();
            self.failures += usize::from(failed);
        }
    }
}

/// The chance that a request of the two arms is assigned to the canary.
fn chance(canary: u16, baseline: u16) -> f64 {
    let both = u32::from(canary) + u32::from(baseline);
    if both == 0 {
        return 0.0;
    }
    f64::from(canary) / f64::from(both)
}

impl Slot {
    /// The requests of the slot with their outcomes, or with their state at the landmark.
    fn take(self, landmark_us: u64) -> impl Iterator<Item = Ended> {
        let open = self.open.into_iter().map(move |open| {
            let end = if open.headed {
                // A successful response whose body is still streaming: no failure, with the highest
                // known latency.
                let latency_us = u32::try_from(landmark_us).unwrap_or(u32::MAX);
                End::Good { latency_us }
            } else if open.uploading {
                End::Uploading
            } else {
                // Whether it was visible to a user is known when it ends.
                End::Bad { visible: false }
            };
            Ended {
                user: open.user,
                end,
                canary_full: open.canary_full,
            }
        });
        self.ended.into_iter().chain(open)
    }
}

impl Open {
    /// Whether the client has sent all of it and no response head has arrived.
    fn is_unfinished(&self) -> bool {
        !self.headed && !self.uploading && !self.failed
    }
}

#[cfg(test)]
#[path = "cohorts_tests.rs"]
mod tests;
