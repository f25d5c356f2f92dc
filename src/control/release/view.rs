//! A release in its API form.

use super::running::RunningRelease;
use crate::analysis::WaitReason;
use crate::model::api;
use crate::release::ReleaseState;
use crate::time::Timestamp;

impl RunningRelease {
    /// The release, in the state `state`.
    pub(super) fn view(&self, state: &ReleaseState, now: Timestamp, durable: bool) -> api::Release {
        let evidence = self.trial.evidence();
        let spent = self.spent();
        let aborts = self.trial.aborts();
        let share = |count: u64, requests: u64| count as f64 / requests.max(1) as f64;
        let too_few = self.too_few_requests(state, evidence.canary.requests, now);
        let steps = state.plan.steps().iter().map(|step| step.weight.percent());
        let at = |unix_us: i64| Timestamp::new(0, unix_us).rfc3339();
        api::Release {
            id: state.id.clone(),
            service: state.service.clone(),
            baseline: state.baseline.clone(),
            canary: state.canary.clone(),
            phase: state.phase,
            paused: state.is_paused(),
            override_freeze: state.override_freeze,
            step: state.step_number(),
            steps: steps.collect(),
            weight: state.weight().percent(),
            started_at: at(state.started_us),
            phase_since: at(state.since_us),
            ended_at: state.ended_us.map(at),
            reason: state.reason.clone(),
            change: state.change.clone(),
            version: state.version.clone(),
            actor: state.actor.clone(),
            waiting_for: state
                .waiting_for(now)
                .or_else(|| too_few.map(for_traffic))
                .or_else(|| self.waiting_for_heads(state, now))
                .or_else(|| self.waiting_for_evidence(state, now)),
            too_few_requests: too_few,
            approvals: state.approvals(),
            outcome: state.displayed_outcome(),
            budget: api::BudgetStatus {
                limit: state.plan.budget(),
                spent: spent.visible.into(),
                allowance: self.trial.allowance(),
            },
            rescued_budget: api::BudgetStatus {
                limit: state.plan.rescued_budget(),
                spent: spent.all.into(),
                allowance: self.trial.rescued_allowance(),
            },
            user_visible_failures: self.visible(),
            rescued: self.rescued(),
            aborts: api::Aborts {
                baseline: aborts.baseline,
                canary: aborts.canary,
                baseline_share: share(aborts.baseline, evidence.baseline.requests),
                canary_share: share(aborts.canary, evidence.canary.requests),
            },
            canary_requests: evidence.canary.requests,
            baseline_requests: evidence.baseline.requests,
            log_e: evidence.log_e,
            log_limit: evidence.log_limit,
            objectives: self.trial.objectives(),
            durable,
        }
    }

    /// The requests that the step still needs after its minimum duration; `requests` are the
    /// canary's in all steps.
    fn too_few_requests(
        &self,
        state: &ReleaseState,
        requests: u64,
        now: Timestamp,
    ) -> Option<api::TooFewRequests> {
        let step = state.plan.steps().get(state.step()?)?;
        let before = self.history.requests_before(state.step_number());
        let (mut canary, least) = (requests.saturating_sub(before), step.judged.min_requests);
        if self.trial_step == state.step() {
            // Requests that clients aborted give no evidence.
            canary = canary.min(self.trial.outcomes());
        }
        (has_lasted_minimum(state, now) && canary < least)
            .then_some(api::TooFewRequests { canary, least })
    }

    /// The requests without a response head that hold up a step whose minimum duration is over.
    fn waiting_for_heads(&self, state: &ReleaseState, now: Timestamp) -> Option<api::WaitingFor> {
        let held = has_lasted_minimum(state, now) && self.is_stalled();
        held.then(|| api::WaitingFor {
            kind: "unfinished".to_owned(),
            detail: format!(
                "{} requests of the canary have had no response head for more than {} ms; the \
                 baseline's rate explains {:.1}. No step ends until they have one",
                self.cohorts.open_past_landmark(),
                self.landmark_us / 1_000,
                self.trial.unfinished_explained()
            ),
            until: None,
        })
    }

    /// The failures at full weight that keep the canary from being promoted.
    fn waiting_for_evidence(
        &self,
        state: &ReleaseState,
        now: Timestamp,
    ) -> Option<api::WaitingFor> {
        let held = self.trial.full_weight().filter(|held| {
            has_lasted_minimum(state, now) && self.trial_step == state.step() && !held.passes
        })?;
        Some(api::WaitingFor {
            kind: WaitReason::Inconclusive.as_str().to_owned(),
            detail: format!(
                "{} of {} requests failed on the canary at full weight, more than on the baseline \
                 before ({:.0} of {:.0}); promotion needs evidence that less than {:.1} % fail: it \
                 is {:.1} of {:.1} (ln e)",
                held.canary.failures,
                held.canary.requests,
                held.baseline_failures,
                held.baseline_requests,
                100.0 * held.tolerated,
                held.advance_log_e,
                held.advance_limit
            ),
            until: None,
        })
    }

    /// A point of the path of the statistics.
    pub(super) fn path_point(&self, now: Timestamp) -> api::PathPoint {
        let evidence = self.trial.evidence();
        let objectives = evidence
            .objectives
            .iter()
            .map(|objective| api::PathObjective {
                name: objective.objective.name().to_owned(),
                log_e: objective.log_e,
                advance_log_e: objective.advance_log_e,
                advance_limit: objective.advance_limit,
                canary: counts(evidence.canary),
                baseline: counts(evidence.baseline),
            });
        let step = self
            .release
            .step()
            .and_then(|step| self.release.plan.steps().get(step));
        api::PathPoint {
            elapsed_ms: self.history.elapsed_ms(now),
            step: self.release.step_number(),
            // Also for the point at which the canary was taken out: its evidence is that of this
            // weight.
            weight: step.map_or(0.0, |step| step.weight.percent()),
            log_e: evidence.log_e,
            log_limit: evidence.log_limit,
            objectives: objectives.collect(),
        }
    }

    /// The evidence bundle of the release.
    pub(super) fn bundle(&self, now: Timestamp, durable: bool) -> api::EvidenceBundle {
        let judge = serde_json::to_value(self.trial.evidence()).unwrap_or_default();
        let plan = serde_json::Value::Object(self.release.plan.to_shown());
        self.history
            .bundle(self.view(&self.release, now, durable), judge, plan)
    }
}

/// Whether the step that is being judged has lasted for its minimum duration.
fn has_lasted_minimum(state: &ReleaseState, now: Timestamp) -> bool {
    let step = state.step().and_then(|step| state.plan.steps().get(step));
    let at_step_ms =
        u64::try_from(now.unix_us().saturating_sub(state.since_us) / 1_000).unwrap_or(0);
    // A waiting step has lasted long enough; the time since it began to wait is no measure of that.
    state.is_judged()
        && step.is_some_and(|step| {
            state.phase == api::Phase::Waiting || at_step_ms >= step.judged.min_ms
        })
}

fn for_traffic(too_few: api::TooFewRequests) -> api::WaitingFor {
    let api::TooFewRequests { canary, least } = too_few;
    api::WaitingFor {
        kind: WaitReason::TooLittleTraffic.as_str().to_owned(),
        detail: format!(
            "the canary has had {canary} of the {least} requests that this step requires \
             (min_requests)"
        ),
        until: None,
    }
}

fn counts(counts: crate::analysis::Counts) -> api::SideCounts {
    api::SideCounts {
        requests: counts.requests,
        failures: counts.failures,
    }
}
