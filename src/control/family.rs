//! Metric families for the registry.
//!
//! Not the vectors of the `prometheus` crate: those find a series by a hash of its concatenated
//! label values, so that `web` + `1a` and `web1` + `a` share one, and they cannot remove all series
//! of an upstream.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use prometheus::core::{Collector, Desc};
use prometheus::proto;

/// Name, help text and labels of a family.
#[derive(Clone, Debug)]
pub(super) struct Description {
    name: String,
    help: String,
    kind: proto::MetricType,
    labels: &'static [&'static str],
    desc: Desc,
}

/// A family of counters or gauges. Clones share the series.
#[derive(Clone, Debug)]
pub(super) struct Family {
    described: Description,
    series: Arc<Mutex<BTreeMap<Labels, f64>>>,
}

/// The label values of a series, shared with a scrape, which holds the lock only while it copies
/// the numbers.
type Labels = Arc<[String]>;

/// A single value that is read at each scrape.
pub(super) struct ReadAtScrape {
    described: Description,
    read: Box<dyn Fn() -> f64 + Send + Sync>,
}

/// Latency histograms by service and upstream, filled from summaries. Clones share the series.
#[derive(Clone, Debug)]
pub(super) struct LatencyFamily {
    described: Description,
    series: Arc<Mutex<BTreeMap<Labels, Buckets>>>,
}

/// In seconds: OpenTelemetry's boundaries for HTTP, so that existing dashboards fit.
const BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

#[derive(Clone, Debug, Default)]
struct Buckets {
    cumulative: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Description {
    /// A family; `name` comes without the program's prefix.
    ///
    /// # Errors
    ///
    /// The name or a label is not valid.
    pub(super) fn new(
        name: &str,
        help: &str,
        kind: proto::MetricType,
        labels: &'static [&'static str],
    ) -> prometheus::Result<Description> {
        let name = format!("weighbridge_{name}");
        let variable = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.clone(), help.to_owned(), variable, HashMap::new())?;
        Ok(Description {
            name,
            help: help.to_owned(),
            kind,
            labels,
            desc,
        })
    }

    fn family(&self, metrics: Vec<proto::Metric>) -> Vec<proto::MetricFamily> {
        let mut family = proto::MetricFamily::default();
        family.set_name(self.name.clone());
        family.set_help(self.help.clone());
        family.set_field_type(self.kind);
        family.set_metric(metrics);
        vec![family]
    }

    fn metric(&self, values: &[String]) -> proto::Metric {
        let pair = |(name, value): (&&str, &String)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value.clone());
            pair
        };
        proto::Metric::from_label(self.labels.iter().zip(values).map(pair).collect())
    }

    fn value(&self, labels: &[String], value: f64) -> proto::Metric {
        let mut metric = self.metric(labels);
        if self.kind == proto::MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}

impl Family {
    pub(super) fn new(described: Description) -> Family {
        Family {
            described,
            series: Arc::default(),
        }
    }

    /// Adds `n`; with 0 it only creates the series.
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact up to 2^53, as every counter in Prometheus is"
    )]
    pub(super) fn add(&self, values: &[&str], n: u64) {
        *lock(&self.series).entry(owned(values)).or_default() += n as f64;
    }

    pub(super) fn set(&self, values: &[&str], value: f64) {
        lock(&self.series).insert(owned(values), value);
    }

    /// Removes every series with these label values.
    pub(super) fn forget(&self, gone: &[(&str, &str)]) {
        lock(&self.series).retain(|values, _| !matches(self.described.labels, values, gone));
    }
}

impl LatencyFamily {
    pub(super) fn new(described: Description) -> LatencyFamily {
        LatencyFamily {
            described,
            series: Arc::default(),
        }
    }

    /// Adds latencies in microseconds.
    pub(super) fn add(&self, values: &[&str], latencies: &Histogram<u64>) {
        lock(&self.series)
            .entry(owned(values))
            .or_default()
            .add(latencies);
    }

    pub(super) fn forget(&self, gone: &[(&str, &str)]) {
        lock(&self.series).retain(|values, _| !matches(self.described.labels, values, gone));
    }
}

