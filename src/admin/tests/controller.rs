//! Fake controller with one service, `shop`; the reason of a call selects its behaviour.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::Seen;
use super::play::{Releases, forecast};
use crate::control::{
    Applied, ControllerRequest, EventStream, Handle, Intent, Metrics, Refusal, Views,
};
use crate::model::{Name, Weight, Weights, api};

/// State that a test can inspect and control.
pub(super) struct TestController {
    /// The events that watchers get.
    pub(super) events: Arc<EventStream>,
    /// Lets one change with the reason `slow` go on.
    pub(super) go_on: Arc<Notify>,
    /// What was changed: actor, reason and revision.
    pub(super) changes: Seen<Vec<(String, Option<String>, u64)>>,
    /// The releases, and what was asked of them.
    pub(super) releases: Seen<Releases>,
    pub(super) handle: Handle,
}

impl TestController {
    pub(super) fn start() -> (Handle, TestController) {
        let events = Arc::new(EventStream::new());
        let service = Shop(Seen::new(std::sync::Mutex::new(shop())));
        let views = Arc::new(service.clone());
        let (handle, commands) =
            Handle::channel(Arc::new(Metrics::new()), Arc::clone(&events), views);
        let controller = TestController {
            events,
            go_on: Arc::default(),
            changes: Seen::default(),
            releases: Seen::default(),
            handle: handle.clone(),
        };
        let play = Play {
            service,
            go_on: Arc::clone(&controller.go_on),
            changes: Arc::clone(&controller.changes),
            releases: Arc::clone(&controller.releases),
        };
        tokio::spawn(play.run(commands));
        (handle, controller)
    }
}

fn shop() -> api::Service {
    let weights: api::Percentages = [("blue".to_owned(), 100.0), ("green".to_owned(), 0.0)].into();
    let upstream = api::Upstream {
        endpoints: Vec::new(),
        windows: BTreeMap::new(),
    };
    api::Service {
        release: None,
        name: "shop".into(),
        revision: 1,
        baseline: "blue".into(),
        previous_baseline: None,
        weights: api::WeightsStatus {
            intended: weights.clone(),
            effective: weights,
            since: "2026-01-01T00:00:00Z".into(),
            reason: None,
            durable: true,
        },
        routes: vec!["*/".into()],
        upstreams: [
            ("blue".to_owned(), upstream.clone()),
            ("green".to_owned(), upstream),
        ]
        .into(),
    }
}

/// The service as it is.
#[derive(Clone, Debug)]
struct Shop(Seen<api::Service>);

impl Views for Shop {
    fn services(&self) -> Vec<api::Service> {
        vec![self.0.lock().unwrap().clone()]
    }

    fn service(&self, name: &str) -> Option<api::Service> {
        self.services()
            .into_iter()
            .find(|service| service.name == name)
    }
}

struct Play {
    service: Shop,
    go_on: Arc<Notify>,
    changes: Seen<Vec<(String, Option<String>, u64)>>,
    releases: Seen<Releases>,
}

impl Play {
    async fn run(mut self, mut commands: mpsc::Receiver<ControllerRequest>) {
        // A test whose client has gone does not wait for its reply.
        while let Some(command) = commands.recv().await {
            match command {
                ControllerRequest::SetWeights {
                    service,
                    weights,
                    intent,
                    reply,
                } => drop(reply.send(self.change(&service, weights, intent).await)),
                ControllerRequest::Rollback {
                    service,
                    intent,
                    reply,
                } => {
                    let weights = [("blue".to_owned(), 100.0)].into();
                    drop(reply.send(self.change(&service, weights, intent).await));
                }
                ControllerRequest::Audit {
                    before,
                    limit,
                    reply,
                } => drop(reply.send(page(before, limit))),
                ControllerRequest::KeepAnswer { reply, .. } => drop(reply.send(())),
                ControllerRequest::VerifyAudit { reply } => {
                    let verdict = api::AuditVerdict {
                        whole: true,
                        entries: 3,
                        head: Some("00".into()),
                        finding: None,
                    };
                    drop(reply.send(Ok(verdict)));
                }
                ControllerRequest::Reload { .. } | ControllerRequest::ReloadFailed { .. } => {}
                other => self.release(other),
            }
        }
    }

