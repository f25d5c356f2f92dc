//! The exposition of the metrics.

use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::stats::{MethodLabel, Outcome};

fn filled() -> Metrics {
    let metrics = Metrics::new();
    let mut summary = Summary::new();
    for class in [Class::Success, Class::ServerError] {
        summary.record(&Outcome {
            class,
            first_byte_us: Some(1),
            total_us: 20_000,
        });
    }
    metrics.add_summary("shop", "green", &summary);
    let labels = RequestLabels {
        listener: 0,
        upstream: None,
        method: MethodLabel::Get,
        status: 200,
    };
    metrics.add_requests("web", Some(("shop", "green")), labels, 2);
    metrics.add_requests(
        "web",
        None,
        RequestLabels {
            status: 404,
            ..labels
        },
        1,
    );
    metrics.add_reason(
        Some("web"),
        Some(("shop", "green")),
        Reason::ConnectRefused,
        3,
    );
    metrics.add_reason(None, Some(("shop", "green")), Reason::ConnectRefused, 6);
    metrics.add_reason(Some("web"), Some(("shop", "green")), Reason::ClientAbort, 4);
    metrics.add_reason(Some("web"), None, Reason::NoRoute, 5);
    metrics.set_weight("shop", "green", 0.05);
    metrics.set_healthy("shop", "green", "127.0.0.1:1", true);
    metrics.expect_rollbacks("shop");
    metrics.add_rollback("shop", MANUAL, Duration::from_micros(30));
    metrics.add_rescues("shop", 4);
    metrics.set_phase("shop", Phase::Baking);
    metrics.set_reload(Timestamp::new(0, 1_700_000_000_500_000), true);
    metrics.set_store_pending(0);
    metrics.add_webhooks(WebhookResult::Failed, 2);
    metrics.gauge_from("connections_active", "Open connections from clients.", || 7);
    metrics.counter_from(
        "access_log_dropped_total",
        "Lines that were not written.",
        || 1,
    );
    metrics
}

#[test]
fn metric_names_are_stable() {
    let page = filled().render();
    for line in [
        concat!(
            r#"weighbridge_http_requests_total{listener="web",service="shop","#,
            r#"upstream="green",method="GET",code="200"} 2"#
        ),
        concat!(
            r#"weighbridge_http_requests_total{listener="web",service="",upstream="","#,
            r#"method="GET",code="404"} 1"#
        ),
        concat!(
            r#"weighbridge_http_request_duration_seconds_bucket{service="shop","#,
            r#"upstream="green",le="0.01"} 0"#
        ),
        concat!(
            r#"weighbridge_http_request_duration_seconds_bucket{service="shop","#,
            r#"upstream="green",le="+Inf"} 2"#
        ),
        concat!(
            r#"weighbridge_upstream_failures_total{service="shop","#,
            r#"upstream="green",reason="5xx"} 1"#
        ),
        concat!(
            r#"weighbridge_upstream_failures_total{service="shop",upstream="green","#,
            r#"reason="connect_refused"} 9"#
        ),
        r#"weighbridge_http_errors_total{listener="web",reason="client_abort"} 4"#,
        r#"weighbridge_http_errors_total{listener="web",reason="connect_refused"} 3"#,
        r#"weighbridge_http_errors_total{listener="web",reason="no_route"} 5"#,
        r#"weighbridge_upstream_weight_ratio{service="shop",upstream="green"} 0.05"#,
        concat!(
            r#"weighbridge_endpoint_healthy{service="shop",upstream="green","#,
            r#"endpoint="127.0.0.1:1"} 1"#
        ),
        r#"weighbridge_rollbacks_total{service="shop",reason="manual"} 1"#,
        r#"weighbridge_rollbacks_total{service="shop",reason="latency"} 0"#,
        r#"weighbridge_rollback_duration_seconds_bucket{le="0.00005"} 1"#,
        r#"weighbridge_rescues_total{service="shop"} 4"#,
        r#"weighbridge_release_phase{service="shop",phase="baking"} 1"#,
        r#"weighbridge_release_phase{service="shop",phase="promoted"} 0"#,
        "weighbridge_config_last_reload_successful 1",
        "weighbridge_config_last_reload_success_timestamp_seconds 1700000000.5",
        r#"weighbridge_webhook_deliveries_total{result="failed"} 2"#,
        r#"weighbridge_webhook_deliveries_total{result="dropped"} 0"#,
        "weighbridge_connections_active 7",
        "weighbridge_access_log_dropped_total 1",
        concat!(
            r#"weighbridge_build_info{version=""#,
            env!("CARGO_PKG_VERSION"),
            r#""} 1"#
        ),
    ] {
        assert!(
            page.lines().any(|have| have == line),
            "no {line} in\n{page}"
        );
    }
    assert!(page.contains("process_resident_memory_bytes"));
    assert!(!page.contains(r#"upstream="green",reason="client_abort"#));
}

/// Each family that is exposed: its help, its type, and the names of its labels.
fn exposition(page: &str) -> String {
    let mut families: Vec<String> = Vec::new();
    for line in page.lines() {
        if line.starts_with("# HELP weighbridge_") || line.starts_with("# TYPE weighbridge_") {
            families.push(line.to_owned());
        } else if line.starts_with("weighbridge_") {
            let labels = line
                .split_once('{')
                .map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
            let names = labels
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, _)| name);
            let names = names.filter(|name| *name != "le").collect::<Vec<_>>();
            let line = format!("  labels: [{}]", names.join(", "));
            if families.last() != Some(&line) {
                families.push(line);
            }
        }
    }
    families.join("\n") + "\n"
}

/// Dashboards and alerts are written against these names, types and labels.
#[test]
fn names_types_labels_and_help_of_all_metrics_are_as_in_the_golden_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.txt");
    let golden = std::fs::read_to_string(path).unwrap();
    let found = exposition(&filled().render());
    assert_eq!(found, golden, "the metrics are now:\n{found}");
}

#[test]
fn series_are_removed_with_their_service() {
    let metrics = filled();
    metrics.forget_upstream("shop", "green");
    metrics.forget_service("shop");
    assert!(!metrics.render().contains("shop"));
}

#[test]
fn promtool_accepts_the_metrics() {
    let tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .output_of(filled().render());
    let Some(output) = tool else {
        return; // Not installed here; CI has it.
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

trait OutputOf {
    fn output_of(&mut self, input: String) -> Option<std::process::Output>;
}

impl OutputOf for Command {
    /// Output of the tool for `input`; `None` if the tool is not installed.
    fn output_of(&mut self, input: String) -> Option<std::process::Output> {
        let mut child = self
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        Some(child.wait_with_output().unwrap())
    }
}
