//! A parsed scrape of the metrics.

/// All samples of one scrape.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    pub(crate) fn parse(text: &str) -> Metrics {
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(sample)
            .collect();
        Metrics { samples }
    }

    /// The sum over all samples of `weighbridge_{name}` that have all of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let name = format!("weighbridge_{name}");
        let has = |sample: &&Sample| {
            labels
                .iter()
                .all(|(label, value)| sample.labels.iter().any(|(l, v)| l == label && v == value))
        };
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(has)
            .map(|sample| sample.value)
            .sum()
    }

    /// Whether the scrape has a sample of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        let name = format!("weighbridge_{name}");
        self.samples.iter().any(|sample| sample.name == name)
    }

    /// Number of requests that the proxy failed or truncated for `reason`.
    pub(crate) fn reason(&self, reason: &str) -> f64 {
        self.sum("http_errors_total", &[("reason", reason)])
    }

    /// Number of requests by the upstream that responded.
    pub(crate) fn requests(&self, upstream: &str) -> f64 {
        self.sum("http_requests_total", &[("upstream", upstream)])
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels
        .trim_end_matches('}')
        .split("\",")
        .filter(|label| !label.is_empty())
        .map(|label| {
            let (name, value) = label
                .split_once("=\"")
                .unwrap_or_else(|| panic!("{line:?}"));
            (
                name.trim().to_owned(),
                value.trim_end_matches('"').to_owned(),
            )
        });
    Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value: value.parse().unwrap_or_else(|_| panic!("{line:?}")),
    }
}