    fn release(&mut self, command: ControllerRequest) {
        let mut releases = self.releases.lock().unwrap();
        let mut shop = self.service.0.lock().unwrap();
        let known = |service: &str| match service {
            "shop" => Ok(()),
            other => Err(Refusal::UnknownService(other.to_owned())),
        };
        match command {
            ControllerRequest::StartRelease {
                service,
                start,
                intent,
                reply,
            } => {
                drop(reply.send(
                    known(&service).and_then(|()| releases.start(&mut shop, *start, &intent)),
                ))
            }
            ControllerRequest::Release {
                id,
                verb,
                command,
                intent,
                reply,
            } => drop(reply.send(releases.command(&mut shop, &id, verb, &command, &intent))),
            ControllerRequest::Releases {
                service,
                limit,
                reply,
            } => {
                drop(reply.send(known(&service).map(|()| releases.list(limit))));
            }
            ControllerRequest::GetRelease { id, reply } => drop(reply.send(releases.get(&id))),
            ControllerRequest::Evidence { id, reply } => drop(reply.send(releases.evidence(&id))),
            ControllerRequest::Recording { id, reply } => drop(reply.send(releases.recording(&id))),
            ControllerRequest::Forecast {
                service,
                plan,
                reply,
            } => {
                drop(reply.send(known(&service).and_then(|()| forecast(&service, plan))));
            }
            other => panic!("{other:?} is not about a release"),
        }
    }

    async fn change(
        &mut self,
        service: &str,
        weights: api::Percentages,
        intent: Intent,
    ) -> Result<Applied, Refusal> {
        if service != "shop" {
            return Err(Refusal::UnknownService(service.to_owned()));
        }
        refused(&self.service.0.lock().unwrap(), &intent)?;
        if intent.reason.as_deref() == Some("slow") {
            self.go_on.notified().await;
        }
        let mut shop = self.service.0.lock().unwrap();
        shop.weights.intended = valid(&weights)?;
        shop.weights.effective = shop.weights.intended.clone();
        shop.revision += 1;
        let durable = intent.reason.as_deref() != Some("not durable");
        let change = (intent.actor, intent.reason, shop.revision);
        self.changes.lock().unwrap().push(change);
        Ok(Applied {
            service: shop.clone(),
            durable,
        })
    }
}

/// The refusal that the reason asks for, or that a stale revision deserves.
pub(super) fn refused(service: &api::Service, intent: &Intent) -> Result<(), Refusal> {
    let current = service.revision;
    if let Some(expected) = intent
        .expected_revision
        .filter(|expected| *expected != current)
    {
        return Err(Refusal::Stale { expected, current });
    }
    match intent.reason.as_deref() {
        Some("overtaken") => Err(Refusal::Overtaken),
        Some("disk full") => Err(Refusal::Store("disk full".into())),
        Some("stop") => Err(Refusal::Stopped),
        _ => Ok(()),
    }
}

fn valid(weights: &api::Percentages) -> Result<api::Percentages, Refusal> {
    let wrong = |pointer: String, detail: String| {
        Refusal::Invalid(vec![api::FieldProblem { pointer, detail }])
    };
    let upstreams = [Name::from("blue"), Name::from("green")];
    let mut given = Vec::new();
    for (name, percent) in weights {
        let pointer = format!("/weights/{name}");
        let weight = Weight::from_percent(*percent)
            .map_err(|error| wrong(pointer.clone(), error.to_string()))?;
        given.push((Name::from(name.as_str()), weight));
    }
    let weights = Weights::new(&upstreams, &given)
        .map_err(|error| wrong("/weights".into(), error.to_string()))?;
    Ok(weights
        .iter()
        .map(|(name, weight)| (name.to_string(), weight.percent()))
        .collect())
}

fn page(before: Option<u64>, limit: usize) -> Result<api::AuditPage, Refusal> {
    let last = before.map_or(3, |before| before.saturating_sub(1).min(3));
    let entry = |sequence| api::AuditEntry {
        sequence,
        at: "2026-01-01T00:00:00Z".into(),
        actor: "anna".into(),
        action: "weights".into(),
        service: Some("shop".into()),
        reason: None,
        before: serde_json::json!({}),
        after: serde_json::json!({}),
        hash: "00".into(),
    };
    let entries: Vec<_> = (1..=last).rev().take(limit).map(entry).collect();
    let next = entries
        .last()
        .map(|entry| entry.sequence)
        .filter(|sequence| *sequence > 1);
    Ok(api::AuditPage { entries, next })
}
