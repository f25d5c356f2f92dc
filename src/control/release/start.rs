//! The start of a release.

use std::time::Duration;

use tokio::sync::oneshot;

use super::lease::AllowanceLease;
use super::protect::PlanRecord;
use super::running::{RunningRelease, Spent};
use super::transition::AppliedTransition;
use crate::control::change::{Change, Reply};
use crate::control::controller::{Controller, ServiceEntry};
use crate::control::{Intent, Refusal};
use crate::model::{Name, Weight, api};
use crate::release::engine::EngineEvent;
use crate::release::replay::Writer;
use crate::release::{Command, Illegal, Plan, ReleaseState, Rescue, overriding};
use crate::routing::{self, ReleaseHandleSpec};
use crate::stats::ReleaseKey;
use crate::time::Timestamp;

type ChangeReply = oneshot::Sender<Result<api::ReleaseChange, Refusal>>;

impl Controller {
    /// Starts a release. It is committed first, so that a release that was reported as started
    /// exists.
    pub(in crate::control) fn start_release(
        &mut self,
        service: &str,
        start: &api::ReleaseStart,
        intent: Intent,
        reply: ChangeReply,
    ) {
        match self.prepare(service, start, &intent) {
            Err(refusal) => drop(reply.send(Err(refusal))),
            Ok((name, active, plan_record)) => {
                let now = self.clock.now();
                let Some(managed) = self.services.get(&name) else {
                    return;
                };
                let after = active.release().clone();
                let next = managed.state.with_new_release(
                    managed.next_revision(),
                    &now.rfc3339(),
                    intent.reason.clone(),
                );
                let detail = format!("{} is to replace {}", after.canary, after.baseline)
                    + overriding(after.override_freeze)
                    + &plan_record.description();
                let id = after.id.as_str().into();
                let moved = Change {
                    next,
                    action: "release_started",
                    intent,
                    turn: Some(Box::new(AppliedTransition {
                        after,
                        detail,
                        active: Some(active),
                        plan: Some(plan_record),
                    })),
                    overridden: Vec::new(),
                    reply: Reply::Release(id, reply),
                };
                self.commit_first(&name, moved);
            }
        }
    }

    /// Prepares everything for a release, or says why it cannot start.
    fn prepare(
        &mut self,
        service: &str,
        start: &api::ReleaseStart,
        intent: &Intent,
    ) -> Result<(Name, Box<RunningRelease>, PlanRecord), Refusal> {
        let now = self.clock.now();
        let (name, managed) = self.managed(service)?;
        managed.expect(intent.expected_revision)?;
        managed.may_start()?;
        let canary = managed.candidate(&start.canary)?;
        let plan = plan(managed, start.plan.as_ref(), self.approvals)?;
        let plan_record = PlanRecord::of(managed, start.plan.as_ref(), &plan)?;
        plan_record.may_start(intent)?;
        let start_at_us = start.start_at.as_deref().map(moment).transpose()?;
        let reason = start.reason.as_deref();
        let override_freeze =
            Command::overriding(start.override_freeze, intent.may_override, reason)?;
        if let Some(gate) = plan.gate_beyond(&intent.actor) {
            let detail = format!(
                "fewer people besides {} may approve the gate than it requires: {}",
                intent.actor, gate.name
            );
            return Err(unfit("/plan", detail));
        }
        let first_step = plan.first_step(managed.since_promotion(now));
        let release = ReleaseState {
            id: format!("{name}-{}", managed.state.releases + 1),
            service: name.to_string(),
            baseline: managed.state.baseline.to_string(),
            canary: canary.to_string(),
            actor: intent.actor.clone(),
            reason: start.reason.clone(),
            change: start.change.clone(),
            version: start.version.clone(),
            attempt: managed.state.attempt(start.version.as_deref()),
            start_at_us,
            override_freeze,
            first_step,
            ..ReleaseState::pending(plan, now)
        };
        let spec = self.watch_spec(&release)?;
        let active = self.make(release, spec, now);
        Ok((name, active, plan_record))
    }

    fn make(
        &mut self,
        release: ReleaseState,
        spec: ReleaseHandleSpec,
        now: Timestamp,
    ) -> Box<RunningRelease> {
        let store = self.outbox.store();
        let durable = store.is_durable();
        let (latency_us, failures) = self.collector.past(spec.baseline, now);
        let mut active = RunningRelease::new(release, spec, Spent::default(), durable, now);
        active.recording = store.record(active.id());
        if let Some(recording) = &active.recording {
            recording.add(Writer::begin(active.release(), active.units.are_sticky()));
        }
        let past = EngineEvent::Past {
            latency_us: &latency_us,
            failures,
        };
        active.feed(&past, active.at(now));
        let first = |allowance: u64| {
            let limit = u32::try_from(allowance).unwrap_or(u32::MAX);
            AllowanceLease::new(AllowanceLease::first(0, limit), durable)
        };
        active.visible.lease = first(active.trial().allowance());
        active.all.lease = first(active.trial().rescued_allowance());
        Box::new(active)
    }

