//! Releases of the fake controller.

use std::path::PathBuf;

use serde_json::json;

use super::controller::refused;
use crate::control::{Intent, Refusal, ReleaseVerb};
use crate::model::api;

/// What no page may show as markup.
pub(super) const HOSTILE: &str = "<script>alert('x')</script>\"&\u{202e}";

/// Releases of `shop`, oldest first. Only the last can be under way.
#[derive(Debug, Default)]
pub(super) struct Releases {
    all: Vec<api::Release>,
    /// Verb, actor, and whether the caller may override freezes.
    pub(super) asked: Vec<String>,
    /// Where recordings are.
    pub(super) recordings: PathBuf,
}

impl Releases {
    pub(super) fn start(
        &mut self,
        service: &mut api::Service,
        start: api::ReleaseStart,
        intent: &Intent,
    ) -> Result<api::ReleaseChange, Refusal> {
        self.ask("start", intent);
        refused(service, intent)?;
        if self.all.last().is_some_and(|last| !last.phase.is_over()) {
            return Err(Refusal::Conflict("another release is under way".into()));
        }
        let unfit = |pointer: &str, detail: &str| api::FieldProblem {
            pointer: pointer.into(),
            detail: detail.into(),
        };
        if !service.upstreams.contains_key(&start.canary) {
            return Err(Refusal::Unfit(vec![unfit(
                "/canary",
                "there is no such upstream",
            )]));
        }
        if start
            .plan
            .as_ref()
            .is_some_and(|plan| plan.contains_key("stepz"))
        {
            let errors = vec![
                unfit("/plan/stepz", "no such field"),
                unfit("/plan", "steps are missing"),
            ];
            return Err(Refusal::Unfit(errors));
        }
        let mut release = release(self.all.len() + 1);
        release.canary = start.canary;
        release.actor.clone_from(&intent.actor);
        (release.reason, release.change, release.version) =
            (start.reason, start.change, start.version);
        self.all.push(release.clone());
        Ok(change(service, release))
    }

    pub(super) fn command(
        &mut self,
        service: &mut api::Service,
        id: &str,
        verb: ReleaseVerb,
        command: &api::ReleaseCommand,
        intent: &Intent,
    ) -> Result<api::ReleaseChange, Refusal> {
        self.ask(verb.as_str(), intent);
        let release = self.all.iter_mut().find(|release| release.id == id);
        let release = release.ok_or_else(|| Refusal::UnknownRelease(id.to_owned()))?;
        refused(service, intent)?;
        if release.phase.is_over() {
            return Err(Refusal::Conflict(format!("{id} is {}", release.phase)));
        }
        if command.gate.as_deref() == Some("nobody's") {
            return Err(Refusal::Forbidden("this gate is not yours".into()));
        }
        match verb {
            ReleaseVerb::Pause => release.paused = true,
            ReleaseVerb::Resume => release.paused = false,
            ReleaseVerb::Approve => release.approvals.push(api::Approval {
                gate: command.gate.clone().unwrap_or_else(|| "go".into()),
                by: intent.actor.clone(),
                at: release.started_at.clone(),
                reason: intent.reason.clone(),
            }),
            ReleaseVerb::Promote => release.phase = api::Phase::Promoted,
            ReleaseVerb::RollBack => release.phase = api::Phase::RolledBack,
            ReleaseVerb::Cancel => release.phase = api::Phase::Cancelled,
        }
        Ok(change(service, release.clone()))
    }

    pub(super) fn list(&self, limit: usize) -> Vec<api::Release> {
        self.all.iter().rev().take(limit).cloned().collect()
    }

    pub(super) fn get(&self, id: &str) -> Result<api::Release, Refusal> {
        let found = self.all.iter().find(|release| release.id == id);
        found
            .cloned()
            .ok_or_else(|| Refusal::UnknownRelease(id.to_owned()))
    }

    pub(super) fn evidence(&self, id: &str) -> Result<Box<api::EvidenceBundle>, Refusal> {
        Ok(Box::new(bundle(self.get(id)?)))
    }

    pub(super) fn recording(&self, id: &str) -> Result<PathBuf, Refusal> {
        Ok(self.recordings.join(format!("{}.jsonl", self.get(id)?.id)))
    }

