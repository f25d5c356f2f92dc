//! Chart of a release: the canary's weight, and below it the evidence against it, on one time axis.

use super::format::span;
use super::html::Html;
use crate::model::api::EvidenceBundle;

const LEFT: f64 = 60.0;
const RIGHT: f64 = 740.0;
const WEIGHT: Panel = Panel {
    top: 24.0,
    bottom: 134.0,
};
const EVIDENCE: Panel = Panel {
    top: 176.0,
    bottom: 326.0,
};
/// Intervals between ticks of the time axis.
const TICKS: u64 = 5;

/// Vertical position of a panel.
#[derive(Clone, Copy)]
struct Panel {
    top: f64,
    bottom: f64,
}

/// Maps time and value to coordinates.
#[derive(Clone, Copy)]
struct Scale {
    panel: Panel,
    end_ms: u64,
    low: f64,
    high: f64,
}

impl Scale {
    fn x(&self, ms: u64) -> f64 {
        LEFT + (RIGHT - LEFT) * (ms.min(self.end_ms) as f64 / self.end_ms as f64)
    }

    /// NaN and values outside the panel are drawn at its edge.
    fn y(&self, value: f64) -> f64 {
        let part = (value - self.low) / (self.high - self.low);
        let part = if part.is_nan() {
            0.0
        } else {
            part.clamp(0.0, 1.0)
        };
        self.panel.bottom - (self.panel.bottom - self.panel.top) * part
    }
}

/// Draws the chart of `bundle`.
pub(super) fn draw(html: &mut Html, bundle: &EvidenceBundle) {
    let end_ms = end_of(bundle);
    let weight = Scale {
        panel: WEIGHT,
        end_ms,
        low: 0.0,
        high: 100.0,
    };
    let (low, high) = range_of(bundle);
    let evidence = Scale {
        panel: EVIDENCE,
        end_ms,
        low,
        high,
    };
    html.mark(
        "<svg viewBox=\"0 0 760 356\" role=\"img\" aria-labelledby=\"chart-title chart-text\">\n",
    );
    html.mark(
        "<title id=\"chart-title\">Weight and evidence over time</title>\n<desc id=\"chart-text\">",
    );
    html.text(describe(bundle)).mark("</desc>\n");
    draw_time(html, &evidence);
    draw_weight(html, &weight, bundle);
    draw_evidence(html, &evidence, bundle);
    html.mark("</svg>\n");
}

fn end_of(bundle: &EvidenceBundle) -> u64 {
    let ends = [
        bundle.path.last().map(|point| point.elapsed_ms),
        bundle.timeline.last().map(|entry| entry.elapsed_ms),
        bundle.weights.last().map(|(ms, _)| *ms),
    ];
    ends.into_iter().flatten().max().unwrap_or(0).max(1)
}

/// Range from the lowest evidence to the limit, or to the highest evidence if that is larger.
fn range_of(bundle: &EvidenceBundle) -> (f64, f64) {
    let finite = bundle
        .path
        .iter()
        .map(|point| point.log_e)
        .filter(|log_e| log_e.is_finite());
    let (low, high) = finite.fold(
        (-1.0_f64, bundle.release.log_limit),
        |(low, high), log_e| (low.min(log_e), high.max(log_e)),
    );
    (low, (high * 1.1).max(low + 1.0))
}

fn describe(bundle: &EvidenceBundle) -> String {
    let release = &bundle.release;
    format!(
        "The weight of {} ends at {} percent; the evidence against it ends at {:.2}, with the \
         limit at {:.2}.",
        release.canary, release.weight, release.log_e, release.log_limit
    )
}

fn draw_time(html: &mut Html, scale: &Scale) {
    for tick in 0..=TICKS {
        let ms = scale.end_ms.saturating_mul(tick) / TICKS;
        label(
            html,
            scale.x(ms),
            EVIDENCE.bottom + 18.0,
            "middle",
            &span(ms),
        );
    }
}

fn draw_weight(html: &mut Html, scale: &Scale, bundle: &EvidenceBundle) {
    label(
        html,
        LEFT,
        scale.panel.top - 8.0,
        "start",
        "weight of the canary",
    );
    for percent in [0.0, 50.0, 100.0] {
        guide(html, scale, percent, "grid", &format!("{percent} %"));
    }
    html.mark("<polyline class=\"weight\" points=\"");
    let mut before = None;
    for (ms, percent) in &bundle.weights {
        if let Some(before) = before {
            point(html, scale, *ms, before);
        }
        point(html, scale, *ms, *percent);
        before = Some(*percent);
    }
    if let Some(last) = before {
        point(html, scale, scale.end_ms, last);
    }
    html.mark("\"/>\n");
}

fn draw_evidence(html: &mut Html, scale: &Scale, bundle: &EvidenceBundle) {
    label(
        html,
        LEFT,
        scale.panel.top - 8.0,
        "start",
        "evidence against the canary (ln e)",
    );
    guide(html, scale, 0.0, "grid", "0");
    let limit = bundle.release.log_limit;
    guide(html, scale, limit, "limit", &format!("{limit:.2}"));
    label(html, RIGHT, scale.y(limit) - 4.0, "end", "rollback limit");
    html.mark("<polyline class=\"evidence\" points=\"");
    for at in &bundle.path {
        point(html, scale, at.elapsed_ms, at.log_e);
    }
    html.mark("\"/>\n");
}

fn point(html: &mut Html, scale: &Scale, ms: u64, value: f64) {
    html.text(format_args!("{:.1},{:.1} ", scale.x(ms), scale.y(value)));
}

/// Horizontal line with its value on the left.
fn guide(html: &mut Html, scale: &Scale, value: f64, class: &'static str, name: &str) {
    let y = scale.y(value);
    html.mark("<line class=\"")
        .mark(class)
        .mark("\" x1=\"")
        .text(LEFT);
    html.mark("\" x2=\"").text(RIGHT).mark("\" y1=\"");
    html.text(format_args!("{y:.1}")).mark("\" y2=\"");
    html.text(format_args!("{y:.1}")).mark("\"/>\n");
    label(html, LEFT - 6.0, y + 4.0, "end", name);
}

fn label(html: &mut Html, x: f64, y: f64, anchor: &'static str, text: &str) {
    html.mark("<text x=\"")
        .text(format_args!("{x:.1}"))
        .mark("\" y=\"");
    html.text(format_args!("{y:.1}"))
        .mark("\" text-anchor=\"")
        .mark(anchor);
    html.mark("\">").text(text).mark("</text>\n");
}
