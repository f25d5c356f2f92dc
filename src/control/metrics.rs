//! Metrics in the Prometheus text format.

use prometheus::{Registry, TextEncoder};

/// All metrics of the program, in a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The content type of [`Metrics::render`].
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4";

    /// Metrics that have counted nothing.
    pub fn new() -> Metrics {
        Metrics {
            registry: Registry::new(),
        }
    }

    /// The answer to a scrape.
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| {
                tracing::error!(%error, "the metrics cannot be rendered");
                String::new()
            })
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
