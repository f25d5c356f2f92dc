//! Requests of the canary that were scored as failed at the landmark and are still open. Until they
//! end they hold the step, and their end must not be counted again (STATISTICS.md 1.k.3).

use std::collections::BTreeMap;

use super::cohorts::{AssignmentKey, key};
use crate::stats::{Arm, RequestEvent, RequestEventKind};

/// Requests of the canary without a response head at the landmark, scored as failed.
#[derive(Debug, Default)]
pub(crate) struct OverdueRequests {
    open: BTreeMap<AssignmentKey, Vec<OverdueRequest>>,
    /// Number of open ones that still have no head.
    count: u32,
    /// Number of all but those that failed in the end, which the tripwire has counted too.
    unfinished: u32,
    /// Number of uploads scored in neither arm that are now waiting for the upstream.
    stalled: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct OverdueRequest {
    user: u32,
    /// It holds the step: the client has sent all of it, and there is no head.
    is_stalled: bool,
    /// It was scored as failed, and the tripwire has not counted it.
    unfinished: bool,
    /// It was scored in neither arm because its client was uploading, and may still be scored.
    unscored: bool,
    /// Since when it has been waiting for the upstream, if it is not scored.
    since_us: Option<u64>,
}

impl OverdueRequests {
    pub(crate) fn add(&mut self, key: AssignmentKey, user: u32) {
        self.count += 1;
        self.unfinished = self.unfinished.saturating_add(1);
        self.keep(
            key,
            OverdueRequest {
                user,
                is_stalled: true,
                unfinished: true,
                ..OverdueRequest::default()
            },
        );
    }

    /// Adds an upload of either arm that was not scored at the landmark. It is scored later if it
    /// stalls on the upstream and is `compared`.
    pub(crate) fn add_upload(&mut self, key: AssignmentKey, user: u32, compared: bool) {
        self.keep(
            key,
            OverdueRequest {
                user,
                unscored: compared,
                ..OverdueRequest::default()
            },
        );
    }

    fn keep(&mut self, key: AssignmentKey, request: OverdueRequest) {
        self.open.entry(key).or_default().push(request);
    }

    /// Uploads that were scored in neither arm and have since waited for the upstream for as long
    /// as the landmark: they become unfinished, by the same rule in both arms.
    pub(crate) fn unfinished_uploads(
        &mut self,
        now_us: u64,
        landmark_us: u64,
    ) -> Vec<(AssignmentKey, u32)> {
        let mut unfinished = Vec::new();
        if self.stalled == 0 {
            return unfinished;
        }
        for (key, all) in &mut self.open {
            for open in all
                .iter_mut()
                .filter(|open| open.unscored && open.is_stalled)
            {
                let since_us = *open.since_us.get_or_insert(now_us);
                if now_us.saturating_sub(since_us) < landmark_us {
                    continue;
                }
                open.unscored = false;
                self.stalled = self.stalled.saturating_sub(1);
                if key.3 == Arm::Canary {
                    open.unfinished = true;
                    self.unfinished = self.unfinished.saturating_add(1);
                }
                unfinished.push((*key, open.user));
            }
        }
        unfinished
    }

    /// Handles an event of a request that is already scored.
    pub(crate) fn add_event(&mut self, note: &RequestEvent) {
        let key = key(&note.assignment);
        let Some(all) = self.open.get_mut(&key) else {
            return;
        };
        let Some(at) = all.iter().position(|open| open.user == note.user) else {
            return;
        };
        let Some(open) = all.get_mut(at) else { return };
        let (happened, ends) = (note.happened, note.happened.is_last());
        let is_stalled = match happened {
            RequestEventKind::Sent => true,
            RequestEventKind::Uploading | RequestEventKind::Headed | RequestEventKind::Failed => {
                false
            }
            _ => open.is_stalled && !ends,
        };
        if key.3 == Arm::Canary {
            self.count =
                (self.count + u32::from(is_stalled)).saturating_sub(u32::from(open.is_stalled));
        }
        if open.unscored {
            self.stalled = (self.stalled + usize::from(is_stalled))
                .saturating_sub(usize::from(open.is_stalled));
        }
        open.is_stalled = is_stalled;
        if !is_stalled {
            open.since_us = None;
        }
        // From here on the tripwire counts it.
        if open.unfinished && (happened.is_bad() || happened == RequestEventKind::Failed) {
            open.unfinished = false;
            self.unfinished = self.unfinished.saturating_sub(1);
        }
        if ends {
            all.swap_remove(at);
            if all.is_empty() {
                self.open.remove(&key);
            }
        }
    }

