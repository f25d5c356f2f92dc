//! Process-wide settings: `workers`, `drain`, `pool`, `max_in_flight`, `store`, `log` and
//! `access_log`.

use serde_json::json;

use crate::document::{Fields, Node, ProblemList, Shape, Type, path, text};
use crate::telemetry::{
    AccessLogFormat, AccessLogOptions, AccessLogTarget, LogFormat, LogLevel, LogOptions,
};
use crate::{proxy, store};

/// The settings of the data plane, top-level keys of the file.
pub(super) fn proxy(fields: &mut Fields<'_>) -> proxy::Options {
    let mut options = proxy::Options::default();
    fields.set(
        "workers",
        &mut options.workers,
        Type::count(1..=1_024).without_default().example("4"),
        "Worker threads; by default one per available core. A request stays on one thread.",
    );
    fields.set(
        "drain",
        &mut options.drain,
        Type::object(drain).named("Drain").live(),
        "Shutdown on SIGTERM.",
    );
    fields.set(
        "pool",
        &mut options.pool,
        Type::object(pool).named("Pool").live(),
        "Idle connections to upstreams.",
    );
    fields.set(
        "max_in_flight",
        &mut options.max_in_flight,
        Type::count(0..=100_000_000),
        "Maximum concurrent requests over all workers; 0: no limit. Further ones get 503.",
    );
    options
}

fn drain(fields: &mut Fields<'_>) -> Option<proxy::DrainOptions> {
    let mut drain = proxy::DrainOptions::default();
    fields.set(
        "delay",
        &mut drain.delay,
        Type::duration(),
        "keep accepting after readiness fails; 5s behind a slow load balancer",
    );
    fields.set(
        "timeout",
        &mut drain.timeout,
        Type::duration(),
        "time for requests in flight to finish",
    );
    Some(drain)
}

fn pool(fields: &mut Fields<'_>) -> Option<proxy::PoolOptions> {
    let mut pool = proxy::PoolOptions::default();
    fields.set(
        "idle_per_endpoint",
        &mut pool.idle_per_endpoint,
        Type::count(0..=1_000_000),
        "per worker and endpoint",
    );
    fields.set(
        "idle_timeout",
        &mut pool.idle_timeout,
        Type::duration().above_zero(),
        "below the 5 s of common application servers, to avoid closing races",
    );
    Some(pool)
}

/// Reads `store`: a mapping with a path.
pub(super) fn store(fields: &mut Fields<'_>) -> Option<store::Options> {
    let path = fields.read(
        "path",
        Type::path().example("/var/lib/weighbridge"),
        "directory of the database, created if missing",
    );
    fields.unavailable("etcd");
    Some(store::Options { path })
}

/// Reads `log`: level and format.
pub(super) fn log(fields: &mut Fields<'_>) -> Option<LogOptions> {
    const LEVELS: [(&str, LogLevel); 5] = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let mut log = LogOptions::default();
    fields.set(
        "level",
        &mut log.level,
        Type::choice(&LEVELS),
        "error, warn, info, debug or trace; libraries only log warnings",
    );
    fields.set("format", &mut log.format, Type::choice(&FORMATS), "or json");
    Some(log)
}

/// Reads `access_log`: a target, or a mapping with target and format. `None` is "off".
pub(super) fn access_log() -> Type<'static, Option<AccessLogOptions>> {
    let short = target().map(|target| {
        target.map(|target| AccessLogOptions {
            target,
            format: AccessLogFormat::default(),
        })
    });
    Type::short_or_long(
        short,
        Type::object(access_log_fields).named("FullAccessLog"),
    )
    .shown(|_| Some(json!("off")))
}

fn access_log_fields(fields: &mut Fields<'_>) -> Option<Option<AccessLogOptions>> {
    const FORMATS: [(&str, AccessLogFormat); 2] = [
        ("json", AccessLogFormat::Json),
        ("combined", AccessLogFormat::Combined),
    ];
    let mut format = AccessLogFormat::default();
    let target = fields.required(
        "to",
        "`off`, `stdout` or the path of a file",
        target().example("stdout"),
        "the same: off, stdout or a file",
    );
    fields.set(
        "format",
        &mut format,
        Type::choice(&FORMATS),
        "or combined, as common web servers write it",
    );
    Some(target?.map(|target| AccessLogOptions { target, format }))
}

fn target() -> Type<'static, Option<AccessLogTarget>> {
    Type::new(|| Shape::Scalar(json!({ "type": "string" })), read_target)
}

/// A path needs a slash, so that the typo `sdtout` does not create a file.
fn read_target(node: &Node, problems: &ProblemList) -> Option<Option<AccessLogTarget>> {
    match text(node, problems)? {
        "off" => Some(None),
        "stdout" => Some(Some(AccessLogTarget::Stdout)),
        file if file.contains('/') => {
            path(node, problems).map(|path| Some(AccessLogTarget::File(path)))
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