    /// The release as workers see it.
    pub(in crate::control) fn watch_spec(
        &mut self,
        release: &ReleaseState,
    ) -> Result<ReleaseHandleSpec, Refusal> {
        let snapshot = self.publisher.current();
        let gone =
            || Refusal::Conflict("the service has changed since it was read; try again".to_owned());
        let service = snapshot.table.service(&release.service).ok_or_else(gone)?;
        let side = |name: &str| {
            service
                .upstream(name)
                .map(|upstream| (upstream.key, Name::clone(&upstream.name)))
        };
        let (baseline, baseline_name) = side(&release.baseline).ok_or_else(gone)?;
        let (canary, canary_name) = side(&release.canary).ok_or_else(gone)?;
        self.watches += 1;
        Ok(ReleaseHandleSpec {
            key: ReleaseKey(self.watches),
            release: release.id.as_str().into(),
            baseline,
            baseline_name,
            canary,
            canary_name,
            sticky: service.sticky.is_some(),
            rescue: rescue(&release.plan.rescue),
            in_flight_max: release.plan.canary_in_flight_max,
        })
    }
}

fn rescue(rescue: &Rescue) -> routing::RescuePolicy {
    match rescue {
        Rescue::Off => routing::RescuePolicy::Off,
        Rescue::Safe => routing::RescuePolicy::Safe,
        // The plan has validated the name. If it were invalid, only safe methods would fail over.
        Rescue::Header(name) => name
            .parse()
            .map_or(routing::RescuePolicy::Safe, routing::RescuePolicy::Header),
    }
}

/// The plan of the service, with the caller's fields merged in.
pub(super) fn plan(
    managed: &ServiceEntry,
    overlay: Option<&serde_json::Map<String, serde_json::Value>>,
    approvals: bool,
) -> Result<Plan, Refusal> {
    let base = managed.spec.release.as_deref();
    let plan = Plan::read(base, overlay).map_err(|problems| {
        let within = |problem: api::FieldProblem| api::FieldProblem {
            pointer: format!("/plan{}", problem.pointer),
            ..problem
        };
        Refusal::Unfit(problems.into_iter().map(within).collect())
    })?;
    if plan.needs_approval() && !approvals {
        return Err(unfit(
            "/plan",
            "the plan has gates that nobody could approve: the admin API has no tokens \
             (admin.tokens)",
        ));
    }
    Ok(plan)
}

impl From<Illegal> for Refusal {
    fn from(illegal: Illegal) -> Refusal {
        match illegal {
            Illegal::Now(detail) => Refusal::Conflict(detail),
            Illegal::Person(detail) => Refusal::Forbidden(detail),
            Illegal::Unfit(detail) => unfit("", detail),
        }
    }
}

pub(super) fn unfit(pointer: &str, detail: impl Into<String>) -> Refusal {
    Refusal::Unfit(vec![api::FieldProblem {
        pointer: pointer.to_owned(),
        detail: detail.into(),
    }])
}

/// An RFC 3339 time, in microseconds since 1970.
fn moment(text: &str) -> Result<i64, Refusal> {
    let at: Result<jiff::Timestamp, _> = text.parse();
    at.map(jiff::Timestamp::as_microsecond).map_err(|error| {
        let detail = format!("expected an RFC 3339 time such as 2026-12-01T09:00:00Z: {error}");
        unfit("/start_at", detail)
    })
}

impl ServiceEntry {
    /// Whether a release can start now.
    fn may_start(&self) -> Result<(), Refusal> {
        if let Some(active) = &self.active {
            return Err(Refusal::Conflict(format!(
                "the release {} is in progress; end it first",
                active.release().id
            )));
        }
        if self.pending.is_some() {
            return Err(Refusal::Conflict(
                "another change is in progress; try again".to_owned(),
            ));
        }
        if self.state.weights.get(&self.state.baseline) != Some(Weight::FULL) {
            return Err(Refusal::Conflict(format!(
                "a release starts with all weight on the baseline, {}; set the weights first",
                self.state.baseline
            )));
        }
        Ok(())
    }

    /// The upstream that becomes the canary.
    fn candidate(&self, canary: &str) -> Result<Name, Refusal> {
        let upstreams = &self.spec.upstreams;
        let Some(found) = upstreams.iter().find(|upstream| *upstream.name == *canary) else {
            let known: Vec<&str> = upstreams.iter().map(|upstream| &*upstream.name).collect();
            let detail = format!(
                "there is no upstream {canary:?}; the upstreams are: {}",
                known.join(", ")
            );
            return Err(unfit("/canary", detail));
        };
        if found.name == self.state.baseline {
            let detail = format!("{canary} is the baseline and already has all users");
            return Err(unfit("/canary", detail));
        }
        Ok(Name::clone(&found.name))
    }

    /// How long ago the last release was promoted, if it was.
    fn since_promotion(&self, now: Timestamp) -> Option<Duration> {
        let last = self
            .last
            .as_ref()
            .filter(|last| last.phase == api::Phase::Promoted)?;
        let at: jiff::Timestamp = last.ended_at.as_deref()?.parse().ok()?;
        let ago_us = now.unix_us().saturating_sub(at.as_microsecond()).max(0);
        Some(Duration::from_micros(ago_us.unsigned_abs()))
    }
}