impl Buckets {
    /// A latency counts at the middle of its range in the summary, which is one percent wide.
    fn add(&mut self, latencies: &Histogram<u64>) {
        for recorded in latencies.iter_recorded() {
            let n = recorded.count_at_value();
            #[expect(
                clippy::cast_precision_loss,
                reason = "at most an hour in microseconds, and counts below 2^53"
            )]
            let (seconds, requests) = (
                latencies.median_equivalent(recorded.value_iterated_to()) as f64 / 1e6,
                n as f64,
            );
            for (bucket, bound) in self.cumulative.iter_mut().zip(BOUNDS) {
                *bucket += if seconds <= bound { n } else { 0 };
            }
            self.count += n;
            self.sum += seconds * requests;
        }
    }

    fn histogram(&self) -> proto::Histogram {
        let bucket = |(bound, cumulative): (f64, &u64)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(*cumulative);
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(
            BOUNDS
                .into_iter()
                .zip(&self.cumulative)
                .map(bucket)
                .collect(),
        );
        histogram.set_sample_count(self.count);
        histogram.set_sample_sum(self.sum);
        histogram
    }
}

impl ReadAtScrape {
    pub(super) fn new(
        described: Description,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) -> ReadAtScrape {
        ReadAtScrape {
            described,
            read: Box::new(read),
        }
    }
}

impl Collector for Family {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.described.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let series = copied(&self.series);
        let metrics = series
            .iter()
            .map(|(values, value)| self.described.value(values, *value));
        self.described.family(metrics.collect())
    }
}

impl Collector for LatencyFamily {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.described.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let series = copied(&self.series);
        let metrics = series.iter().map(|(values, buckets)| {
            let mut metric = self.described.metric(values);
            metric.set_histogram(buckets.histogram());
            metric
        });
        self.described.family(metrics.collect())
    }
}

impl Collector for ReadAtScrape {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.described.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        self.described
            .family(vec![self.described.value(&[], (self.read)())])
    }
}

fn lock<T>(series: &Mutex<T>) -> MutexGuard<'_, T> {
    // No panic is possible between related writes, so the series are consistent even if the lock is
    // poisoned.
    series.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy of the series. Writers wait for this copy at most, not for the encoding of a scrape.
fn copied<T: Clone>(series: &Mutex<BTreeMap<Labels, T>>) -> Vec<(Labels, T)> {
    let series = lock(series);
    series
        .iter()
        .map(|(values, value)| (Arc::clone(values), value.clone()))
        .collect()
}

fn owned(values: &[&str]) -> Labels {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn matches(labels: &[&str], values: &[String], wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(name, value)| {
        let mut pairs = labels.iter().zip(values);
        pairs.any(|(label, held)| label == name && held == value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_have_a_sum() {
        let mut latencies = Histogram::new_with_bounds(1, 3_600_000_000, 2).unwrap();
        latencies.record_n(4_900, 3).unwrap();
        latencies.record_n(60_000, 2).unwrap();
        latencies.record(20_000_000).unwrap();
        let mut buckets = Buckets::default();
        buckets.add(&latencies);
        assert_eq!(
            buckets.cumulative,
            [3, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
        );
        assert_eq!(buckets.count, 6);
        assert!((buckets.sum - 20.1347).abs() < 0.2, "{}", buckets.sum);
    }

    #[test]
    fn label_values_are_compared_separately() {
        let described = Description::new(
            "x_total",
            "x",
            proto::MetricType::COUNTER,
            &["service", "upstream"],
        )
        .unwrap();
        let family = Family::new(described);
        family.add(&["web", "1a"], 1);
        family.add(&["web1", "a"], 2);
        assert_eq!(family.collect()[0].get_metric().len(), 2);
        family.forget(&[("service", "web"), ("upstream", "1a")]);
        assert_eq!(family.collect()[0].get_metric().len(), 1);
        family.forget(&[("service", "web1")]);
        assert!(family.collect()[0].get_metric().is_empty());
    }
}