    fn ask(&mut self, verb: &str, intent: &Intent) {
        self.asked
            .push(format!("{verb} {} {}", intent.actor, intent.may_override));
    }
}

fn change(service: &mut api::Service, release: api::Release) -> api::ReleaseChange {
    service.revision += 1;
    service.release = (!release.phase.is_over()).then(|| release.id.clone());
    api::ReleaseChange {
        weights: service.weights.intended.clone(),
        revision: service.revision,
        release,
    }
}

pub(super) fn release(number: usize) -> api::Release {
    api::Release {
        id: format!("shop-{number}"),
        service: "shop".into(),
        baseline: "blue".into(),
        canary: "green".into(),
        phase: api::Phase::Progressing,
        paused: false,
        override_freeze: false,
        step: 1,
        steps: vec![5.0, 25.0, 100.0],
        weight: 5.0,
        started_at: "2026-01-01T00:00:00Z".into(),
        phase_since: "2026-01-01T00:00:00Z".into(),
        ended_at: None,
        reason: None,
        change: None,
        version: None,
        actor: "anna".into(),
        waiting_for: None,
        too_few_requests: None,
        approvals: Vec::new(),
        outcome: None,
        budget: api::BudgetStatus {
            limit: 20,
            spent: 3,
            allowance: 19,
        },
        rescued_budget: Default::default(),
        aborts: Default::default(),
        user_visible_failures: 3,
        rescued: 1,
        canary_requests: 500,
        baseline_requests: 9_500,
        log_e: 1.5,
        log_limit: 4.6,
        objectives: Vec::new(),
        durable: true,
    }
}

/// A bundle in which every text is hostile.
fn bundle(mut release: api::Release) -> api::EvidenceBundle {
    let text = || HOSTILE.to_owned();
    release.outcome = Some(api::ReleaseOutcome {
        verdict: "rolled_back".into(),
        objective: Some(text()),
        reason: text(),
    });
    let objective = api::PathObjective {
        name: text(),
        log_e: 1.5,
        advance_log_e: None,
        advance_limit: 3.0,
        canary: api::SideCounts {
            requests: 500,
            failures: 25,
        },
        baseline: api::SideCounts {
            requests: 9_500,
            failures: 1,
        },
    };
    let point = |elapsed_ms: u64| api::PathPoint {
        elapsed_ms,
        step: 1,
        weight: 5.0,
        log_e: 0.5,
        log_limit: 4.6,
        objectives: vec![objective.clone()],
    };
    let sample = api::Sample {
        at: text(),
        method: text(),
        path: text(),
        status: Some(500),
        reason: Some(text()),
        latency_us: 1_500,
        request_id: Some(text()),
        headers: vec![(text(), text())],
    };
    api::EvidenceBundle {
        timeline: vec![api::TimelineEntry {
            at: text(),
            elapsed_ms: 10,
            action: text(),
            actor: text(),
            detail: text(),
            weight: 5.0,
        }],
        weights: vec![(0, 5.0), (40_000, 0.0)],
        path: vec![point(0), point(30_000)],
        routes: vec![api::FailingRoute {
            side: text(),
            route: Some(text()),
            status: text(),
            count: 25,
        }],
        samples: api::Samples {
            canary: vec![sample.clone()],
            baseline: vec![sample],
        },
        judge: json!({ HOSTILE: HOSTILE }),
        plan: json!({ "steps": [HOSTILE] }),
        notes: vec![text()],
        release,
    }
}

pub(super) fn forecast(
    service: &str,
    plan: Option<serde_json::Map<String, serde_json::Value>>,
) -> Result<api::Forecast, Refusal> {
    if plan.as_ref().is_some_and(|plan| plan.contains_key("stepz")) {
        return Err(Refusal::Unfit(vec![api::FieldProblem {
            pointer: "/plan/stepz".into(),
            detail: "no such field".into(),
        }]));
    }
    Ok(api::Forecast {
        service: service.to_owned(),
        requests_per_second: 100.0,
        baseline_error_rate: 0.001,
        unit: None,
        steps: Vec::new(),
        worst_case: api::WorstCase::default(),
        plan: plan.map_or_else(|| json!({ "steps": [5, 100] }), Into::into),
        warnings: Vec::new(),
    })
}
