//! Active health checks: a GET to each endpoint of each service that asks for them.
//!
//! Checks only report; it is the control plane that publishes a table without the endpoint.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::HOST;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::probe::{Probe, ProbeError, ask};
use crate::model::{Health, Name, probe_host};
use crate::routing::{EndpointKey, HealthEvent, Publisher, RoutedEndpoint, Snapshot};

const AGENT: &str = concat!("weighbridge-health/", env!("CARGO_PKG_VERSION"));

/// How often the table is looked at for endpoints that came or went.
const LOOK: Duration = Duration::from_millis(200);

/// Checks the endpoints of the newest table until the receiver of the reports is gone.
pub async fn run(publisher: Publisher, reports: mpsc::Sender<HealthEvent>) {
    let mut checks: HashMap<EndpointKey, Check> = HashMap::new();
    let mut revision = None;
    loop {
        let snapshot = publisher.current();
        if revision != Some(snapshot.revision) {
            revision = Some(snapshot.revision);
            let wanted = wanted(&snapshot);
            checks.retain(|key, check| wanted.get(key).is_some_and(|wanted| check.is(wanted)));
            for (key, wanted) in wanted {
                checks
                    .entry(key)
                    .or_insert_with(|| Check::start(wanted, reports.clone()));
            }
        }
        drop(snapshot);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = reports.closed() => return,
        }
    }
}

/// An endpoint that is to be checked.
struct Wanted {
    endpoint: Arc<RoutedEndpoint>,
    health: Health,
    host: Option<Name>,
    healthy: bool,
}

fn wanted(snapshot: &Snapshot) -> HashMap<EndpointKey, Wanted> {
    let mut all = HashMap::new();
    for service in snapshot.table.services() {
        let Some(health) = &service.health else {
            continue;
        };
        for upstream in &service.upstreams {
            for endpoint in &upstream.endpoints {
                let healthy = upstream.is_healthy(endpoint.key);
                let wanted = Wanted {
                    endpoint: Arc::clone(endpoint),
                    health: health.clone(),
                    host: probe_host(Some(health), &service.routes).cloned(),
                    healthy,
                };
                all.insert(endpoint.key, wanted);
            }
        }
    }
    all
}

/// The check of one endpoint; ends when dropped.
struct Check {
    health: Health,
    host: Option<Name>,
    task: JoinHandle<()>,
}

impl Check {
    fn start(wanted: Wanted, reports: mpsc::Sender<HealthEvent>) -> Check {
        Check {
            health: wanted.health.clone(),
            host: wanted.host.clone(),
            task: tokio::spawn(watch(wanted, reports)),
        }
    }

    /// Whether it checks what is wanted.
    fn is(&self, wanted: &Wanted) -> bool {
        self.health == wanted.health && self.host == wanted.host
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks one endpoint for ever and reports each change.
async fn watch(wanted: Wanted, reports: mpsc::Sender<HealthEvent>) {
    let Wanted {
        endpoint,
        health,
        host,
        healthy,
    } = wanted;
    let mut streak = ThresholdCounter {
        healthy,
        against: 0,
    };
    loop {
        let (good, detail) = match check(&endpoint, &health, host.as_deref()).await {
            Ok(status) => ((200..400).contains(&status), format!("status {status}")),
            Err(ProbeError::Endpoint(error)) => (false, error),
            Err(error @ ProbeError::Local(_)) => {
                // As many failed checks as it takes would take every endpoint out at once.
                let endpoint = endpoint.address;
                tracing::warn!(%endpoint, %error, "an endpoint could not be checked");
                tokio::time::sleep(health.interval).await;
                continue;
            }
        };
        if streak.note(good, &health) {
            let event = HealthEvent {
                endpoint: endpoint.key,
                healthy: good,
                detail,
            };
            if reports.send(event).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(health.interval).await;
    }
}

/// What an endpoint is held for, and how many checks in a row have said otherwise.
#[derive(Debug)]
struct ThresholdCounter {
    healthy: bool,
    against: u32,
}

impl ThresholdCounter {
    /// Takes in a check's result; tells whether the endpoint's state changes with it.
    fn note(&mut self, good: bool, health: &Health) -> bool {
        if good == self.healthy {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if good {
            health.healthy_after
        } else {
            health.unhealthy_after
        };
        if self.against < needed {
            return false;
        }
        *self = ThresholdCounter {
            healthy: good,
            against: 0,
        };
        true
    }
}

/// One GET; the status of the answer.
async fn check(
    endpoint: &RoutedEndpoint,
    health: &Health,
    host: Option<&str>,
) -> Result<u16, ProbeError> {
    let mut probe = Probe::default();
    *probe.uri_mut() = health
        .path
        .parse()
        .map_err(|error| ProbeError::Endpoint(format!("{}: {error}", health.path)))?;
    if let Some(host) = host.and_then(|host| HeaderValue::from_str(host).ok()) {
        probe.headers_mut().insert(HOST, host);
    }
    ask(endpoint.address, probe, AGENT, health.timeout).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_changes_after_as_many_checks_in_a_row_as_were_asked_for() {
        let health = Health {
            path: "/".into(),
            host: None,
            panic: crate::model::Weight::default(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let mut streak = ThresholdCounter {
            healthy: true,
            against: 0,
        };
        let changes: Vec<bool> = [
            false, false, true, false, false, false, false, true, false, true, true,
        ]
        .into_iter()
        .map(|good| streak.note(good, &health))
        .collect();
        let at: Vec<usize> = (0..changes.len()).filter(|at| changes[*at]).collect();
        assert_eq!(at, [5, 10]);
    }
}
