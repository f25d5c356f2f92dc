//! Rates of the last second, from counts that the admin API gives since the last change of weights.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::model::api;

/// The span that a rate is taken over.
const SPAN: Duration = Duration::from_secs(1);

/// Turns one reading of the service after the other into rates.
#[derive(Debug, Default)]
pub(super) struct Meter {
    revision: u64,
    since: Option<Instant>,
    counts: BTreeMap<String, VecDeque<Count>>,
}

/// What had happened until a moment, since the weights changed.
#[derive(Clone, Copy, Debug)]
struct Count {
    at: Instant,
    requests: u64,
    failures: u64,
}

/// One version as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Gauge {
    pub(super) name: String,
    /// In percent, as in effect.
    pub(super) weight: f64,
    /// Requests by second, within the last one.
    pub(super) rate: f64,
    /// Requests that finished within the last second, and those of them that failed.
    pub(super) answers: u64,
    pub(super) failures: u64,
    /// The share of the failures.
    pub(super) error_rate: f64,
    /// Since the weights changed.
    pub(super) latency: api::Latency,
}

impl Meter {
    /// What `service` looks like, when it was read at `now`.
    pub(super) fn read(&mut self, now: Instant, service: &api::Service) -> Vec<Gauge> {
        if self.revision != service.revision || self.since.is_none() {
            self.revision = service.revision;
            self.since = Some(now);
            self.counts.clear();
        }
        let gauges = service.upstreams.iter().map(|(name, upstream)| {
            let window = upstream
                .windows
                .get("since_change")
                .cloned()
                .unwrap_or_default();
            let mut gauge = self.last_second(name, now, &window);
            gauge.weight = service
                .weights
                .effective
                .get(name)
                .copied()
                .unwrap_or_default();
            gauge
        });
        gauges.collect()
    }

    fn last_second(&mut self, name: &str, now: Instant, window: &api::Window) -> Gauge {
        let counts = self.counts.entry(name.to_owned()).or_default();
        let count = Count {
            at: now,
            requests: window.requests,
            failures: window.failures,
        };
        counts.push_back(count);
        while counts
            .get(1)
            .is_some_and(|second| now.duration_since(second.at) >= SPAN)
        {
            counts.pop_front();
        }
        let first = counts.front().copied().unwrap_or(count);
        let answers = count.requests.saturating_sub(first.requests);
        let failures = count.failures.saturating_sub(first.failures);
        Gauge {
            name: name.to_owned(),
            rate: ratio(number(answers), now.duration_since(first.at).as_secs_f64()),
            answers,
            failures,
            error_rate: ratio(number(failures), number(answers)),
            latency: window.latency_us,
            ..Gauge::default()
        }
    }
}

/// 0 when there is nothing to divide by.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// What happens within a second fits into 32 bits.
fn number(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(revision: u64, requests: u64, failures: u64) -> api::Service {
        let window = api::Window {
            requests,
            failures,
            ..api::Window::default()
        };
        let weights = api::Percentages::from([("v1".to_owned(), 100.0)]);
        api::Service {
            release: None,
            name: "shop".to_owned(),
            revision,
            baseline: "v1".to_owned(),
            previous_baseline: None,
            weights: api::WeightsStatus {
                intended: weights.clone(),
                effective: weights,
                since: String::new(),
                reason: None,
                durable: true,
            },
            routes: Vec::new(),
            upstreams: BTreeMap::from([(
                "v1".to_owned(),
                api::Upstream {
                    endpoints: Vec::new(),
                    windows: BTreeMap::from([("since_change".to_owned(), window)]),
                },
            )]),
        }
    }

    #[test]
    fn rates_cover_the_last_second() {
        let began = Instant::now();
        let mut meter = Meter::default();
        let mut read = |ms: u64, revision, requests, failures| {
            let gauges = meter.read(
                began + Duration::from_millis(ms),
                &service(revision, requests, failures),
            );
            (gauges[0].rate, gauges[0].error_rate)
        };
        assert_eq!(read(0, 1, 0, 0), (0.0, 0.0));
        assert_eq!(read(500, 1, 100, 0), (200.0, 0.0));
        assert_eq!(read(1000, 1, 200, 0), (200.0, 0.0));
        assert_eq!(read(1500, 1, 300, 50), (200.0, 0.25));
        assert_eq!(read(2500, 1, 300, 50), (0.0, 0.0));
        assert_eq!(
            read(2600, 2, 10, 0),
            (0.0, 0.0),
            "counts begin anew when the weights change"
        );
        assert_eq!(read(2700, 2, 40, 0), (300.0, 0.0));
    }
}
