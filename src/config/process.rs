//! Process-wide settings: `workers`, `drain`, `pool`, `max_in_flight`, `store`, `log` and
//! `access_log`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::read::{Fields, ProblemList};
use super::scalar::{choice, count, duration, duration_above_zero, path, text};
use super::tree::{Node, NodeKind};
use crate::telemetry::{
    AccessLogFormat, AccessLogOptions, AccessLogTarget, LogFormat, LogLevel, LogOptions,
};
use crate::{proxy, store};

const WORKERS_MAX: usize = 1_024;

/// The settings of the data plane, top-level keys of the file.
pub(super) fn proxy(fields: &mut Fields<'_>) -> proxy::Options {
    let mut options = proxy::Options::default();
    fields.set("workers", &mut options.workers, |node, problems| {
        NonZeroUsize::new(count(node, problems, 1..=WORKERS_MAX)?)
    });
    fields.set("drain", &mut options.drain, drain);
    fields.set("pool", &mut options.pool, pool);
    fields.set(
        "max_in_flight",
        &mut options.max_in_flight,
        |node, problems| count(node, problems, 0..=100_000_000),
    );
    options
}

fn drain(node: &Node, problems: &ProblemList) -> Option<proxy::DrainOptions> {
    let mut fields = Fields::of(node, problems)?;
    let mut drain = proxy::DrainOptions::default();
    fields.set("delay", &mut drain.delay, duration);
    fields.set("timeout", &mut drain.timeout, duration);
    fields.finish();
    Some(drain)
}

fn pool(node: &Node, problems: &ProblemList) -> Option<proxy::PoolOptions> {
    let mut fields = Fields::of(node, problems)?;
    let mut pool = proxy::PoolOptions::default();
    fields.set(
        "idle_per_endpoint",
        &mut pool.idle_per_endpoint,
        |node, problems| count(node, problems, 0..=1_000_000),
    );
    fields.set("idle_timeout", &mut pool.idle_timeout, duration_above_zero);
    fields.finish();
    Some(pool)
}

/// Reads `store`: a mapping with a path.
pub(super) fn store(node: &Node, problems: &ProblemList) -> Option<store::Options> {
    let mut fields = Fields::of(node, problems)?;
    let path = fields.read("path", path);
    fields.unavailable("etcd");
    fields.finish();
    Some(store::Options { path })
}

/// Reads `log`: level and format.
pub(super) fn log(node: &Node, problems: &ProblemList) -> Option<LogOptions> {
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let mut fields = Fields::of(node, problems)?;
    let mut log = LogOptions::default();
    fields.set("level", &mut log.level, |node, problems| {
        choice(node, problems, &levels)
    });
    fields.set("format", &mut log.format, |node, problems| {
        choice(node, problems, &formats)
    });
    fields.finish();
    Some(log)
}

/// Reads `access_log`: a target, or a mapping with target and format. The inner `None` is "off".
pub(super) fn access_log(node: &Node, problems: &ProblemList) -> Option<Option<AccessLogOptions>> {
    let mut format = AccessLogFormat::default();
    if !matches!(node.kind, NodeKind::Map(_)) {
        let target = target(node, problems)?;
        return Some(target.map(|target| AccessLogOptions { target, format }));
    }
    let formats = [
        ("json", AccessLogFormat::Json),
        ("combined", AccessLogFormat::Combined),
    ];
    let mut fields = Fields::of(node, problems)?;
    let target = fields.required("to", "`off`, `stdout` or the path of a file", target);
    fields.set("format", &mut format, |node, problems| {
        choice(node, problems, &formats)
    });
    fields.finish();
    Some(target?.map(|target| AccessLogOptions { target, format }))
}

/// A path needs a slash, so that the typo `sdtout` does not create a file.
fn target(node: &Node, problems: &ProblemList) -> Option<Option<AccessLogTarget>> {
    match text(node, problems)? {
        "off" => Some(None),
        "stdout" => Some(Some(AccessLogTarget::Stdout)),
        file if file.contains('/') => {
            path(node, problems).map(|path: PathBuf| Some(AccessLogTarget::File(path)))
        }
        _ => {
            problems.expected(
                node,
                "`off`, `stdout` or a path with a `/`, such as `./access.log`",
            );
            None
        }
    }
}