    /// No further events will arrive for open requests.
    pub(crate) fn forget_open(&mut self) {
        self.open.clear();
        self.count = 0;
        self.stalled = 0;
    }

    /// Number of open requests without a head.
    pub(crate) fn stalled_without_head(&self) -> u32 {
        self.count
    }

    /// Number of requests scored as failed that the tripwire has not counted.
    pub(crate) fn unfinished(&self) -> u32 {
        self.unfinished
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Assignment, ReleaseKey};

    fn note(at_us: u64, user: u32, happened: RequestEventKind) -> RequestEvent {
        RequestEvent {
            assignment: Assignment {
                watch: ReleaseKey(0),
                at_us,
                canary_points: 10_000,
                baseline_points: 0,
                side: Arm::Canary,
            },
            user,
            happened,
        }
    }

    #[test]
    fn an_overdue_request_is_counted_once_whatever_its_end() {
        let mut late = OverdueRequests::default();
        for user in 0..4 {
            late.add(
                key(&note(7, user, RequestEventKind::Headed).assignment),
                user,
            );
        }
        assert_eq!((late.stalled_without_head(), late.unfinished()), (4, 4));
        // The tripwire counts the failure when it comes; the head before it ends the stall.
        late.add_event(&note(7, 0, RequestEventKind::Headed));
        assert_eq!((late.stalled_without_head(), late.unfinished()), (3, 4));
        late.add_event(&note(7, 0, RequestEventKind::Bad { visible: true }));
        late.add_event(&note(7, 1, RequestEventKind::Good { latency_us: 9 }));
        late.add_event(&note(7, 2, RequestEventKind::Aborted { late: true }));
        assert_eq!((late.stalled_without_head(), late.unfinished()), (1, 2));
        late.add_event(&note(8, 3, RequestEventKind::Bad { visible: true }));
        assert_eq!(late.stalled_without_head(), 1, "another request");
        // A failed-over request is counted by the tripwire from then on, and only once.
        late.add_event(&note(7, 3, RequestEventKind::Failed));
        assert_eq!((late.stalled_without_head(), late.unfinished()), (0, 1));
        late.add_event(&note(7, 3, RequestEventKind::Bad { visible: false }));
        assert_eq!(late.unfinished(), 1);
        late.add_upload(key(&note(9, 5, RequestEventKind::Sent).assignment), 5, true);
        assert_eq!(late.stalled_without_head(), 0);
        late.add_event(&note(9, 5, RequestEventKind::Sent));
        assert_eq!((late.stalled_without_head(), late.unfinished()), (1, 1));
        assert!(late.open.len() == 1);
    }

    #[test]
    fn a_stalled_upload_is_scored_after_the_landmark_age() {
        let mut late = OverdueRequests::default();
        for user in 0..3 {
            late.add_upload(
                key(&note(7, user, RequestEventKind::Sent).assignment),
                user,
                user != 2,
            );
        }
        assert_eq!(
            late.unfinished_uploads(100, 50),
            [],
            "the upload waits for its client"
        );
        (0..3).for_each(|user| late.add_event(&note(7, user, RequestEventKind::Sent)));
        assert_eq!(late.unfinished_uploads(100, 50), []);
        late.add_event(&note(7, 1, RequestEventKind::Uploading));
        late.add_event(&note(7, 1, RequestEventKind::Sent));
        assert_eq!(late.unfinished_uploads(120, 50), []);
        let of = |user| (key(&note(7, user, RequestEventKind::Sent).assignment), user);
        assert_eq!(late.unfinished_uploads(150, 50), [of(0)]);
        assert_eq!((late.stalled_without_head(), late.unfinished()), (3, 1));
        assert_eq!(
            late.unfinished_uploads(170, 50),
            [of(1)],
            "its wait began anew"
        );
        assert_eq!(
            late.unfinished_uploads(10_000, 50),
            [],
            "each once, and only compared ones"
        );
        late.add_event(&note(7, 0, RequestEventKind::Bad { visible: true }));
        assert_eq!(
            (late.stalled_without_head(), late.unfinished()),
            (2, 1),
            "the tripwire has counted it"
        );
    }
}
