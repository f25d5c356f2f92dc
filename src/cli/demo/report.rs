//! The report of the demo, as numbers and text.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::load::{Load, UserRequest};
use super::stage::{CANARY, SERVICE};
use crate::cli::table::count;

/// The numbers of a bad release and its rollback.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DemoReport {
    /// Requests that users sent, all told.
    pub(crate) requests: u64,
    /// Those of them that failed.
    pub(crate) user_visible_failures: u64,
    /// Those failures that the new version answered; the others had no answer, or one of the
    /// proxy's own.
    pub(crate) canary_failures: u64,
    /// Requests that were due and were not sent, because the machine was too busy.
    pub(crate) unsent: u64,
    /// Of the new version, within the second before the decision.
    pub(crate) answers_at_decision: u64,
    pub(crate) failures_at_decision: u64,
    /// From the first failing answer until the rollback was called for.
    pub(crate) decision_ms: f64,
    /// From the call until its reply.
    pub(crate) rollback_reply_ms: f64,
    /// From the first failing answer until the reply.
    pub(crate) total_ms: f64,
    /// Requests sent after the reply that the new version answered.
    pub(crate) canary_requests_after_reply: u64,
    /// Requests sent after the reply, all told.
    pub(crate) requests_after_reply: u64,
}

/// The moments of a rollback.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    pub(super) failing: Instant,
    pub(super) decided: Instant,
    pub(super) replied: Instant,
    pub(super) answers: u64,
    pub(super) failures: u64,
}

impl DemoReport {
    pub(super) fn new(moments: &Moments, load: &Load) -> DemoReport {
        let failed = load.samples(|sample| sample.failed && sample.done >= moments.failing);
        let first = failed
            .iter()
            .map(|sample| sample.done)
            .min()
            .unwrap_or(moments.decided);
        let after = load.samples(|sample| sample.sent > moments.replied);
        let canary = |sample: &&UserRequest| sample.version.as_deref() == Some(CANARY);
        let totals = load.totals();
        let number = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        DemoReport {
            requests: totals.requests,
            user_visible_failures: totals.failures,
            canary_failures: number(failed.iter().filter(canary).count()),
            unsent: totals.unsent,
            answers_at_decision: moments.answers,
            failures_at_decision: moments.failures,
            decision_ms: ms(moments.decided.saturating_duration_since(first)),
            rollback_reply_ms: ms(moments.replied.saturating_duration_since(moments.decided)),
            total_ms: ms(moments.replied.saturating_duration_since(first)),
            canary_requests_after_reply: number(after.iter().filter(canary).count()),
            requests_after_reply: number(after.len()),
        }
    }

    /// Whether it went as it should: users went on, and none of them met the bad version again.
    pub(crate) fn as_told(&self) -> bool {
        self.canary_requests_after_reply == 0
            && self.requests_after_reply > 0
            && self.user_visible_failures > 0
    }

    /// The report as text.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "\nWhat happened\n  {:>8.1} ms  first failing response to decision ({} of {} responses \
             of {CANARY} failed)\n  {:>8.1} ms  rollback call to its response\n  {:>8}     \
             requests sent after the response reached {CANARY}, of {}\n  {:>8}     \
             requests failed, of {}; {CANARY} responded to {} of them\n",
            self.decision_ms,
            self.failures_at_decision,
            self.answers_at_decision,
            self.rollback_reply_ms,
            count(self.canary_requests_after_reply),
            count(self.requests_after_reply),
            count(self.user_visible_failures),
            count(self.requests),
            count(self.canary_failures),
        );
        if self.unsent > 0 {
            let unsent = count(self.unsent);
            text.push_str(&format!(
                "  {unsent:>8}     requests were not sent in time: this machine is overloaded\n"
            ));
        }
        text
    }
}

/// Commands to copy, with the addresses as they are.
pub(super) fn commands(
    admin: SocketAddr,
    proxy: SocketAddr,
    canary: SocketAddr,
    hold: bool,
) -> String {
    let head = if hold {
        "Everything keeps running. Try from another terminal (Ctrl-C here ends the demo):"
    } else {
        "`weighbridge demo --hold` keeps everything running for commands such as these:"
    };
    let api = format!("http://{admin}/api/v1/services/{SERVICE}");
    let flag = if admin.port() == 9900 {
        String::new()
    } else {
        format!(" --admin http://{admin}")
    };
    let mut lines = vec![
        String::new(),
        head.to_owned(),
        format!("  weighbridge status {SERVICE}{flag}"),
        format!("  weighbridge weights {SERVICE} v1=90 v2=10{flag}"),
        format!("  weighbridge rollback {SERVICE}{flag}"),
        format!("  curl -s {api}"),
        format!("  curl -s -X PUT {api}/weights \\"),
        "    -H 'content-type: application/json' -d '{\"weights\": {\"v1\": 90, \"v2\": 10}}'"
            .to_owned(),
        format!("  curl -s -X POST {api}/rollback"),
        format!("  curl -sN http://{admin}/api/v1/events"),
        format!("  curl -s http://{admin}/metrics"),
        format!("  curl -s http://{proxy}/"),
    ];
    if hold {
        lines.push(format!(
            "  curl -s -X POST http://{canary}/demo/fail     # {CANARY} fails again; /demo/heal \
             repairs it"
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 1e2
}
